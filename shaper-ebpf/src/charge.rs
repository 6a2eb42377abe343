//! Charging a packet to its flow, its client and its client's group: to all of them
//! or to none. Global functions, so that the verifier looks at them once; see
//! [`crate::global`].

use crate::atomic::{MapWord, add, clear_bits, set_bits};
use crate::client::{self, flags};
use crate::group;
use crate::policy::class_limit;
use crate::report::event;
use crate::traffic::Size;
use shaper_common::backpressure::{Leeway, hard};
use shaper_common::bucket::{self, Limit, Word as _};
use shaper_common::class::{CLASS_EXEMPT, Class};
use shaper_common::event::kind;
use shaper_common::flow::{CLIENT_LIMITED, CLIENT_SHARED, Client, DOWNLOAD, Flow, UPLOAD};
use shaper_common::key::ClientKey;
use shaper_common::share;

/// A packet as it is charged. It holds no pointers: to the verifier it is so many
/// bytes.
#[repr(C)]
pub struct Sent {
    /// Whose it is.
    pub key: ClientKey,
    pub size: Size,
    pub now: u64,
    pub direction: u32,
    /// A byte limit may drop it: it carries payload, and opens or closes nothing.
    pub droppable: bool,
}

/// What a packet cost one bucket, or several of them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Charge {
    /// What the bucket owes now, in ns.
    pub debt: u64,
    /// What the packet cost, in ns: all of the debt, where the bucket was full.
    pub cost: u64,
    /// Among how many a group is shared.
    pub active: u32,
    /// Three quarters of the burst are used.
    pub near: bool,
}

impl Charge {
    /// With another bucket, whichever owes more: the client is held by that.
    #[inline(always)]
    const fn with(&self, other: &Self) -> Self {
        let more = if other.debt > self.debt { other } else { self };
        Self {
            near: self.near || other.near,
            ..*more
        }
    }
}

impl Sent {
    /// Charges a bucket, where there is a limit; `false` where it refused.
    #[inline(always)]
    pub fn take(&self, word: &MapWord, limit: &Limit, leeway: Leeway, charge: &mut Charge) -> bool {
        if !limit.is_set() {
            return true;
        }
        let verdict = if self.droppable {
            word.admit(self.now, self.size.bytes, &hard(limit, leeway))
        } else {
            word.charge(self.now, self.size.bytes, limit)
        };
        let bucket::Verdict::Admitted { debt, cost } = verdict else {
            return false;
        };
        if leeway == Leeway::Any {
            word.forgive(self.now, &hard(limit, Leeway::Window));
        }
        *charge = Charge {
            debt,
            cost,
            active: 0,
            near: debt > limit.tau - limit.tau / 4,
        };
        true
    }

    /// Takes a charge back where another bucket refused.
    #[inline(always)]
    fn refund(&self, word: &MapWord, limit: &Limit) {
        if limit.is_set() {
            bucket::refund(word, self.size.bytes, limit);
        }
    }
}

/// Charges a packet of a flow; `false` where a limit refused it.
#[inline(always)]
pub fn flow(
    flow: *mut Flow,
    client: *mut Client,
    class: &Class,
    sent: &Sent,
    leeway: Leeway,
) -> bool {
    shaper_charge(flow, client, class, sent, leeway as u32) != 0
}

/// Charges a packet of a client that is of no flow. A class that limits each flow
/// alone, and not their clients, holds all of these as one.
#[inline(always)]
pub fn client(client: *mut Client, class: &Class, sent: &Sent) -> bool {
    shaper_charge(
        core::ptr::null_mut(),
        client,
        class,
        sent,
        Leeway::None as u32,
    ) != 0
}

/// A [`Leeway`] by its number.
#[inline(always)]
pub const fn leeway_of(number: u32) -> Leeway {
    match number {
        1 => Leeway::Window,
        2 => Leeway::Any,
        _ => Leeway::None,
    }
}

// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_charge(
    flow: *mut Flow,
    client: *mut Client,
    class: *const Class,
    sent: *const Sent,
    leeway: u32,
) -> u32 {
    // SAFETY: null, or the caller's references.
    let (Some(class), Some(sent)) = (unsafe { (class.as_ref(), sent.as_ref()) }) else {
        return 1;
    };
    if client.is_null() || class.flags & CLASS_EXEMPT != 0 {
        return 1;
    }
    let admitted = if sent.direction == UPLOAD {
        charge::<{ UPLOAD as usize }>(flow, client, class, sent, leeway_of(leeway))
    } else {
        charge::<{ DOWNLOAD as usize }>(flow, client, class, sent, leeway_of(leeway))
    };
    admitted.into()
}

