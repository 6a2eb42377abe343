//! Several CPUs on one word, in every order that the memory model allows (loom).

use super::*;
use crate::share;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed as Count};

/// With the orderings of the kernel's word: a plain read may be stale.
struct Shared {
    word: AtomicU64,
    /// Charges that were added after every compare-and-swap was lost.
    added: AtomicUsize,
}

impl Word for Shared {
    fn load(&self) -> u64 {
        self.word.load(loom::sync::atomic::Ordering::Relaxed)
    }
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        use loom::sync::atomic::Ordering::SeqCst;
        self.word.compare_exchange(current, new, SeqCst, SeqCst)
    }
    fn fetch_add(&self, value: u64) {
        self.added.fetch_add(1, Count);
        self.word
            .fetch_add(value, loom::sync::atomic::Ordering::Relaxed);
    }
}

const MS: u64 = 1_000_000;
/// A clock that has just begun: what is taken back must not pass zero.
const NOW: u64 = 3 * MS;
/// 1 byte a microsecond, and a burst of 13 ms.
const LIMIT: Limit = Limit::new(8_000_000, 13_000);
/// An aggregate, 4 ms.
const LEN: u64 = 4_000;
const COST: u64 = LIMIT.cost(LEN);

/// What a CPU does with a packet. The number is how many ns its clock was read
/// after [`NOW`].
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A packet that may be dropped.
    Admit(u64),
    /// One that is never dropped.
    Charge(u64),
    /// One that this bucket admits and another refuses.
    Refund(u64),
    /// The limit was changed.
    Forgive(u64),
}
use Step::{Admit, Charge, Forgive, Refund};

/// What the steps of all CPUs came to, in ns of the bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    admitted: u64,
    charged: u64,
    refused: u64,
}

impl Total {
    fn step(&mut self, word: &Shared, step: Step) {
        match step {
            Admit(at) => match admit(word, NOW + at, LEN, &LIMIT) {
                Verdict::Admitted { cost, .. } => self.admitted += cost,
                Verdict::Refused => self.refused += 1,
            },
            Charge(at) => {
                assert_ne!(charge(word, NOW + at, LEN, &LIMIT), Verdict::Refused);
                self.charged += COST;
            }
            Refund(at) => {
                if admit(word, NOW + at, LEN, &LIMIT) != Verdict::Refused {
                    refund(word, LEN, &LIMIT);
                }
            }
            Forgive(at) => forgive(word, NOW + at, &LIMIT),
        }
    }
}

/// Runs a list of steps on each CPU, in every order, from a bucket that stands
/// at `start`; `check` gets what they came to and the word at the end. Returns
/// in how many orders something was added after all tries.
fn every_order(
    start: u64,
    cpus: &'static [&'static [Step]],
    check: impl Fn(Total, u64) + Sync + Send + 'static,
) -> usize {
    static FALLBACKS: Mutex<usize> = Mutex::new(0);
    static ONE_MODEL: Mutex<()> = Mutex::new(());
    let _one = ONE_MODEL
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *FALLBACKS.lock().unwrap() = 0;
    loom::model(move || {
        let shared = Arc::new(Shared {
            word: AtomicU64::new(start),
            added: AtomicUsize::new(0),
        });
        let run = |shared: Arc<Shared>, steps: &'static [Step]| {
            let mut total = Total::default();
            for step in steps {
                total.step(&shared, *step);
            }
            total
        };
        let (first, others) = cpus.split_first().unwrap();
        let others: Vec<_> = others
            .iter()
            .map(|steps| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || run(shared, steps))
            })
            .collect();
        let mut total = run(Arc::clone(&shared), first);
        for other in others {
            let other = other.join().unwrap();
            total.admitted += other.admitted;
            total.charged += other.charged;
            total.refused += other.refused;
        }
        let refunds = cpus.iter().flat_map(|steps| steps.iter());
        let refunds = refunds.filter(|step| matches!(step, Refund(_))).count();
        if shared.added.load(Count) > refunds {
            *FALLBACKS.lock().unwrap() += 1;
        }
        check(total, shared.load());
    });
    *FALLBACKS.lock().unwrap()
}

/// Where a bucket may stand: long full, and with so much debt.
const STARTS: [u64; 4] = [0, NOW, NOW + 7 * MS, NOW + LIMIT.tau];

