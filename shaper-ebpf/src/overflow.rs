//! Connections that found no room for a flow: held with their client, or with
//! all others where that found none either, by the hard limit alone.
//!
//! A packet without a flow belongs to such a connection only if there is a socket
//! for it: a source that never completed a handshake is charged to nobody, and a
//! flood of them takes nothing from those that did. The sockets are looked for
//! only while `sock_ops` knows of connections without a flow.

use crate::Verdict;
use crate::atomic::add;
use crate::charge;
use crate::client;
use crate::policy::observes;
use crate::report::count;
use crate::shield;
use crate::traffic::{Hop, Size, add_to, count_flow};
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_release, bpf_tcp_sock,
};
use aya_ebpf::programs::TcContext;
use shaper_common::class::CLASS_BLOCK;
use shaper_common::flow::{Client, Flow, Traffic, UPLOAD};
use shaper_common::key::{FlowKey, is_v4};
use shaper_common::stats::Stat;

/// `BPF_F_CURRENT_NETNS`: the one of the packet's device.
const CURRENT_NETNS: u64 = -1_i32 as u64;
/// The kernel's socket states (`BPF_TCP_*`) in which the handshake is done and the
/// socket not closed.
const OPEN: u32 = 1 << 1 // ESTABLISHED
    | 1 << 4 // FIN_WAIT1
    | 1 << 5 // FIN_WAIT2
    | 1 << 8 // CLOSE_WAIT
    | 1 << 9 // LAST_ACK
    | 1 << 11; // CLOSING

/// What becomes of a packet without a flow; `None` where no connection is known
/// to be without one, or it has no connection.
#[inline(always)]
pub fn packet<const DIR: usize>(ctx: &TcContext, hop: &Hop<'_>) -> Option<Verdict> {
    let shared = client::shared()?;
    // SAFETY: a live map value, an aligned word.
    if unsafe { core::ptr::read_volatile(&raw const (*shared).connections) } == 0 {
        return None;
    }
    let state = if DIR == UPLOAD as usize {
        receiver(ctx, hop.key)
    } else {
        sender(ctx)
    };
    if state > 11 || 1 << state & OPEN == 0 {
        return None;
    }
    let client = client::of_tcp(&hop.sent.key, hop.sent.now, true).unwrap_or(shared);
    let verdict = charge::<DIR>(hop, client);
    if verdict == Verdict::Pass {
        count(Stat::OverflowPackets, hop.sent.size.packets);
        count(Stat::OverflowBytes, hop.sent.size.bytes);
    }
    Some(verdict)
}

/// A packet of a flow whose client found no room.
#[inline(never)]
pub fn shared<const DIR: usize>(hop: &Hop<'_>, flow: *mut Flow) -> Verdict {
    let Some(shared) = client::shared() else {
        return Verdict::Pass;
    };
    let verdict = charge::<DIR>(hop, shared);
    if verdict == Verdict::Pass {
        count_flow::<DIR>(flow, hop);
    } else {
        // SAFETY: a live map value.
        unsafe { drop_from(&raw mut (*flow).traffic[DIR], hop.sent.size) };
    }
    verdict
}

/// The state of the socket that a packet is for; 0 without one. It may be the
/// listening one.
#[inline(never)]
fn receiver(ctx: &TcContext, key: &FlowKey) -> u32 {
    // `struct bpf_sock_tuple`: addresses, then both ports.
    let (source, destination) = (key.client_port.to_be(), key.local_port.to_be());
    let ports = u32::from(source) | u32::from(destination) << 16;
    let (a, b) = (&key.client, &key.local);
    let mut tuple = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], ports];
    let mut words = 9;
    if is_v4(a) {
        words = 3;
        (tuple[0], tuple[1], tuple[2]) = (a[3], b[3], ports);
    }
    // SAFETY: `skb` is the program's context, and the tuple as long as said. What
    // the lookup returns is released.
    unsafe {
        let skb = ctx.skb.skb.cast();
        let tuple = (&raw mut tuple).cast();
        let socket = bpf_sk_lookup_tcp(skb, tuple, words * 4, CURRENT_NETNS, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// The state of the TCP socket that sends a packet; 0 without one.
#[inline(always)]
fn sender(ctx: &TcContext) -> u32 {
    // SAFETY: `skb` is the program's context; the helpers take what they return,
    // checked against null.
    unsafe {
        let mut socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return 0;
        }
        socket = bpf_sk_fullsock(socket);
        if socket.is_null() || bpf_tcp_sock(socket).is_null() {
            return 0;
        }
        (*socket).state
    }
}

/// Counts and charges a packet to its client alone. A function of its own for the
/// stack's sake.
#[inline(never)]
pub fn charge<const DIR: usize>(hop: &Hop<'_>, client: *mut Client) -> Verdict {
    charge_here::<DIR>(hop, client)
}

/// The same where one call more would be too deep: kernels before 6.6 count 32
/// bytes of stack for the smallest, and 512 are all there is.
#[inline(always)]
pub fn charge_here<const DIR: usize>(hop: &Hop<'_>, client: *mut Client) -> Verdict {
    if let Some(class) = client::class_of(hop.policy, &hop.sent.key, client) {
        let observed = observes(hop.settings);
        let blocked = DIR == UPLOAD as usize && class.flags & CLASS_BLOCK != 0;
        if blocked || !charge::client(client, class, &hop.sent) {
            if !observed {
                if blocked {
                    shield::blocked(&hop.sent.key, hop.sent.now);
                } else {
                    count(Stat::LimitedPackets, hop.sent.size.packets);
                    count(Stat::LimitedBytes, hop.sent.size.bytes);
                }
                // SAFETY: a live map value.
                unsafe { drop_from(&raw mut (*client).traffic[DIR], hop.sent.size) };
                return Verdict::Drop;
            }
            count(Stat::ObservedPackets, hop.sent.size.packets);
            count(Stat::ObservedBytes, hop.sent.size.bytes);
        }
    }
    // SAFETY: `client` is a live map value; for `last_seen` see `Hop::limit`.
    unsafe {
        add_to(&raw mut (*client).traffic[DIR], hop.sent.size);
        (*client).last_seen = hop.sent.now;
    }
    Verdict::Pass
}

/// # Safety
/// `traffic` points into a live map value.
#[inline(always)]
unsafe fn drop_from(traffic: *mut Traffic, size: Size) {
    // SAFETY: by this function's contract; the words are aligned.
    unsafe {
        add(&raw mut (*traffic).dropped_bytes, size.bytes);
        add(&raw mut (*traffic).dropped_packets, size.packets);
    }
}
