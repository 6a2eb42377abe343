//! The answer to `servers`: what HAProxy's servers carry, who is heaviest there,
//! and how even it is.

use super::pinned::{Server, session};
use super::rank::{order, rank};
use super::rows::{DOWN, NANOS_PER_MS, UP, name};
use super::{DIRECTIONS, Sampler};
use crate::filter::{Filter, FilterError};
use crate::haproxy::{Load, Session};
use crate::model;
use crate::protocol::{Query, SortKey};
use foldhash::fast::RandomState;
use shaper_common::flow::Flow;
use shaper_common::key::{ClientKey, FlowKey};
use std::collections::{BTreeMap, HashMap};

/// A client at a server, and its part of what passed there.
#[derive(Clone, Copy)]
struct Top {
    client: ClientKey,
    share: f64,
}

impl Sampler {
    /// The answer to `servers`: every server that had a session within the last
    /// minute. One matches the filter by its names, or by a flow that all terms
    /// match; its numbers are those of all its flows either way.
    ///
    /// # Errors
    /// When the filter is none.
    pub fn servers(&self, query: &Query) -> Result<model::Servers, FilterError> {
        let filter = Filter::parse(&query.filter)?;
        let with_flows = self.servers_with_flows(&filter);
        let mut ranks = Vec::new();
        for (number, server) in self.pinned.servers(self.now) {
            if !filter.matches_server(server.place()) && !with_flows.contains(&number) {
                continue;
            }
            let [up, down] = &server.passed;
            let total = up.bytes.wrapping_add(down.bytes);
            let (primary, secondary) = match query.sort {
                SortKey::Upload => (server.rates[UP].into(), up.bytes),
                SortKey::Download => (server.rates[DOWN].into(), down.bytes),
                SortKey::Total => (server.rate().into(), total),
                SortKey::Client | SortKey::Age => (0, 0),
                SortKey::Limited => ((up.dropped_bytes + down.dropped_bytes).into(), total),
            };
            ranks.push(rank(number as usize, primary, secondary));
        }
        let matched = ranks.len() as u64;
        let names = |number| {
            let server = self.pinned.get(number);
            server.map(|server| (&server.backend, &server.server))
        };
        let rows = order(ranks, query.limit, query.reverse, |a, b| {
            names(a).cmp(&names(b))
        });
        let tops = self.top_clients();
        let servers: Vec<_> = rows
            .into_iter()
            .filter_map(|number| {
                let top = tops.get(&number);
                Some(self.server_row(self.pinned.get(number)?, top))
            })
            .collect();
        let mut backends = self.backends();
        backends.retain(|backend| servers.iter().any(|row| row.backend == backend.backend));
        Ok(model::Servers {
            at: self.at,
            interval_ms: self.interval / NANOS_PER_MS,
            matched,
            servers,
            backends,
        })
    }

    /// What every server carries that a live flow is pinned to, in no order.
    #[must_use]
    pub fn loads(&self) -> Vec<Load> {
        self.pinned
            .servers(self.now)
            .filter(|(_, server)| server.connections > 0)
            .map(|(_, server)| Load {
                backend: server.backend.clone(),
                server: server.server.clone(),
                connections: server.connections,
                rates: server.rates,
            })
            .collect()
    }

    /// Where HAProxy has pinned a flow.
    pub(super) fn session(&self, key: &FlowKey, flow: &Flow) -> Option<&Session> {
        session(&self.view, key, flow)
    }

    /// Of rows of clients, by their number, the servers that their flows are at:
    /// `backend/server`, sorted.
    pub(super) fn servers_of(&self, rows: &[u32]) -> HashMap<u32, Vec<String>> {
        let mut numbers: HashMap<u32, Vec<u32>, RandomState> = HashMap::default();
        if self.pinned.flows().next().is_some() {
            numbers.extend(rows.iter().map(|row| (*row, Vec::new())));
        }
        if numbers.is_empty() {
            return HashMap::new();
        }
        for (flow, number) in self.pinned.flows() {
            let client = self.compiled.settings.client(&self.flows[flow].0.client);
            if let Some(memory) = self.client_index.get(&client)
                && let Some(servers) = numbers.get_mut(&memory.index)
                && !servers.contains(&number)
            {
                servers.push(number);
            }
        }
        let names = |numbers: Vec<u32>| {
            let servers = numbers.iter().filter_map(|n| self.pinned.get(*n));
            let mut names: Vec<_> = servers
                .map(|server| format!("{}/{}", server.backend, server.server))
                .collect();
            names.sort_unstable();
            names
        };
        numbers
            .into_iter()
            .map(|(row, numbers)| (row, names(numbers)))
            .collect()
    }

