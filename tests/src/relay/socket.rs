//! Packet sockets (packet(7)), many frames a call.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_void};
use nix::poll::{PollFd, PollFlags, ppoll};
use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::Duration;

/// Frames a call.
pub const BATCH: usize = 64;
/// Room for a frame; offloads are off, so none is longer than the MTU.
const ROOM: usize = 2048;
/// Room in front of a frame: for the VLAN tag that the kernel took out, and
/// for two more.
const HEADROOM: usize = 12;
const CONTROL: usize = 128;
const BUFFER_BYTES: c_int = 64 << 20;

/// Not in libc: include/uapi/linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// A frame, and where it begins in its buffer.
pub struct Frame {
    buffer: Box<[u8; ROOM]>,
    start: usize,
    end: usize,
}

impl Frame {
    fn new() -> Self {
        Self {
            buffer: Box::new([0; ROOM]),
            start: HEADROOM,
            end: HEADROOM,
        }
    }

    /// From the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Puts a tag behind the addresses, outside any that is there.
    pub fn push_tag(&mut self, tpid: u16, tci: u16) {
        let Some(start) = self.start.checked_sub(4) else {
            return;
        };
        self.buffer.copy_within(self.start..self.start + 12, start);
        let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
        if let Some(room) = self.buffer.get_mut(start + 12..start + 16) {
            room.copy_from_slice(&tag);
        }
        self.start = start;
    }
}

/// CLOCK_REALTIME in ns, the clock of packet timestamps.
pub fn realtime() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

/// A raw packet socket on one interface.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Receives every frame that arrives at the interface.
    pub fn receiver(interface: &str) -> Result<Self> {
        let socket = Self::open(interface, libc::ETH_P_ALL as u16)?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES)?;
        socket.option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        socket.option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        Ok(socket)
    }

    /// Sends frames as they are.
    pub fn sender(interface: &str) -> Result<Self> {
        let socket = Self::open(interface, 0)?;
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_BYTES)?;
        Ok(socket)
    }

    fn open(interface: &str, protocol: u16) -> Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: the name is a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        anyhow::ensure!(index != 0, "no interface {interface}");
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; protocol 0 receives nothing until it is bound.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        let raw = Errno::result(raw).context("cannot open a packet socket")?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(raw) });
        // SAFETY: sockaddr_ll is plain data, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address is of the length given.
        let bound = unsafe {
            libc::bind(
                raw,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        Errno::result(bound).with_context(|| format!("cannot bind to {interface}"))?;
        Ok(socket)
    }

    fn option(&self, level: c_int, name: c_int, value: c_int) -> Result<()> {
        // SAFETY: the value is an int of the length given.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<c_int>() as u32,
            )
        };
        Errno::result(result).with_context(|| format!("cannot set packet option {name}"))?;
        Ok(())
    }

    /// Whether a frame is there before the time is over.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut set = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut set, Some(timeout.into()), None).is_ok_and(|ready| ready > 0)
    }

    /// Frames that did not fit the receive buffer since the last call.
    pub fn drops(&self) -> u64 {
        // SAFETY: tpacket_stats is plain data, for which zero is valid.
        let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: the kernel writes at most `length` bytes to the struct.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            u64::from(stats.tp_drops)
        } else {
            0
        }
    }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Buffers for one receiving call, and spare ones.
pub struct Batch {
    frames: Vec<Frame>,
    spare: Vec<Frame>,
    control: Vec<Control>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            frames: (0..BATCH).map(|_| Frame::new()).collect(),
            spare: Vec::new(),
            control: vec![Control([0; CONTROL]); BATCH],
        }
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, frame: Frame) {
        if self.spare.len() < 4096 {
            self.spare.push(frame);
        }
    }

    /// The frames that are there, each with the time of its arrival; `None`
    /// for one that was longer than an MTU.
    pub fn receive(&mut self, socket: &PacketSocket) -> Result<Vec<(Option<Frame>, u64)>> {
        let mut vectors: Vec<libc::iovec> = self
            .frames
            .iter_mut()
            .map(|frame| libc::iovec {
                // SAFETY: HEADROOM is within the buffer.
                iov_base: unsafe { frame.buffer.as_mut_ptr().add(HEADROOM) }.cast::<c_void>(),
                iov_len: ROOM - HEADROOM,
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.control)
            .map(|(vector, control)| message(vector, Some(control)))
            .collect();
        // SAFETY: every message points to buffers that live through the call
        // and are as long as it says.
        let count = unsafe {
            libc::recvmmsg(
                socket.0.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = match Errno::result(count) {
            Ok(count) => count as usize,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let now = realtime();
        let mut received = Vec::with_capacity(count);
        for (index, message) in messages.iter().take(count).enumerate() {
            let new = self.spare.pop().unwrap_or_else(Frame::new);
            let Some(slot) = self.frames.get_mut(index) else {
                break;
            };
            let mut frame = std::mem::replace(slot, new);
            frame.start = HEADROOM;
            frame.end = HEADROOM + message.msg_len as usize;
            let (arrived, tag) = metadata(&message.msg_hdr);
            if let Some((tpid, tci)) = tag {
                // The kernel took it out of the frame on receipt.
                frame.push_tag(tpid, tci);
            }
            // A timestamp from before the clock was set is of no use.
            let arrived = arrived
                .filter(|at| *at <= now && now - at < 1_000_000_000)
                .unwrap_or(now);
            let whole = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            received.push((whole.then_some(frame), arrived));
        }
        Ok(received)
    }
}

/// Sends frames in order; returns how many the kernel took.
pub fn send(socket: &PacketSocket, frames: &[Frame]) -> usize {
    let mut vectors: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec {
            iov_base: frame.bytes().as_ptr().cast_mut().cast::<c_void>(),
            iov_len: frame.bytes().len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| message(vector, None))
        .collect();
    let mut sent = 0;
    while sent < messages.len() {
        let Some(rest) = messages.get_mut(sent..) else {
            break;
        };
        // SAFETY: every message points to a frame that lives through the
        // call; the kernel only reads them.
        let count = unsafe {
            libc::sendmmsg(
                socket.0.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as u32,
                0,
            )
        };
        match Errno::result(count) {
            Ok(count) => sent += count as usize,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    sent
}

fn message(vector: &mut libc::iovec, control: Option<&mut Control>) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data, for which zero is valid.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    if let Some(control) = control {
        message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = CONTROL;
    }
    message
}

/// Arrival in ns and the VLAN tag (TPID, TCI), where the kernel says so.
fn metadata(header: &libc::msghdr) -> (Option<u64>, Option<(u16, u16)>) {
    let (mut arrived, mut tag) = (None, None);
    // SAFETY: the kernel filled the control buffer, CMSG_* stay within it, and
    // each record is as long as its type says; reads are unaligned.
    unsafe {
        let mut record = libc::CMSG_FIRSTHDR(header);
        while !record.is_null() {
            let data = libc::CMSG_DATA(record);
            match ((*record).cmsg_level, (*record).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = ptr::read_unaligned(data.cast::<libc::timespec>());
                    arrived = Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let aux = ptr::read_unaligned(data.cast::<libc::tpacket_auxdata>());
                    if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                        tag = Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
                    }
                }
                _ => {}
            }
            record = libc::CMSG_NXTHDR(header, record);
        }
    }
    (arrived, tag)
}
