//! `shaper-demo`, as `cargo xtask demo` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use shaper_tests::demo::{Options, run};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows shaper doing its job on real WebSocket traffic through a real HAProxy,
/// in network namespaces that are gone afterwards. Exit status 1 when a claim
/// does not hold.
#[derive(Parser)]
#[command(name = "shaper-demo")]
struct Arguments {
    /// How long each of the three phases is measured.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Only the report, no dashboard.
    #[arg(long)]
    plain: bool,
    /// Draw the dashboard as it looked in the limited phase.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces and BPF need root: run it with sudo"
    );
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let held = run(&Options {
        seconds: arguments.seconds,
        plain: arguments.plain || !terminal,
        svg: arguments.svg,
    })?;
    Ok(ExitCode::from(u8::from(!held)))
}
