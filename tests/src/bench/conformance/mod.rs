//! `conformance`: what a limit does to real TCP, ours and the incumbents'.
//!
//! A cell is one limiter, direction, rate, round trip, congestion control and
//! number of flows, in a lab of its own. All flows are of one client, connect,
//! then send as fast as they can, together; the congestion control is the
//! sender's. What the limiters count, and how they are set up: [`limiter`].
//!
//! | number | is |
//! | --- | --- |
//! | goodput | payload that arrived after the warm-up (2 s and 10 round trips from the first byte on), in percent of rate × 1448/1500 |
//! | 1st s | bytes delivered in the first second from the first byte on, less rate × 1 s; 1 is the policy's burst and one window (rate × round trip) |
//! | peak | the same for the whole run, at its highest: the limiter's real burst |
//! | again | segments sent again, from the first byte on, and their percentage of all data segments |
//! | wasted | segments that brought nothing, in percent: sent again, or refused on the sender's own host, which TCP tries again without counting it |
//! | drops | packets that the limiter dropped |
//! | Jain | evenness of the flows in the measured time |
//!
//! TCP's buffers may grow to four times what the path holds at the rate
//! (`tcp_rmem` and `tcp_wmem` of both namespaces are raised where they are
//! smaller, the senders' too): 50 MB for 500 mbit over 200 ms.
//!
//! Light cells run side by side, those above 100 mbit alone. Each is measured for
//! 100 times what its sender may be ahead (the burst, half a round trip). The last column
//! names what a cell misses, and `(CPU)` where the machine had no time left.
//!
//! A cell is void, not bad, when the path lost a frame that no limiter dropped,
//! or when the same path without a limit does not reach the rate.

mod cell;
pub mod limiter;
mod machine;
mod matrix;
mod outcome;
mod schedule;
mod summary;
mod table;

use anyhow::{Context, Result, ensure};
use matrix::{Congestion, Direction, Limiter, RoundTrip};
use outcome::Outcome;
use shaper_user::policy::Rate;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of `conformance`. Lists are separated by commas.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// About two minutes: ours, 8 and 50 mbit, 0.2, 20 and 100 ms, 5 s each and more
    #[arg(long)]
    quick: bool,
    /// Limits of the client [default: 1mbit,8mbit,50mbit,500mbit]
    #[arg(long, value_delimiter = ',')]
    rate: Option<Vec<Rate>>,
    /// Round trips in ms [default: 0.2,2,20,100,200]
    #[arg(long, value_delimiter = ',')]
    rtt: Option<Vec<RoundTrip>>,
    /// Congestion control of the sender [default: cubic,bbr]
    #[arg(long, value_delimiter = ',')]
    cc: Option<Vec<Congestion>>,
    /// Connections of the client [default: 1,8]
    #[arg(long, value_delimiter = ',')]
    flows: Option<Vec<u16>>,
    /// [default: upload,download]
    #[arg(long, value_delimiter = ',')]
    direction: Option<Vec<Direction>>,
    /// [default: ours,nft,hashlimit,ifb-tbf,tbf]
    #[arg(long, value_delimiter = ',')]
    limiter: Option<Vec<Limiter>>,
    /// Least measured time of a cell; low rates and long round trips take longer [default: 10]
    #[arg(long)]
    seconds: Option<f64>,
    /// What the burst of ours and of nft takes at the rate, in seconds [default: the policy's]
    #[arg(long)]
    burst: Option<f64>,
    /// Cells at a time; up to 10 mbit three times as many, above 100 mbit always one
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Writes every cell to this file, after each cell
    #[arg(long)]
    json: Option<PathBuf>,
}

fn or<T: Clone>(given: &Option<Vec<T>>, default: &[T]) -> Vec<T> {
    given.clone().unwrap_or_else(|| default.to_vec())
}

impl Args {
    fn cells(&self) -> Result<Vec<matrix::Cell>> {
        use Limiter::{Hashlimit, IfbTbf, Nft, Ours, Tbf};
        let (rates, rtts, limiters): (&[u64], &[u64], &[Limiter]) = if self.quick {
            (&[8, 50], &[200, 20_000, 100_000], &[Ours])
        } else {
            (
                &[1, 8, 50, 500],
                &[200, 2_000, 20_000, 100_000, 200_000],
                &[Ours, Nft, Hashlimit, IfbTbf, Tbf],
            )
        };
        let rates: Vec<Rate> = rates
            .iter()
            .filter_map(|mbit| Rate::from_bps(mbit * 1_000_000))
            .collect();
        let rtts: Vec<RoundTrip> = rtts
            .iter()
            .map(|us| RoundTrip(Duration::from_micros(*us)))
            .collect();
        let burst_time = self.burst.map(Duration::try_from_secs_f64);
        let burst_time = burst_time.transpose().context("--burst")?;
        let mut cells = matrix::cells(
            &or(&self.limiter, limiters),
            &or(&self.direction, &[Direction::Upload, Direction::Download]),
            &or(&self.rate, &rates),
            &or(&self.rtt, &rtts),
            &or(&self.cc, &[Congestion::Cubic, Congestion::Bbr]),
            &or(&self.flows, &[1, 8]),
        );
        ensure!(!cells.is_empty(), "no limiter covers these directions");
        for cell in &mut cells {
            cell.conditions.burst_time = burst_time;
        }
        Ok(cells)
    }

    fn least(&self) -> Result<Duration> {
        let seconds = self.seconds.unwrap_or(if self.quick { 5.0 } else { 10.0 });
        Duration::try_from_secs_f64(seconds).context("--seconds")
    }
}

/// Measures the cells and prints what they came to.
///
/// # Errors
/// When an option makes no sense or the JSON file cannot be written. A cell
/// that fails is reported as void.
pub fn run(args: &Args) -> Result<()> {
    let cells = args.cells()?;
    let save = |outcomes: &[Outcome]| match &args.json {
        Some(path) => write(path, outcomes),
        None => Ok(()),
    };
    let least = args.least()?;
    let jobs = args.jobs.max(1);
    let minutes = schedule::estimate(&cells, least, jobs).as_secs_f64() / 60.0;
    eprintln!("{} cells, about {minutes:.0} minutes", cells.len());
    let outcomes = schedule::run(&cells, least, jobs, save)?;
    print(&outcomes);
    Ok(())
}

fn write(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let text = serde_json::to_vec_pretty(&serde_json::json!({
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpus": std::thread::available_parallelism()?,
        "cells": outcomes,
    }))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn print(outcomes: &[Outcome]) {
    let mut groups: Vec<(Limiter, Direction)> = Vec::new();
    for outcome in outcomes {
        let group = (outcome.cell.limiter, outcome.cell.conditions.direction);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    print!("{}", table::LEGEND);
    for &(limiter, direction) in &groups {
        let of: Vec<&Outcome> = outcomes
            .iter()
            .filter(|o| (o.cell.limiter, o.cell.conditions.direction) == (limiter, direction))
            .collect();
        print!("{}", table::cells(limiter, direction, &of));
    }
    for &(limiter, direction) in &groups {
        print!("{}", summary::worst(outcomes, limiter, direction));
    }
    for direction in [Direction::Upload, Direction::Download] {
        print!("{}", summary::comparison(outcomes, direction));
    }
    if groups.iter().any(|(limiter, _)| *limiter == Limiter::Ours) {
        print!("{}", summary::failing(outcomes));
    }
    print!("{}", summary::void(outcomes));
}
