//! Sockets that were open before the daemon, and sockets that it leaves: the
//! TCP iterator visits them, in the daemon's network namespace only.

use crate::atomic::{clear_bits, set_bits};
use crate::maps::FLOWS;
use crate::options::{
    ANY, SO_MAX_PACING_RATE, SOL_SOCKET, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, TCP_BPF_SOCK_OPS_CB_FLAGS,
    UNPACED,
};
use crate::policy::Policy;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG,
};
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_setsockopt, bpf_skc_to_tcp_sock};
use core::ffi::c_void;
use shaper_common::flow::{FLOW_ADOPTED, FLOW_PACED, Flow};
use shaper_common::key::{Addr, FlowKey, TCP, map_v4};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The callbacks that are ours.
const CALLBACKS: u32 =
    BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;

/// `struct bpf_iter__tcp` of the kernel.
#[repr(C)]
pub struct Visit {
    meta: *mut c_void,
    socket: *mut SockCommon,
}

/// The beginning of the kernel's `struct sock_common`, which has stood so since
/// 4.3; the verifier compares each read with the running kernel's types.
#[repr(C)]
struct SockCommon {
    remote_v4: u32,
    local_v4: u32,
    hash: u32,
    remote_port: u16,
    local_port: u16,
    family: u16,
    state: u8,
    bits: u8,
    bound: i32,
    bind_node: [u64; 2],
    protocol: *mut c_void,
    net: *mut c_void,
    remote_v6: Addr,
    local_v6: Addr,
}

/// The tracked flow of a visited socket.
#[inline(always)]
fn flow(visit: *mut Visit) -> Option<(*mut c_void, *mut Flow, u16)> {
    // SAFETY: the context of the program; the verifier knows what the pointers
    // in it are, and makes a read that faults return zero.
    unsafe {
        let socket = (*visit).socket;
        if socket.is_null() {
            return None;
        }
        let (client, local) = match (*socket).family {
            AF_INET => (map_v4((*socket).remote_v4), map_v4((*socket).local_v4)),
            AF_INET6 => ((*socket).remote_v6, (*socket).local_v6),
            _ => return None,
        };
        let key = FlowKey {
            client,
            local,
            client_port: u16::from_be((*socket).remote_port),
            local_port: (*socket).local_port,
            protocol: TCP,
            _pad: [0; 3],
        };
        let flow = FLOWS.get_ptr_mut(&key)?;
        let socket: *mut c_void = bpf_skc_to_tcp_sock(socket.cast()).cast();
        (!socket.is_null()).then_some((socket, flow, key.local_port))
    }
}

#[inline(always)]
fn set(socket: *mut c_void, level: i32, name: i32, mut value: u32) -> bool {
    // SAFETY: a full TCP socket, locked by the iterator, and a value of 4 bytes.
    unsafe { bpf_setsockopt(socket, level, name, (&raw mut value).cast(), 4) == 0 }
}

#[inline(always)]
fn callbacks(socket: *mut c_void) -> u32 {
    let mut flags = 0_u32;
    // SAFETY: as in `set`.
    let result = unsafe {
        bpf_getsockopt(
            socket,
            SOL_TCP,
            TCP_BPF_SOCK_OPS_CB_FLAGS,
            (&raw mut flags).cast(),
            4,
        )
    };
    if result == 0 { flags } else { 0 }
}

/// Has the events of an open socket reach `sock_ops`, as if it had been seen
/// opening.
#[inline(always)]
pub fn adopt(visit: *mut Visit) {
    let Some((socket, flow, _)) = flow(visit) else {
        return;
    };
    // SAFETY: a live map value, an aligned word.
    let known = unsafe { core::ptr::read_volatile(&raw const (*flow).flags) };
    if known & (FLOW_ADOPTED | FLOW_PACED) == FLOW_PACED {
        return;
    }
    let flags = callbacks(socket) | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG;
    if set(socket, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, flags) {
        // SAFETY: a live map value, an aligned word. Its close is announced from
        // now on.
        unsafe {
            set_bits(&raw mut (*flow).flags, FLOW_PACED);
            clear_bits(&raw mut (*flow).flags, FLOW_ADOPTED);
        }
    }
}

/// Gives a socket whose port is not watched (any more) its pacing rate back,
/// and asks for no more of its events. `sock_ops` leaves such a socket alone, so
/// nothing sets the rate again; before the programs are removed, the generation
/// is set to 0, and no port is watched.
#[inline(always)]
pub fn release(visit: *mut Visit) {
    let Some((socket, flow, port)) = flow(visit) else {
        return;
    };
    if Policy::current().is_some_and(|policy| policy.watches(port)) {
        return;
    }
    // SAFETY: a live map value, an aligned word.
    if unsafe { core::ptr::read_volatile(&raw const (*flow).flags) } & FLOW_PACED == 0 {
        return;
    }
    // SAFETY: a live map value; `sock_ops` leaves this socket alone.
    if unsafe { (*flow).in_flight } != 0 && set(socket, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, ANY) {
        // SAFETY: as above.
        unsafe { (*flow).in_flight = 0 };
    }
    if set(socket, SOL_SOCKET, SO_MAX_PACING_RATE, UNPACED) {
        // SAFETY: a live map value, an aligned word.
        unsafe { clear_bits(&raw mut (*flow).flags, FLOW_PACED) };
    }
    let flags = callbacks(socket) & !CALLBACKS;
    set(socket, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, flags);
}
