//! The packet parser of the kernel programs: the very source, compiled for this
//! machine, against another parser.
//!
//! The crate root has to say `extern crate self as aya_ebpf; use packet::{bindings,
//! helpers, programs};`. The real `aya_ebpf` brings a `memcpy` of its own to every program.

use bindings::{__sk_buff, xdp_md};
use etherparse::{
    LaxNetSlice, LaxSlicedPacket, LinkExtSlice, NetSlice, SlicedPacket, TcpOptionElement,
    TransportSlice,
};
use parser::{Packet, Stop};
use programs::{Buffer, TcContext, XdpContext};
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use shaper_common::key::{Addr, TCP, UDP, map_v4};

#[allow(
    dead_code,
    clippy::unnecessary_cast,
    reason = "what only a kernel program calls, and its narrower fields"
)]
#[path = "../../shaper-ebpf/src/packet.rs"]
mod parser;

/// What the parser's source takes from aya; nothing of it is called.
pub mod helpers {
    pub mod generated {
        use std::ffi::c_void;

        pub unsafe fn bpf_skb_load_bytes(_: *const c_void, _: u32, _: *mut c_void, _: u32) -> i64 {
            -1
        }

        use super::super::bindings::__sk_buff;

        pub unsafe fn bpf_skb_store_bytes(
            _: *mut __sk_buff,
            _: u32,
            _: *const c_void,
            _: u32,
            _: u64,
        ) -> i64 {
            -1
        }

        pub unsafe fn bpf_l4_csum_replace(
            _: *mut __sk_buff,
            _: u32,
            _: u64,
            _: u64,
            _: u64,
        ) -> i64 {
            -1
        }
    }
}

/// The contexts, as far as the parser reads them; the kernel's have 32-bit fields,
/// which its verifier makes pointers of.
#[allow(non_camel_case_types, reason = "the kernel's names")]
pub mod bindings {
    pub struct __sk_buff {
        pub data: usize,
        pub data_end: usize,
    }

    pub struct xdp_md {
        pub data: usize,
        pub data_end: usize,
    }
}

/// Likewise.
pub mod programs {
    use super::bindings::{__sk_buff, xdp_md};

    pub struct TcContext {
        pub skb: Buffer,
    }

    pub struct Buffer {
        pub skb: *mut __sk_buff,
    }

    pub struct XdpContext {
        pub ctx: *mut xdp_md,
    }
}

/// Options that the parser looks through.
const OPTIONS: usize = 12;
/// Extension headers that it looks through.
const EXTENSIONS: usize = 6;

/// Checks one packet, from its Ethernet header on.
///
/// # Panics
/// When something does not hold.
pub fn packet(data: &[u8]) {
    // The kernel's buffers begin at even addresses too.
    let mut buffer = vec![0_u16; data.len().div_ceil(2)];
    for (to, from) in buffer.iter_mut().zip(data.chunks(2)) {
        *to = u16::from_ne_bytes([from[0], from.get(1).copied().unwrap_or(0)]);
    }
    let start = buffer.as_ptr().expose_provenance();
    let end = start + data.len();
    let (mut up, mut down, mut early) = (Packet::default(), Packet::default(), Packet::default());
    let mut skb = __sk_buff {
        data: start,
        data_end: end,
    };
    let mut xdp = xdp_md {
        data: start,
        data_end: end,
    };
    let tc = TcContext {
        skb: Buffer { skb: &raw mut skb },
    };
    let read = parser::of_skb::<{ UPLOAD as usize }>(&tc, &mut up);
    let again = parser::of_skb::<{ DOWNLOAD as usize }>(&tc, &mut down);
    assert!(read == again, "one direction is read otherwise");
    let ctx = XdpContext { ctx: &raw mut xdp };
    let again = parser::of_xdp(&ctx, &mut early);
    assert!(read == again, "XDP reads it otherwise");
    if read.is_ok() {
        assert!(up.key == early.key, "XDP reads another flow");
        mirrored(&up, &down);
        consistent(&up, data);
    }
    compare(read, &up, data);
    if let Some(scale) = scale_of(data)
        && read.is_ok()
        && up.transport < 256
    {
        assert_eq!(parser::window_scale(start, end, up.transport), scale);
    }
    for transport in [0, 14, 254] {
        assert!(parser::window_scale(start, end, transport) <= 14);
    }
}

fn mirrored(up: &Packet, down: &Packet) {
    assert_eq!(up.key.client, down.key.local);
    assert_eq!(up.key.local, down.key.client);
    assert_eq!(up.key.client_port, down.key.local_port);
    assert_eq!(up.key.local_port, down.key.client_port);
    assert_eq!(
        (up.offset, up.len, up.headers, up.transport, up.flags),
        (
            down.offset,
            down.len,
            down.headers,
            down.transport,
            down.flags
        )
    );
}

