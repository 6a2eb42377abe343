//! From what each socket answered to one [`View`].

use super::{Session, View};
use crate::model;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions of a worker that has been silent for so long are forgotten.
pub(super) const FORGET: Duration = Duration::from_secs(600);

/// What a worker answered last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Worker {
    pub pid: u32,
    pub sessions: Arc<Vec<(SocketAddr, Session)>>,
    pub answered: Instant,
    /// It was asked again since, in vain.
    pub stale: bool,
}

/// What is known of a socket.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// Its age is left out.
    pub socket: model::HaproxySocket,
    pub answered: Option<Instant>,
    pub workers: Vec<Worker>,
}

impl View {
    /// What all sockets know at `now`.
    pub(super) fn of(known: &[Known], now: Instant) -> Self {
        let mut sockets = Vec::with_capacity(known.len());
        for known in known {
            let age = known.answered.map(|at| now.saturating_duration_since(at));
            let mut socket = known.socket.clone();
            socket.age_ms = age.map(millis);
            sockets.push(socket);
        }
        let (sessions, ambiguous) = join(known);
        Self {
            sessions,
            sockets,
            ambiguous,
            made: Some(now),
        }
    }

    /// The sockets with their ages at `now`.
    #[must_use]
    pub fn sockets_at(&self, now: Instant) -> Vec<model::HaproxySocket> {
        let since = self
            .made
            .map_or(Duration::ZERO, |made| now.saturating_duration_since(made));
        let mut sockets = self.sockets.clone();
        for age in sockets
            .iter_mut()
            .filter_map(|socket| socket.age_ms.as_mut())
        {
            *age = age.saturating_add(millis(since));
        }
        sockets
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A client's address, and what is known of it.
enum Found<'a> {
    One(&'a Session, bool),
    /// On several servers, which the short form cannot tell apart.
    Many,
}

/// Every session once by its client; how many clients were left out because
/// they have several, on different servers. A port may have been used again
/// since a stale answer, so a fresh one goes over it. Of two sockets that have
/// the same session, the one with more rights is named, then a master CLI, which
/// outlives a reload.
fn join(known: &[Known]) -> (HashMap<SocketAddr, Session>, u64) {
    let mut known: Vec<_> = known.iter().collect();
    known.sort_by_key(|known| {
        let socket = &known.socket;
        (
            socket.level.as_deref() != Some("admin"),
            socket.kind.as_deref() != Some("master"),
        )
    });
    let mut found: HashMap<SocketAddr, Found<'_>> = HashMap::new();
    for stale in [false, true] {
        let workers = known.iter().flat_map(|known| &known.workers);
        let sessions = workers
            .filter(|worker| worker.stale == stale)
            .flat_map(|worker| worker.sessions.iter());
        for (client, session) in sessions {
            match found.entry(*client) {
                Entry::Vacant(entry) => {
                    entry.insert(Found::One(session, stale));
                }
                Entry::Occupied(mut entry) => {
                    if let Found::One(other, of) = entry.get()
                        && *of == stale
                        && !same_server(session, other)
                    {
                        entry.insert(Found::Many);
                    }
                }
            }
        }
    }
    let mut sessions = HashMap::with_capacity(found.len());
    let mut ambiguous = 0;
    for (client, found) in found {
        match found {
            Found::One(session, stale) => {
                let session = Session {
                    stale,
                    ..session.clone()
                };
                sessions.insert(client, session);
            }
            Found::Many => ambiguous += 1,
        }
    }
    (sessions, ambiguous)
}

fn same_server(one: &Session, other: &Session) -> bool {
    (&one.backend, &one.server) == (&other.backend, &other.server)
}

#[cfg(test)]
mod tests;
