use super::*;
use proptest::prelude::*;

#[test]
fn rates_are_read_as_tc_reads_them() {
    for (text, bits) in [
        ("1kbit", 1_000),
        ("8mbit", 8_000_000),
        ("8MBIT", 8_000_000),
        ("8 Mbit", 8_000_000),
        ("1.5mbit", 1_500_000),
        ("400gbit", 400_000_000_000),
        ("125B/s", 1_000),
        ("1kB/s", 8_000),
        ("1KiB/s", 8_192),
        ("1MB/s", 8_000_000),
        ("1MiB/s", 8 * 1024 * 1024),
        ("2.5GB/s", 20_000_000_000),
        ("1GiB/s", 8 * 1024 * 1024 * 1024),
    ] {
        assert_eq!(text.parse(), Ok(Rate(bits)), "{text}");
    }
}

#[test]
fn what_is_not_a_rate_is_refused() {
    for text in [
        "",
        "8",
        "mbit",
        "-8mbit",
        "+8mbit",
        "8.mbit",
        ".8mbit",
        "1e3kbit",
        "8.1.2mbit",
        "8mb",
        "8Mb/s",
        "8mb/s",
        "8MB",
        "8mibit",
        "8mbit/s",
        "∞mbit",
        "NaNmbit",
        "0x8mbit",
    ] {
        let error = text.parse::<Rate>().unwrap_err().to_string();
        assert!(error.contains("is not a rate; allowed:"), "{text}: {error}");
    }
}

#[test]
fn a_rate_has_bounds() {
    for text in [
        "0bit",
        "0mbit",
        "999bit",
        "0.9kbit",
        "401gbit",
        "99999999999999999999999gbit",
    ] {
        assert_eq!(
            text.parse::<Rate>().unwrap_err().to_string(),
            format!("`{text}` is out of range; allowed: 1kbit to 400gbit")
        );
    }
    assert_eq!(Rate::from_bps(0), None);
    assert_eq!(Rate::from_bps(1_000), Some(Rate::MIN));
    assert_eq!(Rate::from_bps(400_000_000_001), None);
}

#[test]
fn mbps_is_refused_with_both_readings() {
    assert_eq!(
        "8Mbps".parse::<Rate>().unwrap_err().to_string(),
        "`mbps` is bytes per second to tc and bits per second to most people; \
         write \"8mbit\" or \"8MB/s\""
    );
    let bps = "9600bps".parse::<Rate>().unwrap_err().to_string();
    assert!(bps.ends_with("write \"9600bit\" or \"9600B/s\""), "{bps}");
    let kbps = "9kbps".parse::<Rate>().unwrap_err().to_string();
    assert!(kbps.ends_with("write \"9kbit\" or \"9kB/s\""), "{kbps}");
}

#[test]
fn rates_are_written_in_the_largest_exact_unit() {
    for (bits, text) in [
        (8_000_000, "8mbit"),
        (1_500_000, "1500kbit"),
        (1_000_000_000, "1gbit"),
        (1_234_567, "1234567bit"),
    ] {
        assert_eq!(Rate(bits).to_string(), text);
    }
    assert_eq!(format!("{:>7}", Rate(8_000_000)), "  8mbit");
}

#[test]
fn the_default_burst_is_a_tenth_of_a_second_and_at_least_64_kib() {
    assert_eq!(Rate(1_000).default_burst(), 65_536);
    assert_eq!(Rate(8_000_000).default_burst(), 100_000);
    assert_eq!(Rate(32_000_000).default_burst(), 400_000);
    assert!(Rate::MAX.default_burst() <= RateLimit::MAX_BURST);
}

#[test]
fn sizes_have_a_unit() {
    for (text, bytes) in [
        ("1500B", 1_500),
        ("1kB", 1_000),
        ("1KiB", 1_024),
        ("1.5MB", 1_500_000),
        ("1 MiB", 1_048_576),
        ("2GB", 2_000_000_000),
        ("1GiB", 1_073_741_824),
        ("2TB", 2_000_000_000_000),
        ("1TiB", 1_099_511_627_776),
    ] {
        assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
    }
    for text in ["", "1", "1mb", "1Mb", "1MBit", "MB", "-1MB", "1..5MB", "1k"] {
        let error = text.parse::<Size>().unwrap_err().to_string();
        assert!(error.contains("is not a size; allowed:"), "{text}: {error}");
    }
    assert_eq!(Size(65_536).to_string(), "64KiB");
    assert_eq!(Size(1_000_000).to_string(), "1MB");
    assert_eq!(Size(1_234).to_string(), "1234B");
    assert_eq!(Size(0).to_string(), "0B");
}

#[test]
fn connection_rates_are_per_second_minute_or_hour() {
    let nanos = |text: &str| text.parse::<ConnectionRate>().unwrap().per_nanos;
    assert_eq!(nanos("50/s"), 1_000_000_000);
    assert_eq!(nanos("50/m"), 60_000_000_000);
    assert_eq!(nanos("50/h"), 3_600_000_000_000);
    for text in [
        "50", "50/", "/s", "1.5/s", "-1/s", "50/d", "50/min", "50 /s",
    ] {
        let error = text.parse::<ConnectionRate>().unwrap_err().to_string();
        assert!(
            error.contains("is not a connection rate"),
            "{text}: {error}"
        );
    }
    for text in ["0/s", "1000001/s", "99999999999/s"] {
        let error = text.parse::<ConnectionRate>().unwrap_err().to_string();
        assert!(error.contains("is out of range"), "{text}: {error}");
    }
}

#[test]
fn durations_are_humantimes() {
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
    assert!(duration("5").is_err());
    assert!(duration("soon").is_err());
}

proptest! {
    #[test]
    fn rates_survive_writing_and_reading(bits in 1_000_u64..=400_000_000_000) {
        let rate = Rate(bits);
        prop_assert_eq!(rate.to_string().parse(), Ok(rate));
    }

    #[test]
    fn sizes_survive_writing_and_reading(bytes in 0_u64..(1 << 53)) {
        prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
    }

    #[test]
    fn connection_rates_survive_writing_and_reading(n in 1_u32..=1_000_000, unit in "[smh]") {
        let text = format!("{n}/{unit}");
        prop_assert_eq!(text.parse::<ConnectionRate>().unwrap().to_string(), text);
    }

    #[test]
    fn no_text_makes_a_unit_panic(text in "\\PC*", number in "[0-9.]{0,30}", unit in "[a-zA-Z/µ]{0,5}") {
        for text in [text, format!("{number}{unit}")] {
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Size>();
            let _ = text.parse::<ConnectionRate>();
            let _ = duration(&text);
        }
    }
}
