//! Every input that is kept in `fuzz/corpus`, and every crash that fuzzing once
//! found, through the very checks of the fuzz targets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "so a test fails")]

extern crate self as aya_ebpf;

#[path = "../fuzz/packet.rs"]
mod packet;

use packet::{bindings, helpers, programs};
use shaper_user::fuzz;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut failed = Vec::new();
    let mut inputs = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        inputs += 1;
        if catch_unwind(AssertUnwindSafe(|| check(&data))).is_err() {
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(inputs >= 15, "only {inputs} inputs");
}

#[test]
fn policies_that_are_kept() {
    replay("policy", fuzz::policy);
}

#[test]
fn requests_that_are_kept() {
    replay("protocol", fuzz::protocol);
}

#[test]
fn answers_of_haproxy_that_are_kept() {
    replay("haproxy", fuzz::haproxy);
}

#[test]
fn packets_that_are_kept() {
    replay("packet", packet::packet);
}
