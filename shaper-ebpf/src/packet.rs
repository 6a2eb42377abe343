//! Parsing: the only place that touches packet memory.
//!
//! Ethernet, up to two VLAN tags in the packet (IEEE 802.1Q and 802.1ad; the
//! kernel has taken the outer one already where the device strips it), IPv4
//! with options and fragments (RFC 791), IPv6 with extension headers (RFC
//! 8200), TCP (RFC 9293) and UDP (RFC 768).

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem::offset_of;
use shaper_common::control::Control;
use shaper_common::flow::DOWNLOAD;
use shaper_common::key::{Addr, FlowKey, TCP, UDP, map_v4};

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// Extension headers looked through; RFC 8200 knows five, each once but one.
const MAX_EXTENSIONS: usize = 6;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_WINDOW_SCALE: u8 = 3;
/// Options looked through; Linux sends at most six, padding included.
const MAX_TCP_OPTIONS: usize = 12;

/// TCP FIN.
pub const FIN: u8 = 0x01;
/// TCP SYN.
pub const SYN: u8 = 0x02;
/// TCP RST.
pub const RST: u8 = 0x04;
/// TCP ACK.
pub const ACK: u8 = 0x10;

/// Bytes that the longest headers take that are looked at: what a packet whose
/// head is scattered is pulled together to.
pub const HEAD: u32 = 192;

/// Why a packet could not be read to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not IP, or neither TCP nor UDP: not ours.
    Foreign,
    /// The headers end early.
    Truncated,
    /// The headers contradict themselves.
    Malformed,
}

impl Stop {
    const DONE: u32 = 0;
    const FOREIGN: u32 = 1;
    const TRUNCATED: u32 = 2;

    /// For a function that returns a number.
    #[inline(always)]
    const fn code(result: Result<(), Self>) -> u32 {
        match result {
            Ok(()) => Self::DONE,
            Err(Self::Foreign) => Self::FOREIGN,
            Err(Self::Truncated) => Self::TRUNCATED,
            Err(Self::Malformed) => 3,
        }
    }

    #[inline(always)]
    const fn of(code: u32) -> Result<(), Self> {
        match code {
            Self::DONE => Ok(()),
            Self::FOREIGN => Err(Self::Foreign),
            Self::TRUNCATED => Err(Self::Truncated),
            _ => Err(Self::Malformed),
        }
    }
}

/// What the headers say, from this host's point of view. Aligned to words, or the
/// compiler clears it by a loop over its bytes, which takes longer than all of
/// the parsing.
#[repr(C, align(8))]
#[derive(Default)]
pub struct Packet {
    /// The flow; without ports in a later fragment.
    pub key: FlowKey,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// A fragment other than the first: it has no ports.
    pub later_fragment: bool,
    /// Where the IP header starts in the packet.
    pub offset: u32,
    /// Length by the IP header, header included; 0 in a jumbo aggregate.
    pub len: u32,
    /// Bytes of IP and transport headers.
    pub headers: u32,
    /// Where the transport header starts in the packet.
    pub transport: u32,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window as it stands in the header, not scaled.
    pub window: u16,
}

impl Packet {
    #[inline(always)]
    fn set_ports(&mut self, source: u16, destination: u16) {
        self.key.client_port = u16::from_be(source);
        self.key.local_port = u16::from_be(destination);
    }

    /// What was read as from the client, for a packet of this host.
    #[inline(always)]
    fn turn(&mut self) {
        let key = &mut self.key;
        core::mem::swap(&mut key.client, &mut key.local);
        core::mem::swap(&mut key.client_port, &mut key.local_port);
    }
}

/// Where the programs find a packet.
trait Buffer: Copy {
    fn cursor(self) -> Cursor;
    /// See [`extensions`].
    fn extensions(self, next: u8, offset: u32) -> u64;
}

impl Buffer for *mut __sk_buff {
    #[inline(always)]
    fn cursor(self) -> Cursor {
        // SAFETY: the program's context; the verifier checks the reads.
        let (data, data_end) = unsafe { ((*self).data as usize, (*self).data_end as usize) };
        Cursor::new(data, data_end)
    }

    #[inline(always)]
    fn extensions(self, next: u8, offset: u32) -> u64 {
        shaper_extensions(self, next.into(), offset)
    }
}

impl Buffer for *mut xdp_md {
    #[inline(always)]
    fn cursor(self) -> Cursor {
        // SAFETY: as above.
        let (data, data_end) = unsafe { ((*self).data as usize, (*self).data_end as usize) };
        Cursor::new(data, data_end)
    }

