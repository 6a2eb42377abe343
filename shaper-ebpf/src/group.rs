//! The limit that the clients of a rule share: one more bucket above the client's,
//! shared among the clients as a client's is among its flows.

use crate::atomic::{MapWord, add};
use crate::charge::{Charge, Sent, leeway_of};
use crate::maps::{EMPTY_MEMBER, GROUPS, MEMBERS};
use crate::traffic::{Hop, Size, add_to};
use crate::window::Terms;
use crate::{client, global};
use aya_ebpf::bindings::BPF_NOEXIST;
use shaper_common::backpressure::Leeway;
use shaper_common::bucket::{self, Limit};
use shaper_common::class::{CLASS_EXEMPT, Class};
use shaper_common::flow::{Client, UPLOAD};
use shaper_common::group::{Group, Member};
use shaper_common::key::ClientKey;
use shaper_common::share;

/// The limit of a class' clients together.
#[inline(always)]
pub const fn limit<const DIR: usize>(class: &Class) -> &Limit {
    if DIR == UPLOAD as usize {
        &class.group_upload
    } else {
        &class.group_download
    }
}

/// The group of a class that has such a limit in this direction.
#[inline(always)]
pub fn of<const DIR: usize>(class: &Class) -> Option<*mut Group> {
    if !limit::<DIR>(class).is_set() || class.flags & CLASS_EXEMPT != 0 {
        return None;
    }
    GROUPS.get_ptr_mut(class.group)
}

/// The client as a member; made where it is missing, and `None` only if that fails.
#[inline(never)]
pub fn member(key: &ClientKey) -> Option<*mut Member> {
    // On the stack: 6.1 takes no key out of what a global function was given.
    let key = *key;
    if let Some(member) = MEMBERS.get_ptr_mut(&key) {
        return Some(member);
    }
    let _ = MEMBERS.insert(&key, &EMPTY_MEMBER, BPF_NOEXIST.into());
    MEMBERS.get_ptr_mut(&key)
}

/// The group's bucket in a direction.
#[inline(always)]
fn word<const DIR: usize>(group: *mut Group) -> MapWord {
    // SAFETY: a live map value, its first word aligned.
    unsafe { MapWord::new(&raw mut (*group).traffic[DIR].tat) }
}

/// What the group owes.
#[inline(always)]
pub fn debt<const DIR: usize>(group: *const Group, now: u64) -> u64 {
    // SAFETY: a live map value, an aligned word.
    let tat = unsafe { core::ptr::read_volatile(&raw const (*group).traffic[DIR].tat) };
    bucket::debt(tat, now)
}

/// Clients of the group that are active in a direction.
#[inline(always)]
pub fn active<const DIR: usize>(group: *const Group, now: u64) -> u64 {
    // SAFETY: a live map value, an aligned word.
    let active = unsafe { core::ptr::read_volatile(&raw const (*group).active) };
    share::active(active, now, DIR as u32)
}

/// Charges the group of a packet, if it has one, and says what it cost; `false`
/// where it refused.
#[inline(always)]
pub fn charge<const DIR: usize>(
    sent: &Sent,
    class: &Class,
    leeway: Leeway,
    charge: &mut Charge,
) -> bool {
    let limit = limit::<DIR>(class);
    !limit.is_set() || shaper_charge_group(sent, limit, class.group, leeway as u32, charge) != 0
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_charge_group(
    sent: *const Sent,
    limit: *const Limit,
    group: u32,
    leeway: u32,
    charge: *mut Charge,
) -> u32 {
    // SAFETY: null, or the caller's references.
    let (sent, limit, charge) = unsafe { (sent.as_ref(), limit.as_ref(), charge.as_mut()) };
    let (Some(sent), Some(limit), Some(charge)) = (sent, limit, charge) else {
        return 1;
    };
    let Some(group) = GROUPS.get_ptr_mut(group) else {
        return 1;
    };
    let direction = (sent.direction & 1) as usize;
    // SAFETY: a live map value.
    let (traffic, count) = unsafe {
        (
            &raw mut (*group).traffic[direction],
            &raw mut (*group).active,
        )
    };
    // SAFETY: as above, the word aligned.
    let word = unsafe { MapWord::new(&raw mut (*traffic).tat) };
    if !sent.take(&word, limit, leeway_of(leeway), charge) {
        // SAFETY: as above.
        unsafe {
            add(&raw mut (*traffic).dropped_bytes, sent.size.bytes);
            add(&raw mut (*traffic).dropped_packets, sent.size.packets);
        }
        return 0;
    }
    // SAFETY: as above.
    let active = unsafe {
        add_to(traffic, sent.size);
        core::ptr::read_volatile(count)
    };
    let active = share::active(active, sent.now, sent.direction & 1);
    charge.active = active as u32;
    if let Some(member) = member(&sent.key) {
        // SAFETY: a live map value.
        let share = unsafe { &raw mut (*member).share[direction] };
        client::share(share, count, sent.now, sent.direction & 1, |word| {
            share::take(word, sent.now, charge.cost, active, charge.debt)
        });
    }
    1
}

/// Charges what has passed already, before the client was known.
#[inline(never)]
pub fn charge_late<const DIR: usize>(class: &Class, now: u64, size: Size) {
    if let Some(group) = of::<DIR>(class) {
        word::<DIR>(group).charge(now, size.bytes, limit::<DIR>(class));
        // SAFETY: a live map value, aligned words.
        unsafe { add_to(&raw mut (*group).traffic[DIR], size) };
    }
}

/// Cuts debts to what the class allows; see [`bucket::forgive`].
#[inline(never)]
pub fn forgive(class: &Class, now: u64) -> u32 {
    const UP: usize = 0;
    const DOWN: usize = 1;
    if let Some(group) = of::<UP>(class) {
        word::<UP>(group).forgive(now, &class.group_upload);
    }
    if let Some(group) = of::<DOWN>(class) {
        word::<DOWN>(group).forgive(now, &class.group_download);
    }
    0
}

/// What the group's upload limit offers, if there is one. A function of its own for
/// the stack's sake.
#[inline(never)]
pub fn offer(hop: &Hop<'_>, class: &Class, client: *const Client, terms: &mut Terms) -> u32 {
    const UP: usize = UPLOAD as usize;
    let Terms { offer, offered } = terms;
    let Some(group) = of::<UP>(class) else {
        return 0;
    };
    let Some(member) = member(&hop.sent.key) else {
        return 0;
    };
    // SAFETY: a live map value, an aligned word.
    let taken = unsafe { core::ptr::read_volatile(&raw const (*member).share[UP]) };
    let flows = client::active::<UP>(client, hop.sent.now);
    offer.debt = debt::<UP>(group, hop.sent.now);
    offer.active = active::<UP>(group, hop.sent.now) * flows;
    // Of the client, as if its flows had taken the same each.
    offer.used = match flows {
        0 => 0,
        flows => share::used(taken, hop.sent.now) / flows,
    };
    offer.light |= !share::is_active(taken, hop.sent.now);
    global::tighter(&class.group_upload, offer, offered)
}

/// The client waits for its turn, and stays active.
#[inline(never)]
pub fn wait(hop: &Hop<'_>, class: &Class) -> u32 {
    const UP: u32 = UPLOAD;
    let Some(group) = of::<{ UP as usize }>(class) else {
        return 0;
    };
    if let Some(member) = member(&hop.sent.key) {
        // SAFETY: both are live map values.
        let (share, count) = unsafe { (&raw mut (*member).share[0], &raw mut (*group).active) };
        client::share(share, count, hop.sent.now, UP, |word| {
            share::wait(word, hop.sent.now)
        });
    }
    1
}
