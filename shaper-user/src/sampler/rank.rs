//! Order of rows, without building them.

use shaper_common::key::Addr;
use std::cmp::Ordering;

/// What a row is ordered by; the largest comes first.
#[derive(Clone, Copy)]
pub(super) struct Rank {
    pub primary: u128,
    /// Decides between equal primaries: more bytes first.
    pub secondary: u64,
    /// The row.
    pub index: u32,
}

/// The rank of row `index`.
pub(super) fn rank(index: usize, primary: u128, secondary: u64) -> Rank {
    Rank {
        primary,
        secondary,
        index: u32::try_from(index).unwrap_or(u32::MAX),
    }
}

/// An address as a number that orders as people do.
pub(super) fn ordinal(addr: &Addr) -> u128 {
    u128::from_be_bytes(bytemuck::cast(*addr))
}

/// The rows in order, at most `limit`. `tie` orders rows of equal rank, so that
/// the order does not depend on where the kernel keeps an entry.
pub(super) fn order(
    mut ranks: Vec<Rank>,
    limit: Option<usize>,
    reverse: bool,
    tie: impl Fn(u32, u32) -> Ordering,
) -> Vec<u32> {
    let compare = |a: &Rank, b: &Rank| {
        let order = (b.primary, b.secondary)
            .cmp(&(a.primary, a.secondary))
            .then_with(|| tie(a.index, b.index));
        if reverse { order.reverse() } else { order }
    };
    if let Some(limit) = limit
        && limit < ranks.len()
    {
        if limit > 0 {
            ranks.select_nth_unstable_by(limit - 1, compare);
        }
        ranks.truncate(limit);
    }
    ranks.sort_unstable_by(compare);
    ranks.into_iter().map(|rank| rank.index).collect()
}
