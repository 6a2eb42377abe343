//! HAProxy's servers, and which flow is at which.
//!
//! What a server passed is counted here, flow by flow, because nobody else has
//! it: HAProxy counts a WebSocket when it ends, and the kernel knows no servers.
//! A flow is looked for in a view of HAProxy when the view comes, or when the flow
//! does; in between it stays where it was, which costs no hash operation.

use super::{CLIENT_LINGER, DIRECTIONS, Names};
use crate::addr;
use crate::filter::Place;
use crate::haproxy::{Session, View};
use crate::model::Direction;
use foldhash::fast::RandomState;
use shaper_common::flow::{Flow, Traffic};
use shaper_common::key::{FlowKey, UDP};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The numbers of servers.
type Index = HashMap<Names, u32, RandomState>;
/// When a flow began, and where it was.
type Left = HashMap<FlowKey, (u64, Names), RandomState>;

/// Where a flow is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pin {
    /// No view had it so far: none of its bytes are counted.
    #[default]
    Never,
    /// An earlier view had it; what it passes meanwhile is nobody's.
    Before,
    /// At the server with this number.
    At(u32),
}

/// A server with sessions, now or within the last minute.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub backend: Arc<str>,
    pub server: Arc<str>,
    /// Live flows at it.
    pub connections: u64,
    /// Their bits per second, by direction.
    pub rates: [u64; 2],
    /// What they and those before them passed; its rate is not used.
    pub passed: [Direction; 2],
    /// The view has a session at it from an older answer.
    pub stale: bool,
    /// The view has a session at it.
    in_view: bool,
    /// ktime of the last sample while a view had one.
    last_session: u64,
}

impl Server {
    /// Both rates together.
    pub fn rate(&self) -> u64 {
        self.rates[0].saturating_add(self.rates[1])
    }

    /// Its names, to keep.
    fn names(&self) -> Names {
        (self.backend.clone(), self.server.clone())
    }

    /// Its names.
    pub fn place(&self) -> Place<'_> {
        Place {
            backend: &self.backend,
            server: &self.server,
        }
    }

    fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.last_session) > CLIENT_LINGER
    }
}

/// All servers, and the flows of the last sample at them.
///
/// Bounded: at most the servers of one view, and those that lost their last
/// session within a minute before it.
#[derive(Default)]
pub(super) struct Pinned {
    servers: Vec<Server>,
    index: Index,
    /// By flow of the last sample; empty while there are no servers.
    pins: Vec<Pin>,
    /// Where the flows with [`Pin::Before`] were, and when each began: HAProxy often
    /// forgets a session before the kernel's last word of its flow.
    left: Left,
}

impl Pinned {
    /// Every server that is not forgotten, with its number.
    pub fn servers(&self, now: u64) -> impl Iterator<Item = (u32, &Server)> {
        (0..)
            .zip(&self.servers)
            .filter(move |(_, server)| !server.is_over(now))
    }

    /// The server with this number.
    pub fn get(&self, number: u32) -> Option<&Server> {
        self.servers.get(number as usize)
    }

    /// Every server, those included that will be forgotten.
    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    /// The number of the server that a flow of the last sample is at.
    pub fn at(&self, flow: usize) -> Option<u32> {
        match self.pins.get(flow) {
            Some(Pin::At(number)) => Some(*number),
            _ => None,
        }
    }

    /// The names of that server.
    pub fn place(&self, flow: usize) -> Option<Place<'_>> {
        self.get(self.at(flow)?).map(Server::place)
    }

    /// Every flow of the last sample that is at a server, with both numbers.
    pub fn flows(&self) -> impl Iterator<Item = (usize, u32)> {
        (0..self.pins.len()).filter_map(|flow| Some((flow, self.at(flow)?)))
    }

    /// Looks for every flow of the last sample in another view. What a flow passed
    /// before it is found for the first time counts to the server it is at.
    pub fn join(&mut self, view: &View, flows: &[(FlowKey, Flow)], rates: &[[u64; 2]], now: u64) {
        let names: Vec<_> = self.servers.iter().map(Server::names).collect();
        let left = std::mem::take(&mut self.left);
        self.servers.retain(|server| !server.is_over(now));
        self.index.clear();
        for (number, server) in (0..).zip(&mut self.servers) {
            server.in_view = false;
            server.stale = false;
            server.connections = 0;
            server.rates = [0; 2];
            self.index.insert(server.names(), number);
        }
        for session in view.sessions.values() {
            self.add(session, now);
        }
        if self.servers.is_empty() {
            self.pins = Vec::new();
            return;
        }
        self.pins.resize(flows.len(), Pin::Never);
        for (((key, flow), rates), pin) in flows.iter().zip(rates).zip(&mut self.pins) {
            let before = std::mem::replace(pin, find(&self.index, view, key, flow));
            match *pin {
                Pin::At(number) => {
                    if let Some(server) = self.servers.get_mut(number as usize) {
                        let counted = (before != Pin::Never).then_some(flow);
                        server.count(flow, counted, *rates);
                    }
                }
                _ if before == Pin::Never => {}
                _ => {
                    *pin = Pin::Before;
                    let names = match before {
                        Pin::At(number) => names.get(number as usize).cloned(),
                        _ => left_by(&left, key, flow),
                    };
                    let left = names.map(|names| (*key, (flow.created, names)));
                    self.left.extend(left);
                }
            }
        }
    }

    fn add(&mut self, session: &Session, now: u64) {
        let names = (session.backend.clone(), session.server.clone());
        let next = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let number = *self.index.entry(names).or_insert(next);
        if number == next {
            self.servers.push(Server {
                backend: session.backend.clone(),
                server: session.server.clone(),
                connections: 0,
                rates: [0; 2],
                passed: [Direction::default(); 2],
                stale: false,
                in_view: false,
                last_session: now,
            });
        }
        if let Some(server) = self.servers.get_mut(number as usize) {
            server.in_view = true;
            server.stale |= session.stale;
        }
    }

    /// To count the flows of another sample, one after the other; `None` while
    /// there are no servers, and nothing to be done.
    pub fn next<'a>(&'a mut self, view: &'a View, flows: usize, now: u64) -> Option<Joins<'a>> {
        if self.servers.is_empty() {
            return None;
        }
        for server in &mut self.servers {
            server.connections = 0;
            server.rates = [0; 2];
            if server.in_view {
                server.last_session = now;
            }
        }
        let before = std::mem::replace(&mut self.pins, Vec::with_capacity(flows));
        Some(Joins {
            pinned: self,
            view,
            before,
        })
    }
}

