//! How much the kernel's tables hold, and what memory they take.

use shaper_common::class::{Class, MAX_CLASSES, PORT_WORDS};
use shaper_common::flow::{Client, Flow, Handshake};
use shaper_common::group::{Group, MAX_GROUPS, MAX_MEMBERS, Member};
use shaper_common::key::{ClientKey, FlowKey};
use shaper_common::names;

/// The least that a table may hold.
pub const TABLE_MIN: u32 = 16;
/// The most flows: 2.3 GB.
pub const FLOWS_MAX: u32 = 8 << 20;
/// The most clients: 0.9 GB.
pub const CLIENTS_MAX: u32 = 4 << 20;

/// UDP flows, which a source can make that sends from any address: an eighth of
/// those of TCP.
const UDP_FLOWS_PART: u32 = 8;
/// Clients with UDP only: a quarter of the others.
const UDP_CLIENTS_PART: u32 = 4;
/// The least of both: an LRU gives out its entries to each CPU by the dozen.
const UDP_LEAST: u32 = 4096;

/// The kernel's own part of an entry of a hash table (`struct htab_elem`).
const ELEMENT: u64 = 48;
/// A slot of a hash table (`struct bucket`); there are as many as entries,
/// rounded up to a power of two.
const SLOT: u64 = 16;

/// Entries of the tables that grow with traffic. What is pinned is compared with
/// it, and moved to tables of the right size where it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// TCP flows.
    pub flows: u32,
    /// UDP flows; the least recently used leave first.
    pub udp_flows: u32,
    /// Clients with TCP flows.
    pub clients: u32,
    /// Clients with UDP only; the least recently used leave first.
    pub udp_clients: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new(names::MAX_FLOWS, names::MAX_CLIENTS)
    }
}

impl Tables {
    /// Those of a policy that says how many flows and clients of TCP there may be.
    #[must_use]
    pub fn new(flows: u32, clients: u32) -> Self {
        Self {
            flows,
            udp_flows: (flows / UDP_FLOWS_PART).max(UDP_LEAST),
            clients,
            udp_clients: (clients / UDP_CLIENTS_PART).max(UDP_LEAST),
        }
    }

    /// The maps it is about, by name.
    #[must_use]
    pub const fn by_name(&self) -> [(&'static str, u32); 4] {
        [
            (names::FLOWS, self.flows),
            (names::UDP_FLOWS, self.udp_flows),
            (names::CLIENTS, self.clients),
            (names::UDP_CLIENTS, self.udp_clients),
        ]
    }

    /// Bytes of kernel memory that all maps take from the beginning, whatever
    /// comes: an estimate by what the kernel allocates for each. The prefixes of
    /// rules come on top as they are written, some 80 bytes each.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let flow = (size_of::<FlowKey>(), size_of::<Flow>());
        let client = (size_of::<ClientKey>(), size_of::<Client>());
        let hashes = [
            (self.flows, flow),
            (self.udp_flows, flow),
            (self.clients, client),
            (self.udp_clients, client),
            (
                names::MAX_HANDSHAKES,
                (size_of::<FlowKey>(), size_of::<Handshake>()),
            ),
            (
                names::MAX_SYN_RATES,
                (size_of::<ClientKey>(), size_of::<u64>()),
            ),
            (MAX_MEMBERS, (size_of::<ClientKey>(), size_of::<Member>())),
            (names::MAX_INTERFACES, (4, 4)),
        ];
        let hashes: u64 = hashes
            .into_iter()
            .map(|(entries, (key, value))| {
                let entry = ELEMENT + (key.next_multiple_of(8) + value.next_multiple_of(8)) as u64;
                u64::from(entries) * entry + u64::from(entries.next_power_of_two()) * SLOT
            })
            .sum();
        hashes
            + 2 * u64::from(MAX_CLASSES) * size_of::<Class>() as u64
            + u64::from(MAX_GROUPS) * size_of::<Group>() as u64
            + 2 * u64::from(PORT_WORDS) * 8
            + u64::from(names::EVENT_RING_BYTES)
            + u64::from(names::UPDATE_RING_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_names_says() {
        let tables = Tables::default();
        assert_eq!(tables.udp_flows, names::MAX_UDP_FLOWS);
        assert_eq!(tables.udp_clients, names::MAX_UDP_CLIENTS);
    }

    #[test]
    fn memory_grows_with_what_the_policy_asks_for() {
        let (little, default) = (Tables::new(TABLE_MIN, TABLE_MIN), Tables::default());
        assert!(little.bytes() < 10_000_000);
        assert!((50_000_000..80_000_000).contains(&default.bytes()));
        let flows = Tables::new(FLOWS_MAX, TABLE_MIN).bytes();
        assert!((2_300_000_000..2_700_000_000).contains(&flows), "{flows}");
        let clients = Tables::new(TABLE_MIN, CLIENTS_MAX).bytes();
        assert!((850_000_000..1_200_000_000).contains(&clients), "{clients}");
    }
}
