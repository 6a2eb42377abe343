//! What is remembered of WebSockets through HAProxy, over a restart.

use crate::join::Test;
use crate::join::bed::{Bed, wait};
use crate::tools::SECOND;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::haproxy::Installed;
use shaper_tests::lab::{PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_user::model::{Client, History, HistoryFlow};
use std::net::{IpAddr, SocketAddr};

pub const TESTS: &[Test] = &[("history_has_each_byte_and_the_closed_flows", remembered)];

const POLICY: &str = r#"
[default]
upload = { rate = "16mbit" }
[history]
path = "/var/lib/shaper/history.redb"
flow_min = "500kB"
"#;
/// The heavy client's, and what it sends.
const HEAVY: u8 = 0;
const SENT: u64 = 3_000_000;
const LIGHT: u8 = 1;

fn history(shaper: &Shaper, arguments: &[&str]) -> Result<History> {
    let text = shaper
        .cli(&[&["history", "--json"], arguments].concat())?
        .ok()?;
    serde_json::from_str(&text).map_err(Into::into)
}

fn remembered(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| {})?;
    let mut shaper = bed.shaper(&[bed.haproxy.socket()], POLICY)?;
    let ends = [HEAVY, LIGHT].map(|n| SocketAddr::new(client_v4(n), 0));
    let mut open = bed.open(&ends, PORT)?;
    let light = open.remove(1);
    let mut heavy = open.remove(0);
    let server = heavy.server.clone();
    bed.runtime.block_on(heavy.send(SENT as usize))?;
    // Joined, and all of it arrived.
    wait("the upload", 20 * SECOND, || {
        let row = shaper.client(client_v4(HEAVY))?;
        Ok(row.upload.traffic.bytes > SENT && !row.servers.is_empty())
    })?;
    drop(heavy);
    wait("its end", 10 * SECOND, || {
        Ok(shaper.client(client_v4(HEAVY))?.connections == 0)
    })?;
    let rows = [HEAVY, LIGHT].map(|n| shaper.client(client_v4(n)));
    // The minute is not over: a daemon that ends writes what there is of it.
    shaper.stop(Signal::SIGTERM)?;
    shaper.run(&[])?;

    let all = history(&shaper, &[])?;
    for row in rows {
        ensure_remembered(&all, &row?)?;
    }
    let flow = flow(&all, client_v4(HEAVY)).context("no flow")?;
    let named = flow.backend.as_deref().zip(flow.server.as_deref());
    ensure!(
        flow.closed
            && flow.upload.bytes > SENT
            && named.is_some_and(|(backend, name)| format!("{backend}/{name}") == server),
        "{flow:?}, and it was at {server}"
    );
    // It moved too little for a row.
    ensure!(self::flow(&all, client_v4(LIGHT)).is_none(), "{all:?}");

    // What was asked for alone.
    let one = history(&shaper, &["--client", &client_v4(LIGHT).to_string()])?;
    ensure!(one.clients.len() == 1 && one.flows.is_empty(), "{one:?}");
    let there = history(&shaper, &["--server", &server])?;
    ensure!(
        there.servers.len() == 1 && there.flows.len() == 1,
        "{there:?}"
    );
    let text = shaper.cli(&["history", "--since", "5m"])?.ok()?;
    ensure!(text.contains(&client_v4(HEAVY).to_string()), "{text}");
    drop(light);
    Ok(())
}

fn flow(history: &History, client: IpAddr) -> Option<&HistoryFlow> {
    history.flows.iter().find(|flow| flow.client == client)
}

/// What is remembered of a client is what was counted.
fn ensure_remembered(history: &History, row: &Client) -> Result<()> {
    let mut clients = history.clients.iter();
    let kept = clients
        .find(|client| client.client == row.client)
        .with_context(|| format!("no {}", row.client))?;
    ensure!(
        kept.upload.bytes == row.upload.traffic.bytes
            && kept.download.bytes == row.download.traffic.bytes,
        "{kept:?}, counted {row:?}"
    );
    Ok(())
}
