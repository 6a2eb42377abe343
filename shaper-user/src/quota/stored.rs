//! A row as the store has it: JSON, whose fields are added, never renamed.

use super::meter::Meter;
use super::row::{GONE_AFTER, Level, Row};
use serde::{Deserialize, Serialize};

/// The version of what is stored. One that is not known is set aside.
pub const VERSION: u32 = 1;

/// About the store as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// [`VERSION`].
    pub version: u32,
    /// Whose counters the rows have: the cookie of the network namespace.
    pub place: u64,
    /// Who had a quota, as [`super::ledger::fingerprint`] has it.
    pub policy: u64,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    meter: Meter,
    #[serde(default)]
    extra: u64,
    #[serde(default)]
    extra_until: i64,
    last: [u64; 2],
    #[serde(default)]
    told: u8,
}

impl From<&Row> for Stored {
    fn from(row: &Row) -> Self {
        Self {
            meter: row.meter.clone(),
            extra: row.extra,
            extra_until: row.extra_until,
            last: row.last,
            told: row.told as u8,
        }
    }
}

impl Stored {
    /// The row; its quota is the policy's. `None` where it cannot be right.
    #[must_use]
    pub fn into_row(self) -> Option<Row> {
        self.meter.per()?;
        if let Meter::Rolling { secs, parts } = &self.meter
            && (*secs == 0 || parts.windows(2).any(|pair| pair[0].0 >= pair[1].0))
        {
            return None;
        }
        Some(Row {
            quota: None,
            meter: self.meter,
            extra: self.extra,
            extra_until: self.extra_until,
            last: self.last,
            told: match self.told {
                0 => Level::Within,
                1 => Level::Near,
                _ => Level::Reached,
            },
            // Until a sample has it. Its counters are not forgotten before the
            // usual number of samples.
            missing: 0,
        })
    }
}

const _: () = assert!(GONE_AFTER > 1);
