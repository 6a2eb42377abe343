//! A new daemon takes over while traffic runs: 200 Mbit/s of one client, and 200
//! that chat through HAProxy. Every byte is counted once, and no echo waits.

use crate::Test;
use crate::counting::{counted, received, sent};
use crate::tools::{SECOND, open};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::haproxy::Haproxy;
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, SOURCE_PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::tcp::{Role, Server, Transfer, pace};
use shaper_tests::ws::{Backend, Recorder, client::Light};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("an_upgrade_loses_and_doubles_no_byte", || {
        upgrade(&[("", ""), ("", ""), ("", "")])
    }),
    (
        "an_upgrade_to_other_tables_loses_and_doubles_no_byte",
        || upgrade(&[("", SMALL), (SMALL, ""), ("", SMALL)]),
    ),
    ("a_reload_to_other_tables_loses_and_doubles_no_byte", reload),
];

const SMALL: &str = "max_flows = 1000\nmax_clients = 500\n";
/// Far above, so that every packet is charged and none is dropped.
const LIMITS: &str = "[default]\nupload = { rate = \"2gbit\", burst = \"8MB\" }\n\
    download = { rate = \"2gbit\", burst = \"8MB\" }\n";
const LIGHT: u8 = 200;
/// Payload of the heavy client in bytes a second: 200 Mbit/s of IP packets.
const HEAVY: u64 = 200_000_000 / 8 * 1448 / 1500;
/// What the slowest echo may take.
const SLOWEST_MS: f64 = 200.0;

fn upgrade(steps: &[(&str, &str)]) -> Result<()> {
    run(steps[0].0, |shaper| {
        for (_, to) in steps {
            shaper.stop(Signal::SIGKILL)?;
            sleep(Duration::from_millis(300));
            shaper.write_policy(&format!("{to}{LIMITS}"))?;
            shaper.run(&[])?;
            sleep(SECOND);
        }
        Ok(())
    })
}

fn reload() -> Result<()> {
    run("", |shaper| {
        for tables in [SMALL, "", SMALL] {
            shaper.reload(&format!("{tables}{LIMITS}"))?;
            sleep(SECOND);
        }
        let log = shaper.log();
        ensure!(log.matches("to new tables").count() == 3, "{log}");
        Ok(())
    })
}

/// Runs the traffic, `change` in the middle of it, and then compares.
fn run(tables: &str, change: impl FnOnce(&mut Shaper) -> Result<()>) -> Result<()> {
    let lab = Lab::new(LabSpec {
        quiet: true,
        clients: LIGHT + 1,
        backends: 2,
        ..LabSpec::direct(true)
    })?;
    // As in counting.rs: nothing overflows between hook and counter.
    for namespace in [&lab.client, &lab.proxy] {
        namespace.sysctl("ipv4/tcp_rmem", "4096 65536 262144")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let backends = lab
        .backends
        .iter()
        .map(|namespace| Backend::start(runtime.handle(), namespace))
        .collect::<Result<Vec<_>>>()?;
    let haproxy = Haproxy::start(&lab)?;
    let sink = Server::start(&lab.proxy, SOURCE_PORT, Role::Sink, "cubic")?;
    let mut shaper = Shaper::start(&lab, &format!("{tables}{LIMITS}"), &[])?;
    let before = lab.proxy.counters(INTERFACE)?;

    let recorder = Arc::new(Recorder::new(1)?);
    let light = (0..LIGHT)
        .map(|n| {
            let recorder = recorder.clone();
            Light::start(runtime.handle(), &lab, client_v4(n), SECOND, recorder)
        })
        .collect::<Result<Vec<_>>>()?;
    let heavy = open(&lab, client_v4(LIGHT), SOURCE_PORT, 5 * SECOND)?;
    pace(&heavy, HEAVY)?;
    let arrived = sink.accepted(&heavy)?;
    let mut heavy = Transfer::send(heavy, None)?;
    sleep(2 * SECOND);
    recorder.record_into(Some(0));
    let from = Instant::now();
    change(&mut shaper)?;
    let rate = arrived.rate_bps(from, Instant::now()) * 1500.0 / 1448.0;
    recorder.record_into(None);
    // The last of them has its echo.
    sleep(SECOND);
    heavy.stop();
    runtime.block_on(async {
        for client in light {
            client.stop().await?;
        }
        anyhow::Ok(())
    })?;
    drop((haproxy, sink));

    let mut after = lab.proxy.counters(INTERFACE)?;
    loop {
        sleep(Duration::from_millis(300));
        let now = lab.proxy.counters(INTERFACE)?;
        if now == after {
            break;
        }
        after = now;
    }
    let sums = counted(&shaper)?;
    let seen = [received(before, after), sent(before, after)];
    let (slowest, echoes) = recorder.quantile_ms(0, 1.0);
    let (usual, _) = recorder.quantile_ms(0, 0.5);
    println!(
        "{:.0} Mbit/s, {LIGHT} light clients: {echoes} echoes, median {usual:.1} ms, slowest {slowest:.1} ms",
        rate / 1e6
    );
    for ((name, counted), (bytes, packets)) in
        ["upload", "download"].into_iter().zip(sums).zip(seen)
    {
        let inside = counted
            .packets
            .checked_sub(packets)
            .ok_or_else(|| anyhow::anyhow!("{name}: {counted:?}, {packets} packets seen"))?;
        let wire = bytes - 14 * packets + 52 * inside;
        println!(
            "{name}: {} bytes counted, {wire} on the wire",
            counted.bytes
        );
        ensure!(
            counted.bytes == wire,
            "{name}: {} bytes in {} packets counted, {wire} on the wire ({packets} packets seen)",
            counted.bytes,
            counted.packets
        );
        ensure!(counted.dropped_packets == 0, "{name}: {counted:?}");
    }
    ensure!(rate > 150e6, "only {:.0} Mbit/s were under way", rate / 1e6);
    ensure!(echoes > 3 * u64::from(LIGHT) / 2, "only {echoes} echoes");
    ensure!(
        slowest < SLOWEST_MS,
        "the slowest echo took {slowest:.1} ms"
    );
    drop(backends);
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}
