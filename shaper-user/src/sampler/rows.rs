//! Answers to queries: filter, order, then build the rows that are asked for.

use super::rank::{order, ordinal, rank};
use super::{ClientState, DIRECTIONS, IDLE_AFTER, Sampler, backpressure, is_live, limited};
use crate::addr;
use crate::filter::{Filter, FilterError, Subject};
use crate::haproxy::Session;
use crate::model;
use crate::policy::{NamedClass, Override};
use crate::protocol::{Query, SortKey};
use ipnet::IpNet;
use shaper_common::class::{CLASS_BLOCK, CLASS_EXEMPT};
use shaper_common::flow::{Client, DOWNLOAD, Traffic, UPLOAD};
use shaper_common::key::{Addr, ClientKey, UDP, V4_MAPPED_BITS, is_v4};
use std::collections::HashSet;

pub(super) const NANOS_PER_MS: u64 = 1_000_000;
pub(super) const UP: usize = UPLOAD as usize;
pub(super) const DOWN: usize = DOWNLOAD as usize;

impl Sampler {
    /// The answer to `flows`.
    ///
    /// # Errors
    /// When the filter is none.
    pub fn flows(&self, query: &Query) -> Result<model::Flows, FilterError> {
        let filter = Filter::parse(&query.filter)?;
        let everything = filter == Filter::default();
        let mut ranks = Vec::with_capacity(self.flows.len());
        for (index, (key, flow)) in self.flows.iter().enumerate() {
            if !is_live(key, flow, self.now) {
                continue;
            }
            if !everything && !self.flow_matches(&filter, index) {
                continue;
            }
            let rates = self.flow_rates[index];
            let [up, down] = &flow.traffic;
            let ports = u64::from(key.client_port) << 16 | u64::from(key.local_port);
            let (primary, secondary) = match query.sort {
                SortKey::Upload => (rates[UP].into(), up.bytes),
                SortKey::Download => (rates[DOWN].into(), down.bytes),
                SortKey::Total => ((rates[UP] + rates[DOWN]).into(), up.bytes + down.bytes),
                SortKey::Client => (!ordinal(&key.client), !ports),
                SortKey::Age => ((!flow.created).into(), up.bytes + down.bytes),
                SortKey::Limited => (
                    (up.dropped_bytes + down.dropped_bytes).into(),
                    up.bytes + down.bytes,
                ),
            };
            ranks.push(rank(index, primary, secondary));
        }
        let matched = ranks.len() as u64;
        let key = |index: u32| &self.flows[index as usize].0;
        let rows = order(ranks, query.limit, query.reverse, |a, b| key(a).cmp(key(b)));
        Ok(model::Flows {
            at: self.at,
            interval_ms: self.interval / NANOS_PER_MS,
            matched,
            flows: rows.into_iter().map(|index| self.flow_row(index)).collect(),
        })
    }

    /// The answer to `clients`. A runtime override of a client that is not
    /// there, or of a wider prefix, is a row of its own: nobody should have to
    /// remember what was blocked. So are the clients `over` their quota.
    ///
    /// # Errors
    /// When the filter is none.
    pub fn clients(
        &self,
        query: &Query,
        overrides: &[Override],
        over: &[IpNet],
    ) -> Result<model::Clients, FilterError> {
        let filter = Filter::parse(&query.filter)?;
        let wanted = filter
            .asks_for_flows()
            .then(|| self.clients_with_flows(&filter));
        let absent = self.absent(overrides, over);
        let mut ranks = Vec::with_capacity(self.clients.len() + absent.len());
        let tracked = self
            .clients
            .iter()
            .map(|state| (state, self.client_bits(&state.key.addr)));
        let all = tracked.chain(absent.iter().map(|(state, bits)| (state, *bits)));
        for (index, (state, bits)) in all.enumerate() {
            if state.over
                || wanted
                    .as_ref()
                    .is_some_and(|wanted| !wanted.get(index).is_some_and(|wanted| *wanted))
            {
                continue;
            }
            let class = self.compiled.classes.get(state.class as usize);
            let subject = Subject {
                addr: &state.key.addr,
                bits,
                rule: class.map_or("", |class| &class.rule),
                limited: state.limited.contains(&true),
                blocked: has(class, CLASS_BLOCK),
                exempt: has(class, CLASS_EXEMPT),
                active: self.now.saturating_sub(state.kernel.last_seen) <= IDLE_AFTER,
                place: None,
            };
            if !filter.matches_client(&subject) {
                continue;
            }
            let rates = state.rates;
            let [up, down] = &state.kernel.traffic;
            let (primary, secondary) = match query.sort {
                SortKey::Upload => (rates[UP].into(), up.bytes),
                SortKey::Download => (rates[DOWN].into(), down.bytes),
                SortKey::Total => ((rates[UP] + rates[DOWN]).into(), up.bytes + down.bytes),
                SortKey::Client => (!ordinal(&state.key.addr), u64::from(u32::MAX - bits)),
                SortKey::Age => ((!state.first_seen).into(), up.bytes + down.bytes),
                SortKey::Limited => (
                    state.kernel.held.iter().copied().map(u128::from).sum(),
                    up.dropped_bytes + down.dropped_bytes,
                ),
            };
            ranks.push(rank(index, primary, secondary));
        }
        let matched = ranks.len() as u64;
        let state = |index: u32| {
            let index = index as usize;
            match index.checked_sub(self.clients.len()) {
                None => (&self.clients[index], None),
                Some(index) => (&absent[index].0, Some(absent[index].1)),
            }
        };
        let rows = order(ranks, query.limit, query.reverse, |a, b| {
            ordinal(&state(a).0.key.addr).cmp(&ordinal(&state(b).0.key.addr))
        });
        let mut servers = self.servers_of(&rows);
        Ok(model::Clients {
            at: self.at,
            interval_ms: self.interval / NANOS_PER_MS,
            matched,
            clients: rows
                .into_iter()
                .map(|index| {
                    let (state, bits) = state(index);
                    let mut row = self.client_row(state, bits, overrides);
                    row.servers = servers.remove(&index).unwrap_or_default();
                    row
                })
                .collect(),
        })
    }

