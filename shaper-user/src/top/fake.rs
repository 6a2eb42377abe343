//! A daemon made up for tests.

mod bench;
mod history;
pub mod servers;

pub use bench::Bench;

use super::source::{Detail, Frame, Source, SourceError, Wanted};
use crate::model::{
    Backpressure, Client, Clients, Direction, Flow, FlowBackpressure, Flows, HaproxySocket,
    HardLimitOnly, Interface, Limited, Overflow, Runtime, Servers, Status,
};
use crate::protocol::{Command, Done, ErrorBody, ErrorCode, Query};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// When the made-up daemon takes its first sample.
pub fn start() -> Timestamp {
    "2026-03-01T03:14:00Z".parse().unwrap()
}

/// The made-up daemon.
#[derive(Clone, Debug)]
pub struct World {
    /// Its clients, in the order it answers.
    pub clients: Vec<Client>,
    /// Its flows.
    pub flows: Vec<Flow>,
    /// HAProxy's sockets.
    pub haproxy: Vec<HaproxySocket>,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// What is wrong.
    pub warnings: Vec<String>,
    /// Interfaces that are gone.
    pub lost: Vec<&'static str>,
    /// What it answers to changes.
    pub verdict: Result<Done, ErrorBody>,
    /// Whether anybody answers.
    pub up: bool,
    /// Seconds since [`start`].
    pub second: i64,
    /// Why it keeps no history.
    pub no_history: Option<&'static str>,
    /// The changes it was asked for.
    pub asked: Vec<Command>,
}

impl World {
    /// A world with nothing in it.
    pub fn empty() -> Self {
        Self {
            clients: Vec::new(),
            flows: Vec::new(),
            haproxy: Vec::new(),
            mode: "enforce",
            warnings: Vec::new(),
            lost: Vec::new(),
            verdict: Ok(Done {
                message: "done".to_owned(),
            }),
            up: true,
            second: 0,
            no_history: None,
            asked: Vec::new(),
        }
    }

    /// A host at three in the morning: one client far ahead of the rest.
    pub fn lab() -> Self {
        let mut world = Self::empty();
        let heavy = Client {
            connections: 3,
            rule: "partners".to_owned(),
            upload: Limited {
                limited_ms: 372_000,
                limited: true,
                ..limited(7_980_000, Some(8_000_000))
            },
            download: limited(412_000, Some(32_000_000)),
            ..client("203.0.113.7", 0, 0)
        };
        let runtime = Client {
            runtime: Some(Runtime {
                upload_bps: Some(2_000_000),
                download_bps: None,
                blocked: false,
                limit_expires: Some(start() + SignedDuration::from_mins(40)),
                block_expires: None,
            }),
            upload: Limited {
                limited_ms: 12_000,
                ..limited(1_620_000, Some(2_000_000))
            },
            ..client("198.51.100.23", 0, 96_000)
        };
        let blocked = Client {
            blocked: true,
            connections: 0,
            rule: "abuser".to_owned(),
            ..client("198.51.100.7", 0, 0)
        };
        let exempt = Client {
            exempt: true,
            rule: "monitoring".to_owned(),
            upload: limited(24_000, None),
            download: limited(31_000, None),
            ..client("192.0.2.10", 0, 0)
        };
        world.clients = vec![heavy, runtime, blocked, exempt];
        world
            .clients
            .push(client("2001:db8:1:2::/64", 640_000, 5_210_000));
        for n in 0..16_u64 {
            let name = format!("10.0.{}.{}", n / 4, 10 + n);
            world
                .clients
                .push(client(&name, 4_000 + n * 900, 22_000 + n * 3_100));
        }
        for (n, port) in [(7_100_000, 40_112), (880_000, 40_118), (0, 40_120)] {
            world.flows.push(flow("203.0.113.7", port, n, 130_000));
        }
        world
            .flows
            .push(flow("2001:db8:1:2::17", 51_000, 640_000, 5_210_000));
        world
            .flows
            .push(flow("198.51.100.23", 33_000, 1_620_000, 96_000));
        for n in 0..16_u16 {
            let name = format!("10.0.{}.{}", n / 4, 10 + n);
            let n = u64::from(n);
            world.flows.push(flow(
                &name,
                50_000 + n as u16,
                4_000 + n * 900,
                22_000 + n * 3_100,
            ));
        }
        // The last two are of no session yet, one is of an older answer.
        let pinned = world.flows.len() - 2;
        for (n, flow) in world.flows.iter_mut().take(pinned).enumerate() {
            flow.haproxy = Some(match n {
                0..3 => servers::at("be_ws", "srv1"),
                3 => servers::at("be_ws", "srv2"),
                4 => servers::at("be_chat", "chat-1"),
                n => servers::at("be_ws", &format!("srv{}", 1 + n % 3)),
            });
        }
        if let Some(at) = &mut world.flows[4].haproxy {
            at.stale = true;
        }
        world.haproxy = vec![servers::socket()];
        world
    }

