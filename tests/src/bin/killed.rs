//! `shaper`, but it kills itself behind a step of `SHAPER_TEST_KILL_AT`, counted
//! from 1 since the file `SHAPER_TEST_STEPS` is there. To that file it adds a line
//! for each step, and before it dies what it holds in the kernel.

use nix::sys::signal::{Signal, raise};
use shaper_tests::killed::{HELD, Held, KILL_AT, STEPS};
use shaper_user::steps::{self, Step};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

static PASSED: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    steps::watch(|step| {
        if let Err(error) = pass(step) {
            eprintln!("the step {step:?} was not noted: {error}");
        }
    });
    shaper_user::cli::main()
}

fn pass(step: Step) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(STEPS) else {
        return Ok(());
    };
    // Not there: not asked for yet.
    let Ok(mut steps) = OpenOptions::new().append(true).open(path) else {
        return Ok(());
    };
    let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    writeln!(steps, "{}", shaper_tests::killed::name(step))?;
    let at: Option<usize> = std::env::var(KILL_AT).ok().and_then(|at| at.parse().ok());
    if at == Some(passed) {
        writeln!(steps, "{HELD}{}", serde_json::to_string(&Held::now()?)?)?;
        raise(Signal::SIGKILL)?;
    }
    Ok(())
}
