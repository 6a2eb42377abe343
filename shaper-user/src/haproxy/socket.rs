//! One socket of HAProxy, asked again and again.

use super::cli::{self, AskError};
use super::view::{FORGET, Known, Worker, millis};
use super::{Session, info, sess};
use crate::kernel::sys::ktime;
use crate::model;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// HAProxy answers for at most one part in so many of its time.
const SHARE: u32 = 100;
/// Between two tries, after the first failure and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Sessions that are kept of one socket.
const SESSIONS_MAX: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stats,
    Master,
}

/// What is known of a socket that has not been asked yet.
pub(super) fn unasked(path: &Path, poll: Duration) -> Known {
    Known {
        socket: model::HaproxySocket {
            path: path.display().to_string(),
            poll_ms: millis(poll),
            ..model::HaproxySocket::default()
        },
        ..Known::default()
    }
}

/// Asks until the other end of a channel is gone. One question at a time; the
/// first of a round comes `poll` after the first of the last one, or later where
/// HAProxy would spend more than a hundredth of its time on them.
/// After a failure it is tried again later and later.
pub(super) async fn watch(
    path: Arc<Path>,
    mut poll: watch::Receiver<Duration>,
    reports: mpsc::Sender<(Arc<Path>, Known)>,
) {
    let known = unasked(&path, *poll.borrow());
    let mut socket = Socket {
        path,
        kind: None,
        known,
        failures: 0,
        spent: Duration::ZERO,
        costs: [Duration::MAX; 2],
    };
    loop {
        let began = Instant::now();
        socket.spent = Duration::ZERO;
        let result = socket.round().await;
        socket.settle(result);
        let ended = Instant::now();
        loop {
            let rest = socket.rest(*poll.borrow_and_update());
            socket.known.socket.poll_ms = millis(rest);
            let report = (Arc::clone(&socket.path), socket.known.clone());
            if reports.send(report).await.is_err() {
                return;
            }
            let failed = socket.known.socket.error.is_some();
            let from = if failed { ended } else { began };
            tokio::select! {
                () = sleep_until(from + rest) => break,
                changed = poll.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }
}

struct Socket {
    path: Arc<Path>,
    /// Found anew after each failure.
    kind: Option<Kind>,
    known: Known,
    /// Rounds without an answer since the last with one.
    failures: u32,
    /// What the round took HAProxy.
    spent: Duration,
    /// What the last two rounds with an answer did. One that took long alone
    /// waited for something, such as a reload; two show how much there is to do.
    costs: [Duration; 2],
}

/// What all workers answered.
struct Round {
    workers: Vec<Worker>,
    /// A worker that did not.
    error: Option<String>,
}

impl Socket {
    async fn ask(&mut self, command: &str) -> Result<String, AskError> {
        let start = Instant::now();
        let answer = cli::ask(&self.path, command).await;
        // One that does not answer is rather stopped than at work.
        if matches!(answer, Ok(_) | Err(AskError::TooLarge { .. })) {
            self.spent += start.elapsed();
        }
        answer
    }

    async fn round(&mut self) -> Result<Round, AskError> {
        if self.kind != Some(Kind::Stats) {
            match self.ask("show cli level;show proc").await {
                Ok(answer) => return self.master(&answer).await,
                Err(AskError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.stats().await
    }

    async fn stats(&mut self) -> Result<Round, AskError> {
        // In one connection, so that one worker answers all of it.
        let answer = self.ask("show cli level;show info;show sess").await?;
        let mut parts = answer.splitn(3, "\n\n");
        let level = parts.next().unwrap_or_default();
        let Some(info) = parts.next().and_then(info::info) else {
            return Err(AskError::Garbled(self.path.to_path_buf()));
        };
        self.is(Kind::Stats, level, info.version);
        let (pid, sessions) = (info.pid, parts.next().unwrap_or_default().to_owned());
        Ok(Round {
            workers: vec![self.worker(pid, sessions).await],
            error: None,
        })
    }

    /// Asks the workers, which the master knows from the answer.
    async fn master(&mut self, answer: &str) -> Result<Round, AskError> {
        let (level, processes) = answer.split_once("\n\n").unwrap_or_default();
        let processes = info::processes(processes);
        let Some(version) = processes.version else {
            return Err(AskError::Garbled(self.path.to_path_buf()));
        };
        self.is(Kind::Master, level, version);
        let mut round = Round {
            workers: Vec::new(),
            error: None,
        };
        let mut sessions = 0;
        for pid in processes.workers {
            match self.ask(&format!("@!{pid} show sess")).await {
                Ok(answer) => {
                    let worker = self.worker(pid, answer).await;
                    sessions += worker.sessions.len();
                    round.workers.push(worker);
                }
                // It ended meanwhile.
                Err(AskError::NoWorker { .. }) => {}
                Err(error) => {
                    round
                        .error
                        .get_or_insert_with(|| format!("worker {pid}: {error}"));
                    let silent = self.known.workers.iter().find(|worker| worker.pid == pid);
                    round.workers.extend(silent.cloned().and_then(silenced));
                }
            }
            if sessions > SESSIONS_MAX {
                round.error = Some(format!(
                    "{} has more than {SESSIONS_MAX} sessions: the workers after {pid} are not asked",
                    self.path.display()
                ));
                break;
            }
        }
        Ok(round)
    }

    fn is(&mut self, kind: Kind, level: &str, version: &str) {
        self.kind = Some(kind);
        let socket = &mut self.known.socket;
        let name = match kind {
            Kind::Stats => "stats",
            Kind::Master => "master",
        };
        socket.kind = Some(name.to_owned());
        socket.version = Some(version.to_owned());
        let level = level.trim();
        socket.level = matches!(level, "user" | "operator" | "admin").then(|| level.to_owned());
    }

    /// What a worker answered to `show sess`: read aside, as it may be long.
    async fn worker(&self, pid: u32, answer: String) -> Worker {
        let answered = Instant::now().into_std();
        let (path, master) = (Arc::clone(&self.path), self.kind == Some(Kind::Master));
        let read = tokio::task::spawn_blocking(move || sessions(&answer, &path, pid, master));
        Worker {
            pid,
            sessions: Arc::new(read.await.unwrap_or_default()),
            answered,
            stale: false,
        }
    }

    fn settle(&mut self, result: Result<Round, AskError>) {
        let known = &mut self.known;
        match result {
            Ok(round) => {
                self.failures = 0;
                self.costs = [self.costs[1], self.spent];
                let fresh = || round.workers.iter().filter(|worker| !worker.stale);
                known.socket.sessions = fresh().map(|worker| worker.sessions.len() as u64).sum();
                known.socket.workers = fresh().count() as u64;
                known.socket.cost_ms = Some(self.spent.as_secs_f64() * 1e3);
                known.socket.error = round.error;
                known.answered = Some(Instant::now().into_std());
                known.workers = round.workers;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.kind = None;
                if matches!(error, AskError::Level { .. }) {
                    // An operator may ask all of it.
                    known.socket.level = Some("user".to_owned());
                }
                known.socket.error = Some(error.to_string());
                let workers = std::mem::take(&mut known.workers);
                known.workers = workers.into_iter().filter_map(silenced).collect();
            }
        }
    }

    /// How long HAProxy is left alone.
    fn rest(&self, poll: Duration) -> Duration {
        let (least, cost) = match self.failures {
            0 => (poll, self.costs[0].min(self.costs[1])),
            failures => {
                let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                (RETRY[0].saturating_mul(doubled).min(RETRY[1]), self.spent)
            }
        };
        least.max(cost.saturating_mul(SHARE))
    }
}

/// What is left of a worker that does not answer.
fn silenced(worker: Worker) -> Option<Worker> {
    let silent = Instant::now()
        .into_std()
        .saturating_duration_since(worker.answered);
    (silent < FORGET).then_some(Worker {
        stale: true,
        ..worker
    })
}

fn sessions(
    answer: &str,
    socket: &Arc<Path>,
    worker_pid: u32,
    through_master: bool,
) -> Vec<(SocketAddr, Session)> {
    // The same few names in every line.
    let answered = ktime();
    let mut names: HashSet<Arc<str>> = HashSet::new();
    let mut name = |text: &str| {
        if let Some(name) = names.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(text);
        names.insert(Arc::clone(&name));
        name
    };
    sess::streams(answer)
        .map(|stream| {
            let session = Session {
                id: stream.id,
                frontend: name(stream.frontend),
                backend: name(stream.backend),
                server: name(stream.server),
                worker_pid,
                socket: Arc::clone(socket),
                through_master,
                stale: false,
                answered,
            };
            (stream.client, session)
        })
        .collect()
}

#[cfg(test)]
mod tests;
