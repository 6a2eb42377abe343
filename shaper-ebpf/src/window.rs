//! Upload backpressure: the receive window that this host offers, set in what
//! leaves it. The client's TCP slows down by itself, and nothing is dropped.
//!
//! The kernel's own window stays as large as it was; what stands on the wire is
//! the smaller of both. So nothing has to be given back when a limit goes: the
//! next segment carries the kernel's window.

use crate::atomic::set_bits;
use crate::client;
use crate::maps::{HANDSHAKES, WINDOW_UPDATES};
use crate::packet::{self, Packet};
use crate::policy::{Policy, class_limit, flow_limit, holds};
use crate::report::count;
use crate::traffic::Hop;
use crate::{global, group};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_tcp_sock};
use aya_ebpf::programs::TcContext;
use shaper_common::backpressure::{self, Leeway, Offer, Offered, SEGMENT};
use shaper_common::bucket;
use shaper_common::class::Class;
use shaper_common::event::{UPDATE_BYTES, WindowUpdate};
use shaper_common::flow::{
    Client, FLOW_EDGE, FLOW_PACED, FLOW_SCALE_MASK, FLOW_SCALE_SHIFT, FLOW_WINDOW, Flow, UPLOAD,
};
use shaper_common::share;
use shaper_common::stats::Stat;

const UP: usize = UPLOAD as usize;
/// Beyond its window a sender may go by a probe.
const PROBE: u32 = 2048;

/// What is kept of a SYN-ACK for the flow that it may become.
#[inline(always)]
pub fn of_handshake(ctx: &TcContext, hop: &Hop<'_>, packet: &Packet) {
    let Some(handshake) = HANDSHAKES.get_ptr_mut(hop.key) else {
        return;
    };
    let scale = packet::window_scale(ctx.data(), ctx.data_end(), packet.transport);
    let kernel = u32::from(packet.window);
    let window = kernel.min(initial(hop));
    // SAFETY: a live map value; one handshake is answered by one CPU at a time.
    unsafe {
        (*handshake).flags = FLOW_WINDOW | FLOW_EDGE | scale << FLOW_SCALE_SHIFT;
        (*handshake).edge = packet.ack.wrapping_add(window);
    }
    if window < kernel {
        packet::set_window(ctx, packet.transport, packet.window, window as u16);
    }
}

/// The window of a SYN-ACK, which is never scaled.
#[inline(never)]
fn initial(hop: &Hop<'_>) -> u32 {
    let mut debt = 0;
    let class = match client::find(&hop.sent.key) {
        Some(client) => {
            // SAFETY: a live map value, an aligned word.
            let tat = unsafe { core::ptr::read_volatile(&raw const (*client).traffic[0].tat) };
            debt = bucket::debt(tat, hop.sent.now);
            client::class_of(hop.policy, &hop.sent.key, client)
        }
        None => {
            let rule = Policy::rule(hop.policy.generation, &hop.sent.key);
            hop.policy.class(rule)
        }
    };
    match class {
        Some(class) if holds::<UP>(class, class_limit::<UP>(class), hop.settings) => {
            let own = backpressure::initial_window(&class.upload, debt);
            let owed =
                group::of::<UP>(class).map_or(0, |group| group::debt::<UP>(group, hop.sent.now));
            own.min(backpressure::initial_window(&class.group_upload, owed))
        }
        _ => u32::MAX,
    }
}

/// What a packet may ask of the hard limit: much where its sender stays within
/// the window it was offered, nothing where it ignores that.
#[inline(always)]
pub fn leeway<const DIR: usize>(packet: &Packet, payload: u32, flow: &Flow) -> Leeway {
    if DIR != UPLOAD as usize {
        return if flow.flags & FLOW_PACED != 0 {
            Leeway::Window
        } else {
            Leeway::None
        };
    }
    if flow.flags & FLOW_WINDOW == 0 {
        return Leeway::None;
    }
    let end = packet.seq.wrapping_add(payload);
    if flow.flags & FLOW_EDGE != 0 {
        if !after(end, flow.edge.wrapping_add(PROBE)) {
            return Leeway::Window;
        }
    } else if flow.honoured == 0 {
        // Adopted, and nothing has left yet that says what was offered.
        return Leeway::Window;
    }
    if after(end, flow.honoured) {
        Leeway::None
    } else {
        Leeway::Any
    }
}