/// The flows of a sample on their way to their servers.
pub(super) struct Joins<'a> {
    pinned: &'a mut Pinned,
    view: &'a View,
    /// Where the flows of the sample before were.
    before: Vec<Pin>,
}

impl Joins<'_> {
    /// Backend and server that a flow of the sample before was at last.
    pub fn before(&self, index: usize, key: &FlowKey, flow: &Flow) -> Option<Names> {
        match self.before.get(index)? {
            Pin::At(number) => self.pinned.get(*number).map(Server::names),
            Pin::Before => left_by(&self.pinned.left, key, flow),
            Pin::Never => None,
        }
    }

    /// Takes the next flow; `last` is its place and state in the sample before.
    pub fn count(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        last: Option<(u32, &Flow)>,
        rates: [u64; 2],
    ) {
        let pin = match last {
            Some((place, _)) => self.before.get(place as usize).copied().unwrap_or_default(),
            None => find(&self.pinned.index, self.view, key, flow),
        };
        self.pinned.pins.push(pin);
        if let Pin::At(number) = pin
            && let Some(server) = self.pinned.servers.get_mut(number as usize)
        {
            server.count(flow, last.map(|(_, last)| last), rates);
        }
    }
}

impl Server {
    /// Takes in a flow at it, of which `counted` is counted already.
    fn count(&mut self, flow: &Flow, counted: Option<&Flow>, rates: [u64; 2]) {
        self.connections += 1;
        for direction in DIRECTIONS {
            self.rates[direction] = self.rates[direction].saturating_add(rates[direction]);
            let before = counted.map_or_else(Traffic::default, |flow| flow.traffic[direction]);
            grow(
                &mut self.passed[direction],
                &flow.traffic[direction],
                &before,
            );
        }
    }
}

fn grow(sum: &mut Direction, now: &Traffic, before: &Traffic) {
    let add = |sum: &mut u64, now: u64, before: u64| {
        *sum = sum.wrapping_add(now.saturating_sub(before));
    };
    add(&mut sum.bytes, now.bytes, before.bytes);
    add(&mut sum.packets, now.packets, before.packets);
    add(
        &mut sum.dropped_bytes,
        now.dropped_bytes,
        before.dropped_bytes,
    );
    add(
        &mut sum.dropped_packets,
        now.dropped_packets,
        before.dropped_packets,
    );
}

fn left_by(left: &Left, key: &FlowKey, flow: &Flow) -> Option<Names> {
    let (created, names) = left.get(key)?;
    (*created == flow.created).then(|| names.clone())
}

fn find(index: &Index, view: &View, key: &FlowKey, flow: &Flow) -> Pin {
    session(view, key, flow)
        .and_then(|session| index.get(&(session.backend.clone(), session.server.clone())))
        .map_or(Pin::Never, |number| Pin::At(*number))
}

/// Where HAProxy has pinned a flow. It speaks of TCP alone, and not of a flow
/// that began after its answer.
pub(super) fn session<'a>(view: &'a View, key: &FlowKey, flow: &Flow) -> Option<&'a Session> {
    if view.sessions.is_empty() || key.protocol == UDP {
        return None;
    }
    let session = view.sessions.get(&client_end(key));
    session.filter(|session| flow.created <= session.answered)
}

/// The client's end of a flow.
pub(super) fn client_end(key: &FlowKey) -> SocketAddr {
    SocketAddr::new(addr::from_kernel(&key.client), key.client_port)
}
