//! Requests of the daemon that the kernel carries out itself, through
//! `BPF_PROG_TEST_RUN` of a program that is attached nowhere: so that what
//! opens, closes or forgets is the same code, with the same atomics, that the
//! sockets' own events run.

use crate::bucket::Limit;
use crate::flow::Traffic;
use crate::key::FlowKey;

/// What to do.
pub mod op {
    /// Track an open connection: [`super::Control::key`]. The value is the scale
    /// of the window that it offers and 1 more; 0 where that is not known. One
    /// that is tracked already learns its scale.
    pub const ADOPT: u32 = 1;
    /// Stop tracking a connection that is gone.
    pub const CLOSE: u32 = 2;
    /// Remove the client `key.client` if it has no connection, owes nothing and
    /// was not seen since [`super::Control::value`] (ktime in ns).
    pub const FORGET: u32 = 3;
    /// Set the number of connections of the client `key.client` to
    /// [`super::Control::value`].
    pub const COUNT: u32 = 4;
    /// Limit one connection to [`super::Control::limits`], beside what its client
    /// is held to.
    pub const LIMIT: u32 = 5;
    /// Add what another table had to the flow `key`, or where that names no
    /// protocol to the client `key.client`: [`super::Control::traffic`], `held`
    /// and `edges`. Done once for each entry, however often it is asked; `value`
    /// is since when this table is used (ktime in ns).
    pub const MERGE: u32 = 6;
    /// Add [`super::Control::value`] to the counter [`super::Control::index`].
    pub const STAT: u32 = 7;
    /// Set the number of connections without a flow of their own to the lower half
    /// of [`super::Control::value`]; the tables named by the upper half
    /// ([`crate::flow::FULL_FLOWS`], [`crate::flow::FULL_CLIENTS`]) have room.
    pub const OVERFLOW: u32 = 16;
}

/// The program did what was asked.
pub const DONE: u32 = 1;

/// A request, the whole payload of the test run. It starts where an Ethernet
/// header would, because the kernel insists on one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Always zero: an unknown EtherType.
    pub _ethernet: [u32; 4],
    /// One of [`op`].
    pub op: u32,
    /// For [`op::STAT`]: which counter.
    pub index: u32,
    /// Depends on the operation.
    pub value: u64,
    /// The flow, or in `key.client` the client.
    pub key: FlowKey,
    /// For [`op::LIMIT`], by direction; unset: none.
    pub limits: [Limit; 2],
    /// For [`op::MERGE`]: the counters to add, and in the place of a bucket what
    /// is owed beside what the entry owes already, in ns.
    pub traffic: [Traffic; 2],
    /// For [`op::MERGE`] of a client, as [`crate::flow::Client::held`].
    pub held: [u64; 2],
    /// For [`op::MERGE`] of a TCP flow whose window was set: its
    /// [`crate::flow::Flow::edge`] and `honoured`; equal to 0 where it was not.
    pub edges: [u32; 2],
}

const _: () = assert!(size_of::<Control>() == 208);
