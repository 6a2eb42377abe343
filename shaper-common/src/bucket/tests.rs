use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

struct Bucket(AtomicU64);

impl Bucket {
    fn full() -> Self {
        Self(AtomicU64::new(0))
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

proptest! {
    /// Whatever comes when: never more than rate × t + burst + one packet, and a
    /// sender that always has something gets at least the rate.
    #[test]
    fn the_rate_holds_over_any_interval(
        rate in 1_000_u64..400_000_000_000,
        burst in 1_u64..10_000_000,
        len in 64_u64..65_536,
        gaps in prop::collection::vec(0_u64..50_000_000, 1..400),
    ) {
        let limit = Limit::new(rate, burst);
        let bucket = Bucket::full();
        let (mut now, mut passed) = (START, 0_u64);
        for gap in gaps {
            now += gap;
            if admit(&bucket, now, len, &limit) != Verdict::Refused {
                passed += len;
            }
        }
        let elapsed = u128::from(now - START);
        // One byte's worth of nanosecond rounding per packet at most.
        let slack = u128::from(rate) * 400 / 8 / u128::from(SEC);
        let bound = u128::from(rate) * elapsed / 8 / u128::from(SEC) + u128::from(burst + len) + slack + 1;
        prop_assert!(u128::from(passed) <= bound, "{passed} > {bound}");
    }

    /// Rates survive the fixed point to a hundredth of a percent.
    #[test]
    fn a_limit_reads_back(rate in 1_000_u64..400_000_000_000, burst in 65_536_u64..1_000_000_000) {
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
    fn no_cost_overflows(rate in 1_000_u64..400_000_000_000, len in 0_u64..=524_280) {
        let limit = Limit::new(rate, 65_536);
        let exact = u128::from(len) * 8 * u128::from(SEC) / u128::from(rate);
        let cost = u128::from(limit.cost(len));
        prop_assert!(cost + 1 >= exact && cost <= exact + exact / 10_000 + 1);
    }
}
