//! Connections that come and go, paced by a clock.

use super::roles;
use crate::lab::{Lab, PORT, PROXY_V4, PROXY_V6};
use crate::netns::Namespace;
use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Open at once at most: a limited client must not take all of them.
const MOST_OPEN: usize = 2_500;
const TICK: Duration = Duration::from_millis(4);
const CONNECT: Duration = Duration::from_millis(700);
/// A connection is over after this, whatever it does.
const LIFE: Duration = Duration::from_secs(25);
/// A connection of [`Kind::Linger`] is idle for so long at most.
const IDLE_MS: u64 = 12_000;
/// The path that HAProxy answers itself.
pub(super) const PATH: &str = "/churn";
/// Any 16 bytes will do (RFC 6455, section 4.1).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A request, an answer, and the client closes.
    ClientCloses,
    /// A request, an answer, and HAProxy closes.
    ServerCloses,
    /// Nothing more from the client, which still reads.
    HalfCloses,
    /// A reset instead of reading the answer.
    Resets,
    /// Closed without a byte.
    Silent,
    /// Half a request, then nothing for seconds.
    Lingers,
    /// A WebSocket to a server, an echo, gone without a close frame.
    WebSocket,
}

/// With their part of a hundred.
const KINDS: [(Kind, &str, u64); 7] = [
    (Kind::ClientCloses, "closed by the client", 40),
    (Kind::ServerCloses, "closed by HAProxy", 15),
    (Kind::HalfCloses, "half-closed", 10),
    (Kind::Resets, "reset", 17),
    (Kind::Silent, "without a byte", 10),
    (Kind::Lingers, "idle for seconds", 3),
    (Kind::WebSocket, "WebSocket, echoed", 5),
];

/// What came of all connections.
#[derive(Debug, Default)]
struct Counts {
    started: AtomicU64,
    established: AtomicU64,
    /// Not established: in time, or refused.
    unanswered: AtomicU64,
    refused: AtomicU64,
    /// Established, and ended otherwise than meant: by a block, a reload, a limit.
    cut: AtomicU64,
    /// Not even tried, because the machine or the open ones were behind.
    skipped: AtomicU64,
    done: [AtomicU64; KINDS.len()],
}

/// The same, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) started: u64,
    pub(super) established: u64,
    pub(super) unanswered: u64,
    pub(super) refused: u64,
    pub(super) cut: u64,
    pub(super) skipped: u64,
    pub(super) done: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
struct Shared {
    counts: Counts,
    open: AtomicUsize,
    stop: AtomicBool,
    seed: u64,
    clients: Vec<IpAddr>,
}

/// The running churn. Dropping it ends it at once.
#[derive(Debug)]
pub(super) struct Churn {
    shared: Arc<Shared>,
    runtime: Runtime,
    began: Instant,
}

impl Churn {
    /// Begins.
    pub(super) fn start(lab: &Lab, seed: u64, rate: u32) -> Result<Self> {
        let runtime = inside(&lab.client, 2)?;
        let shared = Arc::new(Shared {
            counts: Counts::default(),
            open: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            seed,
            clients: roles::churn(),
        });
        runtime.spawn(pace(shared.clone(), f64::from(rate)));
        Ok(Self {
            shared,
            runtime,
            began: Instant::now(),
        })
    }

