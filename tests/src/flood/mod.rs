//! A flood of packets from addresses that nobody has, and those whom it must not
//! hurt.

pub mod scene;

use crate::lab::{INTERFACE, Lab, PORT, PROXY_V4};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpHeader,
};
use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Ethernet addresses of client and proxy, as the lab sets them.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 0x0c], [2, 0, 0, 0, 0, 1]);
/// Frames a call: fewer than a veth has room for.
const BATCH: u64 = 32;

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks for a connection.
    Syn,
    /// Belongs to none.
    Ack,
    /// Ends one that is not there.
    Rst,
    /// A datagram.
    Udp,
    /// The middle of a packet.
    Fragment,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Syn, Self::Ack, Self::Rst, Self::Udp, Self::Fragment];

    /// What a table calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::Ack => "ACK",
            Self::Rst => "RST",
            Self::Udp => "UDP",
            Self::Fragment => "fragment",
        }
    }

    /// Packet `n` to the watched port, each of another source.
    ///
    /// # Errors
    /// When it does not fit a packet.
    pub fn frame(self, n: u64) -> Result<Vec<u8>> {
        let [a, b, c, d, e, f, g, h] = mix(n).to_be_bytes();
        // Not of the lab, not loopback, not multicast.
        let source = [20 + a % 100, b, c, d];
        let port = 1024 | u16::from_be_bytes([e, f]);
        let IpAddr::V4(to) = PROXY_V4 else {
            anyhow::bail!("the proxy has no IPv4 address")
        };
        let protocol = if self == Self::Udp {
            IpNumber::UDP
        } else {
            IpNumber::TCP
        };
        let mut ip = Ipv4Header::new(0, 64, protocol, source, to.octets())?;
        ip.identification = u16::from_be_bytes([g, h]);
        ip.dont_fragment = false;
        if self == Self::Fragment {
            ip.fragment_offset = IpFragOffset::try_new(185)?;
            ip.more_fragments = true;
        }
        let step = PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()));
        let mut frame = Vec::with_capacity(80);
        if self == Self::Udp {
            step.udp(port, PORT).write(&mut frame, &[0x55; 16])?;
            return Ok(frame);
        }
        let mut tcp = TcpHeader::new(port, PORT, n as u32, 64_000);
        tcp.syn = self == Self::Syn;
        tcp.rst = self == Self::Rst;
        tcp.ack = matches!(self, Self::Ack | Self::Fragment);
        step.tcp_header(tcp).write(&mut frame, &[])?;
        Ok(frame)
    }
}

/// Another number for each number (splitmix64), so that every run has the same
/// sources in the same order.
const fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Has the proxy answer those sources: into the client's namespace, which takes
/// nothing for them.
///
/// # Errors
/// When the route cannot be set.
pub fn answer(lab: &Lab) -> Result<()> {
    lab.proxy.ip(&format!(
        "route add default via {} dev {INTERFACE}",
        Ipv4Addr::new(10, 77, 0, 10)
    ))?;
    lab.client.sysctl("ipv4/ip_forward", "0")
}

fn socket(namespace: &Namespace) -> Result<Socket> {
    namespace.enter(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let name = CString::new(INTERFACE)?;
        // SAFETY: the name is a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        anyhow::ensure!(index != 0, "no interface {INTERFACE}");
        // SAFETY: what is written is a whole sockaddr_ll, and the length is its.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let address = storage.cast::<libc::sockaddr_ll>();
                (*address).sll_family = libc::AF_PACKET as u16;
                (*address).sll_ifindex = index.cast_signed();
                *length = size_of::<libc::sockaddr_ll>() as u32;
                Ok(())
            })
        }?;
        socket
            .bind(&address)
            .context("cannot bind to the interface")?;
        Ok(socket)
    })
}

/// Sends so many packets, each of another source, at a rate in packets a second
/// that is kept on average. Returns how long it took.
///
/// # Errors
/// When the kernel refuses to send.
pub fn send(lab: &Lab, kind: Kind, packets: u64, rate: u64) -> Result<Duration> {
    let socket = socket(&lab.client)?;
    let started = Instant::now();
    let mut sent = 0;
    while sent < packets {
        let frames: Vec<_> = (sent..(sent + BATCH).min(packets))
            .map(|n| kind.frame(n))
            .collect::<Result<_>>()?;
        batch(&socket, &frames)?;
        sent += frames.len() as u64;
        let due = Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
        if let Some(early) = due.checked_sub(started.elapsed())
            && early > Duration::from_micros(100)
        {
            sleep(early);
        }
    }
    Ok(started.elapsed())
}

fn batch(socket: &Socket, frames: &[Vec<u8>]) -> Result<()> {
    let mut vectors: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: mmsghdr is plain data, for which zero is valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut sent = 0;
    while let Some(rest) = messages.get_mut(sent..)
        && !rest.is_empty()
    {
        // SAFETY: every message points to a frame that lives through the call; the
        // kernel only reads them.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match Errno::result(count) {
            Ok(count) => sent += count as usize,
            Err(Errno::EINTR | Errno::ENOBUFS | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("sending a flood"),
        }
    }
    Ok(())
}
