//! Ends one session of HAProxy, after a last look at whose it is: an id is a
//! pointer, and HAProxy uses it again for others.

use super::Session;
use super::cli::{AskError, ask};
use super::sess::client;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// A flow as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowName {
    /// The client's end, as `shaper flows` prints it.
    Client(SocketAddr),
    /// HAProxy's id of the session.
    Session(u64),
}

/// Not the name of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{}` names no flow; allowed: the client's address and port as `shaper flows` prints them, such \
     as 203.0.113.9:52482 or [2001:db8::9]:52482, or HAProxy's id of the session, such as \
     0x55df672d6cc0", .0.escape_debug()
)]
pub struct NoFlowName(String);

impl FromStr for FlowName {
    type Err = NoFlowName;

    fn from_str(text: &str) -> Result<Self, NoFlowName> {
        if let Some(digits) = text.strip_prefix("0x") {
            // `from_str_radix` takes a sign.
            if digits.bytes().all(|byte| byte.is_ascii_hexdigit())
                && let Ok(id) = u64::from_str_radix(digits, 16)
            {
                return Ok(Self::Session(id));
            }
        } else if let Ok(client) = text.parse::<SocketAddr>()
            && client.port() != 0
        {
            return Ok(Self::Client(plain(client)));
        }
        Err(NoFlowName(text.to_owned()))
    }
}

impl fmt::Display for FlowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => client.fmt(f),
            Self::Session(id) => write!(f, "{id:#x}"),
        }
    }
}

/// IPv4 never as `::ffff:`, and without a scope.
fn plain(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// A flow that is to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The client's end; IPv4 never as `::ffff:`.
    pub client: SocketAddr,
    /// HAProxy's side.
    pub session: Session,
    /// Bits per second over the last interval, both directions together.
    pub rate: u64,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session {
            id,
            backend,
            server,
            ..
        } = &self.session;
        write!(f, "{} (session {id:#x} on {backend}/{server})", self.client)
    }
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// HAProxy closed it.
    Closed,
    /// It was over before.
    Gone,
}

/// Why a session was not ended.
#[derive(Debug, Error)]
pub enum KillError {
    /// HAProxy cannot be asked, or does not allow it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Its id is another's now.
    #[error(
        "{client} is gone: session {id:#x} is {now}'s now, and nothing was closed; `shaper flows` has \
         the sessions of today"
    )]
    Reused {
        /// HAProxy's id.
        id: u64,
        /// Whose session was to be ended.
        client: SocketAddr,
        /// Whose it is.
        now: String,
    },
    /// An answer that is none of those known.
    #[error(
        "nothing is known to be closed: {} answers `{}` to `{command}`", path.display(),
        answer.escape_debug()
    )]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
        /// The beginning of what came back.
        answer: String,
    },
}

impl Target {
    /// Whether the session is still this client's; false when it is over.
    ///
    /// # Errors
    /// When HAProxy does not say, or the id is another's now.
    pub async fn is_open(&self) -> Result<bool, KillError> {
        let id = self.session.id;
        let command = self.command("show sess");
        let Some(answer) = self.ask(&command).await? else {
            return Ok(false);
        };
        match source(&answer, id) {
            Source::Over => Ok(false),
            Source::Client(client) if client == self.client => Ok(true),
            Source::Client(other) => Err(self.reused(other.to_string())),
            Source::Other(other) => Err(self.reused(other)),
            Source::Unreadable => Err(self.unreadable(command, &answer)),
        }
    }

    /// Has HAProxy close the session, without a WebSocket close frame.
    ///
    /// # Errors
    /// When it is not known to be closed.
    pub async fn kill(&self) -> Result<Ended, KillError> {
        if !self.is_open().await? {
            return Ok(Ended::Gone);
        }
        let command = self.command("shutdown session");
        let Some(answer) = self.ask(&command).await? else {
            return Ok(Ended::Gone);
        };
        match answer.trim() {
            "" => Ok(Ended::Closed),
            text if text.starts_with("No such session") => Ok(Ended::Gone),
            _ => Err(self.unreadable(command, &answer)),
        }
    }

    /// The answer; `None` when the worker has ended, and its sessions with it.
    async fn ask(&self, command: &str) -> Result<Option<String>, AskError> {
        match ask(&self.session.socket, command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(AskError::NoWorker { .. }) => Ok(None),
            // To look at a session needs less, but then it could not be ended.
            Err(AskError::Level { path, command, .. }) => Err(AskError::Level {
                path,
                command,
                level: "admin",
            }),
            Err(other) => Err(other),
        }
    }

    fn command(&self, verb: &str) -> String {
        let Session {
            id,
            worker_pid,
            through_master,
            ..
        } = &self.session;
        if *through_master {
            format!("@!{worker_pid} {verb} {id:#x}")
        } else {
            format!("{verb} {id:#x}")
        }
    }

    fn reused(&self, now: String) -> KillError {
        KillError::Reused {
            id: self.session.id,
            client: self.client,
            now,
        }
    }

    fn unreadable(&self, command: String, answer: &str) -> KillError {
        KillError::Unreadable {
            path: self.session.socket.to_path_buf(),
            command,
            answer: answer.trim().chars().take(80).collect(),
        }
    }
}

/// Whose a session is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// No client's: there is none of that id, or it is our own.
    Over,
    /// A client's.
    Client(SocketAddr),
    /// What cannot be read as an address.
    Other(String),
    Unreadable,
}

/// Of the answer to `show sess <id>`: its first line has the id and, somewhere
/// after it, `source=address:port`, where an IPv6 address is not bracketed.
pub(crate) fn source(answer: &str, id: u64) -> Source {
    let text = answer.trim_start();
    if text.starts_with("Session not found") {
        return Source::Over;
    }
    let line = text.lines().next().unwrap_or_default();
    let Some(fields) = line.strip_prefix(&format!("{id:#x}: ")) else {
        return Source::Unreadable;
    };
    let Some(source) = fields
        .split_whitespace()
        .find_map(|word| word.strip_prefix("source="))
    else {
        return Source::Unreadable;
    };
    // The connection that asks: HAProxy gives it the pointer that came free last.
    if source.starts_with("unix:") {
        return Source::Over;
    }
    client(source).map_or_else(
        || Source::Other(source.chars().take(80).collect()),
        Source::Client,
    )
}

#[cfg(test)]
mod tests;
