//! The audit log: a line for each change of a limit, with who asked and what
//! it was before. `docs/security.md` has the fields, which are stable.

use crate::control::server::Peer;
use crate::protocol::{Command, ErrorBody};
use nix::unistd::{Uid, User};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who is behind a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Whoever is on the other side of the control socket.
    Peer(Peer),
    /// Whoever sent SIGHUP: the kernel lets nobody but root.
    Hangup,
    /// The end of a `--for`.
    Expiry,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Peer(_) => "control",
            Self::Hangup => "SIGHUP",
            Self::Expiry => "expiry",
        }
    }

    const fn peer(self) -> Option<Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Hangup | Self::Expiry => None,
        }
    }
}

/// What a line is about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About<'a> {
    /// The client, or for `kill` the flow, or for `drain` the server.
    pub client: Option<&'a str>,
    /// The part of the policy, of a reload.
    pub part: Option<&'a str>,
    /// What it was held to.
    pub before: Option<&'a str>,
    /// What it is held to.
    pub after: Option<&'a str>,
}

/// Writes a change that was made.
pub(super) fn done(action: &str, by: By, about: About<'_>, message: &str) {
    let peer = by.peer();
    let user = peer.and_then(|peer| name(peer.uid));
    tracing::info!(
        uid = peer.map(|peer| peer.uid),
        pid = peer.and_then(|peer| peer.pid),
        user = user.as_deref(),
        by = by.name(),
        audit = true,
        action,
        outcome = "done",
        client = about.client,
        part = about.part,
        before = about.before,
        after = about.after,
        "{message}"
    );
}

/// Writes a change that was asked for and not made.
pub(super) fn refused(action: &str, by: By, command: Option<&Command>, error: &str) {
    let peer = by.peer();
    let user = peer.and_then(|peer| name(peer.uid));
    tracing::warn!(
        uid = peer.map(|peer| peer.uid),
        pid = peer.and_then(|peer| peer.pid),
        user = user.as_deref(),
        by = by.name(),
        audit = true,
        action,
        outcome = "refused",
        command = command.map(as_sent),
        "refused: {error}"
    );
}

/// What becomes of a command that is done to HAProxy's sessions. A dry run
/// changes nothing.
pub(super) fn session(command: &Command, peer: Peer, result: &Result<String, ErrorBody>) {
    let by = By::Peer(peer);
    let (client, before, after) = match command {
        Command::Kill { flow, .. } => (flow, "open", "closed"),
        Command::Drain { server, .. } => (server, "open", "draining"),
        Command::StopDrain { server } => (server, "draining", "open"),
        _ => return,
    };
    match result {
        Err(error) => refused(action(command), by, Some(command), &error.message),
        Ok(message) if is_dry(command) => {
            tracing::info!(uid = peer.uid, pid = peer.pid, "{message}");
        }
        Ok(message) => {
            let about = About {
                client: Some(client),
                before: Some(before),
                after: Some(after),
                part: None,
            };
            done(action(command), by, about, message);
        }
    }
}

const fn is_dry(command: &Command) -> bool {
    matches!(
        command,
        Command::Kill { dry_run: true, .. } | Command::Drain { dry_run: true, .. }
    )
}

/// The name of a command in the log: as on the command line.
pub(super) const fn action(command: &Command) -> &'static str {
    match command {
        Command::Limit { .. } => "limit",
        Command::ClearLimit { .. } => "clear",
        Command::Block { .. } => "block",
        Command::Unblock { .. } => "unblock",
        Command::Kill { .. } => "kill",
        Command::Drain { .. } => "drain",
        Command::StopDrain { .. } => "drain_stop",
        Command::Reload => "reload",
        Command::Flows(_)
        | Command::Clients(_)
        | Command::Servers(_)
        | Command::History(_)
        | Command::Status => "read",
    }
}

/// A command as the socket carries it, for the log.
fn as_sent(command: &Command) -> String {
    serde_json::to_string(command).unwrap_or_default()
}

/// Lines on the attempts of one user in [`WINDOW`]; the others are counted.
const DENIALS: u64 = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Users told apart.
const USERS: usize = 64;

/// Attempts of users who may not change anything: written, but never so many
/// lines that they drown the others.
#[derive(Debug, Default)]
pub(super) struct Denials(BTreeMap<u32, Denied>);

