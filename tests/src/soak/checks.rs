//! What must be so.

use std::fmt;
use std::time::Instant;

/// Failures that are told; the others are counted.
const TOLD: usize = 6;

macro_rules! checks {
    ($($name:ident: $text:literal,)+) => {
        /// Something that must be so, throughout or at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Check { $($name,)+ }

        const TEXTS: &[&str] = &[$($text,)+];
    };
}

checks! {
    Whole: "the soak ran to its end",
    Alive: "the daemon ended only when it was made to",
    Answers: "the daemon answered every question while it ran",
    Exit: "SIGTERM ended it with exit code 0",
    Starts: "it started again each time, and answered within 20 s",
    Objects: "after each start it had the same number of programs, maps and links",
    Second: "a second daemon was refused",
    Policy: "a policy was in force when its reload was answered",
    Refused: "what is invalid was refused and changed nothing",
    Runtime: "limits and blocks set at runtime held, over restarts too, and ended in time",
    Ports: "connections of a port that is watched again were found, and let go",
    Interface: "an interface that came again, or up again, was attached to",
    Reload: "HAProxy reloaded",
    Census: "while connections came and went: each flow an open socket, each open socket a flow",
    Sums: "the clients' connections were those of the flows",
    Kept: "clients and long connections kept their counters, over restarts too",
    Counters: "the kernel's counters only grew",
    Left: "clients that left were gone 75 s later (with UDP 135 s), and not before 55 s",
    LimitUp: "the heavy upload was held to its limit (average 85 to 102 %)",
    LimitDown: "the heavy download was held to its limit (average 85 to 102 %)",
    LimitMost: "no limit was exceeded by more than its burst and the window, daemon or not",
    Light: "the light WebSockets and the long connections never broke",
    LedgerUp: "upload: what was counted is what the interface received",
    LedgerDown: "download: what was counted is what the interface sent",
    Errors: "no table was full, no map could not be read, nothing internal failed",
    Flows: "at the end: flows are the open sockets, exactly",
    Clients: "at the end: clients are those with a connection, exactly",
    Memory: "the daemon's memory is flat",
    Descriptors: "the daemon's descriptors and threads are flat",
    Maps: "the maps take as much memory as at first",
    Log: "the log has no panic and no error",
    Detach: "after detach nothing was left",
}

#[derive(Clone, Debug, Default)]
struct Outcome {
    times: u64,
    failed: u64,
    told: Vec<String>,
    number: String,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    began: Instant,
    outcomes: Vec<Outcome>,
    /// Whether a check that never came about is a failure.
    whole: bool,
}

impl Checks {
    pub(super) fn new(whole: bool) -> Self {
        Self {
            began: Instant::now(),
            outcomes: vec![Outcome::default(); TEXTS.len()],
            whole,
        }
    }

    /// Looked once; `why` says what was wrong.
    pub(super) fn that(&mut self, check: Check, held: bool, why: impl FnOnce() -> String) {
        let at = self.began.elapsed().as_secs();
        let outcome = &mut self.outcomes[check as usize];
        outcome.times += 1;
        if held {
            return;
        }
        outcome.failed += 1;
        if outcome.told.len() < TOLD {
            let why = format!("at {at} s: {}", why());
            eprintln!("FAILED: {}: {why}", TEXTS[check as usize]);
            outcome.told.push(why);
        }
    }

    /// The same of something that may fail to be found out.
    pub(super) fn result(&mut self, check: Check, result: anyhow::Result<()>) {
        self.that(check, result.is_ok(), || {
            result.err().map(|e| format!("{e:#}")).unwrap_or_default()
        });
    }

    /// Numbers behind a check, for the report.
    pub(super) fn number(&mut self, check: Check, number: String) {
        self.outcomes[check as usize].number = number;
    }

    /// Failures so far.
    pub(super) fn failed(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.failed).sum()
    }

    /// Whether every check held.
    pub(super) fn held(&self) -> bool {
        self.outcomes
            .iter()
            .all(|outcome| outcome.failed == 0 && (outcome.times > 0 || !self.whole))
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (text, outcome) in TEXTS.iter().zip(&self.outcomes) {
            let word = match outcome {
                Outcome { failed: 1.., .. } => "FAIL",
                Outcome { times: 1.., .. } => "PASS",
                _ if self.whole => "FAIL",
                _ => "skip",
            };
            write!(f, "{word}  {text}")?;
            match outcome {
                Outcome { times: 0, .. } => write!(f, " (never came about)")?,
                Outcome { failed: 0, .. } => write!(f, " ({} times)", outcome.times)?,
                _ => write!(f, " ({} of {} failed)", outcome.failed, outcome.times)?,
            }
            writeln!(f)?;
            if !outcome.number.is_empty() {
                for line in outcome.number.lines() {
                    writeln!(f, "        {line}")?;
                }
            }
            for why in &outcome.told {
                writeln!(f, "      ! {why}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough_and_what_never_came_about_counts_only_in_a_whole_run() {
        let mut short = Checks::new(false);
        assert!(short.held());
        short.that(Check::Alive, true, String::new);
        assert!(short.held());
        short.that(Check::Alive, false, || "it ended".to_owned());
        assert!(!short.held() && short.failed() == 1);
        let text = short.to_string();
        assert!(text.contains("FAIL  the daemon ended only"), "{text}");
        assert!(text.contains("! at 0 s: it ended"), "{text}");
        assert!(text.contains("skip  the daemon answered"), "{text}");
        assert!(!Checks::new(true).held());
    }
}
