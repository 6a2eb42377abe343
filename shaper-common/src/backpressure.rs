//! How much a sender may send before it hears from this host again: the laws of
//! the receive window (upload) and of the pacing rate (download).
//!
//! Both steer by the bucket's debt. It integrates what was sent against what
//! the rate allows, so the long-run rate is exact, however wrong the estimate
//! of the round trip is.

mod pacing;
mod window;

pub use pacing::{Burst, in_flight, pacing_rate};
pub use window::{LIGHT, Offer, Offered, SEGMENT, STEP, initial_window, untried, window};

use crate::bucket::{INTERVAL_SHIFT, Limit};

const MILLI: u64 = 1_000_000;

/// Headroom beyond this is not told apart: 2^40 ns, 18 minutes.
const MAX_HEADROOM: u64 = 1 << 40;

/// The least debt that is steered to: below it the bucket would run full
/// between two aggregates, and what is not used then is lost.
pub const SOFT_MIN: u64 = 50 * MILLI;

/// What the hard limit tolerates beyond the burst from a sender that stays
/// within the window it was offered, in ns; [`hard`] adds to it.
const HARD: u64 = 1_000 * MILLI;
/// And in bytes: the first windows of several connections that open at once.
const HARD_BYTES: u64 = 64 * 1024;

/// What a packet may ask of the hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leeway {
    /// Nothing: no backpressure holds its sender, or the sender ignores it.
    None,
    /// It is within the window that was offered, or its sender is paced.
    Window,
    /// It was offered before there was a limit: it passes.
    Any,
}

/// The limit at which what backpressure should have held is dropped: the burst,
/// and what is under way from senders that stay within their windows. That is
/// at most one and a half round trips (the law of [`window()`]), twice over while
/// the number of active flows is not known yet, 100 ms for light flows, and the
/// first windows of new connections; for round trips of up to 300 ms.
#[inline(always)]
#[must_use]
pub const fn hard(limit: &Limit, leeway: Leeway) -> Limit {
    let extra = match leeway {
        Leeway::None => 0,
        Leeway::Window => HARD + limit.cost(HARD_BYTES),
        Leeway::Any => u64::MAX,
    };
    Limit {
        interval: limit.interval,
        tau: limit.tau.saturating_add(extra),
    }
}

/// The debt that the laws steer to.
#[inline(always)]
#[must_use]
pub const fn target(limit: &Limit) -> u64 {
    if limit.tau > SOFT_MIN {
        limit.tau
    } else {
        SOFT_MIN
    }
}

#[inline(always)]
const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[inline(always)]
const fn max(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

#[inline(always)]
const fn share(bytes: u64, active: u64) -> u64 {
    if active > 1 { bytes / active } else { bytes }
}

/// What the limit lets through in `nanos`.
#[inline(always)]
const fn bytes(limit: &Limit, nanos: u64) -> u64 {
    if limit.interval == 0 {
        return u64::MAX >> 8;
    }
    let nanos = if nanos < MAX_HEADROOM {
        nanos
    } else {
        MAX_HEADROOM
    };
    (nanos << INTERVAL_SHIFT) / limit.interval
}

#[cfg(test)]
mod closed_loop;
#[cfg(test)]
mod tests;