#[inline(always)]
fn charge<const DIR: usize>(
    flow: *mut Flow,
    client: *mut Client,
    class: &Class,
    sent: &Sent,
    leeway: Leeway,
) -> bool {
    let mut charge = Charge::default();
    let mut own = Limit::NONE;
    let mut limit = if DIR == UPLOAD as usize {
        &class.upload
    } else {
        &class.download
    };
    if !flow.is_null() {
        own = crate::policy::flow_limit::<DIR>(class, flow);
        // SAFETY: a live map value, its first word aligned.
        let word = unsafe { MapWord::new(&raw mut (*flow).traffic[DIR].tat) };
        if !sent.take(&word, &own, leeway, &mut charge) {
            return false;
        }
        charge = Charge::default();
    } else if !limit.is_set() {
        limit = class_limit::<DIR>(class);
    }
    // SAFETY: a live map value, its first word aligned.
    let word = unsafe { MapWord::new(&raw mut (*client).traffic[DIR].tat) };
    let taken = sent.take(&word, limit, leeway, &mut charge);
    let mut group = Charge::default();
    if !taken || !group::charge::<DIR>(sent, class, leeway, &mut group) {
        if !flow.is_null() {
            // SAFETY: as above.
            let word = unsafe { MapWord::new(&raw mut (*flow).traffic[DIR].tat) };
            sent.refund(&word, &own);
        }
        if taken {
            sent.refund(&word, limit);
        }
        shaper_limited(client, sent, bucket::debt(word.load(), sent.now));
        return false;
    }
    if !flow.is_null() {
        share::<DIR>(flow, client, sent, &charge, &group);
    }
    let charge = charge.with(&group);
    if leeway != Leeway::None && charge.near {
        shaper_limited(client, sent, charge.debt);
    }
    if flags(client) & CLIENT_LIMITED << DIR != 0 {
        shaper_hold(client, sent, charge.debt, charge.cost);
    }
    true
}

/// What the flow took of the client's limit; without one, of the client's share of
/// the group's.
#[inline(always)]
fn share<const DIR: usize>(
    flow: *mut Flow,
    client: *mut Client,
    sent: &Sent,
    own: &Charge,
    group: &Charge,
) {
    let flows = client::active::<DIR>(client, sent.now);
    let (charge, active) = if own.cost != 0 {
        (own, flows)
    } else {
        (group, flows * u64::from(group.active))
    };
    if charge.cost != 0 {
        client::share_flow::<DIR>(flow, client, sent.now, |word| {
            share::take(word, sent.now, charge.cost, active, charge.debt)
        });
    }
}

/// The client is held, from now on, by a bucket that owes `debt`.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_limited(client: *mut Client, sent: *const Sent, debt: u64) -> u32 {
    // SAFETY: null, or the caller's reference.
    let Some(sent) = (unsafe { sent.as_ref() }) else {
        return 0;
    };
    let bit = CLIENT_LIMITED << (sent.direction & 1);
    if client.is_null() || flags(client) & bit != 0 {
        return 0;
    }
    // SAFETY: a live map value, its words aligned.
    if unsafe { set_bits(&raw mut (*client).flags, bit) } {
        held(client, sent, debt);
        tell(client, sent, kind::LIMITED);
    }
    1
}

/// Counts the time that a client is held, and ends it with a full bucket.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shaper_hold(client: *mut Client, sent: *const Sent, debt: u64, cost: u64) -> u32 {
    // SAFETY: null, or the caller's reference.
    let Some(sent) = (unsafe { sent.as_ref() }) else {
        return 0;
    };
    if client.is_null() {
        return 0;
    }
    if debt != cost {
        held(client, sent, cost);
        return 1;
    }
    let bit = CLIENT_LIMITED << (sent.direction & 1);
    // SAFETY: a live map value, an aligned word.
    if unsafe { clear_bits(&raw mut (*client).flags, bit) } {
        tell(client, sent, kind::RELEASED);
    }
    0
}

#[inline(always)]
fn held(client: *mut Client, sent: &Sent, nanos: u64) {
    let direction = (sent.direction & 1) as usize;
    // SAFETY: a live map value, an aligned word.
    unsafe { add(&raw mut (*client).held[direction], nanos) };
}

/// Of the shared client `status` tells: it is nobody in particular.
#[inline(always)]
fn tell(client: *const Client, sent: &Sent, kind: u32) {
    if flags(client) & CLIENT_SHARED == 0 {
        event(sent.now, &sent.key.addr, kind, sent.direction);
    }
}
