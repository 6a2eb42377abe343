//! From two samples of the kernel to rates, states and rows.
//!
//! [`Sampler::observe`] is the work of every second: one pass over flows and
//! clients, with one hash operation each and no formatting. Rows are built only
//! for what a query returns (see `rows.rs`). Flows are looked for in HAProxy's
//! answers when those come, not every second (see `pinned.rs`).

mod counters;
mod groups;
mod pinned;
mod placed;
mod rank;
mod rows;
pub mod rules;
mod servers;
mod targets;

pub use counters::{Left, Names};

use crate::haproxy::View;
use crate::kernel::Sample;
use crate::model::{Direction, FlowBackpressure, HardLimitOnly};
use crate::policy::{Compiled, Quota};
use foldhash::fast::RandomState;
use jiff::Timestamp;
use pinned::Pinned;
use rules::Rules;
use shaper_common::bucket::debt;
use shaper_common::class::CLASS_EXEMPT;
use shaper_common::flow::{CLIENT_LIMITED, Client, FLOW_PACED, FLOW_WINDOW, Flow, Traffic};
use shaper_common::key::{ClientKey, FlowKey, UDP};
use shaper_common::stats::STATS_LEN;
use std::collections::HashMap;
use std::sync::Arc;

const NANOS_PER_SEC: u64 = 1_000_000_000;
/// How long a client stays after its last flow or packet, in ns.
pub const CLIENT_LINGER: u64 = 60 * NANOS_PER_SEC;
/// How long a UDP flow is live after its last packet, in ns: nothing closes it.
pub const UDP_LIVE: u64 = 60 * NANOS_PER_SEC;
/// Without a packet for longer than this, in ns, a flow or client is idle.
pub const IDLE_AFTER: u64 = 10 * NANOS_PER_SEC;

const DIRECTIONS: [usize; 2] = [0, 1];

/// What is remembered of a client from sample to sample.
#[derive(Clone, Copy)]
struct Memory {
    /// Where it was in the last sample.
    index: u32,
    /// ktime of the sample that had it first.
    first_seen: u64,
    /// ktime of the last sample in which it had a flow.
    last_flow: u64,
    /// Found by us, because the client has not sent since `generation` began.
    class: u32,
    /// The generation of `class`.
    generation: u32,
}

/// A client of the last sample.
#[derive(Clone, Copy)]
struct ClientState {
    key: ClientKey,
    kernel: Client,
    /// Bits per second, by direction.
    rates: [u64; 2],
    class: u32,
    /// Live UDP flows.
    udp: u32,
    limited: [bool; 2],
    first_seen: u64,
    /// Gone for good: not listed any more.
    over: bool,
}

/// The last sample, with what only two of them tell.
pub struct Sampler {
    compiled: Arc<Compiled>,
    /// What HAProxy said last.
    view: Arc<View>,
    /// Its servers, and which flow is at which.
    pinned: Pinned,
    /// By what each flow is held that is limited because of its place.
    limited_by: HashMap<FlowKey, Arc<str>, RandomState>,
    generation: u32,
    /// Wall clock of the last sample.
    at: Timestamp,
    /// ktime of the last sample; zero before the first.
    now: u64,
    /// ns between the last two samples.
    interval: u64,
    flows: Vec<(FlowKey, Flow)>,
    flow_rates: Vec<[u64; 2]>,
    flow_index: HashMap<FlowKey, u32, RandomState>,
    live_flows: usize,
    clients: Vec<ClientState>,
    client_index: HashMap<ClientKey, Memory, RandomState>,
    stats: [u64; STATS_LEN],
    /// Counters of clients that left, so that totals never fall.
    gone: [Direction; 2],
    /// What the clients of each rule passed since the daemon began.
    rules: Rules,
    groups: groups::Groups,
    left: Left,
}

/// Sums over everything, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Live flows.
    pub flows: u64,
    /// Clients listed.
    pub clients: u64,
    /// Clients held by a limit now.
    pub limited: u64,
    /// By direction, clients that left included.
    pub traffic: [Direction; 2],
    /// Live flows that only the hard limit holds.
    pub hard_limit_only: HardLimitOnly,
}

