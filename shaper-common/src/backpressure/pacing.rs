//! The law of the pacing rate: downloads.

use super::{MILLI, bytes, max, min, share, target};
use crate::bucket::Limit;

const NANOS_PER_SEC: u64 = 1_000_000_000;

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
/// more what it owes; half a round trip is on its way, as with [`super::window()`]. In between the rate may be the highest that a send is ever
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
