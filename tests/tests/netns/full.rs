//! Full tables, and floods: limits hold, nothing is refused, nobody else is hurt.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, between, open};
use anyhow::{Context, Result, ensure};
use shaper_tests::flood::Kind;
use shaper_tests::flood::scene::{LIMIT, Scene};
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_user::model::{Status, Table};
use shaper_user::policy::Tables;
use std::thread::sleep;
use std::time::Instant;

pub const TESTS: &[Test] = &[
    ("without_room_for_flows_limits_hold_per_client", flows_full),
    ("without_room_for_clients_one_limit_holds_all", clients_full),
    ("without_any_room_one_limit_holds_all", both_full),
    ("tables_take_the_memory_that_check_says", memory),
    ("floods_leave_established_flows_alone_tc", || floods("off")),
    ("floods_leave_established_flows_alone_generic_xdp", || {
        floods("generic")
    }),
    ("floods_leave_established_flows_alone_native_xdp", || {
        floods("native")
    }),
];

/// The least that a policy may ask for.
const LEAST: u8 = 16;
/// Dropping is all that holds them, so with a burst that TCP can use.
const LIMITS: &str = "[default]\n\
    upload = { rate = \"8mbit\", burst = \"300kB\" }\n\
    download = { rate = \"16mbit\", burst = \"600kB\" }\n";

fn lab(clients: u8) -> Result<Lab> {
    Lab::new(LabSpec {
        clients,
        ..LabSpec::default()
    })
}

/// As far as dropping lets TCP use the rate, and never beyond it; the burst may
/// fall into the time that is measured.
fn ensure_dropped_to(what: &str, rate: f64, limit: f64) -> Result<()> {
    between(what, rate, limit, 0.8, 1.05)
}

fn table<'a>(status: &'a Status, name: &str) -> Result<&'a Table> {
    let table = status.tables.iter().find(|table| table.name == name);
    table.with_context(|| format!("no table {name} in {:?}", status.tables))
}

fn warned(status: &Status, of: &str) -> Result<()> {
    let warned = status.warnings.iter().any(|text| text.contains(of));
    ensure!(warned, "no warning of {of}: {:?}", status.warnings);
    Ok(())
}

fn counter(status: &Status, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or(0)
}

