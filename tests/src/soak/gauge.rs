//! Whether a heavy client is held, from one change to the next.

use super::checks::{Check, Checks};
use std::time::{Duration, Instant};

/// After a change, what is under way is still of the time before.
const SETTLE: Duration = Duration::from_secs(3);
const LEAST: Duration = Duration::from_secs(2);
/// What the hard limit lets through beyond the rate: a second and 64 KiB, and the
/// burst; and a message, which is counted when it is whole.
const BEYOND_TIME: f64 = 1.1;
const BEYOND_BYTES: f64 = 3.0 * 65_536.0;
/// Of the limit, on average.
const HELD: std::ops::RangeInclusive<f64> = 85.0..=102.0;

/// What holds for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// In bits per second; `None`: not limited.
    pub(super) limit: Option<u64>,
    /// Whether a daemon runs.
    pub(super) daemon: bool,
}

/// Bits that passed and that might have, over some time.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    seconds: f64,
    passed: f64,
    allowed: f64,
}

impl Total {
    fn percent(self) -> f64 {
        self.passed * 100.0 / self.allowed.max(1.0)
    }
}

/// One heavy client.
#[derive(Clone, Debug)]
pub(super) struct Gauge {
    check: Check,
    /// From payload to IP packets.
    overhead: f64,
    terms: Terms,
    from: Instant,
    start: Option<(Instant, u64)>,
    /// With a daemon, and without.
    totals: [Total; 2],
    /// Lowest and highest percentage of a window with a daemon.
    range: Option<(f64, f64)>,
    windows: u64,
}

impl Gauge {
    pub(super) fn new(check: Check, overhead: f64) -> Self {
        Self {
            check,
            overhead,
            terms: Terms {
                limit: None,
                daemon: true,
            },
            from: Instant::now(),
            start: None,
            totals: [Total::default(); 2],
            range: None,
            windows: 0,
        }
    }

    /// Something is about to change, at so many bytes; what holds after it is said
    /// by [`Gauge::hold`].
    pub(super) fn change(&mut self, bytes: u64, checks: &mut Checks) {
        self.change_at(Instant::now(), bytes, checks);
    }

    fn change_at(&mut self, now: Instant, bytes: u64, checks: &mut Checks) {
        let Some((since, before)) = self.start.take() else {
            return;
        };
        let (time, Some(limit)) = (now - since, self.terms.limit) else {
            return;
        };
        if time < LEAST {
            return;
        }
        let (seconds, limit) = (time.as_secs_f64(), limit as f64);
        let passed = (bytes - before) as f64 * 8.0 * self.overhead;
        let total = &mut self.totals[usize::from(!self.terms.daemon)];
        total.seconds += seconds;
        total.passed += passed;
        total.allowed += limit * seconds;
        self.windows += 1;
        let percent = passed * 100.0 / (limit * seconds);
        if self.terms.daemon {
            let (low, high) = self.range.unwrap_or((percent, percent));
            self.range = Some((low.min(percent), high.max(percent)));
        }
        let most = limit * (seconds + BEYOND_TIME) + BEYOND_BYTES * 8.0;
        checks.that(Check::LimitMost, passed <= most, || {
            format!(
                "{percent:.1} % of {:.0} Mbit/s over {seconds:.1} s, {:?}",
                limit / 1e6,
                self.check
            )
        });
    }

    /// What holds from now on.
    pub(super) fn hold(&mut self, terms: Terms) {
        self.terms = terms;
        self.from = Instant::now();
        self.start = None;
    }

    /// Begins to measure, once it has settled.
    pub(super) fn tick(&mut self, bytes: u64) {
        self.tick_at(Instant::now(), bytes);
    }

    fn tick_at(&mut self, now: Instant, bytes: u64) {
        if self.start.is_none() && self.terms.limit.is_some() && now >= self.from + SETTLE {
            self.start = Some((now, bytes));
        }
    }

    /// The whole run.
    pub(super) fn judge(&self, checks: &mut Checks) {
        let [with, without] = self.totals;
        if with.seconds > 0.0 {
            let percent = with.percent();
            checks.that(self.check, HELD.contains(&percent), || {
                format!("{percent:.1} % of its limit on average")
            });
        }
        let (low, high) = self.range.unwrap_or_default();
        let mut number = format!(
            "{:.1} % of its limits over {:.0} s in {} windows, the lowest {low:.1} %, the highest \
             {high:.1} %",
            with.percent(),
            with.seconds,
            self.windows
        );
        if without.seconds > 0.0 {
            number += &format!(
                "\n{:.1} % over {:.0} s without a daemon",
                without.percent(),
                without.seconds
            );
        }
        checks.number(self.check, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 8 Mbit/s over ten seconds, so many bytes.
    fn failures(bytes: u64) -> u64 {
        let mut checks = Checks::new(false);
        let mut gauge = Gauge::new(Check::LimitUp, 1.0);
        gauge.hold(Terms {
            limit: Some(8_000_000),
            daemon: true,
        });
        let began = Instant::now();
        gauge.tick_at(began, 0);
        assert!(gauge.start.is_none(), "not settled");
        gauge.tick_at(began + 2 * SETTLE, 1000);
        gauge.change_at(
            began + 2 * SETTLE + Duration::from_secs(10),
            1000 + bytes,
            &mut checks,
        );
        gauge.judge(&mut checks);
        checks.failed()
    }

    #[test]
    fn held_too_low_and_too_high() {
        assert_eq!(failures(9_900_000), 0);
        assert_eq!(failures(7_000_000), 1);
        // Within a window's leeway, not on average.
        assert_eq!(failures(11_000_000), 1);
        assert_eq!(failures(12_000_000), 2);
    }
}
