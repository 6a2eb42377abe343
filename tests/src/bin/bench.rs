//! `shaper-bench NAME`: benchmarks that print ratios; run by `cargo xtask bench`.

use anyhow::Result;
use clap::{Parser, Subcommand};

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
}

fn main() -> Result<()> {
    match Args::parse().bench {
        Bench::Cost => shaper_tests::bench::cost(),
        Bench::Sampling => shaper_tests::bench::sampling(),
    }
}
