//! Backpressure follows the policy: changed limits reach open connections, and
//! who has none (any more) has window and pacing rate as without shaper.

use crate::Test;
use crate::backpressure::{DOWN, POLICY, UP, ensure_exact, limits};
use crate::tools::{Bulk, SECOND, Servers, between, ensure_free, open};
use anyhow::{Result, ensure};
use shaper_tests::lab::{Lab, LabSpec, PORT, PROXY_V4, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::tcp::{Role, Server, Transfer, connect};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("a_changed_limit_reaches_open_uploads", changed_upload),
    ("a_changed_limit_reaches_open_downloads", changed_download),
    ("exempt_connections_are_given_back", || {
        given_back(Leaving::Exempt)
    }),
    ("unwatched_connections_are_given_back", || {
        given_back(Leaving::Ports)
    }),
    ("detached_connections_are_given_back", || {
        given_back(Leaving::Detach)
    }),
    ("other_sockets_are_not_touched", others),
    ("observing_touches_nothing", observing),
];

/// Not paced.
const FREE: u64 = u64::MAX;

/// Limits one after the other on an open connection. Each is measured from one
/// second after the change on.
const STEPS: [(&str, f64); 3] = [("8mbit", 8e6), ("2mbit", 2e6), ("16mbit", 16e6)];

/// The steps, then one from a very low limit up.
fn changed(
    start: impl Fn(&Lab, &Servers) -> Result<Bulk>,
    (low, low_limit): (&str, f64),
) -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &limits("4mbit", "4mbit"), &[])?;
    let servers = Servers::start(&lab, None)?;
    let bulk = start(&lab, &servers)?;
    sleep(2 * SECOND);
    // With the default burst, a sender that is new to it has seconds in hand.
    let low = format!("{low}\", burst = \"2kB");
    let low = [(low.as_str(), low_limit), ("8mbit", 8e6)];
    for (text, limit) in STEPS.into_iter().chain(low) {
        shaper.reload(&limits(text, text))?;
        sleep(SECOND);
        let rate = bulk.rate_over(3 * SECOND);
        // A segment more or less is much of a low limit, and all of a very low one.
        let (least, most) = match limit {
            ..64e3 => (0.0, 2.5),
            64e3..1e6 => (0.4, 1.6),
            _ => (0.85, 1.06),
        };
        let what = format!("changed to {limit} bit/s");
        between(&what, rate, limit, least, most)?;
        if limit < 64e3 {
            // Until the burst is used, and the sender waits for seconds.
            sleep(8 * SECOND);
        }
    }
    let row = shaper.client(client_v4(0))?;
    let dropped = row.upload.traffic.dropped_packets + row.download.traffic.dropped_packets;
    // What was under way when the limit fell may be too much for the new one.
    ensure!(dropped <= 20, "{dropped} packets dropped");
    Ok(())
}

fn changed_upload() -> Result<()> {
    changed(
        |lab, servers| Bulk::upload(lab, servers, client_v4(0)),
        ("4kbit", 4e3),
    )
}

fn changed_download() -> Result<()> {
    // The kernel pays for what it has sent at the rate of then, two segments at
    // least: the lower the limit was, the longer that takes.
    changed(
        |lab, _| Bulk::download(lab, client_v4(0)),
        ("256kbit", 256e3),
    )
}

/// How a connection leaves the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Exempt,
    Ports,
    Detach,
}