#[derive(Debug)]
struct Denied {
    since: Instant,
    count: u64,
}

impl Denials {
    /// Writes an attempt, or counts it.
    pub fn add(&mut self, command: &Command, peer: Peer, now: Instant) {
        self.settle(now);
        if self.0.len() >= USERS && !self.0.contains_key(&peer.uid) {
            return;
        }
        let denied = self.0.entry(peer.uid).or_insert(Denied {
            since: now,
            count: 0,
        });
        denied.count += 1;
        if denied.count <= DENIALS {
            tracing::warn!(
                uid = peer.uid,
                pid = peer.pid,
                user = name(peer.uid).as_deref(),
                by = "control",
                audit = true,
                action = action(command),
                outcome = "denied",
                command = as_sent(command),
                "denied"
            );
        }
    }

    /// Says how many were not written, once their time is over.
    pub fn settle(&mut self, now: Instant) {
        self.0.retain(|uid, denied| {
            let over = now.saturating_duration_since(denied.since) >= WINDOW;
            let silent = denied.count.saturating_sub(DENIALS);
            if over && silent > 0 {
                tracing::warn!(
                    uid,
                    user = name(*uid).as_deref(),
                    by = "control",
                    audit = true,
                    outcome = "denied",
                    "{silent} more attempts were denied"
                );
            }
            !over
        });
    }
}

/// Names that are remembered.
const NAMES: usize = 1024;
/// A directory service that takes longer is not waited for.
const NAME_TIME: Duration = Duration::from_millis(500);

static KNOWN: Mutex<Option<HashMap<u32, String>>> = Mutex::new(None);

/// The name of a user, where it is known.
fn name(uid: u32) -> Option<String> {
    if uid == 0 {
        return Some("root".to_owned());
    }
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.as_ref()?.get(&uid).cloned()
}

/// Finds out the name of a user. Not where the lines are written: it may take a
/// directory service, and the kernel's thread must not wait for one.
pub(super) async fn learn(uid: u32) {
    if name(uid).is_some() {
        return;
    }
    let ask = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid)));
    if let Ok(Ok(Ok(Some(user)))) = tokio::time::timeout(NAME_TIME, ask).await {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if known.len() < NAMES {
            known.insert(uid, user.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::logged::logged;

    #[test]
    fn attempts_are_written_until_there_are_many() {
        let mut denials = Denials::default();
        let start = Instant::now();
        let peer = |uid| Peer { uid, pid: Some(9) };
        let log = logged(|| {
            for _ in 0..1000 {
                denials.add(&Command::Reload, peer(4001), start);
            }
            denials.add(&Command::Reload, peer(4002), start);
        });
        let of = |uid: u32| log.matches(&format!("denied uid={uid} pid=9")).count();
        assert_eq!((of(4001), of(4002)), (5, 1), "{log}");
        let log = logged(|| {
            denials.settle(start + WINDOW / 2);
            denials.settle(start + WINDOW);
            denials.settle(start + 2 * WINDOW);
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(
            log.contains("995 more attempts were denied uid=4001"),
            "{log}"
        );
        let log = logged(|| denials.add(&Command::Reload, peer(4001), start + 2 * WINDOW));
        assert!(log.contains("denied uid=4001 pid=9"), "{log}");
    }

    #[test]
    fn as_many_users_as_there_are_do_not_grow_it() {
        let mut denials = Denials::default();
        let start = Instant::now();
        let log = logged(|| {
            for uid in 5000..10_000 {
                denials.add(&Command::Reload, Peer { uid, pid: None }, start);
            }
        });
        assert_eq!((denials.0.len(), log.lines().count()), (USERS, USERS));
    }

    #[tokio::test]
    async fn names_of_users_are_learnt() {
        assert_eq!(name(0).as_deref(), Some("root"));
        // Whoever runs this, where the system knows them.
        let uid = nix::unistd::getuid();
        learn(uid.as_raw()).await;
        let expected = User::from_uid(uid).unwrap().map(|user| user.name);
        assert_eq!(name(uid.as_raw()), expected);
        learn(u32::MAX - 7).await;
        assert_eq!(name(u32::MAX - 7), None);
    }
}
