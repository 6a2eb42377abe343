//! One client that has a quota.

use super::meter::Meter;
use super::window::timestamp;
use crate::model;
use crate::policy::{Counts, Quota};
use jiff::tz::TimeZone;
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use std::sync::Arc;

/// A client is gone when so many samples in a row have not had it. One alone can
/// miss it: it may move from one map to another while they are read.
pub const GONE_AFTER: u8 = 3;
/// The part of a quota, in percent, that is worth a warning.
const NEAR: u128 = 80;

/// How near to the end of its quota a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Below 80 %.
    #[default]
    Within,
    /// From 80 % on.
    Near,
    /// All of it.
    Reached,
}

impl Level {
    /// As JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Near => "near",
            Self::Reached => "reached",
        }
    }
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it may move, as the policy in force says; `None`: anything.
    pub quota: Option<Arc<Quota>>,
    /// What it did.
    pub meter: Meter,
    /// Given by hand beside the quota.
    pub extra: u64,
    /// When that ends.
    pub extra_until: i64,
    /// The kernel's counters when they were last read, by direction.
    pub last: [u64; 2],
    /// What was said of it.
    pub told: Level,
    /// Samples in a row that did not have it.
    pub missing: u8,
}

impl Row {
    /// Of a client that nothing is known of; `last` is what the kernel had counted
    /// before it is looked at.
    #[must_use]
    pub fn new(quota: Arc<Quota>, last: [u64; 2], zone: &TimeZone, now: i64) -> Self {
        Self {
            meter: Meter::new(quota.per, zone, now),
            quota: Some(quota),
            extra: 0,
            extra_until: 0,
            last,
            told: Level::Within,
            missing: 0,
        }
    }

    /// Takes the quota of the policy in force. With another time it begins anew.
    pub fn set_quota(&mut self, quota: Option<&Arc<Quota>>, zone: &TimeZone, now: i64) {
        if self.quota.as_ref() == quota {
            return;
        }
        self.quota = quota.cloned();
        if let Some(quota) = quota
            && !self.meter.is(quota.per)
        {
            self.meter = Meter::new(quota.per, zone, now);
            (self.extra, self.told) = (0, Level::Within);
        }
    }

    /// Reads the kernel's counters; returns whether anything is new.
    pub fn read(&mut self, counters: [u64; 2], now: i64) -> bool {
        let mut moved = [0; 2];
        for (d, moved) in moved.iter_mut().enumerate() {
            *moved = match counters[d].checked_sub(self.last[d]) {
                Some(more) => more,
                // It left and came back: its counters began again.
                None => counters[d],
            };
        }
        let new = self.last != counters;
        self.last = counters;
        self.missing = 0;
        if let Some(quota) = &self.quota {
            let [up, down] = [UPLOAD, DOWNLOAD].map(|d| moved[d as usize]);
            let bytes = match quota.counts {
                Counts::Upload => up,
                Counts::Download => down,
                Counts::Both => up.saturating_add(down),
            };
            self.meter.add(now, bytes);
        }
        new
    }

    /// The sample did not have it; returns whether that makes it gone.
    pub fn miss(&mut self) -> bool {
        self.missing = self.missing.saturating_add(1);
        let gone = self.missing == GONE_AFTER;
        if gone {
            self.last = [0; 2];
        }
        gone
    }

    /// Whether the kernel does not know it.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        self.missing >= GONE_AFTER
    }

    /// Whether there is nothing to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.meter.used() == 0 && self.extra == 0
    }

    /// Follows the clock; returns whether anything has changed.
    pub fn follow(&mut self, zone: &TimeZone, now: i64) -> bool {
        let before = self.meter.used();
        let began = self.meter.follow(zone, now);
        let is_window = matches!(self.meter, Meter::Window { .. });
        let longest = self.meter.lasts_until(now);
        self.extra_until = self.extra_until.min(longest);
        let spent = self.extra > 0 && (now >= self.extra_until || began && is_window);
        if spent {
            self.extra = 0;
        }
        began || spent || before != self.meter.used()
    }

    /// What it may move in all; `None`: anything.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let quota = self.quota.as_ref()?;
        Some(quota.bytes.saturating_add(self.extra))
    }

    /// How near it is.
    #[must_use]
    pub fn level(&self) -> Level {
        let Some(total) = self.total() else {
            return Level::Within;
        };
        let used = self.meter.used();
        if used >= total {
            Level::Reached
        } else if u128::from(used) * 100 >= u128::from(total) * NEAR {
            Level::Near
        } else {
            Level::Within
        }
    }

    /// Forgets what was used and given.
    pub fn reset(&mut self) {
        self.meter.clear();
        self.extra = 0;
    }

    /// Gives more, for as long as a window lasts.
    pub fn give(&mut self, bytes: u64, now: i64) {
        self.extra = self.extra.saturating_add(bytes);
        self.extra_until = self.meter.lasts_until(now);
    }

    /// As JSON has it.
    #[must_use]
    pub fn to_model(&self) -> Option<model::Quota> {
        let quota = self.quota.as_ref()?;
        let bytes = self.total()?;
        Some(model::Quota {
            bytes,
            used: self.meter.used(),
            per: quota.per.to_string(),
            counts: quota.counts.to_string(),
            resets_at: self.meter.eases_at(bytes).map(timestamp),
            then: quota.then.to_string(),
            state: self.level().name().to_owned(),
            added: self.extra,
        })
    }
}
