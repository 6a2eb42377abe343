//! The counters of the last sample, and of what went with it, for the history.

use super::Sampler;
use crate::history::record::{Both, Passed};
use shaper_common::flow::{Flow, Traffic};
use shaper_common::key::{Addr, ClientKey, FlowKey};
use std::sync::Arc;

/// Backend and server.
pub type Names = (Arc<str>, Arc<str>);

/// What the last sample has not any more, with its last counters.
#[derive(Debug, Default)]
pub struct Left {
    /// Flows that closed, with where HAProxy had them.
    pub flows: Vec<(FlowKey, Flow, Option<Names>)>,
    /// Clients that left, or count from zero again, by direction.
    pub clients: Vec<(ClientKey, [Option<Traffic>; 2])>,
}

impl Left {
    pub(super) fn clear(&mut self) {
        self.flows.clear();
        self.clients.clear();
    }
}

impl Sampler {
    /// What the last sample has not any more.
    #[must_use]
    pub const fn left(&self) -> &Left {
        &self.left
    }

    /// ktime of the last sample in ns.
    #[must_use]
    pub const fn ktime(&self) -> u64 {
        self.now
    }

    /// Every client with its counters.
    pub fn client_counters(&self) -> impl Iterator<Item = (ClientKey, &[Traffic; 2])> {
        self.clients
            .iter()
            .map(|state| (state.key, &state.kernel.traffic))
    }

    /// Every flow, with where HAProxy has it.
    pub fn flow_counters(&self) -> impl Iterator<Item = (&FlowKey, &Flow, Option<Names>)> {
        self.flows.iter().enumerate().map(|(index, (key, flow))| {
            let server = self.pinned.at(index).and_then(|n| self.pinned.get(n));
            let names = server.map(|at| (at.backend.clone(), at.server.clone()));
            (key, flow, names)
        })
    }

    /// Every server with what it passed.
    pub fn server_counters(&self) -> impl Iterator<Item = (Names, Both)> {
        self.pinned.all().map(|server| {
            let passed = server.passed.each_ref().map(|passed| Passed {
                bytes: passed.bytes,
                dropped: passed.dropped_bytes,
            });
            ((server.backend.clone(), server.server.clone()), passed)
        })
    }

    /// Bits of an address that name a client.
    #[must_use]
    pub fn prefix_bits(&self, addr: &Addr) -> u32 {
        self.client_bits(addr)
    }
}