    /// Whether all terms match a flow of the last sample.
    pub(super) fn flow_matches(&self, filter: &Filter, index: usize) -> bool {
        let Some((key, flow)) = self.flows.get(index) else {
            return false;
        };
        let place = self.pinned.place(index);
        if !filter.matches_flow(key, place) {
            return false;
        }
        let client_key = self.compiled.settings.client(&key.client);
        let client = self.client(&client_key);
        let class = self.class_of(&client_key, client);
        filter.matches_client(&Subject {
            addr: &key.client,
            bits: 128,
            rule: class.map_or("", |class| &class.rule),
            limited: client.is_some_and(|client| client.limited.contains(&true)),
            blocked: has(class, CLASS_BLOCK),
            exempt: has(class, CLASS_EXEMPT),
            active: self.now.saturating_sub(flow.last_seen) <= IDLE_AFTER,
            place,
        })
    }

    /// For every client whether one of its live flows matches.
    fn clients_with_flows(&self, filter: &Filter) -> Vec<bool> {
        let mut wanted = vec![false; self.clients.len()];
        for (index, (key, flow)) in self.flows.iter().enumerate() {
            if is_live(key, flow, self.now) && filter.matches_flow(key, self.pinned.place(index)) {
                let client = self.compiled.settings.client(&key.client);
                if let Some(memory) = self.client_index.get(&client)
                    && let Some(wanted) = wanted.get_mut(memory.index as usize)
                {
                    *wanted = true;
                }
            }
        }
        wanted
    }

    /// Overrides, and clients over their quota, without a listed client of just their
    /// prefix, with its bits.
    fn absent(&self, overrides: &[Override], over: &[IpNet]) -> Vec<(ClientState, u32)> {
        let mut absent = Vec::new();
        let set: HashSet<IpNet> = overrides.iter().map(|set| set.client).collect();
        let over = over.iter().filter(|net| !set.contains(*net)).copied();
        for net in overrides.iter().map(|set| set.client).chain(over) {
            let (network, bits) = addr::prefix_to_kernel(net);
            let key = ClientKey { addr: network };
            let listed = bits == self.client_bits(&network)
                && self.client_index.get(&key).is_some_and(|memory| {
                    self.clients
                        .get(memory.index as usize)
                        .is_some_and(|state| !state.over)
                });
            if listed {
                continue;
            }
            let class = u32::try_from(self.compiled.class_of(&key)).unwrap_or(0);
            let kernel = Client::default();
            let state = ClientState {
                key,
                kernel,
                rates: [0; 2],
                class,
                udp: 0,
                limited: limited(&self.compiled, class, &kernel, self.now),
                first_seen: self.now,
                over: false,
            };
            absent.push((state, bits));
        }
        absent
    }

    fn flow_row(&self, index: u32) -> model::Flow {
        let (key, flow) = &self.flows[index as usize];
        let rates = self.flow_rates[index as usize];
        let client = self.compiled.settings.client(&key.client);
        let class = self.class_of(&client, self.client(&client));
        let [upload, download] = DIRECTIONS.map(|d| direction(&flow.traffic[d], rates[d]));
        model::Flow {
            client: addr::from_kernel(&key.client),
            client_port: key.client_port,
            local: addr::from_kernel(&key.local),
            local_port: key.local_port,
            protocol: if key.protocol == UDP { "udp" } else { "tcp" }.to_owned(),
            rule: class.map_or_else(String::new, |class| class.rule.clone()),
            age_ms: self.now.saturating_sub(flow.created) / NANOS_PER_MS,
            idle_ms: self.now.saturating_sub(flow.last_seen) / NANOS_PER_MS,
            upload,
            download,
            backpressure: backpressure(key, flow),
            own_limit: self.own_limit(key, flow),
            haproxy: self.session(key, flow).map(Session::to_model),
        }
    }

