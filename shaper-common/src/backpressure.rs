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
/// Segments that a window grows by at once.
const STEP_SEGMENTS: u64 = 5;
/// Segments that a light flow may send at once.
const LIGHT_SEGMENTS: u64 = 4;
/// What flows that are not active may be ahead of those that are.
pub const LIGHT: u64 = 100 * MILLI;
/// Headers of a segment: IPv6 has more, and TCP without timestamps less.
const HEADERS: u64 = 52;
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
#[repr(C)]
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
    /// What is open of the window that was offered before, in bytes.
    pub left: u64,
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
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Bytes; on the wire, whole granules of them.
    pub window: u64,
    /// Ns until the flow has earned more. The sender waits meanwhile and has to
    /// be told; zero: it can go on by itself.
    pub wait: u64,
}

/// The window to offer.
///
/// It grows by several segments at a time, and by whole ones: what is over behind
/// a whole one is sent as a short one, whose headers are as long as the others'.
///
/// A sender that finds a window smaller than a segment waits. It is woken by a
/// window update when its share has earned a step; should that be lost, by
/// its own timer: it then sends what the window has room for, and asks about a
/// closed window after ever longer times.
#[inline(always)]
#[must_use]
pub const fn window(limit: &Limit, offer: &Offer) -> Offered {
    let granule = offer.granule as u64;
    // The smallest window that a whole segment fits into.
    let least = (offer.segment as u64 + granule - 1) & !(granule - 1);
    let target = target(limit) + offer.srtt + offer.srtt / 2;
    let (early, late) = bias(offer);
    let earned = earned(limit, offer, target.saturating_sub(early));
    let step = Step::of(limit, offer, target);
    // What a sender that waits has seen last, it has not used; anything else has been
    // sent.
    let closed = (offer.segment as u64 - 1) & !(granule - 1);
    let used = if offer.left == closed { 0 } else { offer.left };
    let more = earned.saturating_sub(used);
    if more >= step.bytes && earned >= least {
        return Offered {
            window: max(fitted(used, more, offer), offer.left),
            wait: 0,
        };
    }
    if offer.left >= least {
        // It can go on, or what it sent will be acknowledged.
        return Offered {
            window: offer.left,
            wait: 0,
        };
    }
    let (debt, due) = if offer.light {
        (offer.debt, target + LIGHT)
    } else {
        (offer.debt + early, target + min(late, STEP))
    };
    let wait = (debt + step.nanos).saturating_sub(due);
    // What is offered now comes a round trip later: it need not stop, unless it
    // is ahead of others.
    if wait == 0 || early == 0 && debt + step.cost <= due + offer.srtt / 2 {
        return Offered {
            window: max(fitted(used, step.bytes, offer), least),
            wait: 0,
        };
    }
    Offered {
        window: if wait > 2 * PERSIST { 0 } else { closed },
        wait,
    }
}

/// By how much a window grows at once.
struct Step {
    bytes: u64,
    /// Of that, in ns of the bucket.
    cost: u64,
    /// What is saved up, in ns of the bucket, before a sender that waits goes on.
    nanos: u64,
}

impl Step {
    /// [`STEP_SEGMENTS`] or fewer: never so many that the bucket runs full while
    /// they are saved up.
    #[inline(always)]
    const fn of(limit: &Limit, offer: &Offer, target: u64) -> Self {
        let segment = offer.segment as u64;
        let cost = limit.cost(segment + HEADERS) * offer.active;
        let most = target - target / 4;
        // Where acknowledgements are under way all the time they come soon enough for
        // single ones; and a stop, which costs a round trip, might be seen.
        let often = if offer.srtt > limit.tau {
            offer.srtt
        } else {
            offer.srtt / 3
        };
        let segments = if offer.light || STEP_SEGMENTS * cost <= often {
            1
        } else if STEP_SEGMENTS * cost <= most {
            STEP_SEGMENTS
        } else if 3 * cost <= most {
            3
        } else {
            1
        };
        Self {
            bytes: segments * segment,
            cost: segments * cost,
            nanos: max(segments * cost, STEP),
        }
    }
}

