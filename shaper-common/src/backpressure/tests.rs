use super::*;
use proptest::prelude::*;

const MBIT: u64 = 1_000_000;

/// 100 ms of the rate, at least 64 KiB: the policy's default.
pub(super) fn limit(bps: u64) -> Limit {
    Limit::new(bps, (bps / 80).max(65_536))
}

fn offer(srtt_ms: u64, debt_ms: u64, active: u64) -> Offer {
    Offer {
        srtt: srtt_ms * MILLI,
        debt: debt_ms * MILLI,
        active,
        segment: SEGMENT,
        granule: 128,
        ..Offer::default()
    }
}

const fn open(window: u64) -> Offered {
    Offered { window, wait: 0 }
}

#[test]
fn the_window_is_what_the_share_has_earned() {
    let limit = limit(8 * MBIT);
    // 100 ms of burst and 1.5 round trips, less the debt: 30 ms at 1 MB/s, in
    // whole segments, less what is over behind the last granule.
    assert_eq!(window(&limit, &offer(20, 100, 1)), open(20 * 1448 - 32));
    // Five would leave 72 bytes off.
    assert_eq!(window(&limit, &offer(20, 100, 4)), open(4 * 1448 - 32));
}

#[test]
fn a_window_in_large_granules_ends_close_below_the_end_of_a_segment() {
    let limit = limit(8 * MBIT);
    let at = |debt, left| {
        let offer = Offer {
            granule: 1024,
            left,
            ..offer(2, debt, 1)
        };
        window(&limit, &offer)
    };
    // 8 KiB would be five segments and one of 952 bytes.
    assert_eq!(at(94, 0), open(7 * 1024));
    // Less than a segment is not used: the sender waited for more.
    assert_eq!(at(94, 1024), open(7 * 1024));
    // Of 13, 12 and 11 segments behind what is on its way 13 leave off least.
    assert_eq!(at(73, 10_240), open(10_240 + 13 * 1448 - 392));
}

#[test]
fn the_window_grows_by_several_whole_segments_or_not_at_all() {
    let limit = limit(8 * MBIT);
    let left = |left| {
        window(
            &limit,
            &Offer {
                left,
                ..offer(2, 73, 1)
            },
        )
    };
    // 30 ms are 30,000 bytes.
    assert_eq!(left(10_000), open(10_000 + 13 * 1448 - 24));
    assert_eq!(left(30_000 - 5 * 1448), open(30_000 - 1448 - 8));
    assert_eq!(left(30_001 - 5 * 1448), open(30_001 - 5 * 1448));
    // On a long path acknowledgements come often enough for single ones.
    let long = Offer {
        left: 110_000 - 1448,
        ..offer(100, 140, 1)
    };
    assert_eq!(window(&limit, &long), open(110_000 - 48));
}

#[test]
fn on_a_short_path_the_sender_stops_and_is_told() {
    let limit = limit(8 * MBIT);
    let offered = window(&limit, &offer(0, 100, 1));
    assert_eq!(
        offered,
        Offered {
            window: 1_408,
            wait: STEP
        }
    );
    // The granule is larger than a segment: closed, and told all the same.
    let wide = Offer {
        granule: 2048,
        ..offer(0, 100, 1)
    };
    assert_eq!(
        window(&limit, &wide),
        Offered {
            window: 0,
            wait: STEP
        }
    );
    // 60 ms for five segments at 1 Mbit/s, and 36 ms of 8 flows for each of 3.
    let slow = self::limit(MBIT);
    let due = slow.tau / MILLI + 1;
    assert_eq!(window(&slow, &offer(0, due, 1)).wait / MILLI, 60);
    assert_eq!(window(&slow, &offer(0, due, 8)).wait / MILLI, 3 * 96);
}

#[test]
fn a_light_flow_goes_before_the_heavy_ones() {
    let limit = limit(8 * MBIT);
    let heavy = offer(2, 120, 1);
    let light = Offer {
        light: true,
        ..heavy
    };
    assert!(window(&limit, &heavy).wait > 0);
    let offered = window(&limit, &light);
    assert_eq!(offered.wait, 0);
    assert!(
        (3 * 1448..=4 * 1448).contains(&offered.window),
        "{offered:?}"
    );
    // But not without end.
    let offered = window(
        &limit,
        &Offer {
            debt: 230 * MILLI,
            ..light
        },
    );
    assert!(offered.wait > 0);
}

#[test]
fn who_is_behind_goes_before_who_is_ahead() {
    let limit = limit(8 * MBIT);
    let at = |used| {
        let offer = Offer {
            used: used * MILLI,
            elapsed: 500 * MILLI,
            ..offer(2, 150, 4)
        };
        window(&limit, &offer)
    };
    assert!(at(250).wait > at(125).wait);
    assert!(at(125).wait > at(50).wait);
}

#[test]
fn the_hard_limit_leaves_room_for_round_trips_of_200_ms() {
    for bps in [MBIT, 8 * MBIT, 500 * MBIT] {
        let limit = limit(bps);
        let within = hard(&limit, Leeway::Window).tau;
        // Twice what the law offers, and what light flows may be ahead.
        assert!(within >= limit.tau + 2 * 300 * MILLI + LIGHT);
        assert_eq!(hard(&limit, Leeway::None), limit);
        assert_eq!(hard(&limit, Leeway::Any).tau, u64::MAX);
    }
}

