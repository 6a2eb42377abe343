//! Limits that clients share: real TCP over a real round trip.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, between};
use anyhow::{Result, ensure};
use shaper_tests::lab::{Lab, LabSpec, client_v4};
use shaper_tests::shaper::Shaper;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("a_tenants_uploads_share_one_limit", uploads),
    ("a_tenants_downloads_share_one_limit", downloads),
    ("an_idle_client_takes_no_share_of_its_group", idle),
];

const CLIENTS: usize = 3;
const FLOWS: usize = 4;
const GROUP: f64 = 24e6;

/// One tenant of all clients of the lab.
fn policy(own: &str) -> String {
    format!(
        "[[rule]]\nname = \"tenant\"\nclients = [\"{}/16\"]\n{own}\n\
         group_upload = {{ rate = \"24mbit\" }}\n\
         group_download = {{ rate = \"24mbit\" }}\n",
        // The network that they are all in.
        match client_v4(0) {
            std::net::IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                format!("{a}.{b}.0.0")
            }
            std::net::IpAddr::V6(_) => unreachable!("an IPv4 address"),
        }
    )
}

/// What each client had over some seconds.
fn rates(bulks: &[Vec<Bulk>], time: Duration) -> Vec<f64> {
    sleep(2 * SECOND);
    let from = Instant::now();
    sleep(time);
    let to = Instant::now();
    let rate = |bulks: &Vec<Bulk>| bulks.iter().map(|bulk| bulk.rate(from, to)).sum();
    bulks.iter().map(rate).collect()
}

fn ensure_shared(shaper: &Shaper, what: &str, rates: &[f64]) -> Result<()> {
    let sum: f64 = rates.iter().sum();
    println!(
        "{what}: {:.2} of {:.0} Mbit/s, {rates:.0?}",
        sum / 1e6,
        GROUP / 1e6
    );
    between(what, sum, GROUP, 0.93, 1.02)?;
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    let jain = sum * sum / (rates.len() as f64 * squares);
    ensure!(jain >= 0.95, "{what}: Jain index {jain:.3} of {rates:?}");
    let status = shaper.status()?;
    let group = &status.groups[0];
    let dropped = group.upload.traffic.dropped_packets + group.download.traffic.dropped_packets;
    ensure!(dropped == 0, "{what}: {dropped} packets dropped");
    Ok(())
}

fn uploads() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &policy(""), &[])?;
    let servers = Servers::start(&lab, None)?;
    let bulks = (0..CLIENTS)
        .map(|n| {
            (0..FLOWS)
                .map(|_| Bulk::upload(&lab, &servers, client_v4(n as u8)))
                .collect()
        })
        .collect::<Result<Vec<Vec<_>>>>()?;
    let rates = rates(&bulks, 8 * SECOND);
    ensure_shared(&shaper, "uploads", &rates)?;
    let again = bulks
        .iter()
        .flatten()
        .map(|bulk| bulk.transfer.retransmits())
        .sum::<Result<u32>>()?;
    // Tail loss probes of a busy machine: nothing was dropped.
    ensure!(again <= 6, "{again} segments sent again");
    Ok(())
}

fn downloads() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    // A limit of each client that is never reached changes nothing.
    let own = "download = { rate = \"100mbit\" }";
    let shaper = Shaper::start(&lab, &policy(own), &[])?;
    let _servers = Servers::start(&lab, None)?;
    let bulks = (0..CLIENTS)
        .map(|n| {
            (0..FLOWS)
                .map(|_| Bulk::download(&lab, client_v4(n as u8)))
                .collect()
        })
        .collect::<Result<Vec<Vec<_>>>>()?;
    let rates = rates(&bulks, 8 * SECOND);
    ensure_shared(&shaper, "downloads", &rates)
}

fn idle() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, &policy(""), &[])?;
    let servers = Servers::start(&lab, None)?;
    // One that sends less than its share, and one that takes the rest.
    let own = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(2 * SECOND);
    between("alone", own.rate_over(4 * SECOND), GROUP, 0.9, 1.05)?;
    let status = shaper.status()?;
    let group = &status.groups[0];
    ensure!(
        group.rule == "tenant" && group.upload.active_clients == 1,
        "{group:?}"
    );
    ensure!(shaper.client(client_v4(0))?.upload.limited_ms > 1_000);
    Ok(())
}