fn flows_full() -> Result<()> {
    let lab = lab(4)?;
    let shaper = Shaper::start(&lab, &format!("max_flows = {LEAST}\n{LIMITS}"), &[])?;
    let servers = Servers::start(&lab, None)?;
    let idle = (0..LEAST)
        .map(|_| open(&lab, client_v4(0), PORT, 5 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    let up = (0..2)
        .map(|_| Bulk::upload(&lab, &servers, client_v4(1)))
        .collect::<Result<Vec<_>>>()?;
    let down = Bulk::download(&lab, client_v4(2))?;
    sleep(2 * SECOND);
    let from = Instant::now();
    sleep(6 * SECOND);
    let to = Instant::now();
    let rate = up.iter().map(|bulk| bulk.rate(from, to)).sum();
    ensure_dropped_to("two uploads of a client", rate, 8e6)?;
    ensure_dropped_to("a download", down.rate(from, to), 16e6)?;
    shaper.fresh_flows()?;
    let status = shaper.status()?;
    ensure!(status.overflow.connections == 3, "{:?}", status.overflow);
    ensure!(status.overflow.upload.packets == 0, "{:?}", status.overflow);
    let flows = table(&status, "flows")?;
    ensure!(flows.entries == Some(LEAST.into()) && flows.max == u64::from(LEAST));
    warned(&status, "max_flows")?;
    for name in ["flow_table_full", "overflow_bytes", "limited_packets"] {
        ensure!(counter(&status, name) > 0, "{name}: {:?}", status.counters);
    }
    let client = shaper.client(client_v4(1))?;
    ensure!(client.upload.limited_ms > 0, "{client:?}");
    ensure!(
        shaper.log().contains("event=\"table_full\""),
        "not in the log"
    );
    let text = shaper.cli(&["status"])?.ok()?;
    ensure!(text.contains("3 connections, held with"), "{text}");

    // Room again: new ones are tracked, and those that found none.
    drop(idle);
    let late = open(&lab, client_v4(3), PORT, 5 * SECOND)?;
    shaper.wait_for("a flow of each connection", || {
        let flows = shaper.flows()?.flows;
        let status = shaper.status()?;
        Ok((flows.len() == 4 && status.overflow.connections == 0).then_some(()))
    })?;
    shaper.fresh_flows()?;
    let status = shaper.status()?;
    ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
    let client = shaper.client(client_v4(1))?;
    ensure!(client.connections == 2, "{client:?}");
    let from = Instant::now();
    sleep(4 * SECOND);
    let rate = up.iter().map(|bulk| bulk.rate(from, Instant::now())).sum();
    ensure_dropped_to("with flows again", rate, 8e6)?;
    drop((late, up, down));
    shaper.wait_for("the end of all flows", || {
        Ok((shaper.status()?.flows == 0).then_some(()))
    })
}

/// One limit for all who found no room, up and down.
fn ensure_shared(lab: &Lab, shaper: &Shaper, servers: &Servers) -> Result<Status> {
    let up = [LEAST, LEAST + 1]
        .map(|n| Bulk::upload(lab, servers, client_v4(n)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let down = Bulk::download(lab, client_v4(LEAST + 2))?;
    sleep(2 * SECOND);
    let from = Instant::now();
    sleep(6 * SECOND);
    let to = Instant::now();
    let rate = up.iter().map(|bulk| bulk.rate(from, to)).sum();
    ensure_dropped_to("uploads of two clients", rate, 8e6)?;
    ensure_dropped_to("a download", down.rate(from, to), 16e6)?;
    shaper.fresh_flows()?;
    let status = shaper.status()?;
    ensure!(status.overflow.clients_full, "{:?}", status.overflow);
    for traffic in [status.overflow.upload, status.overflow.download] {
        ensure!(
            traffic.bytes > 0 && traffic.dropped_packets > 0,
            "{traffic:?}"
        );
    }
    warned(&status, "max_clients")?;
    ensure!(counter(&status, "client_table_full") > 0);
    let clients = table(&status, "clients")?;
    ensure!(clients.entries == Some(LEAST.into()), "{clients:?}");
    let text = shaper.cli(&["status"])?.ok()?;
    ensure!(text.contains("shared bucket, upload"), "{text}");
    Ok(status)
}

fn clients_full() -> Result<()> {
    let lab = lab(LEAST + 3)?;
    let shaper = Shaper::start(&lab, &format!("max_clients = {LEAST}\n{LIMITS}"), &[])?;
    let servers = Servers::start(&lab, None)?;
    let _idle = (0..LEAST)
        .map(|n| open(&lab, client_v4(n), PORT, 5 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    let status = ensure_shared(&lab, &shaper, &servers)?;
    ensure!(status.overflow.connections == 0, "{:?}", status.overflow);
    // Who has a place has a limit of its own.
    let own = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    between(
        "a client with room",
        own.rate_over(4 * SECOND),
        8e6,
        0.8,
        1.05,
    )
}

fn both_full() -> Result<()> {
    let lab = lab(LEAST + 3)?;
    let policy = format!("max_flows = {LEAST}\nmax_clients = {LEAST}\n{LIMITS}");
    let shaper = Shaper::start(&lab, &policy, &[])?;
    let servers = Servers::start(&lab, None)?;
    let _idle = (0..LEAST)
        .map(|n| open(&lab, client_v4(n), PORT, 5 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    let status = ensure_shared(&lab, &shaper, &servers)?;
    ensure!(status.overflow.connections == 3, "{:?}", status.overflow);
    warned(&status, "max_flows")
}

fn memory() -> Result<()> {
    for (flows, clients) in [(131_072, 65_536), (300_000, 1_000)] {
        let lab = Lab::new(LabSpec::direct(false))?;
        let policy = format!("max_flows = {flows}\nmax_clients = {clients}\n");
        let shaper = Shaper::start(&lab, &policy, &[])?;
        let tables = shaper.status()?.tables;
        let said: u64 = tables.iter().filter_map(|table| table.bytes).sum();
        let estimate = Tables::new(flows, clients).bytes();
        let share = estimate as f64 / said as f64;
        println!("estimate {estimate}, the kernel says {said}: {share:.3}");
        ensure!((0.95..=1.05).contains(&share), "{estimate} of {said}");
        let check = shaper.cli(&["check", &shaper.policy().display().to_string()])?;
        let text = format!("{flows} flows, {clients} clients; ");
        ensure!(check.ok()?.contains(&text));
    }
    Ok(())
}

fn floods(xdp: &str) -> Result<()> {
    const PACKETS: u64 = 60_000;
    let scene = Scene::new(Some(xdp))?;
    let shaper = scene.shaper.as_ref().context("no daemon")?;
    for kind in Kind::ALL {
        let name = kind.name();
        let outcome = scene.flood(kind, PACKETS, 30_000)?;
        ensure!(
            outcome.arrived >= PACKETS / 2,
            "{name}: only {} packets arrived",
            outcome.arrived
        );
        ensure!(outcome.wrong.is_empty(), "{name}: {:?}", outcome.wrong);
        ensure!(!outcome.echoes.is_empty(), "{name}: no echo");
        between(name, outcome.limited, LIMIT, 0.5, 1.06)?;
        shaper.fresh_flows()?;
        let status = shaper.status()?;
        let (flows, clients) = (table(&status, "flows")?, table(&status, "clients")?);
        ensure!(flows.entries == Some(4), "{name}: {flows:?}");
        ensure!(clients.entries == Some(4), "{name}: {clients:?}");
        for table in &status.tables {
            let over = table.entries.is_some_and(|entries| entries > table.max);
            ensure!(!over, "{name}: {table:?}");
        }
        ensure!(
            status.overflow.connections == 0 && status.overflow.upload.packets == 0,
            "{name}: {:?}",
            status.overflow
        );
    }
    Ok(())
}
