//! What throttling costs the proxy's host: CPU of HAProxy and of the kernel
//! for 100 WebSockets, each held to 100 kB/s of payload.
//!
//! The proxy's host has the first CPU: HAProxy with one thread, the daemon,
//! and the kernel threads that receive there (threaded NAPI, with GRO as at a
//! network card). Clients, path and backend are on the other CPUs, and so, by
//! RPS, is what the kernel does with packets that arrive at them. Each part
//! has its own clock, which other programs of the machine don't run.

mod measure;
mod report;

use super::upload::{Pace, Segments};
use crate::haproxy::{self, Installed};
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a message of a greedy client.
const MESSAGE: usize = 8 << 10;

/// Options of `proxy-cost`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How long each case is measured, over all rounds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// In how many turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// WebSockets, each of a client of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=200))]
    clients: u8,
    /// Payload that each is held to, in kB/s
    #[arg(long, value_name = "KB", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Round trip between clients and proxy, in ms
    #[arg(long, value_name = "MS", default_value_t = 20.0)]
    rtt: f64,
    /// Congestion control of the clients
    #[arg(long, value_name = "CC", default_value = "cubic")]
    cc: String,
    /// The HAProxy to run; default: SHAPER_HAPROXY, else the newest here
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What holds the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They say nothing: what open connections cost.
    Silent,
    /// Their own TCP paces them.
    Paced,
    /// Each sends a message every 100 ms.
    Messages,
    /// The daemon.
    Ours,
    /// `filter bwlim-in`, with this `min-size`.
    Bwlim(Option<u32>),
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Silent => "silent".into(),
            Self::Paced => "paced by their TCP".into(),
            Self::Messages => "message every 100 ms".into(),
            Self::Ours => "ours".into(),
            Self::Bwlim(None) => "bwlim-in".into(),
            Self::Bwlim(Some(size)) => format!("bwlim-in min-size {size}"),
        }
    }

    fn pace(self, rate: u32) -> Pace {
        match self {
            Self::Silent => Pace::Silent,
            Self::Paced => Pace::Socket {
                message: MESSAGE,
                rate,
            },
            Self::Messages => Pace::Messages { rate },
            Self::Ours | Self::Bwlim(_) => Pace::Greedy(MESSAGE),
        }
    }
}

/// One row.
#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    used: Used,
}

/// What a case used, in all its rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    time: Duration,
    /// By the threads of HAProxy.
    haproxy: Duration,
    /// By the kernel's threads that receive from clients and backend.
    kernel: Duration,
    /// By our daemon's threads.
    daemon: Duration,
    /// By our programs in the kernel.
    programs: Duration,
    /// By whatever else ran on the proxy's CPU.
    others: Duration,
    /// Payload that reached the backend.
    bytes: u64,
    segments: Segments,
    /// Frames that the path delivered.
    frames: u64,
    /// Frames that the path lost by itself.
    lost: u64,
}

impl Used {
    fn add(&mut self, round: Self) {
        self.time += round.time;
        self.haproxy += round.haproxy;
        self.kernel += round.kernel;
        self.others += round.others;
        self.daemon += round.daemon;
        self.programs += round.programs;
        self.bytes += round.bytes;
        self.segments += round.segments;
        self.frames += round.frames;
        self.lost += round.lost;
    }

    /// All that the proxy's host used for the traffic.
    fn host(&self) -> Duration {
        self.haproxy + self.kernel + self.daemon
    }

    /// Percent of one core.
    fn percent(&self, part: Duration) -> f64 {
        part.as_secs_f64() * 100.0 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Payload that reached the backend, bytes per second of each client.
    fn rate(&self, clients: u8) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE) / f64::from(clients)
    }
}

/// Runs it and prints the table.
///
/// # Errors
/// When something could not be set up, or broke.
pub fn run(args: &Args) -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(
        cpus >= 2,
        "not measured: the proxy's host needs a CPU of its own, and this machine has one"
    );
    let haproxy = haproxy::choose(args.haproxy.as_deref())?;
    let mut cases: Vec<Case> = kinds(&haproxy)
        .into_iter()
        .map(|kind| Case {
            kind,
            used: Used::default(),
        })
        .collect();
    eprintln!(
        "proxy-cost: {haproxy}, {} cases of {} s in {} rounds, about {} minutes",
        cases.len(),
        args.seconds,
        args.rounds,
        (cases.len() as u64 * (args.seconds + 12 * u64::from(args.rounds))).div_ceil(60)
    );
    measure::leave_the_first_cpu(cpus)?;
    for _ in 0..args.rounds {
        for case in &mut cases {
            case.used.add(measure::case(args, &haproxy, case.kind)?);
        }
    }
    report::print(args, &haproxy, &cases)
}

fn kinds(haproxy: &Installed) -> Vec<Kind> {
    let mut kinds = vec![Kind::Silent, Kind::Paced, Kind::Messages, Kind::Ours];
    if haproxy.has_bwlim() {
        // Two full segments, and the default.
        kinds.extend([Kind::Bwlim(None), Kind::Bwlim(Some(2896))]);
    }
    kinds
}
