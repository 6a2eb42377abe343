//! The demo: twenty light chat clients and one that uploads without end, on a
//! real HAProxy; watched first, then limited.

mod report;
mod top;

use crate::haproxy::Haproxy;
use crate::lab::{Lab, LabSpec, PORT, client_v4};
use crate::leftovers;
use crate::relay::PathSpec;
use crate::shaper::{Shaper, row};
use crate::traffic::Meter;
use crate::ws::client::{Heavy, Light};
use crate::ws::{Backend, Recorder};
use anyhow::{Context, Result};
use report::{Claim, Phase, Report};
use shaper_common::key::TCP;
use shaper_user::model::Client;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use top::Top;

const LIGHT_CLIENTS: u8 = 20;
/// The heavy one comes after the light ones.
const HEAVY: u8 = LIGHT_CLIENTS;
const CHAT_EVERY: Duration = Duration::from_millis(75);
/// What the path carries: enough for one client to be in everybody's way.
const PATH_BPS: u64 = 200_000_000;
const LIMIT_BPS: u64 = 8_000_000;
/// From the payload of a full segment to its IP packet: 1500 bytes, less 40 of
/// headers and 12 of timestamps.
const IP_OVERHEAD: f64 = 1500.0 / 1448.0;
const IDLE: usize = 0;
const OBSERVED: usize = 1;
const LIMITED: usize = 2;

/// How to run it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each phase is measured.
    pub seconds: u64,
    /// The report only, also on a terminal.
    pub plain: bool,
    /// Where to draw the dashboard as it looked at the end; the servers and the
    /// history beside it.
    pub svg: Option<PathBuf>,
}

fn policy(lab: &Lab, mode: &str) -> String {
    let socket = Haproxy::socket_in(lab);
    let history = lab.directory().join("history.redb");
    format!(
        "mode = \"{mode}\"\n[default]\nupload = {{ rate = \"8mbit\" }}\n\
         [haproxy]\nsockets = [{socket:?}]\npoll = \"1s\"\n[history]\npath = {history:?}\n"
    )
}

/// Runs it and prints the report; returns whether all claims held.
///
/// # Errors
/// When something could not be set up, or broke.
pub fn run(options: &Options) -> Result<bool> {
    let time = Duration::from_secs(options.seconds.max(1));
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            rate: Some(PATH_BPS),
            ..PathSpec::default()
        }),
        clients: LIGHT_CLIENTS + 1,
        backends: 2,
        ..LabSpec::default()
    })?;
    let mut shaper = Shaper::start(&lab, &policy(&lab, "observe"), &[])
        .inspect_err(|_| eprintln!("{}", crate::shaper::last_log()))?;
    let mut report = Report::default();
    let result = phases(options, &lab, &shaper, time, &mut report);
    let log = shaper.log();
    let gone = result.and_then(|()| {
        let mut remaining = shaper.detach()?;
        drop(shaper);
        drop(lab);
        remaining.extend(leftovers::namespaces());
        Ok(remaining)
    });
    let remaining = gone.inspect_err(|_| eprintln!("shaper's log:\n{log}"))?;
    report.claims.push(Claim::new(
        remaining.is_empty(),
        if remaining.is_empty() {
            "no program, map, link, pin, qdisc or namespace is left".to_owned()
        } else {
            format!("left behind: {}", remaining.join(", "))
        },
    ));
    print!("{report}");
    let held = report.held();
    if !held {
        eprintln!("shaper's log:\n{log}");
    }
    Ok(held)
}

fn phases(
    options: &Options,
    lab: &Lab,
    shaper: &Shaper,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let backends = lab
        .backends
        .iter()
        .map(|namespace| Backend::start(runtime.handle(), namespace))
        .collect::<Result<Vec<_>>>()?;
    let _haproxy = Haproxy::start(lab)?;
    let mut top = Top::start(options, shaper)?;
    let say = |text: &str| {
        if options.plain {
            println!("{text}");
        }
    };

    let recorder = Arc::new(Recorder::new(3)?);
    let light = (0..LIGHT_CLIENTS)
        .map(|n| {
            let recorder = recorder.clone();
            Light::start(runtime.handle(), lab, client_v4(n), CHAT_EVERY, recorder)
        })
        .collect::<Result<Vec<_>>>()?;
    say("20 light clients chat; nobody else");
    top.watch(Duration::from_secs(2));
    recorder.record_into(Some(IDLE));
    top.watch(time);
    recorder.record_into(None);

    say("one heavy client uploads; shaper only observes");
    let source = client_v4(HEAVY);
    let heavy = Heavy::upload(lab, source, "cubic")?;
    top.watch(Duration::from_secs(2));
    let meter = backends
        .iter()
        .find_map(|backend| backend.uploads(source))
        .context("the heavy client's messages reached no backend")?;
    recorder.record_into(Some(OBSERVED));
    let observed = measure(shaper, &meter, &mut top, time)?;
    recorder.record_into(None);

    say("the policy is reloaded: 8 Mbit/s for every client, open connections included");
    shaper.reload(&policy(lab, "enforce"))?;
    top.watch(Duration::from_secs(1));
    recorder.record_into(Some(LIMITED));
    let limited = measure(shaper, &meter, &mut top, time)?;
    recorder.record_into(None);

    top.finish()?;
    heavy.stop()?;
    runtime.block_on(async {
        for client in light {
            client.stop().await?;
        }
        anyhow::Ok(())
    })?;
    let rates = [None, Some(observed.counted), Some(limited.counted)];
    for (index, (name, heavy_bps)) in ["idle", "observed", "limited"]
        .into_iter()
        .zip(rates)
        .enumerate()
    {
        let (p50_ms, messages) = recorder.quantile_ms(index, 0.5);
        let (p99_ms, _) = recorder.quantile_ms(index, 0.99);
        report.phases.push(Phase {
            name,
            heavy_bps,
            p50_ms,
            p99_ms,
            messages,
        });
    }
    claim_rates(&limited, time, report);
    claim_latency(report);
    claim_counters(lab, shaper, report)
}

