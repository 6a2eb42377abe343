//! Events: what the kernel tells the daemon through the ring buffer.

use crate::key::Addr;

/// What happened. Numbers, because the kernel writes them into [`Event::kind`].
pub mod kind {
    /// The client is held by its limit; see [`crate::flow::CLIENT_LIMITED`].
    pub const LIMITED: u32 = 1;
    /// The client's bucket has recovered.
    pub const RELEASED: u32 = 2;
    /// A packet of a blocked client was dropped.
    pub const BLOCKED: u32 = 3;
    /// A SYN above the client's connection rate was dropped.
    pub const CONNECTION_RATE: u32 = 4;
    /// A SYN of a client at its number of connections was dropped.
    pub const MAX_CONNECTIONS: u32 = 5;
    /// A map was full: the connection is held with its client, or its client by
    /// the bucket that all those share which found no room.
    pub const TABLE_FULL: u32 = 6;
}

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// ktime in ns.
    pub at: u64,
    /// The client, or the whole address where no client is known.
    pub client: Addr,
    /// One of [`kind`].
    pub kind: u32,
    /// [`crate::flow::UPLOAD`] or [`crate::flow::DOWNLOAD`], where it matters.
    pub direction: u32,
}

const _: () = assert!(size_of::<Event>() == 32);

/// Events a second that the kernel sends at most, and at once after silence.
pub const EVENTS_PER_SEC: u64 = 200;

/// A sender that waits for a larger window: the acknowledgement that it got, to
/// be sent again when there is one (a window update; RFC 9293, 3.8.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowUpdate {
    /// When, ktime in ns.
    pub due: u64,
    /// The interface that the acknowledgement left by.
    pub ifindex: u32,
    /// Bytes of it.
    pub len: u32,
    /// The acknowledgement with the kernel's window, from the Ethernet header
    /// on. Its checksum may not be there yet.
    pub packet: [u8; UPDATE_BYTES],
}

/// Most bytes of an acknowledgement: Ethernet, IPv6, TCP with all options, and
/// some.
pub const UPDATE_BYTES: usize = 128;

const _: () = assert!(size_of::<WindowUpdate>() == 144);
