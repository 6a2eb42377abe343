//! `sock_ops`: a flow begins when the handshake completes and ends when the
//! socket closes, so a spoofed source never makes one, and none goes stale.

use crate::atomic::{MapWord, add, decrement32, fetch_add32, set_bits};
use crate::maps::{CLIENTS, EMPTY, FLOWS, HANDSHAKES};
use crate::policy::Policy;
use crate::report::{count, event};
use crate::traffic::Size;
use crate::{client, group, pacing};
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops,
};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use shaper_common::bucket;
use shaper_common::class::{CLASS_EXEMPT, Settings};
use shaper_common::event::kind;
use shaper_common::flow::{
    Client, DOWNLOAD, FLOW_PACED, FLOW_UNCOUNTED, FULL_FLOWS, Flow, Handshake, UPLOAD,
};
use shaper_common::key::{Addr, ClientKey, FlowKey, TCP, map_v4};
use shaper_common::stats::Stat;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const EEXIST: i32 = -17;
/// `BPF_TCP_CLOSE` of the kernel's socket states.
const TCP_CLOSE: u32 = 7;

/// One callback of one socket, of any network namespace.
#[inline(always)]
pub fn observe(ctx: &SockOpsContext) {
    match ctx.op() {
        op @ (BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
        | BPF_SOCK_OPS_RTT_CB
        | BPF_SOCK_OPS_HDR_OPT_LEN_CB) => {
            let Some((policy, settings, key)) = watched(ctx) else {
                return;
            };
            let late = op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
            if !late {
                // Also where the flow is there already: this socket's close ends it.
                let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG;
                let _ = ctx.set_cb_flags(flags as i32);
            }
            if !late || lacks_flow(&key) {
                match open(policy, settings, &key, FLOW_PACED) {
                    Opened::New => {
                        debug!(ctx, "open: {} from {}", key.local_port, key.client_port);
                        if late {
                            overflowed(-1);
                            count(Stat::FlowsRecovered, 1);
                        }
                    }
                    Opened::NoRoom if !late => overflowed(1),
                    _ => {}
                }
            }
            pacing::apply(ctx, policy, settings, &key);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => {
            let Some((_, settings, key)) = watched(ctx) else {
                return;
            };
            if close(settings, &key) {
                debug!(ctx, "close: {} from {}", key.local_port, key.client_port);
            } else {
                overflowed(-1);
            }
        }
        _ => {}
    }
}

/// Reads the four words of an IPv6 address one by one: the kernel takes loads
/// from its context at fixed offsets only, and the compiler, left alone, joins
/// the branches of the two families by computing the offset.
macro_rules! ip6 {
    ($name:ident, $field:ident) => {
        #[inline(never)]
        fn $name(ops: *mut bpf_sock_ops) -> Addr {
            // SAFETY: `ops` is the program's context; the field is there for
            // sockets of every family.
            unsafe {
                [
                    core::ptr::read_volatile(&raw const (*ops).$field[0]),
                    core::ptr::read_volatile(&raw const (*ops).$field[1]),
                    core::ptr::read_volatile(&raw const (*ops).$field[2]),
                    core::ptr::read_volatile(&raw const (*ops).$field[3]),
                ]
            }
        }
    };
}

ip6!(remote_ip6, remote_ip6);
ip6!(local_ip6, local_ip6);

/// The flow of a socket on a watched port of the daemon's namespace.
#[inline(always)]
fn watched(ctx: &SockOpsContext) -> Option<(Policy, &'static Settings, FlowKey)> {
    let policy = Policy::current()?;
    let local_port = ctx.local_port() as u16;
    if !policy.watches(local_port) {
        return None;
    }
    let settings = policy.settings()?;
    // SAFETY: `ops` is the program's context.
    if unsafe { bpf_get_netns_cookie(ctx.ops.cast()) } != settings.netns_cookie {
        return None;
    }
    let (client, local) = match ctx.family() {
        AF_INET => (map_v4(ctx.remote_ip4()), map_v4(ctx.local_ip4())),
        AF_INET6 => (remote_ip6(ctx.ops), local_ip6(ctx.ops)),
        _ => return None,
    };
    let key = FlowKey {
        client,
        local,
        client_port: u32::from_be(ctx.remote_port()) as u16,
        local_port,
        protocol: TCP,
        _pad: [0; 3],
    };
    Some((policy, settings, key))
}

/// One connection without a flow more or less.
#[inline(always)]
pub fn overflowed(change: i32) {
    if let Some(shared) = client::shared() {
        // SAFETY: a live map value, an aligned word. The daemon may have counted
        // anew meanwhile: never below 0.
        unsafe {
            if change > 0 {
                fetch_add32(&raw mut (*shared).connections, 1);
            } else {
                decrement32(&raw mut (*shared).connections);
            }
        }
    }
}

/// Whether the connection found no room for its flow, and there is room now.
#[inline(always)]
fn lacks_flow(key: &FlowKey) -> bool {
    let Some(shared) = client::shared() else {
        return false;
    };
    // SAFETY: a live map value, an aligned word.
    let lacking = unsafe { core::ptr::read_volatile(&raw const (*shared).connections) };
    lacking != 0 && client::flags(shared) & FULL_FLOWS == 0 && FLOWS.get_ptr_mut(key).is_none()
}

/// What became of a flow that was to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It has begun.
    New,
    /// It was there already.
    Known,
    /// The table is full: the connection has no flow.
    NoRoom,
}