    /// A client that comes for some seconds with a few connections.
    pub(super) fn visit(&self, client: IpAddr, connections: u64) {
        for _ in 0..connections {
            let shared = self.shared.clone();
            self.runtime.spawn(async move {
                let mut rng = shared.rng();
                sleep(Duration::from_millis(rng.u64(..3_000))).await;
                one(&shared, client, rng).await;
            });
        }
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// No more new ones; those that are open come to their end.
    pub(super) fn finish(&self) {
        self.shared.stop.store(true, Relaxed);
    }

    /// Open now.
    pub(super) fn open(&self) -> usize {
        self.shared.open.load(Relaxed)
    }

    /// So far.
    pub(super) fn tally(&self) -> Tally {
        let counts = &self.shared.counts;
        Tally {
            started: counts.started.load(Relaxed),
            established: counts.established.load(Relaxed),
            unanswered: counts.unanswered.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            cut: counts.cut.load(Relaxed),
            skipped: counts.skipped.load(Relaxed),
            done: KINDS
                .iter()
                .zip(&counts.done)
                .map(|((_, name, _), count)| (*name, count.load(Relaxed)))
                .collect(),
        }
    }
}

impl Shared {
    /// Another one for each connection, the same in each run of a seed.
    fn rng(&self) -> Rng {
        let number = self.counts.started.fetch_add(1, Relaxed);
        Rng::with_seed(self.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A runtime whose threads, and so the sockets that they make, are in a namespace.
fn inside(namespace: &Namespace, threads: usize) -> Result<Runtime> {
    let file = File::open(namespace.path())?;
    let failed = Arc::new(AtomicBool::new(false));
    let outside = failed.clone();
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_start(move || {
            if setns(&file, CloneFlags::CLONE_NEWNET).is_err() {
                outside.store(true, Relaxed);
            }
        })
        .enable_all()
        .build()?;
    // Something that runs there, so that they have all tried.
    runtime
        .block_on(runtime.spawn(async {}))
        .context("the churn's threads")?;
    ensure!(!failed.load(Relaxed), "cannot enter {}", namespace.name());
    Ok(runtime)
}

/// Starts connections as they are due. What is not kept up with is skipped and
/// counted: no rush after a standstill.
async fn pace(shared: Arc<Shared>, rate: f64) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    let most = (rate / 5.0).max(1.0) as u64;
    let mut issued = 0_u64;
    while !shared.stop.load(Relaxed) {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        let behind = due.saturating_sub(issued);
        issued = due;
        let room = MOST_OPEN.saturating_sub(shared.open.load(Relaxed)) as u64;
        let now = behind.min(most).min(room);
        shared.counts.skipped.fetch_add(behind - now, Relaxed);
        for _ in 0..now {
            let shared = shared.clone();
            tokio::spawn(async move {
                let mut rng = shared.rng();
                let client = shared.clients[rng.usize(..shared.clients.len())];
                one(&shared, client, rng).await;
            });
        }
    }
}

/// One connection from beginning to end.
async fn one(shared: &Shared, client: IpAddr, mut rng: Rng) {
    shared.open.fetch_add(1, Relaxed);
    let counts = &shared.counts;
    match open(client).await {
        Ok(stream) => {
            counts.established.fetch_add(1, Relaxed);
            let (index, kind) = choose(&mut rng);
            match timeout(LIFE, live(stream, kind, rng)).await {
                Ok(Ok(())) => counts.done[index].fetch_add(1, Relaxed),
                _ => counts.cut.fetch_add(1, Relaxed),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            counts.unanswered.fetch_add(1, Relaxed);
        }
        Err(_) => {
            counts.refused.fetch_add(1, Relaxed);
        }
    }
    shared.open.fetch_sub(1, Relaxed);
}

fn choose(rng: &mut Rng) -> (usize, Kind) {
    let mut left = rng.u64(..100);
    for (index, (kind, _, part)) in KINDS.iter().enumerate() {
        if left < *part {
            return (index, *kind);
        }
        left -= part;
    }
    (0, Kind::ClientCloses)
}

async fn open(client: IpAddr) -> io::Result<TcpStream> {
    let (socket, proxy) = if client.is_ipv4() {
        (TcpSocket::new_v4()?, PROXY_V4)
    } else {
        (TcpSocket::new_v6()?, PROXY_V6)
    };
    socket.bind(SocketAddr::new(client, 0))?;
    timeout(CONNECT, socket.connect(SocketAddr::new(proxy, PORT)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn live(mut stream: TcpStream, kind: Kind, mut rng: Rng) -> Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        Kind::ClientCloses => {
            stream.write_all(request("").as_bytes()).await?;
            answer(&mut stream).await?;
        }
        Kind::ServerCloses => {
            stream
                .write_all(request("Connection: close\r\n").as_bytes())
                .await?;
            to_the_end(&mut stream).await?;
        }
        Kind::HalfCloses => {
            stream.write_all(request("").as_bytes()).await?;
            stream.shutdown().await?;
            to_the_end(&mut stream).await?;
        }
        Kind::Resets => {
            stream.set_zero_linger()?;
            if rng.bool() {
                stream.write_all(request("").as_bytes()).await?;
            }
            sleep(Duration::from_millis(rng.u64(..3))).await;
        }
        Kind::Silent => {}
        Kind::Lingers => {
            stream.write_all(b"GET /churn HTTP/1.1\r\n").await?;
            sleep(Duration::from_millis(rng.u64(..IDLE_MS))).await;
            if rng.bool() {
                stream.set_zero_linger()?;
            }
        }
        Kind::WebSocket => echo(&mut stream).await?,
    }
    Ok(())
}

fn request(extra: &str) -> String {
    format!("GET {PATH} HTTP/1.1\r\nHost: lab\r\n{extra}\r\n")
}

/// Reads an answer whose length its head says.
async fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut read = Vec::with_capacity(2048);
    loop {
        if let Some(at) = find(&read, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..at]);
            let length: usize = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .context("no length")?
                .1
                .trim()
                .parse()?;
            if read.len() >= at + 4 + length {
                return Ok(());
            }
        }
        if stream.read_buf(&mut read).await? == 0 {
            bail!("closed too early");
        }
    }
}

async fn to_the_end(stream: &mut TcpStream) -> Result<()> {
    let mut all = 0;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => all += count,
        }
    }
    ensure!(all > 0, "nothing came");
    Ok(())
}

/// A short masked text there and back.
async fn echo(stream: &mut TcpStream) -> Result<()> {
    let upgrade = format!(
        "GET /chat HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await?;
    let mut read = Vec::with_capacity(1024);
    while find(&read, b"\r\n\r\n").is_none() {
        ensure!(stream.read_buf(&mut read).await? > 0, "no WebSocket");
    }
    // A masking key of zeros leaves the payload as it is.
    stream.write_all(b"\x81\x85\x00\x00\x00\x00hello").await?;
    read.clear();
    while find(&read, b"hello").is_none() {
        ensure!(stream.read_buf(&mut read).await? > 0, "no echo");
    }
    Ok(())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_a_hundred_and_all_kinds_come() {
        assert_eq!(KINDS.iter().map(|(_, _, part)| part).sum::<u64>(), 100);
        let mut seen = [0; KINDS.len()];
        for seed in 0..2_000 {
            seen[choose(&mut Rng::with_seed(seed)).0] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}
