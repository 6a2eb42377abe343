//! The kernel side of shaper: one attach function per hook, each failing open.
//!
//! | module | concern |
//! | --- | --- |
//! | [`packet`] | the only place that touches packet memory |
//! | [`traffic`] | TC: counts, charges and limits |
//! | [`charge`] | flow, client and group: all charged or none |
//! | [`shield`] | the checks before a connection: blocks, rates, counts (XDP, else TC) |
//! | [`window`] | upload backpressure: the receive window |
//! | [`options`] | the socket options that are set |
//! | [`pacing`] | download backpressure: the pacing rate |
//! | [`sockets`] | `sock_ops`: flows open and close |
//! | [`adopt`] | sockets that were open before, and those that are left |
//! | [`overflow`] | connections that found no room for a flow |
//! | [`control`] | what the daemon asks for, attached nowhere |
//! | [`policy`] | generation, settings, ports, classes |
//! | [`client`] | finding and making clients |
//! | [`global`] | what the verifier looks at once |
//! | [`group`] | the limit that the clients of a rule share |
//! | [`report`] | counters and events |
//! | [`atomic`] | the BPF atomics behind the token bucket |
//! | [`maps`] | the maps |
#![no_std]
#![no_main]
#![expect(internal_features, reason = "the BPF target has no stable atomics")]
#![feature(core_intrinsics)]

mod adopt;
mod atomic;
mod charge;
mod client;
mod control;
mod global;
mod group;
mod maps;
mod options;
mod overflow;
mod pacing;
mod packet;
mod policy;
mod report;
mod shield;
mod sockets;
mod traffic;
mod window;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, sock_ops, xdp};
use aya_ebpf::programs::{SockOpsContext, TcContext, XdpContext};
use shaper_common::flow::{DOWNLOAD, UPLOAD};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to whatever comes next on the hook.
    Pass,
    /// Dropped, and counted where it was decided.
    Drop,
}

impl Verdict {
    /// `UNSPEC` (TCX: next) lets other programs and filters see the packet.
    #[inline(always)]
    fn tc(self) -> i32 {
        match self {
            Self::Pass => TC_ACT_UNSPEC,
            Self::Drop => TC_ACT_SHOT,
        }
    }
}

/// Client to this host.
#[classifier]
pub fn shaper_ingress(ctx: TcContext) -> i32 {
    traffic::classify::<{ UPLOAD as usize }>(&ctx).tc()
}

/// This host to the client.
#[classifier]
pub fn shaper_egress(ctx: TcContext) -> i32 {
    traffic::classify::<{ DOWNLOAD as usize }>(&ctx).tc()
}

/// The shield, before the kernel allocates anything.
#[xdp]
pub fn shaper_shield(ctx: XdpContext) -> u32 {
    match shield::inspect(&ctx) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

/// Opens and closes flows. The return value is the reply to the kernel's
/// question, and this program answers none.
#[sock_ops]
pub fn shaper_sock_ops(ctx: SockOpsContext) -> u32 {
    sockets::observe(&ctx);
    1
}

/// Visits open sockets when the daemon starts.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn shaper_adopt(visit: *mut adopt::Visit) -> i32 {
    adopt::adopt(visit);
    0
}

/// Visits open sockets before the programs are removed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn shaper_release(visit: *mut adopt::Visit) -> i32 {
    adopt::release(visit);
    0
}

/// Carries out the daemon's requests; attached nowhere, run by
/// `BPF_PROG_TEST_RUN`.
#[classifier]
pub fn shaper_control(ctx: TcContext) -> i32 {
    control::run(&ctx) as i32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No program with a path to here gets past `build-ebpf`, nor the verifier.
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