/// Begins a flow.
#[inline(never)]
pub fn open(policy: Policy, settings: &Settings, key: &FlowKey, flags: u32) -> Opened {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    match FLOWS.insert(key, &EMPTY, BPF_NOEXIST.into()) {
        Ok(()) => {}
        Err(EEXIST) => return Opened::Known,
        Err(_) => {
            if let Some(shared) = client::shared() {
                client::mark_full(shared, FULL_FLOWS);
            }
            count(Stat::FlowTableFull, 1);
            event(now, &key.client, kind::TABLE_FULL, UPLOAD);
            return Opened::NoRoom;
        }
    }
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return Opened::Known;
    };
    let flow: *mut Flow = flow;
    // SAFETY: a live map value, the words aligned; it is this socket's.
    unsafe {
        (*flow).created = now;
        (*flow).last_seen = now;
        (*flow).generation = policy.generation;
        set_bits(&raw mut (*flow).flags, flags);
    }
    let handshake = handshake(key, flow);
    count(Stat::FlowsOpened, 1);
    let client_key = settings.client(&key.client);
    let Some(client) = client::of_tcp(&client_key, now, false) else {
        // SAFETY: a live map value, an aligned word.
        unsafe { set_bits(&raw mut (*flow).flags, FLOW_UNCOUNTED) };
        return Opened::New;
    };
    // SAFETY: a live map value, an aligned word.
    unsafe { fetch_add32(&raw mut (*client).connections, 1) };
    if let Some(class) = client::class_of(policy, &client_key, client) {
        let exempt = class.flags & CLASS_EXEMPT != 0;
        charge_handshake::<{ UPLOAD as usize }>(client, &handshake, now, exempt, &class.upload);
        charge_handshake::<{ DOWNLOAD as usize }>(client, &handshake, now, exempt, &class.download);
        group::charge_late::<{ UPLOAD as usize }>(class, now, handshake_size(&handshake, 0));
        group::charge_late::<{ DOWNLOAD as usize }>(class, now, handshake_size(&handshake, 1));
    }
    Opened::New
}

/// Moves what was kept of the handshake into its flow.
#[inline(always)]
fn handshake(key: &FlowKey, flow: *mut Flow) -> Handshake {
    let Some(kept) = HANDSHAKES.get_ptr_mut(key) else {
        return Handshake::default();
    };
    // SAFETY: both are live map values, the words aligned. Nothing of this flow
    // is under way on another CPU that the handshake had not been answered for.
    let handshake: Handshake = unsafe { *kept };
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*flow).traffic[0].bytes, handshake.bytes[0]);
        add(&raw mut (*flow).traffic[0].packets, handshake.packets[0]);
        add(&raw mut (*flow).traffic[1].bytes, handshake.bytes[1]);
        add(&raw mut (*flow).traffic[1].packets, handshake.packets[1]);
        (*flow).edge = handshake.edge;
        (*flow).honoured = handshake.edge;
        set_bits(&raw mut (*flow).flags, handshake.flags);
    }
    let _ = HANDSHAKES.remove(key);
    handshake
}

/// The handshake passed before its client was known: counted and charged now.
#[inline(always)]
fn charge_handshake<const DIR: usize>(
    client: *mut Client,
    handshake: &Handshake,
    now: u64,
    exempt: bool,
    limit: &bucket::Limit,
) {
    let bytes = handshake.bytes[DIR];
    // SAFETY: `client` is a live map value, the words aligned.
    let word = unsafe {
        add(&raw mut (*client).traffic[DIR].bytes, bytes);
        add(
            &raw mut (*client).traffic[DIR].packets,
            handshake.packets[DIR],
        );
        MapWord::new(&raw mut (*client).traffic[DIR].tat)
    };
    if !exempt && limit.is_set() {
        word.charge(now, bytes, limit);
    }
}

#[inline(always)]
const fn handshake_size(handshake: &Handshake, direction: usize) -> Size {
    Size {
        bytes: handshake.bytes[direction],
        packets: handshake.packets[direction],
    }
}

/// Ends a flow; `false` where there was none.
#[inline(never)]
pub fn close(settings: &Settings, key: &FlowKey) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a live map value, an aligned word.
    let flags = unsafe { core::ptr::read_volatile(&raw const (*flow).flags) };
    if FLOWS.remove(key).is_err() {
        return false;
    }
    client::mark_room(FULL_FLOWS);
    count(Stat::FlowsClosed, 1);
    if flags & FLOW_UNCOUNTED == 0 {
        let _ = release(&settings.client(&key.client));
    }
    true
}

/// One connection less.
#[inline(always)]
fn release(key: &ClientKey) -> Option<()> {
    let client = CLIENTS.get_ptr_mut(key)?;
    // SAFETY: a live map value, an aligned word. A client that was made again
    // for an open flow may know of fewer connections than close: never below 0.
    unsafe { decrement32(&raw mut (*client).connections) };
    Some(())
}
