//! Counted to the byte.

use crate::Test;
use crate::tools::{SECOND, Servers, open};
use anyhow::{Result, ensure};
use shaper_common::key::{TCP, UDP};
use shaper_tests::lab::{
    INTERFACE, Lab, LabSpec, PORT, PROXY_V4, SOURCE_PORT, client_v4, client_v6,
};
use shaper_tests::netns::InterfaceCounters;
use shaper_tests::relay::{PathSpec, Tags};
use shaper_tests::shaper::{Shaper, row};
use shaper_tests::traffic::tcp::Transfer;
use shaper_tests::traffic::udp;
use shaper_user::model::Direction;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("counting_is_exact_with_offloads", || interface(true)),
    ("counting_is_exact_without_offloads", || interface(false)),
    ("counting_is_exact_on_the_path", || path(Tags::None)),
    ("counting_is_exact_behind_a_vlan_tag", || path(Tags::Vlan)),
    ("counting_is_exact_behind_two_tags", || path(Tags::QinQ)),
    ("fragments_are_counted_apart", fragments),
];

const BYTES: u64 = 30 << 20;

/// Both ways, to the end; the client's side closes last, so no packet comes
/// after the flow's end but the last acknowledgement.
fn transfer(lab: &Lab, client: IpAddr) -> Result<()> {
    let _servers = Servers::start(lab, Some(BYTES))?;
    let up = open(lab, client, PORT, 5 * SECOND)?;
    let down = open(lab, client, SOURCE_PORT, 5 * SECOND)?;
    let mut up = Transfer::send(up, Some(BYTES))?;
    let mut down = Transfer::receive(down)?;
    up.finish(20 * SECOND)?;
    ensure!(down.finish(20 * SECOND)? == BYTES);
    Ok(())
}

/// Sum of all clients and of what belonged to no flow, per direction.
pub fn counted(shaper: &Shaper) -> Result<[Direction; 2]> {
    let clients = shaper.fresh_clients()?.clients;
    let counters = shaper.status()?.counters;
    let mut sums = ["upload", "download"].map(|direction| Direction {
        bytes: counters
            .get(&format!("untracked_{direction}_bytes"))
            .copied()
            .unwrap_or_default(),
        packets: counters
            .get(&format!("untracked_{direction}_packets"))
            .copied()
            .unwrap_or_default(),
        ..Direction::default()
    });
    for client in clients {
        for (sum, one) in sums
            .iter_mut()
            .zip([client.upload.traffic, client.download.traffic])
        {
            sum.bytes += one.bytes + one.dropped_bytes;
            sum.packets += one.packets + one.dropped_packets;
        }
    }
    Ok(sums)
}

/// Against the interface's own counters. An aggregate counts there once, with
/// one set of headers; on the wire each of its segments has them: IP 20, TCP 20,
/// timestamps 12.
fn interface(offloads: bool) -> Result<()> {
    let lab = Lab::new(LabSpec {
        quiet: true,
        ..LabSpec::direct(offloads)
    })?;
    // A small window, so that nothing overflows the queue between the hook and
    // the interface's counter: what is lost there was counted as sent by us only.
    for namespace in [&lab.client, &lab.proxy] {
        namespace.sysctl("ipv4/tcp_rmem", "4096 65536 262144")?;
    }
    let shaper = Shaper::start(&lab, "", &[])?;
    let before = lab.proxy.counters(INTERFACE)?;
    transfer(&lab, client_v4(0))?;
    // The last acknowledgements.
    let mut after = lab.proxy.counters(INTERFACE)?;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = lab.proxy.counters(INTERFACE)?;
        if now == after {
            break;
        }
        after = now;
    }
    let [upload, download] = counted(&shaper)?;
    for (name, counted, seen) in [
        ("upload", upload, received(before, after)),
        ("download", download, sent(before, after)),
    ] {
        let (bytes, packets) = seen;
        let inside = counted
            .packets
            .checked_sub(packets)
            .ok_or_else(|| anyhow::anyhow!("{name}: {counted:?}, seen {packets} packets"))?;
        let wire = bytes - 14 * packets + 52 * inside;
        ensure!(
            counted.bytes == wire,
            "{name}: {} bytes counted, {wire} on the wire ({packets} packets seen, {} counted)",
            counted.bytes,
            counted.packets
        );
        ensure!(
            counted.packets >= BYTES / 1448,
            "{name}: {} packets cannot hold it",
            counted.packets
        );
        ensure!(
            offloads == (inside > 0),
            "{name}: {inside} segments inside aggregates, offloads {offloads}"
        );
    }
    Ok(())
}

