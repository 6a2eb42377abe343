//! Flows against the sockets that the kernel has.

use super::checks::{Check, Checks};
use crate::lab::Lab;
use crate::shaper::row;
use anyhow::Result;
use jiff::Timestamp;
use shaper_user::addr::from_kernel;
use shaper_user::kernel::sockets::{self, Ask};
use shaper_user::model::{Clients, Flow, Flows};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Of a connection that was found and not seen opening, the close is found too,
/// not seen: that may take so long. So may a socket that only waits for a FIN.
const GRACE: Duration = Duration::from_secs(5);
/// Flows are as old as the sample, to the clock's steps.
const SLACK_MS: u64 = 300;

/// A connection: client, its port, our port.
pub(super) type Connection = (IpAddr, u16, u16);

pub(super) fn connection(flow: &Flow) -> Connection {
    (flow.client, flow.client_port, flow.local_port)
}

/// The open connections to these ports, by `sock_diag`.
pub(super) fn open(lab: &Lab, ports: &[u16]) -> Result<HashSet<Connection>> {
    let sockets = lab
        .proxy
        .enter(|| sockets::open(|port| ports.contains(&port), Ask::Addresses))?;
    Ok(sockets
        .into_iter()
        .map(|socket| {
            let key = socket.key;
            (from_kernel(&key.client), key.client_port, key.local_port)
        })
        .collect())
}

/// What was odd, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    odd: BTreeMap<(Connection, &'static str), Instant>,
    /// Flows and sockets that were compared.
    pub(super) compared: u64,
}

impl Census {
    /// Of sockets seen before and after, and the flows sampled in between: what
    /// was open both times must be a flow, what is a flow and older than that
    /// must have been open.
    pub(super) fn compare(
        &mut self,
        before: (Timestamp, &HashSet<Connection>),
        flows: &Flows,
        after: &HashSet<Connection>,
        checks: &mut Checks,
    ) {
        let (at, before) = before;
        let since = flows.at.duration_since(at).as_millis();
        let since = u64::try_from(since).unwrap_or_default() + SLACK_MS;
        let tcp: Vec<&Flow> = flows.flows.iter().filter(|f| f.protocol == "tcp").collect();
        let known: HashSet<Connection> = tcp.iter().map(|flow| connection(flow)).collect();
        let mut odd = Vec::new();
        for flow in tcp {
            let connection = connection(flow);
            if flow.age_ms > since && !before.contains(&connection) {
                odd.push((connection, "a flow without a socket"));
            }
        }
        for connection in before.intersection(after) {
            if !known.contains(connection) {
                odd.push((*connection, "a socket without a flow"));
            }
        }
        self.compared += (known.len() + before.len()) as u64;
        let now = Instant::now();
        self.odd.retain(|key, _| odd.contains(key));
        for key in odd {
            self.odd.entry(key).or_insert(now);
        }
        let lasting: Vec<_> = self
            .odd
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= GRACE)
            .map(|(((client, port, local), what), since)| {
                let age = now.duration_since(*since);
                format!("{what} for {age:.0?}: {client} port {port} to {local}")
            })
            .collect();
        checks.that(Check::Census, lasting.is_empty(), || lasting.join(", "));
    }
}

/// Whether the connections of clients are the flows of the same sample; nothing
/// where it is another one. Only of `clients`, where those come and go no more:
/// the two tables are not read at one moment.
pub(super) fn sums(
    flows: &Flows,
    clients: &Clients,
    of: impl Fn(IpAddr) -> bool,
    checks: &mut Checks,
) {
    if flows.at != clients.at {
        return;
    }
    let (mut counted, mut wrong) = (BTreeMap::new(), Vec::new());
    for flow in flows.flows.iter().filter(|flow| of(flow.client)) {
        match row(&clients.clients, flow.client) {
            Some(row) => *counted.entry(row.client.as_str()).or_insert(0) += 1,
            None => wrong.push(format!("a flow of no client: {}", flow.client)),
        }
    }
    for row in &clients.clients {
        let flows = counted.get(row.client.as_str()).copied().unwrap_or(0);
        let address = row.client.split('/').next().and_then(|a| a.parse().ok());
        // Of a /64 the address is that of the network.
        let asked = flows > 0 || address.is_some_and(&of);
        if asked && flows != row.connections {
            let (client, connections) = (&row.client, row.connections);
            wrong.push(format!(
                "{client}: {connections} connections, {flows} flows"
            ));
        }
    }
    checks.that(Check::Sums, wrong.is_empty(), || wrong.join(", "));
}
