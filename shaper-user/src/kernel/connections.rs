//! Connections whose beginning or end nobody announces.

use super::ebpf::EbpfKernel;
use super::sockets::{self, Ask, OpenSocket};
use super::sys::ktime;
use super::visits;
use anyhow::Result;
use shaper_common::class::Settings;
use shaper_common::control::op;
use shaper_common::flow::{FLOW_ADOPTED, FLOW_PACED, FLOW_WINDOW, Flow};
use shaper_common::key::{ClientKey, FlowKey, TCP};
use shaper_common::names;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// An announced close may be missed, where another program takes the socket's
/// callbacks: a flow that is silent so long, in ns, is looked for too.
const SILENT: u64 = 60_000_000_000;
/// A flow is young so long, in ns.
const YOUNG: u64 = 1_000_000_000;
/// How often silent flows are looked for.
const SILENT_EVERY: Duration = Duration::from_secs(60);
/// Counting anew is repeated while connections come and go in between.
const RECOUNTS: usize = 4;

impl EbpfKernel {
    /// Begins to track connections that were open before us, and brings them
    /// under backpressure where the kernel allows it.
    pub(super) fn adopt(&mut self) -> Result<usize> {
        let flows = self.maps.tcp_flows()?;
        let known: HashSet<FlowKey> = flows.iter().map(|(key, _)| *key).collect();
        let sockets = sockets::open(self.watches(), Ask::Scale)?;
        // Closed while nothing watched. One that has just been opened may not be
        // in the list yet.
        let open: HashSet<FlowKey> = sockets.iter().map(|socket| socket.key).collect();
        let old = ktime().saturating_sub(YOUNG);
        self.unsure.clear();
        for (key, flow) in &flows {
            if open.contains(key) {
                continue;
            }
            if flow.created < old {
                self.control(op::CLOSE, *key, 0)?;
            } else {
                self.unsure.insert(*key, flow.created);
            }
        }
        let mut adopted = HashSet::new();
        for socket in sockets {
            if self.learn(&socket)? && !known.contains(&socket.key) {
                adopted.insert(socket.key);
            }
        }
        if self.support.adopt.is_none()
            && let Err(error) = visits::run(&mut self.ebpf, names::ADOPT)
        {
            tracing::warn!("{error:#}");
            self.support.adopt = Some(format!("{error:#}"));
        }
        if !adopted.is_empty() {
            let flows = self.maps.tcp_flows()?;
            let flows = flows.iter().filter(|(key, _)| adopted.contains(key));
            self.support.learn(flows.map(|(_, flow)| flow));
        }
        self.next_reap = Instant::now();
        Ok(adopted.len())
    }

    /// Tracks a connection, or adds its window scale to what is known of it;
    /// `false` where nothing was new.
    fn learn(&self, socket: &OpenSocket) -> Result<bool> {
        let scale = socket.scale.map_or(0, |scale| u64::from(scale) + 1);
        self.control(op::ADOPT, socket.key, scale)
    }

    /// Ends flows whose socket is gone: adopted ones, whose close nobody
    /// announces, and silent ones.
    pub(super) fn reap(&mut self, now: u64, flows: &mut Vec<(FlowKey, Flow)>) -> Result<()> {
        let began = Instant::now();
        if began < self.next_reap {
            return Ok(());
        }
        // One that was seen opening may lack its handshake, and so its scale.
        let adopted = |flow: &Flow| flow.flags & FLOW_ADOPTED != 0;
        let lacking =
            |key: &FlowKey, flow: &Flow| key.protocol == TCP && flow.flags & FLOW_WINDOW == 0;
        // Those that a start was not sure of are old enough by now.
        let unsure = std::mem::take(&mut self.unsure);
        let (unsure, young): (HashMap<_, _>, _) = unsure
            .into_iter()
            .partition(|(_, created)| created.saturating_add(YOUNG) < now);
        self.unsure = young;
        let doubtful = |key: &FlowKey, flow: &Flow| {
            lacking(key, flow)
                || unsure.contains_key(key)
                || key.protocol == TCP
                    && (adopted(flow) || flow.last_seen.saturating_add(SILENT) < now)
        };
        self.next_reap = if self.unsure.is_empty() {
            began + SILENT_EVERY
        } else {
            began
        };
        if !flows.iter().any(|(key, flow)| doubtful(key, flow)) {
            return Ok(());
        }
        let ask = if flows.iter().any(|(key, flow)| lacking(key, flow)) {
            Ask::Scale
        } else {
            Ask::Addresses
        };
        let open: HashMap<FlowKey, OpenSocket> = sockets::open(|_| true, ask)?
            .into_iter()
            .map(|socket| (socket.key, socket))
            .collect();
        let gone = |key: &FlowKey, flow: &Flow| doubtful(key, flow) && !open.contains_key(key);
        for (key, _) in flows.iter().filter(|(key, flow)| gone(key, flow)) {
            self.control(op::CLOSE, *key, 0)?;
        }
        flows.retain(|(key, flow)| !gone(key, flow));
        for (key, _) in flows.iter().filter(|(key, flow)| lacking(key, flow)) {
            if let Some(socket) = open.get(key) {
                self.learn(socket)?;
            }
        }
        if flows
            .iter()
            .any(|(key, flow)| adopted(flow) || lacking(key, flow))
        {
            // At most a twentieth of the time goes into looking.
            let pause = Duration::from_millis(900).max(20 * began.elapsed());
            self.next_reap = Instant::now() + pause;
        }
        Ok(())
    }

    /// Ends the flows of ports that are no longer watched: their close would
    /// not be heard. Their sockets get their pacing rate back.
    pub(super) fn drop_unwatched(&mut self) -> Result<()> {
        let watches = self.watches();
        let mut flows = self.maps.tcp_flows()?;
        flows.retain(|(key, _)| !watches(key.local_port));
        if self.support.release.is_none()
            && flows.iter().any(|(_, flow)| flow.flags & FLOW_PACED != 0)
            && let Err(error) = visits::run(&mut self.ebpf, names::RELEASE)
        {
            tracing::warn!("{error:#}");
            self.support.release = Some(format!("{error:#}"));
        }
        for (key, _) in flows {
            self.control(op::CLOSE, key, 0)?;
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
