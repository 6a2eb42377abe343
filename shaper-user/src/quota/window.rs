//! Hours, days, weeks and months, in seconds since 1970.

use crate::policy::Per;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

const HOUR: i64 = 3600;

/// From `start` on, until before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first second.
    pub start: i64,
    /// The first second of the next.
    pub end: i64,
}

impl Window {
    /// Whether a time lies in it.
    #[must_use]
    pub const fn contains(self, at: i64) -> bool {
        self.start <= at && at < self.end
    }

    /// Its length in seconds: a day has 23 to 25 hours.
    #[must_use]
    pub const fn length(self) -> i64 {
        self.end.saturating_sub(self.start)
    }

    /// The one that `now` lies in. They have no gaps: where one ends the next
    /// begins. A rolling time has none; it is taken as one from now on.
    #[must_use]
    pub fn at(per: Per, zone: &TimeZone, now: i64) -> Self {
        match per {
            // Full hours of UTC, because with a zone that is half an hour off for
            // a part of the year (Lord Howe) hours would have gaps.
            Per::Hour => {
                let start = now.saturating_sub(now.rem_euclid(HOUR));
                Self {
                    start,
                    end: start.saturating_add(HOUR),
                }
            }
            Per::Rolling(secs) => Self {
                start: now,
                end: now.saturating_add(i64::from(secs)),
            },
            Per::Day | Per::Week | Per::Month => Self::of_dates(per, zone, now),
        }
    }

    fn of_dates(per: Per, zone: &TimeZone, now: i64) -> Self {
        let date = timestamp(now).to_zoned(zone.clone()).date();
        let mut first = match per {
            Per::Week => {
                let days = date.weekday().to_monday_zero_offset();
                date.checked_sub(i64::from(days).days()).unwrap_or(date)
            }
            Per::Month => date.first_of_month(),
            _ => date,
        };
        loop {
            let Some(next) = following(per, first) else {
                // The end of jiff's time.
                return Self {
                    start: midnight(zone, first),
                    end: i64::MAX,
                };
            };
            let end = midnight(zone, next);
            // Where clocks go back over midnight, the evening comes twice, and the
            // second time belongs to the next day already.
            if end > now {
                return Self {
                    start: midnight(zone, first),
                    end,
                };
            }
            first = next;
        }
    }
}

fn following(per: Per, first: Date) -> Option<Date> {
    match per {
        Per::Week => first.checked_add(7.days()),
        Per::Month => first.checked_add(1.month()),
        _ => first.tomorrow(),
    }
    .ok()
}

/// When a day begins; not always at midnight, where clocks go forward then.
fn midnight(zone: &TimeZone, date: Date) -> i64 {
    date.to_zoned(zone.clone())
        .map_or(i64::MAX, |start| start.timestamp().as_second())
}

/// A time in seconds, as jiff has it; the nearest that it has.
#[must_use]
pub fn timestamp(seconds: i64) -> Timestamp {
    let least = Timestamp::MIN.as_second();
    let most = Timestamp::MAX.as_second();
    Timestamp::from_second(seconds.clamp(least, most)).unwrap_or(Timestamp::UNIX_EPOCH)
}
