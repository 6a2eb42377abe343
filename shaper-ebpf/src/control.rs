//! What the daemon asks the kernel to do; see [`shaper_common::control`].

use crate::atomic::{MapWord, clear_bits, set_bits};
use crate::client::{self, owes};
use crate::maps::{CLIENTS, FLOWS, UDP_CLIENTS, UDP_FLOWS};
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
    DOWNLOAD, FLOW_ADOPTED, FLOW_EDGE, FLOW_SCALE_SHIFT, FLOW_WINDOW, FULL_CLIENTS, FULL_FLOWS, Flow,
    UPLOAD,
};
use shaper_common::key::{ClientKey, FlowKey, UDP};
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
        op::LIMIT => {
            let limits = request.0.limits;
            Some(limit(&key, limits))
        }
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

/// Limits one connection.
#[inline(always)]
fn limit(key: &FlowKey, [upload, download]: [Limit; 2]) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
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
        bucket::forgive(&word, now, &hard(limit, Leeway::Window));
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
