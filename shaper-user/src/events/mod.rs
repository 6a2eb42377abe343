//! What happened: one [`Event`] for the log, the daemon's memory, `shaper events`
//! and whoever takes its lines.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`bus`] | the last events, and those who follow them |
//! | [`filter`] | which events a query is about |
//! | `log` | an event as a line of the log |
//! | [`text`] | an event as a sentence |
//!
//! The names of events and of their fields are stable: `docs/events.md` has them.

pub mod bus;
pub mod filter;
mod log;
pub mod text;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Characters of a text that an event keeps: what others wrote has an end.
const TEXT: usize = 512;

/// An event, and when it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// Counts the events of this daemon from 1 on, without a gap: `missed` and a
    /// filter make gaps.
    pub seq: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The answer to `events`; while following, each line of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Events, those that the filter would have left out among them, that this
    /// follower was too slow for.
    pub missed: u64,
    /// The oldest first.
    pub events: Vec<Arc<Record>>,
}

/// Who is behind a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// `control`, `SIGHUP` or `expiry`.
    pub by: String,
    /// Who asked through the control socket, as the kernel says.
    pub uid: Option<u32>,
    /// The process that asked.
    pub pid: Option<i32>,
    /// The user's name, where the system knows one.
    pub user: Option<String>,
}

/// A change of what somebody is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The client; of a session that was killed the flow, of a drain the server.
    pub client: String,
    /// What it was held to.
    pub before: String,
    /// What it is held to.
    pub after: String,
    /// Who.
    #[serde(flatten)]
    pub by: By,
    /// One sentence.
    pub message: String,
}

/// A part of the policy that is another now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `default`, `rule NAME`, `server_limit BACKEND/SERVER` or a key of the file.
    pub part: String,
    /// As it was; `none` where it is new.
    pub before: String,
    /// As it is; `none` where it is gone.
    pub after: String,
}

/// Client to this host, or this host to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Client to this host.
    Upload,
    /// This host to the client.
    Download,
}

