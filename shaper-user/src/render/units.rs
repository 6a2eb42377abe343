//! Numbers as people read them.

use bytesize::ByteSize;

/// Three digits that matter, and the index of the unit, of which each is a
/// thousand of the one before.
#[must_use]
pub fn scale(value: u64, units: usize) -> (String, usize) {
    #[allow(clippy::cast_precision_loss)]
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while scaled >= 999.5 && unit + 1 < units {
        scaled /= 1000.0;
        unit += 1;
    }
    let places = match scaled {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    (format!("{scaled:.places$}"), unit)
}

/// Bits per second with three digits, decimal as in tc: `8.00 Mbit/s`.
#[must_use]
pub fn rate(bps: u64) -> String {
    const UNITS: [&str; 5] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let (number, unit) = scale(bps, UNITS.len());
    format!("{number} {}", UNITS[unit])
}

/// Bytes, decimal: `1.2 MB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// Milliseconds in the two largest units, at most 6 characters: `12s`, `3m12s`,
/// `2h14m`, `3d04h`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        86_400..8_640_000 => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits() {
        for (bps, text) in [
            (0, "0 bit/s"),
            (999, "999 bit/s"),
            (1_000, "1.00 kbit/s"),
            (9_994, "9.99 kbit/s"),
            (9_996, "10.0 kbit/s"),
            (8_000_000, "8.00 Mbit/s"),
            (123_456_789, "123 Mbit/s"),
            (999_499_999, "999 Mbit/s"),
            (999_500_000, "1.00 Gbit/s"),
            (u64::MAX, "18446744 Tbit/s"),
        ] {
            assert_eq!(rate(bps), text);
        }
    }

    #[test]
    fn bytes_are_decimal() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_200_000), "1.2 MB");
    }

    #[test]
    fn durations_have_two_units() {
        for (ms, text) in [
            (999, "0s"),
            (59_999, "59s"),
            (192_000, "3m12s"),
            (7_500_000, "2h05m"),
            (90_000_000, "1d01h"),
            (86_400_000 * 123, "123d"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
