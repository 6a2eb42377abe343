use super::super::meter::{Meter, PARTS};
use super::super::window::Window;
use super::*;
use proptest::prelude::*;

const HOUR: i64 = 3600;

#[test]
fn days_have_23_24_and_25_hours() {
    let berlin = zone("Europe/Berlin");
    for (at, start, hours) in [
        ("2026-03-28T12:00:00Z", "2026-03-27T23:00:00Z", 24),
        ("2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", 23),
        ("2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", 25),
    ] {
        let window = Window::at(Per::Day, &berlin, secs(at));
        assert_eq!(window.start, secs(start), "{at}");
        assert_eq!(window.length(), hours * HOUR, "{at}");
    }
}

#[test]
fn weeks_begin_on_monday_and_months_on_the_first() {
    let utc = TimeZone::UTC;
    let at = |per, text| Window::at(per, &utc, secs(text));
    let week = at(Per::Week, "2026-03-01T23:59:59Z");
    assert_eq!(week.start, secs("2026-02-23T00:00:00Z"));
    assert_eq!(week.end, secs("2026-03-02T00:00:00Z"));
    // A leap year, and one that is none.
    let month = at(Per::Month, "2028-02-29T12:00:00Z");
    assert_eq!(month.length(), 29 * 24 * HOUR);
    let month = at(Per::Month, "2027-02-28T23:59:59Z");
    assert_eq!(month.length(), 28 * 24 * HOUR);
    let month = at(Per::Month, "2026-12-31T23:59:59Z");
    assert_eq!(month.end, secs("2027-01-01T00:00:00Z"));
}

#[test]
fn an_evening_that_comes_twice_and_a_day_that_never_came() {
    // Clocks went back from 00:01 to 23:01 there, until 2011.
    let newfoundland = zone("America/St_Johns");
    let second = secs("2010-11-07T03:00:00Z");
    let window = Window::at(Per::Day, &newfoundland, second);
    assert!(window.contains(second), "{window:?}");
    // Samoa had no 30 December 2011.
    let samoa = zone("Pacific/Apia");
    let before = Window::at(Per::Day, &samoa, secs("2011-12-30T09:00:00Z"));
    let after = Window::at(Per::Day, &samoa, secs("2011-12-30T11:00:00Z"));
    assert_eq!(before.end, after.start);
}

fn zones() -> impl Strategy<Value = TimeZone> {
    proptest::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "America/Sao_Paulo",
        "America/Havana",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Africa/Cairo",
    ])
    .prop_map(zone)
}

fn periods() -> impl Strategy<Value = Per> {
    proptest::sample::select(vec![Per::Hour, Per::Day, Per::Week, Per::Month])
}

proptest! {
    /// Every second of 1970 to 2100 is in one window, and where that ends the next begins.
    #[test]
    fn windows_hold_now_and_have_no_gaps(
        zone in zones(), per in periods(), now in 0_i64..4_102_444_800,
    ) {
        let window = Window::at(per, &zone, now);
        prop_assert!(window.contains(now), "{window:?}");
        prop_assert!(window.length() > 0 && window.length() <= 32 * 24 * HOUR);
        prop_assert_eq!(Window::at(per, &zone, window.start), window);
        prop_assert_eq!(Window::at(per, &zone, window.end - 1), window);
        prop_assert_eq!(Window::at(per, &zone, window.end).start, window.end);
    }

    /// Whatever the clock does, usage is forgotten only when it passes the end of a
    /// window, and then all of it.
    #[test]
    fn a_clock_that_jumps_forgets_nothing_twice(
        zone in zones(), per in periods(),
        jumps in proptest::collection::vec(
            prop_oneof![5 => -7200_i64..7200, 2 => -90_000_i64..90_000, 1 => -40_000_000_i64..40_000_000],
            1..60,
        ),
    ) {
        let mut now = 1_800_000_000;
        let mut meter = Meter::new(per, &zone, now);
        let mut expected = 0_u64;
        let mut passed = i64::MIN;
        for jump in jumps {
            let Meter::Window { start, end, .. } = meter else { unreachable!() };
            now += jump;
            let began = meter.follow(&zone, now);
            prop_assert_eq!(began, now >= end);
            let Meter::Window { start: after, .. } = meter else { unreachable!() };
            if after < start {
                // It was moved: only by a clock further back than a whole window.
                prop_assert!(start - now > end - start);
                passed = i64::MIN;
            }
            if began {
                prop_assert!(end > passed, "the same end was passed twice");
                passed = end;
                expected = 0;
            }
            meter.add(now, 10);
            expected += 10;
            prop_assert_eq!(meter.used(), expected);
        }
    }

    /// Small steps back and forth over an end make one new window, not two.
    #[test]
    fn a_clock_that_is_corrected_over_midnight_resets_once(
        zone in zones(), per in periods(),
        steps in proptest::collection::vec(-30_i64..30, 1..40),
    ) {
        let first = Window::at(per, &zone, 1_800_000_000);
        let mut meter = Meter::new(per, &zone, first.end - 60);
        meter.add(first.end - 60, 1000);
        let mut resets = 0;
        for step in steps {
            resets += u32::from(meter.follow(&zone, first.end + step));
        }
        prop_assert!(resets <= 1);
    }

    /// A rolling time has at least all that is younger than it, and nothing that is
    /// older than it and one part.
    #[test]
    fn a_rolling_time_forgets_in_its_parts(
        secs in Per::ROLLING_MIN..Per::ROLLING_MAX,
        steps in proptest::collection::vec((0_i64..200_000, 0_u64..1000), 1..80),
    ) {
        let part = (i64::from(secs) + PARTS - 1) / PARTS;
        let utc = TimeZone::UTC;
        let mut now = 1_800_000_000;
        let mut meter = Meter::new(Per::Rolling(secs), &utc, now);
        let mut all: Vec<(i64, u64)> = Vec::new();
        for (step, bytes) in steps {
            now += step;
            meter.follow(&utc, now);
            meter.add(now, bytes);
            all.push((now, bytes));
            let since = |age: i64| -> u64 {
                all.iter().filter(|(at, _)| now - at < age).map(|(_, bytes)| bytes).sum()
            };
            prop_assert!(meter.used() >= since(i64::from(secs)));
            prop_assert!(meter.used() <= since((PARTS + 1) * part));
            let Meter::Rolling { parts, .. } = &meter else { unreachable!() };
            prop_assert!(parts.len() <= PARTS as usize + 1);
        }
    }

    /// A clock that goes back keeps what a rolling time has.
    #[test]
    fn a_rolling_time_survives_a_clock_set_back(back in 0_i64..400_000_000) {
        let utc = TimeZone::UTC;
        let now = 1_800_000_000;
        let mut meter = Meter::new(Per::Rolling(86_400), &utc, now);
        meter.add(now, 500);
        meter.follow(&utc, now - back);
        meter.add(now - back, 1);
        prop_assert_eq!(meter.used(), 501);
        // And forgets it within two of its times from then on, at most.
        meter.follow(&utc, now - back + 2 * 90_000);
        prop_assert_eq!(meter.used(), 0);
    }
}
