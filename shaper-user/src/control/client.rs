//! The client of the control socket, for the commands and the dashboard.

use crate::events::Batch;
use crate::model;
use crate::protocol::{
    Command, Done, ErrorBody, ErrorCode, EventsQuery, HistoryQuery, Query, Request, VERSION,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {}: start it by `systemctl start shaper` or `shaper run`, or name \
         its socket by --socket", .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("no permission for {}: be root{}", path.display(),
        group.as_ref().map_or_else(
            || " (type `sudo` in front)".to_owned(),
            |group| format!(" or a member of the group `{group}` (`sudo adduser $USER {group}`)"),
        ))]
    Permission {
        /// The socket.
        path: PathBuf,
        /// Whose members may connect, where that can be seen.
        group: Option<String>,
    },
    /// The daemon is of another version.
    #[error("{0}; restart the daemon by `systemctl restart shaper`: limits hold meanwhile")]
    Version(String),
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
    /// The daemon stopped while answering.
    #[error("the daemon closed the connection; `journalctl -u shaper -n 20` says why")]
    Closed,
    /// No answer in time.
    #[error(
        "the daemon has not answered for {ANSWER_TIME:?}: see `journalctl -u shaper -n 20`, then \
         `systemctl restart shaper`; limits hold meanwhile"
    )]
    Timeout,
    /// An answer that is none of this protocol.
    #[error(
        "the daemon's answer cannot be read: {0}; `systemctl restart shaper` runs this version"
    )]
    Garbled(#[from] serde_json::Error),
    /// Anything else.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// When nobody listens there or this user may not.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self {
                stream: BufReader::new(stream),
            }),
            Err(error) => Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning(path.to_owned())
                }
                ErrorKind::PermissionDenied => ClientError::Permission {
                    path: path.to_owned(),
                    group: group_of(path),
                },
                _ => ClientError::Io(error),
            }),
        }
    }

    /// The daemon's process, as the kernel names whoever listens: needs no
    /// answer, so it works for a daemon of another version or one that hangs.
    /// `None` where it is in a PID namespace that is not visible here.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn pid(&self) -> io::Result<Option<i32>> {
        let peer = self.stream.get_ref().peer_cred()?;
        Ok(peer.pid().filter(|pid| *pid > 0))
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// When the daemon refuses, or the connection ends.
    pub async fn request<T: DeserializeOwned>(
        &mut self,
        command: Command,
    ) -> Result<T, ClientError> {
        let request = Request {
            v: VERSION,
            command,
        };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        // A daemon with too many connections answers and closes before it
        // reads; its answer says more than the broken pipe.
        let sent = self.stream.get_mut().write_all(&line).await;
        let mut answer = Vec::new();
        let read = timeout(ANSWER_TIME, self.stream.read_until(b'\n', &mut answer))
            .await
            .map_err(|_| ClientError::Timeout)?;
        if answer.is_empty() {
            sent?;
            read?;
        }
        result(&answer)
    }

    /// Waits for one more answer to the last request, as long as it takes.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut answer = Vec::new();
        self.stream.read_until(b'\n', &mut answer).await?;
        result(&answer)
    }

    /// The events that are remembered, or the first of those that are followed: the
    /// others come by [`Client::next`].
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn events(&mut self, query: EventsQuery) -> Result<Batch, ClientError> {
        self.request(Command::Events(query)).await
    }

    /// Rows of flows.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn flows(&mut self, query: Query) -> Result<model::Flows, ClientError> {
        self.request(Command::Flows(query)).await
    }

    /// Rows of clients.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn clients(&mut self, query: Query) -> Result<model::Clients, ClientError> {
        self.request(Command::Clients(query)).await
    }

    /// Rows of servers.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn servers(&mut self, query: Query) -> Result<model::Servers, ClientError> {
        self.request(Command::Servers(query)).await
    }

    /// What a client has used of its quota.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn quota(&mut self, client: String) -> Result<model::ClientQuota, ClientError> {
        self.request(Command::Quota { client }).await
    }

    /// The last hours.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn history(&mut self, query: HistoryQuery) -> Result<model::History, ClientError> {
        self.request(Command::History(query)).await
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn status(&mut self) -> Result<model::Status, ClientError> {
        self.request(Command::Status).await
    }

    /// Any command that changes something.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn change(&mut self, command: Command) -> Result<Done, ClientError> {
        self.request(command).await
    }
}

/// What a line of the daemon's says.
fn result<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    #[derive(Deserialize)]
    struct Line<T> {
        result: Option<T>,
        error: Option<ErrorBody>,
    }
    if !answer.ends_with(b"\n") {
        return Err(ClientError::Closed);
    }
    let answer: Line<T> = serde_json::from_slice(answer)?;
    match answer {
        Line {
            error: Some(error), ..
        } if error.code == ErrorCode::Version => Err(ClientError::Version(error.message)),
        Line {
            error: Some(error), ..
        } => Err(ClientError::Refused(error)),
        Line {
            result: Some(result),
            ..
        } => Ok(result),
        Line { .. } => Err(ClientError::Closed),
    }
}

/// The group that owns the socket, where the directory can be read.
fn group_of(path: &Path) -> Option<String> {
    let gid = std::fs::metadata(path).ok()?.gid();
    let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid));
    group.ok().flatten().map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_that_a_command_can_mend_names_it() {
        let path = || PathBuf::from(crate::cli::SOCKET);
        let permission = |group: Option<&str>| ClientError::Permission {
            path: path(),
            group: group.map(str::to_owned),
        };
        let garbled = serde_json::from_str::<u8>("x").unwrap_err();
        for (error, command) in [
            (ClientError::NotRunning(path()), "`systemctl start shaper`"),
            (permission(None), "`sudo`"),
            (permission(Some("ops")), "`sudo adduser $USER ops`"),
            (
                ClientError::Version("version 2 is not spoken here".to_owned()),
                "`systemctl restart shaper`",
            ),
            (ClientError::Closed, "`journalctl -u shaper -n 20`"),
            (ClientError::Timeout, "`systemctl restart shaper`"),
            (garbled.into(), "`systemctl restart shaper`"),
        ] {
            let text = error.to_string();
            assert!(text.contains(command), "{text}");
        }
    }
}
