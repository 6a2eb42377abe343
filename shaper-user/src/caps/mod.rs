//! Limits by place, cut into limits of single connections.
//!
//! The kernel knows no servers. So once a second what a server, or a client at it,
//! may have is divided among the connections there, by what they sent in the second
//! before. It is arithmetic alone; the daemon passes the outcome on.
//!
//! One that takes less than `GREEDY` of its limit is thought to want `AHEAD`
//! times as much; one that takes more, anything. Clients share a server first, then
//! the connections of a client share what it has (`divide`, [`fill`]). While a cap could be
//! reached at all every connection has a limit, so that a sudden burst is caught
//! before the next second.
//!
//! An idle connection keeps a floor, on which it can begin: what all are given
//! together exceeds the cap by these floors at most, a tenth of it. And small
//! changes are left out (see `changes`), another 3 %.

mod changes;
mod divide;
pub mod fill;
mod ruled;
mod share;

pub use changes::{changes, freed};

use crate::addr;
use crate::haproxy::weights::ServerName;
use crate::policy::{Policy, Rate};
use divide::Direction;
use ipnet::IpNet;
use ruled::{Ruled, ruled};
use shaper_common::bucket::{Limit, debt};
use shaper_common::flow::Flow;
use shaper_common::key::{ClientKey, FlowKey};
use share::Smoothed;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The part of its limit from which on somebody is thought to want more.
const GREEDY: f64 = 0.8;
/// How many times its rate somebody gets who does not use its limit.
const AHEAD: f64 = 1.5;
const DIRECTIONS: [usize; 2] = [0, 1];

/// A connection in the last sample.
#[derive(Clone, Copy, Debug)]
pub struct FlowNow {
    /// Which.
    pub key: FlowKey,
    /// Bits per second, by direction.
    pub rates: [u64; 2],
    /// What the kernel holds it to because of its place, by direction.
    pub own: [Limit; 2],
    /// Its bucket is half used, by direction: it wants more than it gets, even
    /// where stopping and going make its rate look low.
    pub held: [bool; 2],
}

impl FlowNow {
    /// A connection of a sample that was taken at `now`, ktime in ns.
    #[must_use]
    pub fn new(key: FlowKey, flow: &Flow, rates: [u64; 2], now: u64) -> Self {
        let held = |d: usize| {
            let own = &flow.own[d];
            own.is_set() && debt(flow.traffic[d].tat, now) > own.tau / 2
        };
        Self {
            key,
            rates,
            own: flow.own,
            held: DIRECTIONS.map(held),
        }
    }

    fn is_greedy(&self, d: usize) -> bool {
        let own = &self.own[d];
        own.is_set() && (self.held[d] || self.rate(d) > GREEDY * own.bits_per_sec() as f64)
    }

    fn rate(&self, d: usize) -> f64 {
        self.rates[d] as f64
    }

    fn want(&self, d: usize) -> f64 {
        if self.is_greedy(d) {
            f64::INFINITY
        } else {
            self.rate(d) * AHEAD
        }
    }
}

/// A client's connections at a server.
#[derive(Clone, Debug)]
pub struct ClientNow {
    /// Which.
    pub client: ClientKey,
    /// Never limited.
    pub exempt: bool,
    /// What the policy holds it to anyway, by direction; infinite: nothing.
    pub most: [f64; 2],
    /// Likewise, each of its connections alone.
    pub each: [f64; 2],
    /// Its connections there.
    pub flows: Vec<FlowNow>,
}

/// A server with all connections at it.
#[derive(Clone, Debug)]
pub struct ServerNow {
    /// HAProxy's backend and server.
    pub name: ServerName,
    /// Its clients.
    pub clients: Vec<ClientNow>,
}

/// What a connection is to be held to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The connection.
    pub flow: FlowNow,
    /// By direction; `None`: nothing.
    pub limits: [Option<Rate>; 2],
    /// The rule or `server_limit` that is behind it; both, where they differ.
    pub by: Arc<str>,
    /// A part of what several have, which changes with them.
    shared: bool,
}

/// What is remembered from second to second.
#[derive(Debug, Default)]
pub struct Caps(HashMap<ServerName, [Smoothed; 2]>);

impl Caps {
    /// What every connection is to be held to, `elapsed` after it was asked last.
    /// One that is not named is to be held to nothing.
    #[must_use]
    pub fn limits(
        &mut self,
        policy: &Policy,
        servers: &[ServerNow],
        elapsed: Duration,
    ) -> Vec<Wanted> {
        // Also of a server that HAProxy is silent about for a while.
        self.0
            .retain(|name, _| policy.server_limit(&name.0, &name.1).is_some());
        let mut wanted = Vec::new();
        for (server, ruled) in servers.iter().zip(ruled(policy, servers)) {
            self.server(policy, server, &ruled, elapsed, &mut wanted);
        }
        wanted
    }

    fn server(
        &mut self,
        policy: &Policy,
        server: &ServerNow,
        ruled: &[Ruled<'_>],
        elapsed: Duration,
        wanted: &mut Vec<Wanted>,
    ) {
        let (backend, name) = (&*server.name.0, &*server.name.1);
        let limit = policy.server_limit(backend, name);
        let by_server: Arc<str> = format!("server_limit {backend}/{name}").into();
        let [up, down] = DIRECTIONS.map(|d| {
            let mut at = Direction::new(d, &server.clients, ruled);
            if let Some(share) = limit.and_then(|limit| limit.share) {
                let smoothed = self.0.entry(server.name.clone()).or_default();
                at.hold_to_share(smoothed[d].limit(share, &at.carried(), elapsed));
            }
            at.divide(limit.and_then(|limit| limit.cap[d]))
        });
        let clients = server.clients.iter().zip(ruled);
        let flows = clients.flat_map(|(client, at)| client.flows.iter().map(|f| (f, at.rule)));
        for ((flow, rule), given) in flows.zip(up.into_iter().zip(down).map(<[_; 2]>::from)) {
            let mut names: Vec<Arc<str>> = Vec::new();
            for given in given.iter().filter(|given| given.rate.is_finite()) {
                let name = match rule {
                    Some(rule) if given.by_rule => rule.name.as_str().into(),
                    _ => by_server.clone(),
                };
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            if !names.is_empty() {
                wanted.push(Wanted {
                    flow: *flow,
                    limits: given.map(|given| rate(given.rate)),
                    by: names.join(", ").into(),
                    shared: given.iter().any(|given| given.shared),
                });
            }
        }
    }
}

/// `None` where there is no limit. Nobody is held to less than the least limit of
/// a policy, however many share a small cap.
fn rate(bps: f64) -> Option<Rate> {
    let (least, most) = (Rate::MIN.bps() as f64, Rate::MAX.bps() as f64);
    (bps <= most)
        .then(|| Rate::from_bps(bps.clamp(least, most).round() as u64))
        .flatten()
}

/// A client as the address that its prefix begins with.
fn net(client: &ClientKey) -> IpNet {
    addr::from_kernel(&client.addr).into()
}

#[cfg(test)]
mod tests;
