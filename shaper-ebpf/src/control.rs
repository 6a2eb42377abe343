//! What the daemon asks the kernel to do; see [`shaper_common::control`].

use crate::client::{self, owes};
use crate::maps::{CLIENTS, UDP_CLIENTS, UDP_FLOWS};
use crate::policy::Policy;
use crate::report::count;
use crate::{packet, sockets};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use shaper_common::control::{DONE, op};
use shaper_common::flow::FLOW_ADOPTED;
use shaper_common::key::{ClientKey, UDP};
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
        op::COUNT => Some(connections(policy, &client, value as u32)),
        op::ADOPT => Some(sockets::open(policy, settings, &key, FLOW_ADOPTED)),
        op::CLOSE => Some(sockets::close(settings, &key)),
        _ => None,
    }
}

/// A function of its own for the stack's sake.
#[inline(never)]
fn connections(policy: Policy, key: &ClientKey, value: u32) -> bool {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // Made where a new client prefix has just brought it about.
    let Some(client) = client::of_tcp(policy, key, now, false) else {
        return false;
    };
    // SAFETY: a live map value, an aligned word.
    unsafe { core::ptr::write_volatile(&raw mut (*client).connections, value) };
    true
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
    }
    if let Some(client) = UDP_CLIENTS.get_ptr_mut(key)
        && !owes(client, now, unseen_since)
    {
        gone |= UDP_CLIENTS.remove(key).is_ok();
    }
    gone
}
