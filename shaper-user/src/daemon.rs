//! The daemon: one thread owns the kernel, the policy and the last sample; the
//! control socket and the signals send it messages.

mod core;
mod events;
#[cfg(test)]
mod logged;
mod notify;

pub use self::core::{Options, PolicyFile, overrides_beside};

use self::core::Core;
use crate::control::server::{Answer, Handler, Limits, Peer, serve};
use crate::control::socket::{Socket, set_group};
use crate::kernel::Kernel;
use crate::policy::{OnExit, Policy};
use crate::protocol::{Command, ErrorBody, ErrorCode};
use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// How often the kernel is read.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What the thread is sent.
enum Message {
    Command {
        command: Command,
        peer: Peer,
        reply: oneshot::Sender<Result<Answer, ErrorBody>>,
    },
    /// SIGHUP.
    Reload,
    Stop,
}

/// The way to the thread.
struct Handle(Sender<Message>);

impl Handler for Handle {
    async fn handle(&self, command: Command, peer: Peer) -> Result<Answer, ErrorBody> {
        let stopping = || ErrorBody::new(ErrorCode::Failed, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        self.0
            .send(Message::Command {
                command,
                peer,
                reply,
            })
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// Puts the policy in force and serves until SIGTERM or SIGINT. Returns what
/// the policy then in force wants done with the limits.
///
/// # Errors
/// When the policy cannot be put in force, or the thread of the kernel ends.
pub async fn run<K: Kernel + 'static>(
    kernel: K,
    socket: &Socket,
    policy: Policy,
    options: Options,
) -> Result<OnExit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    set_group(socket.path(), policy.control_group.as_deref())?;
    let listener = UnixListener::from_std(socket.listener()?)?;

    let (started, start) = oneshot::channel();
    let (ended, mut end) = oneshot::channel();
    let (messages, inbox) = mpsc::channel();
    std::thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || {
            let core = Core::start(kernel, policy, options, Timestamp::now());
            match core {
                Ok(core) => {
                    let _ = started.send(Ok(()));
                    let _ = ended.send(turn(core, &inbox));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })
        .context("cannot start a thread")?;
    start
        .await
        .map_err(|_| anyhow!("the kernel's thread ended"))??;

    let (stop, stopped) = watch::channel(false);
    let handle = Arc::new(Handle(messages.clone()));
    let server = tokio::spawn(serve(
        listener,
        handle,
        Limits::default(),
        Peer::of,
        stopped,
    ));
    tracing::info!(socket = %socket.path().display(), "ready");
    notify::send(&[NotifyState::Ready]);

    let signal = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => {
                let _ = messages.send(Message::Reload);
            }
            _ = &mut end => return Err(anyhow!("the kernel's thread ended; its last messages are above")),
        }
    };
    tracing::info!("stopping on {signal}");
    notify::send(&[NotifyState::Stopping]);
    let _ = stop.send(true);
    let _ = server.await;
    let _ = messages.send(Message::Stop);
    end.await
        .map_err(|_| anyhow!("the kernel's thread ended before it was told to"))
}

/// The thread's loop: a sample every second, messages in between.
fn turn<K: Kernel>(mut core: Core<K>, inbox: &Receiver<Message>) -> OnExit {
    let mut next = Instant::now() + INTERVAL;
    loop {
        let now = Instant::now();
        if now >= next {
            core.tick(Timestamp::now());
            next += INTERVAL;
            // After a pause of the machine: no burst of samples.
            next = next.max(Instant::now());
        }
        match inbox.recv_timeout(next.saturating_duration_since(now)) {
            Ok(Message::Command {
                command,
                peer,
                reply,
            }) => {
                let _ = reply.send(core.handle(command, peer, Timestamp::now()));
            }
            Ok(Message::Reload) => core.hangup(),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return core.on_exit(),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests;