/// In one instant nothing is charged that was not passed, nothing passes that is
/// not charged, and no more passes than the burst and one aggregate a CPU.
fn exact(start: u64, cpus: u64) -> impl Fn(Total, u64) {
    move |total, end| {
        let debt_before = debt(start, NOW);
        assert_eq!(
            debt(end, NOW),
            debt_before + total.admitted + total.charged,
            "{total:?}"
        );
        let room = LIMIT.tau.saturating_sub(debt_before);
        assert!(
            total.admitted <= room + cpus * COST,
            "{total:?} from {debt_before}"
        );
        if total.charged == 0 {
            assert!(total.refused == 0 || debt(end, NOW) > LIMIT.tau);
        }
    }
}

#[test]
fn two_cpus_charge_exactly_what_passes() {
    for start in STARTS {
        every_order(
            start,
            &[&[Admit(0), Admit(0)], &[Admit(0), Charge(0)]],
            exact(start, 2),
        );
    }
}

#[test]
fn three_cpus_pass_one_aggregate_each_over_the_burst_at_most() {
    for start in [0, NOW + LIMIT.tau] {
        every_order(
            start,
            &[&[Admit(0)], &[Admit(0)], &[Admit(0)]],
            exact(start, 3),
        );
    }
}

#[test]
fn who_loses_every_try_is_charged_too() {
    let fallbacks = every_order(
        NOW,
        &[&[Admit(0)], &[Charge(0), Charge(0), Charge(0), Charge(0)]],
        exact(NOW, 2),
    );
    assert!(fallbacks > 0, "no order lost every try");
}

#[test]
fn a_refund_takes_back_its_own_charge_and_no_other() {
    for start in STARTS {
        every_order(
            start,
            &[&[Refund(0)], &[Admit(0), Charge(0)]],
            move |total, end| {
                let owed = debt(start, NOW) + total.admitted + total.charged;
                assert_eq!(debt(end, NOW), owed, "{total:?}");
            },
        );
    }
}

#[test]
fn clocks_that_differ_lose_no_more_than_they_differ() {
    const APART: u64 = MS;
    for start in STARTS {
        every_order(
            start,
            &[
                &[Admit(APART), Admit(APART)],
                &[Admit(0), Charge(APART / 2)],
            ],
            move |total, end| {
                let passed = total.admitted + total.charged;
                // By the clock that is behind all is owed still, by the other one
                // what is not over.
                assert!(debt(end, NOW) >= debt(start, NOW) + passed, "{total:?}");
                assert!(debt(end, NOW + APART) <= debt(start, NOW) + passed);
                let room = LIMIT.tau.saturating_sub(debt(start, NOW));
                assert!(total.admitted <= APART + room + 2 * COST, "{total:?}");
            },
        );
    }
}

#[test]
fn a_limit_that_changes_under_way_neither_locks_a_client_nor_frees_it() {
    for start in [0, NOW + LIMIT.tau, NOW + 500 * MS] {
        every_order(
            start,
            &[&[Refund(0), Admit(0)], &[Forgive(0)]],
            move |total, end| {
                let most = debt(start, NOW).min(LIMIT.tau);
                assert!(debt(end, NOW) <= most + 2 * COST, "{total:?}: {end}");
                // A refund may come after what it takes back was forgiven.
                assert!(debt(end, NOW) + COST >= total.admitted.min(LIMIT.tau));
            },
        );
        every_order(
            start,
            &[&[Charge(0)], &[Forgive(0)], &[Admit(0)]],
            move |total, end| {
                let owed = debt(start, NOW).min(LIMIT.tau) + total.admitted + total.charged;
                assert!((LIMIT.tau.min(owed)..=owed).contains(&debt(end, NOW)));
            },
        );
    }
}

/// Counts the flows of a client from several CPUs at once, in both directions.
fn counted(directions: &'static [u32]) {
    loom::model(move || {
        let shared = Arc::new(Shared {
            word: AtomicU64::new(0),
            added: AtomicUsize::new(0),
        });
        let add = |shared: &Shared, direction| {
            assert!(update(shared, |word| share::count(word, NOW, direction)));
        };
        let (first, others) = directions.split_first().unwrap();
        let others: Vec<_> = others
            .iter()
            .map(|direction| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || add(&shared, *direction))
            })
            .collect();
        add(&shared, *first);
        for other in others {
            other.join().unwrap();
        }
        for direction in [0, 1] {
            let flows = directions.iter().filter(|d| **d == direction).count();
            assert_eq!(
                share::active(shared.load(), NOW, direction),
                flows.max(1) as u64
            );
        }
    });
}

#[test]
fn flows_that_become_active_at_once_are_all_counted() {
    counted(&[0, 0, 1]);
    counted(&[0, 1]);
    counted(&[1, 1, 1]);
}
