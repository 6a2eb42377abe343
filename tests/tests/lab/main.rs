//! The lab by itself: without shaper.

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use shaper_tests::haproxy::Haproxy;
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, PORT, PROXY_V4, PROXY_V6, client_v4, client_v6};
use shaper_tests::relay::{PathSpec, Tags};
use shaper_tests::traffic::tcp::{Role, Server, Transfer, connect};
use shaper_tests::ws::client::{Heavy, Light};
use shaper_tests::ws::{Backend, Recorder};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

type Test = (&'static str, fn() -> Result<()>);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT RUN: the lab needs root (network namespaces); everything is ignored");
    }
    let tests: [Test; 6] = [
        ("the_path_has_its_round_trip", round_trip),
        ("the_path_forwards_500_mbit_and_loses_nothing", throughput),
        ("the_bottleneck_holds", bottleneck),
        ("tags_cross_the_path", tags),
        ("websockets_go_through_haproxy", websockets),
        ("nothing_stays", nothing_stays),
    ];
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test().map_err(|e| Failed::from(format!("{e:#}")))
            })
            .with_ignored_flag(!root)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Time of a handshake: one round trip.
fn handshake(lab: &Lab, source: IpAddr, to: IpAddr) -> Result<Duration> {
    let to = SocketAddr::new(to, PORT);
    // The first one pays for neighbour discovery.
    connect(&lab.client, source, to, "cubic", 5 * SECOND)?;
    // The best one: on a busy machine most are late.
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        connect(&lab.client, source, to, "cubic", 5 * SECOND)?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

fn upload(lab: &Lab, server: &Server, time: Duration) -> Result<(f64, u32)> {
    let stream = connect(
        &lab.client,
        client_v4(0),
        SocketAddr::new(PROXY_V4, PORT),
        "cubic",
        5 * SECOND,
    )?;
    let meter = server.accepted(&stream)?;
    let transfer = Transfer::send(stream, None)?;
    std::thread::sleep(SECOND);
    let from = Instant::now();
    std::thread::sleep(time);
    Ok((
        meter.rate_bps(from, Instant::now()),
        transfer.retransmits()?,
    ))
}

fn round_trip() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let _server = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
    for (source, to) in [(client_v4(1), PROXY_V4), (client_v6(1), PROXY_V6)] {
        let time = handshake(&lab, source, to)?;
        ensure!(
            (20.0..22.0).contains(&(time.as_secs_f64() * 1e3)),
            "{to}: {time:?}"
        );
    }
    ensure!(lab.relay()?.lost() == 0, "{:?}", lab.relay()?.up());
    Ok(())
}

fn throughput() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let server = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
    let (rate, again) = upload(&lab, &server, 3 * SECOND)?;
    println!("{:.0} Mbit/s, {again} segments again", rate / 1e6);
    ensure!(rate > 300e6, "only {:.0} Mbit/s", rate / 1e6);
    let (up, down) = (lab.relay()?.up(), lab.relay()?.down());
    ensure!(up.lost + down.lost == 0, "{up:?} {down:?}");
    let counters = lab.proxy.counters(INTERFACE)?;
    ensure!(counters.rx_dropped == 0, "{counters:?}");
    ensure!(again == 0, "{again} segments were sent again");
    Ok(())
}

fn bottleneck() -> Result<()> {
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            rate: Some(50_000_000),
            ..PathSpec::default()
        }),
        ..LabSpec::default()
    })?;
    let server = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
    let (rate, _) = upload(&lab, &server, 3 * SECOND)?;
    // 1448 bytes of payload in a frame of 1514.
    let share = rate / (50e6 * 1448.0 / 1514.0);
    ensure!((0.9..1.02).contains(&share), "{share:.3} of the rate");
    ensure!(lab.relay()?.lost() == 0, "{:?}", lab.relay()?.up());
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
        let server = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
        let to = SocketAddr::new(PROXY_V4, PORT);
        let stream = connect(&lab.client, client_v4(0), to, "cubic", 5 * SECOND)?;
        let meter = server.accepted(&stream)?;
        Transfer::send(stream, Some(1 << 20))?.finish(10 * SECOND)?;
        let deadline = Instant::now() + 5 * SECOND;
        while meter.total() < 1 << 20 {
            ensure!(Instant::now() < deadline, "{} bytes", meter.total());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn websockets() -> Result<()> {
    let lab = Lab::new(LabSpec {
        backends: 2,
        ..LabSpec::default()
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let backends = lab
        .backends
        .iter()
        .map(|namespace| Backend::start(runtime.handle(), namespace))
        .collect::<Result<Vec<_>>>()?;
    let _haproxy = Haproxy::start(&lab)?;
    let recorder = Arc::new(Recorder::new(1)?);
    let every = Duration::from_millis(50);
    let light = Light::start(
        runtime.handle(),
        &lab,
        client_v4(0),
        every,
        recorder.clone(),
    )?;
    let up = Heavy::upload(&lab, client_v4(1), "cubic")?;
    let down = Heavy::download(&lab, client_v6(2))?;
    std::thread::sleep(SECOND);
    recorder.record_into(Some(0));
    std::thread::sleep(2 * SECOND);
    recorder.record_into(None);
    let (p50, messages) = recorder.quantile_ms(0, 0.5);
    // Two heavy ones share the machine with it: no upper bound worth the name.
    ensure!(
        p50 >= 20.0 && messages >= 10,
        "{p50} ms, {messages} messages"
    );
    let received = backends
        .iter()
        .filter_map(|backend| backend.uploads(client_v4(1)))
        .map(|meter| meter.total())
        .sum::<u64>();
    ensure!(received > 10_000_000, "{received} bytes came up");
    ensure!(down.meter().total() > 10_000_000, "too few bytes came down");
    up.stop()?;
    down.stop()?;
    runtime.block_on(light.stop())
}

fn nothing_stays() -> Result<()> {
    let mine = || {
        shaper_tests::netns::existing()
            .into_iter()
            .filter(|(_, pid)| *pid == std::process::id())
            .collect::<Vec<_>>()
    };
    let lab = Lab::new(LabSpec::default())?;
    let directory = lab.directory().to_owned();
    ensure!(mine().len() == 3, "{:?}", mine());
    drop(lab);
    ensure!(mine().is_empty(), "{:?}", mine());
    ensure!(!directory.exists(), "{} is there", directory.display());
    Ok(())
}
