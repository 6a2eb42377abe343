//! `bench`: the benchmarks of the tests crate.

use crate::{haproxy3, setup, sh};
use anyhow::Result;
use std::convert::Infallible;
use std::process::Command;

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Which one: `cost` (ns per packet of the TC program, beside an empty one),
    /// `sampling` (reading and ranking 100,000 flows), `conformance` (what limits do
    /// to real TCP, beside other limiters), `isolation` (latency of light WebSockets
    /// beside a heavy one), `proxy-cost` (CPU of HAProxy and the kernel for 100
    /// throttled WebSockets), `balance` (load of two servers with leastconn alone and
    /// with our agent), `join` (what asking HAProxy costs with 10,000 WebSockets) or
    /// `flood` (what floods from a million sources cost, and what becomes of open
    /// connections)
    name: String,
    /// Options of that benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds one benchmark and becomes it.
pub fn run(args: &Args) -> Result<Infallible> {
    sh::need_root("bench")?;
    if matches!(
        args.name.as_str(),
        "conformance" | "isolation" | "proxy-cost" | "balance" | "join"
    ) {
        setup::incumbents()?;
        if std::env::var_os("SHAPER_HAPROXY").is_none()
            && let Err(error) = haproxy3::install()
        {
            // The benchmark runs on the system's and says what it could not measure.
            eprintln!("bench: {error:#}");
        }
    }
    sh::run(&mut sh::cargo([
        "build",
        "--release",
        "--package=shaper-user",
        "--package=shaper-tests",
        "--bin=shaper",
        "--bin=shaper-bench",
    ])?)?;
    let mut bench = Command::new(sh::release_bin("shaper-bench")?);
    bench
        .env("SHAPER_BIN", sh::release_bin("shaper")?)
        .arg(&args.name)
        .args(&args.rest);
    Err(sh::exec(&mut bench))
}
