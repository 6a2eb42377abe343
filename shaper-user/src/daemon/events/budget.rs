//! How many events of clients are told one by one. A hundred thousand clients at
//! their limits must not push everything else out of the log and the memory.

use super::What;
use crate::events::LeftOut;

/// Told in a window at most.
const MOST: u32 = 100;
/// Of so many ns.
const WINDOW: u64 = 10_000_000_000;

/// What is left of a window, and what found no place in it.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// ktime; `None` before the first event.
    since: Option<u64>,
    told: u32,
    left: LeftOut,
}

impl Budget {
    /// Whether an event may be told; counted where not.
    pub fn take(&mut self, what: What) -> bool {
        if self.told < MOST {
            self.told += 1;
            return true;
        }
        let left = &mut self.left;
        let count = match what {
            What::Limited => &mut left.limited,
            What::Released(_) => &mut left.released,
            What::Blocked => &mut left.blocked,
            What::ConnectionRate => &mut left.connection_rate,
            What::MaxConnections => &mut left.max_connections,
            What::TableFull => &mut left.table_full,
        };
        *count += 1;
        false
    }

    /// What was left out in the window that is over; `lost`: of the kernel's since
    /// the last time.
    pub fn settle(&mut self, lost: u64, now: u64) -> Option<LeftOut> {
        self.left.kernel += lost;
        let since = *self.since.get_or_insert(now);
        let over = now.saturating_sub(since);
        if over < WINDOW {
            return None;
        }
        self.since = Some(now);
        self.told = 0;
        let left = std::mem::take(&mut self.left);
        (left != LeftOut::default()).then_some(LeftOut {
            over_ms: over / 1_000_000,
            ..left
        })
    }
}
