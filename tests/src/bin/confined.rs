//! Executes a program as its unit has it: `shaper-confined --unit FILE
//! [--writable DIRECTORY]… -- PROGRAM …`. For the tests.

use anyhow::{Result, bail};
use clap::Parser;
use shaper_tests::confined::{Unit, confine};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

/// Executes a program under the capabilities and the sandbox of a systemd unit.
#[derive(Parser)]
struct Args {
    /// The unit, and its drop-ins
    #[arg(long, required = true)]
    unit: Vec<PathBuf>,
    /// A directory that stays writable beside the unit's
    #[arg(long)]
    writable: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let unit = Unit::read(&args.unit)?;
    confine(&unit, &args.writable)?;
    let Some((program, arguments)) = args.program.split_first() else {
        bail!("no program");
    };
    Err(Command::new(program).args(arguments).exec().into())
}