/// The window that is `more` than what is used of it, or a little less: in whole
/// granules, which end as close below the end of a segment as they can.
///
/// A sender fills what its window has room for, and behind whole segments sends a
/// short one, whose headers are as long as theirs. So of the last segments
/// that there is room for, it is the one of which the granules leave off least.
#[inline(always)]
const fn fitted(used: u64, more: u64, offer: &Offer) -> u64 {
    let (segment, part) = (offer.segment as u64, offer.granule as u64 - 1);
    // Zero is tested for where it is divided by: the kernel insists.
    let most = match segment {
        0 => return (used + more) & !part,
        segment => used + more - more % segment,
    };
    let mut best = most;
    let mut end = most;
    let mut tries = 0;
    while tries < 2 && end >= used + 2 * segment {
        end -= segment;
        if end & part < best & part {
            best = end;
        }
        tries += 1;
    }
    best & !part
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

/// What is known of a flow when its pacing is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Burst {
    /// Debt of the bucket in ns.
    pub debt: u64,
    /// Flows among which the limit is shared.
    pub active: u64,
    /// Payload of a full segment.
    pub segment: u32,
    /// Headers of a segment from the IP header on.
    pub headers: u32,
    /// Payload that is being sent, all segments together; 0: nothing is.
    pub payload: u32,
    /// Smoothed round-trip time in ns.
    pub srtt: u64,
}

/// The pacing rate of a flow in bytes of payload per second.
///
/// What is sent is paid for by waiting, at the rate of that moment, however soon
/// it changes: so it is set anew for every send, and as exact as what is sent is
/// large (64 KiB at once where the round trip is short). The wait is the flow's
/// share of what the send cost, less what the bucket has to spare after it or
/// more what it owes; half a round trip is on its way, as with [`window`]. In between the rate may be the highest that a send is ever
/// given, because the kernel raises its own only when an acknowledgement comes.
#[inline(always)]
#[must_use]
pub const fn pacing_rate(limit: &Limit, burst: &Burst) -> u64 {
    /// The most that is paid back at once, beside what the send cost.
    const BACK: u64 = 500 * MILLI;
    /// How late a timer may be: the bucket must not run full meanwhile.
    const LATE: u64 = 20 * MILLI;
    let segment = burst.segment as u64;
    let payload = if burst.payload > 0 {
        burst.payload as u64
    } else {
        segment
    };
    // Zero is tested for where it is divided by: the kernel insists.
    let segments = match segment {
        0 => 1,
        segment => payload.div_ceil(segment),
    };
    let cost = limit.cost(payload + segments * burst.headers as u64);
    let debt = burst.debt + cost;
    let all = cost * burst.active;
    // What flows send at the same moment goes beyond: as much lower, a quarter at most.
    let full = target(limit);
    let beside = min((all - cost) / 2, full / 4);
    let target = max(full - beside, cost + LATE) + burst.srtt / 2;
    let cost = all;
    let wait = if burst.payload == 0 {
        cost / 2
    } else if debt < target {
        cost - min(target - debt, cost / 2)
    } else {
        let most = min(7 * cost, if cost > BACK { cost } else { BACK });
        cost + min(debt - target, most)
    };
    payload * NANOS_PER_SEC / if wait > 0 { wait } else { 1 }
}

/// How many segments a paced flow may have in flight; 0: as many as it likes.
///
/// Where the round trip is short, the kernel sends up to 64 KiB at once at any
/// pacing rate (`tcp_tso_autosize`), and up to half of what may be in flight
/// (`tcp_cwnd_test`). So a share that 64 KiB take long to pay for has its flight
/// bounded, to what it may send in 50 ms: longer than an acknowledgement is
/// delayed. A power of two, so that it seldom changes.
#[inline(always)]
#[must_use]
pub const fn in_flight(limit: &Limit, burst: &Burst) -> u32 {
    /// Of longer round trips, what the kernel adds is a few segments.
    const SHORT: u64 = 4 * MILLI;
    const LEAST: u64 = 4;
    /// Two times 64 KiB.
    const MOST: u64 = 90;
    if burst.srtt > SHORT || burst.segment == 0 {
        return 0;
    }
    let segments = share(bytes(limit, 50 * MILLI), burst.active) / burst.segment as u64;
    if segments > MOST {
        return 0;
    }
    let segments = if segments < LEAST { LEAST } else { segments };
    (segments as u32).next_power_of_two()
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