/// Sequence numbers, modulo 2^32 (RFC 9293, 3.4).
#[inline(always)]
const fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 <= -1
}

/// Sets the window of an outgoing segment by the client's bucket; whether it did. A
/// function of its own for the stack's sake, which returns something, or the
/// verifier would find a pointer to its stack where that stands.
#[inline(never)]
pub fn offer(
    ctx: &TcContext,
    hop: &Hop<'_>,
    packet: &Packet,
    flow: *mut Flow,
    client: *mut Client,
) -> bool {
    // SAFETY: a live map value.
    let flags = unsafe { (*flow).flags };
    if flags & FLOW_WINDOW == 0
        || packet.flags & (packet::SYN | packet::RST | packet::ACK) != packet::ACK
    {
        return false;
    }
    let scale = flags >> FLOW_SCALE_SHIFT & FLOW_SCALE_MASK;
    let kernel = u32::from(packet.window) << scale;
    let mut terms = Terms {
        offer: Offer {
            granule: 1 << scale,
            ..Offer::default()
        },
        offered: Offered {
            window: u64::MAX,
            wait: 0,
        },
    };
    if flags & FLOW_EDGE != 0 {
        // SAFETY: a live map value.
        let left = unsafe { (*flow).edge }.wrapping_sub(packet.ack);
        // Behind the acknowledgement where a probe went beyond it.
        terms.offer.left = if left as i32 > 0 { left.into() } else { 0 };
    }
    let (want, wait) = if wanted(ctx, hop, &mut terms, flow, client) {
        // SAFETY: a live map value, an aligned word.
        let sent = unsafe { core::ptr::read_volatile(&raw const (*flow).traffic[0].bytes) };
        let window = terms.offered.window.min(backpressure::untried(sent));
        (window.min(kernel.into()) as u32, terms.offered.wait)
    } else {
        (kernel, 0)
    };
    // SAFETY: a live map value. A flow's segments leave one after the other.
    let edge = unsafe {
        let wanted = packet.ack.wrapping_add(want);
        let fresh = flags & FLOW_EDGE == 0;
        if fresh {
            let kernel = packet.ack.wrapping_add(kernel);
            if after(kernel, (*flow).honoured) {
                (*flow).honoured = kernel;
            }
            set_bits(&raw mut (*flow).flags, FLOW_EDGE);
        }
        if fresh || after(wanted, (*flow).edge) {
            (*flow).edge = wanted;
            if after(wanted, (*flow).honoured) {
                (*flow).honoured = wanted;
            }
        }
        (*flow).edge
    };
    let left = edge.wrapping_sub(packet.ack);
    let window = left.min(kernel) >> scale;
    // What the sender sees of it: whole units.
    if wait != 0 && window << scale < terms.offer.segment {
        client::share_flow::<UP>(flow, client, hop.sent.now, |word| {
            share::wait(word, hop.sent.now)
        });
        if let Some(class) = client::class_of(hop.policy, &hop.sent.key, client) {
            group::wait(hop, class);
        }
        // Up to a quarter later by chance: flows that wait for the same debt would
        // all find it at once, and one that comes just after them never.
        let chance = u64::from(hop.key.client_port).wrapping_mul(hop.sent.now >> 10) >> 4 & 0xff;
        update_later(ctx, packet, hop.sent.now + wait + (wait >> 10) * chance);
    }
    if window >= u32::from(packet.window) {
        return false;
    }
    packet::set_window(ctx, packet.transport, packet.window, window as u16);
    true
}