pub const fn received(before: InterfaceCounters, after: InterfaceCounters) -> (u64, u64) {
    (
        after.rx_bytes - before.rx_bytes,
        after.rx_packets - before.rx_packets,
    )
}

pub const fn sent(before: InterfaceCounters, after: InterfaceCounters) -> (u64, u64) {
    (
        after.tx_bytes - before.tx_bytes,
        after.tx_packets - before.tx_packets,
    )
}

/// Against the relay, which saw every packet, IPv4 and IPv6.
fn path(tags: Tags) -> Result<()> {
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            tags,
            ..PathSpec::default()
        }),
        ..LabSpec::default()
    })?;
    // A limit far above, so that the buckets are in it too.
    let policy = "[default]\nupload = { rate = \"10gbit\" }\ndownload = { rate = \"10gbit\" }\n";
    let shaper = Shaper::start(&lab, policy, &[])?;
    for client in [client_v4(0), client_v6(1)] {
        transfer(&lab, client)?;
    }
    let relay = lab.relay()?;
    relay.wait_quiet(Duration::from_millis(300), 10 * SECOND)?;
    let sums = counted(&shaper)?;
    let sides = [("upload", relay.up()), ("download", relay.down())];
    for ((name, wire), counted) in sides.into_iter().zip(sums) {
        let (sink, source) = (wire.port(PORT, TCP), wire.port(SOURCE_PORT, TCP));
        let (bytes, packets) = (sink.bytes + source.bytes, sink.packets + source.packets);
        ensure!(wire.lost == 0, "the relay lost {} frames", wire.lost);
        ensure!(
            (counted.bytes, counted.packets) == (bytes, packets),
            "{name}: {} bytes in {} packets counted, {bytes} in {packets} on the wire",
            counted.bytes,
            counted.packets
        );
    }
    Ok(())
}

/// 4008 bytes of UDP are three fragments, two of them without a port.
fn fragments() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, "", &[])?;
    let receiver = udp::Receiver::start(&lab.proxy, PROXY_V4, PORT)?;
    let sent = udp::blast(
        &lab.client,
        SocketAddr::new(client_v4(0), 0),
        SocketAddr::new(PROXY_V4, PORT),
        4_000,
        3_200_000,
        SECOND,
    )?;
    lab.relay()?
        .wait_quiet(Duration::from_millis(300), 10 * SECOND)?;
    ensure!(receiver.meter().total() == sent * 4_000);
    let clients = shaper.fresh_clients()?.clients;
    let counters = shaper.status()?.counters;
    let apart = |name: &str| counters.get(name).copied().unwrap_or_default();
    ensure!(
        apart("fragment_packets") == 2 * sent,
        "{counters:?}, {sent} sent"
    );
    ensure!(
        apart("fragment_bytes") == sent * (1500 + 20 + 4008 - 2 * 1480),
        "{counters:?}, {sent} sent"
    );
    let client = row(&clients, client_v4(0))
        .ok_or_else(|| anyhow::anyhow!("the client is not known: {clients:?}"))?;
    ensure!(client.upload.traffic.packets >= sent, "{client:?}");
    let flows = shaper.fresh_flows()?.flows;
    ensure!(
        flows
            .iter()
            .any(|flow| flow.protocol == "udp" && flow.upload.packets == sent),
        "{flows:?}; protocol {UDP}"
    );
    Ok(())
}
