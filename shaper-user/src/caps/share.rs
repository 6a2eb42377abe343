//! The part of a server that one client may have.

use super::fill::level;
use crate::policy::place::Share;
use std::time::Duration;

/// The time constant over which rates are smoothed.
const SMOOTHING: Duration = Duration::from_secs(3);
/// Nobody is held any more when the server carries less than this part of `above`
/// and no client wants more than it has.
const LIFT: f64 = 0.9;

/// What a direction of a server carries, in bits per second.
pub(super) struct Carried {
    /// Each client that can be held.
    pub rates: Vec<f64>,
    /// What each of them is thought to want.
    pub wants: Vec<f64>,
    /// All others.
    pub exempt: f64,
}

/// A direction of a server with a share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smoothed {
    /// Bits per second; `None` before the first time.
    total: Option<f64>,
    /// What a client may have; `None` while nobody is held.
    limit: Option<f64>,
}

impl Smoothed {
    /// What each client may have; infinite while nobody is held.
    ///
    /// To hold a client lowers the server's rate, of which its share is a part: a
    /// few clients would be driven down to nothing, and be let go then, to begin
    /// again. So nobody is held to less than what brings the server to `above`,
    /// from which on down there is no rule.
    pub fn limit(&mut self, share: Share, carried: &Carried, elapsed: Duration) -> f64 {
        let part = 1.0 - (-elapsed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
        let smooth = |before: Option<f64>, now: f64| {
            let before = before.unwrap_or(now);
            before + part * (now - before)
        };
        let now = carried.rates.iter().sum::<f64>() + carried.exempt;
        let total = smooth(self.total, now);
        self.total = Some(total);
        let above = share.above.bps() as f64;
        let bounds: Vec<_> = carried.wants.iter().map(|want| (0.0, *want)).collect();
        let to_above = level((above - carried.exempt).max(0.0), &bounds);
        let over = if self.limit.is_some() {
            total >= LIFT * above || to_above.is_finite()
        } else {
            total > above
        };
        if !over || share.millionths >= Share::WHOLE {
            self.limit = None;
            return f64::INFINITY;
        }
        let limit = smooth(self.limit, fair(share.part(), carried));
        self.limit = Some(limit);
        let least = if to_above.is_finite() {
            to_above
        } else {
            above
        };
        limit.max(least).max(share.part() * above)
    }
}

/// The limit that is this part of what all carry when it holds: zero where clients
/// are too few for that. It is found by holding one more of the heaviest, until
/// nobody else has more.
fn fair(part: f64, carried: &Carried) -> f64 {
    let mut rates = carried.rates.clone();
    rates.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut rest = rates.iter().sum::<f64>() + carried.exempt;
    let mut unheld = 1.0;
    for rate in rates {
        let limit = part * rest / unheld;
        if limit >= rate || unheld <= part {
            return limit;
        }
        rest -= rate;
        unheld -= part;
    }
    part * rest.max(0.0) / unheld
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_limit_is_the_part_of_what_it_leaves() {
        let limit = |rates: &[f64], exempt| {
            let carried = Carried {
                rates: rates.to_vec(),
                wants: Vec::new(),
                exempt,
            };
            fair(0.25, &carried)
        };
        let mut rates = vec![800.0];
        rates.extend([10.0; 20]);
        assert!((limit(&rates, 0.0) - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!(limit(&[800.0, 60.0, 50.0, 50.0], 0.0), 50.0);
        assert_eq!(limit(&[50.0; 4], 0.0), 50.0);
        assert_eq!(limit(&[10.0; 10], 0.0), 25.0);
        assert_eq!(limit(&[500.0; 3], 0.0), 0.0);
        assert_eq!(limit(&[500.0; 3], 100.0), 100.0);
        assert_eq!(limit(&[], 100.0), 25.0);
    }
}
