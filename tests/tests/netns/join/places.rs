//! Limits by where HAProxy sends a connection.

use super::bed::{Bed, both_families, ensure_joined, wait};
use crate::tools::{SECOND, between};
use anyhow::{Context, Result, ensure};
use shaper_tests::haproxy::Installed;
use shaper_tests::lab::{LabSpec, PORT};
use shaper_tests::shaper::Shaper;
use shaper_tests::ws::Pinned;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Instant;
use tokio::task::JoinHandle;

/// IP-level rate of the limits below.
const RATE: f64 = 8e6;
/// Far above it.
const FREE: f64 = 30e6;
const CHUNK: usize = 64 << 10;

/// A WebSocket that sends as fast as it can.
struct Greedy {
    client: SocketAddr,
    task: JoinHandle<()>,
}

impl Greedy {
    fn start(bed: &Bed, mut open: Pinned) -> Self {
        Self {
            client: open.client,
            task: bed
                .runtime
                .spawn(async move { while open.send(CHUNK).await.is_ok() {} }),
        }
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the server receives over four seconds, at the IP level.
fn rate(bed: &Bed, server: &str) -> Result<f64> {
    let meter = bed
        .servers
        .iter()
        .find(|named| named.name == server)
        .context("no such server")?
        .meter();
    let from = Instant::now();
    sleep(4 * SECOND);
    Ok(meter.rate_bps(from, Instant::now()) * 1500.0 / 1448.0)
}

/// Bytes that the limits dropped of these clients.
fn dropped(shaper: &Shaper, senders: &[Greedy]) -> Result<u64> {
    let flows = shaper.flows()?.flows;
    let ours = flows.iter().filter(|flow| {
        let client = SocketAddr::new(flow.client, flow.client_port);
        senders.iter().any(|sender| sender.client == client)
    });
    Ok(ours.map(|flow| flow.upload.dropped_bytes).sum())
}

/// Two clients at one server, under a cap of the server, then each under a rule
/// for it, then free; somebody at another server is free all the time.
pub fn held(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start_in(LabSpec::default(), haproxy, |_| ())?;
    let socket = bed.haproxy.socket();
    let shaper = bed.shaper(&[socket], "")?;
    let mut open = bed.open(&both_families(4, 1), PORT)?;
    ensure_joined(&shaper, open.iter().map(|one| (one, bed.haproxy.pid())))?;
    let server = open.first().context("none is open")?.server.clone();
    let other = open
        .iter()
        .position(|one| one.server != server)
        .context("all are at one server")?;
    let other = open.swap_remove(other);
    let free = other.server.clone();
    open.retain(|one| one.server == server);
    ensure!(open.len() == 2, "{} at {server}", open.len());
    let _free = Greedy::start(&bed, other);
    let senders: Vec<_> = open
        .into_iter()
        .map(|one| Greedy::start(&bed, one))
        .collect();
    sleep(2 * SECOND);
    let before = rate(&bed, &server)?;
    ensure!(before > FREE, "{before} before");

    let cap = format!("[[server_limit]]\nserver = \"{server}\"\nupload = {{ rate = \"8mbit\" }}\n");
    shaper.reload(&bed.policy(&[socket], &cap))?;
    sleep(4 * SECOND);
    let lost = dropped(&shaper, &senders)?;
    between("under the cap", rate(&bed, &server)?, RATE, 0.85, 1.05)?;
    ensure!(
        dropped(&shaper, &senders)? == lost,
        "the cap drops what backpressure holds"
    );

    let rule = format!(
        "[[rule]]\nname = \"there\"\nservers = [\"{server}\"]\nupload = {{ rate = \"4mbit\" }}\n"
    );
    shaper.reload(&bed.policy(&[socket], &rule))?;
    sleep(3 * SECOND);
    between("under the rule", rate(&bed, &server)?, RATE, 0.85, 1.05)?;
    for flow in shaper.flows()?.flows {
        let client = SocketAddr::new(flow.client, flow.client_port);
        if senders.iter().any(|sender| sender.client == client) {
            let held = flow.upload.rate_bps;
            between("one client", held as f64, RATE / 2.0, 0.6, 1.4)?;
        }
    }
    let elsewhere = rate(&bed, &free)?;
    ensure!(elsewhere > FREE, "{elsewhere} at another server");

    shaper.reload(&bed.policy(&[socket], ""))?;
    wait("freedom", 10 * SECOND, || Ok(rate(&bed, &server)? > FREE))
}
