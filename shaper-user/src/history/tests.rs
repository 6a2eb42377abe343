//! The store and its thread: bounds, damage, what is left after a kill.

use super::record::{Both, FlowRow, Head, Minute, Passed, Rate};
use super::store::{Store, aside};
use super::*;
use crate::protocol::HistoryQuery;
use crate::redb_file::StoreError;
use crate::testing::{FakeKernel, at, client, compiled};
use jiff::Timestamp;
use proptest::prelude::*;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tempfile::TempDir;

const MEGABYTE: u64 = 1_000_000;

fn settings(dir: &TempDir) -> Settings {
    Settings {
        path: dir.path().join("state").join(FILE),
        make_directory: true,
        hours: 24,
        max_size: 16 * MEGABYTE,
    }
}

fn both(bytes: u64) -> Both {
    [
        Passed { bytes, dropped: 1 },
        Passed {
            bytes: 7,
            dropped: 0,
        },
    ]
}

fn flow(n: u32, minute: u64) -> FlowRow {
    FlowRow {
        client: Ipv4Addr::from(0x0a00_0000 + n).into(),
        client_port: 4_000,
        local: Ipv4Addr::LOCALHOST.into(),
        local_port: 443,
        protocol: 6,
        place: Some(("be_ws".to_owned(), "srv1".to_owned())),
        opened: 1_800_000_000,
        created: u64::from(n),
        closed: minute.is_multiple_of(2),
        passed: both(1_000_000),
    }
}

/// A minute with so many clients and flows.
fn minute(minute: u64, rows: u32) -> Minute {
    let ip = |n: u32| Ipv4Addr::from(0x0a00_0000 + n).into();
    let mut rates: Vec<_> = (0..rows)
        .map(|n| Rate::Client(ip(n), 32, both(1_000 + u64::from(n))))
        .collect();
    rates.push(Rate::Server("be_ws".to_owned(), "srv1".to_owned(), both(5)));
    Minute {
        minute,
        head: Head {
            ms: 60_000,
            total: both(minute),
            clients: rows,
            ..Head::default()
        },
        rates,
        flows: (0..rows).map(|n| flow(n, minute)).collect(),
    }
}

fn read(store: &Store) -> Result<Vec<Minute>, StoreError> {
    let mut minutes: std::collections::BTreeMap<u64, Minute> = Default::default();
    let all = 0..u64::MAX;
    store.heads(all.clone(), |n, head| {
        let minute = minutes.entry(n).or_default();
        (minute.minute, minute.head) = (n, head);
    })?;
    store.rates(all.clone(), |n, rate| {
        minutes.entry(n).or_default().rates.push(rate)
    })?;
    store.flows(all, |n, flow| {
        minutes.entry(n).or_default().flows.push(flow)
    })?;
    Ok(minutes.into_values().collect())
}

#[test]
fn what_is_written_is_read_back_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    let mut store = Store::open(&settings).unwrap();
    let minutes: Vec<_> = (100..103).map(|n| minute(n, 300)).collect();
    for n in 0..3 {
        store.write(&minutes[n..=n], 100 + n as u64).unwrap();
        // The file as a kill at this moment leaves it: the store is still open.
        let killed = Settings {
            path: dir.path().join(format!("killed{n}")),
            ..settings.clone()
        };
        fs::copy(&settings.path, &killed.path).unwrap();
        let killed = Store::open(&killed).unwrap();
        assert_eq!(read(&killed).unwrap(), minutes[..=n]);
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&settings.path).unwrap());
    assert_eq!(mode & 0o777, 0o600, "it says who was here");
}

#[test]
fn what_is_too_old_goes_and_a_minute_may_come_twice() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        hours: 1,
        ..settings(&dir)
    };
    let mut store = Store::open(&settings).unwrap();
    for n in [1_000, 1_000, 1_030, 1_061] {
        store.write(&[minute(n, 2)], n).unwrap();
    }
    let kept = read(&store).unwrap();
    let names: Vec<_> = kept.iter().map(|minute| minute.minute).collect();
    assert_eq!(names, [1_030, 1_061]);
    store.write(&[minute(1_061, 3)], 1_061).unwrap();
    let kept = read(&store).unwrap();
    assert_eq!(kept[1].flows.len(), 5, "both halves of the minute");
}

