//! Limits that lose nothing: senders are slowed down, not dropped.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, between, open};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::lab::{Lab, LabSpec, PORT, SOURCE_PORT, client_v4, client_v6};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::ping::{percentile, round_trips};
use shaper_tests::traffic::tcp::{Role, Server};
use shaper_user::model::HardLimitOnly;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("upload_limit_loses_nothing", upload),
    ("download_limit_loses_nothing", download),
    ("greedy_flows_share_evenly", even),
    ("a_greedy_flow_among_idle_ones_gets_all", among_idle),
    ("a_message_does_not_wait_behind_an_upload", message_upload),
    (
        "a_message_does_not_wait_behind_a_download",
        message_download,
    ),
    ("adopted_connections_are_held_without_loss", adopted),
    ("uploads_lose_nothing_without_a_daemon", without_daemon),
];

pub const POLICY: &str = "[default]\n\
    upload = { rate = \"8mbit\" }\n\
    download = { rate = \"16mbit\" }\n";
pub const UP: f64 = 8e6;
pub const DOWN: f64 = 16e6;

pub fn limits(upload: &str, download: &str) -> String {
    format!(
        "[default]\nupload = {{ rate = \"{upload}\" }}\ndownload = {{ rate = \"{download}\" }}\n"
    )
}

/// Of a limit, measured over some seconds of a busy machine.
pub fn ensure_exact(what: &str, rate: f64, limit: f64) -> Result<()> {
    between(what, rate, limit, 0.9, 1.05)
}

/// Neither refused here nor sent again there.
fn ensure_lossless(what: &str, dropped: u64, retransmits: u32) -> Result<()> {
    ensure!(
        dropped == 0 && retransmits <= 2,
        "{what}: {dropped} packets dropped, {retransmits} segments sent again"
    );
    Ok(())
}

/// Clients of both families for each congestion control.
fn senders() -> [(&'static str, [IpAddr; 2]); 2] {
    [
        ("cubic", [client_v4(0), client_v6(0)]),
        ("bbr", [client_v4(1), client_v6(1)]),
    ]
}

/// Four seconds, after one to settle in.
fn steady() -> (Instant, Instant) {
    sleep(SECOND);
    let from = Instant::now();
    sleep(4 * SECOND);
    (from, Instant::now())
}

fn upload() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let servers = Servers::start(&lab, None)?;
    for (congestion, clients) in senders() {
        let bulks = clients
            .into_iter()
            .map(|client| Bulk::upload_by(&lab, &servers, client, congestion))
            .collect::<Result<Vec<_>>>()?;
        let (from, to) = steady();
        for (bulk, client) in bulks.iter().zip(clients) {
            let what = format!("{congestion} {client}");
            ensure_exact(&what, bulk.rate(from, to), UP)?;
            let row = shaper.client(client)?.upload;
            ensure_lossless(
                &what,
                row.traffic.dropped_packets,
                bulk.transfer.retransmits()?,
            )?;
            ensure!(row.limited_ms > 1_000, "{what}: not held: {row:?}");
        }
    }
    ensure!(lab.relay()?.lost() == 0, "the relay lost frames");
    Ok(())
}

fn download() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    for (congestion, clients) in senders() {
        let source = Server::start(&lab.proxy, SOURCE_PORT, Role::Source(None), congestion)?;
        let bulks = clients
            .into_iter()
            .map(|client| Bulk::download(&lab, client))
            .collect::<Result<Vec<_>>>()?;
        let (from, to) = steady();
        for (bulk, client) in bulks.iter().zip(clients) {
            let what = format!("{congestion} {client}");
            ensure_exact(&what, bulk.rate(from, to), DOWN)?;
            let row = shaper.client(client)?.download;
            let retransmits = source.info(bulk.transfer.stream())?.tcpi_total_retrans;
            ensure_lossless(&what, row.traffic.dropped_packets, retransmits)?;
        }
    }
    ensure!(lab.relay()?.lost() == 0, "the relay lost frames");
    Ok(())
}

/// Jain's index: 1 where all have the same, 1/n where one has everything.
fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    if squares > 0.0 {
        sum * sum / (rates.len() as f64 * squares)
    } else {
        0.0
    }
}

fn even() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let policy = limits("16mbit", "16mbit");
    let shaper = Shaper::start(&lab, &policy, &[])?;
    let servers = Servers::start(&lab, None)?;
    let many = |make: &dyn Fn() -> Result<Bulk>, what: &str| -> Result<()> {
        let flows = (0..8).map(|_| make()).collect::<Result<Vec<_>>>()?;
        sleep(2 * SECOND);
        let from = Instant::now();
        sleep(8 * SECOND);
        let to = Instant::now();
        let rates: Vec<f64> = flows.iter().map(|flow| flow.rate(from, to)).collect();
        ensure_exact(what, rates.iter().sum(), 16e6)?;
        let jain = jain(&rates);
        ensure!(jain >= 0.9, "{what}: Jain index {jain:.3} of {rates:?}");
        Ok(())
    };
    many(&|| Bulk::upload(&lab, &servers, client_v4(0)), "uploads")?;
    many(&|| Bulk::download(&lab, client_v4(1)), "downloads")?;
    for client in [client_v4(0), client_v4(1)] {
        ensure_nothing_dropped(&shaper, client)?;
    }
    Ok(())
}

/// Of all connections of a client: a message that is dropped comes late.
fn ensure_nothing_dropped(shaper: &Shaper, client: IpAddr) -> Result<()> {
    let row = shaper.client(client)?;
    let dropped = row.upload.traffic.dropped_packets + row.download.traffic.dropped_packets;
    ensure!(dropped == 0, "{client}: {dropped} packets dropped");
    Ok(())
}

