//! The `shaper` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    shaper_user::cli::main()
}
