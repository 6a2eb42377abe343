//! Reading the closing lines of test programs.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and held.
    pub passed: u64,
    /// Ran and did not hold.
    pub failed: u64,
    /// Did not run.
    pub skipped: u64,
}

impl Counts {
    /// One that passed.
    pub const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    /// One that failed.
    pub const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    /// One that was skipped.
    pub const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Whether something ran and nothing failed.
    pub fn good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The counts of a line such as `test result: ok. 3 passed; 0 failed; 1 ignored;
/// 0 measured; 2 filtered out`, as libtest and libtest-mimic print it; `None`
/// for every other line. A test that was filtered out was not asked for, so it
/// does not count.
pub fn parse(line: &str) -> Option<Counts> {
    let (_, fields) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let mut counts = Counts::default();
    let mut seen = false;
    for field in fields.split(';') {
        let Some((number, what)) = field.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.skipped = number,
            _ => continue,
        }
        seen = true;
    }
    seen.then_some(counts)
}

/// What a whole run of `cargo test` counts for: its lines, and one failure more
/// when it failed without a test that says so (it did not compile, it crashed).
pub fn of_run(lines: Counts, success: bool) -> Counts {
    let mut counts = lines;
    if !success && lines.failed == 0 {
        counts += Counts::FAILED;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libtest() {
        let line = "test result: ok. 24 passed; 0 failed; 3 ignored; 0 measured; 7 filtered out; \
                    finished in 0.31s";
        let counts = parse(line).unwrap();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (24, 0, 3));
    }

    #[test]
    fn reads_a_failed_run_of_libtest_mimic() {
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let counts = parse(line).unwrap();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 2, 0));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "",
            "running 3 tests",
            "test a::b ... ok",
            "test result: ok",
            "said: test result: ok. 1 passed; 0 failed",
            "test result: ok. nothing; of; the kind",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_crash_without_a_result_is_a_failure() {
        let lines = Counts {
            passed: 4,
            ..Counts::default()
        };
        assert_eq!(of_run(lines, true).failed, 0);
        assert_eq!(of_run(lines, false).failed, 1);
        assert_eq!(of_run(Counts::FAILED, false).failed, 1);
    }

    #[test]
    fn the_closing_line_and_the_verdict() {
        let mut counts = Counts::PASSED;
        counts += Counts::SKIPPED;
        assert_eq!(counts.to_string(), "1 passed, 0 failed, 1 skipped");
        assert!(counts.good());
        counts += Counts::FAILED;
        assert!(!counts.good());
        assert!(!Counts::SKIPPED.good(), "nothing ran");
    }
}