impl Sampler {
    /// Without a sample yet.
    #[must_use]
    pub fn new(compiled: Arc<Compiled>, generation: u32, at: Timestamp) -> Self {
        Self {
            compiled,
            view: Arc::default(),
            pinned: Pinned::default(),
            limited_by: HashMap::default(),
            generation,
            at,
            now: 0,
            interval: 0,
            flows: Vec::new(),
            flow_rates: Vec::new(),
            flow_index: HashMap::default(),
            live_flows: 0,
            clients: Vec::new(),
            client_index: HashMap::default(),
            stats: [0; STATS_LEN],
            gone: [Direction::default(); 2],
            rules: Rules::default(),
            groups: groups::Groups::default(),
            left: Left::default(),
        }
    }

    /// Wall clock of the last sample.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Milliseconds between the last two samples; zero before the second.
    #[must_use]
    pub const fn interval_ms(&self) -> u64 {
        self.interval / 1_000_000
    }

    /// The kernel's counters in the last sample.
    #[must_use]
    pub const fn stats(&self) -> &[u64; STATS_LEN] {
        &self.stats
    }

    /// What HAProxy said last.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Joins flows with another view of HAProxy from now on.
    pub fn set_view(&mut self, view: Arc<View>) {
        if Arc::ptr_eq(&self.view, &view) {
            return;
        }
        self.view = view;
        self.pinned
            .join(&self.view, &self.flows, &self.flow_rates, self.now);
    }

    /// Takes in a sample; returns the clients that the kernel may forget.
    pub fn observe(&mut self, sample: Sample, at: Timestamp) -> Vec<ClientKey> {
        let first = self.now == 0;
        let before = self.now;
        self.interval = if first {
            0
        } else {
            sample.now.saturating_sub(before)
        };
        self.at = at;
        self.now = sample.now;
        self.stats = sample.stats;
        self.groups.observe(sample.groups);
        self.left.clear();
        let clients = std::mem::take(&mut self.clients);
        self.observe_clients(&clients, sample.clients, first);
        self.rules.settle(&self.compiled);
        self.observe_flows(sample.flows, before, first);
        self.settle()
    }

    /// Uses another policy from now on, for the rows of the last sample too.
    pub fn set_policy(&mut self, compiled: Arc<Compiled>, generation: u32) {
        self.compiled = compiled;
        self.generation = generation;
        self.groups.clear();
        for state in &mut self.clients {
            let Some(memory) = self.client_index.get_mut(&state.key) else {
                continue;
            };
            state.class = class_of(
                &self.compiled,
                generation,
                &state.key,
                &state.kernel,
                memory,
            );
            state.limited = limited(&self.compiled, state.class, &state.kernel, self.now);
        }
    }

    fn observe_clients(
        &mut self,
        previous: &[ClientState],
        clients: Vec<(ClientKey, Client)>,
        first: bool,
    ) {
        let per_byte = self.bits_per_byte();
        self.clients.reserve(clients.len());
        for (index, (key, kernel)) in clients.into_iter().enumerate() {
            let memory = self.client_index.entry(key).or_insert(Memory {
                index: u32::MAX,
                first_seen: self.now,
                last_flow: 0,
                class: 0,
                generation: self.generation.wrapping_sub(1),
            });
            let last = previous
                .get(memory.index as usize)
                .filter(|last| last.key == key)
                .map(|last| &last.kernel);
            memory.index = u32::try_from(index).unwrap_or(u32::MAX);
            if kernel.connections > 0 {
                memory.last_flow = self.now;
            }
            let mut rates = [0; 2];
            let mut replaced = [None; 2];
            for direction in DIRECTIONS {
                let traffic = &kernel.traffic[direction];
                let passed = match last.map(|last| &last.traffic[direction]) {
                    Some(last) if last.bytes <= traffic.bytes => traffic.bytes - last.bytes,
                    // Its entry was replaced and counts from zero.
                    Some(last) => {
                        add(&mut self.gone[direction], last);
                        replaced[direction] = Some(*last);
                        traffic.bytes
                    }
                    None if first => 0,
                    None => traffic.bytes,
                };
                rates[direction] = rate(passed, per_byte);
            }
            if replaced.iter().any(Option::is_some) {
                self.left.clients.push((key, replaced));
            }
            let class = class_of(&self.compiled, self.generation, &key, &kernel, memory);
            if !first {
                self.rules.count(class, last, &kernel);
            }
            self.clients.push(ClientState {
                key,
                kernel,
                rates,
                class,
                udp: 0,
                limited: limited(&self.compiled, class, &kernel, self.now),
                first_seen: memory.first_seen,
                over: false,
            });
        }
        if self.client_index.len() > self.clients.len() {
            let (current, gone) = (&self.clients, &mut self.gone);
            let left = &mut self.left.clients;
            self.client_index.retain(|key, memory| {
                let index = memory.index as usize;
                if current.get(index).is_some_and(|state| state.key == *key) {
                    return true;
                }
                if let Some(last) = previous.get(index).filter(|last| last.key == *key) {
                    for direction in DIRECTIONS {
                        add(&mut gone[direction], &last.kernel.traffic[direction]);
                    }
                    left.push((*key, last.kernel.traffic.map(Some)));
                }
                false
            });
        }
    }

