//! Answers HAProxy's agent checks with weights.
//!
//! HAProxy connects, sends its `agent-send` string, which is `backend/server` and
//! a newline, and reads one line. `150%` sets the server's weight to so much of
//! the configured one. An empty line changes nothing, and is the answer to
//! everything that no weight is known for. To close without a line changes
//! nothing either, but the check would then count as failed (`L7RSP`).

use super::weights::Weights;
use super::{Load, View};
use crate::listening::{Listens, Trouble, follow, take};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Checks that are answered at once; a further one is closed.
const CHECKS: usize = 64;
/// For the question, and again for the answer. Less than HAProxy's default
/// `agent-inter` of 2 s, after which it gives up.
const TIME: Duration = Duration::from_secs(1);
/// The longest question in bytes, its end not counted.
const QUESTION_MAX: usize = 512;
/// Weights that are older say nothing.
const FRESH: Duration = Duration::from_secs(5);

/// Percent of the configured weight by `backend/server`, and since when.
#[derive(Clone, Debug)]
struct Table {
    at: Instant,
    percents: HashMap<String, u16>,
}

/// The daemon's end: what the agent answers, and where.
#[derive(Debug)]
pub struct Feed {
    listen: watch::Sender<Option<SocketAddr>>,
    table: watch::Sender<Table>,
    weights: Weights,
    last: Option<Instant>,
}

/// The listener's end.
#[derive(Clone, Debug)]
pub struct Agent {
    listen: watch::Receiver<Option<SocketAddr>>,
    table: watch::Receiver<Table>,
    trouble: Trouble,
    checks: Arc<Checks>,
}

/// Checks that were answered.
#[derive(Debug, Default)]
struct Checks {
    all: AtomicU64,
    /// Those by an empty line.
    unknown: AtomicU64,
}

/// Both ends of an agent that listens nowhere.
#[must_use]
pub fn agent() -> (Feed, Agent) {
    let (listen, listening) = watch::channel(None);
    let (table, read) = watch::channel(Table {
        at: Instant::now(),
        percents: HashMap::new(),
    });
    let feed = Feed {
        listen,
        table,
        weights: Weights::default(),
        last: None,
    };
    let agent = Agent {
        listen: listening,
        table: read,
        trouble: Trouble::default(),
        checks: Arc::default(),
    };
    (feed, agent)
}

impl Feed {
    /// Has the agent listen there; `None`: nowhere.
    pub fn listen(&mut self, address: Option<SocketAddr>) {
        self.listen.send_if_modified(|now| {
            let changed = *now != address;
            *now = address;
            changed
        });
        if address.is_none() {
            self.weights = Weights::default();
            self.last = None;
        }
    }

    /// Whether the agent listens, so that it needs weights.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.listen.borrow().is_some()
    }

    /// The work of every second. A server with a session that only an older
    /// answer of HAProxy tells of gets no answer.
    pub fn update(&mut self, view: &View, loads: &[Load]) {
        let now = Instant::now();
        let elapsed = self.last.map_or(Duration::ZERO, |last| now - last);
        self.last = Some(now);
        self.weights.observe(loads, elapsed);
        let stale: HashSet<_> = view
            .sessions
            .values()
            .filter(|session| session.stale)
            .map(|session| (&session.backend, &session.server))
            .collect();
        let percents = self
            .weights
            .percents()
            .filter(|((backend, server), _)| !stale.contains(&(backend, server)))
            .map(|((backend, server), percent)| (format!("{backend}/{server}"), percent))
            .collect();
        self.table.send_replace(Table { at: now, percents });
    }
}

impl Agent {
    /// Why it does not listen although it should.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.told()
    }

    /// Checks that were answered, and how many of them by an empty line; for
    /// `status`.
    #[must_use]
    pub fn checks(&self) -> (u64, u64) {
        let Checks { all, unknown } = &*self.checks;
        (all.load(Relaxed), unknown.load(Relaxed))
    }

    /// What it answers for `backend/server`, without the line's end.
    #[cfg(test)]
    pub(crate) fn percent(&self, name: &str) -> String {
        percent(&self.table.borrow(), name)
    }

    /// Listens where the daemon says, until that ends. An address that is taken
    /// is tried again.
    pub async fn run(self) {
        follow(
            self.listen.clone(),
            |address| *address,
            &self.trouble,
            &self,
        )
        .await;
    }

    async fn check(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut read = Vec::new();
        // One that forgot its newline is answered too, only later.
        if let Ok(read) = timeout(TIME, question(&mut stream, &mut read)).await {
            read?;
        }
        let end = read.iter().position(is_end).unwrap_or(read.len());
        let name = str::from_utf8(&read[..end]).unwrap_or_default();
        let answer = percent(&self.table.borrow(), name);
        self.checks.all.fetch_add(1, Relaxed);
        self.checks
            .unknown
            .fetch_add(answer.is_empty().into(), Relaxed);
        let line = answer + "\n";
        timeout(TIME, stream.write_all(line.as_bytes())).await?
    }
}

impl Listens for Agent {
    fn at(&self, address: SocketAddr) -> String {
        format!("agent checks are answered on {address}")
    }

    fn over(&self, address: SocketAddr) -> String {
        format!("over: the agent check could not listen on {address}")
    }

    fn failed(&self, address: SocketAddr, error: &io::Error) -> String {
        let remedy = if error.raw_os_error() == Some(libc::EAFNOSUPPORT) {
            "the unit's sandbox allows no Internet sockets; add packaging/agent.conf to it"
        } else {
            "free the port or change `listen` of [haproxy.agent]"
        };
        format!(
            "agent checks are not answered, HAProxy's weights stay as they are: cannot listen on \
             {address}: {error}; {remedy}"
        )
    }

    async fn serve(&self, listener: TcpListener) {
        // To HAProxy a closed connection changes nothing.
        take(
            listener,
            CHECKS,
            "agent check",
            || {},
            |stream| {
                let agent = self.clone();
                async move {
                    if let Err(error) = agent.check(stream).await {
                        tracing::debug!("agent check: {error}");
                    }
                }
            },
        )
        .await;
    }
}

/// Reads a line, or as much as is read of one.
async fn question(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    while !read.iter().any(is_end) && read.len() <= QUESTION_MAX {
        if stream.read_buf(read).await? == 0 {
            break;
        }
    }
    Ok(())
}

const fn is_end(byte: &u8) -> bool {
    matches!(*byte, b'\n' | b'\r')
}

/// What is answered; empty where that is not known.
fn percent(table: &Table, name: &str) -> String {
    let known = table.percents.get(name.trim());
    known
        .filter(|_| table.at.elapsed() <= FRESH)
        .map_or_else(String::new, |percent| format!("{percent}%"))
}

#[cfg(test)]
mod tests;
