//! The weight of every server, as percent of its configured one.
//!
//! A server's percent is proportional to `connections ÷ rate`, the inverse of
//! what one of its connections carries on average. `leastconn` sends the next
//! connection where `connections ÷ weight` is lowest, which then is where the
//! rate is lowest. Between two answers of the agent a new connection counts as
//! much there as the server's others do. Under `roundrobin` the new connections
//! are shared out so that `share × average` is the same for every server.
//!
//! The rate is upload and download together, as in the imbalance that `shaper
//! servers` prints: HAProxy and the server handle both.
//!
//! The lowest of a backend is 100 %, never less: HAProxy rounds down, and its
//! default weight is 1, of which 99 % are 0, and that drains the server.

use super::Load;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The lowest answer, in percent of the configured weight.
pub const LOWEST: u16 = 100;
/// The highest answer. HAProxy's weights end at 256, so one that is configured
/// as 25 can follow the whole range.
pub const HIGHEST: u16 = 1000;
/// The time constant over which rates and connections are smoothed. One of 10 s
/// learns of a heavy connection too late (see the simulation in the tests).
const SMOOTHING: Duration = Duration::from_secs(5);
/// Below this mean rate of a backend's servers, in bits per second, nothing is
/// worth moving.
const QUIET: f64 = 100_000.0;
/// An answer stays until it is off by more than this part of itself.
const STICKY: f64 = 0.05;
/// Connections, assumed to be like the backend's average, that are added to each
/// server: one that has few is judged with care.
const ASSUMED: f64 = 1.0;
/// A server with less than this, smoothed, has had none for about a minute.
const FORGOTTEN: f64 = 1e-5;

/// A server, as HAProxy names it: backend and name.
pub type ServerName = (Arc<str>, Arc<str>);

/// What is remembered of each server that carried a connection lately.
#[derive(Clone, Debug, Default)]
pub struct Weights(HashMap<ServerName, Memory>);

#[derive(Clone, Copy, Debug)]
struct Memory {
    /// Smoothed.
    connections: f64,
    /// Bits per second, smoothed.
    rate: f64,
    /// Percent of the configured weight.
    percent: u16,
}

impl Weights {
    /// Takes in what the servers carry, `elapsed` after it was told last.
    pub fn observe(&mut self, loads: &[Load], elapsed: Duration) {
        let part = 1.0 - (-elapsed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
        for memory in self.0.values_mut() {
            memory.connections *= 1.0 - part;
            memory.rate *= 1.0 - part;
        }
        for load in loads {
            let (connections, rate) = measured(load);
            self.0
                .entry((load.backend.clone(), load.server.clone()))
                .and_modify(|memory| {
                    memory.connections += part * connections;
                    memory.rate += part * rate;
                })
                .or_insert(Memory {
                    connections,
                    rate,
                    percent: LOWEST,
                });
        }
        self.0.retain(|_, memory| memory.connections > FORGOTTEN);
        self.decide();
    }

    /// Percent of the configured weight, [`LOWEST`] to [`HIGHEST`], of every
    /// server.
    pub fn percents(&self) -> impl Iterator<Item = (&ServerName, u16)> {
        self.0.iter().map(|(name, memory)| (name, memory.percent))
    }

    fn decide(&mut self) {
        let mut backends: HashMap<Arc<str>, Backend> = HashMap::new();
        for ((name, _), memory) in &self.0 {
            let backend = backends.entry(name.clone()).or_default();
            backend.servers += 1.0;
            backend.connections += memory.connections;
            backend.rate += memory.rate;
        }
        backends.retain(|_, backend| backend.rate > QUIET * backend.servers);
        for ((name, _), memory) in &self.0 {
            if let Some(backend) = backends.get_mut(name) {
                backend.lowest = backend.lowest.min(memory.inverse(backend));
            }
        }
        for ((name, _), memory) in &mut self.0 {
            let Some(backend) = backends.get(name) else {
                memory.percent = LOWEST;
                continue;
            };
            let wanted = f64::from(LOWEST) * memory.inverse(backend) / backend.lowest;
            let wanted = wanted.min(f64::from(HIGHEST));
            let now = f64::from(memory.percent);
            if (wanted - now).abs() > STICKY * now || whole(wanted) == LOWEST {
                memory.percent = whole(wanted);
            }
        }
    }
}

impl Memory {
    /// Connections by rate.
    fn inverse(&self, backend: &Backend) -> f64 {
        let each = backend.rate / backend.connections;
        (self.connections + ASSUMED) / (self.rate + ASSUMED * each)
    }
}

/// Sums over a backend's servers.
struct Backend {
    servers: f64,
    connections: f64,
    rate: f64,
    /// The least [`Memory::inverse`].
    lowest: f64,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            servers: 0.0,
            connections: 0.0,
            rate: 0.0,
            lowest: f64::INFINITY,
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn measured(load: &Load) -> (f64, f64) {
    let [up, down] = load.rates;
    (load.connections as f64, up as f64 + down as f64)
}

/// Of a value in the range of the answers.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(percent: f64) -> u16 {
    (percent.round() as u16).clamp(LOWEST, HIGHEST)
}

#[cfg(test)]
mod tests;
