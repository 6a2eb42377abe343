//! A minute as it is stored: rows of a compact binary form (postcard), packed
//! into parts that fill a page of the store.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shaper_common::flow::Traffic;
use std::net::IpAddr;

/// Bytes of a part at most, but for a row that is longer by itself. A page of the
/// store has 4096, and some of its own in it.
pub const PART: usize = 3_900;

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Bytes that passed.
    pub bytes: u64,
    /// Bytes dropped.
    pub dropped: u64,
}

impl Passed {
    /// What a counter says.
    #[must_use]
    pub const fn of(traffic: &Traffic) -> Self {
        Self {
            bytes: traffic.bytes,
            dropped: traffic.dropped_bytes,
        }
    }

    /// What came since an earlier reading. Counters wrap together with their sums.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_sub(before.bytes),
            dropped: self.dropped.wrapping_sub(before.dropped),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_add(other.bytes),
            dropped: self.dropped.wrapping_add(other.dropped),
        }
    }
}

/// By direction: upload, download.
pub type Both = [Passed; 2];

/// By direction, what came since.
#[must_use]
pub fn since(now: Both, before: Both) -> Both {
    [now[0].since(before[0]), now[1].since(before[1])]
}

/// By direction, both together.
pub fn add(sum: &mut Both, more: Both) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.plus(more);
    }
}

/// Bytes that passed, both ways.
#[must_use]
pub const fn moved(both: &Both) -> u64 {
    both[0].bytes.saturating_add(both[1].bytes)
}

/// Whether anything came at all.
#[must_use]
pub fn is_idle(both: &Both) -> bool {
    *both == Both::default()
}

/// A minute as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Milliseconds that it covers: less than 60,000 where the daemon came or went.
    pub ms: u32,
    /// All clients together.
    pub total: Both,
    /// Clients that moved something.
    pub clients: u32,
    /// Those of them without a row.
    pub others: u32,
    /// What these moved.
    pub others_passed: Both,
    /// Closed flows over the threshold that found no room.
    pub flows_cut: u32,
}

/// A client's or a server's part of a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rate {
    /// A client: its prefix.
    Client(IpAddr, u8, Both),
    /// A server of HAProxy: backend and server.
    Server(String, String, Both),
}

/// What a flow moved since its last row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The remote host.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// This host.
    pub local: IpAddr,
    /// The watched port.
    pub local_port: u16,
    /// TCP or UDP, by their number.
    pub protocol: u8,
    /// Backend and server, where HAProxy had it.
    pub place: Option<(String, String)>,
    /// When it opened, in seconds since 1970.
    pub opened: i64,
    /// The same by the kernel's clock, in ns: with the rest it names the flow.
    pub created: u64,
    /// It has closed.
    pub closed: bool,
    /// What it moved.
    pub passed: Both,
}

/// Everything of a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    pub minute: u64,
    /// The whole.
    pub head: Head,
    /// Clients and servers.
    pub rates: Vec<Rate>,
    /// Flows.
    pub flows: Vec<FlowRow>,
}

/// Rows in parts.
///
/// # Errors
/// When a row has no binary form, which none of ours lacks.
pub fn pack<T: Serialize>(rows: &[T]) -> Result<Vec<Vec<u8>>, postcard::Error> {
    let mut parts = Vec::new();
    let mut part = Vec::with_capacity(PART);
    for row in rows {
        let row = postcard::to_stdvec(row)?;
        if !part.is_empty() && part.len() + row.len() > PART {
            parts.push(std::mem::replace(&mut part, Vec::with_capacity(PART)));
        }
        part.extend(row);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    Ok(parts)
}

/// The rows of a part, one after the other.
///
/// # Errors
/// When it is none.
pub fn unpack<T: DeserializeOwned>(
    mut part: &[u8],
    mut each: impl FnMut(T),
) -> Result<(), postcard::Error> {
    while !part.is_empty() {
        let (row, rest) = postcard::take_from_bytes(part)?;
        each(row);
        part = rest;
    }
    Ok(())
}
