use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

struct Bucket(AtomicU64);

impl Bucket {
    fn full() -> Self {
        Self(AtomicU64::new(0))
    }

    fn full_at(now: u64) -> Self {
        Self(AtomicU64::new(now))
    }
}

impl Word for Bucket {
    fn load(&self) -> u64 {
        self.0.load(SeqCst)
    }
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, SeqCst, SeqCst)
    }
    fn fetch_add(&self, value: u64) {
        self.0.fetch_add(value, SeqCst);
    }
}

/// A word that changes under every compare-and-swap.
struct Contended(Bucket);

impl Word for Contended {
    fn load(&self) -> u64 {
        self.0.load()
    }
    fn compare_exchange(&self, _: u64, _: u64) -> Result<u64, u64> {
        Err(self.0.load())
    }
    fn fetch_add(&self, value: u64) {
        self.0.fetch_add(value);
    }
}

const SEC: u64 = 1_000_000_000;
/// Any uptime: the monotonic clock does not start at zero.
const START: u64 = 77 * SEC;

/// Whether a bucket that stands at `tat` would refuse a packet now.
const fn refuses(tat: u64, now: u64, limit: &Limit) -> bool {
    debt(tat, now) > limit.tau
}

#[test]
fn a_refused_packet_is_not_charged() {
    let limit = Limit::new(8_000_000, 10_000);
    let bucket = Bucket::full();
    let mut passed = 0;
    while let Verdict::Admitted { .. } = admit(&bucket, START, 1500, &limit) {
        passed += 1500;
    }
    let before = bucket.load();
    assert_eq!(admit(&bucket, START, 1500, &limit), Verdict::Refused);
    assert_eq!(bucket.load(), before);
    assert!((10_000..=11_500).contains(&passed), "{passed}");
}

#[test]
fn an_aggregate_above_the_burst_passes_and_is_paid_for() {
    let limit = Limit::new(8_000_000, 10_000);
    let bucket = Bucket::full();
    assert!(matches!(
        admit(&bucket, START, 64_000, &limit),
        Verdict::Admitted {
            debt: 64_000_000,
            cost: 64_000_000
        }
    ));
    assert_eq!(
        admit(&bucket, START + 53 * SEC / 1000, 1, &limit),
        Verdict::Refused
    );
    assert!(matches!(
        admit(&bucket, START + 54 * SEC / 1000, 1, &limit),
        Verdict::Admitted { .. }
    ));
}

#[test]
fn a_charge_is_never_refused_and_a_refund_takes_it_back() {
    let limit = Limit::new(1_000, 1);
    let bucket = Bucket::full();
    charge(&bucket, START, 1500, &limit);
    let before = bucket.load();
    charge(&bucket, START, 1500, &limit);
    refund(&bucket, 1500, &limit);
    assert_eq!(bucket.load(), before);
}

#[test]
fn a_lost_race_still_charges_and_passes() {
    let limit = Limit::new(8_000, 1_000);
    let word = Contended(Bucket::full());
    word.fetch_add(START);
    assert!(matches!(
        admit(&word, START, 500, &limit),
        Verdict::Admitted {
            debt: 500_000_000,
            ..
        }
    ));
    assert_eq!(word.load(), START + SEC / 2);
}

#[test]
fn a_refund_just_after_the_clock_began_does_not_lock_the_bucket() {
    // The debt was forgiven between a charge and its refund.
    let limit = Limit::new(1_000, 1_500);
    let bucket = Bucket::full();
    charge(&bucket, SEC, 64_000, &limit);
    forgive(&bucket, SEC, &limit);
    refund(&bucket, 64_000, &limit);
    assert_eq!(debt(bucket.load(), SEC), 0);
    assert_ne!(admit(&bucket, SEC, 1_500, &limit), Verdict::Refused);
    assert_eq!(debt(bucket.load(), SEC), limit.cost(1_500));
}

#[test]
fn small_packets_at_400_gbit_do_not_exceed_it() {
    // 64 bytes take 1.28 ns.
    let limit = Limit::new(400_000_000_000, 1_500);
    assert_eq!(limit.cost(64), 2);
    assert_eq!(limit.cost(65_536), 1_311);
}

#[test]
fn connections_are_events() {
    let limit = Limit::per_event(50, SEC, 50);
    let bucket = Bucket::full();
    let at_once = (0..200)
        .filter(|_| admit(&bucket, START, 1, &limit) != Verdict::Refused)
        .count();
    assert_eq!(at_once, 50);
    assert_eq!(
        admit(&bucket, START + SEC / 51, 1, &limit),
        Verdict::Refused
    );
    assert_ne!(
        admit(&bucket, START + SEC / 49, 1, &limit),
        Verdict::Refused
    );
}