    /// The time of its sample.
    pub fn now(&self) -> Timestamp {
        start() + SignedDuration::from_secs(self.second)
    }

    /// What it answers.
    pub fn answer(&self, wanted: &Wanted) -> Result<Frame, SourceError> {
        if !self.up {
            return Err(SourceError::Gone(
                "nobody listens at /run/shaper/shaper.sock".to_owned(),
            ));
        }
        let detail = match &wanted.detail {
            Some(name) => {
                let query = Query {
                    filter: format!("client:{name}"),
                    ..Query::default()
                };
                Some(Detail {
                    name: name.clone(),
                    client: self.clients.iter().find(|c| c.client == *name).cloned(),
                    flows: self.flows(&query)?,
                })
            }
            None => None,
        };
        let flows = wanted
            .flows
            .as_ref()
            .map(|query| self.flows(query))
            .transpose()?;
        let servers = wanted
            .servers
            .as_ref()
            .map(|query| self.servers(query))
            .transpose()?;
        Ok(Frame {
            clients: self.clients(&wanted.clients)?,
            flows,
            servers,
            history: wanted
                .history
                .each_ref()
                .map(|query| query.as_ref().map(|query| self.history(query))),
            detail,
            status: self.status(),
        })
    }

    fn clients(&self, query: &Query) -> Result<Clients, SourceError> {
        let wanted = term(query)?;
        let rows = self
            .clients
            .iter()
            .filter(|c| wanted.matches(&c.client, None));
        let rows: Vec<_> = rows.cloned().collect();
        Ok(Clients {
            at: self.now(),
            interval_ms: 1_000,
            matched: rows.len() as u64,
            clients: rows,
        })
    }

    fn flows(&self, query: &Query) -> Result<Flows, SourceError> {
        let wanted = term(query)?;
        let rows = self.flows.iter().filter(|f| {
            let place = f.haproxy.as_ref();
            let place = place.map(|at| format!("{}/{}", at.backend, at.server));
            wanted.matches(&f.client.to_string(), place.as_deref())
        });
        let rows: Vec<_> = rows.cloned().collect();
        Ok(Flows {
            at: self.now(),
            interval_ms: 1_000,
            matched: rows.len() as u64,
            flows: rows,
        })
    }

    fn servers(&self, query: &Query) -> Result<Servers, SourceError> {
        let wanted = term(query)?;
        let (mut rows, mut backends) = self.load();
        rows.retain(|row| {
            let place = format!("{}/{}", row.backend, row.server);
            wanted.matches("", Some(&place))
        });
        backends.retain(|backend| rows.iter().any(|row| row.backend == backend.backend));
        Ok(Servers {
            at: self.now(),
            interval_ms: 1_000,
            matched: rows.len() as u64,
            servers: rows,
            backends,
        })
    }

    fn status(&self) -> Status {
        let interface = |name: &str| {
            let gone = self.lost.contains(&name);
            let hook = (!gone).then(|| "tcx".to_owned());
            Interface {
                name: name.to_owned(),
                state: if gone { "gone" } else { "attached" }.to_owned(),
                ingress: hook.clone(),
                egress: hook,
                xdp: (name == "eth0" && !gone).then(|| "native".to_owned()),
            }
        };
        let sum = |of: fn(&Client) -> u64| Direction {
            rate_bps: self.clients.iter().map(of).sum(),
            ..Direction::default()
        };
        let limited = self
            .clients
            .iter()
            .filter(|c| c.upload.limited || c.download.limited);
        Status {
            version: "0.1.0".to_owned(),
            mode: self.mode.to_owned(),
            policy: Some("/etc/shaper/policy.toml".to_owned()),
            since: start() - SignedDuration::from_hours(76),
            interfaces: vec![interface("eth0"), interface("eth1")],
            backpressure: Backpressure {
                upload: false,
                download: false,
                window_updates: false,
                adopted: None,
                reason: None,
            },
            hard_limit_only: HardLimitOnly::default(),
            tables: Vec::new(),
            overflow: Overflow::default(),
            groups: Vec::new(),
            haproxy: self.haproxy.clone(),
            drains: Vec::new(),
            quotas: None,
            flows: self.flows.len() as u64,
            clients: self.clients.len() as u64,
            counters: BTreeMap::new(),
            limited: limited.count() as u64,
            upload: sum(|c| c.upload.traffic.rate_bps),
            download: sum(|c| c.download.traffic.rate_bps),
            ports: vec![443],
            pid: 4242,
            at: self.now(),
            warnings: self.warnings.clone(),
        }
    }

