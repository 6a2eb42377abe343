//! The path between client and proxy: forwards Ethernet frames between two
//! interfaces with a fixed delay each way and, where asked, a bottleneck.
//!
//! Kernels without netem have nothing like it, and a limit that is tested
//! without a round trip says nothing: senders then burst 64 KB at once.

mod socket;
mod wire;

use crate::netns::Namespace;
use anyhow::{Result, anyhow};
use socket::{Batch, PacketSocket};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the path is like.
#[derive(Clone, Copy, Debug)]
pub struct PathSpec {
    /// Delay of a frame, each way: half the round trip.
    pub one_way: Duration,
    /// Bits per second of the bottleneck each way, counted from the Ethernet
    /// header on; `None`: as fast as this machine.
    pub rate: Option<u64>,
    /// How long a frame may wait at the bottleneck before it is dropped.
    pub queue: Duration,
    /// Tags put on every frame to the proxy.
    pub tags: Tags,
}

/// Priority tags (802.1Q, VLAN 0): a host takes such frames as its own, so
/// that tagged traffic needs no VLAN interface, which small kernels lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tags {
    /// None.
    #[default]
    None,
    /// 802.1Q.
    Vlan,
    /// 802.1ad around 802.1Q.
    QinQ,
}

impl Tags {
    /// TPIDs from the inside out.
    const fn tpids(self) -> &'static [u16] {
        match self {
            Self::None => &[],
            Self::Vlan => &[0x8100],
            Self::QinQ => &[0x8100, 0x88a8],
        }
    }
}

impl Default for PathSpec {
    fn default() -> Self {
        Self {
            one_way: Duration::from_millis(10),
            rate: None,
            queue: Duration::from_millis(50),
            tags: Tags::None,
        }
    }
}

/// Who and what a tally is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The address on the client's side.
    pub client: IpAddr,
    /// The port on the proxy's side.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// What was delivered, from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

#[derive(Debug, Default)]
struct Shared {
    frames: AtomicU64,
    bytes: AtomicU64,
    queue_drops: AtomicU64,
    ring_drops: AtomicU64,
    errors: AtomicU64,
    peers: Mutex<HashMap<Peer, Tally>>,
}

/// What one direction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Frames delivered.
    pub frames: u64,
    /// Bytes of those, from the Ethernet header on.
    pub bytes: u64,
    /// Frames dropped at the bottleneck, as intended.
    pub queue_drops: u64,
    /// Frames that the relay lost because it was too slow: the measurement is
    /// worth nothing.
    pub lost: u64,
    /// TCP and UDP delivered, by peer.
    pub peers: HashMap<Peer, Tally>,
}