    #[inline(always)]
    fn extensions(self, next: u8, offset: u32) -> u64 {
        shaper_extensions_xdp(self, next.into(), offset)
    }
}

/// A header as it stands in the packet.
///
/// # Safety
/// `repr(C, packed(2))` and integers only: every bit pattern is valid, at every
/// even address. The kernel's packet buffers begin at even addresses, and every
/// header has an even length.
unsafe trait Header {}

struct Cursor {
    start: usize,
    at: usize,
    end: usize,
}

impl Cursor {
    #[inline(always)]
    const fn new(data: usize, data_end: usize) -> Self {
        Self {
            start: data,
            at: data,
            end: data_end,
        }
    }

    /// The next `T`, in place.
    #[inline(always)]
    fn take<'a, T: Header>(&mut self) -> Result<&'a T, Stop> {
        let at = self.at;
        if at + size_of::<T>() > self.end {
            return Err(Stop::Truncated);
        }
        self.at = at + size_of::<T>();
        // SAFETY: the bytes up to `end` are the packet's, checked above (and
        // again by the verifier); a `Header` takes any bytes at an even address.
        // Nobody writes them while the program runs.
        Ok(unsafe { &*(at as *const T) })
    }

    /// Goes on by `n` bytes.
    #[inline(always)]
    fn skip(&mut self, n: usize) -> Result<(), Stop> {
        self.at += n;
        if self.at > self.end {
            return Err(Stop::Truncated);
        }
        Ok(())
    }

    #[inline(always)]
    fn offset(&self) -> u32 {
        (self.at - self.start) as u32
    }
}

#[repr(C, packed(2))]
struct Ethernet {
    addresses: [u8; 12],
    ethertype: u16,
}

#[repr(C, packed(2))]
struct Vlan {
    tci: u16,
    ethertype: u16,
}

#[repr(C, packed(2))]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C, packed(2))]
struct Ipv6 {
    version_class: u8,
    class_flow: [u8; 3],
    payload_len: u16,
    next: u8,
    hop_limit: u8,
    source: Addr,
    destination: Addr,
}

#[repr(C, packed(2))]
struct Extension {
    next: u8,
    len: u8,
    fragment: u16,
    rest: u32,
}