#[test]
fn the_file_stays_within_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    let mut store = Store::open(&settings).unwrap();
    let mut written = 0;
    let mut n = 0;
    // Six times what there is room for, in minutes as large as they get and others.
    while written < 2 * settings.max_size {
        n += 1;
        let minute = minute(n, if n % 10 == 0 { 5_000 } else { 2_000 });
        let parts = record::pack(&minute.flows).unwrap();
        written += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        store.write(std::slice::from_ref(&minute), n).unwrap();
        let size = fs::metadata(&settings.path).unwrap().len();
        assert!(size <= settings.max_size, "{size} in minute {n}");
    }
    let oldest = store.oldest().unwrap().unwrap();
    assert!((2..n).contains(&oldest), "{oldest} of {n}");
    // What is kept is whole.
    let kept = read(&store).unwrap();
    assert_eq!(kept.len() as u64, n - oldest + 1);
    for kept in kept {
        assert_eq!(kept, minute(kept.minute, kept.head.clients));
    }
}

#[test]
fn a_smaller_limit_makes_a_large_file_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let large = Settings {
        max_size: 128 * MEGABYTE,
        ..settings(&dir)
    };
    let mut store = Store::open(&large).unwrap();
    for n in 0..30 {
        store.write(&[minute(n, 20_000)], n).unwrap();
    }
    drop(store);
    assert!(fs::metadata(&large.path).unwrap().len() > 16 * MEGABYTE);
    let small = settings(&dir);
    let store = Store::open(&small).unwrap();
    assert!(!read(&store).unwrap().is_empty());
    drop(store);
    let size = fs::metadata(&small.path).unwrap().len();
    assert!(size <= small.max_size, "{size}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever becomes of the file: it is read, or it is told that it is damaged.
    #[test]
    fn no_damage_is_fatal(
        cut in proptest::option::of(0.0..1.0_f64),
        flips in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir);
        let mut store = Store::open(&settings).unwrap();
        store.write(&[minute(1, 500), minute(2, 500)], 2).unwrap();
        drop(store);
        let mut bytes = fs::read(&settings.path).unwrap();
        let place = |part: f64, len: usize| ((len as f64) * part) as usize;
        for (part, flip) in &flips {
            let at = place(*part, bytes.len());
            bytes[at] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(place(cut, bytes.len()));
        }
        fs::write(&settings.path, &bytes).unwrap();
        match Store::open(&settings) {
            Err(StoreError::Damaged(_) | StoreError::Unavailable(_)) => {}
            Ok(mut store) => {
                let _ = read(&store);
                let _ = store.write(&[minute(3, 10)], 3);
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(store)));
            }
        }
    }
}

/// A daemon's sampler, a recorder and its thread.
struct Lab {
    sampler: crate::sampler::Sampler,
    kernel: FakeKernel,
    recorder: Recorder,
    keeper: Keeper,
    policy: History,
}

fn lab(path: PathBuf) -> Lab {
    let kernel = FakeKernel::new(Vec::new(), vec![client("203.0.113.9")]);
    let (recorder, keeper) = start().unwrap();
    Lab {
        sampler: crate::sampler::Sampler::new(Arc::new(compiled()), 1, at(0)),
        kernel,
        recorder,
        keeper,
        policy: History {
            path: Some(path),
            ..History::default()
        },
    }
}

impl Lab {
    fn second(&mut self, now: Timestamp, bytes: u64) {
        use crate::kernel::Kernel;
        self.kernel.state().sample.clients[0].1.traffic[0].bytes += bytes;
        let sample = self.kernel.sample().unwrap();
        self.sampler.observe(sample, now);
        let none = Path::new("/nowhere");
        self.recorder
            .observe(&self.policy, none, &self.sampler, now);
    }

    async fn ask(&self) -> Result<crate::model::History, crate::protocol::ErrorBody> {
        let query = HistoryQuery {
            since: Some(at(-600)),
            until: Some(at(6_000)),
            ..HistoryQuery::default()
        };
        self.keeper.query(query).await
    }
}

