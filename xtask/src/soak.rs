//! `soak`: churn and chaos for minutes or hours, and whether anything was lost.

use crate::{setup, sh};
use anyhow::Result;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Command;

/// Options of `soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long connections come and go; the checks at the end take two more
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// What happens, and in which order; another one each time without it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Connections opened and closed a second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Also write the report to a file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Builds the daemon and the soak and becomes it; its exit status says whether
/// all checks held.
pub fn run(args: &Args) -> Result<Infallible> {
    sh::need_root("soak")?;
    setup::runtime()?;
    // One call, so that both share what they are built from.
    sh::run(&mut sh::cargo([
        "build",
        "--release",
        "--package=shaper-user",
        "--package=shaper-tests",
        "--bin=shaper",
        "--bin=shaper-soak",
    ])?)?;
    let mut soak = Command::new(sh::release_bin("shaper-soak")?);
    soak.env("SHAPER_BIN", sh::release_bin("shaper")?);
    if let Some(minutes) = args.minutes {
        soak.arg("--minutes").arg(minutes.to_string());
    }
    if let Some(seed) = args.seed {
        soak.arg("--seed").arg(seed.to_string());
    }
    if let Some(rate) = args.rate {
        soak.arg("--rate").arg(rate.to_string());
    }
    if let Some(report) = &args.report {
        soak.arg("--report").arg(report);
    }
    Err(sh::exec(&mut soak))
}
