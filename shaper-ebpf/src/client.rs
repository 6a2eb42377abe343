//! Finding and making clients.

use crate::atomic::{MapWord, add, clear_bits, fetch_add32, set_bits};
use crate::group;
use crate::maps::{CLIENTS, EMPTY_CLIENT, OVERFLOW, UDP_CLIENTS};
use crate::policy::Policy;
use crate::report::{count, event};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use shaper_common::bucket;
use shaper_common::class::Class;
use shaper_common::event::kind;
use shaper_common::flow::{CLIENT_SHARED, Client, FLOW_UNCOUNTED, FULL_CLIENTS, Flow, UPLOAD};
use shaper_common::key::ClientKey;
use shaper_common::share;
use shaper_common::stats::Stat;

/// The client, wherever it is kept.
#[inline(always)]
pub fn find(key: &ClientKey) -> Option<*mut Client> {
    match CLIENTS.get_ptr_mut(key) {
        Some(client) => Some(client),
        None => UDP_CLIENTS.get_ptr_mut(key),
    }
}

/// The client that all those share which find no room.
#[inline(always)]
pub fn shared() -> Option<*mut Client> {
    let shared = OVERFLOW.get_ptr_mut(0);
    if shared.is_none() {
        count(Stat::Internal, 1);
    }
    shared
}

/// The `CLIENT_*` and `FULL_*` bits of a client.
#[inline(always)]
pub fn flags(client: *const Client) -> u32 {
    // SAFETY: a live map value, an aligned word.
    unsafe { core::ptr::read_volatile(&raw const (*client).flags) }
}

/// A table had no room.
#[inline(always)]
pub fn mark_full(shared: *mut Client, table: u32) {
    // SAFETY: a live map value, an aligned word.
    unsafe { set_bits(&raw mut (*shared).flags, table | CLIENT_SHARED) };
}

/// A table has room again.
#[inline(always)]
pub fn mark_room(table: u32) {
    if let Some(shared) = shared()
        && flags(shared) & table != 0
    {
        // SAFETY: a live map value, an aligned word.
        unsafe { clear_bits(&raw mut (*shared).flags, table) };
    }
}

/// The client of a TCP flow, made where it is missing; `again` where the flow is
/// older. What UDP already owed and counted comes along. `None` without room.
#[inline(always)]
pub fn of_tcp(key: &ClientKey, now: u64, again: bool) -> Option<*mut Client> {
    match CLIENTS.get_ptr_mut(key) {
        Some(client) => Some(client),
        None => make_tcp(key, now, again),
    }
}

/// A function of its own for the stack's sake.
#[inline(never)]
fn make_tcp(key: &ClientKey, now: u64, again: bool) -> Option<*mut Client> {
    let shared = shared()?;
    // Not for every packet: until one is forgotten there will be none.
    if again && flags(shared) & FULL_CLIENTS != 0 {
        return None;
    }
    let made = CLIENTS
        .insert(key, &EMPTY_CLIENT, BPF_NOEXIST.into())
        .is_ok();
    if let Some(client) = CLIENTS.get_ptr_mut(key) {
        if made {
            // SAFETY: a live map value. Its class is found with the first packet.
            unsafe { (*client).last_seen = now };
            if let Some(udp) = UDP_CLIENTS.get_ptr_mut(key) {
                bring(udp, client);
                let _ = UDP_CLIENTS.remove(key);
            }
            if again {
                count(Stat::ClientsRecreated, 1);
            }
        }
        return Some(client);
    }
    mark_full(shared, FULL_CLIENTS);
    count(Stat::ClientTableFull, 1);
    event(now, &key.addr, kind::TABLE_FULL, UPLOAD);
    None
}

/// Brings along what a client owed and counted by UDP alone.
#[inline(always)]
fn bring(udp: *const Client, client: *mut Client) {
    // SAFETY: both are live map values, the words aligned and independent of each
    // other; other CPUs may count already.
    unsafe {
        for direction in 0..2 {
            let (from, to) = (
                &raw const (*udp).traffic[direction],
                &raw mut (*client).traffic[direction],
            );
            if (*to).tat < (*from).tat {
                core::ptr::write_volatile(&raw mut (*to).tat, (*from).tat);
            }
            add(&raw mut (*to).bytes, (*from).bytes);
            add(&raw mut (*to).packets, (*from).packets);
            add(&raw mut (*to).dropped_bytes, (*from).dropped_bytes);
            add(&raw mut (*to).dropped_packets, (*from).dropped_packets);
            add(&raw mut (*client).held[direction], (*udp).held[direction]);
        }
        set_bits(&raw mut (*client).flags, (*udp).flags);
        // With the class that it owes to: to another it would be forgiven.
        let class = core::ptr::read_volatile((&raw const (*udp).class).cast::<u64>());
        core::ptr::write_volatile((&raw mut (*client).class).cast::<u64>(), class);
    }
}

/// The client of a flow had no room when it opened, and has now. A function of its
/// own for the stack's sake.
#[inline(never)]
pub fn count_late(flow: *mut Flow, client: *mut Client) {
    // SAFETY: both are live map values, the words aligned.
    unsafe {
        if clear_bits(&raw mut (*flow).flags, FLOW_UNCOUNTED) {
            fetch_add32(&raw mut (*client).connections, 1);
        }
    }
}

