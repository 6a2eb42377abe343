//! A TCP sender that ignores the receive window.
//!
//! The connection is a real one, so that everybody on the way knows it; what is
//! sent on it then comes from a raw socket. The kernel that owns the connection
//! does not know of these segments, and discards what acknowledges them.

use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use etherparse::TcpHeader;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

/// `TCP_RECV_QUEUE` and `TCP_SEND_QUEUE` (include/uapi/linux/tcp.h).
const RECEIVED: libc::c_int = 1;
const SENT: libc::c_int = 2;
/// Payload of a segment.
const SEGMENT: usize = 1400;
/// IPv4 and TCP without options.
const HEADERS: usize = 40;

/// What the sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rudeness {
    /// New data, on and on.
    Forward,
    /// The same segment again and again, so many bytes ahead of what was sent.
    Repeat(u32),
}

fn option(stream: &TcpStream, name: libc::c_int, value: libc::c_int) -> Result<()> {
    // SAFETY: the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// The next sequence number of a queue, by the interface for moving connections
/// to another host.
fn sequence(stream: &TcpStream, queue: libc::c_int) -> Result<u32> {
    option(stream, libc::TCP_REPAIR_QUEUE, queue)?;
    let mut sequence = 0_u32;
    let mut length = size_of::<u32>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to the integer.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut sequence).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(sequence)
}

/// Sends on an idle IPv4 connection of a namespace, at a rate in bits per second
/// from the IP header on, for some time. Returns the bytes sent.
///
/// # Errors
/// When the connection is not IPv4, or raw sockets are refused.
pub fn send(
    namespace: &Namespace,
    stream: &TcpStream,
    rudeness: Rudeness,
    rate: u64,
    time: Duration,
) -> Result<u64> {
    let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (stream.local_addr()?, stream.peer_addr()?)
    else {
        bail!("only IPv4");
    };
    option(stream, libc::TCP_REPAIR, 1).context("TCP_REPAIR")?;
    let (next, acknowledged) = (sequence(stream, SENT)?, sequence(stream, RECEIVED)?);
    // Stays in repair: closing it then sends nothing, and what it acknowledges
    // would tell what it has not seen.
    let socket = namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(IpAddr::V4(*local.ip()), 0).into())?;
        socket.connect(&SocketAddr::new(IpAddr::V4(*peer.ip()), 0).into())?;
        Ok(socket)
    })?;
    let payload = vec![0x66; SEGMENT];
    let started = Instant::now();
    let ahead = match rudeness {
        Rudeness::Forward => 0,
        Rudeness::Repeat(ahead) => ahead,
    };
    let (mut sequence, mut sent) = (next.wrapping_add(ahead), 0_u64);
    while started.elapsed() < time {
        let due = (started.elapsed().as_secs_f64() * rate as f64 / 8.0) as u64;
        while sent < due {
            let mut header = TcpHeader::new(local.port(), peer.port(), sequence, 65_535);
            header.ack = true;
            header.acknowledgment_number = acknowledged;
            header.checksum =
                header.calc_checksum_ipv4_raw(local.ip().octets(), peer.ip().octets(), &payload)?;
            let mut packet = header.to_bytes().to_vec();
            packet.extend_from_slice(&payload);
            match socket.send(&packet) {
                Ok(_) => sent += (packet.len() + HEADERS / 2) as u64,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => break,
                Err(error) => return Err(error.into()),
            }
            if rudeness == Rudeness::Forward {
                sequence = sequence.wrapping_add(SEGMENT as u32);
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}
