//! What stays: two heavy clients, light ones that chat, and connections that say
//! nothing.

use super::census::{Connection, connection};
use super::checks::{Check, Checks};
use super::roles;
use crate::lab::Lab;
use crate::ws::client::{Heavy, Light, connect, open};
use crate::ws::{Backend, Recorder};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use shaper_user::model::{Direction, Flows};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

const CHAT_EVERY: Duration = Duration::from_millis(250);
/// A WebSocket's close is answered by then.
const ENDS: Duration = Duration::from_secs(5);
/// In a sample that was taken so long after the beginning, all are there.
const BEGINS_MS: i128 = 2_000;
/// A flow seems younger or older by this at most: what is seen of it is as old as
/// the last sample.
const AGE_SLACK: Duration = Duration::from_secs(3);

/// All of them.
pub(super) struct Long {
    heavy: Option<[Heavy; 2]>,
    light: Vec<Light>,
    stay: Vec<(Connection, WebSocketStream<TcpStream>)>,
    pub(super) recorder: Arc<Recorder>,
    seen: HashMap<Connection, Seen>,
    began: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    traffic: [Direction; 2],
    /// How old it was, and when: by a clock that is never set.
    age: Duration,
    at: Instant,
}

impl Long {
    pub(super) fn start(runtime: &Runtime, lab: &Lab) -> Result<Self> {
        let handle: &Handle = runtime.handle();
        let recorder = Arc::new(Recorder::new(1)?);
        recorder.record_into(Some(0));
        let light = roles::light()
            .into_iter()
            .map(|source| Light::start(handle, lab, source, CHAT_EVERY, recorder.clone()))
            .collect::<Result<_>>()?;
        let mut stay = Vec::new();
        for source in roles::stay() {
            let _inside = handle.enter();
            let (stream, url) = connect(lab, source, "cubic")?;
            let (from, to) = (stream.local_addr()?, stream.peer_addr()?);
            let socket = runtime.block_on(open(stream, format!("{url}/chat")))?;
            stay.push(((from.ip(), from.port(), to.port()), socket));
        }
        let heavy = [
            Heavy::upload(lab, roles::uploader(), "cubic")?,
            Heavy::download(lab, roles::downloader())?,
        ];
        Ok(Self {
            heavy: Some(heavy),
            light,
            stay,
            recorder,
            seen: HashMap::new(),
            began: Timestamp::now(),
        })
    }

    /// Payload that arrived: of the heavy upload at its server, of the heavy
    /// download at the client.
    pub(super) fn arrived(&self, backends: &[Backend]) -> [u64; 2] {
        let up = backends
            .iter()
            .find_map(|backend| backend.uploads(roles::uploader()))
            .map_or(0, |meter| meter.total());
        let down = self.heavy.as_ref().map_or(0, |[_, h]| h.meter().total());
        [up, down]
    }

    /// Whether a client has a long connection.
    pub(super) fn is_one(&self, client: IpAddr) -> bool {
        client == roles::uploader()
            || client == roles::downloader()
            || roles::light().contains(&client)
            || roles::stay().contains(&client)
    }

    /// The silent connections that are open.
    pub(super) fn staying(&self) -> HashSet<Connection> {
        self.stay
            .iter()
            .map(|(connection, _)| *connection)
            .collect()
    }

    /// How many flows belong to all this.
    fn expected(&self) -> usize {
        self.stay.len() + self.light.len() + if self.heavy.is_some() { 2 } else { 0 }
    }

    /// Each is there, is the same, and counts on.
    pub(super) fn see(&mut self, flows: &Flows, checks: &mut Checks) {
        let at = Instant::now();
        let mut there = 0;
        for flow in &flows.flows {
            if flow.protocol != "tcp" || !self.is_one(flow.client) {
                continue;
            }
            there += 1;
            let now = Seen {
                traffic: [flow.upload, flow.download],
                age: Duration::from_millis(flow.age_ms),
                at,
            };
            let key = connection(flow);
            if let Some(before) = self.seen.get(&key) {
                let counts_on = before.traffic.iter().zip(&now.traffic).all(|(b, n)| {
                    n.bytes >= b.bytes
                        && n.packets >= b.packets
                        && n.dropped_bytes >= b.dropped_bytes
                        && n.dropped_packets >= b.dropped_packets
                });
                let age = before.age + (now.at - before.at);
                checks.that(
                    Check::Kept,
                    counts_on && now.age.abs_diff(age) <= AGE_SLACK,
                    || format!("{key:?}: {now:?} after {before:?}"),
                );
            }
            self.seen.insert(key, now);
        }
        if flows.at.duration_since(self.began).as_millis() < BEGINS_MS {
            return;
        }
        let expected = self.expected();
        checks.that(Check::Light, there == expected, || {
            format!("{there} of {expected} long connections are flows")
        });
    }

    /// Ends those that move something; the silent ones stay.
    pub(super) fn quiet(&mut self, runtime: &Runtime, checks: &mut Checks) {
        for heavy in self.heavy.take().into_iter().flatten() {
            checks.result(Check::Light, heavy.stop().context("a heavy client"));
        }
        for light in std::mem::take(&mut self.light) {
            let stopped = runtime.block_on(async {
                let stopped = timeout(ENDS, light.stop()).await;
                stopped.unwrap_or_else(|_| bail!("its close is not answered within {ENDS:?}"))
            });
            checks.result(Check::Light, stopped.context("a light client"));
        }
        let (p50, count) = self.recorder.quantile_ms(0, 0.5);
        let (p99, _) = self.recorder.quantile_ms(0, 0.99);
        let (most, _) = self.recorder.quantile_ms(0, 1.0);
        checks.number(
            Check::Light,
            format!(
                "{count} echoes of the light ones: p50 {p50:.1} ms, p99 {p99:.1} ms, the slowest \
                 {most:.0} ms"
            ),
        );
    }

    /// Ends the silent ones.
    pub(super) fn leave(&mut self) {
        self.stay.clear();
    }
}
