//! UDP at a rate.

use super::Meter;
use crate::netns::Namespace;
use anyhow::Result;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Sends `payload` bytes a packet at `rate_bps` (payload bits per second) for
/// a time; returns packets sent.
///
/// # Errors
/// When the socket cannot be bound or sending fails.
pub fn blast(
    namespace: &Namespace,
    source: SocketAddr,
    to: SocketAddr,
    payload: usize,
    rate_bps: u64,
    time: Duration,
) -> Result<u64> {
    let socket = namespace.enter(|| Ok(UdpSocket::bind(source)?))?;
    blast_from(&socket, to, payload, rate_bps, time)
}

/// As [`blast`], from a socket that is there.
///
/// # Errors
/// When sending fails.
pub fn blast_from(
    socket: &UdpSocket,
    to: SocketAddr,
    payload: usize,
    rate_bps: u64,
    time: Duration,
) -> Result<u64> {
    let packet = vec![0x55; payload];
    let interval = Duration::from_nanos(payload as u64 * 8 * 1_000_000_000 / rate_bps.max(1));
    let started = Instant::now();
    let mut next = started;
    let mut sent = 0;
    while next.duration_since(started) < time {
        let now = Instant::now();
        if next > now {
            thread::sleep(next - now);
        }
        match socket.send_to(&packet, to) {
            Ok(_) => sent += 1,
            // The egress hook dropped it: the sender is told.
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        next += interval;
    }
    Ok(sent)
}

/// Counts what arrives at a socket.
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    meter: Arc<Meter>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Binds inside a namespace.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(namespace: &Namespace, at: IpAddr, port: u16) -> Result<Self> {
        let socket = namespace.enter(|| Ok(UdpSocket::bind((at, port))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (meter, stop) = (Arc::new(Meter::default()), Arc::new(AtomicBool::new(false)));
        let (copy, counts, ended) = (socket.try_clone()?, meter.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut packet = [0; 65_536];
            while !ended.load(Relaxed) {
                if let Ok((length, _)) = copy.recv_from(&mut packet) {
                    counts.add(length);
                }
            }
        });
        Ok(Self {
            socket,
            meter,
            stop,
            thread: Some(thread),
        })
    }

    /// What arrived.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The socket, for answers.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