#[tokio::test]
async fn minutes_are_asked_for_while_more_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = lab(dir.path().join(FILE));
    for second in 0..150 {
        lab.second(at(second), 1_000);
    }
    let answer = lab.ask().await.unwrap();
    assert_eq!(answer.minutes.len(), 2, "the third is open");
    assert_eq!(answer.clients[0].client, "203.0.113.9");
    lab.recorder.finish(&lab.sampler);
    let answer = lab.ask().await.unwrap();
    assert_eq!(answer.minutes.len(), 3);
    // All but what the first sample had.
    assert_eq!(answer.clients[0].upload.bytes, 149_000);
    assert_eq!(answer.minutes[1].upload.rate_bps, Some(8_000));
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    fs::write(&path, "no store at all".repeat(1_000)).unwrap();
    let mut lab = lab(path.clone());
    for second in 0..70 {
        lab.second(at(second), 1_000);
    }
    let answer = lab.ask().await.unwrap();
    assert_eq!(answer.minutes.len(), 1, "a new one has begun");
    assert!(fs::read(aside(&path)).unwrap().starts_with(b"no store"));
    let warnings = lab.keeper.warnings();
    assert!(warnings[0].contains("damaged"), "{warnings:?}");
    fs::remove_file(aside(&path)).unwrap();
    for second in 70..130 {
        lab.second(at(second), 1_000);
    }
    lab.ask().await.unwrap();
    assert_eq!(lab.keeper.warnings(), [""; 0], "the operator looked at it");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told_of_and_not_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    // A file where a directory is needed.
    fs::write(&place, "").unwrap();
    let mut lab = lab(place.join(FILE));
    for second in 0..70 {
        lab.second(at(second), 1_000);
    }
    let error = lab.ask().await.unwrap_err();
    assert!(
        error.message.contains("cannot be written"),
        "{}",
        error.message
    );
    assert_eq!(lab.keeper.warnings().len(), 1);
    // It goes again: what waited is written with what came since.
    fs::remove_file(&place).unwrap();
    for second in 70..130 {
        lab.second(at(second), 1_000);
    }
    assert_eq!(lab.ask().await.unwrap().minutes.len(), 2);
    assert_eq!(lab.keeper.warnings(), [""; 0]);
}

#[tokio::test]
async fn without_a_place_there_is_no_history_and_the_reason() {
    let policy = History::default();
    let dir = tempfile::tempdir().unwrap();
    let why = Settings::of(&policy, &dir.path().join("none")).unwrap_err();
    assert!(why.contains("set `path` in [history]"), "{why}");
    let found = Settings::of(&policy, dir.path()).unwrap();
    assert_eq!(found.path, dir.path().join("history.redb"));
    assert!(!found.make_directory);
    let mut lab = lab(dir.path().join(FILE));
    lab.policy.enabled = false;
    lab.second(at(0), 1);
    let error = lab.ask().await.unwrap_err();
    assert!(
        error.message.contains("enabled = false"),
        "{}",
        error.message
    );
    assert!(!dir.path().join(FILE).exists());
}

#[test]
fn questions_with_mistakes_are_refused_and_answers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        hours: 168,
        ..settings(&dir)
    };
    let mut store = Store::open(&settings).unwrap();
    let now = at(0);
    let last = u64::try_from(now.as_second() / 60).unwrap();
    let first = last - 7 * 24 * 60 + 1;
    let minutes: Vec<_> = (first..=last).map(|n| minute(n, 3)).collect();
    store.write(&minutes, last).unwrap();
    let ask = |query: HistoryQuery| query::answer(&store, &settings, &query, now);
    let all = HistoryQuery {
        since: Some(Timestamp::MIN),
        limit: Some(usize::MAX),
        ..HistoryQuery::default()
    };
    let answer = ask(all.clone()).unwrap();
    assert!(answer.minutes.len() <= 1_440, "{}", answer.minutes.len());
    assert_eq!(answer.step_ms % 60_000, 0);
    let sum: u64 = answer.minutes.iter().map(|m| m.upload.bytes).sum();
    assert_eq!(sum, (first..=last).sum::<u64>());
    assert_eq!((answer.clients.len(), answer.flows.len()), (3, 3));
    let one = HistoryQuery {
        client: Some("10.0.0.2".to_owned()),
        server: Some("be_ws/srv1".to_owned()),
        ..all.clone()
    };
    let answer = ask(one).unwrap();
    assert_eq!(answer.flows.len(), 1);
    let sum: u64 = answer.minutes.iter().map(|m| m.upload.bytes).sum();
    assert_eq!(sum, answer.flows[0].upload.bytes, "of its flows alone");
    for wrong in [
        HistoryQuery {
            client: Some("nobody".to_owned()),
            ..HistoryQuery::default()
        },
        HistoryQuery {
            server: Some("srv1".to_owned()),
            ..HistoryQuery::default()
        },
        HistoryQuery {
            since: Some(at(60)),
            until: Some(at(0)),
            ..HistoryQuery::default()
        },
    ] {
        assert!(matches!(ask(wrong), Err(query::Refused::Query(_))));
    }
}
