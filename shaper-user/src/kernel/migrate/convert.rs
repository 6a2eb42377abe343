//! Entries of the tables, from the layout that an earlier version wrote.
//!
//! The rule that makes this short: a value only ever grows at its end, and zero
//! means what the version before did. Whoever has to break it raises
//! [`names::ABI`] and reads the old layout here, by the version that is passed.

use aya::Pod;
use shaper_common::control::{Control, op};
use shaper_common::flow::{Client, FLOW_EDGE, Flow, MERGED, Traffic};
use shaper_common::key::{ClientKey, FlowKey};
use shaper_common::names;
use std::hash::Hash;

/// What is moved.
pub(super) trait Entry: Pod + bytemuck::Pod {
    type Key: Pod + bytemuck::Pod + Eq + Hash;

    fn flags(&mut self) -> &mut u32;
    fn traffic(&mut self) -> &mut [Traffic; 2];
    fn held(&mut self) -> Option<&mut [u64; 2]>;
    /// Which stay where the new table is too small: the greatest.
    fn worth(&self) -> (bool, u64);
    /// The request that adds the counters; its buckets are the caller's.
    fn request(&self, key: &Self::Key) -> Control;

    /// Reads a value; `None` where this build cannot.
    fn read(version: u32, bytes: &[u8]) -> Option<Self> {
        readable::<Self>(version, bytes.len()).then(|| {
            let mut value = Self::zeroed();
            bytemuck::bytes_of_mut(&mut value)[..bytes.len()].copy_from_slice(bytes);
            value
        })
    }

    /// The entry to begin with in another table: its buckets and what is known of
    /// it, but no counts. They are added once, when no program counts in the old
    /// table any more: so a crash in between loses and doubles nothing.
    fn begun(mut self) -> Self {
        for traffic in self.traffic() {
            *traffic = Traffic {
                tat: traffic.tat,
                ..Traffic::NEW
            };
        }
        if let Some(held) = self.held() {
            *held = [0; 2];
        }
        *self.flags() &= !MERGED;
        self
    }

    /// The entry with everything, for a table that does not have it.
    fn whole(mut self) -> Self {
        *self.flags() |= MERGED;
        self
    }

    /// Its buckets.
    fn buckets(mut self) -> [u64; 2] {
        self.traffic().map(|traffic| traffic.tat)
    }
}

/// Whether values of this length, written by this version, can be read.
pub(super) fn readable<T>(version: u32, len: usize) -> bool {
    version <= names::ABI && len <= size_of::<T>() && len >= size_of::<[Traffic; 2]>()
}

impl Entry for Flow {
    type Key = FlowKey;

    fn flags(&mut self) -> &mut u32 {
        &mut self.flags
    }

    fn traffic(&mut self) -> &mut [Traffic; 2] {
        &mut self.traffic
    }

    fn held(&mut self) -> Option<&mut [u64; 2]> {
        None
    }

    fn worth(&self) -> (bool, u64) {
        (false, self.last_seen)
    }

    fn request(&self, key: &FlowKey) -> Control {
        let edged = self.flags & FLOW_EDGE != 0;
        Control {
            op: op::MERGE,
            key: *key,
            traffic: self.traffic,
            edges: if edged {
                [self.edge, self.honoured]
            } else {
                [0; 2]
            },
            ..Control::default()
        }
    }
}

impl Entry for Client {
    type Key = ClientKey;

    fn flags(&mut self) -> &mut u32 {
        &mut self.flags
    }

    fn traffic(&mut self) -> &mut [Traffic; 2] {
        &mut self.traffic
    }

    fn held(&mut self) -> Option<&mut [u64; 2]> {
        Some(&mut self.held)
    }

    fn worth(&self) -> (bool, u64) {
        (self.connections > 0, self.last_seen)
    }

    fn request(&self, key: &ClientKey) -> Control {
        Control {
            op: op::MERGE,
            key: FlowKey {
                client: key.addr,
                ..FlowKey::default()
            },
            traffic: self.traffic,
            held: self.held,
            ..Control::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let mut flow = Flow::NEW;
        flow.traffic[1] = Traffic {
            tat: 7,
            bytes: 1000,
            packets: 10,
            dropped_bytes: 100,
            dropped_packets: 1,
        };
        flow.flags = FLOW_EDGE | MERGED;
        flow.edge = 5;
        flow.own[0].interval = 9;
        flow
    }

    #[test]
    fn a_value_of_a_shorter_layout_is_read() {
        // Before flows had limits of their own.
        let whole = flow();
        let bytes = bytemuck::bytes_of(&whole);
        let read = Flow::read(0, &bytes[..136]).unwrap();
        assert_eq!(read.own[0].interval, 0);
        assert_eq!(
            Flow {
                own: whole.own,
                ..read
            },
            whole
        );
        assert_eq!(Flow::read(names::ABI, bytes), Some(whole));
    }

    #[test]
    fn what_this_build_does_not_know_is_not_read() {
        let whole = flow();
        let bytes = bytemuck::bytes_of(&whole);
        assert_eq!(Flow::read(names::ABI + 1, bytes), None);
        assert_eq!(Flow::read(names::ABI, &[0; 400]), None);
        assert_eq!(Flow::read(0, &[0; 8]), None);
    }

    #[test]
    fn an_entry_begins_with_its_buckets_and_without_counts() {
        let begun = flow().begun();
        assert_eq!(begun.buckets(), [0, 7]);
        assert_eq!(begun.traffic[1].bytes, 0);
        assert_eq!(begun.flags, FLOW_EDGE);
        assert_eq!((begun.edge, begun.own), (5, flow().own));
        assert_eq!(flow().whole(), flow());
        let request = flow().request(&FlowKey::default());
        assert_eq!((request.traffic, request.edges), (flow().traffic, [5, 0]));
    }
}