/// Events of clients that were not told one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// In so many milliseconds.
    pub over_ms: u64,
    /// `limited`.
    pub limited: u64,
    /// `released`.
    pub released: u64,
    /// `blocked`.
    pub blocked: u64,
    /// `connection_rate`.
    pub connection_rate: u64,
    /// `max_connections`.
    pub max_connections: u64,
    /// `table_full`.
    pub table_full: u64,
    /// Of whatever kind: the kernel held them back already.
    pub kernel: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The policy is in force.
    DaemonStarted {
        /// The daemon's version.
        version: String,
        /// Its process.
        pid: u32,
        /// `enforce` or `observe`.
        mode: String,
        /// The policy file; null when there is none.
        policy: Option<String>,
    },
    /// The daemon ends; limits hold on, unless the policy says otherwise.
    DaemonStopping {
        /// The signal.
        signal: String,
        /// What becomes of the limits: `keep` or `detach`.
        on_exit: String,
    },
    /// A client is held by its limit.
    Limited {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
        /// Which way.
        direction: Direction,
        /// The limit.
        limit_bps: Option<u64>,
        /// It would be held: the policy only observes.
        observed: bool,
    },
    /// A client has been within its limit for some seconds.
    Released {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
        /// Which way.
        direction: Direction,
        /// From the first time that it was held to the last.
        limited_ms: u64,
        /// It would have been held: the policy only observes.
        observed: bool,
    },
    /// A blocked client sends; said once a minute.
    Blocked {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
    },
    /// A client opens connections faster than it may; said once a minute.
    ConnectionRate {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
    },
    /// A client has as many connections as it may; said once a minute.
    MaxConnections {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
    },
    /// A table of the kernel has no room; said once a minute of each client.
    TableFull {
        /// The client that found none.
        client: String,
        /// Its rule.
        rule: String,
        /// `flows`, `clients`, or both.
        tables: Vec<String>,
    },
    /// There were too many events of clients to tell each.
    LeftOut(LeftOut),
    /// A client has used a part of its quota.
    QuotaReached {
        /// The client.
        client: String,
        /// Its rule.
        rule: String,
        /// 80 or 100.
        percent: u8,
        /// What it has used.
        used_bytes: u64,
        /// What it may use.
        quota_bytes: u64,
        /// When it begins anew.
        resets: Option<Timestamp>,
        /// What holds from 100 % on: the name of a rule, or `block`.
        then: Option<String>,
    },
    /// An interface that was attached to is not there any more, or not attached to.
    InterfaceGone {
        /// Its name.
        interface: String,
    },
    /// An interface has come, or come back, and is attached to.
    InterfaceBack {
        /// Its name.
        interface: String,
        /// `tcx`, `clsact` or null.
        ingress: Option<String>,
        /// `tcx`, `clsact` or null.
        egress: Option<String>,
        /// `native`, `generic` or null.
        xdp: Option<String>,
    },
    /// A socket of HAProxy does not answer.
    HaproxyLost {
        /// Its path.
        socket: String,
        /// Why.
        error: String,
    },
    /// It answers again.
    HaproxyBack {
        /// Its path.
        socket: String,
        /// HAProxy's version.
        version: Option<String>,
    },
    /// The policy was read again and is in force.
    PolicyChanged {
        /// Who had it read.
        #[serde(flatten)]
        by: By,
        /// One sentence.
        message: String,
        /// What is different; empty when the file says the same.
        changes: Vec<Part>,
        /// So many more parts are different.
        more: u64,
    },
    /// A limit was set at runtime.
    LimitSet(Change),
    /// A runtime limit was taken away or has ended.
    LimitCleared(Change),
    /// A client was blocked at runtime.
    BlockSet(Change),
    /// A runtime block was taken away or has ended.
    BlockCleared(Change),
    /// A session of HAProxy's was closed on demand.
    SessionKilled(Change),
    /// The heaviest sessions of a server are being closed.
    DrainStarted(Change),
    /// A drain was ended on demand.
    DrainStopped(Change),
    /// A change was asked for and not made.
    ChangeRefused {
        /// Who asked.
        #[serde(flatten)]
        by: By,
        /// The command, as on the command line.
        action: String,
        /// `refused`: it failed; `denied`: this user may not.
        outcome: String,
        /// Why.
        message: String,
    },
    /// One of a later version.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// Every name, in the order of the list above.
    pub const NAMES: &[&str] = &[
        "daemon_started",
        "daemon_stopping",
        "limited",
        "released",
        "blocked",
        "connection_rate",
        "max_connections",
        "table_full",
        "left_out",
        "quota_reached",
        "interface_gone",
        "interface_back",
        "haproxy_lost",
        "haproxy_back",
        "policy_changed",
        "limit_set",
        "limit_cleared",
        "block_set",
        "block_cleared",
        "session_killed",
        "drain_started",
        "drain_stopped",
        "change_refused",
    ];

    /// Its name, as in `event` of the JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DaemonStarted { .. } => "daemon_started",
            Self::DaemonStopping { .. } => "daemon_stopping",
            Self::Limited { .. } => "limited",
            Self::Released { .. } => "released",
            Self::Blocked { .. } => "blocked",
            Self::ConnectionRate { .. } => "connection_rate",
            Self::MaxConnections { .. } => "max_connections",
            Self::TableFull { .. } => "table_full",
            Self::LeftOut(_) => "left_out",
            Self::QuotaReached { .. } => "quota_reached",
            Self::InterfaceGone { .. } => "interface_gone",
            Self::InterfaceBack { .. } => "interface_back",
            Self::HaproxyLost { .. } => "haproxy_lost",
            Self::HaproxyBack { .. } => "haproxy_back",
            Self::PolicyChanged { .. } => "policy_changed",
            Self::LimitSet(_) => "limit_set",
            Self::LimitCleared(_) => "limit_cleared",
            Self::BlockSet(_) => "block_set",
            Self::BlockCleared(_) => "block_cleared",
            Self::SessionKilled(_) => "session_killed",
            Self::DrainStarted(_) => "drain_started",
            Self::DrainStopped(_) => "drain_stopped",
            Self::ChangeRefused { .. } => "change_refused",
            Self::Unknown => "unknown",
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::TableFull { .. }
                | Self::LeftOut(_)
                | Self::QuotaReached { .. }
                | Self::InterfaceGone { .. }
                | Self::HaproxyLost { .. }
                | Self::ChangeRefused { .. }
        )
    }

    /// The client it is about, as printed; a flow or a server for those that are
    /// about one.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        match self {
            Self::Limited { client, .. }
            | Self::Released { client, .. }
            | Self::Blocked { client, .. }
            | Self::ConnectionRate { client, .. }
            | Self::MaxConnections { client, .. }
            | Self::TableFull { client, .. }
            | Self::QuotaReached { client, .. } => Some(client),
            Self::LimitSet(change)
            | Self::LimitCleared(change)
            | Self::BlockSet(change)
            | Self::BlockCleared(change)
            | Self::SessionKilled(change)
            | Self::DrainStarted(change)
            | Self::DrainStopped(change) => Some(&change.client),
            _ => None,
        }
    }

    /// The rule of that client.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Limited { rule, .. }
            | Self::Released { rule, .. }
            | Self::Blocked { rule, .. }
            | Self::ConnectionRate { rule, .. }
            | Self::MaxConnections { rule, .. }
            | Self::TableFull { rule, .. }
            | Self::QuotaReached { rule, .. } => Some(rule),
            _ => None,
        }
    }
}

/// The beginning of a text that somebody else wrote.
#[must_use]
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
