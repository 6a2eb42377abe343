//! The flows of a minute.
//!
//! A flow has a row when it moved the threshold since its last one, and a last row
//! when it closes: so the rows of a flow add up to all it moved, and one that moves
//! little has few. A flow that never moved the threshold has none.

use super::{Both, Map, both, count, top};
use crate::addr::from_kernel;
use crate::history::record::{FlowRow, moved, since};
use crate::sampler::{Names, Sampler};
use shaper_common::flow::Flow;
use shaper_common::key::FlowKey;

/// Rows of open flows in a minute: those that moved most. The others keep for a
/// later minute what they moved.
pub const OPEN: usize = 1_000;
/// Rows of flows that closed in a minute, likewise; the others are only counted.
pub const CLOSED: usize = 4_000;

/// What is known of a flow between two minutes.
#[derive(Clone)]
struct Known {
    created: u64,
    /// What its rows have, or what it had moved before we came.
    counted: Both,
    /// It has a row.
    has_row: bool,
    /// Where HAProxy had it last.
    place: Option<Names>,
}

#[derive(Default)]
pub(super) struct Flows {
    known: Map<FlowKey, Known>,
    closed: Vec<FlowRow>,
    cut: u32,
}

impl Flows {
    pub fn begin(&mut self, sampler: &Sampler) {
        self.known = sampler
            .flow_counters()
            .map(|(key, flow, place)| {
                let known = Known {
                    created: flow.created,
                    counted: both(&flow.traffic),
                    has_row: false,
                    place,
                };
                (*key, known)
            })
            .collect();
    }

    /// Takes in the flows that closed since the last sample.
    pub fn follow(&mut self, sampler: &Sampler, flow_min: u64) {
        for (key, flow, place) in &sampler.left().flows {
            let known = self.known.get(key).filter(|k| k.created == flow.created);
            let counted = known.map(|known| known.counted).unwrap_or_default();
            let passed = since(both(&flow.traffic), counted);
            if moved(&passed) >= flow_min || known.is_some_and(|known| known.has_row) {
                let place = place.clone();
                let place = place.or_else(|| known.and_then(|known| known.place.clone()));
                self.closed
                    .push(row(sampler, key, flow, place, passed, true));
            }
            self.known.remove(key);
            if self.closed.len() > 2 * CLOSED {
                self.bound();
            }
        }
    }

    fn bound(&mut self) {
        let cut = top(&mut self.closed, CLOSED, |row| {
            (moved(&row.passed), row.created)
        });
        self.cut = self.cut.saturating_add(count(cut.len()));
    }

    /// The rows of the minute that is over.
    pub fn close(&mut self, sampler: &Sampler, flow_min: u64, cut: &mut u32) -> Vec<FlowRow> {
        self.bound();
        *cut = std::mem::take(&mut self.cut);
        let mut rows = std::mem::take(&mut self.closed);
        let mut due = Vec::new();
        let mut next = Map::default();
        next.reserve(self.known.len());
        for (key, flow, place) in sampler.flow_counters() {
            let before = self
                .known
                .remove(key)
                .filter(|k| k.created == flow.created)
                .unwrap_or(Known {
                    created: flow.created,
                    counted: Both::default(),
                    has_row: false,
                    place: None,
                });
            let passed = since(both(&flow.traffic), before.counted);
            if moved(&passed) >= flow_min {
                due.push((moved(&passed), *key, flow));
            }
            let place = place.or(before.place);
            next.insert(*key, Known { place, ..before });
        }
        self.known = next;
        top(&mut due, OPEN, |(moved, key, _)| (*moved, *key));
        for (_, key, flow) in due {
            let Some(known) = self.known.get_mut(&key) else {
                continue;
            };
            let now = both(&flow.traffic);
            let passed = since(now, known.counted);
            known.counted = now;
            known.has_row = true;
            rows.push(row(sampler, &key, flow, known.place.clone(), passed, false));
        }
        rows
    }
}

fn row(
    sampler: &Sampler,
    key: &FlowKey,
    flow: &Flow,
    place: Option<Names>,
    passed: Both,
    closed: bool,
) -> FlowRow {
    let age = sampler.ktime().saturating_sub(flow.created) / 1_000_000;
    let opened = sampler.at().as_millisecond() - i64::try_from(age).unwrap_or(0);
    FlowRow {
        client: from_kernel(&key.client),
        client_port: key.client_port,
        local: from_kernel(&key.local),
        local_port: key.local_port,
        protocol: key.protocol,
        place: place.map(|(backend, server)| (backend.to_string(), server.to_string())),
        opened: opened.div_euclid(1000),
        created: flow.created,
        closed,
        passed,
    }
}
