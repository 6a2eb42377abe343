//! `shaper-guest`: the checks of `cargo xtask vm-test`, inside the virtual
//! machine. Anywhere else it needs root and does the same on that kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    if shaper_tests::guest::run() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
