//! How many connections, how fast, and those that were there before.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, ensure_held, open};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4, client_v6};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::tcp;
use std::fs;
use std::thread::{scope, sleep};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("max_connections_holds", max_connections),
    ("connection_rate_holds", connection_rate),
    ("open_connections_are_adopted", adoption),
    ("a_socket_that_waits_for_a_fin_is_no_connection", half_gone),
    ("closed_flows_leave_and_clients_stay", lifetime),
];

fn max_connections() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, "[default]\nmax_connections = 3\n", &[])?;
    let _servers = Servers::start(&lab, None)?;
    let mut streams = (0..3)
        .map(|_| open(&lab, client_v4(0), PORT, 2 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        open(&lab, client_v4(0), PORT, 500 * MILLISECOND).is_err(),
        "a fourth connection"
    );
    open(&lab, client_v4(1), PORT, 2 * SECOND)?;
    shaper.fresh_clients()?;
    let counters = shaper.status()?.counters;
    ensure!(
        counters.get("syn_max_dropped").is_some_and(|n| *n > 0),
        "{counters:?}"
    );
    streams.pop();
    // The FIN has to cross the path; a SYN that came before is sent again.
    open(&lab, client_v4(0), PORT, 3 * SECOND)?;
    Ok(())
}

/// The server has closed, the client does not: for a minute the kernel shows what
/// stands for the socket among those that are open. A daemon that starts meanwhile
/// takes it for no connection, and for none that found no room.
fn half_gone() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let listener = tcp::listen(&lab.proxy, PORT, "cubic")?;
    let mut shaper = Shaper::start(&lab, "", &[])?;
    let _stream = open(&lab, client_v4(0), PORT, 2 * SECOND)?;
    let none = |shaper: &Shaper| Ok(shaper.flows()?.flows.is_empty().then_some(()));
    drop(listener.accept()?);
    shaper.wait_for("the end of its flow", || none(&shaper))?;
    let sockets = lab
        .proxy
        .enter(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp6")?))?;
    ensure!(
        sockets.lines().any(|line| line.contains(" 05 ")),
        "no socket in FIN_WAIT2: {sockets}"
    );
    shaper.stop(Signal::SIGKILL)?;
    shaper.run(&[])?;
    for _ in 0..3 {
        let flows = shaper.fresh_flows()?.flows;
        ensure!(flows.is_empty(), "{flows:?}");
        let warnings = shaper.status()?.warnings;
        ensure!(warnings.is_empty(), "{warnings:?}");
    }
    Ok(())
}

const MILLISECOND: Duration = Duration::from_millis(1);

fn connection_rate() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, "[default]\nconnection_rate = \"5/s\"\n", &[])?;
    let _servers = Servers::start(&lab, None)?;
    // All at once, and no SYN is sent twice: a second's burst gets through.
    let opened = scope(|scope| {
        let attempts: Vec<_> = (0..30)
            .map(|_| scope.spawn(|| open(&lab, client_v4(0), PORT, 700 * MILLISECOND).is_ok()))
            .collect();
        attempts
            .into_iter()
            .filter_map(|attempt| attempt.join().ok())
            .filter(|opened| *opened)
            .count()
    });
    ensure!((5..=8).contains(&opened), "{opened} of 30 came through");
    shaper.fresh_clients()?;
    let counters = shaper.status()?.counters;
    ensure!(
        counters.get("syn_rate_dropped").is_some_and(|n| *n >= 20),
        "{counters:?}"
    );
    sleep(SECOND + 200 * MILLISECOND);
    for _ in 0..4 {
        open(&lab, client_v4(0), PORT, 700 * MILLISECOND)?;
    }
    Ok(())
}

fn adoption() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let servers = Servers::start(&lab, None)?;
    let bulks = [client_v4(0), client_v6(1)]
        .into_iter()
        .map(|client| Bulk::upload(&lab, &servers, client))
        .collect::<Result<Vec<_>>>()?;
    sleep(SECOND);
    for bulk in &bulks {
        bulk.ensure_free("before")?;
    }
    let shaper = Shaper::start(&lab, "[default]\nupload = { rate = \"8mbit\" }\n", &[])?;
    let flows = shaper.fresh_flows()?.flows;
    ensure!(
        flows.len() == 2 && flows.iter().all(|flow| flow.local_port == PORT),
        "{flows:?}"
    );
    sleep(SECOND);
    let from = std::time::Instant::now();
    sleep(4 * SECOND);
    let to = std::time::Instant::now();
    for bulk in &bulks {
        ensure_held("adopted", bulk.rate(from, to), 8e6)?;
    }
    drop(bulks);
    shaper.wait_for("the adopted flows' end", || {
        Ok(shaper.flows()?.flows.is_empty().then_some(()))
    })
}

fn lifetime() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, "[default]\nupload = { rate = \"8mbit\" }\n", &[])?;
    let _servers = Servers::start(&lab, None)?;
    let streams = (0..20)
        .map(|_| open(&lab, client_v4(0), PORT, 2 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    ensure!(shaper.fresh_flows()?.flows.len() == 20);
    ensure!(shaper.client(client_v4(0))?.connections == 20);
    drop(streams);
    shaper.wait_for("the flows' end", || {
        Ok(shaper.flows()?.flows.is_empty().then_some(()))
    })?;
    let row = shaper.client(client_v4(0))?;
    ensure!(
        row.connections == 0 && row.upload.traffic.bytes > 0,
        "{row:?}"
    );
    Ok(())
}
