//! Counters and events: what the data path tells about itself.

use crate::atomic::MapWord;
use crate::maps::{EVENT_GATE, EVENTS, STATS};
use shaper_common::bucket::{self, Limit};
use shaper_common::event::{EVENTS_PER_SEC, Event};
use shaper_common::key::Addr;
use shaper_common::stats::Stat;

const GATE: Limit = Limit::per_event(EVENTS_PER_SEC, 1_000_000_000, EVENTS_PER_SEC);

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn count(stat: Stat, value: u64) {
    if let Some(counter) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: a live map value. A softirq may interrupt `sock_ops` on the
        // same CPU, so the addition is atomic all the same.
        unsafe { crate::atomic::add(counter, value) };
    }
}

/// Sends an event, at most [`EVENTS_PER_SEC`] of all kinds together.
#[inline(never)]
pub fn event(at: u64, client: &Addr, kind: u32, direction: u32) {
    let Some(gate) = EVENT_GATE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a live map value of one aligned word.
    let gate = unsafe { MapWord::new(gate) };
    if gate.admit(at, 1, &GATE) == bucket::Verdict::Refused {
        count(Stat::EventsLost, 1);
        return;
    }
    // Written in place: with the event on the stack, that of the longest chain of
    // calls is too large for 6.1, which counts 32 bytes for the smallest frame.
    let Some(mut event) = EVENTS.reserve::<Event>(0) else {
        count(Stat::EventsLost, 1);
        return;
    };
    event.write(Event {
        at,
        client: *client,
        kind,
        direction,
    });
    event.submit(0);
    count(Stat::EventsSent, 1);
}
