//! What a heavy client costs the others: the echo latency of light WebSocket
//! clients through a real HAProxy, while one client uploads as fast as it can.
//!
//! All share HAProxy and the backend, whose link carries less than the heavy
//! client can send (a TBF with 50 ms of queue): that is what drowns in
//! practice, and what a limit on the proxy's host protects. The path to the
//! clients has a round trip and no bottleneck. Every case runs on a lab of its
//! own; the cases take turns, so that a busy minute of the machine meets all.

mod limiter;
mod link;
mod measure;
mod report;

use super::report::PAYLOAD;
use super::upload::Segments;
use crate::haproxy::{self, Installed};
use crate::ws::Recorder;
use anyhow::{Result, ensure};
use limiter::Limiter;
use shaper_user::policy::Rate;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of `isolation`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How long each case is measured, over all rounds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// In how many turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Light clients, each with an address of its own
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u8).range(1..=200))]
    light: u8,
    /// What the heavy client is held to
    #[arg(long, value_name = "RATE", default_value = "8mbit")]
    limit: Rate,
    /// What the backend's link carries
    #[arg(long, value_name = "RATE", default_value = "100mbit")]
    backend: Rate,
    /// Round trip between clients and proxy, in ms
    #[arg(long, value_name = "MS", default_value_t = 20.0)]
    rtt: f64,
    /// Congestion control of the heavy client
    #[arg(
        long,
        value_name = "CC",
        value_delimiter = ',',
        default_value = "cubic,bbr"
    )]
    cc: Vec<String>,
    /// The limiters to compare; idle and unlimited are always measured
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ours,nft,ifb-tbf,bwlim"
    )]
    limiter: Vec<Limiter>,
    /// The HAProxy to run; default: SHAPER_HAPROXY, else the newest here
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One row: idle, or a heavy client and what holds it.
#[derive(Clone, Debug)]
struct Case {
    /// `None`: idle.
    heavy: Option<(Limiter, String)>,
    result: Measured,
}

/// What was seen of a case in all its rounds; the latencies are in the
/// recorder.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    /// Payload of the heavy client that reached the backend.
    bytes: u64,
    time: Duration,
    segments: Segments,
    /// Frames that the path lost by itself: then the case is worth nothing.
    lost: u64,
}

impl Measured {
    fn add(&mut self, round: Self) {
        self.bytes += round.bytes;
        self.time += round.time;
        self.segments += round.segments;
        self.lost += round.lost;
    }

    /// Bits per second at the IP level, of full segments.
    fn rate_bps(&self) -> f64 {
        self.bytes as f64 * 8.0 / PAYLOAD / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs it and prints the table.
///
/// # Errors
/// When something could not be set up, or broke.
pub fn run(args: &Args) -> Result<()> {
    let haproxy = haproxy::choose(args.haproxy.as_deref())?;
    ensure!(
        args.limit.bps() < args.backend.bps(),
        "the limit must be below what the backend's link carries"
    );
    let mut cases = cases(args, &haproxy);
    let recorder = Arc::new(Recorder::new(cases.len())?);
    eprintln!(
        "isolation: {haproxy}, {} cases of {} s in {} rounds, about {} minutes",
        cases.len(),
        args.seconds,
        args.rounds,
        (cases.len() as u64 * (args.seconds + 6 * u64::from(args.rounds))).div_ceil(60)
    );
    for _ in 0..args.rounds {
        for (index, case) in cases.iter_mut().enumerate() {
            let round = measure::case(args, &haproxy, case.heavy.as_ref(), &recorder, index)?;
            case.result.add(round);
        }
    }
    report::print(args, &haproxy, &cases, &recorder)
}

fn cases(args: &Args, haproxy: &Installed) -> Vec<Case> {
    let mut limiters = vec![Limiter::Unlimited];
    for limiter in &args.limiter {
        let possible = *limiter != Limiter::Bwlim || haproxy.has_bwlim();
        if possible && !limiters.contains(limiter) {
            limiters.push(*limiter);
        }
    }
    let heavy = args
        .cc
        .iter()
        .flat_map(|cc| limiters.iter().map(|limiter| Some((*limiter, cc.clone()))));
    std::iter::once(None)
        .chain(heavy)
        .map(|heavy| Case {
            heavy,
            result: Measured::default(),
        })
        .collect()
}
