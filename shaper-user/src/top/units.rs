//! Numbers as an operator reads them. Every function keeps its width whatever
//! the value, so that columns don't wiggle.

use crate::render::units;

pub use units::duration;

/// Three digits that matter in four characters, and the unit's index.
fn scale(value: u64, count: usize) -> (String, usize) {
    let (number, unit) = units::scale(value, count);
    (format!("{number:>4}"), unit)
}

/// A rate in 11 characters: `8.00 Mbit/s`, ` 320 kbit/s`.
pub fn rate(bps: u64) -> String {
    const UNITS: [&str; 5] = [" bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let (number, unit) = scale(bps, UNITS.len());
    format!("{number} {}", UNITS[unit])
}

/// A rate where there is little room, 5 characters: `8.00M`, ` 320k`.
pub fn short_rate(bps: u64) -> String {
    const UNITS: [&str; 5] = [" ", "k", "M", "G", "T"];
    let (number, unit) = scale(bps, UNITS.len());
    format!("{number}{}", UNITS[unit])
}

/// A size in 7 characters, decimal as in the policy: `1.23 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = [" B", "kB", "MB", "GB", "TB", "PB"];
    let (number, unit) = scale(bytes, UNITS.len());
    format!("{number} {}", UNITS[unit])
}

/// A count with its thousands apart: `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_sizes_keep_their_width() {
        let mut value = 1_u64;
        while value < 900_000_000_000_000 {
            for v in [value - 1, value, value + 1, value * 2, value / 10 * 9] {
                assert_eq!(rate(v).chars().count(), 11, "{v}: {:?}", rate(v));
                assert_eq!(short_rate(v).chars().count(), 5, "{v}");
                assert_eq!(bytes(v).chars().count(), 7, "{v}: {:?}", bytes(v));
            }
            value = value * 10 / 3 + 1;
        }
        assert_eq!(rate(0), "   0  bit/s");
        assert_eq!(rate(8_000_000), "8.00 Mbit/s");
        assert_eq!(rate(9_996_000), "10.0 Mbit/s");
        assert_eq!(rate(999_600), "1.00 Mbit/s");
        assert_eq!(short_rate(320_000), " 320k");
        assert_eq!(bytes(1_234_567), "1.23 MB");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
    }
}
