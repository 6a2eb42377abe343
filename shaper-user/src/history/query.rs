//! From stored minutes to an answer: bounded, whatever is stored.

use super::Settings;
use super::record::{Both, FlowRow, Head, Passed, Rate, add, moved};
use super::store::Store;
use crate::haproxy::drain::server_name;
use crate::model::{
    History, HistoryClient, HistoryDirection, HistoryFlow, HistoryServer, HistoryStep,
};
use crate::policy::client::display;
use crate::protocol::HistoryQuery;
use crate::redb_file::StoreError;
use crate::runtime::parse_client;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use jiff::Timestamp;
use shaper_common::key::UDP;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::Range;

/// Rows of a list, where nothing else is asked for.
const ROWS: usize = 20;
/// Rows of a list at most.
const ROWS_MAX: usize = 1_000;
/// Steps of the answer at most: minutes of a day.
const STEPS: u64 = 1_440;
/// Sums in memory at most; then all but the largest go.
const SUMS: usize = 50_000;
const SUMS_KEPT: usize = 10_000;

/// Why there is no answer.
#[derive(Debug)]
pub enum Refused {
    /// The question has a mistake.
    Query(String),
    /// The store has trouble.
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(trouble: StoreError) -> Self {
        Self::Store(trouble)
    }
}

/// Sums by key, each with what was last said of it; of very many the largest.
struct Sums<K, V> {
    sums: HashMap<K, (Both, V), RandomState>,
    dropped: u64,
}

impl<K: Hash + Eq + Ord + Clone, V> Sums<K, V> {
    fn new() -> Self {
        Self {
            sums: HashMap::default(),
            dropped: 0,
        }
    }

    fn add(&mut self, key: K, passed: Both, value: V) {
        match self.sums.entry(key) {
            Entry::Occupied(mut sum) => {
                let (sum, last) = sum.get_mut();
                add(sum, passed);
                *last = value;
            }
            Entry::Vacant(sum) => {
                sum.insert((passed, value));
            }
        }
        if self.sums.len() > SUMS {
            let mut sizes: Vec<_> = self.sums.values().map(|(sum, _)| moved(sum)).collect();
            let (_, least, _) = sizes.select_nth_unstable_by(SUMS_KEPT, |a, b| b.cmp(a));
            let (least, before) = (*least, self.sums.len());
            self.sums.retain(|_, (sum, _)| moved(sum) > least);
            self.dropped += (before - self.sums.len()) as u64;
        }
    }

    /// The largest, and how many there were.
    fn largest(self, most: usize) -> (Vec<(K, Both, V)>, u64) {
        let matched = self.sums.len() as u64 + self.dropped;
        let sums = self.sums.into_iter();
        let mut rows: Vec<_> = sums.map(|(key, (sum, value))| (key, sum, value)).collect();
        rows.sort_unstable_by(|(a, x, _), (b, y, _)| {
            moved(y).cmp(&moved(x)).then_with(|| a.cmp(b))
        });
        rows.truncate(most);
        (rows, matched)
    }
}

/// Which rows are asked for.
struct Wanted {
    client: Option<IpNet>,
    server: Option<(String, String)>,
    minutes: Range<u64>,
    step: u64,
    rows: usize,
}

impl Wanted {
    fn client(&self, ip: IpAddr) -> bool {
        self.client.is_none_or(|net| net.contains(&ip))
    }

    fn server(&self, backend: &str, server: &str) -> bool {
        self.server
            .as_ref()
            .is_none_or(|(b, s)| b == backend && s == server)
    }

    fn flow(&self, row: &FlowRow) -> bool {
        let place = row.place.as_ref();
        self.client(row.client)
            && (self.server.is_none() || place.is_some_and(|(b, s)| self.server(b, s)))
    }
}