    fn observe_flows(&mut self, flows: Vec<(FlowKey, Flow)>, before: u64, first: bool) {
        let per_byte = self.bits_per_byte();
        let previous = std::mem::replace(&mut self.flows, flows);
        self.flow_rates.clear();
        self.flow_rates.reserve(self.flows.len());
        self.live_flows = 0;
        let mut joins = self.pinned.next(&self.view, self.flows.len(), self.now);
        for (index, (key, flow)) in self.flows.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let last = self
                .flow_index
                .insert(*key, index)
                .and_then(|index| Some((index, previous.get(index as usize)?)))
                .filter(|(_, (old, _))| old == key)
                .map(|(index, (_, last))| (index, last));
            // The same ports again are another connection.
            if let Some((index, last)) = last.filter(|(_, last)| last.created != flow.created) {
                let place = joins
                    .as_ref()
                    .and_then(|joins| joins.before(index as usize, key, last));
                self.left.flows.push((*key, *last, place));
            }
            let last = last.filter(|(_, last)| last.created == flow.created);
            let mut rates = [0; 2];
            for direction in DIRECTIONS {
                let bytes = flow.traffic[direction].bytes;
                let passed = match last {
                    Some((_, last)) => bytes.saturating_sub(last.traffic[direction].bytes),
                    None if !first && flow.created >= before => bytes,
                    None => 0,
                };
                rates[direction] = rate(passed, per_byte);
            }
            self.flow_rates.push(rates);
            if let Some(joins) = &mut joins {
                joins.count(key, flow, last, rates);
            }
            if !is_live(key, flow, self.now) {
                continue;
            }
            self.live_flows += 1;
            if key.protocol == UDP {
                let client = self.compiled.settings.client(&key.client);
                if let Some(memory) = self.client_index.get_mut(&client) {
                    memory.last_flow = self.now;
                    if let Some(state) = self.clients.get_mut(memory.index as usize) {
                        state.udp += 1;
                    }
                }
            }
        }
        if self.flow_index.len() > self.flows.len() {
            let (current, left) = (&self.flows, &mut self.left.flows);
            self.flow_index.retain(|key, index| {
                let index = *index as usize;
                if current.get(index).is_some_and(|(now, _)| now == key) {
                    return true;
                }
                if let Some((old, last)) = previous.get(index).filter(|(old, _)| old == key) {
                    let place = joins
                        .as_ref()
                        .and_then(|joins| joins.before(index, old, last));
                    left.push((*old, *last, place));
                }
                false
            });
        }
    }

    /// Marks the clients that are over, and returns them.
    fn settle(&mut self) -> Vec<ClientKey> {
        let mut over = Vec::new();
        for state in &mut self.clients {
            let kernel = &state.kernel;
            let owes = kernel
                .traffic
                .iter()
                .any(|traffic| debt(traffic.tat, self.now) > 0);
            if kernel.connections > 0 || state.udp > 0 || owes {
                continue;
            }
            let last_flow = self
                .client_index
                .get(&state.key)
                .map_or(0, |memory| memory.last_flow);
            let quiet = self.now.saturating_sub(kernel.last_seen.max(last_flow));
            if quiet > CLIENT_LINGER {
                state.over = true;
                over.push(state.key);
            }
        }
        over
    }

    /// Each client of the last sample: its prefix in bits, its quota, and the bytes
    /// that the kernel has counted, by direction.
    pub fn counters(
        &self,
    ) -> impl Iterator<Item = (ClientKey, u32, Option<&Arc<Quota>>, [u64; 2])> {
        self.clients.iter().map(|state| {
            let class = self.compiled.classes.get(state.class as usize);
            (
                state.key,
                self.client_bits(&state.key.addr),
                class.and_then(|class| class.quota.as_ref()),
                state.kernel.traffic.map(|traffic| traffic.bytes),
            )
        })
    }

    /// Whether a client is held in a direction now; `None`: it is not there.
    #[must_use]
    pub fn limited(&self, client: &ClientKey, direction: u32) -> Option<bool> {
        let state = self.client(client)?;
        state.limited.get(direction as usize).copied()
    }

    /// Sums over everything.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            flows: self.live_flows as u64,
            traffic: self.gone,
            ..Totals::default()
        };
        for state in &self.clients {
            totals.clients += u64::from(!state.over);
            totals.limited += u64::from(state.limited.contains(&true));
            for direction in DIRECTIONS {
                add(
                    &mut totals.traffic[direction],
                    &state.kernel.traffic[direction],
                );
                totals.traffic[direction].rate_bps += state.rates[direction];
            }
        }
        for (key, flow) in &self.flows {
            if is_live(key, flow, self.now) {
                let only = &mut totals.hard_limit_only;
                match backpressure(key, flow) {
                    None => only.udp += 1,
                    Some(by) => {
                        only.upload += u64::from(!by.upload);
                        only.download += u64::from(!by.download);
                    }
                }
            }
        }
        totals
    }

    /// Bits per second that one byte in the interval makes.
    #[allow(clippy::cast_precision_loss)]
    fn bits_per_byte(&self) -> f64 {
        if self.interval == 0 {
            0.0
        } else {
            8.0 * NANOS_PER_SEC as f64 / self.interval as f64
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn rate(bytes: u64, bits_per_byte: f64) -> u64 {
    (bytes as f64 * bits_per_byte).round() as u64
}

fn add(sum: &mut Direction, traffic: &Traffic) {
    sum.bytes = sum.bytes.wrapping_add(traffic.bytes);
    sum.packets = sum.packets.wrapping_add(traffic.packets);
    sum.dropped_bytes = sum.dropped_bytes.wrapping_add(traffic.dropped_bytes);
    sum.dropped_packets = sum.dropped_packets.wrapping_add(traffic.dropped_packets);
}

/// What holds a flow; `None` for UDP.
fn backpressure(key: &FlowKey, flow: &Flow) -> Option<FlowBackpressure> {
    (key.protocol != UDP).then_some(FlowBackpressure {
        upload: flow.flags & FLOW_WINDOW != 0,
        download: flow.flags & FLOW_PACED != 0,
    })
}

fn is_live(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    key.protocol != UDP || now.saturating_sub(flow.last_seen) <= UDP_LIVE
}

/// The kernel's class where it is of this generation, else our own finding,
/// which is made once a generation.
fn class_of(
    compiled: &Compiled,
    generation: u32,
    key: &ClientKey,
    kernel: &Client,
    memory: &mut Memory,
) -> u32 {
    if kernel.generation == generation {
        return kernel.class;
    }
    if memory.generation != generation {
        memory.class = u32::try_from(compiled.class_of(key)).unwrap_or(0);
        memory.generation = generation;
    }
    memory.class
}

/// Whether each direction is held now. The kernel's flag is of the last packet;
/// a client that stopped sending is released once its bucket is full again.
fn limited(compiled: &Compiled, class: u32, kernel: &Client, now: u64) -> [bool; 2] {
    let Some(class) = compiled.classes.get(class as usize) else {
        return [false; 2];
    };
    if class.class.flags & CLASS_EXEMPT != 0 {
        return [false; 2];
    }
    let limits = [class.class.upload, class.class.download];
    let groups = [class.class.group_upload, class.class.group_download];
    DIRECTIONS.map(|direction| {
        let own = limits[direction].is_set() && debt(kernel.traffic[direction].tat, now) > 0;
        // What a group owes is not the client's: the flag goes with the next packet
        // that finds its bucket full.
        let of_group =
            groups[direction].is_set() && now.saturating_sub(kernel.last_seen) < IDLE_AFTER;
        kernel.flags & (CLIENT_LIMITED << direction) != 0 && (own || of_group)
    })
}

#[cfg(test)]
mod tests;