    fn change(&mut self, command: Command) -> Result<Done, SourceError> {
        if !self.up {
            return Err(SourceError::Gone(
                "nobody listens at /run/shaper/shaper.sock".to_owned(),
            ));
        }
        self.asked.push(command);
        self.verdict.clone().map_err(SourceError::Refused)
    }
}

/// The made-up grammar of filters: `client:` or `server:` and a beginning.
#[derive(Clone, Copy)]
enum Term<'a> {
    All,
    Client(&'a str),
    Server(&'a str),
}

impl Term<'_> {
    fn matches(self, client: &str, place: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Client(start) => {
                client.starts_with(start) || client.starts_with(start.trim_end_matches("/64"))
            }
            Self::Server(start) => place.is_some_and(|place| place.starts_with(start)),
        }
    }
}

fn term(query: &Query) -> Result<Term<'_>, SourceError> {
    let text = query.filter.as_str();
    if text.is_empty() {
        return Ok(Term::All);
    }
    let client = text.strip_prefix("client:").map(Term::Client);
    let server = text.strip_prefix("server:").map(Term::Server);
    client.or(server).ok_or_else(|| {
        refused(
            ErrorCode::BadRequest,
            "unknown term; known are client:, rule:, state:",
        )
    })
}

/// A no.
pub fn refused(code: ErrorCode, message: &str) -> SourceError {
    SourceError::Refused(ErrorBody {
        code,
        message: message.to_owned(),
    })
}

/// One direction with a rate.
pub fn limited(rate_bps: u64, limit_bps: Option<u64>) -> Limited {
    Limited {
        traffic: direction(rate_bps),
        limit_bps,
        burst_bytes: limit_bps.map(|bps| (bps / 80).max(65_536)),
        limited_ms: 0,
        limited: false,
    }
}

fn direction(rate_bps: u64) -> Direction {
    Direction {
        bytes: rate_bps * 47,
        packets: rate_bps / 200,
        rate_bps,
        dropped_bytes: if rate_bps > 6_000_000 { 1_234_567 } else { 0 },
        dropped_packets: if rate_bps > 6_000_000 { 841 } else { 0 },
    }
}

/// A client with two rates under the default rule.
pub fn client(name: &str, up: u64, down: u64) -> Client {
    Client {
        client: name.to_owned(),
        rule: "default".to_owned(),
        connections: 1,
        exempt: false,
        blocked: false,
        upload: limited(up, Some(8_000_000)),
        download: limited(down, Some(32_000_000)),
        age_ms: 4_123_000,
        idle_ms: 40,
        runtime: None,
        quota: None,
        servers: Vec::new(),
    }
}

/// A flow with two rates.
pub fn flow(client: &str, port: u16, up: u64, down: u64) -> Flow {
    let v6 = client.contains(':');
    Flow {
        client: client.parse().unwrap(),
        client_port: port,
        local: if v6 { "2001:db8::1" } else { "192.0.2.1" }
            .parse()
            .unwrap(),
        local_port: 443,
        protocol: "tcp".to_owned(),
        rule: "default".to_owned(),
        age_ms: 754_000,
        idle_ms: 120,
        upload: direction(up),
        download: direction(down),
        backpressure: Some(FlowBackpressure {
            upload: true,
            download: true,
        }),
        own_limit: None,
        haproxy: None,
    }
}

/// The world behind a lock: tests change it while the dashboard looks.
#[derive(Clone)]
pub struct Fake(pub Arc<Mutex<World>>);

impl Source for Fake {
    async fn fetch(&mut self, wanted: &Wanted) -> Result<Frame, SourceError> {
        let mut world = self.0.lock().unwrap();
        world.second += 1;
        world.answer(wanted)
    }

    async fn act(&mut self, command: Command) -> Result<Done, SourceError> {
        self.0.lock().unwrap().change(command)
    }
}
