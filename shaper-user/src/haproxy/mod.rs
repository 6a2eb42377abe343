//! HAProxy's side of a flow: which frontend took it, and the server that it is
//! pinned to.
//!
//! What all sockets answered last is one [`View`]. It is made on tasks of their
//! own and read by the sampler, so a slow or lying HAProxy delays nothing.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | one question, with all that can go wrong |
//! | [`sess`] | what `show sess` answers |
//! | [`info`] | what `show info` and `show proc` answer |
//! | `discover` | where the sockets are that the policy does not name |
//! | `socket` | one socket, asked again and again |
//! | `view` | what all sockets answered, joined |
//! | [`poll`] | a task for each socket, as the policy has them |
//! | [`kill`] | ends one session |
//! | [`drain`] | which sessions of a server a drain ends, and when |
//! | [`actions`] | both, at most so many a second |
//! | [`weights`] | what a server carries as its weight |
//! | [`agent`] | answers agent checks with weights |

pub mod actions;
pub mod agent;
pub mod cli;
mod discover;
pub mod drain;
#[cfg(test)]
pub(crate) mod fake;
pub mod info;
pub mod kill;
pub mod poll;
pub mod sess;
mod socket;
mod view;
pub mod weights;

use crate::model;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A stream that HAProxy has pinned to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// HAProxy's id: a pointer, used again for others after its end.
    pub id: u64,
    /// The frontend that accepted it.
    pub frontend: Arc<str>,
    /// The backend it was sent to.
    pub backend: Arc<str>,
    /// The server it is pinned to.
    pub server: Arc<str>,
    /// The worker process that holds it.
    pub worker_pid: u32,
    /// The socket that answered.
    pub socket: Arc<Path>,
    /// Asked through that master CLI, by `@!<pid>`.
    pub through_master: bool,
    /// From an older answer: the socket is silent since.
    pub stale: bool,
    /// When HAProxy said so, ktime in ns: a flow that began later has only got
    /// the port of this one's client.
    pub answered: u64,
}

impl Session {
    /// As the stable JSON has it.
    #[must_use]
    pub fn to_model(&self) -> model::Haproxy {
        model::Haproxy {
            frontend: self.frontend.to_string(),
            backend: self.backend.to_string(),
            server: self.server.to_string(),
            session: format!("{:#x}", self.id),
            worker_pid: self.worker_pid,
            stale: self.stale,
        }
    }
}

/// What is known of HAProxy just now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// By the client's end of the connection; IPv4 never as `::ffff:`.
    pub sessions: HashMap<SocketAddr, Session>,
    /// For `status`, with their ages when this was made.
    pub sockets: Vec<model::HaproxySocket>,
    /// Clients left out of `sessions` because they have several, on different
    /// servers (HTTP/2): the short form does not tell them apart.
    pub ambiguous: u64,
    /// When this was made; `None` before the first answer.
    pub made: Option<Instant>,
}

/// What a server carries now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// HAProxy's backend.
    pub backend: Arc<str>,
    /// HAProxy's server.
    pub server: Arc<str>,
    /// Flows pinned to it.
    pub connections: u64,
    /// Bits per second over the last interval, by direction.
    pub rates: [u64; 2],
}
