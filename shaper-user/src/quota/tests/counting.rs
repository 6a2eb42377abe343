use super::super::ledger::Ledger;
use super::super::row::Level;
use super::super::stored::{Meta, Stored};
use crate::policy::{Compiled, Policy};
use crate::testing::client;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: i64 = 1_800_000_000;
const NAME: &str = "192.0.2.1";

fn policy() -> Policy {
    let text = "[default]\nquota = { bytes = \"1kB\", per = \"month\", then = \"block\" }";
    Policy::parse("p", text).unwrap()
}

fn net() -> IpNet {
    "192.0.2.1/32".parse().unwrap()
}

/// A store that keeps what was written.
#[derive(Clone, Default)]
struct Disk {
    meta: Option<Meta>,
    rows: BTreeMap<IpNet, Stored>,
}

impl Disk {
    fn write(&mut self, ledger: &mut Ledger) {
        let (meta, changes) = ledger.changes();
        self.meta = Some(meta);
        for (net, row) in changes {
            match row {
                Some(row) => drop(self.rows.insert(net, row)),
                None => drop(self.rows.remove(&net)),
            }
        }
    }

    fn start(&self, policy: &Policy, compiled: &Compiled, made: bool) -> Ledger {
        let rows = self.rows.iter();
        let rows = rows.map(|(net, row)| (*net, row.clone().into_row().unwrap()));
        let before = self.meta.clone().map(|meta| (meta, rows.collect()));
        let mut ledger = Ledger::new(policy, 1, made, before);
        ledger.set_policy(policy, compiled, NOW);
        ledger
    }
}

fn observe(ledger: &mut Ledger, compiled: &Compiled, counters: Option<[u64; 2]>) {
    let (key, _) = client(NAME);
    let quota = compiled.classes[0].quota.as_ref();
    let rows = counters.map(|counters| (key, 128, quota, counters));
    ledger.observe(rows.into_iter(), NOW);
}

fn used(ledger: &Ledger, compiled: &Compiled) -> u64 {
    ledger.view(net(), compiled, NOW).unwrap().used
}

#[test]
fn what_moved_before_there_was_a_quota_is_not_counted() {
    let (policy, plain) = (policy(), Policy::parse("p", "").unwrap());
    let compiled = policy.compile(&[]).unwrap();
    // Maps of before, and no store.
    let mut ledger = Disk::default().start(&policy, &compiled, false);
    observe(&mut ledger, &compiled, Some([900, 900]));
    observe(&mut ledger, &compiled, Some([950, 900]));
    assert_eq!(used(&ledger, &compiled), 50);
    // A reload that gives everybody one.
    let none = plain.compile(&[]).unwrap();
    let mut ledger = Disk::default().start(&plain, &none, true);
    ledger.set_policy(&policy, &compiled, NOW);
    observe(&mut ledger, &compiled, Some([700, 0]));
    observe(&mut ledger, &compiled, Some([701, 0]));
    assert_eq!(used(&ledger, &compiled), 1);
}

#[test]
fn who_came_while_no_daemon_ran_is_counted_whole() {
    let policy = policy();
    let compiled = policy.compile(&[]).unwrap();
    let mut disk = Disk::default();
    disk.write(&mut disk.start(&policy, &compiled, true));
    let mut ledger = disk.start(&policy, &compiled, false);
    observe(&mut ledger, &compiled, Some([300, 100]));
    assert_eq!(used(&ledger, &compiled), 400);
}

#[test]
fn counters_of_another_place_are_read_anew() {
    let policy = policy();
    let compiled = policy.compile(&[]).unwrap();
    let mut disk = Disk::default();
    let mut ledger = disk.start(&policy, &compiled, true);
    observe(&mut ledger, &compiled, Some([100, 0]));
    disk.write(&mut ledger);
    disk.meta.as_mut().unwrap().place = 7;
    let mut ledger = disk.start(&policy, &compiled, false);
    observe(&mut ledger, &compiled, Some([500, 0]));
    assert_eq!(used(&ledger, &compiled), 100);
}

#[test]
fn notices_come_once_also_after_a_restart() {
    let policy = policy();
    let compiled = policy.compile(&[]).unwrap();
    let mut disk = Disk::default();
    let mut ledger = disk.start(&policy, &compiled, true);
    let (key, _) = client(NAME);
    let quota = compiled.classes[0].quota.as_ref();
    let levels = |ledger: &mut Ledger, bytes| {
        let row = (key, 128, quota, [bytes, 0]);
        let notices = ledger.observe([row].into_iter(), NOW);
        notices
            .iter()
            .map(|notice| notice.level)
            .collect::<Vec<_>>()
    };
    assert_eq!(levels(&mut ledger, 799), []);
    assert_eq!(levels(&mut ledger, 800), [Level::Near]);
    assert_eq!(levels(&mut ledger, 999), []);
    disk.write(&mut ledger);
    let mut ledger = disk.start(&policy, &compiled, false);
    assert_eq!(levels(&mut ledger, 999), []);
    assert_eq!(levels(&mut ledger, 1000), [Level::Reached]);
    assert_eq!(ledger.over(), [net()]);
    assert_eq!(levels(&mut ledger, 5000), []);
    ledger
        .change(net(), &compiled, NOW, |row| row.give(10_000, NOW))
        .unwrap();
    assert_eq!(ledger.over(), []);
    assert_eq!(ledger.view(net(), &compiled, NOW).unwrap().bytes, 11_000);
}