#[test]
fn the_first_window_is_smaller_for_a_client_in_debt() {
    let limit_8 = limit(8 * MBIT);
    assert_eq!(initial_window(&limit_8, 0), 12_500);
    assert_eq!(initial_window(&limit_8, 60 * MILLI), 5_792);
    assert_eq!(initial_window(&limit(MBIT), 0), 8_192);
    assert_eq!(initial_window(&limit(50 * MBIT), 0), 14_480);
    assert_eq!(initial_window(&Limit::NONE, u64::MAX), 14_480);
}

fn burst(payload: u32, debt: u64, active: u64) -> Burst {
    Burst {
        debt,
        active,
        segment: 1448,
        headers: 52,
        payload,
        srtt: 0,
    }
}

#[test]
fn pacing_is_exact_at_the_target_and_pays_back_what_is_owed() {
    let (fast, slow) = (limit(8 * MBIT), limit(MBIT));
    let rate = |payload, debt, active| pacing_rate(&fast, &burst(payload, debt, active));
    let exact = rate(2896, 97 * MILLI, 1);
    assert!((964_000..=965_400).contains(&exact), "{exact}");
    assert_eq!(rate(2896, 0, 1).div_ceil(2), exact);
    assert_eq!(rate(0, 1 << 40, 1).div_ceil(2), exact);
    assert_eq!(rate(2896, 1 << 40, 1), exact / 8);
    // Four may send at the same moment, 3 ms each.
    assert_eq!(rate(2896, 92 * MILLI + MILLI / 2, 4), exact / 4);
    // Half a round trip is on its way.
    let long = Burst {
        srtt: 200 * MILLI,
        ..burst(2896, 197 * MILLI, 1)
    };
    assert_eq!(pacing_rate(&fast, &long), exact);
    // 44 segments take 66 ms. What the bucket is over is waited for, no more.
    let large = rate(44 * 1448, 67 * MILLI, 1);
    assert!(large.abs_diff(exact * 66 / 99) < 2000, "{large}");
    // At 1 Mbit/s they take longer than the burst: the bucket must run dry first.
    let slow = pacing_rate(&slow, &burst(44 * 1448, 20 * MILLI, 1));
    assert!(slow.abs_diff(exact / 8) < 200, "{slow}");
}

#[test]
fn little_is_in_flight_where_much_would_be_sent_at_once() {
    let at = |bps, srtt, active| {
        let burst = Burst {
            srtt,
            ..burst(0, 0, active)
        };
        in_flight(&limit(bps), &burst)
    };
    assert_eq!(at(MBIT, 200_000, 1), 4);
    assert_eq!(at(8 * MBIT, 200_000, 1), 64);
    assert_eq!(at(8 * MBIT, 200_000, 8), 4);
    assert_eq!(at(50 * MBIT, 200_000, 1), 0);
    assert_eq!(at(MBIT, 20 * MILLI, 1), 0);
    assert_eq!(in_flight(&Limit::NONE, &burst(0, 0, 1)), 0);
}

proptest! {
    #[test]
    fn any_offer_falls_with_the_debt_and_stops_nobody_who_is_not_told(
        bps in 1_000_u64..400_000_000_000,
        srtt in 0_u64..2_000_000_000,
        debt in 0_u64..20_000_000_000,
        more in 0_u64..1_000_000_000,
        active in 1_u64..4096,
        scale in 0_u32..15,
        segment in 536_u32..9_000,
        left in 0_u64..1_000_000,
        light: bool,
    ) {
        let limit = limit(bps);
        let offer = Offer { srtt, debt, active, segment, granule: 1 << scale, left, light, ..Offer::default() };
        let less = window(&limit, &offer);
        let offered = window(&limit, &Offer { debt: debt + more, ..offer });
        prop_assert!(offered.window <= less.window, "{:?} {:?}", less, offered);
        prop_assert!(less.wait <= offered.wait);
        // A sender that can't go on by itself is always told: what it sees are
        // whole granules.
        let seen = less.window >> scale << scale;
        prop_assert!(seen >= u64::from(segment) || less.wait > 0, "{:?}", less);
    }

    #[test]
    fn any_pacing_rate_is_between_an_eighth_and_twice_the_share(
        bps in 8_000_u64..400_000_000_000,
        debt in 0_u64..20_000_000_000,
        active in 1_u64..4096,
        payload in 0_u32..600_000,
    ) {
        let limit = limit(bps);
        let rate = pacing_rate(&limit, &burst(payload, debt, active));
        prop_assert!(rate <= bps / 8 * 2 / active + bps / 8 / active / 50 + 1);
        // The headers of a short last segment.
        let least = bps / 8 / active / 8;
        let least = if payload < 1448 { least * u64::from(payload) / 1500 } else { least * 9 / 10 };
        prop_assert!(rate >= least.saturating_sub(1), "{} of {}", rate, least);
    }
}
