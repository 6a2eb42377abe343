//! How many bytes a window has seen, whatever the clock does.
//!
//! A window ends when the clock has passed its end, and by nothing else. A clock
//! that goes back leaves a client in the window that it was in; only where that lies
//! further ahead than it is long is it moved to now, with what was used.

use super::window::Window;
use crate::policy::Per;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A rolling time is counted in so many parts. A byte is forgotten when it is as old
/// as the time says, or up to one part later.
pub const PARTS: i64 = 24;

/// Bytes in a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Meter {
    /// From a fixed time to another.
    Window {
        /// What of: `hour`, `day`, …
        per: String,
        /// Its first second.
        start: i64,
        /// The first second after it.
        end: i64,
        /// Bytes in it.
        used: u64,
    },
    /// In the last seconds.
    Rolling {
        /// How many.
        secs: u32,
        /// Parts by number since 1970, oldest first, and bytes in them; none
        /// twice, and at most one more than [`PARTS`].
        parts: Vec<(i64, u64)>,
    },
}

impl Meter {
    /// Nothing used yet.
    #[must_use]
    pub fn new(per: Per, zone: &TimeZone, now: i64) -> Self {
        match per {
            Per::Rolling(secs) => Self::Rolling {
                secs,
                parts: Vec::new(),
            },
            _ => {
                let Window { start, end } = Window::at(per, zone, now);
                Self::Window {
                    per: per.to_string(),
                    start,
                    end,
                    used: 0,
                }
            }
        }
    }

    /// What it counts in; `None` where the store has a word that is not known.
    #[must_use]
    pub fn per(&self) -> Option<Per> {
        match self {
            Self::Window { per, .. } => per.parse().ok(),
            Self::Rolling { secs, .. } => Some(Per::Rolling(*secs)),
        }
    }

    /// Whether it counts in `per`.
    #[must_use]
    pub fn is(&self, per: Per) -> bool {
        match (self, per) {
            (Self::Rolling { secs, .. }, Per::Rolling(wanted)) => *secs == wanted,
            (Self::Window { .. }, Per::Rolling(_)) | (Self::Rolling { .. }, _) => false,
            (Self::Window { per: own, .. }, per) => *own == per.to_string(),
        }
    }

    /// Follows the clock. Returns whether a new window has begun.
    pub fn follow(&mut self, zone: &TimeZone, now: i64) -> bool {
        let Some(known) = self.per() else {
            return false;
        };
        match self {
            Self::Window {
                start, end, used, ..
            } => {
                let over = now >= *end;
                let astray = start.saturating_sub(now) > end.saturating_sub(*start);
                if over || astray {
                    let window = Window::at(known, zone, now);
                    (*start, *end) = (window.start, window.end);
                }
                if over {
                    *used = 0;
                }
                over
            }
            Self::Rolling { secs, parts } => {
                let part = now.div_euclid(part_length(*secs));
                if let Some((newest, _)) = parts.last().copied()
                    && newest.saturating_sub(part) > PARTS
                {
                    for (number, _) in parts.iter_mut() {
                        *number -= newest - part;
                    }
                }
                let before = parts.len();
                parts.retain(|(number, _)| number.saturating_add(PARTS) >= part);
                before > 0 && parts.is_empty()
            }
        }
    }

    /// Counts bytes of `now`, which it has followed to.
    pub fn add(&mut self, now: i64, bytes: u64) {
        match self {
            Self::Window { used, .. } => *used = used.saturating_add(bytes),
            Self::Rolling { secs, parts } => {
                if bytes == 0 {
                    return;
                }
                let part = now.div_euclid(part_length(*secs));
                match parts.last_mut() {
                    // A clock that went back counts on in the newest.
                    Some((newest, sum)) if *newest >= part => *sum = sum.saturating_add(bytes),
                    _ => parts.push((part, bytes)),
                }
            }
        }
    }

    /// Bytes used.
    #[must_use]
    pub fn used(&self) -> u64 {
        match self {
            Self::Window { used, .. } => *used,
            Self::Rolling { parts, .. } => parts
                .iter()
                .fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes)),
        }
    }

    /// Forgets what was used.
    pub fn clear(&mut self) {
        match self {
            Self::Window { used, .. } => *used = 0,
            Self::Rolling { parts, .. } => parts.clear(),
        }
    }

    /// When less will be used by itself: of a window its end; of a rolling time
    /// when less than `total` is left of it, or something is forgotten. `None`
    /// where nothing is used.
    #[must_use]
    pub fn eases_at(&self, total: u64) -> Option<i64> {
        match self {
            Self::Window { end, .. } => Some(*end),
            Self::Rolling { secs, parts } => {
                let mut left = self.used();
                for (number, bytes) in parts {
                    left -= (*bytes).min(left);
                    if left < total {
                        let gone = number.saturating_add(PARTS + 1);
                        return Some(gone.saturating_mul(part_length(*secs)));
                    }
                }
                None
            }
        }
    }

    /// The time that something given now holds for: until the window ends, or as
    /// long as a rolling time is.
    #[must_use]
    pub fn lasts_until(&self, now: i64) -> i64 {
        match self {
            Self::Window { end, .. } => *end,
            Self::Rolling { secs, .. } => now.saturating_add(i64::from(*secs)),
        }
    }
}

/// In seconds. Never zero.
fn part_length(secs: u32) -> i64 {
    (i64::from(secs).max(1) + PARTS - 1) / PARTS
}