/// The client of a UDP flow, made in the bounded LRU where it is missing.
#[inline(always)]
pub fn of_udp(policy: Policy, key: &ClientKey, now: u64) -> Option<*mut Client> {
    match find(key) {
        Some(client) => Some(client),
        None => make_udp(policy, key, now),
    }
}

/// See [`make_tcp`]. The LRU always has room.
#[inline(never)]
fn make_udp(policy: Policy, key: &ClientKey, now: u64) -> Option<*mut Client> {
    let mut fresh = Client::default();
    prepare(&mut fresh, policy, key, now);
    let _ = UDP_CLIENTS.insert(key, &fresh, BPF_NOEXIST.into());
    UDP_CLIENTS.get_ptr_mut(key)
}

#[inline(always)]
pub fn prepare(client: &mut Client, policy: Policy, key: &ClientKey, now: u64) {
    client.last_seen = now;
    client.generation = policy.generation;
    client.class = Policy::rule(policy.generation, key);
}

/// The client's class; looked up by prefix once per policy generation.
#[inline(always)]
pub fn class_of(policy: Policy, key: &ClientKey, client: *mut Client) -> Option<&'static Class> {
    // SAFETY: `client` is a live map value, whose class and generation make one
    // aligned word. Read and written as one, they always belong together, though
    // two CPUs may be on either side of a switch.
    let word = unsafe { core::ptr::read_volatile((&raw const (*client).class).cast::<u64>()) };
    if (word >> 32) as u32 == policy.generation {
        return policy.class(word as u32);
    }
    renew(policy, key, client)
}

/// A function of its own for the stack's sake.
#[inline(never)]
fn renew(policy: Policy, key: &ClientKey, client: *mut Client) -> Option<&'static Class> {
    let index = Policy::rule(policy.generation, key);
    let class = policy.class(index)?;
    if flags(client) & CLIENT_SHARED != 0 {
        renew_shared(policy, client);
        return Some(class);
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: `client` is a live map value; for the last word see `class_of`.
    unsafe {
        let upload = MapWord::new(&raw mut (*client).traffic[0].tat);
        upload.forgive(now, &class.upload);
        let download = MapWord::new(&raw mut (*client).traffic[1].tat);
        download.forgive(now, &class.download);
        let word = u64::from(policy.generation) << 32 | u64::from(index);
        core::ptr::write_volatile((&raw mut (*client).class).cast::<u64>(), word);
    }
    group::forgive(class, now);
    Some(class)
}

/// The shared client is of no class: every packet is charged by its own. What it
/// owes under one policy is not held against it under the next.
#[inline(always)]
fn renew_shared(policy: Policy, client: *mut Client) {
    // SAFETY: `client` is a live map value, the words aligned. Two CPUs may do it
    // at once.
    unsafe {
        if core::ptr::read_volatile(&raw const (*client).class) == policy.generation {
            return;
        }
        core::ptr::write_volatile(&raw mut (*client).class, policy.generation);
        core::ptr::write_volatile(&raw mut (*client).traffic[0].tat, 0);
        core::ptr::write_volatile(&raw mut (*client).traffic[1].tat, 0);
    }
}

/// Changes a share word by `next`, and counts whose it is among the active ones
/// where that says so.
#[inline(always)]
pub fn share(
    share: *mut u64,
    active: *mut u64,
    now: u64,
    direction: u32,
    next: impl Fn(u64) -> (u64, bool),
) {
    // SAFETY: both are words of live map values. Two CPUs may write the share at
    // once: then it counts a packet later.
    unsafe {
        let (word, counted) = next(*share);
        *share = word;
        if counted {
            MapWord::new(active).count_active(now, direction);
        }
    }
}

/// [`share`] of a flow, among those of its client.
#[inline(always)]
pub fn share_flow<const DIR: usize>(
    flow: *mut Flow,
    client: *mut Client,
    now: u64,
    next: impl Fn(u64) -> (u64, bool),
) {
    // SAFETY: both are live map values.
    let (word, active) = unsafe { (&raw mut (*flow).share[DIR], &raw mut (*client).active) };
    share(word, active, now, DIR as u32, next);
}

/// Flows of the client that are active in a direction.
#[inline(always)]
pub fn active<const DIR: usize>(client: *const Client, now: u64) -> u64 {
    // SAFETY: a live map value, an aligned word.
    let active = unsafe { core::ptr::read_volatile(&raw const (*client).active) };
    share::active(active, now, DIR as u32)
}

/// Whether the client still has a reason to be remembered: a connection, a
/// bucket that is not full, or a packet since `since`.
#[inline(always)]
pub fn owes(client: *const Client, now: u64, since: u64) -> bool {
    // SAFETY: `client` is a live map value; each word is read by itself.
    unsafe {
        (*client).connections != 0
            || (*client).last_seen > since
            || bucket::debt((*client).traffic[0].tat, now) != 0
            || bucket::debt((*client).traffic[1].tat, now) != 0
    }
}
