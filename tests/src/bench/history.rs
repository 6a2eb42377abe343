//! `history`: what keeping it costs with 10,000 flows that are all busy.

use crate::bench::LOCAL_V4;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use shaper_common::class::Class;
use shaper_common::flow::{Client, Flow};
use shaper_common::key::{ClientKey, FlowKey, TCP};
use shaper_user::addr::to_kernel;
use shaper_user::history;
use shaper_user::kernel::Sample;
use shaper_user::policy::History;
use shaper_user::protocol::HistoryQuery;
use shaper_user::sampler::Sampler;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLOWS: u32 = 10_000;
const MINUTES: u64 = 30;
const SECONDS: u64 = MINUTES * 60;
/// What a flow moves in a second: more than the threshold in each minute.
const BYTES: u64 = 50_000;
/// Flows that close in a second, and are opened anew.
const CLOSING: u64 = 20;
const NANOS: u64 = 1_000_000_000;

/// Half an hour of samples, with a history and without.
///
/// # Errors
/// When the store cannot be written.
pub fn history() -> Result<()> {
    let directory = tempfile::tempdir().context("a directory for the store")?;
    let path = directory.path().join("history.redb");
    let policy = History {
        path: Some(path.clone()),
        ..History::default()
    };
    let without = run(None, directory.path())?;
    let began = Instant::now();
    let with = run(Some(&policy), directory.path())?;
    println!("{FLOWS} flows of {FLOWS} clients, all over the threshold in each minute, {CLOSING}");
    println!(
        "close in a second; {MINUTES} minutes in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let share = |time: Duration| time.as_secs_f64() / Duration::from_secs(SECONDS).as_secs_f64();
    println!(
        "{:44} {:>8.3} % of one core",
        "the samples alone",
        share(without) * 100.0
    );
    println!(
        "{:44} {:>8.3} % of one core",
        "with the history, and its disk",
        share(with) * 100.0
    );
    let cost = with.saturating_sub(without);
    println!(
        "{:44} {:>8.3} % of one core",
        "the history",
        share(cost) * 100.0
    );
    let size = std::fs::metadata(&path)?.len();
    println!("{:44} {:>8.1} MB", "its file", size as f64 / 1e6);
    Ok(())
}

/// CPU time of the whole process: the thread that collects and the one that writes.
fn run(policy: Option<&History>, directory: &Path) -> Result<Duration> {
    let compiled = crate::testbed::policy(Class::default(), &[]);
    let start = Timestamp::from_second(1_800_000_000)?;
    let mut sampler = Sampler::new(Arc::new(compiled), 1, start);
    let (mut recorder, keeper) = history::start()?;
    let (mut flows, mut clients) = entries();
    let cpu = super::sampling::cpu_time()?;
    for second in 0..=SECONDS {
        let now = NANOS * (1_000_000 + second);
        for (n, (_, flow)) in (0..).zip(&mut flows) {
            if (n + second * CLOSING) % u64::from(FLOWS) < CLOSING {
                *flow = Flow {
                    created: now - 1,
                    ..Flow::NEW
                };
            }
            flow.last_seen = now;
            flow.traffic[0].bytes += BYTES;
        }
        for (_, client) in &mut clients {
            client.last_seen = now;
            client.traffic[0].bytes += BYTES;
        }
        let sample = Sample {
            now,
            flows: flows.clone(),
            clients: clients.clone(),
            ..Sample::default()
        };
        let at = start + SignedDuration::from_secs(i64::try_from(second)?);
        sampler.observe(sample, at);
        if let Some(policy) = policy {
            recorder.observe(policy, directory, &sampler, at);
        }
    }
    recorder.finish(&sampler);
    let cpu = super::sampling::cpu_time()? - cpu;
    if policy.is_some() {
        let query = HistoryQuery {
            since: Some(start),
            until: Some(start + SignedDuration::from_secs(i64::try_from(SECONDS)?)),
            ..HistoryQuery::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let answer = runtime.block_on(keeper.query(query));
        let answer = answer.map_err(|error| anyhow::anyhow!(error.message))?;
        ensure!(
            answer.minutes.len() as u64 == MINUTES,
            "minutes are missing"
        );
        let sum: u64 = answer
            .minutes
            .iter()
            .map(|minute| minute.upload.bytes)
            .sum();
        ensure!(
            sum >= (SECONDS - 1) * BYTES * u64::from(FLOWS),
            "bytes are missing: {sum}"
        );
    }
    Ok(cpu)
}

type Entries = (Vec<(FlowKey, Flow)>, Vec<(ClientKey, Client)>);

fn entries() -> Entries {
    (0..FLOWS)
        .map(|n| {
            let client = to_kernel(Ipv4Addr::from(0x0a00_0000 + n).into());
            let key = FlowKey {
                client,
                local: to_kernel(LOCAL_V4.into()),
                client_port: 40_000,
                local_port: 443,
                protocol: TCP,
                ..FlowKey::default()
            };
            let entry = Client {
                connections: 1,
                generation: 1,
                ..Client::default()
            };
            ((key, Flow::NEW), (ClientKey { addr: client }, entry))
        })
        .unzip()
}