#[test]
fn a_sample_that_comes_past_both_says_both() {
    let policy = policy();
    let compiled = policy.compile(&[]).unwrap();
    let mut ledger = Disk::default().start(&policy, &compiled, true);
    let quota = compiled.classes[0].quota.as_ref();
    let row = (client(NAME).0, 128, quota, [5000, 0]);
    let notices = ledger.observe([row].into_iter(), NOW);
    let levels: Vec<_> = notices.iter().map(|notice| notice.level).collect();
    assert_eq!(levels, [Level::Near, Level::Reached]);
}

#[test]
fn rows_of_past_windows_leave_the_store() {
    let policy = policy();
    let compiled = policy.compile(&[]).unwrap();
    let mut disk = Disk::default();
    let mut ledger = disk.start(&policy, &compiled, true);
    observe(&mut ledger, &compiled, Some([100, 0]));
    for _ in 0..4 {
        observe(&mut ledger, &compiled, None);
    }
    disk.write(&mut ledger);
    assert_eq!(disk.rows.len(), 1);
    ledger.observe(std::iter::empty(), NOW + 40 * 86_400);
    disk.write(&mut ledger);
    assert!(disk.rows.is_empty() && ledger.is_empty());
}

/// What happens to a client and its daemon.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Bytes, then a sample.
    Moves(u64, u64),
    /// Bytes that no sample has seen yet.
    Unseen(u64),
    /// What has changed reaches the disk.
    Write,
    /// kill -9 and a start that adopts the maps.
    Restart,
    /// A written store, then a reboot: the maps are gone.
    Reboot,
    /// The client is forgotten by the kernel, and known to be.
    Leaves,
    /// One sample misses it.
    Missed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = 1_u64..1000;
    let step = prop_oneof![
        4 => (bytes.clone(), bytes.clone()).prop_map(|(up, down)| Step::Moves(up, down)),
        2 => bytes.prop_map(Step::Unseen),
        2 => Just(Step::Write),
        2 => Just(Step::Restart),
        1 => Just(Step::Reboot),
        1 => Just(Step::Leaves),
        1 => Just(Step::Missed),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// Every byte is counted exactly once, whatever comes in between.
    #[test]
    fn each_byte_counts_once(steps in steps()) {
        let policy = policy();
        let compiled = policy.compile(&[]).unwrap();
        let mut disk = Disk::default();
        let mut ledger = disk.start(&policy, &compiled, true);
        disk.write(&mut ledger);
        // The kernel's counters; none while it does not know the client.
        let mut kernel: Option<[u64; 2]> = None;
        let mut moved = 0;
        let mut add = |kernel: &mut Option<[u64; 2]>, up, down| {
            let counters = kernel.get_or_insert([0; 2]);
            counters[0] += up;
            counters[1] += down;
            moved += up + down;
        };
        for step in steps {
            match step {
                Step::Moves(up, down) => {
                    add(&mut kernel, up, down);
                    observe(&mut ledger, &compiled, kernel);
                }
                Step::Unseen(up) => add(&mut kernel, up, 0),
                Step::Write => disk.write(&mut ledger),
                Step::Restart => ledger = disk.start(&policy, &compiled, false),
                Step::Reboot => {
                    // The last sample is what a write within ten seconds has.
                    observe(&mut ledger, &compiled, kernel);
                    disk.write(&mut ledger);
                    kernel = None;
                    ledger = disk.start(&policy, &compiled, true);
                    disk.write(&mut ledger);
                }
                Step::Leaves => {
                    observe(&mut ledger, &compiled, kernel);
                    kernel = None;
                    for _ in 0..3 {
                        observe(&mut ledger, &compiled, None);
                    }
                    disk.write(&mut ledger);
                }
                Step::Missed => observe(&mut ledger, &compiled, None),
            }
            // Three samples in a row without it would make it gone.
            if !matches!(step, Step::Unseen(_) | Step::Write | Step::Restart) {
                observe(&mut ledger, &compiled, kernel);
            }
        }
        observe(&mut ledger, &compiled, kernel);
        prop_assert_eq!(used(&ledger, &compiled), moved);
    }
}
