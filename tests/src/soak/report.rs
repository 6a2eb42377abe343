//! The report.

use super::Soak;
use super::checks::Checks;
use super::churn::Tally;
use crate::haproxy::Installed;
use jiff::{Timestamp, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// All that is to be told.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) checks: Checks,
    minutes: f64,
    seed: u64,
    rate: u32,
    began: Timestamp,
    ended: Timestamp,
    kernel: String,
    haproxy: String,
    cpus: usize,
    tally: Tally,
    time: Duration,
    handshakes: u64,
    most_flows: usize,
    daemons: usize,
    workers: usize,
    happened: BTreeMap<&'static str, u64>,
    warnings: BTreeMap<String, u64>,
    logged: BTreeMap<String, u64>,
}

impl Soak<'_> {
    /// What there is to tell at the end.
    pub(super) fn report(&self) -> Report {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let haproxy = Installed::probe(crate::haproxy::Spec::default().program);
        let (tally, time) = self
            .churned
            .clone()
            .unwrap_or_else(|| (self.churn.tally(), self.churn.began().elapsed()));
        Report {
            checks: self.checks.clone(),
            minutes: self.options.minutes,
            seed: self.options.seed,
            rate: self.options.rate,
            began: self.began,
            ended: Timestamp::now(),
            kernel: kernel.trim().to_owned(),
            haproxy: haproxy.map(|found| found.to_string()).unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            tally,
            time,
            handshakes: self.handshakes.sent,
            most_flows: self.most_flows,
            daemons: self.vitals.lives(),
            workers: self.haproxy.workers().map_or(0, |workers| workers.len()),
            happened: Soak::actions()
                .map(|name| (name, self.happened.get(name).copied().unwrap_or_default()))
                .collect(),
            warnings: self.warnings.clone(),
            logged: logged(&self.shaper.log()),
        }
    }
}

/// What the daemons warned of, without the numbers in it, and how often.
fn logged(log: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let Some((_, text)) = line.split_once("WARN") else {
            continue;
        };
        let mut text: String = text.trim().chars().take(100).collect();
        text.retain(|c| !c.is_ascii_digit());
        *found.entry(text).or_default() += 1;
    }
    found
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, tally) = (self.checks.held(), &self.tally);
        let at = |at: Timestamp| at.round(Unit::Second).unwrap_or(at);
        writeln!(
            f,
            "soak: {}\n\n{} minutes, seed {}, {} connections/s asked for\n{} to {}\nLinux {}, {} \
             CPUs; {}; shaper {}\n",
            if held { "PASS" } else { "FAIL" },
            self.minutes,
            self.seed,
            self.rate,
            at(self.began),
            at(self.ended),
            self.kernel,
            self.cpus,
            self.haproxy,
            env!("CARGO_PKG_VERSION"),
        )?;
        let seconds = self.time.as_secs_f64();
        writeln!(
            f,
            "connections\n{:>10} tried, {} not tried because the machine was behind\n{:>10} \
             established: {:.1}/s over {seconds:.0} s; at most {} flows at once",
            tally.started,
            tally.skipped,
            tally.established,
            tally.established as f64 / seconds,
            self.most_flows
        )?;
        for (name, count) in &tally.done {
            writeln!(f, "{count:>10} {name}")?;
        }
        writeln!(
            f,
            "{:>10} cut off: by a block, a limit, a reload of HAProxy\n{:>10} not answered within \
             700 ms, {} refused: blocks, connection limits, reloads\n{:>10} handshakes never \
             completed",
            tally.cut, tally.unanswered, tally.refused, self.handshakes
        )?;
        writeln!(f, "\nwhat happened")?;
        for (name, count) in &self.happened {
            writeln!(f, "{count:>10} {name}")?;
        }
        writeln!(
            f,
            "{:>10} daemons in turn\n{:>10} workers of HAProxy at the end\n\nchecks",
            self.daemons, self.workers
        )?;
        write!(f, "{}", self.checks)?;
        for (title, lines) in [
            ("warnings in `status`, polls that had them", &self.warnings),
            ("warnings in the log, numbers left out", &self.logged),
        ] {
            if !lines.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for (line, count) in lines {
                writeln!(f, "{count:>10} {line}")?;
            }
        }
        Ok(())
    }
}
