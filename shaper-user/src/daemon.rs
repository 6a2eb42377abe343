//! The daemon: one thread owns the kernel, the policy and the last sample; the
//! control socket and the signals send it messages.

mod act;
mod audit;
mod caps;
mod core;
mod events;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod logged;
mod notify;
mod presence;
mod quota;

pub use self::core::{Options, PolicyFile, overrides_beside};

use self::core::{Core, Plan};
use crate::control::server::{Answer, Handler, Limits, Peer, serve};
use crate::control::socket::{Socket, set_group};
use crate::events::Batch;
use crate::events::bus::Bus;
use crate::events::filter::EventFilter;
use crate::haproxy::actions::Actions;
use crate::haproxy::agent::{self, Agent};
use crate::haproxy::weights::ServerName;
use crate::haproxy::{View, poll};
use crate::history::{self, Keeper};
use crate::kernel::Kernel;
use crate::metrics::process::Process;
use crate::metrics::{Exporter, Snapshot, Source};
use crate::model;
use crate::policy::{Haproxy, OnExit, Policy};
use crate::protocol::{Command, ErrorBody, ErrorCode};
use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// How often the kernel is read.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two looks at what has changed in the kernel.
const CHANGES_PAUSE: Duration = Duration::from_millis(50);

/// What the thread is sent.
enum Message {
    Command {
        command: Command,
        peer: Peer,
        reply: oneshot::Sender<Result<Answer, ErrorBody>>,
    },
    /// A command that is done outside of the thread.
    Plan {
        command: Command,
        peer: Peer,
        reply: oneshot::Sender<Result<Plan, ErrorBody>>,
    },
    /// What the sessions of a server carry that a drain may close.
    Load {
        server: ServerName,
        reply: oneshot::Sender<Result<u64, String>>,
    },
    /// Everything that metrics are made of.
    Numbers {
        reply: oneshot::Sender<Box<Snapshot>>,
    },
    /// The kernel has interfaces to follow.
    Changed,
    /// SIGHUP.
    Reload,
    /// A signal ends the daemon.
    Stopping(&'static str),
    Stop,
}

/// The way to the thread, and what is done outside of it.
#[derive(Clone)]
struct Handle {
    messages: Sender<Message>,
    actions: Arc<Actions>,
    agent: Agent,
    bus: Bus,
    exporter: Exporter,
    history: Keeper,
}

impl Handle {
    /// Sends a message and waits for its reply; `None` when the thread is gone.
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).ok()?;
        answer.await.ok()
    }
}

fn stopping() -> ErrorBody {
    ErrorBody::new(ErrorCode::Failed, "the daemon is stopping")
}

impl Handler for Handle {
    async fn handle(&self, command: Command, peer: Peer) -> Result<Answer, ErrorBody> {
        if command.changes() {
            audit::learn(peer.uid).await;
        }
        if let Command::Events(query) = &command {
            let filter = EventFilter::parse(&query.filter)
                .map_err(|error| ErrorBody::bad(error.to_string()))?;
            return Ok(if query.follow {
                Answer::Follow(self.bus.follow(filter, query.last))
            } else {
                let events = self.bus.last(&filter, query.last);
                Answer::Events(Batch { missed: 0, events })
            });
        }
        if matches!(
            command,
            Command::Kill { .. } | Command::Drain { .. } | Command::StopDrain { .. }
        ) {
            return self.act(command, peer).await;
        }
        if let Command::History(query) = command {
            let history = self.history.query(query).await?;
            return Ok(Answer::History(Box::new(history)));
        }
        let message = |reply| Message::Command {
            command,
            peer,
            reply,
        };
        let mut answer = self.ask(message).await.ok_or_else(stopping)??;
        if let Answer::Status(status) = &mut answer {
            self.complete(status);
        }
        Ok(answer)
    }
}

impl Handle {
    /// Adds what is not known to the thread.
    fn complete(&self, status: &mut model::Status) {
        status.drains = self.actions.drains();
        status.warnings.extend(self.agent.trouble());
        status.warnings.extend(self.exporter.trouble());
        status.warnings.extend(self.history.warnings());
        let (all, unknown) = self.agent.checks();
        for (name, count) in [("agent_checks", all), ("agent_checks_unknown", unknown)] {
            status.counters.insert(name.to_owned(), count);
        }
    }
}

