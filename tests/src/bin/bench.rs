//! `shaper-bench NAME`: benchmarks that print ratios; run by `cargo xtask bench`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use shaper_tests::bench::{balance, conformance, flood, isolation, join, proxy_cost};

#[derive(Parser)]
#[command(about = "Benchmarks: each runs what it compares side by side, in one run")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Time of the TC programs for one packet, beside an empty program
    Cost,
    /// Time to read 100,000 flows, and the daemon's work on them
    Sampling,
    /// What keeping the history costs with 10,000 flows
    History,
    /// Goodput, loss and fairness of limits over real TCP, beside other limiters
    Conformance(conformance::Args),
    /// Latency of light WebSockets through HAProxy while a heavy one uploads
    Isolation(isolation::Args),
    /// CPU of HAProxy and the kernel for 100 throttled WebSockets
    ProxyCost(proxy_cost::Args),
    /// Load of two servers by bytes, with leastconn alone and with our agent
    Balance(balance::Args),
    /// How long HAProxy is held, and the daemon's CPU, with 10,000 WebSockets
    Join(join::Args),
    /// What floods from a million sources cost, and what becomes of open connections
    Flood(flood::Args),
}

fn main() -> Result<()> {
    match Args::parse().bench {
        Bench::Cost => shaper_tests::bench::cost(),
        Bench::Sampling => shaper_tests::bench::sampling(),
        Bench::History => shaper_tests::bench::history(),
        Bench::Conformance(args) => conformance::run(&args),
        Bench::Isolation(args) => isolation::run(&args),
        Bench::ProxyCost(args) => proxy_cost::run(&args),
        Bench::Balance(args) => balance::run(&args),
        Bench::Join(args) => join::run(&args),
        Bench::Flood(args) => flood::run(&args),
    }
}
