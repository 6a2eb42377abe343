//! Which sessions of HAProxy a flow's or a server's name means.

use super::pinned::client_end;
use super::{Sampler, is_live};
use crate::haproxy::kill::{FlowName, Target};
use crate::haproxy::weights::ServerName;
use shaper_common::key::UDP;
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
        let flows: Vec<_> = self
            .flows
            .iter()
            .zip(&self.flow_rates)
            .filter(|((key, _), _)| key.protocol != UDP && client_end(key) == client)
            .collect();
        let ((key, flow), rates) = match (&flows[..], name) {
            // To several ports of this host. An id has no such doubt.
            ([_, _, ..], FlowName::Client(_)) => {
                return Err(NoTarget::Ambiguous {
                    name: *name,
                    count: flows.len(),
                    instead: "HAProxy's id of the session, from `shaper flows --json`",
                });
            }
            ([.., last], _) => last,
            ([], _) => return Err(NoTarget::Unknown(*name)),
        };
        let session = self.session(key, flow);
        let session = session.ok_or(NoTarget::NotJoined(*name))?.clone();
        if session.stale {
            let socket = session.socket.display().to_string();
            return Err(NoTarget::Stale { socket });
        }
        Ok(Target {
            client,
            session,
            rate: rates.iter().sum(),
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
                    client: client_end(key),
                    session: session.clone(),
                    rate: rates.iter().sum(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
