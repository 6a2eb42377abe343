//! How much a sender may send before it hears from this host again: the laws of
//! the receive window (upload) and of the pacing rate (download).
//!
//! Both steer by the bucket's debt. It integrates what was sent against what
//! the rate allows, so the long-run rate is exact, however wrong the estimate
//! of the round trip is.

use crate::bucket::{INTERVAL_SHIFT, Limit};

const NANOS_PER_SEC: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

/// Headroom beyond this is not told apart: 2^40 ns, 18 minutes.
const MAX_HEADROOM: u64 = 1 << 40;

/// What passes before a sender with data that does not fit the window asks
/// again or sends a part: its retransmission timeout, 200 ms at least on Linux.
const PERSIST: u64 = 250 * MILLI;
/// What a stopped sender is allowed at once when it goes on.
pub const STEP: u64 = 8 * MILLI;
/// A segment that costs no more than so many round trips may be offered in each
/// of them: the debt stops it later.
const RTT_CLOCK: u64 = 4;
/// Segments that a light flow may send at once.
const LIGHT_SEGMENTS: u64 = 4;
/// What flows that are not active may be ahead of those that are.
pub const LIGHT: u64 = 100 * MILLI;
/// Payload of a full segment where nothing is known of it.
pub const SEGMENT: u32 = 1448;
/// What a flow before or behind its fair share has less or more, at most.
const BIAS: u64 = 50 * MILLI;
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

/// What is known of a flow when its window is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Smoothed round-trip time in ns.
    pub srtt: u64,
    /// Debt of the bucket in ns.
    pub debt: u64,
    /// Flows among which the limit is shared.
    pub active: u64,
    /// Payload of a full segment.
    pub segment: u32,
    /// The unit of the window on the wire: a power of two (RFC 7323, 2.2).
    pub granule: u32,
    /// The flow is not among the active ones.
    pub light: bool,
    /// What the flow took in this epoch, in ns of the bucket.
    pub used: u64,
    /// How far this epoch has gone, in ns.
    pub elapsed: u64,
}

/// The limit at which what backpressure should have held is dropped: the burst,
/// and what is under way from senders that stay within their windows. That is
/// at most one and a half round trips (the law of [`window`]), twice over while
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

/// A window, and when to offer another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Bytes, a multiple of the granule.
    pub window: u64,
    /// Ns until the flow has earned more. The sender waits meanwhile and has to
    /// be told; zero: it can go on by itself.
    pub wait: u64,
}

/// The window to offer.
///
/// A sender that finds a window smaller than a segment waits. It is woken by a
/// window update when its share has earned [`STEP`] or a segment; should that
/// be lost, by its own timer: it then sends what the window has room for, and
/// asks about a closed window after ever longer times.
#[inline(always)]
#[must_use]
pub const fn window(limit: &Limit, offer: &Offer) -> Offered {
    let granule = offer.granule as u64;
    let segment = (offer.segment as u64 + granule - 1) & !(granule - 1);
    let target = target(limit) + offer.srtt + offer.srtt / 2;
    let (early, late) = bias(offer);
    let earned = earned(limit, offer, target.saturating_sub(early));
    if earned >= segment {
        return Offered {
            window: earned & !(granule - 1),
            wait: 0,
        };
    }
    let cost = limit.cost(segment) * offer.active;
    let step = if cost > STEP { cost } else { STEP };
    let (debt, due) = if offer.light {
        (offer.debt, target + LIGHT)
    } else {
        (offer.debt + early, target + min(late, step))
    };
    let wait = (debt + step).saturating_sub(due);
    // One segment a round trip may be slow enough to go on with.
    let going = cost <= RTT_CLOCK * offer.srtt && debt + cost <= due + offer.srtt / 2;
    if going || wait == 0 {
        return Offered {
            window: segment,
            wait: 0,
        };
    }
    Offered {
        window: if wait > 2 * PERSIST {
            0
        } else {
            (offer.segment as u64 - 1) & !(granule - 1)
        },
        wait,
    }
}

/// The window of a SYN-ACK: an eighth of the burst, between four and ten
/// segments (a sender begins with ten; RFC 6928), and four where the client has
/// used half of its burst.
#[inline(always)]
#[must_use]
pub const fn initial_window(limit: &Limit, debt: u64) -> u32 {
    const MOST: u32 = 10 * SEGMENT;
    const LEAST: u32 = LIGHT_SEGMENTS as u32 * SEGMENT;
    if limit.interval == 0 {
        return MOST;
    }
    if debt >= target(limit) / 2 {
        return LEAST;
    }
    let part = bytes(limit, limit.tau) / 8;
    if part < LEAST as u64 {
        LEAST
    } else if part < MOST as u64 {
        part as u32
    } else {
        MOST
    }
}

/// The most that a flow is offered which has sent `bytes` in all: as much again.
/// Its sender doubles what it sends in every round trip, and how many more have
/// just begun is not known yet.
#[inline(always)]
#[must_use]
pub const fn untried(bytes: u64) -> u64 {
    const FIRST: u64 = 10 * SEGMENT as u64;
    if bytes < FIRST { FIRST } else { bytes }
}

/// By how much the flow is before and behind its fair share of this epoch.
#[inline(always)]
const fn bias(offer: &Offer) -> (u64, u64) {
    let used = offer.used * offer.active;
    if offer.light || offer.active == 1 {
        (0, 0)
    } else if used > offer.elapsed {
        (min(used - offer.elapsed, BIAS), 0)
    } else {
        (0, min(offer.elapsed - used, BIAS))
    }
}

/// What the flow's share has earned: all of it for an active flow, a few
/// segments ahead of the others for a light one.
#[inline(always)]
const fn earned(limit: &Limit, offer: &Offer, target: u64) -> u64 {
    let own = share(
        bytes(limit, target.saturating_sub(offer.debt)),
        offer.active,
    );
    let few = LIGHT_SEGMENTS * offer.segment as u64;
    if !offer.light || own >= few {
        return own;
    }
    let ahead = bytes(limit, (target + LIGHT).saturating_sub(offer.debt));
    if ahead < few { ahead } else { few }
}

/// The pacing rate of a flow in bytes of payload per second. `headers` are those
/// of a segment from the IP header on.
#[inline(always)]
#[must_use]
pub const fn pacing_rate(limit: &Limit, debt: u64, active: u64, segment: u32, headers: u32) -> u64 {
    const SPAN: u64 = 100 * MILLI;
    const ONE: u64 = 256;
    let target = target(limit);
    let factor = if debt < target {
        let spare = target - debt;
        ONE + if spare < SPAN {
            spare * ONE / SPAN
        } else {
            ONE
        }
    } else {
        let over = debt - target;
        if over < SPAN {
            ONE - over * ONE / SPAN
        } else {
            0
        }
    };
    let rate = bytes(limit, NANOS_PER_SEC);
    let whole = segment as u64 + headers as u64;
    if whole == 0 {
        return rate;
    }
    let payload = if rate < MAX_HEADROOM {
        rate * segment as u64 / whole
    } else {
        rate / whole * segment as u64
    };
    let even = share(payload, active);
    // Each segment is paid for at the rate of its time, however soon that rises
    // again. So it is never less than half a share, and an eighth of the whole
    // while it is not known how many there are. The kernel sends two segments at
    // least: half a second for both, and a raised limit is felt within a second.
    // Only a limit below that is slower.
    let floor = min(payload / 8, even / 2);
    let felt = min(even * 7 / 8, 4 * segment as u64);
    let least = if floor > felt { floor } else { felt };
    let rate = even * factor / ONE;
    if rate > least { rate } else { least }
}

#[inline(always)]
const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
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
