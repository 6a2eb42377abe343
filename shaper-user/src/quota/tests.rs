//! Windows and counting, by examples and by properties.

mod clock;
mod counting;
mod storing;

use crate::policy::{Counts, Per, Quota, Then};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::sync::Arc;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn secs(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

fn quota(bytes: u64, per: Per) -> Arc<Quota> {
    Arc::new(Quota {
        bytes,
        per,
        counts: Counts::Both,
        then: Then::Block,
    })
}
