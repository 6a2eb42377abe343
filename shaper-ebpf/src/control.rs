//! What the daemon asks the kernel to do; see [`shaper_common::control`].

use crate::atomic::{MapWord, add, clear_bits, set_bits};
use crate::client::{self, owes};
use crate::maps::{CLIENTS, FLOWS, STATS, UDP_CLIENTS, UDP_FLOWS};
use crate::policy::Policy;
use crate::report::count;
use crate::sockets::Opened;
use crate::{packet, sockets};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use shaper_common::backpressure::{Leeway, hard};
use shaper_common::bucket::{self, Limit};
use shaper_common::control::{DONE, op};
use shaper_common::flow::{
    DOWNLOAD, FLOW_ADOPTED, FLOW_EDGE, FLOW_SCALE_SHIFT, FLOW_WINDOW, FULL_CLIENTS, FULL_FLOWS,
    Flow, MERGED, Traffic, UPLOAD,
};
use shaper_common::key::{ClientKey, FlowKey, TCP, UDP};
use shaper_common::stats::Stat;

/// Carries out one request; [`DONE`] where it was done.
#[inline(always)]
pub fn run(ctx: &TcContext) -> u32 {
    match try_run(ctx) {
        Some(true) => DONE,
        _ => 0,
    }
}

#[inline(always)]
fn try_run(ctx: &TcContext) -> Option<bool> {
    let request = packet::control(ctx.data(), ctx.data_end())?;
    // On the stack, because map helpers take keys from there.
    let (op, value, key) = (request.0.op, request.0.value, request.0.key);
    let client = ClientKey { addr: key.client };
    match op {
        op::FORGET => return Some(forget(&client, value)),
        op::STAT => {
            let counter = STATS.get_ptr_mut(request.0.index)?;
            // SAFETY: a live map value, an aligned word.
            unsafe { add(counter, value) };
            return Some(true);
        }
        op::MERGE => return merge_entry(request),
        op::OVERFLOW => return overflow(value as u32, (value >> 32) as u32),
        op::CLOSE if key.protocol == UDP => {
            let gone = UDP_FLOWS.remove(&key).is_ok();
            count(Stat::FlowsClosed, u64::from(gone));
            return Some(gone);
        }
        _ => {}
    }
    let policy = Policy::current()?;
    let settings = policy.settings()?;
    match op {
        op::COUNT => Some(connections(&client, value as u32)),
        op::LIMIT => Some(limit(request)),
        op::ADOPT => {
            let window = window_flags(value);
            match sockets::open(policy, settings, &key, FLOW_ADOPTED | window) {
                Opened::New => Some(true),
                Opened::Known => Some(learn(&key, window)),
                Opened::NoRoom => Some(false),
            }
        }
        op::CLOSE => Some(sockets::close(settings, &key)),
        _ => None,
    }
}

/// The flags of a flow whose window scale is `scale` - 1.
#[inline(always)]
fn window_flags(scale: u64) -> u32 {
    match scale {
        1..=15 => FLOW_WINDOW | ((scale - 1) as u32) << FLOW_SCALE_SHIFT,
        _ => 0,
    }
}

/// The window scale of a flow that was seen opening without its handshake;
/// `false` where that is known already.
#[inline(always)]
fn learn(key: &FlowKey, window: u32) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a live map value, an aligned word. Nothing else writes the scale of
    // a flow once it is there.
    unsafe {
        let known = core::ptr::read_volatile(&raw const (*flow).flags) & FLOW_WINDOW != 0;
        !known && window != 0 && set_bits(&raw mut (*flow).flags, window)
    }
}

/// Limits one connection. A function of its own for the stack's sake.
#[inline(never)]
fn limit(request: &packet::Request) -> bool {
    let (key, [upload, download]) = (request.0.key, request.0.limits);
    let Some(flow) = FLOWS.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    own::<{ UPLOAD as usize }>(flow, &upload, now);
    own::<{ DOWNLOAD as usize }>(flow, &download, now);
    true
}

/// What was owed under a much slower limit is not held against the flow. What is
/// under way within its window is: limits may change every second. A much slower
/// one takes a window back that was offered before, as a new policy does.
#[inline(always)]
fn own<const DIR: usize>(flow: *mut Flow, limit: &Limit, now: u64) {
    // SAFETY: a live map value, the words aligned; only this writes limits.
    unsafe {
        if limit.interval / 2 > (*flow).own[DIR].interval {
            clear_bits(&raw mut (*flow).flags, FLOW_EDGE);
        }
        (*flow).own[DIR] = *limit;
        let word = MapWord::new(&raw mut (*flow).traffic[DIR].tat);
        word.forgive(now, &hard(limit, Leeway::Window));
    }
}

