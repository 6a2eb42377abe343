//! What other programs say of what is installed: systemd of the unit, Prometheus'
//! promtool of metrics and alerts. Counts as ignored where such a program is missing.

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

type Test = (&'static str, fn() -> Result<(), Wrong>);

const TESTS: [Test; 3] = [
    ("systemd_rates_the_unit_below_two", rating),
    ("promtool_finds_nothing_wrong_with_the_metrics", metrics),
    ("promtool_finds_nothing_wrong_with_the_alerts", alerts),
];

fn main() {
    let arguments = Arguments::from_args();
    let trials = TESTS.map(|(name, test)| {
        Trial::ignorable_test(name, move || match test() {
            Ok(()) => Ok(Completion::Completed),
            Err(Wrong::Missing(program)) => {
                let why = format!("{program} is not installed: as root, cargo xtask setup");
                eprintln!("NOT RUN: {name}: {why}");
                Ok(Completion::ignored_with(why))
            }
            Err(Wrong::Said(text)) => Err(Failed::from(text)),
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}

/// Why a test did not pass.
enum Wrong {
    /// There is no such program.
    Missing(&'static str),
    Said(String),
}

/// Whether a program was content with its input, and what it said.
fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(bool, String), Wrong> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let said = |error: std::io::Error| Wrong::Said(format!("{program}: {error}"));
    let mut child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Wrong::Missing(program),
        _ => said(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who reads no input may have ended.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(said)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok((output.status.success(), text))
}

fn ensure(holds: bool, said: String) -> Result<(), Wrong> {
    if holds {
        Ok(())
    } else {
        Err(Wrong::Said(said))
    }
}

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn rating() -> Result<(), Wrong> {
    let unit = repository("packaging/shaper.service").display().to_string();
    let arguments = ["security", "--offline=true", "--threshold=19", &unit];
    let (content, said) = run("systemd-analyze", &arguments, "")?;
    let rated = said.contains("Overall exposure level");
    ensure(content && rated, said)
}

/// The metrics are those of the snapshot, behind its two lines of dashes.
fn metrics() -> Result<(), Wrong> {
    let snapshot =
        include_str!("../src/metrics/snapshots/shaper_user__metrics__tests__prometheus.snap");
    let text = snapshot.splitn(3, "---\n").nth(2).unwrap_or_default();
    let text = format!("{}\n", text.trim_end());
    let (content, said) = run("promtool", &["check", "metrics"], &text)?;
    ensure(content && said.is_empty(), said)?;
    // It does find something.
    let wrong = text.replace("shaper_samples_total", "shaper_samples");
    let (content, said) = run("promtool", &["check", "metrics"], &wrong)?;
    ensure(!content && said.contains("shaper_samples"), said)
}

fn alerts() -> Result<(), Wrong> {
    let path = |file| repository(file).display().to_string();
    let rules = path("packaging/alerts.yml");
    let (content, said) = run("promtool", &["check", "rules", &rules], "")?;
    ensure(content && said.contains("SUCCESS"), said)?;
    let tests = path("shaper-user/tests/alerts/alerts_test.yml");
    let (content, said) = run("promtool", &["test", "rules", &tests], "")?;
    ensure(content, said)
}
