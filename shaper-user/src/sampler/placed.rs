//! What the last sample has for limits by place, and what came of them.

use super::{DIRECTIONS, Sampler};
use crate::caps::{ClientNow, FlowNow, ServerNow};
use crate::filter::Place;
use crate::kernel::FlowLimit;
use crate::model::OwnLimit;
use crate::policy::RateLimit;
use shaper_common::class::CLASS_EXEMPT;
use shaper_common::flow::{DOWNLOAD, Flow, UPLOAD};
use shaper_common::key::{ClientKey, FlowKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The connections of the last sample, for limits by place.
#[derive(Debug, Default)]
pub struct Placed {
    /// The servers that were asked for, without those whose sessions are from an
    /// older answer: what is held there stays as it is.
    pub servers: Vec<ServerNow>,
    /// Connections with a limit that are at none of the servers asked for.
    pub loose: Vec<FlowKey>,
}

impl Sampler {
    /// The connections at the servers that `wanted` names, and those that are at
    /// none of them and have a limit.
    pub fn placed(&self, wanted: impl Fn(Place<'_>) -> bool) -> Placed {
        // By number: whether asked for, and stale.
        let servers: HashMap<u32, bool> = self
            .pinned
            .servers(self.now)
            .filter(|(_, server)| wanted(server.place()))
            .map(|(number, server)| (number, server.stale))
            .collect();
        let mut placed = Placed::default();
        let mut clients: BTreeMap<(u32, ClientKey), Vec<FlowNow>> = BTreeMap::new();
        for (index, (key, flow)) in self.flows.iter().enumerate() {
            let number = self.pinned.at(index);
            match number.and_then(|number| Some((number, *servers.get(&number)?))) {
                Some((number, false)) => {
                    let client = self.compiled.settings.client(&key.client);
                    let rates = self.flow_rates[index];
                    let flow = FlowNow::new(*key, flow, rates, self.now);
                    clients.entry((number, client)).or_default().push(flow);
                }
                Some((_, true)) => {}
                None if has_own(flow) => placed.loose.push(*key),
                None => {}
            }
        }
        let mut last = None;
        for ((number, client), flows) in clients {
            if last != Some(number)
                && let Some(server) = self.pinned.get(number)
            {
                placed.servers.push(ServerNow {
                    name: (server.backend.clone(), server.server.clone()),
                    clients: Vec::new(),
                });
                last = Some(number);
            }
            let client = self.client_now(client, flows);
            if let Some(server) = placed.servers.last_mut() {
                server.clients.push(client);
            }
        }
        placed
    }

    fn client_now(&self, client: ClientKey, flows: Vec<FlowNow>) -> ClientNow {
        let class = self.class_of(&client, self.client(&client));
        let most = |limit: Option<RateLimit>| limit.map_or(f64::INFINITY, |l| l.rate.bps() as f64);
        ClientNow {
            client,
            exempt: class.is_some_and(|class| class.class.flags & CLASS_EXEMPT != 0),
            most: class.map_or([f64::INFINITY; 2], |class| {
                [most(class.upload), most(class.download)]
            }),
            each: class.map_or([f64::INFINITY; 2], |class| {
                [class.class.flow_upload, class.class.flow_download].map(|limit| {
                    if limit.is_set() {
                        limit.bits_per_sec() as f64
                    } else {
                        f64::INFINITY
                    }
                })
            }),
            flows,
        }
    }

    /// The time between the last two samples.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// Whether HAProxy has not said anything yet.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        let answered = |socket: &crate::model::HaproxySocket| socket.age_ms.is_some();
        self.view.sessions.is_empty() && !self.view.sockets.iter().any(answered)
    }

    /// Takes in what the kernel was told, for the rows of the last sample.
    pub fn limited_flows(&mut self, changes: &[FlowLimit]) {
        for change in changes {
            if let Some(index) = self.flow_index.get(&change.key)
                && let Some((_, flow)) = self.flows.get_mut(*index as usize)
            {
                flow.own = change.limits.map(RateLimit::to_kernel);
            }
        }
    }

    /// By what the limited connections are held, in the place of what was known;
    /// of those that are not named it is as before.
    pub fn set_limited_by(&mut self, names: impl Iterator<Item = (FlowKey, Arc<str>)>) {
        let mut names: HashMap<_, _, _> = names.collect();
        for (key, _) in self.flows.iter().filter(|(_, flow)| has_own(flow)) {
            if let Some(name) = self.limited_by.remove(key) {
                names.entry(*key).or_insert(name);
            }
        }
        self.limited_by = names;
    }

    /// How many connections are limited because of their place.
    #[must_use]
    pub fn placed_flows(&self) -> u64 {
        self.flows.iter().filter(|(_, flow)| has_own(flow)).count() as u64
    }

    /// What a connection is held to because of its place.
    pub(super) fn own_limit(&self, key: &FlowKey, flow: &Flow) -> Option<OwnLimit> {
        let bps = |d: u32| {
            let own = &flow.own[d as usize];
            own.is_set().then(|| own.bits_per_sec())
        };
        has_own(flow).then(|| OwnLimit {
            upload_bps: bps(UPLOAD),
            download_bps: bps(DOWNLOAD),
            by: self.limited_by.get(key).map_or_else(
                || "before the daemon's start".to_owned(),
                |by| by.to_string(),
            ),
        })
    }
}

fn has_own(flow: &Flow) -> bool {
    DIRECTIONS.iter().any(|d| flow.own[*d].is_set())
}
