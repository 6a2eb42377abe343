//! How much a client may move in a time, and what holds once it has.

use super::units::{Text, UnitError, duration};
use serde::de::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// A byte quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// So many bytes of each client, from the IP header on. Never zero.
    pub bytes: u64,
    /// In this time.
    pub per: Per,
    /// Which direction is counted.
    pub counts: Counts,
    /// What holds then, until the time is over.
    pub then: Then,
}

/// The time of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// From one full hour of UTC to the next.
    Hour,
    /// From midnight to midnight, in the policy's time zone, as the others.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the next.
    Month,
    /// The last so many seconds, whenever it is asked.
    Rolling(u32),
}

impl Per {
    /// The shortest rolling time, in seconds.
    pub const ROLLING_MIN: u32 = 600;
    /// The longest rolling time, in seconds.
    pub const ROLLING_MAX: u32 = 366 * 86_400;
}

/// The bytes that a quota is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Counts {
    /// Client to this host.
    Upload,
    /// This host to the client.
    Download,
    /// Together.
    #[default]
    Both,
}

/// What holds for a client that has used its quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// It is blocked.
    Block,
    /// The limits of the rule of this name.
    Rule(String),
}

/// The word for [`Then::Block`], in the place of a rule's name.
pub(super) const BLOCK: &str = "block";

impl fmt::Display for Then {
    /// As the policy writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Block => BLOCK,
            Self::Rule(name) => name,
        })
    }
}

const PERIODS: &str =
    "\"hour\", \"day\", \"week\", \"month\", or a rolling time from 10m to 366d such as \"24h\"";

impl FromStr for Per {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        Ok(match text {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            _ => {
                let wrong = || {
                    UnitError::new(format!(
                        "`{}` is not the time of a quota; allowed: {PERIODS}",
                        text.escape_debug()
                    ))
                };
                let time = duration(text).map_err(|_| wrong())?;
                if time.subsec_nanos() != 0 {
                    return Err(wrong());
                }
                u32::try_from(time.as_secs())
                    .ok()
                    .filter(|secs| (Self::ROLLING_MIN..=Self::ROLLING_MAX).contains(secs))
                    .map(Self::Rolling)
                    .ok_or_else(wrong)?
            }
        })
    }
}

impl fmt::Display for Per {
    /// As the policy writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = match self {
            Self::Hour => return f.pad("hour"),
            Self::Day => return f.pad("day"),
            Self::Week => return f.pad("week"),
            Self::Month => return f.pad("month"),
            Self::Rolling(secs) => *secs,
        };
        // Not in days: "1day" would look like "day".
        let (unit, name) = match secs {
            _ if secs.is_multiple_of(3600) => (3600, "h"),
            _ if secs.is_multiple_of(60) => (60, "m"),
            _ => (1, "s"),
        };
        f.pad(&format!("{}{name}", secs / unit))
    }
}

impl<'de> Deserialize<'de> for Per {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text::new(PERIODS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, per) in [
            ("hour", Per::Hour),
            ("day", Per::Day),
            ("week", Per::Week),
            ("month", Per::Month),
            ("24h", Per::Rolling(86_400)),
            ("90m", Per::Rolling(5_400)),
            ("601s", Per::Rolling(601)),
            ("8784h", Per::Rolling(Per::ROLLING_MAX)),
        ] {
            assert_eq!(text.parse(), Ok(per));
            assert_eq!(per.to_string(), text);
        }
        assert_eq!("1day".parse(), Ok(Per::Rolling(86_400)));
    }

    #[test]
    fn other_times_say_what_is_allowed() {
        for text in ["", "Day", "daily", "year", "9m", "367d", "10m 1ms", "-1h"] {
            let error = text.parse::<Per>().unwrap_err().to_string();
            assert!(error.contains("allowed: \"hour\""), "{text}: {error}");
        }
    }
}
