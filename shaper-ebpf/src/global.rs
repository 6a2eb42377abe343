//! Global functions, as the kernel calls them: the verifier looks at each of them
//! once, by its signature alone, and what follows a call is looked at once for all
//! that it may return. Without them every path through a bucket or a law would
//! multiply the paths behind it.
//!
//! They take words, and pointers to what has a size; the verifier makes each of
//! them test its pointers. They return a number.

use crate::atomic::MapWord;
use shaper_common::backpressure::{self, Burst, Offer, Offered};
use shaper_common::bucket::{self, Limit, Verdict};
use shaper_common::share;

/// What stands for [`Verdict::Refused`]; no debt is as large.
const REFUSED: u64 = u64::MAX;

impl MapWord {
    /// See [`bucket::admit`].
    #[inline(always)]
    pub fn admit(&self, now: u64, len: u64, limit: &Limit) -> Verdict {
        let cost = limit.cost(len);
        match shaper_admit(self.as_ptr(), now, cost, limit.tau) {
            REFUSED => Verdict::Refused,
            debt => Verdict::Admitted { debt, cost },
        }
    }

    /// See [`bucket::charge`].
    #[inline(always)]
    pub fn charge(&self, now: u64, len: u64, limit: &Limit) -> Verdict {
        let cost = limit.cost(len);
        let debt = shaper_admit(self.as_ptr(), now, cost, u64::MAX);
        Verdict::Admitted { debt, cost }
    }

    /// See [`bucket::forgive`].
    #[inline(always)]
    pub fn forgive(&self, now: u64, limit: &Limit) {
        shaper_forgive(self.as_ptr(), now, limit.tau);
    }

    /// Counts an active flow; see [`share::count`].
    #[inline(always)]
    pub fn count_active(&self, now: u64, direction: u32) {
        shaper_count_active(self.as_ptr(), now, direction);
    }
}

/// See [`backpressure::pacing_rate`].
#[inline(always)]
pub fn pacing_rate(limit: &Limit, burst: &Burst) -> u64 {
    shaper_pacing_rate(limit, burst)
}

/// See [`backpressure::in_flight`].
#[inline(always)]
pub fn in_flight(limit: &Limit, burst: &Burst) -> u32 {
    shaper_in_flight(limit, burst)
}

/// What a limit offers (see [`backpressure::window`]), where that is less than what
/// is offered already.
#[inline(always)]
pub fn tighter(limit: &Limit, offer: &Offer, offered: &mut Offered) -> u32 {
    shaper_window(limit, offer, offered)
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_admit(word: *mut u64, now: u64, cost: u64, tau: u64) -> u64 {
    if word.is_null() {
        return 0;
    }
    // SAFETY: of a `MapWord`.
    let word = unsafe { MapWord::new(word) };
    match bucket::take(&word, now, cost, tau) {
        Some(debt) => debt,
        None => REFUSED,
    }
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_forgive(word: *mut u64, now: u64, tau: u64) -> u32 {
    if word.is_null() {
        return 0;
    }
    // SAFETY: of a `MapWord`.
    let word = unsafe { MapWord::new(word) };
    bucket::cut(&word, now, tau);
    1
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_count_active(word: *mut u64, now: u64, direction: u32) -> u32 {
    if word.is_null() {
        return 0;
    }
    // SAFETY: of a `MapWord`.
    let word = unsafe { MapWord::new(word) };
    bucket::update(&word, |word| share::count(word, now, direction & 1)).into()
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_pacing_rate(limit: *const Limit, burst: *const Burst) -> u64 {
    // SAFETY: null, or a reference of the caller's.
    let (limit, burst) = unsafe { (limit.as_ref(), burst.as_ref()) };
    match (limit, burst) {
        (Some(limit), Some(burst)) => backpressure::pacing_rate(limit, burst),
        _ => u64::MAX,
    }
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_in_flight(limit: *const Limit, burst: *const Burst) -> u32 {
    // SAFETY: null, or a reference of the caller's.
    let (limit, burst) = unsafe { (limit.as_ref(), burst.as_ref()) };
    match (limit, burst) {
        (Some(limit), Some(burst)) => backpressure::in_flight(limit, burst),
        _ => 0,
    }
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_window(
    limit: *const Limit,
    offer: *const Offer,
    offered: *mut Offered,
) -> u32 {
    // SAFETY: null, or a reference of the caller's.
    let (limit, offer) = unsafe { (limit.as_ref(), offer.as_ref()) };
    if let (Some(limit), Some(offer)) = (limit, offer)
        && !offered.is_null()
    {
        let found = backpressure::window(limit, offer);
        // SAFETY: the caller's own.
        unsafe {
            if found.window <= (*offered).window {
                *offered = found;
            }
        }
        return 1;
    }
    0
}
