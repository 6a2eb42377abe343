//! How much the kernel's tables hold.

use shaper_common::names;

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
        Self {
            flows: names::MAX_FLOWS,
            udp_flows: names::MAX_UDP_FLOWS,
            clients: names::MAX_CLIENTS,
            udp_clients: names::MAX_UDP_CLIENTS,
        }
    }
}

impl Tables {
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
}
