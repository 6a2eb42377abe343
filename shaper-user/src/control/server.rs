//! Connections: their limits, and who is on the other side.

pub(crate) mod users;

use self::users::{User, Users};
use super::request;
use crate::model;
use crate::protocol::{Command, Done, ErrorBody, ErrorCode, VERSION};
use serde::Serialize;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// What a client of the socket may take of the daemon.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request, its newline not counted.
    pub request_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Of them, one user's; root's only by the number above.
    pub per_user: usize,
    /// So many more for root only: readers must not keep root from acting.
    pub reserved: usize,
    /// From the first byte of a request to its newline; also to take an answer
    /// in, counted anew with every part that is taken.
    pub request_time: Duration,
    /// Between an answer and the next request.
    pub idle_time: Duration,
}

impl Limits {
    /// 64 KiB, 32 connections, 8 a user, and 4 for root, 10 s, 60 s.
    pub const DEFAULT: Self = Self {
        request_bytes: 64 * 1024,
        connections: 32,
        per_user: 8,
        reserved: 4,
        request_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(60),
    };
}

impl Default for Limits {
    /// [`Limits::DEFAULT`]
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The process on the other side, as the kernel names it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, where it is in a visible PID namespace.
    pub pid: Option<i32>,
}

impl Peer {
    /// Of a connected socket.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        Ok(Self {
            uid: peer.uid(),
            pid: peer.pid(),
        })
    }
}

/// What a command answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To `flows`.
    Flows(model::Flows),
    /// To `clients`.
    Clients(model::Clients),
    /// To `servers`.
    Servers(model::Servers),
    /// To `history`.
    History(Box<model::History>),
    /// To `status`.
    Status(Box<model::Status>),
    /// To every change.
    Done(Done),
}

/// Whoever does the commands.
pub trait Handler: Send + Sync + 'static {
    /// Does a command for `peer`, or says why not.
    fn handle(
        &self,
        command: Command,
        peer: Peer,
    ) -> impl Future<Output = Result<Answer, ErrorBody>> + Send;
}

/// Serves until `stop` changes. `peer` says who is on the other side.
///
/// # Errors
/// When the socket cannot accept any more.
pub async fn serve<H: Handler>(
    listener: UnixListener,
    handler: Arc<H>,
    limits: Limits,
    peer: impl Fn(&UnixStream) -> io::Result<Peer>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let reserved = Arc::new(Semaphore::new(limits.reserved));
    let mut users = Users::default();
    let mut tasks = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = stop.changed() => return Ok(()),
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors: those that are open will end.
                Err(error) => {
                    tracing::warn!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let peer = match peer(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!("a connection to the control socket has no credentials: {error}");
                continue;
            }
        };
        let Some((user, place)) = users.place(peer.uid, limits.per_user) else {
            let most = limits.per_user;
            refuse(
                &stream,
                format!("user {} has {most} connections already", peer.uid),
            );
            continue;
        };
        let slot = Arc::clone(&slots).try_acquire_owned().ok().or_else(|| {
            let reserved = Arc::clone(&reserved);
            (peer.uid == 0)
                .then(|| reserved.try_acquire_owned().ok())
                .flatten()
        });
        let Some(slot) = slot else {
            refuse(
                &stream,
                format!("{} connections are open already", limits.connections),
            );
            continue;
        };
        let handler = Arc::clone(&handler);
        tasks.spawn(async move {
            let _held = (slot, place);
            if let Err(error) = serve_one(stream, handler.as_ref(), limits, peer, user).await {
                tracing::debug!(uid = peer.uid, "control connection: {error}");
            }
        });
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve_one<H: Handler>(
    stream: UnixStream,
    handler: &H,
    limits: Limits,
    peer: Peer,
    user: Arc<User>,
) -> io::Result<()> {
    let mut connection = Connection {
        stream,
        limits,
        user,
        buffer: Vec::new(),
    };
    connection.run(handler, peer).await
}

/// Tells one connection too many.
fn refuse(stream: &UnixStream, why: String) {
    let error = ErrorBody::new(ErrorCode::TooMuch, why);
    // Into an empty buffer: a short line always fits.
    let _ = stream.try_write(&error.into_line());
}

/// How reading a line ended without one.
enum NoLine {
    /// The peer is done, or was silent for too long.
    End,
    /// It broke a limit and is told so.
    Refused(ErrorBody),
}

struct Connection {
    stream: UnixStream,
    limits: Limits,
    user: Arc<User>,
    /// What was read beyond the last line.
    buffer: Vec<u8>,
}

impl Connection {
    async fn run<H: Handler>(&mut self, handler: &H, peer: Peer) -> io::Result<()> {
        loop {
            let line = match self.line().await? {
                Ok(line) => line,
                Err(NoLine::End) => return Ok(()),
                Err(NoLine::Refused(error)) => return self.write(&error.into_line()).await,
            };
            let user = Arc::clone(&self.user);
            let _turn = user.turn().await;
            let began = Instant::now();
            let answer = match request::parse(&line) {
                Ok(command) => match handler.handle(command, peer).await {
                    Ok(answer) => encode(answer).await,
                    Err(error) => error.into_line(),
                },
                Err(error) => error.into_line(),
            };
            let took = began.elapsed();
            self.write(&answer).await?;
            user.pause(took).await;
        }
    }

    /// The next line, without its newline.
    async fn line(&mut self) -> io::Result<Result<Vec<u8>, NoLine>> {
        let limits = self.limits;
        if self.buffer.is_empty() {
            match timeout(limits.idle_time, self.stream.read_buf(&mut self.buffer)).await {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(Err(NoLine::End));
                    }
                }
                Err(_) => return Ok(Err(NoLine::End)),
            }
        }
        let deadline = Instant::now() + limits.request_time;
        let mut searched = 0;
        loop {
            let newline = self.buffer[searched..].iter().position(|&b| b == b'\n');
            let length = newline.map_or(self.buffer.len(), |at| searched + at);
            if length > limits.request_bytes {
                return Ok(refused(
                    ErrorCode::TooMuch,
                    format!("a request has at most {} bytes", limits.request_bytes),
                ));
            }
            if newline.is_some() {
                let rest = self.buffer.split_off(length + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Ok(line));
            }
            searched = self.buffer.len();
            match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(refused(
                            ErrorCode::BadRequest,
                            "a request ends with a newline".to_owned(),
                        ));
                    }
                }
                Err(_) => {
                    return Ok(refused(
                        ErrorCode::TooMuch,
                        format!("a request is sent within {:?}", limits.request_time),
                    ));
                }
            }
        }
    }

    /// A peer that does not read must not keep its slot.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(self.limits.request_time, self.stream.write(bytes)).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

fn refused(code: ErrorCode, message: String) -> Result<Vec<u8>, NoLine> {
    Err(NoLine::Refused(ErrorBody::new(code, message)))
}

/// A line of the protocol. 100,000 rows take long enough to write that other
/// connections would notice: off the reactor.
async fn encode(answer: Answer) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line {
        v: u32,
        result: Answer,
    }
    let encode = move || {
        let mut line = serde_json::to_vec(&Line {
            v: VERSION,
            result: answer,
        })?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(line)
    };
    match tokio::task::spawn_blocking(encode).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => ErrorBody::new(ErrorCode::Failed, error.to_string()).into_line(),
        Err(error) => ErrorBody::new(ErrorCode::Failed, error.to_string()).into_line(),
    }
}

#[cfg(test)]
mod tests;