#[test]
fn many_threads_share_one_bucket_within_the_bound() {
    let limit = Limit::new(8_000_000, 100_000);
    let bucket = Bucket::full();
    let passed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for step in 0..20_000_u64 {
                    let now = START + step * 50_000;
                    if admit(&bucket, now, 1500, &limit) != Verdict::Refused {
                        passed.fetch_add(1500, SeqCst);
                    }
                }
            });
        }
    });
    let bound = 1_000_000 + 100_000 + 4 * 1500;
    assert!(passed.load(SeqCst) <= bound, "{passed:?} > {bound}");
}

/// All that a policy may say, as often small as large.
fn rates() -> impl Strategy<Value = u64> {
    const MAX: u64 = 400_000_000_000;
    prop_oneof![
        Just(1_000),
        Just(MAX),
        (0_u32..29).prop_flat_map(|power| (1_000_u64 << power)..=(2_000 << power).min(MAX)),
    ]
}

/// Around both ends of the clock, around its middle, and any.
fn clocks() -> impl Strategy<Value = u64> {
    let edge = 0_u64..3 * SEC;
    prop_oneof![
        edge.clone(),
        edge.clone().prop_map(|before| u64::MAX - before),
        edge.prop_map(|around| (1 << 63) - 3 * SEC / 2 + around),
        any::<u64>(),
    ]
}

/// From a header to the largest aggregate.
fn lens() -> impl Strategy<Value = u64> {
    prop_oneof![40_u64..1_500, 40_u64..=524_280]
}

/// In nanoseconds; many packets come at once.
fn gaps() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..10, 0_u64..10_000, 0_u64..50_000_000]
}