fn among_idle() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &limits("16mbit", "16mbit"), &[])?;
    let servers = Servers::start(&lab, None)?;
    let idle = (0..30)
        .map(|_| open(&lab, client_v4(0), PORT, 5 * SECOND))
        .collect::<Result<Vec<_>>>()?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(2 * SECOND);
    ensure_exact("the only upload", bulk.rate_over(4 * SECOND), 16e6)?;
    drop(bulk);
    let bulk = Bulk::download(&lab, client_v4(0))?;
    sleep(2 * SECOND);
    ensure_exact("the only download", bulk.rate_over(4 * SECOND), 16e6)?;
    drop(idle);
    ensure_nothing_dropped(&shaper, client_v4(0))
}

/// Messages beside a bulk transfer of the same client: the round trip of 20 ms,
/// and no queue of the bulk, which at its limit would be hundreds of ms long.
fn ensure_prompt(lab: &Lab, port: u16) -> Result<()> {
    let stream = open(lab, client_v4(0), port, 5 * SECOND)?;
    let times = round_trips(&stream, 100, Duration::from_millis(20))?;
    let (p50, p95) = (percentile(&times, 50), percentile(&times, 95));
    ensure!(
        p95 <= Duration::from_millis(50),
        "p50 {p50:?}, p95 {p95:?}, longest {:?}",
        times.last()
    );
    Ok(())
}

fn message_upload() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &limits("4mbit", "4mbit"), &[])?;
    let sink = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
    let _echo = Server::start(&lab.proxy, SOURCE_PORT, Role::Echo, "cubic")?;
    let bulk = Bulk::upload_to(&lab, &sink, client_v4(0), PORT, "cubic")?;
    sleep(2 * SECOND);
    let from = Instant::now();
    ensure_prompt(&lab, SOURCE_PORT)?;
    ensure_exact("the upload", bulk.rate(from, Instant::now()), 4e6)?;
    ensure_nothing_dropped(&shaper, client_v4(0))
}

fn message_download() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &limits("4mbit", "4mbit"), &[])?;
    let _source = Server::start(&lab.proxy, SOURCE_PORT, Role::Source(None), "cubic")?;
    let _echo = Server::start(&lab.proxy, PORT, Role::Echo, "cubic")?;
    let bulk = Bulk::download(&lab, client_v4(0))?;
    sleep(2 * SECOND);
    let from = Instant::now();
    ensure_prompt(&lab, PORT)?;
    ensure_exact("the download", bulk.rate(from, Instant::now()), 4e6)?;
    ensure_nothing_dropped(&shaper, client_v4(0))
}

fn adopted() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let servers = Servers::start(&lab, None)?;
    let up = Bulk::upload(&lab, &servers, client_v4(0))?;
    let down = Bulk::download(&lab, client_v6(1))?;
    sleep(SECOND);
    up.ensure_free("before")?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let status = shaper.status()?;
    let adopted = status.backpressure.adopted.context("nothing was adopted")?;
    ensure!(
        adopted.upload && adopted.download,
        "{:?}",
        status.backpressure
    );
    ensure!(
        status.hard_limit_only == HardLimitOnly::default(),
        "{:?}",
        status.hard_limit_only
    );
    sleep(SECOND);
    let dropped = |shaper: &Shaper| -> Result<[u64; 2]> {
        Ok([
            shaper.client(client_v4(0))?.upload.traffic.dropped_packets,
            shaper
                .client(client_v6(1))?
                .download
                .traffic
                .dropped_packets,
        ])
    };
    let before = dropped(&shaper)?;
    let from = Instant::now();
    sleep(4 * SECOND);
    let to = Instant::now();
    ensure_exact("adopted upload", up.rate(from, to), UP)?;
    ensure_exact("adopted download", down.rate(from, to), DOWN)?;
    let after = dropped(&shaper)?;
    ensure!(
        after[0] - before[0] <= 3 && after[1] - before[1] <= 3,
        "drops (upload, download) {before:?} after the first second, {after:?} later"
    );
    let flows = shaper.flows()?.flows;
    let held = flows
        .iter()
        .filter(|flow| flow.backpressure.is_some_and(|by| by.upload && by.download));
    ensure!(held.count() == 2, "{flows:?}");
    Ok(())
}

fn without_daemon() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    let servers = Servers::start(&lab, None)?;
    let up = Bulk::upload(&lab, &servers, client_v4(0))?;
    let down = Bulk::download(&lab, client_v4(1))?;
    sleep(SECOND);
    shaper.stop(Signal::SIGKILL)?;
    let from = Instant::now();
    sleep(4 * SECOND);
    let to = Instant::now();
    ensure_exact("upload", up.rate(from, to), UP)?;
    ensure_exact("download", down.rate(from, to), DOWN)?;
    // One that opens meanwhile is held as well.
    let late = Bulk::upload(&lab, &servers, client_v4(2))?;
    sleep(SECOND);
    ensure_exact("opened meanwhile", late.rate_over(3 * SECOND), UP)?;
    shaper.run(&[])?;
    for (bulk, client) in [(&up, client_v4(0)), (&late, client_v4(2))] {
        let dropped = shaper.client(client)?.upload.traffic.dropped_packets;
        ensure_lossless("upload", dropped, bulk.transfer.retransmits()?)?;
    }
    let dropped = shaper
        .client(client_v4(1))?
        .download
        .traffic
        .dropped_packets;
    let retransmits = servers
        .source
        .info(down.transfer.stream())?
        .tcpi_total_retrans;
    ensure_lossless("download", dropped, retransmits)
}
