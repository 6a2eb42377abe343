//! Development commands: `cargo xtask …`.

mod bench;
mod debian;
mod demo;
mod deny;
mod dist;
mod ebpf;
mod fuzz;
mod haproxy3;
mod manifest;
mod object_file;
mod results;
mod setup;
mod sh;
mod soak;
mod test;
mod toolchain;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, tests and shows shaper.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what the other commands need and is missing
    Setup(setup::Args),
    /// Builds the kernel programs into shaper-ebpf/dist
    BuildEbpf(ebpf::Args),
    /// Shows shaper on real traffic: HAProxy, WebSockets, a 20 ms round trip
    Demo(demo::Args),
    /// Checks format and lints, runs every test, counts the results
    Test(test::Args),
    /// Builds the Debian package and the tarball into target/dist
    Dist(dist::Args),
    /// Checks licences, sources and known holes of all that is built in
    Deny,
    /// Makes up inputs for every parser, and keeps those that break one
    Fuzz(fuzz::Args),
    /// Runs a benchmark, e.g. `bench cost`
    Bench(bench::Args),
    /// Churn, chaos and kills for minutes: nothing may be lost or grow
    Soak(soak::Args),
    /// Runs shaper on Debian's kernels in virtual machines
    VmTest(vm::Args),
}

fn main() -> ExitCode {
    // cargo calls this program in the place of rustc while it builds the object.
    if std::env::var_os(ebpf::WRAPPER_ENV).is_some() {
        return ebpf::rustc_wrapper();
    }
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf(args) => ebpf::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args).map(|never| match never {}),
        Command::Test(args) => test::run(&args),
        Command::Dist(args) => dist::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Deny => deny::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::VmTest(args) => vm::run(&args),
        Command::Bench(args) => bench::run(&args).map(|never| match never {}),
        Command::Soak(args) => soak::run(&args).map(|never| match never {}),
    }
}
