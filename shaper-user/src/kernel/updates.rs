//! Window updates: tells senders that wait for a larger window that they may go
//! on (RFC 9293, 3.8.6).
//!
//! A window smaller than a segment stops a sender. Its own timer asks again
//! after 200 ms and more, which is too coarse on short paths. So the kernel
//! program hands over the acknowledgement that stopped it, and this thread sends
//! that again when more has been earned; the kernel program sets its window, as
//! in every segment. Without this thread senders ask by themselves: a little
//! slower, never faster than the limit.

use super::sys::ktime;
use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use shaper_common::event::WindowUpdate;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Senders remembered; more ask by themselves.
const MAX_WAITING: usize = 65_536;
/// An update later than this, in ns, is not sent: the sender has asked.
const STALE: u64 = 1_000_000_000;

/// The thread rests so long between two turns. A sender is woken that much late,
/// which its share makes up for: little beside the 8 ms and more that it waits.
const REST: Duration = Duration::from_millis(2);

/// The thread; dropping it ends it.
pub(super) struct WindowUpdates {
    stop: Arc<EventFd>,
    hurry: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl WindowUpdates {
    /// Starts it, for the interfaces of this network namespace.
    ///
    /// # Errors
    /// When a packet socket is not allowed (`CAP_NET_RAW`).
    pub fn start(ring: RingBuf<MapData>) -> Result<Self> {
        let socket = packet_socket().context("opening a packet socket (CAP_NET_RAW)")?;
        let stop = Arc::new(EventFd::new()?);
        let hurry = Arc::new(EventFd::new()?);
        let (stopped, hurried) = (stop.clone(), hurry.clone());
        let thread = thread::Builder::new()
            .name("window-updates".into())
            .spawn(move || {
                if let Err(error) = Waiting::default().run(ring, &socket, &stopped, &hurried) {
                    tracing::error!("window updates have ended, senders on short paths get less than their limit: {error:#}");
                }
            })?;
        Ok(Self {
            stop,
            hurry,
            thread: Some(thread),
        })
    }

    /// Sends every update now: a new policy may let the senders go on. To whom it
    /// does not, the kernel program offers as little as before, and hands the
    /// update back.
    pub fn hurry(&self) {
        let _ = self.hurry.write(1);
    }

    /// Whether it still does its work.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for WindowUpdates {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    // Protocol 0: it only sends.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    Errno::result(fd)?;
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A connection, from this host's point of view.
type Peers = (IpAddr, u16, IpAddr, u16);

/// The updates to come, one for each connection.
#[derive(Default)]
struct Waiting {
    updates: HashMap<Peers, WindowUpdate>,
    queue: BTreeSet<(u64, Peers)>,
}

impl Waiting {
    fn run(
        &mut self,
        mut ring: RingBuf<MapData>,
        socket: &OwnedFd,
        stop: &EventFd,
        hurry: &EventFd,
    ) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(hurry.as_fd(), PollFlags::POLLIN),
                PollFd::new(ring.as_fd(), PollFlags::POLLIN),
            ];
            // Without the ring: what comes within a while is done together.
            wait(&mut fds[..2], Some(TimeSpec::from_duration(REST)))?;
            let pause = self.queue.first().map(|(due, _)| {
                TimeSpec::from_duration(Duration::from_nanos(due.saturating_sub(ktime())))
            });
            wait(&mut fds, pause)?;
            if fds.first().and_then(PollFd::any) == Some(true) {
                return Ok(());
            }
            let hurried = fds.get(1).and_then(PollFd::any) == Some(true);
            while let Some(item) = ring.next() {
                if let Ok(update) = bytemuck::try_pod_read_unaligned::<WindowUpdate>(&item) {
                    self.insert(update);
                }
            }
            if hurried {
                hurry.read()?;
                self.queue.clear();
                for update in std::mem::take(&mut self.updates).into_values() {
                    let _ = send(socket, &update);
                }
            }
            let now = ktime();
            while let Some(update) = self.next(now) {
                // Lost, as any packet may be; the sender asks by itself.
                let _ = send(socket, &update);
            }
        }
    }

    /// The last acknowledgement of a connection is the one that counts.
    fn insert(&mut self, mut update: WindowUpdate) {
        let Some((peers, checksum_at, checksum)) = inspect(&update) else {
            return;
        };
        if let Some(place) = update.packet.get_mut(checksum_at..checksum_at + 2) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        if let Some(old) = self.updates.get(&peers) {
            self.queue.remove(&(old.due, peers));
        } else if self.updates.len() >= MAX_WAITING {
            return;
        }
        self.queue.insert((update.due, peers));
        self.updates.insert(peers, update);
    }

    /// The next update that is due and not stale.
    fn next(&mut self, now: u64) -> Option<WindowUpdate> {
        loop {
            let (due, peers) = *self.queue.first()?;
            if due > now {
                return None;
            }
            self.queue.pop_first();
            let update = self.updates.remove(&peers)?;
            if due.saturating_add(STALE) > now {
                return Some(update);
            }
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], pause: Option<TimeSpec>) -> Result<()> {
    match ppoll(fds, pause, None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting for window updates"),
    }
}

/// Whose acknowledgement it is; where its checksum stands, and what it is: the
/// device was to fill it in.
fn inspect(update: &WindowUpdate) -> Option<(Peers, usize, u16)> {
    let packet = update.packet.get(..update.len as usize)?;
    let headers = PacketHeaders::from_ethernet_slice(packet).ok()?;
    let Some(TransportHeader::Tcp(tcp)) = headers.transport else {
        return None;
    };
    let (source, destination, checksum): (IpAddr, IpAddr, _) = match headers.net? {
        NetHeaders::Ipv4(ip, _) => (
            ip.source.into(),
            ip.destination.into(),
            tcp.calc_checksum_ipv4(&ip, &[]).ok()?,
        ),
        NetHeaders::Ipv6(ip, _) => (
            ip.source.into(),
            ip.destination.into(),
            tcp.calc_checksum_ipv6(&ip, &[]).ok()?,
        ),
        NetHeaders::Arp(_) => return None,
    };
    // It has no payload, so it ends with the TCP header.
    let start = packet.len().checked_sub(tcp.header_len())?;
    let peers = (source, tcp.source_port, destination, tcp.destination_port);
    Some((peers, start + CHECKSUM, checksum))
}

/// Where the checksum stands in a TCP header (RFC 9293, 3.1).
const CHECKSUM: usize = 16;

fn send(socket: &OwnedFd, update: &WindowUpdate) -> io::Result<()> {
    let packet = update.packet.get(..update.len as usize).unwrap_or_default();
    // SAFETY: `sockaddr_ll` is plain data, for which zero is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = update.ifindex as i32;
    // SAFETY: both buffers are as long as said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            size_of_val(&to) as u32,
        )
    };
    Errno::result(sent)?;
    Ok(())
}
