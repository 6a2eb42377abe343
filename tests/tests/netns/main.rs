//! The daemon on a real kernel: one test a promise.
//!
//! Without root everything is ignored and the run says so, and so is a test that
//! finds that it cannot run here ([`NotRun`]). `SHAPER_BIN` names another binary
//! than the one that cargo built.

mod attach;
mod backpressure;
mod confined;
mod connections;
mod counting;
mod full;
mod groups;
mod history;
mod interfaces;
mod join;
mod kill_points;
mod letting_go;
mod lifecycle;
mod limits;
mod links;
mod nginx;
mod quotas;
mod rights;
mod rude;
mod runtime;
mod shield;
mod telling;
mod tools;
mod upgrade;
mod versions;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::fmt;

type Test = (&'static str, fn() -> Result<()>);

/// The error of a test that cannot run here, and why: it counts as ignored.
#[derive(Debug)]
struct NotRun(&'static str);

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotRun {}

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
        nginx::TESTS,
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
        telling::TESTS,
        confined::TESTS,
        kill_points::TESTS,
        upgrade::TESTS,
        versions::TESTS,
    ]
    .into_iter()
    .flatten()
    .map(|(name, test)| Trial::ignorable_test(*name, || twice(name, test)).with_ignored_flag(!root))
    .chain(join::trials(root))
    .chain(join::through_one(quotas::TESTS, root))
    .chain(join::through_one(history::TESTS, root))
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Once more after a failure, and says so: these tests measure real traffic, and
/// the machine they share may stand still for a second. What fails twice fails.
fn twice(name: &str, test: &dyn Fn() -> Result<()>) -> Result<Completion, Failed> {
    report(name, test).or_else(|failed| {
        let why = failed.message().unwrap_or("it panicked");
        println!("TRIED AGAIN: {name} failed: {why}");
        report(name, test)
    })
}

fn report(name: &str, test: &dyn Fn() -> Result<()>) -> Result<Completion, Failed> {
    let Err(error) = test() else {
        return Ok(Completion::Completed);
    };
    if let Some(why) = error.downcast_ref::<NotRun>() {
        eprintln!("NOT RUN: {name}: {why}");
        return Ok(Completion::ignored_with(why));
    }
    let log = shaper_tests::shaper::last_log();
    Err(Failed::from(format!("{error:#}\nthe daemon's log:\n{log}")))
}