/// Adds what an entry had in an earlier table. A function of its own for the
/// stack's sake.
#[inline(never)]
fn merge_entry(request: &packet::Request) -> Option<bool> {
    let (key, value) = (request.0.key, request.0.value);
    let [upload, download] = request.0.traffic;
    match key.protocol {
        TCP => {
            merge_edges(&key, request.0.edges);
            merge_flow(FLOWS.get_ptr_mut(&key)?, &upload, &download, value)
        }
        UDP => merge_flow(UDP_FLOWS.get_ptr_mut(&key)?, &upload, &download, value),
        _ => {
            let client = ClientKey { addr: key.client };
            merge_client(&client, &upload, &download, request.0.held, value)
        }
    }
}

/// Adds what a flow had in an earlier table, once.
#[inline(always)]
fn merge_flow(flow: *mut Flow, upload: &Traffic, download: &Traffic, since: u64) -> Option<bool> {
    // SAFETY: a live map value, the words aligned.
    unsafe {
        if set_bits(&raw mut (*flow).flags, MERGED) {
            merge(&raw mut (*flow).traffic[0], upload, since);
            merge(&raw mut (*flow).traffic[1], download, since);
        }
    }
    Some(true)
}

/// As [`merge_flow`], for a client.
#[inline(always)]
fn merge_client(
    key: &ClientKey,
    upload: &Traffic,
    download: &Traffic,
    held: [u64; 2],
    since: u64,
) -> Option<bool> {
    let client = client::find(key)?;
    // SAFETY: a live map value, the words aligned.
    unsafe {
        if set_bits(&raw mut (*client).flags, MERGED) {
            merge(&raw mut (*client).traffic[0], upload, since);
            merge(&raw mut (*client).traffic[1], download, since);
            add(&raw mut (*client).held[0], held[0]);
            add(&raw mut (*client).held[1], held[1]);
        }
    }
    Some(true)
}

/// # Safety
/// `to` points into a live map value.
#[inline(always)]
unsafe fn merge(to: *mut Traffic, from: &Traffic, since: u64) {
    // SAFETY: by this function's contract; the words are aligned.
    unsafe {
        add(&raw mut (*to).bytes, from.bytes);
        add(&raw mut (*to).packets, from.packets);
        add(&raw mut (*to).dropped_bytes, from.dropped_bytes);
        add(&raw mut (*to).dropped_packets, from.dropped_packets);
        if from.tat != 0 {
            let owed = from.tat;
            bucket::update(&MapWord::new(&raw mut (*to).tat), |tat| {
                since
                    .saturating_add(bucket::debt(tat, since))
                    .saturating_add(owed)
            });
        }
    }
}

/// A window that was offered is kept to: the further edge is the one.
#[inline(always)]
fn merge_edges(key: &FlowKey, [edge, honoured]: [u32; 2]) {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a live map value, the words aligned; what the socket offers at the
    // same moment is as good.
    unsafe {
        let flags = core::ptr::read_volatile(&raw const (*flow).flags);
        if edge == 0 && honoured == 0 || flags & MERGED != 0 || flags & FLOW_EDGE == 0 {
            return;
        }
        if edge.wrapping_sub((*flow).edge).cast_signed() > 0 {
            (*flow).edge = edge;
        }
        if honoured.wrapping_sub((*flow).honoured).cast_signed() > 0 {
            (*flow).honoured = honoured;
        }
    }
}

/// A function of its own for the stack's sake.
#[inline(never)]
fn connections(key: &ClientKey, value: u32) -> bool {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // Made where a new client prefix has just brought it about.
    let Some(client) = client::of_tcp(key, now, false) else {
        return false;
    };
    // SAFETY: a live map value, an aligned word.
    unsafe { core::ptr::write_volatile(&raw mut (*client).connections, value) };
    true
}

/// What the daemon has found: connections without a flow.
#[inline(always)]
fn overflow(connections: u32, room: u32) -> Option<bool> {
    let shared = client::shared()?;
    // SAFETY: a live map value, the words aligned.
    unsafe {
        core::ptr::write_volatile(&raw mut (*shared).connections, connections);
        clear_bits(&raw mut (*shared).flags, room & (FULL_FLOWS | FULL_CLIENTS));
    }
    Some(true)
}

#[inline(always)]
fn forget(key: &ClientKey, unseen_since: u64) -> bool {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut gone = false;
    if let Some(client) = CLIENTS.get_ptr_mut(key)
        && !owes(client, now, unseen_since)
    {
        gone = CLIENTS.remove(key).is_ok();
        client::mark_room(FULL_CLIENTS);
    }
    if let Some(client) = UDP_CLIENTS.get_ptr_mut(key)
        && !owes(client, now, unseen_since)
    {
        gone |= UDP_CLIENTS.remove(key).is_ok();
    }
    gone
}
