//! All cases, on the same open WebSockets.

use super::Args;
use crate::bench::cpu;
use crate::haproxy::{Haproxy, Installed, Spec};
use crate::lab::{Lab, LabSpec, PORT, client_v4, client_v6};
use crate::shaper::Shaper;
use crate::ws::{Named, Pinned};
use anyhow::{Context, Result, ensure};
use shaper_user::control::client::Client;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{MissedTickBehavior, interval};

/// Client addresses of each family.
const CLIENTS: u8 = 100;
/// Between two looks at the daemon's state, each with a WebSocket that opens.
const LOOK: Duration = Duration::from_millis(100);
/// Until a reloaded policy has had its effect.
const SETTLE: Duration = Duration::from_secs(3);

/// What was seen of a case in all its rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Case {
    pub(super) time: Duration,
    /// By HAProxy's threads.
    pub(super) haproxy: Duration,
    /// By the daemon's.
    pub(super) daemon: Duration,
    /// What each answer took HAProxy, in ms, as the daemon says.
    pub(super) answers: Vec<f64>,
    /// Sessions in the last answer.
    pub(super) sessions: u64,
    /// Between two questions, as the daemon says.
    pub(super) poll_ms: u64,
    /// How long WebSockets took to open meanwhile, in ms.
    pub(super) opening: Vec<f64>,
}

impl Case {
    /// Percent of one core.
    pub(super) fn percent(&self, part: Duration) -> f64 {
        part.as_secs_f64() * 100.0 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// What all answers took, in ms.
    pub(super) fn held_ms(&self) -> f64 {
        self.answers.iter().fold(0.0, |sum, answer| sum + answer)
    }

    /// The same for each minute.
    pub(super) fn held_ms_a_minute(&self) -> f64 {
        self.held_ms() * 60.0 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Without and with the join.
pub(super) fn run(args: &Args, haproxy: &Installed, connections: u32) -> Result<[Case; 2]> {
    let lab = Lab::new(LabSpec {
        clients: CLIENTS,
        backends: 2,
        ..LabSpec::direct(true)
    })?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let spec = Spec {
        program: haproxy.program.clone(),
        // More than that it has no files for, and refuses to start.
        maxconn: connections + 20,
        servers: 2,
        ..Spec::default()
    };
    let servers = Named::start_all(runtime.handle(), &lab, &spec)?;
    let haproxy = Haproxy::start_with(&lab, &spec)?;
    let shaper = Shaper::start(&lab, &policy(args, None), &[])?;
    let daemon = shaper.pid().context("no daemon")?;
    let ends: Vec<SocketAddr> = (0..connections as usize)
        .map(|n| {
            let client = (n / 2 % usize::from(CLIENTS)) as u8;
            let address = if n.is_multiple_of(2) {
                client_v4(client)
            } else {
                client_v6(client)
            };
            SocketAddr::new(address, 0)
        })
        .collect();
    let began = Instant::now();
    let open = Pinned::open_all(&runtime, &lab, &ends, PORT)?;
    eprintln!(
        "join: all are open, after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let mut cases = [Case::default(), Case::default()];
    for _ in 0..args.rounds {
        for (case, socket) in cases.iter_mut().zip([None, Some(haproxy.socket())]) {
            shaper.reload(&policy(args, socket))?;
            std::thread::sleep(SETTLE);
            let used = || -> Result<[Duration; 2]> {
                Ok([cpu::of_process(haproxy.pid())?, cpu::of_process(daemon)?])
            };
            let (from, before) = (Instant::now(), used()?);
            let time = Duration::from_secs(args.seconds) / args.rounds;
            watch(&runtime, &lab, shaper.socket(), time, case)?;
            let after = used()?;
            case.time += from.elapsed();
            case.haproxy += after[0].saturating_sub(before[0]);
            case.daemon += after[1].saturating_sub(before[1]);
        }
    }
    let lost = open.iter().filter(|one| !one.is_open()).count();
    ensure!(lost == 0, "{lost} of {} WebSockets ended", open.len());
    let joined = cases[1].sessions;
    ensure!(
        joined >= u64::from(connections),
        "the join found only {joined} sessions: {:?}",
        shaper.status()?.haproxy
    );
    drop(servers);
    Ok(cases)
}

fn policy(args: &Args, socket: Option<&Path>) -> String {
    let sockets: Vec<&Path> = socket.into_iter().collect();
    format!(
        "[haproxy]\nsockets = {sockets:?}\npoll = \"{}s\"\n",
        args.poll
    )
}

/// Looks at the daemon's state, and opens a WebSocket, again and again.
fn watch(
    runtime: &Runtime,
    lab: &Lab,
    control: &Path,
    time: Duration,
    case: &mut Case,
) -> Result<()> {
    let end = Instant::now() + time;
    let mut sockets = Pinned::sockets(
        runtime,
        lab,
        &vec![SocketAddr::new(client_v4(0), 0); SOCKETS_AT_ONCE],
    )?;
    let mut last = None;
    while Instant::now() < end {
        if sockets.is_empty() {
            let ends = vec![SocketAddr::new(client_v4(0), 0); SOCKETS_AT_ONCE];
            sockets = Pinned::sockets(runtime, lab, &ends)?;
        }
        runtime.block_on(async {
            let mut client = Client::connect(control).await?;
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while Instant::now() < end {
                ticks.tick().await;
                if let Some(row) = client.status().await?.haproxy.first() {
                    let age = row.age_ms.unwrap_or(u64::MAX);
                    // The first one seen came before.
                    if last.is_some_and(|last| age < last) {
                        case.answers.extend(row.cost_ms);
                    }
                    last = Some(age);
                    case.sessions = row.sessions;
                    case.poll_ms = row.poll_ms;
                }
                let Some(socket) = sockets.pop() else {
                    break;
                };
                let began = Instant::now();
                Pinned::open(socket, PORT).await?;
                case.opening.push(began.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// Bound ahead, as that is done in the client's namespace.
const SOCKETS_AT_ONCE: usize = 20;