/// Answers a question.
///
/// # Errors
/// When it has a mistake, or the store cannot be read.
pub fn answer(
    store: &Store,
    settings: &Settings,
    query: &HistoryQuery,
    now: Timestamp,
) -> Result<History, Refused> {
    let wanted = wanted(settings, query, now)?;
    let mut steps: BTreeMap<u64, Head> = BTreeMap::new();
    store.heads(wanted.minutes.clone(), |minute, head| {
        let step = steps.entry(minute / wanted.step).or_default();
        step.ms = step.ms.saturating_add(head.ms);
        step.clients = step.clients.max(head.clients);
        step.flows_cut = step.flows_cut.saturating_add(head.flows_cut);
        step.others = step.others.max(head.others);
        add(&mut step.total, head.total);
        add(&mut step.others_passed, head.others_passed);
    })?;
    let filtered = wanted.client.is_some() || wanted.server.is_some();
    if filtered {
        for head in steps.values_mut() {
            head.total = Both::default();
            head.clients = 0;
        }
    }
    let mut clients = Sums::new();
    let mut servers = Sums::new();
    let mut flows = Sums::new();
    let both = wanted.client.is_some() && wanted.server.is_some();
    let count = |steps: &mut BTreeMap<u64, Head>, minute: u64, passed: Both| {
        if let Some(head) = steps.get_mut(&(minute / wanted.step)) {
            add(&mut head.total, passed);
        }
    };
    if filtered || wanted.rows > 0 {
        store.rates(wanted.minutes.clone(), |minute, rate| match rate {
            Rate::Client(ip, bits, passed) if wanted.server.is_none() && wanted.client(ip) => {
                clients.add((ip, bits), passed, ());
                if filtered {
                    count(&mut steps, minute, passed);
                }
            }
            Rate::Server(backend, server, passed)
                if wanted.client.is_none() && wanted.server(&backend, &server) =>
            {
                servers.add((backend, server), passed, ());
                if filtered {
                    count(&mut steps, minute, passed);
                }
            }
            _ => {}
        })?;
    }
    if both || wanted.rows > 0 {
        store.flows(wanted.minutes.clone(), |minute, row| {
            if !wanted.flow(&row) {
                return;
            }
            // A client at a server is known by its flows alone.
            if both {
                count(&mut steps, minute, row.passed);
            }
            let name = (row.client, row.client_port, row.created, row.local_port);
            let passed = row.passed;
            flows.add((name, row.protocol), passed, (minute, row));
        })?;
    }
    let others = steps.values().fold(Both::default(), |mut sum, head| {
        add(&mut sum, head.others_passed);
        sum
    });
    let flows_cut = steps.values().map(|head| u64::from(head.flows_cut)).sum();
    let (clients, clients_matched) = clients.largest(wanted.rows);
    let (servers, servers_matched) = servers.largest(wanted.rows);
    let (flows, flows_matched) = flows.largest(wanted.rows);
    Ok(History {
        since: time(wanted.minutes.start),
        until: time(wanted.minutes.end),
        oldest: store.oldest()?.map(time),
        step_ms: wanted.step * 60_000,
        minutes: steps
            .into_iter()
            .map(|(n, head)| step(n, head, &wanted))
            .collect(),
        clients_matched,
        clients: clients
            .into_iter()
            .map(|((ip, bits), passed, ())| HistoryClient {
                client: name(ip, bits),
                upload: direction(passed[0], None),
                download: direction(passed[1], None),
            })
            .collect(),
        others_bytes: if filtered { 0 } else { moved(&others) },
        servers_matched,
        servers: servers
            .into_iter()
            .map(|((backend, server), passed, ())| HistoryServer {
                backend,
                server,
                upload: direction(passed[0], None),
                download: direction(passed[1], None),
            })
            .collect(),
        flows_matched,
        flows_cut,
        flows: flows
            .into_iter()
            .map(|(_, passed, (minute, row))| flow(minute, row, passed))
            .collect(),
    })
}

fn wanted(settings: &Settings, query: &HistoryQuery, now: Timestamp) -> Result<Wanted, Refused> {
    let client = query
        .client
        .as_deref()
        .map(|text| parse_client(text, 32, 128));
    let client = client.transpose();
    let client = client.map_err(|error| Refused::Query(error.to_string()))?;
    let server = query.server.as_deref().map(server_name);
    let server = server.transpose();
    let server = server.map_err(|error| Refused::Query(error.to_string()))?;
    let minute = |at: Timestamp| u64::try_from(at.as_second().div_euclid(60)).unwrap_or(0);
    // The last minute that is there has its rows when it is over.
    let end = query.until.map_or(minute(now) + 1, |until| {
        // The whole minute that it is in.
        minute(until) + u64::from(until.as_second() % 60 != 0)
    });
    let all = u64::from(settings.hours) * 60;
    let start = query.since.map_or(end.saturating_sub(60), minute);
    let start = start.max(end.saturating_sub(all + 60));
    if start >= end {
        let why = "`since` is not before `until`; allowed: an earlier time";
        return Err(Refused::Query(why.to_owned()));
    }
    Ok(Wanted {
        client,
        server: server.map(|(backend, server)| (backend.to_string(), server.to_string())),
        step: (end - start).div_ceil(STEPS).max(1),
        minutes: start..end,
        rows: query.limit.unwrap_or(ROWS).min(ROWS_MAX),
    })
}

fn step(number: u64, head: Head, wanted: &Wanted) -> HistoryStep {
    let filtered = wanted.client.is_some() || wanted.server.is_some();
    HistoryStep {
        at: time(number * wanted.step),
        ms: head.ms.into(),
        upload: direction(head.total[0], Some(head.ms)),
        download: direction(head.total[1], Some(head.ms)),
        clients: (!filtered).then_some(head.clients.into()),
    }
}

/// What passed; with its rate where it is known over what time.
fn direction(passed: Passed, ms: Option<u32>) -> HistoryDirection {
    let rate = |ms: u32| u128::from(passed.bytes) * 8_000 / u128::from(ms.max(1));
    HistoryDirection {
        bytes: passed.bytes,
        dropped_bytes: passed.dropped,
        rate_bps: ms.map(|ms| u64::try_from(rate(ms)).unwrap_or(u64::MAX)),
    }
}

fn flow(minute: u64, row: FlowRow, passed: Both) -> HistoryFlow {
    let (backend, server) = row.place.unzip();
    HistoryFlow {
        client: row.client,
        client_port: row.client_port,
        local: row.local,
        local_port: row.local_port,
        protocol: if row.protocol == UDP { "udp" } else { "tcp" }.to_owned(),
        backend,
        server,
        opened: Timestamp::from_second(row.opened).unwrap_or(Timestamp::UNIX_EPOCH),
        last: time(minute),
        closed: row.closed,
        upload: direction(passed[0], None),
        download: direction(passed[1], None),
    }
}

fn name(ip: IpAddr, bits: u8) -> String {
    IpNet::new(ip, bits).map_or_else(|_| ip.to_string(), display)
}

fn time(minute: u64) -> Timestamp {
    i64::try_from(minute)
        .ok()
        .and_then(|minute| Timestamp::from_second(minute.checked_mul(60)?).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
