//! The packet tests, a program of their own beside this one.

use super::Report;
use crate::process;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Where the packet tests are: built as a test, so not beside the binaries.
const ENV: &str = "SHAPER_PACKETS";

/// Runs them all, each a check of its own.
pub fn run(report: &mut Report) {
    let mut output = String::new();
    report.check("packet_tests_run", || {
        output = run_tests()?;
        Ok(())
    });
    for (name, passed) in output.lines().filter_map(result) {
        report.check(&format!("packets::{name}"), || {
            ensure!(passed, "see the test's own report above");
            Ok(())
        });
    }
}

fn run_tests() -> Result<String> {
    let program = std::env::var_os(ENV).with_context(|| format!("{ENV} does not say where"))?;
    let mut command = Command::new(program);
    command
        .arg("--color=never")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let output = process::spawn(command)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        println!("{text}");
    }
    let count = text.lines().filter_map(result).count();
    // A program that crashed has counted nothing, or not all.
    ensure!(
        count > 0 && text.contains("test result: "),
        "{}, {count} results",
        output.status
    );
    Ok(text)
}

/// The name and the outcome in a line such as `test a_name    ... ok`.
fn result(line: &str) -> Option<(&str, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    match outcome.trim() {
        "ok" => Some((name.trim(), true)),
        "FAILED" => Some((name.trim(), false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_tests_only() {
        assert_eq!(result("test a_name        ... ok"), Some(("a_name", true)));
        assert_eq!(result("test b ... FAILED"), Some(("b", false)));
        for line in [
            "",
            "running 41 tests",
            "test result: ok. 1 passed",
            "a ... ok",
        ] {
            assert_eq!(result(line), None, "{line}");
        }
    }
}
