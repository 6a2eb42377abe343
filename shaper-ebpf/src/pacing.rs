//! Download backpressure: the kernel's own pacing of a socket, set from the
//! client's bucket on the socket's own events. No queueing discipline is needed.

use crate::client;
use crate::maps::{CLIENTS, FLOWS};
use crate::policy::{Policy, observes};
use crate::report::count;
use aya_ebpf::bindings::{BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock_ops};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::programs::SockOpsContext;
use shaper_common::backpressure;
use shaper_common::bucket;
use shaper_common::class::{CLASS_EXEMPT, Settings};
use shaper_common::flow::{Client, DOWNLOAD};
use shaper_common::key::FlowKey;
use shaper_common::share;
use shaper_common::stats::Stat;

const SOL_SOCKET: i32 = 1;
const SO_MAX_PACING_RATE: i32 = 47;
/// Not paced. The kernel takes 32 bits from a program, and all of them as this.
const UNLIMITED: u32 = u32::MAX;
/// IPv6 and TCP with timestamps.
const HEADERS: u32 = 52;

/// Sets the pacing rate of a socket; lets it go where there is no limit (any
/// more).
#[inline(always)]
pub fn apply(ctx: &SockOpsContext, policy: Policy, settings: &Settings, key: &FlowKey) {
    let flags = ctx.cb_flags();
    let paced = flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0;
    let segment = segment(ctx.ops);
    match rate(policy, settings, key, segment) {
        Some(rate) => {
            if !paced {
                let _ = ctx.set_cb_flags((flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
            }
            set(ctx, rate);
        }
        None if paced => {
            set(ctx, UNLIMITED);
            let _ = ctx.set_cb_flags((flags & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
        }
        None => {}
    }
}

#[inline(always)]
fn segment(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: `ops` is the program's context.
    unsafe { (*ops).mss_cache }
}

#[inline(never)]
fn rate(policy: Policy, settings: &Settings, key: &FlowKey, segment: u32) -> Option<u32> {
    let client_key = settings.client(&key.client);
    let client: *mut Client = CLIENTS.get_ptr_mut(&client_key)?;
    let class = client::class_of(policy, &client_key, client)?;
    if class.flags & CLASS_EXEMPT != 0 || observes(settings) {
        return None;
    }
    if !class.download.is_set() && !class.flow_download.is_set() {
        return None;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut rate = u64::from(UNLIMITED - 1);
    if class.flow_download.is_set()
        && let Some(flow) = FLOWS.get_ptr_mut(key)
    {
        // SAFETY: a live map value, an aligned word.
        let tat = unsafe { core::ptr::read_volatile(&raw const (*flow).traffic[1].tat) };
        let debt = bucket::debt(tat, now);
        rate = rate.min(backpressure::pacing_rate(
            &class.flow_download,
            debt,
            1,
            segment,
            HEADERS,
        ));
    }
    if class.download.is_set() {
        // SAFETY: a live map value, aligned words.
        let (tat, active) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*client).traffic[1].tat),
                core::ptr::read_volatile(&raw const (*client).active),
            )
        };
        let (debt, active) = (bucket::debt(tat, now), share::active(active, now, DOWNLOAD));
        rate = rate.min(backpressure::pacing_rate(
            &class.download,
            debt,
            active,
            segment,
            HEADERS,
        ));
    }
    // A rate of 0 would stop the socket for good.
    Some(rate.max(1) as u32)
}

#[inline(always)]
fn set(ctx: &SockOpsContext, mut rate: u32) {
    // SAFETY: `ops` is the program's context, and the value's size is its own.
    let result = unsafe {
        bpf_setsockopt(
            ctx.ops.cast(),
            SOL_SOCKET,
            SO_MAX_PACING_RATE,
            (&raw mut rate).cast(),
            size_of::<u32>() as i32,
        )
    };
    if result != 0 {
        count(Stat::PacingRefused, 1);
    }
}
