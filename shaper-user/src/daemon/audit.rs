//! The audit log: a line for each change of a limit, with who asked and what
//! it was before. `docs/security.md` has the fields, which are stable.

use crate::control::server::Peer;
use crate::events::{self, Change, Event, cut};
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

    /// As events have it.
    pub(super) fn who(self) -> events::By {
        let peer = self.peer();
        events::By {
            by: self.name().to_owned(),
            uid: peer.map(|peer| peer.uid),
            pid: peer.and_then(|peer| peer.pid),
            user: peer.and_then(|peer| name(peer.uid)),
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

/// The event of a change that was made, where its action has one of its own.
pub(super) fn event(action: &str, by: By, about: About<'_>, message: &str) -> Option<Event> {
    let text = |text: Option<&str>| cut(text.unwrap_or_default());
    let kind = match action {
        "limit" => Event::LimitSet,
        "clear" => Event::LimitCleared,
        "block" => Event::BlockSet,
        "unblock" => Event::BlockCleared,
        "kill" => Event::SessionKilled,
        "drain" => Event::DrainStarted,
        "drain_stop" => Event::DrainStopped,
        _ => return None,
    };
    Some(kind(Change {
        client: text(about.client),
        before: text(about.before),
        after: text(about.after),
        by: by.who(),
        message: cut(message),
    }))
}

/// The event of a change that was not made.
pub(super) fn refusal(action: &str, by: By, outcome: &str, why: &str) -> Event {
    Event::ChangeRefused {
        by: by.who(),
        action: action.to_owned(),
        outcome: outcome.to_owned(),
        message: cut(why),
    }
}

/// The name of the event that a line is part of.
fn event_of(action: &str, before: Option<&str>) -> Option<&'static str> {
    Some(match action {
        "limit" => "limit_set",
        "clear" => "limit_cleared",
        "block" => "block_set",
        "unblock" => "block_cleared",
        "kill" => "session_killed",
        "drain" => "drain_started",
        "drain_stop" => "drain_stopped",
        "reload" => "policy_changed",
        "expiry" if before.is_some_and(|before| before.starts_with("blocked")) => "block_cleared",
        "expiry" => "limit_cleared",
        _ => return None,
    })
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
        event = event_of(action, about.before),
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
        event = "change_refused",
        "refused: {error}"
    );
}

/// What becomes of a command that is done to HAProxy's sessions. A dry run
/// changes nothing and is no event.
pub(super) fn session(
    command: &Command,
    peer: Peer,
    result: &Result<String, ErrorBody>,
) -> Option<Event> {
    let by = By::Peer(peer);
    let (client, before, after) = match command {
        Command::Kill { flow, .. } => (flow, "open", "closed"),
        Command::Drain { server, .. } => (server, "open", "draining"),
        Command::StopDrain { server } => (server, "draining", "open"),
        _ => return None,
    };
    let action = action(command);
    match result {
        Err(error) => {
            refused(action, by, Some(command), &error.message);
            Some(refusal(action, by, "refused", &error.message))
        }
        Ok(message) if is_dry(command) => {
            tracing::info!(uid = peer.uid, pid = peer.pid, "{message}");
            None
        }
        Ok(message) => {
            let about = About {
                client: Some(client),
                before: Some(before),
                after: Some(after),
                part: None,
            };
            done(action, by, about, message);
            event(action, by, about, message)
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
        Command::ResetQuota { .. } => "quota_reset",
        Command::AddQuota { .. } => "quota_add",
        Command::Reload => "reload",
        Command::Flows(_)
        | Command::Clients(_)
        | Command::Servers(_)
        | Command::Status
        | Command::History(_)
        | Command::Events(_)
        | Command::Quota { .. } => "read",
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
    /// Writes an attempt, or counts it; says which.
    pub fn add(&mut self, command: &Command, peer: Peer, now: Instant) -> bool {
        self.settle(now);
        if self.0.len() >= USERS && !self.0.contains_key(&peer.uid) {
            return false;
        }
        let denied = self.0.entry(peer.uid).or_insert(Denied {
            since: now,
            count: 0,
        });
        denied.count += 1;
        let written = denied.count <= DENIALS;
        if written {
            tracing::warn!(
                uid = peer.uid,
                pid = peer.pid,
                user = name(peer.uid).as_deref(),
                by = "control",
                audit = true,
                action = action(command),
                outcome = "denied",
                command = as_sent(command),
                event = "change_refused",
                "denied"
            );
        }
        written
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
        let log = logged(|| {
            assert!(denials.add(&Command::Reload, peer(4001), start + 2 * WINDOW));
        });
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
