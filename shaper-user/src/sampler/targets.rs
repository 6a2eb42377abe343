//! Which sessions of HAProxy a flow's or a server's name means.

use super::{Sampler, is_live};
use crate::addr;
use crate::haproxy::kill::{FlowName, Target};
use crate::haproxy::weights::ServerName;
use shaper_common::key::{FlowKey, UDP};
use std::net::SocketAddr;
use thiserror::Error;

/// Why a name means no session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoTarget {
    /// No open flow is named so.
    #[error("no TCP flow {0} is open; `shaper flows` lists what is")]
    Unknown(FlowName),
    /// HAProxy has not told of it.
    #[error(
        "HAProxy has not told of {0}: it is asked every few seconds, and `shaper status` shows whether \
         it answers"
    )]
    NotJoined(FlowName),
    /// HAProxy told of it, but is silent since.
    #[error(
        "{socket} has not answered for a while, so nothing is closed there; `shaper status` says why"
    )]
    Stale {
        /// The socket.
        socket: String,
    },
    /// Several flows are named so.
    #[error("{name} names {count} flows; name one by {instead}")]
    Ambiguous {
        /// The name.
        name: FlowName,
        /// How many.
        count: usize,
        /// The other way to name it.
        instead: &'static str,
    },
}

impl Sampler {
    /// The session behind a flow.
    ///
    /// # Errors
    /// When it is not exactly one that HAProxy answers for.
    pub fn target(&self, name: &FlowName) -> Result<Target, NoTarget> {
        let client = match *name {
            FlowName::Client(client) => client,
            FlowName::Session(id) => {
                let sessions = self.view.sessions.iter();
                let mut named = sessions.filter(|(_, session)| session.id == id);
                let (client, _) = named.next().ok_or(NoTarget::Unknown(*name))?;
                let more = named.count();
                if more > 0 {
                    return Err(NoTarget::Ambiguous {
                        name: *name,
                        count: more + 1,
                        instead: "the client's address and port",
                    });
                }
                *client
            }
        };
        let mut rate = 0;
        let mut flows = 0;
        for ((key, _), rates) in self.flows.iter().zip(&self.flow_rates) {
            if key.protocol != UDP && client_of(key) == client {
                flows += 1;
                rate = rates.iter().sum();
            }
        }
        match (flows, name) {
            (0, _) => return Err(NoTarget::Unknown(*name)),
            // To several ports of this host. An id has no such doubt.
            (2.., FlowName::Client(_)) => {
                return Err(NoTarget::Ambiguous {
                    name: *name,
                    count: flows,
                    instead: "HAProxy's id of the session, from `shaper flows --json`",
                });
            }
            _ => {}
        }
        let session = self.view.sessions.get(&client);
        let session = session.ok_or(NoTarget::NotJoined(*name))?.clone();
        if session.stale {
            let socket = session.socket.display().to_string();
            return Err(NoTarget::Stale { socket });
        }
        Ok(Target {
            client,
            session,
            rate,
        })
    }

    /// Every live flow that is pinned to a server, in no order.
    #[must_use]
    pub fn pinned(&self, (backend, server): &ServerName) -> Vec<Target> {
        let flows = self.flows.iter().zip(&self.flow_rates);
        flows
            .filter(|((key, flow), _)| is_live(key, flow, self.now))
            .filter_map(|((key, flow), rates)| {
                let session = self.session(key, flow)?;
                (session.backend == *backend && session.server == *server).then(|| Target {
                    client: client_of(key),
                    session: session.clone(),
                    rate: rates.iter().sum(),
                })
            })
            .collect()
    }
}

fn client_of(key: &FlowKey) -> SocketAddr {
    SocketAddr::new(addr::from_kernel(&key.client), key.client_port)
}

#[cfg(test)]
mod tests;