fn given_back(leaving: Leaving) -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    let servers = Servers::start(&lab, None)?;
    let up = Bulk::upload(&lab, &servers, client_v4(0))?;
    let down = Bulk::download(&lab, client_v4(1))?;
    // One that says nothing has no event that could set it free.
    let idle = open(&lab, client_v4(2), PORT, 5 * SECOND)?;
    round_trip_of_nothing(&idle, &servers.sink)?;
    sleep(2 * SECOND);
    ensure_exact("upload", up.rate_over(2 * SECOND), UP)?;
    let paced = servers.source.max_pacing_rate(down.transfer.stream())?;
    ensure!(paced < 4_000_000, "{paced} B/s");
    let idle_paced = servers.sink.max_pacing_rate(&idle)?;
    ensure!(idle_paced != FREE, "an idle connection is not paced");
    match leaving {
        Leaving::Exempt => {
            shaper.reload(&format!(
                "{POLICY}[[rule]]\nname = \"free\"\nclients = [\"10.77.0.0/24\"]\nexempt = true\n"
            ))?;
        }
        Leaving::Ports => shaper.reload_ports(&[9_999], POLICY)?,
        Leaving::Detach => {
            let remaining = shaper.detach()?;
            ensure!(remaining.is_empty(), "left behind: {remaining:?}");
        }
    }
    if leaving != Leaving::Exempt {
        // At once, without an event of the socket.
        for (server, stream) in [
            (&servers.source, down.transfer.stream()),
            (&servers.sink, &idle),
        ] {
            let rate = server.max_pacing_rate(stream)?;
            ensure!(rate == FREE, "{leaving:?}: still paced at {rate} B/s");
        }
    }
    sleep(2 * SECOND);
    for (what, bulk, limit) in [("upload", &up, UP), ("download", &down, DOWN)] {
        let rate = bulk.rate_over(2 * SECOND);
        ensure!(rate > 3.0 * limit, "{what}: only {:.1} Mbit/s", rate / 1e6);
    }
    let rate = servers.source.max_pacing_rate(down.transfer.stream())?;
    ensure!(rate == FREE, "{leaving:?}: still paced at {rate} B/s");
    Ok(())
}

/// A few bytes, so that the connection had an event under its limit.
fn round_trip_of_nothing(mut stream: &TcpStream, sink: &Server) -> Result<()> {
    stream.write_all(b"hello")?;
    sink.accepted(stream)?;
    sleep(Duration::from_millis(200));
    Ok(())
}

fn others() -> Result<()> {
    const UNWATCHED: u16 = 9_000;
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    // The same port, served by another namespace.
    let elsewhere = Server::start(&lab.client, PORT, Role::Source(None), "cubic")?;
    let stream = connect(
        &lab.proxy,
        PROXY_V4,
        SocketAddr::new(client_v4(0), PORT),
        "cubic",
        5 * SECOND,
    )?;
    let from_elsewhere = Transfer::receive(stream)?;
    let unwatched = Server::start(&lab.proxy, UNWATCHED, Role::Source(None), "cubic")?;
    let down = Transfer::receive(open(&lab, client_v4(1), UNWATCHED, 5 * SECOND)?)?;
    let sink = Server::start(&lab.proxy, UNWATCHED + 1, Role::Sink, "cubic")?;
    let up = Bulk::upload_to(&lab, &sink, client_v4(2), UNWATCHED + 1, "cubic")?;
    sleep(SECOND);
    let from = Instant::now();
    sleep(2 * SECOND);
    let to = Instant::now();
    ensure_free(
        "another namespace",
        from_elsewhere.meter().rate_bps(from, to),
    )?;
    ensure_free("unwatched, down", down.meter().rate_bps(from, to))?;
    ensure_free("unwatched, up", up.rate(from, to))?;
    for (what, server, transfer) in [
        ("another namespace", &elsewhere, &from_elsewhere),
        ("an unwatched port", &unwatched, &down),
    ] {
        let rate = server.max_pacing_rate(transfer.stream())?;
        ensure!(rate == FREE, "{what}: paced at {rate} B/s");
    }
    let flows = shaper.flows()?.flows;
    ensure!(flows.is_empty(), "{flows:?}");
    Ok(())
}

fn observing() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &format!("mode = \"observe\"\n{POLICY}"), &[])?;
    let servers = Servers::start(&lab, None)?;
    let up = Bulk::upload(&lab, &servers, client_v4(0))?;
    let down = Bulk::download(&lab, client_v4(1))?;
    sleep(SECOND);
    let from = Instant::now();
    sleep(2 * SECOND);
    let to = Instant::now();
    ensure_free("upload", up.rate(from, to))?;
    ensure_free("download", down.rate(from, to))?;
    let rate = servers.source.max_pacing_rate(down.transfer.stream())?;
    ensure!(rate == FREE, "paced at {rate} B/s");
    let backpressure = shaper.status()?.backpressure;
    ensure!(
        !backpressure.upload && !backpressure.download && backpressure.reason.is_some(),
        "{backpressure:?}"
    );
    Ok(())
}
