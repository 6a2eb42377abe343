//! Rates, sizes and times as the policy and the command line write them.
//!
//! Rates are `bit kbit mbit gbit` in any case, as in tc, or
//! `B/s kB/s MB/s GB/s KiB/s MiB/s GiB/s`. Sizes are `B kB MB GB TB KiB MiB GiB TiB`.
//! Connection rates are a whole number per `s`, `m` or `h`.

use super::{ConnectionRate, Rate, RateLimit};
use bytesize::ByteSize;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// A text that is not the rate, size or time it should be; says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl UnitError {
    pub(super) const fn new(message: String) -> Self {
        Self(message)
    }
}

const RATES: &str =
    "a number and bit, kbit, mbit or gbit, or B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s or GiB/s";
const SIZES: &str = "a number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB";
const CONNECTION_RATES: &str = "a whole number per s, m or h";

/// Bits per second of one of tc's units. They are decimal, whatever the case.
const BIT_UNITS: [(&str, u64); 4] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

/// Bytes of a unit of size.
const BYTE_UNITS: [(&str, u64); 7] = [
    ("GiB", bytesize::GIB),
    ("GB", bytesize::GB),
    ("MiB", bytesize::MIB),
    ("MB", bytesize::MB),
    ("KiB", bytesize::KIB),
    ("kB", bytesize::KB),
    ("B", 1),
];

/// Bytes of the units that only sizes have.
const LARGE_UNITS: [(&str, u64); 2] = [("TiB", bytesize::TIB), ("TB", bytesize::TB)];

/// Bytes of each unit of size.
fn size_units() -> impl Iterator<Item = &'static (&'static str, u64)> {
    LARGE_UNITS.iter().chain(&BYTE_UNITS)
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Splits `8.5mbit` into its number and its unit, with or without a space.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit());
    plain.then(|| (number, unit.trim_start()))
}

impl Rate {
    /// The lowest rate of a limit: 1 kbit/s.
    pub const MIN: Self = Self(1_000);
    /// The highest rate of a limit: 400 Gbit/s.
    pub const MAX: Self = Self(400 * 1_000_000_000);

    /// A rate of so many bits per second; `None` outside of
    /// [`Rate::MIN`] to [`Rate::MAX`].
    #[must_use]
    pub fn from_bps(bits_per_sec: u64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0)
            .contains(&bits_per_sec)
            .then_some(Self(bits_per_sec))
    }

    /// Bits per second.
    #[must_use]
    pub const fn bps(self) -> u64 {
        self.0
    }

    /// The burst of a limit that names none: 100 ms of the rate, at least
    /// 64 KiB. In bytes.
    #[must_use]
    pub const fn default_burst(self) -> u64 {
        let tenth = self.0 / 8 / 10;
        if tenth > RateLimit::LEAST_DEFAULT_BURST {
            tenth
        } else {
            RateLimit::LEAST_DEFAULT_BURST
        }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError(format!("`{text}` is not a rate; allowed: {RATES}"));
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let lower = unit.to_ascii_lowercase();
        if let "bps" | "kbps" | "mbps" | "gbps" = lower.as_str() {
            return Err(ambiguous(number, &lower));
        }
        let factor = match BIT_UNITS.iter().find(|(name, _)| *name == lower) {
            Some((_, factor)) => *factor,
            None => byte_rate(unit).ok_or_else(wrong)?,
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        // Exact: the highest rate is far below 2^53.
        let bits = (number * factor as f64).round();
        if bits > Self::MAX.0 as f64 {
            return Err(out_of_range(text));
        }
        Self::from_bps(bits as u64).ok_or_else(|| out_of_range(text))
    }
}

/// Bits per second of a unit in bytes per second.
fn byte_rate(unit: &str) -> Option<u64> {
    let bytes = unit.strip_suffix("/s")?;
    BYTE_UNITS
        .iter()
        .find(|(name, _)| *name == bytes)
        .map(|(_, factor)| factor * 8)
}

fn out_of_range(text: &str) -> UnitError {
    UnitError(format!(
        "`{text}` is out of range; allowed: {} to {}",
        Rate::MIN,
        Rate::MAX
    ))
}

/// tc reads `mbps` as megabytes per second, nearly everybody else as megabits.
fn ambiguous(number: &str, unit: &str) -> UnitError {
    let prefix = &unit[..unit.len() - 3];
    let bytes = if prefix == "k" {
        "k".to_owned()
    } else {
        prefix.to_ascii_uppercase()
    };
    UnitError(format!(
        "`{unit}` is bytes per second to tc and bits per second to most people; \
         write \"{number}{prefix}bit\" or \"{number}{bytes}B/s\""
    ))
}