/// The heavy client's rate at the IP level, twice.
struct Rates {
    /// By shaper's counter and clock.
    counted: f64,
    /// By the payload that reached the backend.
    received: f64,
}

fn measure(shaper: &Shaper, meter: &Meter, top: &mut Top, time: Duration) -> Result<Rates> {
    let heavy = |clients: &[Client]| -> Result<u64> {
        let row = row(clients, client_v4(HEAVY)).context("shaper does not see the heavy client")?;
        Ok(row.upload.traffic.bytes)
    };
    let from = Instant::now();
    let before = shaper.fresh_clients()?;
    // A sample is up to a second old; two of them bound the time.
    top.watch(time);
    let after = shaper.fresh_clients()?;
    let to = Instant::now();
    let seconds = (after.at.duration_since(before.at)).as_secs_f64();
    let bytes = heavy(&after.clients)? - heavy(&before.clients)?;
    Ok(Rates {
        counted: bytes as f64 * 8.0 / seconds,
        received: meter.rate_bps(from, to) * IP_OVERHEAD,
    })
}

fn claim_rates(limited: &Rates, time: Duration, report: &mut Report) {
    for (rate, how) in [
        (limited.counted, "by shaper's counter"),
        (limited.received, "by the payload at the backend"),
    ] {
        let percent = rate * 100.0 / LIMIT_BPS as f64;
        report.claims.push(Claim::new(
            (85.0..=102.0).contains(&percent),
            format!(
                "the heavy client got {percent:.1} % of its 8 Mbit/s over {} s, {how} (85 to 102 %)",
                time.as_secs()
            ),
        ));
    }
}

fn claim_latency(report: &mut Report) {
    let p99 = |index: usize| report.phases.get(index).map_or(0.0, |phase| phase.p99_ms);
    let factor = p99(LIMITED) / p99(IDLE).max(f64::MIN_POSITIVE);
    let enough = report.phases.iter().all(|phase| phase.messages >= 100);
    report.claims.push(Claim::new(
        factor <= 1.3 && enough,
        format!("the light clients' p99 is {factor:.2} times that of idle (at most 1.3)"),
    ));
}

/// The relay saw every packet on the wire; shaper must have counted the same.
fn claim_counters(lab: &Lab, shaper: &Shaper, report: &mut Report) -> Result<()> {
    let relay = lab.relay()?;
    relay.wait_quiet(Duration::from_millis(300), Duration::from_secs(10))?;
    let clients = shaper.fresh_clients()?.clients;
    let counters = shaper.status()?.counters;
    let other = |name: &str| counters.get(name).copied().unwrap_or_default();
    let (up, down) = (relay.up(), relay.down());
    let sum = |of: fn(&Client) -> u64| clients.iter().map(of).sum::<u64>();
    for (direction, wire, counted) in [
        (
            "upload",
            up.port(PORT, TCP).bytes,
            sum(|c| c.upload.traffic.bytes + c.upload.traffic.dropped_bytes)
                + other("untracked_upload_bytes"),
        ),
        (
            "download",
            down.port(PORT, TCP).bytes,
            sum(|c| c.download.traffic.bytes) + other("untracked_download_bytes"),
        ),
    ] {
        report.claims.push(Claim::new(
            wire == counted && wire > 0,
            format!("{direction}: {counted} bytes counted, {wire} on the wire"),
        ));
    }
    let lost = up.lost + down.lost;
    report.claims.push(Claim::new(
        lost == 0,
        format!("the path between them lost {lost} frames by itself"),
    ));
    if let Some(row) = row(&clients, client_v4(HEAVY)) {
        let share = row.upload.traffic.dropped_bytes as f64 * 100.0
            / (row.upload.traffic.bytes + row.upload.traffic.dropped_bytes).max(1) as f64;
        report.notes.push(format!(
            "heavy client (cubic): {} bytes passed, {} dropped ({share:.2} %), held for {} ms",
            row.upload.traffic.bytes, row.upload.traffic.dropped_bytes, row.upload.limited_ms
        ));
    }
    Ok(())
}