impl Source for Handle {
    async fn snapshot(&self) -> Option<Snapshot> {
        let mut snapshot = self.ask(|reply| Message::Numbers { reply }).await?;
        self.complete(&mut snapshot.status);
        snapshot.scrapes = self.exporter.scrapes();
        snapshot.process = Process::now();
        Some(*snapshot)
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

    let changes = kernel.changes()?;
    // SAFETY: it owns its descriptor, which is the same and open until it is dropped.
    let news = unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }
        .context("waiting for events of the kernel")?;
    let (feed, agent) = agent::agent();
    let (recorder, history) = history::start().context("cannot start a thread")?;
    let (started, start) = oneshot::channel();
    let (ended, mut end) = oneshot::channel();
    let (messages, inbox) = mpsc::channel();
    let (haproxy, changes) = watch::channel(policy.haproxy.clone());
    let join = Join {
        policy: haproxy,
        views: poll::start(changes),
    };
    std::thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || {
            let core = Core::start(kernel, policy, options, feed, Timestamp::now());
            match core {
                Ok(mut core) => {
                    core.keep_history(recorder);
                    let shared = (core.bus.clone(), core.metrics());
                    let _ = started.send(Ok(shared));
                    let _ = ended.send(turn(core, &inbox, join));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })
        .context("cannot start a thread")?;
    let (bus, metrics) = start
        .await
        .map_err(|_| anyhow!("the kernel's thread ended"))??;

    let (stop, stopped) = watch::channel(false);
    tokio::spawn(announce(news, messages.clone()));
    tokio::spawn(agent.clone().run());
    let exporter = Exporter::new(metrics);
    let handle = Arc::new(Handle {
        messages: messages.clone(),
        actions: Arc::default(),
        agent,
        bus,
        exporter: exporter.clone(),
        history,
    });
    tokio::spawn(exporter.run(Arc::clone(&handle)));
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
    let _ = messages.send(Message::Stopping(signal));
    notify::send(&[NotifyState::Stopping]);
    let _ = stop.send(true);
    let _ = server.await;
    let _ = messages.send(Message::Stop);
    end.await
        .map_err(|_| anyhow!("the kernel's thread ended before it was told to"))
}

/// Wakes the thread when the kernel has something to follow: it need not look
/// more often than it samples. What was there before is told, too.
async fn announce(news: AsyncFd<OwnedFd>, messages: Sender<Message>) {
    while let Ok(mut ready) = news.readable().await {
        // The thread reads it: until there is more.
        ready.clear_ready();
        if messages.send(Message::Changed).is_err() {
            return;
        }
        // Many at once are one.
        tokio::time::sleep(CHANGES_PAUSE).await;
    }
}

/// The thread's side of the tasks that ask HAProxy.
struct Join {
    policy: watch::Sender<Haproxy>,
    views: watch::Receiver<Arc<View>>,
}

impl Join {
    /// Gives the thread the latest answers, and the tasks the policy in force.
    fn exchange<K: Kernel>(&mut self, core: &mut Core<K>) {
        if self.views.has_changed().unwrap_or(false) {
            core.set_view(Arc::clone(&self.views.borrow_and_update()));
        }
        self.policy.send_if_modified(|policy| {
            let changed = policy != core.haproxy();
            if changed {
                policy.clone_from(core.haproxy());
            }
            changed
        });
    }
}

/// The thread's loop: a sample every second, messages in between.
fn turn<K: Kernel>(mut core: Core<K>, inbox: &Receiver<Message>, mut join: Join) -> OnExit {
    let mut next = Instant::now() + INTERVAL;
    loop {
        join.exchange(&mut core);
        let now = Instant::now();
        if now >= next {
            core.health.late(now.duration_since(next));
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
            Ok(Message::Plan {
                command,
                peer,
                reply,
            }) => {
                let _ = reply.send(core.plan(&command, peer));
            }
            Ok(Message::Load { server, reply }) => {
                let _ = reply.send(core.load(&server));
            }
            Ok(Message::Numbers { reply }) => {
                let _ = reply.send(Box::new(core.snapshot()));
            }
            Ok(Message::Changed) => core.follow(),
            Ok(Message::Reload) => core.hangup(),
            Ok(Message::Stopping(signal)) => core.stopping(signal),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                core.keep_quotas();
                core.finish_history();
                return core.on_exit();
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests;
