//! What is kept per flow and per client.

use crate::bucket::Limit;

/// Client to this host.
pub const UPLOAD: u32 = 0;
/// This host to the client.
pub const DOWNLOAD: u32 = 1;

/// Found open at start, not seen opening: its close is not announced by
/// `sock_ops`, the daemon looks for it.
pub const FLOW_ADOPTED: u32 = 1 << 0;
/// The scale of the window that this host offers is known (in the bits from
/// [`FLOW_SCALE_SHIFT`] on): the window can be set.
pub const FLOW_WINDOW: u32 = 1 << 1;
/// [`Flow::edge`] has been set.
pub const FLOW_EDGE: u32 = 1 << 2;
/// The socket's events reach `sock_ops`: its pacing rate is set.
pub const FLOW_PACED: u32 = 1 << 3;
/// What the entry had in an earlier table has been added to it: see
/// [`crate::control::op::MERGE`]. For flows and clients.
pub const MERGED: u32 = 1 << 31;
/// Its client found no room: the client's connections are one less.
pub const FLOW_UNCOUNTED: u32 = 1 << 4;
/// Where in the flags the window scale is (RFC 7323, 2.2): 0 to 14.
pub const FLOW_SCALE_SHIFT: u32 = 8;
/// Bits of the window scale.
pub const FLOW_SCALE_MASK: u32 = 0xf;

/// The client is held by its limit in this direction: set at the first refusal,
/// under backpressure when three quarters of the burst are used; cleared by the first packet that finds the bucket full. Shift left by the
/// direction.
pub const CLIENT_LIMITED: u32 = 1 << 0;

/// This is no remote host, but all those together that found no room: the value
/// of the map `OVERFLOW`. Its connections are those that have no flow of their
/// own.
pub const CLIENT_SHARED: u32 = 1 << 8;
/// Of the shared client: a flow found no room, and none has closed since.
pub const FULL_FLOWS: u32 = 1 << 9;
/// Of the shared client: a client found no room, and none was forgotten since.
pub const FULL_CLIENTS: u32 = 1 << 10;

/// One direction of a flow or a client. Counters only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The bucket: theoretical arrival time in ns; see [`crate::bucket`].
    pub tat: u64,
    /// Bytes that passed, from the IP header on, as they cross the wire.
    pub bytes: u64,
    /// Packets that passed, as they cross the wire.
    pub packets: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
}

impl Traffic {
    /// A full bucket that nothing has passed.
    pub const NEW: Self = Self {
        tat: 0,
        bytes: 0,
        packets: 0,
        dropped_bytes: 0,
        dropped_packets: 0,
    };
}

/// A connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Indexed by [`UPLOAD`] and [`DOWNLOAD`].
    pub traffic: [Traffic; 2],
    /// When the handshake completed (UDP: the first packet), ktime in ns.
    pub created: u64,
    /// When the last packet came or went, ktime in ns.
    pub last_seen: u64,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// The policy generation whose flow limit the buckets were last charged by.
    pub generation: u32,
    /// What the flow took of the client's limit; see [`crate::share`].
    pub share: [u64; 2],
    /// The first sequence number that the client may not send yet: the right
    /// edge of the window on the wire.
    pub edge: u32,
    /// The furthest that the edge ever was: it falls back when a limit comes
    /// upon an open connection.
    pub honoured: u32,
    /// Smoothed round trip in eighths of a microsecond, as the socket last said.
    pub srtt: u32,
    /// Payload of a full segment, as the socket last said; 0: not known.
    pub segment: u16,
    /// Segments that the socket may have in flight, as it was last told; 0: it
    /// was not, or may have any number.
    pub in_flight: u16,
    /// Limits of this flow alone beside those of its class, as the daemon last
    /// set them. Indexed by [`UPLOAD`] and [`DOWNLOAD`].
    pub own: [Limit; 2],
}

impl Flow {
    /// Nothing has passed, and nothing is known.
    pub const NEW: Self = Self {
        traffic: [Traffic::NEW; 2],
        created: 0,
        last_seen: 0,
        flags: 0,
        generation: 0,
        share: [0; 2],
        edge: 0,
        honoured: 0,
        srtt: 0,
        segment: 0,
        in_flight: 0,
        own: [Limit::NONE; 2],
    };
}

/// A remote host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Indexed by [`UPLOAD`] and [`DOWNLOAD`].
    pub traffic: [Traffic; 2],
    /// Nanoseconds spent held by the limit, per direction: from when
    /// [`CLIENT_LIMITED`] is set until the bucket is full again, which is the debt
    /// at that moment and what
    /// the packets admitted since cost.
    pub held: [u64; 2],
    /// When the last packet came or went, ktime in ns.
    pub last_seen: u64,
    /// Index of the client's class within its generation. The kernel reads and
    /// writes it together with `generation`, as one word. Of the shared client,
    /// which has no class: the generation that it was last charged by.
    pub class: u32,
    /// The policy generation that `class` belongs to; 0 of the shared client.
    pub generation: u32,
    /// Open TCP connections.
    pub connections: u32,
    /// `CLIENT_*` bits.
    pub flags: u32,
    /// How many flows are active; see [`crate::share`].
    pub active: u64,
}

impl Client {
    /// Nothing has passed, and nothing is known.
    pub const NEW: Self = Self {
        traffic: [Traffic::NEW; 2],
        held: [0; 2],
        last_seen: 0,
        class: 0,
        generation: 0,
        connections: 0,
        flags: 0,
        active: 0,
    };
}

const _: () = assert!(size_of::<Traffic>() == 40);
const _: () = assert!(size_of::<Flow>() == 168);
const _: () = assert!(size_of::<Client>() == 128);
const _: () = assert!(core::mem::offset_of!(Client, class) % 8 == 0);
const _: () =
    assert!(core::mem::offset_of!(Client, generation) == core::mem::offset_of!(Client, class) + 4);

/// A flow and its client while they are made: too large for the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// The flow.
    pub flow: Flow,
    /// Its client, where that is new too.
    pub client: Client,
}

/// What a handshake moved before its flow existed, per direction: kept in a
/// small LRU and moved into the flow when the handshake completes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Bytes, indexed by [`UPLOAD`] and [`DOWNLOAD`].
    pub bytes: [u64; 2],
    /// Packets, indexed by [`UPLOAD`] and [`DOWNLOAD`].
    pub packets: [u64; 2],
    /// Flags for the flow, from the SYN-ACK: [`FLOW_WINDOW`], [`FLOW_EDGE`] and
    /// the scale.
    pub flags: u32,
    /// As [`Flow::edge`].
    pub edge: u32,
}