impl fmt::Display for Rate {
    /// As tc writes it, in the largest unit that holds it exactly: `8mbit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = BIT_UNITS
            .iter()
            .find(|(_, factor)| self.0.is_multiple_of(*factor))
            .unwrap_or(&("bit", 1));
        f.pad(&format!("{}{name}", self.0 / factor))
    }
}

impl RateLimit {
    /// The least burst that is chosen where none is named, in bytes.
    pub const LEAST_DEFAULT_BURST: u64 = 64 * bytesize::KIB;
    /// The least burst: one packet of an Ethernet, in bytes.
    pub const MIN_BURST: u64 = 1_500;
    /// The largest burst in bytes.
    pub const MAX_BURST: u64 = 8 * bytesize::GIB;

    /// A limit with the default burst of its rate.
    #[must_use]
    pub const fn of(rate: Rate) -> Self {
        Self {
            rate,
            burst: rate.default_burst(),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError(format!("`{text}` is not a size; allowed: {SIZES}"));
        let (_, unit) = split(text).ok_or_else(wrong)?;
        // bytesize takes a bare number, and units in any case, which hides
        // that `Mb` means something else.
        if !size_units().any(|(name, _)| *name == unit) {
            return Err(wrong());
        }
        let size: ByteSize = text.trim().parse().map_err(|_| wrong())?;
        Ok(Self(size.as_u64()))
    }
}

impl fmt::Display for Size {
    /// In the unit with the fewest digits that holds it exactly: `64KiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = size_units()
            .filter(|(_, factor)| self.0.is_multiple_of(*factor) && *factor <= self.0.max(1))
            .min_by_key(|(_, factor)| self.0 / factor)
            .map(|(name, factor)| format!("{}{name}", self.0 / factor));
        f.pad(&text.unwrap_or_default())
    }
}

impl ConnectionRate {
    /// The highest number of connections in its time.
    pub const MAX: u32 = 1_000_000;
}

impl FromStr for ConnectionRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "`{text}` is not a connection rate; allowed: {CONNECTION_RATES}, such as \"50/s\""
            ))
        };
        let (number, unit) = text.trim().split_once('/').ok_or_else(wrong)?;
        let per_nanos = match unit {
            "s" => NANOS_PER_SEC,
            "m" => 60 * NANOS_PER_SEC,
            "h" => 3600 * NANOS_PER_SEC,
            _ => return Err(wrong()),
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        number
            .parse()
            .ok()
            .filter(|n| (1..=Self::MAX).contains(n))
            .map(|connections| Self {
                connections,
                per_nanos,
            })
            .ok_or_else(|| {
                UnitError(format!(
                    "`{text}` is out of range; allowed: 1 to {} connections",
                    Self::MAX
                ))
            })
    }
}

impl fmt::Display for ConnectionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per_nanos / NANOS_PER_SEC {
            3600 => "h",
            60 => "m",
            _ => "s",
        };
        f.pad(&format!("{}/{unit}", self.connections))
    }
}

/// A duration such as `5s` or `1h 30m`.
///
/// # Errors
/// When it is not one; says what is allowed.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    humantime::parse_duration(text.trim()).map_err(|error| {
        UnitError(format!(
            "`{text}` is not a duration ({error}); allowed: a number and ms, s, m, h or d, \
             such as \"5s\" or \"1h 30m\""
        ))
    })
}

/// A [`duration`] as a value of the policy.
pub(super) struct Period(pub(super) Duration);

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        duration(text).map(Self)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Reads a value from a string by its `FromStr`.
pub(super) struct Text<T>(&'static str, PhantomData<T>);

impl<T> Text<T> {
    /// `allowed` is what a person is told who wrote something else.
    pub(super) const fn new(allowed: &'static str) -> Self {
        Self(allowed, PhantomData)
    }
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! from_text {
    ($($type:ty => $expecting:literal,)+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text::new($expecting))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

from_text! {
    Rate => "a rate as a string, such as \"8mbit\" or \"1MB/s\"",
    Size => "a size as a string, such as \"1MB\" or \"64KiB\"",
    ConnectionRate => "a connection rate as a string, such as \"50/s\"",
    Period => "a duration as a string, such as \"5s\"",
}

#[cfg(test)]
mod tests;
