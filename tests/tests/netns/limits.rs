//! Limits hold, in both directions, for every kind of traffic.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, ensure_free, ensure_held};
use anyhow::{Result, ensure};
use shaper_tests::lab::{Lab, LabSpec, PORT, PROXY_V4, client_v4, client_v6};
use shaper_tests::relay::{PathSpec, Tags};
use shaper_tests::shaper::{Shaper, row};
use shaper_tests::traffic::udp;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Instant;

pub const TESTS: &[Test] = &[
    ("limits_hold_in_both_directions_v4_and_v6", both),
    ("limits_hold_behind_tags", tags),
    ("limits_hold_for_udp", udp_upload),
    ("limits_are_shared_by_a_clients_flows", shared),
    ("flow_limits_hold_beside_client_limits", per_flow),
    ("exempt_and_longest_prefix", rules),
];

const POLICY: &str = "[default]\n\
    upload = { rate = \"8mbit\" }\n\
    download = { rate = \"16mbit\" }\n";

fn both() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let servers = Servers::start(&lab, None)?;
    let up = [client_v4(0), client_v6(1)].map(|client| Bulk::upload(&lab, &servers, client));
    let down = [client_v4(2), client_v6(3)].map(|client| Bulk::download(&lab, client));
    sleep(SECOND);
    let from = Instant::now();
    sleep(5 * SECOND);
    let to = Instant::now();
    for (family, bulk) in ["IPv4", "IPv6"].into_iter().zip(up) {
        ensure_held(&format!("{family} upload"), bulk?.rate(from, to), 8e6)?;
    }
    for (family, bulk) in ["IPv4", "IPv6"].into_iter().zip(down) {
        ensure_held(&format!("{family} download"), bulk?.rate(from, to), 16e6)?;
    }
    ensure!(lab.relay()?.lost() == 0, "the relay lost frames");
    let clients = shaper.clients()?.clients;
    let held = row(&clients, client_v4(0)).is_some_and(|row| {
        row.upload.limit_bps == Some(8_000_000)
            && row.upload.limited_ms > 0
            && row.upload.traffic.dropped_packets == 0
    });
    ensure!(held, "{clients:?}");
    Ok(())
}

fn tags() -> Result<()> {
    for tags in [Tags::Vlan, Tags::QinQ] {
        let lab = Lab::new(LabSpec {
            path: Some(PathSpec {
                tags,
                ..PathSpec::default()
            }),
            ..LabSpec::default()
        })?;
        let _shaper = Shaper::start(&lab, POLICY, &[])?;
        let servers = Servers::start(&lab, None)?;
        let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
        sleep(SECOND);
        ensure_held(&format!("{tags:?}"), bulk.rate_over(4 * SECOND), 8e6)?;
    }
    Ok(())
}

fn udp_upload() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let _shaper = Shaper::start(&lab, POLICY, &[])?;
    let receiver = udp::Receiver::start(&lab.proxy, PROXY_V4, PORT)?;
    let started = Instant::now();
    udp::blast(
        &lab.client,
        SocketAddr::new(client_v4(0), 0),
        SocketAddr::new(PROXY_V4, PORT),
        1_000,
        20_000_000,
        5 * SECOND,
    )?;
    let rate = receiver
        .meter()
        .rate_bps(started + SECOND, started + 5 * SECOND);
    // Nothing slows a sender of UDP down: the bucket alone decides.
    let share = rate * (1028.0 / 1000.0) / 8e6;
    ensure!((0.98..=1.02).contains(&share), "{:.1} %", share * 100.0);
    Ok(())
}

fn shared() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let _shaper = Shaper::start(&lab, POLICY, &[])?;
    let servers = Servers::start(&lab, None)?;
    let flows = (0..4)
        .map(|_| Bulk::upload(&lab, &servers, client_v4(0)))
        .collect::<Result<Vec<_>>>()?;
    sleep(SECOND);
    let from = Instant::now();
    sleep(5 * SECOND);
    let to = Instant::now();
    ensure_held(
        "four flows together",
        flows.iter().map(|flow| flow.rate(from, to)).sum(),
        8e6,
    )
}

fn per_flow() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let policy = "[default]\n\
        upload = { rate = \"40mbit\" }\n\
        flow_upload = { rate = \"6mbit\" }\n";
    let _shaper = Shaper::start(&lab, policy, &[])?;
    let servers = Servers::start(&lab, None)?;
    let flows = (0..2)
        .map(|_| Bulk::upload(&lab, &servers, client_v4(0)))
        .collect::<Result<Vec<_>>>()?;
    sleep(SECOND);
    let from = Instant::now();
    sleep(4 * SECOND);
    let to = Instant::now();
    for flow in &flows {
        ensure_held("each flow", flow.rate(from, to), 6e6)?;
    }
    Ok(())
}

fn rules() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let policy = format!(
        "{POLICY}\n\
         [[rule]]\nname = \"net\"\nclients = [\"10.77.0.0/24\"]\nupload = {{ rate = \"4mbit\" }}\n\
         [[rule]]\nname = \"free\"\nclients = [\"10.77.0.11\"]\nexempt = true\n"
    );
    let shaper = Shaper::start(&lab, &policy, &[])?;
    let servers = Servers::start(&lab, None)?;
    let held = Bulk::upload(&lab, &servers, client_v4(0))?;
    let free = Bulk::upload(&lab, &servers, client_v4(1))?;
    sleep(SECOND);
    let from = Instant::now();
    sleep(4 * SECOND);
    let to = Instant::now();
    ensure_held("rule net", held.rate(from, to), 4e6)?;
    ensure_free("rule free", free.rate(from, to))?;
    let clients = shaper.fresh_clients()?.clients;
    let (net, free) = (
        row(&clients, client_v4(0)).map(|row| (row.rule.as_str(), row.exempt)),
        row(&clients, client_v4(1)).map(|row| (row.rule.as_str(), row.exempt)),
    );
    ensure!(net == Some(("net", false)), "{clients:?}");
    ensure!(free == Some(("free", true)), "{clients:?}");
    Ok(())
}
