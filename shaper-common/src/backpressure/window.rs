//! The law of the receive window: uploads.

use super::{MILLI, bytes, max, min, share, target};
use crate::bucket::Limit;

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
pub(super) const HEADERS: u64 = 52;
/// Payload of a full segment where nothing is known of it.
pub const SEGMENT: u32 = 1448;
/// What a flow before or behind its fair share has less or more, at most.
const BIAS: u64 = 50 * MILLI;

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
/// It grows by several segments at a time, and ends where one does, as closely as
/// granules let it.
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
