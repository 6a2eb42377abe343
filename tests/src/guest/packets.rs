//! The packet tests, a program of their own beside this one.

use super::{Form, Report};
use crate::process;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Where the packet tests are: built as a test, so not beside the binaries.
const ENV: &str = "SHAPER_PACKETS";

/// Parts of the names of tests that the short form leaves out: those of very many
/// packets, and those whose tables have sizes of their own, for which the
/// verifier runs again.
const AT_LENGTH: [&str; 6] = [
    "several_cpus",
    "a_flood",
    "mutated_packets",
    "truncated_at_every_byte",
    "without_room",
    "without_any_room",
];

/// Runs them, each a check of its own.
pub fn run(report: &mut Report) {
    let (mut passed, mut failed, mut left_out) = (0, 0, 0);
    let run = run_tests(report.form, |name, outcome| match outcome {
        Outcome::Ignored => {
            left_out += 1;
            Report::left_out(&format!("packets::{name}"));
        }
        Outcome::Passed => {
            passed += 1;
            report.check(&format!("packets::{name}"), || Ok(()));
        }
        Outcome::Failed => {
            failed += 1;
            report.check(&format!("packets::{name}"), || {
                anyhow::bail!("see the test's own report below")
            });
        }
    });
    report.check("packet_tests_run", || run);
    let mut counts = format!("{passed} passed, {left_out} skipped");
    if failed > 0 {
        counts += &format!(", {failed} failed");
    }
    report.fact("packets", counts);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Ignored,
}

fn is_left_out(form: Form, name: &str) -> bool {
    form == Form::Short && AT_LENGTH.iter().any(|part| name.contains(part))
}

fn run_tests(form: Form, mut see: impl FnMut(&str, Outcome)) -> Result<()> {
    let program = std::env::var_os(ENV).with_context(|| format!("{ENV} does not say where"))?;
    let mut list = Command::new(&program);
    list.arg("--list");
    let list = process::output(list)?;
    let list = String::from_utf8_lossy(&list.stdout);
    let names: Vec<_> = list.lines().filter_map(listed).collect();
    ensure!(!names.is_empty(), "there are no tests: {list}");
    let mut command = Command::new(&program);
    command.arg("--color=never");
    let mut expected = 0;
    for name in names {
        if is_left_out(form, name) {
            see(name, Outcome::Ignored);
            command.args(["--skip", name]);
        } else {
            expected += 1;
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = process::spawn(command)?;
    let output = child.stdout.take().context("no output")?;
    let mut count = 0;
    for line in BufReader::new(output).lines() {
        let line = line?;
        match result(&line) {
            Some((name, outcome)) => {
                count += 1;
                see(name, outcome);
            }
            None => println!("{line}"),
        }
    }
    let status = child.wait()?;
    // A program that crashed has counted nothing, or not all.
    ensure!(
        count == expected,
        "{status}, {count} results of {expected} tests"
    );
    Ok(())
}

/// The name in a line of `--list`, such as `a_name: test`.
fn listed(line: &str) -> Option<&str> {
    line.strip_suffix(": test")
}

/// The name and the outcome in a line such as `test a_name    ... ok`.
fn result(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match outcome.trim() {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    Some((name.trim(), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_tests_only() {
        for (line, name, outcome) in [
            ("test a_name        ... ok", "a_name", Outcome::Passed),
            ("test b ... FAILED", "b", Outcome::Failed),
            ("test c ... ignored", "c", Outcome::Ignored),
        ] {
            assert_eq!(result(line), Some((name, outcome)));
        }
        for line in [
            "",
            "running 41 tests",
            "test result: ok. 1 passed",
            "a ... ok",
        ] {
            assert_eq!(result(line), None, "{line}");
        }
        assert_eq!(listed("a_name: test"), Some("a_name"));
        assert_eq!(listed("running 41 tests"), None);
    }

    #[test]
    fn only_the_short_form_leaves_tests_out() {
        assert!(is_left_out(Form::Short, "a_flood_of_udp"));
        assert!(!is_left_out(Form::Short, "random_bytes_pass"));
        assert!(!is_left_out(Form::Whole, "a_flood_of_udp"));
    }
}
