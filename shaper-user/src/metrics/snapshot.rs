//! Everything that metrics are made of, at one time.

use super::process::Process;
use crate::model;
use crate::sampler::rules::Rule;
use prometheus_client::metrics::histogram::Histogram;
use shaper_common::stats::STATS_LEN;
use std::time::Duration;

/// What the kernel's thread says, and what the exporter adds of itself.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// As `shaper status` has it.
    pub status: model::Status,
    /// The kernel's counters, by [`shaper_common::stats::Stat`].
    pub stats: [u64; STATS_LEN],
    /// Every rule.
    pub rules: Vec<Rule>,
    /// Every server of HAProxy's.
    pub servers: model::Servers,
    /// The busiest clients, with their quotas.
    pub clients: model::Clients,
    /// Events so far.
    pub events: u64,
    /// How the kernel's thread does.
    pub health: Health,
    /// Scrapes answered and connections refused.
    pub scrapes: [u64; 2],
    /// What the daemon takes.
    pub process: Process,
}

/// How the kernel's thread does. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Health {
    pub(super) sample: Histogram,
    pub(super) lag: Histogram,
}

/// Upper bounds in seconds.
const BUCKETS: [f64; 9] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

impl Default for Health {
    fn default() -> Self {
        Self {
            sample: Histogram::new(BUCKETS),
            lag: Histogram::new(BUCKETS),
        }
    }
}

impl Health {
    /// A sample was taken.
    pub fn sampled(&self, took: Duration) {
        self.sample.observe(took.as_secs_f64());
    }

    /// A sample began so much later than it was due.
    pub fn late(&self, by: Duration) {
        self.lag.observe(by.as_secs_f64());
    }
}