proptest! {
    /// Whatever comes when: never more than rate × t + burst + one packet.
    #[test]
    fn the_rate_holds_over_any_interval(
        rate in rates(),
        burst in 1_u64..10_000_000,
        start in clocks(),
        sent in prop::collection::vec((gaps(), lens()), 1..400),
    ) {
        let limit = Limit::new(rate, burst);
        let bucket = Bucket::full_at(start);
        // Since each packet that passed: when, and how much did in all before it.
        let (mut now, mut passed, mut since) = (start, 0_u128, Vec::new());
        for (gap, len) in sent {
            now = now.wrapping_add(gap);
            if admit(&bucket, now, len, &limit) == Verdict::Refused {
                continue;
            }
            since.push((now, passed));
            passed += u128::from(len);
            // The first and the last few intervals that end here.
            for (from, before) in since.iter().take(3).chain(since.iter().rev().take(20)) {
                let bits = u128::from(rate) * u128::from(now.wrapping_sub(*from)) / u128::from(SEC);
                let bound = bits / 8 + u128::from(burst + len) + 1;
                prop_assert!(passed - before <= bound, "{} > {bound}", passed - before);
            }
        }
    }

    /// Who always has something to send gets the rate, but for the fixed point
    /// and one nanosecond a packet.
    #[test]
    fn a_sender_that_never_rests_gets_the_rate(
        rate in rates(),
        start in clocks(),
        lens in prop::collection::vec(lens(), 1..300),
    ) {
        let limit = Limit::new(rate, 1);
        let bucket = Bucket::full_at(start);
        let (mut now, mut passed) = (start, 0_u128);
        for len in &lens {
            prop_assert_ne!(admit(&bucket, now, *len, &limit), Verdict::Refused);
            passed += u128::from(*len);
            // Till it is due, as late as it may be.
            now = now.wrapping_add(debt(bucket.load(), now));
        }
        let elapsed = u128::from(now.wrapping_sub(start));
        let exact = (passed * 8 * u128::from(SEC)).div_ceil(u128::from(rate));
        // At 400 Gbit/s the interval is right to 5 in 100,000.
        let most = exact + exact / 20_000 + lens.len() as u128 + 1;
        prop_assert!((exact..=most).contains(&elapsed), "{elapsed} ns for {exact}");
    }

    /// Everything at any time: no arithmetic fails, and time alone makes a bucket
    /// that owes less.
    #[test]
    fn no_word_and_no_clock_is_too_odd(
        word: u64,
        now: u64,
        later in 0_u64..=1 << 40,
        interval in 0..=Limit::new(1_000, 1).interval,
        tau: u64,
        len in 0_u64..=2 << 20,
    ) {
        let limit = Limit { interval, tau };
        let owed = debt(word, now);
        prop_assert!(debt(word, now.wrapping_add(later)) <= owed || owed == 0);
        prop_assert_eq!(refuses(word, now, &limit), owed > tau);
        for taken in [admit::<Bucket>, charge] {
            let bucket = Bucket(AtomicU64::new(word));
            match taken(&bucket, now, len, &limit) {
                Verdict::Refused => {
                    prop_assert!(owed > tau);
                    prop_assert_eq!(bucket.load(), word);
                }
                Verdict::Admitted { debt: owes, cost } => {
                    prop_assert_eq!(debt(bucket.load(), now), owes);
                    let added = if owed < MAX_DEBT { cost } else { 0 };
                    prop_assert_eq!(owes, owed + added);
                    refund(&bucket, len, &limit);
                    if added != 0 || cost == 0 {
                        prop_assert_eq!(debt(bucket.load(), now), owed);
                    }
                }
            }
        }
        let bucket = Bucket(AtomicU64::new(word));
        forgive(&bucket, now, &limit);
        prop_assert_eq!(debt(bucket.load(), now), owed.min(tau));
    }

    /// Limits that change under way: each holds from then on, and nobody waits
    /// longer than the new burst takes to refill.
    #[test]
    fn limits_may_change_under_way(
        start in clocks(),
        changes in prop::collection::vec(
            (rates(), 1_u64..10_000_000, prop::collection::vec((gaps(), lens()), 1..60)),
            1..8,
        ),
    ) {
        let bucket = Bucket::full_at(start);
        let mut now = start;
        for (rate, burst, sent) in changes {
            let limit = Limit::new(rate, burst);
            forgive(&bucket, now, &limit);
            prop_assert!(debt(bucket.load(), now) <= limit.tau);
            prop_assert!(!refuses(bucket.load(), now, &limit), "the new limit begins with a wait");
            let (from, mut passed) = (now, 0_u128);
            for (gap, len) in sent {
                now = now.wrapping_add(gap);
                if admit(&bucket, now, len, &limit) == Verdict::Refused {
                    continue;
                }
                passed += u128::from(len);
                let elapsed = u128::from(now.wrapping_sub(from));
                let bits = u128::from(rate) * elapsed / u128::from(SEC);
                prop_assert!(passed <= bits / 8 + u128::from(burst + len) + 1);
            }
        }
    }

    /// Charges that nobody may refuse never come round to a bucket that is full,
    /// however long they go on, also where every race is lost.
    #[test]
    fn debts_do_not_come_round(
        start in clocks(),
        lens in prop::collection::vec(1_u64..=2 << 20, 1..50),
        lost: bool,
    ) {
        let limit = Limit::new(1_000, 1);
        let word = Contended(Bucket(AtomicU64::new(start.wrapping_add(MAX_DEBT - (1 << 42)))));
        let mut before = debt(word.load(), start);
        for len in lens {
            let verdict = if lost {
                charge(&word, start, len, &limit)
            } else {
                charge(&word.0, start, len, &limit)
            };
            let owed = debt(word.load(), start);
            prop_assert_ne!(verdict, Verdict::Refused);
            prop_assert!(owed >= before && refuses(word.load(), start, &limit));
            before = owed;
        }
    }

    /// Rates survive the fixed point to a hundredth of a percent.
    #[test]
    fn a_limit_reads_back(rate in rates(), burst in 65_536_u64..1_000_000_000) {
        let limit = Limit::new(rate, burst);
        let back = limit.bits_per_sec();
        prop_assert!(back.abs_diff(rate) <= rate / 10_000 + 1, "{back} for {rate}");
        let bytes = limit.burst_bytes();
        // `tau` has whole nanoseconds.
        let grain = rate / 8 / SEC + 2;
        prop_assert!(bytes.abs_diff(burst) <= burst / 5_000 + grain, "{bytes} for {burst}");
    }

    /// The largest aggregate at the slowest rate does not overflow.
    #[test]
    fn no_cost_overflows(rate in rates(), len in 0_u64..=2 << 20) {
        let limit = Limit::new(rate, 65_536);
        let exact = (u128::from(len) * 8 * u128::from(SEC)).div_ceil(u128::from(rate));
        let cost = u128::from(limit.cost(len));
        // Never less than it has to be.
        prop_assert!(cost >= exact && cost <= exact + exact / 20_000 + 1);
    }
}