    /// The servers with a flow that all terms match; none where there are no terms.
    fn servers_with_flows(&self, filter: &Filter) -> Vec<u32> {
        let mut found = Vec::new();
        if *filter == Filter::default() {
            return found;
        }
        for (flow, number) in self.pinned.flows() {
            if !found.contains(&number) && self.flow_matches(filter, flow) {
                found.push(number);
            }
        }
        found
    }

    /// By server the client that moves most there, or moved most when nothing
    /// moves now.
    fn top_clients(&self) -> HashMap<u32, Top> {
        let mut sums: HashMap<(u32, ClientKey), [u64; 2], RandomState> = HashMap::default();
        for (flow, number) in self.pinned.flows() {
            let (key, state) = &self.flows[flow];
            let client = self.compiled.settings.client(&key.client);
            let [rate, bytes] = sums.entry((number, client)).or_default();
            let [up, down] = &state.traffic;
            *rate += self.flow_rates[flow].iter().sum::<u64>();
            *bytes += up.bytes.wrapping_add(down.bytes);
        }
        let mut totals: HashMap<u32, [u64; 2]> = HashMap::new();
        for ((number, _), [rate, bytes]) in &sums {
            let total = totals.entry(*number).or_default();
            total[0] += rate;
            total[1] += bytes;
        }
        let mut tops: HashMap<u32, (u64, ClientKey)> = HashMap::new();
        for ((number, client), values) in sums {
            let value = values[by(totals.get(&number))];
            let top = tops.entry(number).or_insert((value, client));
            // Of equals always the same one.
            if value > top.0 || value == top.0 && client < top.1 {
                *top = (value, client);
            }
        }
        tops.into_iter()
            .filter_map(|(number, (value, client))| {
                let totals = totals.get(&number)?;
                let total = totals[by(Some(totals))];
                let share = part(value, total)?;
                Some((number, Top { client, share }))
            })
            .collect()
    }

    /// Every backend with its imbalance, by name.
    fn backends(&self) -> Vec<model::Backend> {
        let mut rates: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (_, server) in self.pinned.servers(self.now) {
            let rates = rates.entry(&server.backend).or_default();
            rates.push(server.rate());
        }
        rates
            .into_iter()
            .map(|(backend, rates)| {
                let servers = rates.len() as u64;
                let sum = rates.iter().copied().fold(0, u64::saturating_add);
                let busiest = rates.into_iter().max().unwrap_or(0);
                model::Backend {
                    backend: backend.to_owned(),
                    servers,
                    rate_bps: sum,
                    imbalance: imbalance(busiest, sum, servers),
                }
            })
            .collect()
    }

    fn server_row(&self, server: &Server, top: Option<&Top>) -> model::Server {
        let [upload, download] = DIRECTIONS.map(|direction| model::Direction {
            rate_bps: server.rates[direction],
            ..server.passed[direction]
        });
        model::Server {
            backend: server.backend.to_string(),
            server: server.server.to_string(),
            connections: server.connections,
            upload,
            download,
            top_client: top.map(|top| {
                let addr = &top.client.addr;
                name(addr, self.client_bits(addr))
            }),
            top_client_share: top.map(|top| top.share),
            limit_upload_bps: None,
            limit_download_bps: None,
        }
    }
}

/// Which of rate and bytes tells who is heaviest.
fn by(totals: Option<&[u64; 2]>) -> usize {
    usize::from(totals.is_none_or(|[rate, _]| *rate == 0))
}

#[allow(clippy::cast_precision_loss)]
fn part(value: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| round(value as f64 / total as f64))
}

#[allow(clippy::cast_precision_loss)]
fn imbalance(busiest: u64, sum: u64, servers: u64) -> Option<f64> {
    (sum > 0).then(|| round(busiest as f64 * servers as f64 / sum as f64))
}

/// To four places: more would be noise.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests;
