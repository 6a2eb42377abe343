//! `shaper-soak`, as `cargo xtask soak` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use shaper_tests::soak::{Options, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Connections by the thousand, limits and policies changed at random, the daemon
/// killed at random, HAProxy reloaded; checks throughout and at the end that
/// nothing was lost and nothing grows. In network namespaces that are gone
/// afterwards. Exit status 1 when a check failed.
#[derive(Parser)]
#[command(name = "shaper-soak")]
struct Arguments {
    /// How long connections come and go; the checks at the end take two more.
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// What happens, and in which order; without it another one each time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Connections opened and closed a second.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rate: u32,
    /// Also write the report to a file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces and BPF need root: run it with sudo"
    );
    ensure!(
        arguments.minutes > 0.0 && arguments.minutes.is_finite(),
        "--minutes: expected a positive number"
    );
    let held = run(&Options {
        minutes: arguments.minutes,
        seed: arguments
            .seed
            .unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
        rate: arguments.rate.max(1),
        report: arguments.report,
    })?;
    Ok(ExitCode::from(u8::from(!held)))
}
