//! `shaper-package`, as `cargo xtask dist --test` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use shaper_tests::package::{Options, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Installs the Debian package in a clean Debian under systemd, by the README's own
/// commands, holds a real flow, upgrades, removes and purges; what is left then
/// fails it. In namespaces that are gone afterwards.
#[derive(Parser)]
#[command(name = "shaper-package")]
struct Arguments {
    /// The package.
    #[arg(long, value_name = "FILE")]
    package: PathBuf,
    /// The same, of a newer version.
    #[arg(long, value_name = "FILE")]
    newer: PathBuf,
    /// Whose commands install it.
    #[arg(long, value_name = "FILE")]
    readme: PathBuf,
    /// Where the clean Debian is kept for the next run.
    #[arg(long, value_name = "DIRECTORY")]
    cache: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "namespaces and mounts need root: run it with sudo"
    );
    let counts = run(&Options {
        package: arguments.package,
        newer: arguments.newer,
        readme: arguments.readme,
        cache: arguments.cache,
    })?;
    println!("\n{counts}");
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