impl Delivered {
    /// What was delivered for one client and one port.
    #[must_use]
    pub fn of(&self, client: IpAddr, port: u16, protocol: u8) -> Tally {
        let peer = Peer {
            client,
            port,
            protocol,
        };
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// What was delivered for one port, whoever the client.
    #[must_use]
    pub fn port(&self, port: u16, protocol: u8) -> Tally {
        self.peers
            .iter()
            .filter(|(peer, _)| peer.port == port && peer.protocol == protocol)
            .fold(Tally::default(), |sum, (_, one)| Tally {
                bytes: sum.bytes + one.bytes,
                packets: sum.packets + one.packets,
            })
    }
}

/// The running path. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    up: Arc<Shared>,
    down: Arc<Shared>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Joins two interfaces of a namespace: `client` and `proxy` name the
    /// sides they lead to.
    ///
    /// # Errors
    /// When the packet sockets cannot be opened.
    pub fn start(namespace: &Namespace, client: &str, proxy: &str, spec: PathSpec) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (up, down) = (Arc::new(Shared::default()), Arc::new(Shared::default()));
        let mut relay = Self {
            up: up.clone(),
            down: down.clone(),
            stop,
            threads: Vec::new(),
        };
        let directions = [(client, proxy, up, true), (proxy, client, down, false)];
        for (from, to, shared, upload) in directions {
            let (receive, send) = namespace
                .enter(|| Ok((PacketSocket::receiver(from)?, PacketSocket::sender(to)?)))?;
            let stop = relay.stop.clone();
            let thread = thread::Builder::new()
                .name(format!("relay-{from}"))
                .spawn(move || Direction::new(receive, send, spec, shared, upload).run(&stop))
                .map_err(|error| anyhow!("cannot start the relay: {error}"))?;
            relay.threads.push(thread);
        }
        Ok(relay)
    }

    /// Client to proxy, so far.
    #[must_use]
    pub fn up(&self) -> Delivered {
        self.up.read()
    }

    /// Proxy to client, so far.
    #[must_use]
    pub fn down(&self) -> Delivered {
        self.down.read()
    }

    /// Frames that were lost though they should not have been.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.up().lost + self.down().lost
    }

    /// Waits until nothing was delivered for `quiet`, so that both ends have
    /// seen all there is.
    ///
    /// # Errors
    /// When traffic goes on for longer than `timeout`.
    pub fn wait_quiet(&self, quiet: Duration, timeout: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + timeout;
        let total = || self.up.frames.load(Relaxed) + self.down.frames.load(Relaxed);
        let mut last = total();
        loop {
            thread::sleep(quiet);
            let now = total();
            if now == last {
                return Ok(());
            }
            anyhow::ensure!(
                std::time::Instant::now() < deadline,
                "there is still traffic after {timeout:?}"
            );
            last = now;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn read(&self) -> Delivered {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        Delivered {
            frames: self.frames.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            queue_drops: self.queue_drops.load(Relaxed),
            lost: self.ring_drops.load(Relaxed) + self.errors.load(Relaxed),
            peers: peers.clone(),
        }
    }
}

/// A frame on its way.
struct Flying {
    /// When it leaves, CLOCK_REALTIME in ns (as packet timestamps are).
    at: u64,
    frame: socket::Frame,
}

struct Direction {
    receive: PacketSocket,
    send: PacketSocket,
    batch: Batch,
    flying: VecDeque<Flying>,
    /// When the bottleneck has sent all that it holds.
    free_at: u64,
    delay: u64,
    spec: PathSpec,
    shared: Arc<Shared>,
    upload: bool,
}

impl Direction {
    fn new(
        receive: PacketSocket,
        send: PacketSocket,
        spec: PathSpec,
        shared: Arc<Shared>,
        upload: bool,
    ) -> Self {
        Self {
            receive,
            send,
            batch: Batch::new(),
            flying: VecDeque::new(),
            free_at: 0,
            delay: nanos(spec.one_way),
            spec,
            shared,
            upload,
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        // Wake up on the microsecond, not within the usual 50.
        let _ = nix::sys::prctl::set_timerslack(1_000);
        while !stop.load(Relaxed) {
            let now = socket::realtime();
            let wait = self.flying.front().map_or(100_000_000, |first| {
                first.at.saturating_sub(now).min(100_000_000)
            });
            if self.receive.wait(Duration::from_nanos(wait)) {
                self.take();
            }
            self.forward();
        }
    }

    /// Receives what is there and gives each frame its time of departure.
    fn take(&mut self) {
        let Ok(frames) = self.batch.receive(&self.receive) else {
            self.shared.errors.fetch_add(1, Relaxed);
            return;
        };
        for (frame, arrived) in frames {
            let Some(mut frame) = frame else {
                self.shared.errors.fetch_add(1, Relaxed);
                continue;
            };
            if self.upload {
                for tpid in self.spec.tags.tpids() {
                    frame.push_tag(*tpid, 0);
                }
            }
            let mut leaves = arrived;
            if let Some(rate) = self.spec.rate {
                let start = arrived.max(self.free_at);
                if start - arrived > nanos(self.spec.queue) {
                    self.shared.queue_drops.fetch_add(1, Relaxed);
                    self.batch.recycle(frame);
                    continue;
                }
                let bits = frame.bytes().len() as u64 * 8;
                self.free_at = start + bits * 1_000_000_000 / rate;
                leaves = self.free_at;
            }
            let previous = self.flying.back().map_or(0, |last| last.at);
            let at = (leaves + self.delay).max(previous);
            self.flying.push_back(Flying { at, frame });
        }
        let drops = self.receive.drops();
        self.shared.ring_drops.fetch_add(drops, Relaxed);
    }

    /// Sends what is due.
    fn forward(&mut self) {
        let now = socket::realtime();
        let due = self
            .flying
            .iter()
            .take(socket::BATCH)
            .take_while(|flying| flying.at <= now)
            .count();
        if due == 0 {
            return;
        }
        let frames: Vec<_> = self
            .flying
            .drain(..due)
            .map(|flying| flying.frame)
            .collect();
        let sent = socket::send(&self.send, &frames);
        self.shared.errors.fetch_add((due - sent) as u64, Relaxed);
        let bytes: usize = frames.iter().take(sent).map(|f| f.bytes().len()).sum();
        {
            let mut peers = self
                .shared
                .peers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for frame in frames.iter().take(sent) {
                if let Some((peer, length)) = wire::parse(frame.bytes(), self.upload) {
                    let tally = peers.entry(peer).or_default();
                    tally.bytes += length;
                    tally.packets += 1;
                }
            }
        }
        self.shared.bytes.fetch_add(bytes as u64, Relaxed);
        self.shared.frames.fetch_add(sent as u64, Relaxed);
        for frame in frames {
            self.batch.recycle(frame);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
