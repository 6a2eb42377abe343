//! `shaper-guest`: the checks of `cargo xtask vm-test`, inside the virtual
//! machine. Anywhere else it needs root and does the same on that kernel.

use clap::Parser;
use shaper_tests::guest::{self, Form};
use std::process::ExitCode;

/// Checks shaper on this kernel.
#[derive(Parser)]
struct Args {
    /// Leave out what takes long, and say what that is
    #[arg(long)]
    short: bool,
}

fn main() -> ExitCode {
    let form = if Args::parse().short {
        Form::Short
    } else {
        Form::Whole
    };
    if guest::run(form) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