#[repr(C, packed(2))]
struct Tcp {
    source: u16,
    destination: u16,
    seq: u32,
    ack: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

#[repr(C, packed(2))]
struct Udp {
    source: u16,
    destination: u16,
    len: u16,
    checksum: u16,
}

/// A [`Control`] as it stands in the packet.
#[repr(C, packed(2))]
pub struct Request(pub Control);

// SAFETY: one byte, at any address.
unsafe impl Header for u8 {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Request {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Ethernet {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Vlan {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Ipv4 {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Ipv6 {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Extension {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Tcp {}
// SAFETY: packed to 2, integers only.
unsafe impl Header for Udp {}

/// The window scale that a SYN-ACK offers (RFC 7323, 2.2): 0 to 14, and 0 without
/// the option. `transport` is where its TCP header starts.
#[inline(never)]
pub fn window_scale(data: usize, data_end: usize, transport: u32) -> u32 {
    scale_option(data, data_end, transport as usize & 0xff).unwrap_or(0)
}

#[inline(always)]
fn scale_option(data: usize, data_end: usize, transport: usize) -> Option<u32> {
    let mut cursor = Cursor::new(data, data_end);
    cursor.at += transport;
    let tcp = cursor.take::<Tcp>().ok()?;
    let mut left = (usize::from(tcp.data_offset >> 4) * 4).saturating_sub(size_of::<Tcp>());
    for _ in 0..MAX_TCP_OPTIONS {
        if left == 0 {
            return None;
        }
        let kind = *cursor.take::<u8>().ok()?;
        if kind == OPTION_END {
            return None;
        }
        left -= 1;
        if kind == OPTION_NOP {
            continue;
        }
        let len = usize::from(*cursor.take::<u8>().ok()?);
        if len < 2 || left + 1 < len {
            return None;
        }
        if kind == OPTION_WINDOW_SCALE {
            // More than 14 is taken as 14 (RFC 7323, 2.3).
            return Some(u32::from((*cursor.take::<u8>().ok()?).min(14)));
        }
        left -= len - 1;
        cursor.skip(len - 2).ok()?;
    }
    None
}

/// Writes another window into a TCP header and corrects its checksum.
#[inline(always)]
pub fn set_window(ctx: &TcContext, transport: u32, old: u16, new: u16) {
    let (window, checksum) = (
        transport + offset_of!(Tcp, window) as u32,
        transport + offset_of!(Tcp, checksum) as u32,
    );
    let (old, new) = (old.to_be(), new.to_be());
    // SAFETY: `skb` is the program's context; the helpers check the offsets. A
    // packet that can't be written is left as it is: the sum is corrected only
    // after the window was.
    unsafe {
        if bpf_skb_store_bytes(ctx.skb.skb, window, (&raw const new).cast(), 2, 0) == 0 {
            bpf_l4_csum_replace(ctx.skb.skb, checksum, old.into(), new.into(), 2);
        }
    }
}

/// Copies the first `len` bytes of a packet. `N` is a power of two.
#[inline(always)]
pub fn copy<const N: usize>(ctx: &TcContext, to: &mut [u8; N], len: u32) -> bool {
    if len as usize > N {
        return false;
    }
    // What the verifiers before 6.3 learn from a test against zero is too little:
    // this is what `len` is anyway, and never zero to them.
    let len = (len.wrapping_sub(1) & (N as u32 - 1)) + 1;
    // SAFETY: `skb` is the program's context; `to` has room for `len` bytes.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, to.as_mut_ptr().cast(), len) == 0 }
}

/// A request of the daemon, which is all that a test run's packet holds.
#[inline(always)]
pub fn control<'a>(data: usize, data_end: usize) -> Option<&'a Request> {
    let mut cursor = Cursor::new(data, data_end);
    cursor.take::<Request>().ok()
}

/// Reads the headers of a packet, which start at Ethernet.
///
/// # Errors
/// Where it stopped.
#[inline(always)]
pub fn of_skb<const DIR: usize>(ctx: &TcContext, packet: &mut Packet) -> Result<(), Stop> {
    let result = shaper_parse(ctx.skb.skb, packet);
    if DIR == DOWNLOAD as usize {
        packet.turn();
    }
    Stop::of(result)
}

/// [`of_skb`] at XDP, from the client.
///
/// # Errors
/// Where it stopped.
#[inline(always)]
pub fn of_xdp(ctx: &XdpContext, packet: &mut Packet) -> Result<(), Stop> {
    Stop::of(shaper_parse_xdp(ctx.ctx, packet))
}

// The verifier's "global functions"; see `crate::global`.

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_parse(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    // SAFETY: null, or the caller's `&mut`.
    let packet = unsafe { packet.as_mut() };
    packet.map_or(Stop::FOREIGN, |packet| Stop::code(parse(skb, packet)))
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_parse_xdp(xdp: *mut xdp_md, packet: *mut Packet) -> u32 {
    // SAFETY: null, or the caller's `&mut`.
    let packet = unsafe { packet.as_mut() };
    packet.map_or(Stop::FOREIGN, |packet| Stop::code(parse(xdp, packet)))
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_extensions(skb: *mut __sk_buff, next: u32, offset: u32) -> u64 {
    extensions(skb.cursor(), next as u8, offset)
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_extensions_xdp(xdp: *mut xdp_md, next: u32, offset: u32) -> u64 {
    extensions(xdp.cursor(), next as u8, offset)
}

#[inline(always)]
fn parse<B: Buffer>(buffer: B, packet: &mut Packet) -> Result<(), Stop> {
    let mut cursor = buffer.cursor();
    let mut ethertype = cursor.take::<Ethernet>()?.ethertype;
    for _ in 0..2 {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            ethertype = cursor.take::<Vlan>()?.ethertype;
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(&mut cursor, packet)?,
        ETHERTYPE_IPV6 => ipv6(buffer, &mut cursor, packet)?,
        _ => return Err(Stop::Foreign),
    }
    transport(&mut cursor, packet)
}

#[inline(always)]
fn ipv4(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Stop> {
    packet.offset = cursor.offset();
    let ip = cursor.take::<Ipv4>()?;
    let ihl = usize::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || ihl < size_of::<Ipv4>() {
        return Err(Stop::Malformed);
    }
    packet.len = u32::from(u16::from_be(ip.total_len));
    cursor.skip(ihl - size_of::<Ipv4>())?;
    packet.key.client = map_v4(ip.source);
    packet.key.local = map_v4(ip.destination);
    packet.key.protocol = ip.protocol;
    packet.later_fragment = u16::from_be(ip.fragment) & 0x1fff != 0;
    packet.headers = ihl as u32;
    Ok(())
}

#[inline(always)]
fn ipv6<B: Buffer>(buffer: B, cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Stop> {
    packet.offset = cursor.offset();
    let ip = cursor.take::<Ipv6>()?;
    if ip.version_class >> 4 != 6 {
        return Err(Stop::Malformed);
    }
    packet.key.client = ip.source;
    packet.key.local = ip.destination;
    packet.key.protocol = ip.next;
    packet.headers = size_of::<Ipv6>() as u32;
    let payload = u32::from(u16::from_be(ip.payload_len));
    if payload != 0 {
        packet.len = payload + size_of::<Ipv6>() as u32;
    } else if ip.next == HOP_BY_HOP {
        // BIG TCP: an option of 8 bytes that this host put in for itself, and
        // takes out before the wire.
        packet.offset += size_of::<Extension>() as u32;
        packet.headers -= size_of::<Extension>() as u32;
    }
    if let HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT = ip.next {
        let found = buffer.extensions(ip.next, cursor.offset());
        if found == CUT_SHORT {
            return Err(Stop::Truncated);
        }
        packet.later_fragment = found & LATER_FRAGMENT != 0;
        packet.key.protocol = (found >> 32) as u8;
        packet.headers += found as u32 & MOST_EXTENSIONS;
        // The verifier does not know what another function may return.
        cursor.at += (found as u32 & MOST_EXTENSIONS) as usize;
    }
    Ok(())
}

/// What [`extensions`] says of a packet that ends within them.
const CUT_SHORT: u64 = u64::MAX;
/// A fragment other than the first.
const LATER_FRAGMENT: u64 = 1 << 40;
/// The longest extension headers: six of 2,048 bytes.
const MOST_EXTENSIONS: u32 = 0x3fff;

/// All that a header's length may be, in words of 4 bytes.
const LENGTH: usize = 0xff * 4;

/// Goes through the extension headers from `offset` on, where `next` stands: how
/// long they are, the protocol from bit 32 on, and [`LATER_FRAGMENT`].
#[inline(always)]
fn extensions(mut cursor: Cursor, mut next: u8, offset: u32) -> u64 {
    cursor.at += offset as usize & 0xff;
    cursor.start = cursor.at;
    let mut later = 0;
    for _ in 0..MAX_EXTENSIONS {
        // By masks: before 6.10 the verifier knows no bound of a product of two
        // registers.
        let (once, again) = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (LENGTH, LENGTH),
            // Counted in words of 4 bytes, less 2 (RFC 4302, 2.2).
            AUTHENTICATION => (LENGTH, 0),
            FRAGMENT => (0, 0),
            _ => break,
        };
        let Ok(extension) = cursor.take::<Extension>() else {
            return CUT_SHORT;
        };
        if next == FRAGMENT && u16::from_be(extension.fragment) & 0xfff8 != 0 {
            later = LATER_FRAGMENT;
        }
        next = extension.next;
        let len = usize::from(extension.len) * 4;
        if cursor.skip((len & once) + (len & again)).is_err() {
            return CUT_SHORT;
        }
        if later != 0 {
            break;
        }
    }
    u64::from(next) << 32 | later | u64::from(cursor.offset())
}

#[inline(always)]
fn transport(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Stop> {
    if packet.later_fragment {
        if packet.key.protocol != TCP && packet.key.protocol != UDP {
            return Err(Stop::Foreign);
        }
    } else {
        match packet.key.protocol {
            TCP => {
                packet.transport = cursor.offset();
                let tcp = cursor.take::<Tcp>()?;
                let data_offset = u32::from(tcp.data_offset >> 4) * 4;
                if data_offset < size_of::<Tcp>() as u32 {
                    return Err(Stop::Malformed);
                }
                packet.set_ports(tcp.source, tcp.destination);
                packet.flags = tcp.flags;
                packet.seq = u32::from_be(tcp.seq);
                packet.ack = u32::from_be(tcp.ack);
                packet.window = u16::from_be(tcp.window);
                packet.headers += data_offset;
            }
            UDP => {
                let udp = cursor.take::<Udp>()?;
                packet.set_ports(udp.source, udp.destination);
                packet.headers += size_of::<Udp>() as u32;
            }
            _ => return Err(Stop::Foreign),
        }
    }
    if packet.len != 0 && packet.len < packet.headers {
        return Err(Stop::Malformed);
    }
    Ok(())
}
