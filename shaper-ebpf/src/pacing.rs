//! Download backpressure: the kernel's own pacing of a socket, set from the
//! client's bucket on the socket's own events. No queueing discipline is needed.

use crate::client;
use crate::maps::{CLIENTS, FLOWS};
use crate::options::{
    ANY, SO_MAX_PACING_RATE, SOL_SOCKET, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, UNPACED,
};
use crate::policy::{Policy, flow_limit, holds};
use crate::report::count;
use crate::{global, group};
use aya_ebpf::bindings::{BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock_ops};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::programs::SockOpsContext;
use shaper_common::backpressure::Burst;
use shaper_common::bucket::{self, Limit};
use shaper_common::class::Settings;
use shaper_common::flow::{Client, DOWNLOAD, Flow};
use shaper_common::key::FlowKey;
use shaper_common::share;
use shaper_common::stats::Stat;

/// IPv6 and TCP with timestamps.
const HEADERS: u32 = 52;

/// Sets the pacing rate of a socket and what it may have in flight; lets it go where there is no limit (any
/// more).
#[inline(always)]
pub fn apply(ctx: &SockOpsContext, policy: Policy, settings: &Settings, key: &FlowKey) {
    let flags = ctx.cb_flags();
    let paced = flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0;
    match held(policy, settings, key, ctx.ops) {
        Some(held) => {
            if !paced {
                let _ = ctx.set_cb_flags((flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
            }
            set(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, held.rate);
            bound(ctx, key, held.in_flight);
        }
        None if paced => {
            set(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, UNPACED);
            bound(ctx, key, 0);
            let _ = ctx.set_cb_flags((flags & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
        }
        None => {}
    }
}

/// How a socket is held.
struct Held {
    /// Bytes of payload per second.
    rate: u32,
    /// Segments; 0: any number.
    in_flight: u32,
}

impl Held {
    #[inline(always)]
    fn and(self, limit: &Limit, burst: &Burst) -> Self {
        let rate = global::pacing_rate(limit, burst);
        let in_flight = global::in_flight(limit, burst);
        Self {
            // A rate of 0 would stop the socket for good.
            rate: u64::from(self.rate).min(rate).max(1) as u32,
            in_flight: match self.in_flight {
                0 => in_flight,
                least if in_flight == 0 || least < in_flight => least,
                _ => in_flight,
            },
        }
    }
}

/// Bounds what is in flight, where that is not so yet. Setting it also sets the
/// threshold of slow start, so it is done when it changes only.
#[inline(always)]
fn bound(ctx: &SockOpsContext, key: &FlowKey, in_flight: u32) {
    let flow: Option<*mut Flow> = FLOWS.get_ptr_mut(key);
    let Some(flow) = flow else {
        return;
    };
    // SAFETY: a live map value; only this socket's own events write the field.
    unsafe {
        if u32::from((*flow).in_flight) == in_flight {
            return;
        }
        (*flow).in_flight = in_flight as u16;
    }
    let segments = if in_flight == 0 { ANY } else { in_flight };
    set(ctx, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, segments);
}

/// What the socket is sending; the bucket is not known yet.
#[inline(always)]
fn sent(ops: *mut bpf_sock_ops) -> Burst {
    // SAFETY: `ops` is the program's context. Where no packet is at hand, its
    // length reads as zero.
    unsafe {
        Burst {
            segment: (*ops).mss_cache,
            headers: HEADERS,
            payload: (*ops).skb_len,
            srtt: u64::from((*ops).srtt_us) * 125,
            ..Burst::default()
        }
    }
}

#[inline(never)]
fn held(
    policy: Policy,
    settings: &Settings,
    key: &FlowKey,
    ops: *mut bpf_sock_ops,
) -> Option<Held> {
    let sent = sent(ops);
    // Without a flow nobody could give the rate back in the end.
    let flow: *mut Flow = FLOWS.get_ptr_mut(key)?;
    let client_key = settings.client(&key.client);
    let client: *mut Client = CLIENTS.get_ptr_mut(&client_key)?;
    let class = client::class_of(policy, &client_key, client)?;
    let own = flow_limit::<{ DOWNLOAD as usize }>(class, flow);
    if !holds::<{ DOWNLOAD as usize }>(class, &own, settings) {
        return None;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut held = Held {
        rate: UNPACED - 1,
        in_flight: 0,
    };
    if own.is_set() {
        // SAFETY: a live map value, an aligned word.
        let tat = unsafe { core::ptr::read_volatile(&raw const (*flow).traffic[1].tat) };
        let burst = Burst {
            debt: bucket::debt(tat, now),
            active: 1,
            ..sent
        };
        held = held.and(&own, &burst);
    }
    if class.download.is_set() {
        // SAFETY: a live map value, aligned words.
        let (tat, active) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*client).traffic[1].tat),
                core::ptr::read_volatile(&raw const (*client).active),
            )
        };
        let burst = Burst {
            debt: bucket::debt(tat, now),
            active: share::active(active, now, DOWNLOAD),
            ..sent
        };
        held = held.and(&class.download, &burst);
    }
    if let Some(group) = group::of::<{ DOWNLOAD as usize }>(class) {
        let clients = group::active::<{ DOWNLOAD as usize }>(group, now);
        let burst = Burst {
            debt: group::debt::<{ DOWNLOAD as usize }>(group, now),
            active: clients * client::active::<{ DOWNLOAD as usize }>(client, now),
            ..sent
        };
        held = held.and(&class.group_download, &burst);
    }
    Some(held)
}

#[inline(always)]
fn set(ctx: &SockOpsContext, level: i32, name: i32, mut value: u32) {
    // SAFETY: `ops` is the program's context, and the value's size is its own.
    let result = unsafe {
        let size = size_of::<u32>() as i32;
        bpf_setsockopt(ctx.ops.cast(), level, name, (&raw mut value).cast(), size)
    };
    if result != 0 {
        count(Stat::PacingRefused, 1);
    }
}
