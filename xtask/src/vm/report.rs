//! What the guest said, held against what the kernel is documented to do.

use super::expect::Kernel;
use super::qemu::Run;
use crate::results::Counts;
use std::collections::BTreeMap;
use std::time::Duration;

/// In front of each line of the guest; kernel messages are on the console too.
const MARK: &str = "vm-test:";
/// Lines of the console that a failure shows.
const TAIL: usize = 80;

/// A line of the guest.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Ok,
    Failed,
    LeftOut,
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
        "left-out" => Some(Line::LeftOut),
        "end" => Some(Line::End),
        _ => None,
    }
}

/// Prints a line of the console that is for people, and when it came.
pub fn show(line: &str, ran: Duration) {
    if let Some((_, line)) = line.split_once(MARK) {
        println!("[{ran:4.0?}] {}", line.trim());
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
                Line::LeftOut => counts += Counts::SKIPPED,
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
        if self.fact("programs") == "refused" {
            return row(release, &format!("refused: {}", self.fact("refusal")));
        }
        let cells = [
            release.to_owned(),
            self.hooks(),
            self.verified(),
            self.backpressure(),
            self.fallback(),
            self.fact("packets").to_owned(),
            self.fact("upload").to_owned(),
            self.fact("download").to_owned(),
            self.fact("fq").to_owned(),
            self.fact("detach").to_owned(),
        ];
        format!("| {} |", cells.join(" | "))
    }

    fn fact(&self, key: &str) -> &str {
        self.facts.get(key).map_or("?", String::as_str)
    }

    fn hooks(&self) -> String {
        let (ingress, egress) = (self.fact("ingress"), self.fact("egress"));
        let tc = if ingress == egress {
            ingress.to_owned()
        } else {
            format!("{ingress} and {egress}")
        };
        let mut hooks = vec![tc, "sock_ops".to_owned()];
        if self.fact("iterators") == "loaded" {
            hooks.push("iter/tcp".to_owned());
        }
        if let Some(mode) = self.facts.get("xdp") {
            hooks.push(format!("XDP {mode}"));
        }
        hooks.join(", ")
    }

    /// What the verifier looked at: of the largest program, and of all.
    fn verified(&self) -> String {
        let counts = || {
            self.facts.iter().filter_map(|(key, count)| {
                Some((key.strip_prefix(VERIFIED)?, count.parse::<u64>().ok()?))
            })
        };
        let all: u64 = counts().map(|(_, count)| count).sum();
        match counts().max_by_key(|(_, count)| *count) {
            Some((name, most)) => format!("{} ({most} of them {name})", all),
            None => "?".to_owned(),
        }
    }

    fn backpressure(&self) -> String {
        let ways = [
            ("backpressure.upload", "window"),
            ("window_updates", "window updates"),
            ("backpressure.download", "pacing"),
            ("adopted.upload", "window of connections opened before"),
            ("adopted.download", "pacing of connections opened before"),
        ];
        let works = ways.iter().filter(|(key, _)| self.fact(key) == "true");
        let works: Vec<_> = works.map(|(_, what)| *what).collect();
        works.join(", ")
    }

    fn fallback(&self) -> String {
        match self.fact("reason") {
            "none" => "none needed".to_owned(),
            reason => format!("hard limit: {reason}"),
        }
    }
}

/// A row for a kernel that ran nothing.
pub fn row(kernel: &str, why: &str) -> String {
    format!("| {kernel} | {why}{} |", " |".repeat(COLUMNS - 2))
}

/// In front of the names of programs, in the facts about them.
const VERIFIED: &str = "verified.";
const COLUMNS: usize = 10;

/// The table, as Markdown.
pub fn table(rows: &[String]) -> String {
    format!(
        "| kernel | hooks | instructions verified | backpressure | fallback | packet tests \
         | upload of 8 mbit | download of 8 mbit | fq | detach |\n\
         |{}\n{}\n",
        " --- |".repeat(COLUMNS),
        rows.join("\n")
    )
}

/// A file with the table and what it is about.
pub fn document(rows: &[String], counts: &Counts) -> String {
    format!(
        "# shaper on Debian's kernels\n\n\
         Written by `cargo xtask vm-test --report FILE`: {counts}. Each kernel was booted by QEMU without \
         KVM, with 2 CPUs and 1 GiB.\n\
         Limits were measured over a round trip of 20 ms (netem), at IP level, with one cubic flow each.\n\n\
         {}",
        table(rows)
    )
}

#[cfg(test)]
mod tests {
    use super::super::expect::Is;
    use super::*;

    const KERNEL: Kernel = Kernel {
        name: "test",
        suites: &["none"],
        minutes: 1,
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
        assert_eq!(parse("vm-test: left-out a_check"), Some(Line::LeftOut));
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
            "vm-test: left-out b",
            "vm-test: end",
        ]);
        assert_eq!(report.counts().to_string(), "3 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let ran = report(&[
            "vm-test: fact programs: loaded",
            "vm-test: fact verified.shaper_egress: 200",
            "vm-test: fact verified.shaper_shield: 30",
            "vm-test: fact iterators: loaded",
            "vm-test: fact ingress: clsact",
            "vm-test: fact egress: clsact",
            "vm-test: fact backpressure.upload: true",
            "vm-test: fact backpressure.download: true",
            "vm-test: fact adopted.download: false",
            "vm-test: fact reason: connections opened before are not paced",
        ]);
        let row_of_it = ran.row("9.9");
        for cell in [
            "| 9.9 | clsact, sock_ops, iter/tcp | 230 (200 of them shaper_egress) | window, pacing |",
            "| hard limit: connections opened before are not paced |",
        ] {
            assert!(row_of_it.contains(cell), "{row_of_it}");
        }
        let refused = report(&["vm-test: fact programs: refused"]);
        let rows = [row_of_it, refused.row("5.10"), row("1.0", "not to be had")];
        let text = document(&rows, &Counts::PASSED);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 2 + rows.len());
        for line in lines {
            assert_eq!(line.matches('|').count(), COLUMNS + 1, "{line}");
        }
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
