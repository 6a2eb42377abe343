//! The daemon on a real kernel: one test a promise.
//!
//! Without root everything is ignored and the run says so. `SHAPER_BIN` names
//! another binary than the one that cargo built.

mod attach;
mod backpressure;
mod confined;
mod connections;
mod counting;
mod full;
mod groups;
mod interfaces;
mod join;
mod kill_points;
mod letting_go;
mod lifecycle;
mod limits;
mod links;
mod quotas;
mod rights;
mod rude;
mod runtime;
mod shield;
mod tools;
mod upgrade;
mod versions;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

type Test = (&'static str, fn() -> Result<()>);

fn main() {
    let mut arguments = Arguments::from_args();
    // They measure rates: one at a time.
    arguments.test_threads = Some(1);
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT RUN: these tests need root (network namespaces, BPF); all are ignored");
    }
    let trials = [
        attach::TESTS,
        counting::TESTS,
        limits::TESTS,
        full::TESTS,
        groups::TESTS,
        backpressure::TESTS,
        letting_go::TESTS,
        rude::TESTS,
        runtime::TESTS,
        rights::TESTS,
        interfaces::TESTS,
        links::TESTS,
        shield::TESTS,
        connections::TESTS,
        lifecycle::TESTS,
        confined::TESTS,
        kill_points::TESTS,
        upgrade::TESTS,
        versions::TESTS,
    ]
    .into_iter()
    .flatten()
    .map(|(name, test)| Trial::test(*name, || twice(name, test)).with_ignored_flag(!root))
    .chain(join::trials(root))
    .chain(quotas::trials(root))
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Once more after a failure, and says so: these tests measure real traffic, and
/// the machine they share may stand still for a second. What fails twice fails.
fn twice(name: &str, test: &dyn Fn() -> Result<()>) -> Result<(), Failed> {
    report(test).or_else(|failed| {
        let why = failed.message().unwrap_or("it panicked");
        println!("TRIED AGAIN: {name} failed: {why}");
        report(test)
    })
}

fn report(test: &dyn Fn() -> Result<()>) -> Result<(), Failed> {
    test().map_err(|error| {
        let log = shaper_tests::shaper::last_log();
        Failed::from(format!("{error:#}\nthe daemon's log:\n{log}"))
    })
}
