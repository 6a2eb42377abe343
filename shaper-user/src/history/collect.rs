//! From the sampler's counters to minutes.
//!
//! Counters are compared once a minute; those of flows and clients that go are
//! taken when they do. So nothing is counted twice or lost, and a second costs no
//! more than the flows that closed in it.

mod flows;

use super::record::{Both, Head, Minute, Passed, Rate, add, is_idle, moved, since};
use crate::addr::from_kernel;
use crate::sampler::Sampler;
use flows::Flows;
use foldhash::fast::RandomState;
use shaper_common::key::{ClientKey, V4_MAPPED_BITS, is_v4};
use std::collections::HashMap;
use std::sync::Arc;

/// Clients with a row of their own in a minute: those that moved most.
pub const CLIENTS: usize = 500;
/// Servers with a row in a minute.
pub const SERVERS: usize = 500;

type Map<K, V> = HashMap<K, V, RandomState>;

/// The open minute.
#[derive(Default)]
pub struct Collector {
    /// Minutes since 1970, and ktime in ns of its first sample; `None` before the
    /// first.
    open: Option<(u64, u64)>,
    /// What is counted of each client already.
    clients: Map<ClientKey, Both>,
    /// What clients moved whose counters ended in this minute.
    ended: Map<ClientKey, Both>,
    servers: Map<(Arc<str>, Arc<str>), Server>,
    flows: Flows,
}

/// A server, from second to second: its counters begin anew by themselves.
#[derive(Clone, Copy, Default)]
struct Server {
    last: Both,
    moved: Both,
}

impl Collector {
    /// Takes in the last sample. When another minute has begun, answers the one
    /// that is over. Flows that moved `flow_min` bytes have a row.
    pub fn observe(&mut self, sampler: &Sampler, now: i64, flow_min: u64) -> Option<Minute> {
        let minute = u64::try_from(now.div_euclid(60)).unwrap_or(0);
        let Some((open, began)) = self.open else {
            self.begin(sampler);
            self.open = Some((minute, sampler.ktime()));
            return None;
        };
        self.follow(sampler, flow_min);
        if open == minute {
            return None;
        }
        let over = self.close(sampler, open, began, flow_min);
        self.open = Some((minute, sampler.ktime()));
        Some(over)
    }

    /// The open minute as it is, at the end.
    pub fn finish(&mut self, sampler: &Sampler, flow_min: u64) -> Option<Minute> {
        let (open, began) = self.open.take()?;
        Some(self.close(sampler, open, began, flow_min))
    }

    /// What was before is not ours.
    fn begin(&mut self, sampler: &Sampler) {
        self.clients = sampler
            .client_counters()
            .map(|(key, traffic)| (key, both(traffic)))
            .collect();
        self.servers = sampler
            .server_counters()
            .map(|(names, last)| {
                let moved = Both::default();
                (names, Server { last, moved })
            })
            .collect();
        self.flows.begin(sampler);
    }

    /// What cannot wait for the end of the minute.
    fn follow(&mut self, sampler: &Sampler, flow_min: u64) {
        for (key, ended) in &sampler.left().clients {
            let counted = self.clients.entry(*key).or_default();
            let sum = self.ended.entry(*key).or_default();
            for ((ended, counted), sum) in ended.iter().zip(counted).zip(sum) {
                if let Some(last) = ended {
                    *sum = sum.plus(Passed::of(last).since(*counted));
                    *counted = Passed::default();
                }
            }
        }
        for (names, now) in sampler.server_counters() {
            let server = self.servers.entry(names).or_default();
            // Forgotten, and back: it counts from zero.
            let anew = now.iter().zip(&server.last).any(|(n, l)| n.bytes < l.bytes);
            let before = if anew { Both::default() } else { server.last };
            add(&mut server.moved, since(now, before));
            server.last = now;
        }
        self.flows.follow(sampler, flow_min);
    }

    fn close(&mut self, sampler: &Sampler, minute: u64, began: u64, flow_min: u64) -> Minute {
        let mut moved_by = std::mem::take(&mut self.ended);
        let mut clients = Map::default();
        clients.reserve(self.clients.len());
        for (key, traffic) in sampler.client_counters() {
            let now = both(traffic);
            let before = self.clients.get(&key).copied().unwrap_or_default();
            let passed = since(now, before);
            if !is_idle(&passed) {
                add(moved_by.entry(key).or_default(), passed);
            }
            clients.insert(key, now);
        }
        self.clients = clients;
        let ms = sampler.ktime().saturating_sub(began) / 1_000_000;
        let mut head = Head {
            ms: u32::try_from(ms).unwrap_or(u32::MAX),
            ..Head::default()
        };
        moved_by.retain(|_, passed| !is_idle(passed));
        let mut rows: Vec<_> = moved_by.into_iter().collect();
        head.clients = count(rows.len());
        for (_, passed) in &rows {
            add(&mut head.total, *passed);
        }
        let others = top(&mut rows, CLIENTS, |(key, passed)| (moved(passed), *key));
        head.others = count(others.len());
        for (_, passed) in others {
            add(&mut head.others_passed, passed);
        }
        let rows = rows.into_iter().map(|(key, passed)| {
            let bits = sampler.prefix_bits(&key.addr);
            let bits = match is_v4(&key.addr) {
                true => bits.saturating_sub(V4_MAPPED_BITS),
                false => bits,
            };
            let bits = u8::try_from(bits).unwrap_or(u8::MAX);
            Rate::Client(from_kernel(&key.addr), bits, passed)
        });
        let mut rates: Vec<_> = rows.collect();
        rates.extend(self.close_servers(sampler));
        let flows = self.flows.close(sampler, flow_min, &mut head.flows_cut);
        Minute {
            minute,
            head,
            rates,
            flows,
        }
    }

    fn close_servers(&mut self, sampler: &Sampler) -> Vec<Rate> {
        let mut rows: Vec<_> = self
            .servers
            .iter_mut()
            .map(|(names, server)| (names.clone(), std::mem::take(&mut server.moved)))
            .filter(|(_, passed)| !is_idle(passed))
            .collect();
        let current: Map<_, _> = sampler.server_counters().collect();
        self.servers.retain(|names, _| current.contains_key(names));
        top(&mut rows, SERVERS, |(names, passed)| {
            (moved(passed), names.clone())
        });
        let row = |((backend, server), passed): ((Arc<str>, Arc<str>), Both)| {
            Rate::Server(backend.to_string(), server.to_string(), passed)
        };
        rows.into_iter().map(row).collect()
    }
}

fn both(traffic: &[shaper_common::flow::Traffic; 2]) -> Both {
    [Passed::of(&traffic[0]), Passed::of(&traffic[1])]
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Leaves the `most` largest, and answers the others.
fn top<T, K: Ord>(rows: &mut Vec<T>, most: usize, by: impl Fn(&T) -> K) -> Vec<T> {
    if rows.len() <= most {
        return Vec::new();
    }
    rows.select_nth_unstable_by(most, |a, b| by(b).cmp(&by(a)));
    rows.split_off(most)
}

#[cfg(test)]
mod tests;
