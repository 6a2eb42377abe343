//! Which address of the client namespace does what.

use crate::lab::{client_v4, client_v6};
use std::net::IpAddr;
use std::ops::Range;

/// Addresses of the client namespace, per family.
pub(super) const ADDRESSES: u8 = 64;
const LIGHT: Range<u8> = 2..8;
const STAY: Range<u8> = 8..12;
const CHURN: Range<u8> = 12..40;
const VISIT: Range<u8> = 40..58;
const FOUND: Range<u8> = 58..ADDRESSES;
/// Nobody has them: what they ask for is never completed.
const GHOSTS: Range<u8> = 190..200;

/// Uploads without end.
pub(super) fn uploader() -> IpAddr {
    client_v4(0)
}

/// Downloads without end.
pub(super) fn downloader() -> IpAddr {
    client_v6(1)
}

/// Say a little, often.
pub(super) fn light() -> Vec<IpAddr> {
    LIGHT.map(client_v4).collect()
}

fn both(range: Range<u8>) -> Vec<IpAddr> {
    range.flat_map(|n| [client_v4(n), client_v6(n)]).collect()
}

/// Have one connection each, say nothing, and stay to the end.
pub(super) fn stay() -> Vec<IpAddr> {
    both(STAY)
}

/// Come and go; limits and blocks fall on these.
pub(super) fn churn() -> Vec<IpAddr> {
    both(CHURN)
}

/// Come for some seconds and are then away for a minute and more.
pub(super) fn visitors() -> Vec<IpAddr> {
    both(VISIT)
}

/// Have connections to a port that is not always watched.
pub(super) fn found() -> Vec<IpAddr> {
    both(FOUND)
}

/// Addresses of nobody.
pub(super) fn ghosts() -> Vec<IpAddr> {
    GHOSTS.map(client_v4).collect()
}