    /// `prefix` is that of an override that is no tracked client.
    fn client_row(
        &self,
        state: &ClientState,
        prefix: Option<u32>,
        overrides: &[Override],
    ) -> model::Client {
        let class = self.compiled.classes.get(state.class as usize);
        let exempt = has(class, CLASS_EXEMPT);
        let limits = class.map_or([None, None], |class| [class.upload, class.download]);
        let [upload, download] = DIRECTIONS.map(|d| {
            let limit = limits[d].filter(|_| !exempt);
            model::Limited {
                traffic: direction(&state.kernel.traffic[d], state.rates[d]),
                limit_bps: limit.map(|limit| limit.rate.0),
                burst_bytes: limit.map(|limit| limit.burst),
                limited_ms: state.kernel.held[d] / NANOS_PER_MS,
                limited: state.limited[d],
            }
        });
        let bits = prefix.unwrap_or_else(|| self.client_bits(&state.key.addr));
        let idle = match prefix {
            Some(_) => 0,
            None => self.now.saturating_sub(state.kernel.last_seen),
        };
        model::Client {
            client: name(&state.key.addr, bits),
            rule: class.map_or_else(String::new, |class| class.rule.clone()),
            connections: u64::from(state.kernel.connections) + u64::from(state.udp),
            exempt,
            blocked: has(class, CLASS_BLOCK),
            upload,
            download,
            age_ms: self.now.saturating_sub(state.first_seen) / NANOS_PER_MS,
            idle_ms: idle / NANOS_PER_MS,
            runtime: runtime(&state.key.addr, bits, overrides),
            servers: Vec::new(),
            quota: None,
        }
    }

    /// A client of the last sample; missing where its table is full.
    pub(super) fn client(&self, key: &ClientKey) -> Option<&ClientState> {
        let memory = self.client_index.get(key)?;
        self.clients.get(memory.index as usize)
    }

    /// The class of a client, `known` where it is in the sample.
    pub(super) fn class_of(
        &self,
        key: &ClientKey,
        known: Option<&ClientState>,
    ) -> Option<&NamedClass> {
        let class = known.map(|client| client.class as usize);
        let class = class.unwrap_or_else(|| self.compiled.class_of(key));
        self.compiled.classes.get(class)
    }

    /// Bits of an address that name a client.
    pub(super) fn client_bits(&self, addr: &Addr) -> u32 {
        let settings = &self.compiled.settings;
        let mask = if is_v4(addr) {
            &settings.mask_v4
        } else {
            &settings.mask_v6
        };
        mask.iter().map(|word| word.count_ones()).sum()
    }
}

/// A client as it is printed, by the bits of an [`Addr`].
pub(super) fn name(addr: &Addr, bits: u32) -> String {
    let bits = if is_v4(addr) {
        bits.saturating_sub(V4_MAPPED_BITS)
    } else {
        bits
    };
    let bits = u8::try_from(bits).unwrap_or(u8::MAX);
    addr::client_name(addr, bits, bits)
}

fn has(class: Option<&NamedClass>, flag: u32) -> bool {
    class.is_some_and(|class| class.class.flags & flag != 0)
}

fn direction(traffic: &Traffic, rate_bps: u64) -> model::Direction {
    model::Direction {
        bytes: traffic.bytes,
        packets: traffic.packets,
        rate_bps,
        dropped_bytes: traffic.dropped_bytes,
        dropped_packets: traffic.dropped_packets,
    }
}

/// The longest override that holds for a client.
fn runtime(client: &Addr, bits: u32, overrides: &[Override]) -> Option<model::Runtime> {
    let set = overrides
        .iter()
        .map(|set| (addr::prefix_to_kernel(set.client), set))
        .filter(|((network, length), _)| {
            *length <= bits && addr::contains(network, *length, client)
        })
        .max_by_key(|((_, length), _)| *length)
        .map(|(_, set)| set)?;
    let limit = set.limit.as_ref();
    Some(model::Runtime {
        upload_bps: limit.and_then(|l| l.upload).map(|l| l.rate.0),
        download_bps: limit.and_then(|l| l.download).map(|l| l.rate.0),
        blocked: set.block.is_some(),
        limit_expires: limit.and_then(|l| l.expires),
        block_expires: set.block.flatten(),
    })
}
