//! The checks before a connection: blocked prefixes, connection rate, number of
//! connections. At XDP where the device has it, else at TC ingress: same code.

use crate::Verdict;
use crate::atomic::MapWord;
use crate::client;
use crate::maps::SYN_RATES;
use crate::packet::{self, Packet, Stop};
use crate::policy::{Policy, observes};
use crate::report::{count, event};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use shaper_common::bucket;
use shaper_common::class::{CLASS_BLOCK, CLASS_EXEMPT, Settings};
use shaper_common::event::kind;
use shaper_common::flow::UPLOAD;
use shaper_common::key::{ClientKey, TCP};
use shaper_common::stats::Stat;

/// The XDP hook. What it can't read it passes; TC sees it next and counts it.
#[inline(always)]
pub fn inspect(ctx: &XdpContext) -> Verdict {
    try_inspect(ctx).unwrap_or(Verdict::Pass)
}

#[inline(always)]
fn try_inspect(ctx: &XdpContext) -> Result<Verdict, Stop> {
    let Some(policy) = Policy::current() else {
        return Ok(Verdict::Pass);
    };
    let mut packet = Packet::default();
    packet::of_xdp(ctx, &mut packet)?;
    if packet.later_fragment || !policy.watches(packet.key.local_port) {
        return Ok(Verdict::Pass);
    }
    let Some(settings) = policy.settings() else {
        return Ok(Verdict::Pass);
    };
    let client_key = settings.client(&packet.key.client);
    let syn =
        packet.key.protocol == TCP && packet.flags & (packet::SYN | packet::ACK) == packet::SYN;
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    Ok(check(policy, settings, &client_key, syn, now))
}

/// What becomes of a packet that asks for a connection (`syn`), or that belongs
/// to none.
#[inline(always)]
pub fn check(policy: Policy, settings: &Settings, key: &ClientKey, syn: bool, now: u64) -> Verdict {
    let known = client::find(key);
    let class = match known {
        Some(client) => client::class_of(policy, key, client),
        None => policy.class(Policy::rule(policy.generation, key)),
    };
    let Some(class) = class else {
        return Verdict::Pass;
    };
    if class.flags & CLASS_BLOCK != 0 {
        if observes(settings) {
            count(Stat::ObservedPackets, 1);
            return Verdict::Pass;
        }
        blocked(key, now);
        return Verdict::Drop;
    }
    if !syn || class.flags & CLASS_EXEMPT != 0 {
        return Verdict::Pass;
    }
    let connections = match known {
        // SAFETY: a live map value.
        Some(client) => unsafe { core::ptr::read_volatile(&raw const (*client).connections) },
        None => 0,
    };
    let (stat, kind) = if class.max_connections != 0 && connections >= class.max_connections {
        (Stat::SynMaxDropped, kind::MAX_CONNECTIONS)
    } else if class.connections.is_set() && !rate_admits(key, now, &class.connections) {
        (Stat::SynRateDropped, kind::CONNECTION_RATE)
    } else {
        return Verdict::Pass;
    };
    if observes(settings) {
        count(Stat::ObservedPackets, 1);
        return Verdict::Pass;
    }
    count(stat, 1);
    event(now, &key.addr, kind, UPLOAD);
    Verdict::Drop
}

/// Counts and reports a packet of a blocked client.
#[inline(always)]
pub fn blocked(key: &ClientKey, now: u64) {
    count(Stat::BlockedPackets, 1);
    event(now, &key.addr, kind::BLOCKED, UPLOAD);
}

/// The connection-rate bucket. It lives in an LRU of its own, because a source
/// that never completes a handshake must have one without being a client.
#[inline(always)]
fn rate_admits(key: &ClientKey, now: u64, limit: &bucket::Limit) -> bool {
    let word = match SYN_RATES.get_ptr_mut(key) {
        Some(word) => word,
        None => {
            let _ = SYN_RATES.insert(key, 0, BPF_NOEXIST.into());
            match SYN_RATES.get_ptr_mut(key) {
                Some(word) => word,
                None => return true,
            }
        }
    };
    // SAFETY: a live map value of one aligned word.
    let word = unsafe { MapWord::new(word) };
    word.admit(now, 1, limit) != bucket::Verdict::Refused
}
