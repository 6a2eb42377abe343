//! What a cell came to, and what is asked of it.

use super::matrix::{Cell, Conditions};
use serde::Serialize;

/// What was measured in a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// What the idle path took, median of a few handshakes, in ms.
    pub rtt_measured_ms: f64,
    /// Measured time in seconds.
    pub seconds: f64,
    /// Payload that arrived in it, in percent of what the rate allows after
    /// headers.
    pub goodput_percent: f64,
    /// Bytes in the first second from the first byte on, IP-level, less rate ×
    /// 1 s.
    pub first_second_excess: f64,
    /// The policy's burst in bytes.
    pub burst: u64,
    /// Rate × round trip in bytes.
    pub window: f64,
    /// The most that was ever delivered above rate × t, t from the first byte
    /// on, in bytes: the burst that a limiter really has.
    pub peak_excess: f64,
    /// Segments sent again, from the first on.
    pub retransmitted: u64,
    /// Data segments sent, those included.
    pub segments: u64,
    /// Of those, the ones that brought nothing: sent again, or refused on this
    /// host, which TCP does not count as sent again.
    pub wasted: u64,
    /// Packets that the limiter dropped; before segmentation where it sits on
    /// the sender's host.
    pub drops: u64,
    /// Jain's index of the flows' bytes in the measured time.
    pub jain: f64,
    /// How busy the machine was in the measured time, in percent of all cores.
    pub cpu_percent: f64,
}

impl Measured {
    /// Excess of the first second, as a part of burst and window.
    pub fn first_second(&self) -> f64 {
        self.first_second_excess / self.allowance()
    }

    /// Excess at its highest, as a part of burst and window.
    pub fn peak(&self) -> f64 {
        self.peak_excess / self.allowance()
    }

    fn allowance(&self) -> f64 {
        self.burst as f64 + self.window
    }

    /// Segments sent again, in percent of those sent.
    pub fn retransmitted_percent(&self) -> f64 {
        self.retransmitted as f64 * 100.0 / self.segments.max(1) as f64
    }

    /// Segments that brought nothing, in percent of those sent.
    pub fn wasted_percent(&self) -> f64 {
        self.wasted as f64 * 100.0 / self.segments.max(1) as f64
    }

    /// Whether the machine had no time left: the cell may be better than this.
    pub fn is_saturated(&self) -> bool {
        self.cpu_percent > 97.0
    }

    /// Points between the goodput and the rate.
    pub fn error(&self) -> f64 {
        (self.goodput_percent - 100.0).abs()
    }
}

/// A cell, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which one.
    #[serde(flatten)]
    pub cell: Cell,
    /// The numbers, where there are any.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// Why the numbers say nothing about the limiter.
    pub void: Option<String>,
}

impl Outcome {
    /// The numbers, where they say something.
    pub fn valid(&self) -> Option<&Measured> {
        self.measured.as_ref().filter(|_| self.void.is_none())
    }
}

/// What is asked of our own limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Goodput in percent.
    pub goodput: (f64, f64),
    /// Segments sent again, in percent.
    pub retransmitted: f64,
    /// Whether drops at the limiter are failures.
    pub no_drops: bool,
}

/// From 2 to 200 ms, where the rate allows four segments per round trip.
pub const MAIN: Bounds = Bounds {
    goodput: (97.0, 101.0),
    retransmitted: 0.05,
    no_drops: true,
};
/// Below: a window of less than a few segments can't be exact.
pub const COARSE: Bounds = Bounds {
    goodput: (93.0, 104.0),
    retransmitted: 0.1,
    no_drops: false,
};
/// Of burst and window, everywhere.
pub const FIRST_SECOND: f64 = 1.0;
/// Least evenness of several flows, everywhere.
pub const JAIN: f64 = 0.95;

/// Which bounds hold under these conditions.
pub fn bounds(conditions: &Conditions) -> Bounds {
    if conditions.is_fine() { MAIN } else { COARSE }
}

/// Which of its bounds a cell misses, in a word each.
pub fn misses(conditions: &Conditions, measured: &Measured) -> Vec<&'static str> {
    let bounds = bounds(conditions);
    let mut misses = Vec::new();
    let (least, most) = bounds.goodput;
    if measured.goodput_percent < least {
        misses.push("slow");
    }
    if measured.goodput_percent > most {
        misses.push("fast");
    }
    if measured.first_second() > FIRST_SECOND {
        misses.push("burst");
    }
    if measured.retransmitted_percent() > bounds.retransmitted {
        misses.push("again");
    }
    if bounds.no_drops && measured.drops > 0 {
        misses.push("drops");
    }
    if measured.jain < JAIN {
        misses.push("uneven");
    }
    misses
}

/// Jain's index of evenness: 1 for equal shares, 1/n where one has all.
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares > 0.0 {
        sum * sum / (shares.len() as f64 * squares)
    } else {
        // Nothing for anybody.
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::conformance::matrix::{Congestion, Direction};

    fn conditions(rate: &str, rtt: &str) -> Conditions {
        Conditions {
            direction: Direction::Upload,
            rate: rate.parse().unwrap(),
            rtt: rtt.parse().unwrap(),
            congestion: Congestion::Cubic,
            flows: 1,
            burst_time: None,
        }
    }

    #[test]
    fn exactness_is_asked_from_2_ms_and_four_segments_on() {
        for (rate, rtt) in [("24mbit", "2"), ("1mbit", "100"), ("500mbit", "200")] {
            assert_eq!(bounds(&conditions(rate, rtt)), MAIN, "{rate} {rtt}");
        }
        for (rate, rtt) in [("23mbit", "2"), ("500mbit", "0.2"), ("1mbit", "20")] {
            assert_eq!(bounds(&conditions(rate, rtt)), COARSE, "{rate} {rtt}");
        }
    }

    #[test]
    fn every_bound_can_be_missed() {
        let conditions = conditions("8mbit", "20");
        let good = Measured {
            rtt_measured_ms: 20.1,
            seconds: 10.0,
            goodput_percent: 100.0,
            first_second_excess: 120_000.0,
            burst: conditions.burst(),
            window: conditions.window(),
            peak_excess: 120_000.0,
            retransmitted: 5,
            segments: 10_000,
            wasted: 5,
            drops: 0,
            jain: 1.0,
            cpu_percent: 10.0,
        };
        assert_eq!(misses(&conditions, &good), [""; 0]);
        let bad = |change: fn(&mut Measured)| {
            let mut measured = good.clone();
            change(&mut measured);
            misses(&conditions, &measured)
        };
        assert_eq!(bad(|m| m.goodput_percent = 96.9), ["slow"]);
        assert_eq!(bad(|m| m.goodput_percent = 101.1), ["fast"]);
        assert_eq!(bad(|m| m.first_second_excess += 1.0), ["burst"]);
        assert_eq!(bad(|m| m.retransmitted += 1), ["again"]);
        assert_eq!(bad(|m| m.drops = 1), ["drops"]);
        assert_eq!(bad(|m| m.jain = 0.94), ["uneven"]);
    }

    #[test]
    fn jain_is_one_for_equals_and_a_share_for_one_alone() {
        assert!((jain(&[3.0, 3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[0.0, 8.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert_eq!(jain(&[0.0, 0.0]), 0.0);
    }
}
