//! Connections whose beginning or end nobody announces.

use super::ebpf::EbpfKernel;
use super::sockets;
use anyhow::Result;
use shaper_common::class::Settings;
use shaper_common::control::op;
use shaper_common::flow::{FLOW_ADOPTED, Flow};
use shaper_common::key::{ClientKey, FlowKey, TCP};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// An announced close may be missed, where another program takes the socket's
/// callbacks: a flow that is silent so long, in ns, is looked for too.
const SILENT: u64 = 60_000_000_000;
/// How often silent flows are looked for.
const SILENT_EVERY: Duration = Duration::from_secs(60);
/// Counting anew is repeated while connections come and go in between.
const RECOUNTS: usize = 4;

impl EbpfKernel {
    /// Begins to track connections that were open before us.
    pub(super) fn adopt(&mut self) -> Result<usize> {
        let known: HashSet<FlowKey> = self.maps.tcp_flows()?.into_iter().map(|(k, _)| k).collect();
        let mut adopted = 0;
        for socket in sockets::open(self.watches())? {
            if !known.contains(&socket.key) && self.control(op::ADOPT, socket.key, 0)? {
                adopted += 1;
            }
        }
        self.next_reap = Instant::now();
        Ok(adopted)
    }

    /// Ends flows whose socket is gone: adopted ones, whose close nobody
    /// announces, and silent ones.
    pub(super) fn reap(&mut self, now: u64, flows: &mut Vec<(FlowKey, Flow)>) -> Result<()> {
        let began = Instant::now();
        if began < self.next_reap {
            return Ok(());
        }
        let adopted = |flow: &Flow| flow.flags & FLOW_ADOPTED != 0;
        let doubtful = |key: &FlowKey, flow: &Flow| {
            key.protocol == TCP && (adopted(flow) || flow.last_seen.saturating_add(SILENT) < now)
        };
        self.next_reap = began + SILENT_EVERY;
        if !flows.iter().any(|(key, flow)| doubtful(key, flow)) {
            return Ok(());
        }
        let open: HashSet<FlowKey> = sockets::open(|_| true)?
            .into_iter()
            .map(|s| s.key)
            .collect();
        let gone = |key: &FlowKey, flow: &Flow| doubtful(key, flow) && !open.contains(key);
        for (key, _) in flows.iter().filter(|(key, flow)| gone(key, flow)) {
            self.control(op::CLOSE, *key, 0)?;
        }
        flows.retain(|(key, flow)| !gone(key, flow));
        if flows.iter().any(|(_, flow)| adopted(flow)) {
            // At most a twentieth of the time goes into looking.
            let pause = Duration::from_millis(900).max(20 * began.elapsed());
            self.next_reap = Instant::now() + pause;
        }
        Ok(())
    }

    /// Ends the flows of ports that are no longer watched: their close would
    /// not be heard.
    pub(super) fn drop_unwatched(&mut self) -> Result<()> {
        let watches = self.watches();
        for (key, _) in self.maps.tcp_flows()? {
            if !watches(key.local_port) {
                self.control(op::CLOSE, key, 0)?;
            }
        }
        Ok(())
    }

    /// Counts connections anew, after the client prefix has changed.
    pub(super) fn recount(&mut self, settings: &Settings) -> Result<()> {
        for _ in 0..RECOUNTS {
            let clients = self.maps.tcp_clients()?;
            let mut counts: HashMap<ClientKey, u64> = HashMap::new();
            for (key, _) in self.maps.tcp_flows()? {
                *counts.entry(settings.client(&key.client)).or_default() += 1;
            }
            let mut wrong = Vec::new();
            for (key, client) in clients {
                let count = counts.remove(&key).unwrap_or(0);
                if u64::from(client.connections) != count {
                    wrong.push((key, count));
                }
            }
            wrong.extend(counts);
            if wrong.is_empty() {
                break;
            }
            for (client, count) in wrong {
                let key = FlowKey {
                    client: client.addr,
                    ..FlowKey::default()
                };
                self.control(op::COUNT, key, count)?;
            }
        }
        // Nothing is charged to a client of another prefix any more.
        for (client, _) in self.maps.tcp_clients()? {
            if settings.client(&client.addr) != client {
                let key = FlowKey {
                    client: client.addr,
                    ..FlowKey::default()
                };
                self.control(op::FORGET, key, u64::MAX)?;
            }
        }
        Ok(())
    }
}