/// Asks the daemon to send this acknowledgement again.
#[inline(never)]
fn update_later(ctx: &TcContext, packet: &Packet, due: u64) {
    let len = ctx.len();
    // SAFETY: `skb` is the program's context.
    let (ifindex, tagged) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).vlan_present) };
    // A tag that the device is to put in would be missing.
    let bare = len == packet.offset + packet.headers;
    if !bare || tagged != 0 || len > UPDATE_BYTES as u32 {
        return;
    }
    let Some(mut entry) = WINDOW_UPDATES.reserve::<WindowUpdate>(0) else {
        count(Stat::WindowUpdatesLost, 1);
        return;
    };
    let update = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted; every field is written.
    let copied = unsafe {
        (*update).due = due;
        (*update).ifindex = ifindex;
        (*update).len = len;
        packet::copy(ctx, &mut (*update).packet, len)
    };
    if copied {
        count(Stat::WindowUpdates, 1);
        entry.submit(0);
    } else {
        entry.discard(0);
    }
}

/// What is known of a flow, and what its limits offer of it.
pub struct Terms {
    pub offer: Offer,
    pub offered: Offered,
}

/// What the limits allow, into the terms; `false` without one.
#[inline(always)]
fn wanted(
    ctx: &TcContext,
    hop: &Hop<'_>,
    terms: &mut Terms,
    flow: *mut Flow,
    client: *mut Client,
) -> bool {
    let Some(class) = client::class_of(hop.policy, &hop.sent.key, client) else {
        return false;
    };
    if !holds::<UP>(class, &flow_limit::<UP>(class, flow), hop.settings) {
        return false;
    }
    (terms.offer.srtt, terms.offer.segment) = socket(ctx, flow);
    own(hop, class, flow, client, terms);
    group::offer(hop, class, client, terms);
    true
}

/// The limits of flow and client. A function of its own for the stack's sake.
#[inline(never)]
fn own(
    hop: &Hop<'_>,
    class: &Class,
    flow: *mut Flow,
    client: *mut Client,
    terms: &mut Terms,
) -> u32 {
    let Terms { offer, offered } = terms;
    let own = flow_limit::<UP>(class, flow);
    // SAFETY: live map values, aligned words.
    unsafe {
        if own.is_set() {
            let tat = core::ptr::read_volatile(&raw const (*flow).traffic[0].tat);
            offer.debt = bucket::debt(tat, hop.sent.now);
            offer.active = 1;
            global::tighter(&own, offer, offered);
        }
        let share = core::ptr::read_volatile(&raw const (*flow).share[0]);
        offer.used = share::used(share, hop.sent.now);
        offer.elapsed = share::elapsed(hop.sent.now);
        offer.light = !share::is_active(share, hop.sent.now);
        if class.upload.is_set() {
            let tat = core::ptr::read_volatile(&raw const (*client).traffic[0].tat);
            offer.debt = bucket::debt(tat, hop.sent.now);
            offer.active = client::active::<UP>(client, hop.sent.now);
            global::tighter(&class.upload, offer, offered);
        }
    }
    0
}

/// Smoothed round trip in ns and payload of a segment, by the socket that sends.
/// A window update comes from the daemon's socket: what the flow's own said last.
#[inline(always)]
fn socket(ctx: &TcContext, flow: *mut Flow) -> (u64, u32) {
    // SAFETY: `skb` is the program's context; the helpers take what they return,
    // checked against null. `flow` is a live map value.
    unsafe {
        let mut sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if !sk.is_null() {
            sk = bpf_sk_fullsock(sk);
        }
        if !sk.is_null() {
            let tcp = bpf_tcp_sock(sk);
            if !tcp.is_null() {
                (*flow).srtt = (*tcp).srtt_us;
                (*flow).segment = (*tcp).mss_cache as u16;
            }
        }
        let segment = match (*flow).segment {
            0 => SEGMENT,
            segment => segment.into(),
        };
        (u64::from((*flow).srtt) * 125, segment)
    }
}
