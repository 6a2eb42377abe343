//! The one trait behind which maps, programs and sockets are, so that the
//! daemon and everything above it is tested without root.

pub mod attach;
mod choice;
mod connections;
mod detach;
pub mod ebpf;
mod full;
mod interfaces;
mod links;
pub mod maps;
mod migrate;
pub mod netlink;
pub mod place;
pub mod sockets;
mod support;
mod sweep;
pub mod sys;
mod updates;
mod visits;

use crate::model;
use crate::policy::{Compiled, RateLimit};
use anyhow::Result;
use ipnet::IpNet;
use shaper_common::event::Event;
use shaper_common::flow::{Client, Flow};
use shaper_common::group::Group;
use shaper_common::key::{ClientKey, FlowKey};
use shaper_common::stats::STATS_LEN;
use std::os::fd::OwnedFd;

/// Everything the kernel knows, read at one time.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// ktime in ns just before the maps were read.
    pub now: u64,
    /// Flows of TCP and UDP.
    pub flows: Vec<(FlowKey, Flow)>,
    /// Clients, with TCP or UDP or both.
    pub clients: Vec<(ClientKey, Client)>,
    /// The client that all those share which found no room.
    pub overflow: Client,
    /// By their place in [`Compiled::groups`].
    pub groups: Vec<Group>,
    /// By [`shaper_common::stats::Stat`], summed over the CPUs.
    pub stats: [u64; STATS_LEN],
    /// Events since the last sample.
    pub events: Vec<Event>,
}

/// What one connection is held to, beside what its client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimit {
    /// The connection.
    pub key: FlowKey,
    /// By direction; `None`: nothing.
    pub limits: [Option<RateLimit>; 2],
}

/// What the daemon needs of the kernel.
pub trait Kernel: Send {
    /// Reads all maps. Also removes flows whose close nobody announced.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn sample(&mut self) -> Result<Sample>;

    /// Puts a compiled policy in force, in one step, for open connections too.
    /// A failure leaves the policy in force that was.
    ///
    /// # Errors
    /// When a map cannot be written or an interface cannot be attached to.
    fn apply(&mut self, compiled: &Compiled) -> Result<()>;

    /// The generation of the last [`Kernel::apply`]: clients with another one
    /// have not sent since.
    fn generation(&self) -> u32;

    /// Whose counters these are (a number for the network namespace and its tables), and
    /// whether they all began from zero when this kernel side was opened: it did not adopt
    /// any of before.
    fn counters(&self) -> (u64, bool) {
        (0, false)
    }

    /// Removes clients that nothing refers to any more.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn forget(&mut self, clients: &[ClientKey]) -> Result<()>;

    /// Limits single connections; those that are gone are passed over.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn limit_flows(&mut self, limits: &[FlowLimit]) -> Result<()>;

    /// Closes the open connections of a prefix to watched ports, as
    /// `SOCK_DESTROY` does; returns how many.
    ///
    /// # Errors
    /// When `sock_diag` is not there or refuses.
    fn disconnect(&mut self, prefix: IpNet) -> Result<usize>;

    /// What is attached where.
    fn interfaces(&self) -> Vec<model::Interface>;

    /// Readable when there is something for [`Kernel::follow`].
    ///
    /// # Errors
    /// When there are too many descriptors.
    fn changes(&self) -> Result<OwnedFd>;

    /// Attaches to interfaces that have come, and lets go of those that went.
    /// [`Kernel::sample`] does it as well.
    fn follow(&mut self);

    /// Whether limits work by backpressure.
    fn backpressure(&self) -> model::Backpressure;

    /// Every table: how full it is, and what memory it takes.
    fn tables(&self) -> Vec<model::Table> {
        Vec::new()
    }

    /// What found no room in the tables.
    fn overflow(&self) -> model::Overflow {
        model::Overflow::default()
    }

    /// What is wrong just now, for people.
    fn warnings(&self) -> Vec<String>;
}
