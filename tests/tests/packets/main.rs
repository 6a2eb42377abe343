//! Packets through `BPF_PROG_TEST_RUN`: what each program makes of each form of
//! headers, of what is broken, and of each limit.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; clippy's exemption for tests sees #[test] only"
)]

mod build;
mod concurrent;
mod full;
mod groups;
mod limits;
mod mutated;
mod parsing;
mod reuse;
mod shield;
mod switch;
mod window;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

type Test = fn() -> Result<()>;

fn main() {
    let mut arguments = Arguments::from_args();
    // One after the other, so that they use the same loaded programs.
    arguments.test_threads = Some(1);
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT RUN: loading kernel programs needs root; every packet test is skipped");
    }
    let trials = [
        reuse::TESTS,
        parsing::TESTS,
        limits::TESTS,
        shield::TESTS,
        switch::TESTS,
        full::TESTS,
        groups::TESTS,
        window::TESTS,
        concurrent::TESTS,
        mutated::TESTS,
    ]
    .concat()
    .into_iter()
    .map(|(name, test)| {
        Trial::test(name, move || {
            test().map_err(|e| Failed::from(format!("{e:?}")))
        })
        .with_ignored_flag(!root)
    })
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
