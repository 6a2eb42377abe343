//! Sharing a client's limit among its flows: how many of them are *active*, by
//! counting, without timers.
//!
//! Time is cut into epochs. A flow that has taken a quarter of a fair share of what the
//! client used within an epoch, or that waits for its turn since, is counted
//! once in that epoch; the number of
//! active flows is the larger of this epoch's count and the last one's. So idle
//! connections take no share from a busy one, and a busy one can't take more by
//! opening others.

/// An epoch is 2^30 ns, 1.07 s: a shift in the place of a division. It has to be
/// longer than a sender waits for its turn, or those who wait are forgotten and
/// then all served at once.
pub const EPOCH_SHIFT: u32 = 30;

const COUNTED: u64 = 1 << 31;
const COUNTED_LAST: u64 = 1 << 30;
const COST_MASK: u64 = COUNTED_LAST - 1;
const FIELD_BITS: u32 = 12;
const FIELD: u64 = (1 << FIELD_BITS) - 1;

/// The flow's word: the epoch in the upper half, then whether the flow was
/// counted in it and in the one before, then what the flow cost in it, in ns of
/// the client's bucket.
#[inline(always)]
const fn roll_flow(word: u64, now: u64) -> u64 {
    let epoch = (now >> EPOCH_SHIFT) as u32;
    let last = (word >> 32) as u32;
    if last == epoch {
        return word;
    }
    let fresh = (epoch as u64) << 32;
    if epoch.wrapping_sub(last) == 1 && word & COUNTED != 0 {
        fresh | COUNTED_LAST
    } else {
        fresh
    }
}

/// Adds what a packet of the flow cost, in ns of the client's bucket. Returns
/// the new word, and whether the flow has to be counted for this epoch now.
#[inline(always)]
#[must_use]
pub const fn take(word: u64, now: u64, cost: u64, active: u64, debt: u64) -> (u64, bool) {
    let whole = if debt < 1 << EPOCH_SHIFT {
        debt
    } else {
        1 << EPOCH_SHIFT
    };
    let word = roll_flow(word, now);
    let sum = (word & COST_MASK) + if cost < COST_MASK { cost } else { COST_MASK };
    let cost = if sum < COST_MASK { sum } else { COST_MASK };
    let word = word & !COST_MASK | cost;
    let count = word & COUNTED == 0 && cost * 4 * active >= whole;
    if count {
        (word | COUNTED, true)
    } else {
        (word, false)
    }
}

/// A flow that waits for its turn stays active: the new word, and whether the
/// flow has to be counted for this epoch now.
#[inline(always)]
#[must_use]
pub const fn wait(word: u64, now: u64) -> (u64, bool) {
    let word = roll_flow(word, now);
    (word | COUNTED, word & COUNTED == 0)
}

/// Whether the flow was counted in this epoch or the one before.
#[inline(always)]
#[must_use]
pub const fn is_active(word: u64, now: u64) -> bool {
    roll_flow(word, now) & (COUNTED | COUNTED_LAST) != 0
}

/// What the flow took in this epoch, in ns of the client's bucket.
#[inline(always)]
#[must_use]
pub const fn used(word: u64, now: u64) -> u64 {
    roll_flow(word, now) & COST_MASK
}

/// How far this epoch has gone, in ns.
#[inline(always)]
#[must_use]
pub const fn elapsed(now: u64) -> u64 {
    now & ((1 << EPOCH_SHIFT) - 1)
}

/// Half of the client's word, one for each direction (0 or 1): eight bits of the
/// epoch, then how many flows were counted in the one before and in it.
#[inline(always)]
const fn roll_client(word: u64, now: u64, direction: u32) -> u64 {
    let epoch = (now >> EPOCH_SHIFT) & 0xff;
    let half = word >> (32 * direction) & 0xffff_ffff;
    let last = half >> (2 * FIELD_BITS);
    let fresh = epoch << (2 * FIELD_BITS);
    match epoch.wrapping_sub(last) & 0xff {
        0 => half,
        1 => fresh | (half & FIELD) << FIELD_BITS,
        _ => fresh,
    }
}

/// Counts one more active flow in a direction.
#[inline(always)]
#[must_use]
pub const fn count(word: u64, now: u64, direction: u32) -> u64 {
    let mut half = roll_client(word, now, direction);
    if half & FIELD != FIELD {
        half += 1;
    }
    word & !(0xffff_ffff << (32 * direction)) | half << (32 * direction)
}

/// Active flows in a direction: 1 at least, 4095 at most.
#[inline(always)]
#[must_use]
pub const fn active(word: u64, now: u64, direction: u32) -> u64 {
    let half = roll_client(word, now, direction);
    let (current, last) = (half & FIELD, half >> FIELD_BITS & FIELD);
    let most = if current > last { current } else { last };
    if most == 0 { 1 } else { most }
}

#[cfg(test)]
mod tests;
