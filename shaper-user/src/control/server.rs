//! Connections: their limits, and who is on the other side.

mod places;
pub(crate) mod users;

pub(crate) use self::places::Places;
use self::places::Slots;
use self::users::Users;
use super::request;
use crate::events::Batch;
use crate::events::bus::Follower;
use crate::model;
use crate::protocol::{Command, Done, ErrorBody, ErrorCode, VERSION};
use serde::Serialize;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
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
    /// Connections that follow events; they are none of those above.
    pub followers: usize,
    /// Of them, one user's; root's only by the number above and the reserve.
    pub followers_per_user: usize,
    /// From the first byte of a request to its newline; also to take an answer
    /// in, counted anew with every part that is taken.
    pub request_time: Duration,
    /// Between an answer and the next request.
    pub idle_time: Duration,
    /// For a follower to take a part of what it is sent. Long: whoever looks at
    /// them page by page reads for a while.
    pub follow_time: Duration,
}

impl Limits {
    /// 64 KiB, 32 connections, 8 a user, and 4 for root; 12 followers, 4 a user, and 4
    /// for root; 10 s, 60 s, 10 min.
    pub const DEFAULT: Self = Self {
        request_bytes: 64 * 1024,
        connections: 32,
        per_user: 8,
        reserved: 4,
        followers: 12,
        followers_per_user: 4,
        request_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(60),
        follow_time: Duration::from_secs(600),
    };
}

impl Default for Limits {
    /// [`Limits::DEFAULT`]
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// For followers to be given the last events, when the daemon stops.
const LAST_EVENTS: Duration = Duration::from_millis(200);

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
    /// To `quota`.
    Quota(model::ClientQuota),
    /// To `events`.
    Events(Batch),
    /// To `events` that come: a [`Batch`] after the other.
    #[serde(skip)]
    Follow(Follower),
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

/// Serves until `stop` changes; followers still get what was told before. `peer` says
/// who is on the other side.
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
    let slots = Slots::new(limits.connections, limits.reserved);
    let followers = Slots::new(limits.followers, limits.reserved);
    let mut users = Users::default();
    let mut tasks = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = stop.changed() => {
                let end = async { while tasks.join_next().await.is_some() {} };
                let _ = timeout(LAST_EVENTS, end).await;
                return Ok(());
            }
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
        let Some((user, place)) = users.place(peer.uid, limits.per_user, limits.followers_per_user)
        else {
            let most = limits.per_user;
            refuse(
                &stream,
                format!("user {} has {most} connections already", peer.uid),
            );
            continue;
        };
        let Some(slot) = slots.take(peer.uid) else {
            refuse(
                &stream,
                format!("{} connections are open already", limits.connections),
            );
            continue;
        };
        let handler = Arc::clone(&handler);
        let places = Places::new(user, slot, &followers);
        tasks.spawn(async move {
            let _held = place;
            if let Err(error) = serve_one(stream, handler.as_ref(), limits, peer, places).await {
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
    places: Places,
) -> io::Result<()> {
    let mut connection = Connection {
        stream,
        limits,
        places,
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
    places: Places,
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
            let user = Arc::clone(self.places.user());
            let turn = user.turn().await;
            let began = Instant::now();
            let answer = match request::parse(&line) {
                Ok(command) => match handler.handle(command, peer).await {
                    Ok(Answer::Follow(follower)) => {
                        drop(turn);
                        return self.follow(follower, peer).await;
                    }
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

    /// Sends events until one of the two has enough.
    async fn follow(&mut self, mut follower: Follower, peer: Peer) -> io::Result<()> {
        if let Err(why) = self.places.follow(peer.uid, &self.limits) {
            let error = ErrorBody::new(ErrorCode::TooMuch, why);
            return self.write(&error.into_line()).await;
        }
        loop {
            let mut more = [0];
            let batch = tokio::select! {
                batch = follower.batch() => batch,
                read = self.stream.read(&mut more) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    let why = "a connection that follows events takes no other request";
                    return self.write(&ErrorBody::bad(why).into_line()).await;
                }
            };
            let line = encode(Answer::Events(batch)).await;
            self.write_within(&line, self.limits.follow_time).await?;
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
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_within(bytes, self.limits.request_time).await
    }

    async fn write_within(&mut self, mut bytes: &[u8], time: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(time, self.stream.write(bytes)).await??;
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
