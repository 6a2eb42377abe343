//! What the core knows, for metrics.

use super::Core;
use crate::kernel::Kernel;
use crate::metrics::Snapshot;
use crate::metrics::process::Process;
use crate::model;
use crate::protocol::Query;

impl<K: Kernel> Core<K> {
    /// Everything that metrics are made of, from the last sample.
    pub fn snapshot(&self) -> Snapshot {
        let top = self.policy.metrics.unwrap_or_default().top_clients;
        let query = |limit| Query {
            limit,
            ..Query::default()
        };
        let (at, interval_ms) = (self.sampler.at(), self.sampler.interval_ms());
        // Without a filter there is nothing to refuse.
        let none = model::Servers {
            at,
            interval_ms,
            matched: 0,
            servers: Vec::new(),
            backends: Vec::new(),
        };
        let servers = self.sampler.servers(&query(None)).unwrap_or(none);
        let none = model::Clients {
            at,
            interval_ms,
            matched: 0,
            clients: Vec::new(),
        };
        // Overrides of clients that are not there have no numbers.
        let clients = self.sampler.clients(&query(Some(top as usize)), &[], &[]);
        let clients = clients.unwrap_or(none);
        Snapshot {
            status: self.status(),
            stats: *self.sampler.stats(),
            rules: self.sampler.rules(),
            servers: self.with_limits(servers),
            clients: self.with_quotas(clients),
            events: self.bus.count(),
            health: self.health.clone(),
            // Known outside of this thread.
            scrapes: [0; 2],
            process: Process::default(),
        }
    }
}
