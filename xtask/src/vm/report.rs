//! What the guest said, held against what the kernel is documented to do.

use super::expect::Kernel;
use super::qemu::Run;
use crate::results::Counts;
use std::collections::BTreeMap;

/// In front of each line of the guest; kernel messages are on the console too.
const MARK: &str = "vm-test:";
/// Lines of the console that a failure shows.
const TAIL: usize = 80;

/// A line of the guest.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Ok,
    Failed,
    Fact(&'a str, &'a str),
    End,
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (_, line) = line.split_once(MARK)?;
    let line = line.trim();
    if let Some(fact) = line.strip_prefix("fact ") {
        let (key, value) = fact.split_once(": ")?;
        return Some(Line::Fact(key, value));
    }
    match line.split(' ').next()? {
        "ok" => Some(Line::Ok),
        "FAILED" => Some(Line::Failed),
        "end" => Some(Line::End),
        _ => None,
    }
}

/// Prints a line of the console that is for people.
pub fn show(line: &str) {
    if let Some((_, line)) = line.split_once(MARK) {
        println!("{}", line.trim());
    }
}

impl Run {
    /// The end of the console.
    pub fn tail(&self) -> String {
        let from = self.lines.len().saturating_sub(TAIL);
        self.lines.get(from..).unwrap_or_default().join("\n")
    }
}

/// One kernel's run.
pub struct Report {
    counts: Counts,
    facts: BTreeMap<String, String>,
}

impl Report {
    /// Counts checks and facts, and prints the facts that are wrong.
    pub fn new(run: &Run, kernel: &Kernel) -> Self {
        let mut counts = Counts::default();
        let mut facts = BTreeMap::new();
        let mut ended = false;
        for line in run.lines.iter().filter_map(|line| parse(line)) {
            match line {
                Line::Ok => counts += Counts::PASSED,
                Line::Failed => counts += Counts::FAILED,
                Line::Fact(key, value) => {
                    facts.insert(key.to_owned(), value.to_owned());
                }
                Line::End => ended = true,
            }
        }
        if !ended {
            let why = run.ended.as_deref().unwrap_or("it ended early");
            println!("FAILED the run was not finished: {why}");
            counts += Counts::FAILED;
        }
        for (key, is) in kernel.expect {
            match is.wrong(facts.get(*key).map(String::as_str)) {
                None => counts += Counts::PASSED,
                Some(why) => {
                    println!("FAILED {key} is not as documented: {why}");
                    counts += Counts::FAILED;
                }
            }
        }
        Self { counts, facts }
    }

    /// How many checks and facts held.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A row of the table.
    pub fn row(&self, release: &str) -> String {
        let fact = |key: &str| self.facts.get(key).map_or("?", String::as_str);
        if fact("programs") == "refused" {
            return row(release, "refuses the programs; the daemon says so and ends");
        }
        let by = |way: &str, how: &'static str| match fact(way) {
            "true" => how,
            "false" => "hard limit",
            _ => "?",
        };
        format!(
            "| {release} | {} | {}: {} | {}: {} | {}, {} | {} |",
            fact("ingress"),
            by("backpressure.upload", "window"),
            fact("upload"),
            by("backpressure.download", "pacing"),
            fact("download"),
            by("adopted.upload", "window"),
            by("adopted.download", "pacing"),
            fact("reason"),
        )
    }
}

/// A row for a kernel without a run.
pub fn row(kernel: &str, why: &str) -> String {
    format!("| {kernel} | {why} | | | | |")
}

/// The table for people, and for the README.
pub fn table(rows: &[String]) -> String {
    format!(
        "| kernel | TC hook | upload of 8 mbit | download of 8 mbit | opened before | missing |\n\
         | --- | --- | --- | --- | --- | --- |\n{}",
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::super::expect::Is;
    use super::*;

    const KERNEL: Kernel = Kernel {
        name: "test",
        suites: &["none"],
        expect: &[
            ("programs", Is::Exactly("loaded")),
            ("ingress", Is::Exactly("tcx")),
        ],
    };

    fn report(lines: &[&str]) -> Report {
        let run = Run {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ended: None,
        };
        Report::new(&run, &KERNEL)
    }

    #[test]
    fn lines_of_the_guest_are_found_behind_kernel_messages() {
        assert_eq!(parse("vm-test: ok a_check"), Some(Line::Ok));
        assert_eq!(
            parse("[ 3.1] veth: x vm-test: FAILED a_check: why"),
            Some(Line::Failed)
        );
        assert_eq!(
            parse("vm-test: fact reason: a: b"),
            Some(Line::Fact("reason", "a: b"))
        );
        assert_eq!(parse("vm-test: end"), Some(Line::End));
        for line in ["", "ok a_check", "vm-test: init", "vm-test: okay"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_whole_run_counts_checks_and_facts() {
        let report = report(&[
            "vm-test: init",
            "vm-test: fact programs: loaded",
            "vm-test: fact ingress: tcx",
            "vm-test: ok a",
            "vm-test: end",
        ]);
        assert_eq!(report.counts().to_string(), "3 passed, 0 failed, 0 skipped");
        assert!(report.row("9.9").starts_with("| 9.9 | tcx | "));
    }

    #[test]
    fn a_run_that_broke_off_or_is_not_as_documented_fails() {
        let broke_off = report(&["vm-test: fact programs: loaded", "vm-test: ok a"]);
        assert_eq!(broke_off.counts().failed, 2, "no end, no ingress");
        let other = report(&[
            "vm-test: fact programs: refused",
            "vm-test: fact ingress: tcx",
            "vm-test: FAILED a: why",
            "vm-test: end",
        ]);
        assert_eq!(other.counts().to_string(), "1 passed, 2 failed, 0 skipped");
        assert!(other.row("9.9").contains("refuses"));
    }
}