fn consistent(packet: &Packet, data: &[u8]) {
    assert!(matches!(packet.key.protocol, TCP | UDP));
    assert!((14..=22 + 8).contains(&packet.offset) && packet.offset.is_multiple_of(2));
    assert!(packet.transport as usize <= data.len());
    assert!(packet.len == 0 || packet.len >= packet.headers);
    assert!(packet.headers >= if packet.later_fragment { 20 } else { 28 });
    if packet.later_fragment {
        assert_eq!((packet.key.client_port, packet.key.local_port), (0, 0));
    }
}

/// What the other parser makes of the same bytes.
fn compare(read: Result<(), Stop>, packet: &Packet, data: &[u8]) {
    // Whole and right: then it is read here too.
    if let Ok(other) = SlicedPacket::from_ethernet(data)
        && let Some(ports) = other.transport.as_ref().and_then(ports)
        && known_tags(data, &other.link_exts)
        && let Some(addresses) = other.net.as_ref().and_then(addresses)
    {
        assert!(read.is_ok(), "not read");
        same(packet, addresses, ports);
    }
    // Read here: then so it is there, as far as that goes.
    if read.is_ok()
        && !packet.later_fragment
        && let Ok(other) = LaxSlicedPacket::from_ethernet(data)
        && let Some(ports) = other.transport.as_ref().and_then(ports)
        && let Some(addresses) = other.net.as_ref().and_then(lax_addresses)
    {
        same(packet, addresses, ports);
    }
}

fn same(packet: &Packet, [source, destination]: [Addr; 2], (protocol, from, to): (u8, u16, u16)) {
    let key = &packet.key;
    assert_eq!((key.client, key.local), (source, destination));
    assert_eq!(
        (key.protocol, key.client_port, key.local_port),
        (protocol, from, to)
    );
}

/// Whether the tags are at most two, of the standards' types: the other parser
/// takes 0x9100 too, which the kernel does not.
fn known_tags(data: &[u8], tags: &[LinkExtSlice<'_>]) -> bool {
    (0..).zip(tags).all(|(nth, tag)| {
        let known = |at: usize| matches!(data.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
        nth < 2 && matches!(tag, LinkExtSlice::Vlan(_)) && known(12 + 4 * nth)
    })
}

fn ports(transport: &TransportSlice<'_>) -> Option<(u8, u16, u16)> {
    match transport {
        TransportSlice::Tcp(tcp) => Some((TCP, tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((UDP, udp.source_port(), udp.destination_port())),
        _ => None,
    }
}

fn v4([source, destination]: [[u8; 4]; 2]) -> [Addr; 2] {
    [source, destination].map(|octets| map_v4(u32::from_ne_bytes(octets)))
}

fn v6(addresses: [[u8; 16]; 2]) -> [Addr; 2] {
    // In network byte order.
    addresses.map(|o| {
        [0, 4, 8, 12].map(|at| u32::from_ne_bytes([o[at], o[at + 1], o[at + 2], o[at + 3]]))
    })
}

/// `None` for what is not looked through here: authentication in IPv4, and more
/// extension headers than there are.
fn addresses(net: &NetSlice<'_>) -> Option<[Addr; 2]> {
    match net {
        NetSlice::Ipv4(ip) if ip.extensions().auth.is_none() => {
            Some(v4([ip.header().source(), ip.header().destination()]))
        }
        NetSlice::Ipv6(ip) if ip.extensions().clone().into_iter().count() <= EXTENSIONS => {
            Some(v6([ip.header().source(), ip.header().destination()]))
        }
        _ => None,
    }
}

fn lax_addresses(net: &LaxNetSlice<'_>) -> Option<[Addr; 2]> {
    match net {
        LaxNetSlice::Ipv4(ip) => Some(v4([ip.header().source(), ip.header().destination()])),
        LaxNetSlice::Ipv6(ip) => Some(v6([ip.header().source(), ip.header().destination()])),
        LaxNetSlice::Arp(_) => None,
    }
}

/// The window scale option, where the other parser comes to it.
fn scale_of(data: &[u8]) -> Option<u32> {
    let packet = SlicedPacket::from_ethernet(data).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return None;
    };
    for option in tcp.options_iterator().take(OPTIONS) {
        if let TcpOptionElement::WindowScale(scale) = option.ok()? {
            return Some(u32::from(scale).min(14));
        }
    }
    None
}
