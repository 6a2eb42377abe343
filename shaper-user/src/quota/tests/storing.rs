use super::super::row::Row;
use super::super::store::{FILE, open};
use super::super::stored::{Meta, Stored, VERSION};
use super::super::writer::{Progress, Writer};
use super::*;
use crate::redb_file::StoreError;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const NOW: i64 = 1_800_000_000;

fn meta(version: u32) -> Meta {
    Meta {
        version,
        place: 1,
        policy: 2,
    }
}

fn write(path: &Path, rows: u32, version: u32) {
    let store = open(path).unwrap().store;
    let rows = (0..rows)
        .map(|n| {
            let mut row = Row::new(quota(5, Per::Rolling(86_400)), [1, 2], &TimeZone::UTC, NOW);
            row.meter.add(NOW, u64::from(n) + 1);
            let client = std::net::IpAddr::from(std::net::Ipv4Addr::from(n));
            (client.into(), Some(Stored::from(&row)))
        })
        .collect();
    store.write(&meta(version), &rows).unwrap();
}

#[test]
fn it_is_read_back_and_roots_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state").join(FILE);
    write(&path, 100, VERSION);
    let opened = open(&path).unwrap();
    assert_eq!(opened.meta, Some(meta(VERSION)));
    assert_eq!((opened.rows.len(), opened.damaged), (100, None));
    let used: u64 = opened.rows.iter().map(|(_, row)| row.meter.used()).sum();
    assert_eq!(used, 5050);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    opened
        .store
        .write(&meta(VERSION), &[(opened.rows[0].0, None)].into())
        .unwrap();
    drop(opened.store);
    assert_eq!(open(&path).unwrap().rows.len(), 99);
}

/// Opens it, however it is damaged: with what it had, or empty and the old one set
/// aside.
fn survives(path: &Path, what: &str) {
    let opened = open(path).unwrap_or_else(|error| panic!("{what}: {error}"));
    let beside = fs::read_dir(path.parent().unwrap()).unwrap();
    let aside = beside.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("usage.redb.damaged-")
    });
    let aside = aside.count();
    match opened.damaged {
        Some(why) => {
            assert!(why.contains("was damaged") && aside > 0, "{what}: {why}");
            assert!(opened.rows.is_empty() && opened.meta.is_none());
        }
        None => assert!(opened.rows.len() == 100 || opened.rows.is_empty(), "{what}"),
    }
    opened
        .store
        .write(&meta(VERSION), &BTreeMap::new())
        .unwrap();
}

fn damaged(what: &str, damage: impl Fn(&mut Vec<u8>)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    write(&path, 100, VERSION);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    survives(&path, what);
    fs::read_dir(dir.path()).unwrap().count() > 1
}

#[test]
fn truncated_it_is_set_aside() {
    for part in [1, 3, 10, 50, 90, 99] {
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() * part / 100);
        assert!(
            damaged(&format!("{part} %"), cut),
            "{part} % of it was taken"
        );
    }
}

#[test]
fn one_that_was_never_made_whole_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    write(&path, 3, VERSION);
    let mut bytes = fs::read(&path).unwrap();
    bytes[..9].fill(0);
    for part in [bytes.len(), bytes.len() / 2, 9, 1] {
        fs::write(&path, &bytes[..part]).unwrap();
        let opened = open(&path).unwrap();
        assert_eq!((opened.rows.len(), opened.damaged), (0, None));
    }
}

#[test]
fn garbage_is_set_aside() {
    let garbage = |bytes: &mut Vec<u8>| bytes.fill(0xa5);
    assert!(damaged("all", garbage));
    let text = |bytes: &mut Vec<u8>| *bytes = b"not a store\n".to_vec();
    assert!(damaged("text", text));
}

#[test]
fn flipped_bits_are_never_fatal() {
    let mut aside = 0;
    for n in 0..64_usize {
        let flip = |bytes: &mut Vec<u8>| {
            let at = n * 7919 % bytes.len().min(64 * 1024);
            for byte in bytes.iter_mut().skip(at).take(16) {
                *byte ^= 0xff;
            }
        };
        aside += usize::from(damaged(&format!("flip {n}"), flip));
    }
    assert!(aside > 0, "no damage was found");
}

#[test]
fn what_could_not_be_written_is_written_later_removals_too() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let path = state.join(FILE);
    write(&path, 3, VERSION);
    let away = dir.path().join("away");
    fs::rename(&state, &away).unwrap();
    // Nothing can be opened below a file.
    fs::write(&state, "").unwrap();

    let writer = Writer::start(path.clone(), None).unwrap();
    let until = |what: &str, done: &dyn Fn(&Progress) -> bool| {
        let begun = std::time::Instant::now();
        while !done(&writer.progress()) {
            assert!(begun.elapsed().as_secs() < 60, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    let client = |n: u8| std::net::IpAddr::from([0, 0, 0, n]).into();
    writer
        .hand_over(meta(VERSION), vec![(client(1), None)])
        .unwrap();
    until("no error", &|progress| progress.error.is_some());
    fs::remove_file(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    writer
        .hand_over(meta(VERSION), vec![(client(2), None)])
        .unwrap();
    until("not written", &|progress| progress.written.is_some());
    assert_eq!(writer.progress().error, None);
    assert!(!writer.has_lost());
    drop(writer);
    let rows = open(&path).unwrap().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0, client(0));
}

#[test]
fn another_version_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    write(&path, 3, VERSION + 6);
    let opened = open(&path).unwrap();
    let why = opened.damaged.unwrap();
    assert!(why.contains("version 7, not 1"), "{why}");
    assert!(opened.rows.is_empty());
}

#[test]
fn one_that_cannot_be_reached_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    // A file in the place of its directory: as unwritable for root as for others.
    let wrong = dir.path().join("file");
    fs::write(&wrong, "").unwrap();
    let error = open(&wrong.join(FILE)).err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // Open elsewhere.
    let path = dir.path().join(FILE);
    let first = open(&path).unwrap();
    let error = open(&path).err().unwrap();
    assert_eq!(
        error,
        StoreError::Unavailable("another process has it open".to_owned())
    );
    drop(first.store);
    assert!(open(&path).is_ok());
}
