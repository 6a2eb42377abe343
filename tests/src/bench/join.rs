//! What the join costs with many open WebSockets: how long HAProxy is held by
//! our questions, and the daemon's CPU, each with and without the join, in
//! turns on the same connections.

mod measure;
mod report;

use crate::haproxy::{self, Installed};
use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::path::PathBuf;

/// Descriptors of a process that are none of a WebSocket's.
const SPARE: u64 = 150;

/// Options of `join`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// WebSockets, idle but for a few
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=25_000))]
    connections: u32,
    /// How long each case is measured, over all rounds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// In how many turns
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How often our daemon asks HAProxy
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    poll: u64,
    /// The HAProxy to run; default: SHAPER_HAPROXY, else the newest here
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it and prints the table.
///
/// # Errors
/// When something could not be set up, or broke.
pub fn run(args: &Args) -> Result<()> {
    let haproxy: Installed = haproxy::choose(args.haproxy.as_deref())?;
    let connections = allowed(args.connections)?;
    eprintln!(
        "join: {haproxy}, {connections} WebSockets, about {} minutes",
        (2 * args.seconds + 30).div_ceil(60)
    );
    let cases = measure::run(args, &haproxy, connections)?;
    report::print(args, &haproxy, connections, &cases)
}

/// As many as asked for, or as this system lets a process have: two files each,
/// in HAProxy and here, where both ends of the others are.
fn allowed(wanted: u32) -> Result<u32> {
    let needed = u64::from(wanted) * 2 + SPARE;
    let (_, mut hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_ok() {
        hard = needed;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let most = u32::try_from(hard.saturating_sub(SPARE) / 2).unwrap_or(u32::MAX);
    ensure!(most > 0, "{hard} files are too few");
    if most < wanted {
        eprintln!(
            "join: a process may have {hard} files here and no more: {most} WebSockets, not {wanted}"
        );
    }
    Ok(most.min(wanted))
}
