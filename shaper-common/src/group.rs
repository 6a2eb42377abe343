//! Groups: the clients of one rule, which share a limit above their own.

use crate::flow::Traffic;

/// Most rules that bound their clients together.
pub const MAX_GROUPS: u32 = 1024;
/// Most clients whose share of their group is known; the least recently used leave
/// first, and begin again as one that has taken nothing.
pub const MAX_MEMBERS: u32 = 16_384;

/// All clients of a rule together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Indexed by [`crate::flow::UPLOAD`] and [`crate::flow::DOWNLOAD`]. What was
    /// dropped is counted where the group's limit refused it.
    pub traffic: [Traffic; 2],
    /// How many of the clients are active; see [`crate::share`].
    pub active: u64,
}

/// A client as a member of its group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What the client took of the group's limit; see [`crate::share`].
    pub share: [u64; 2],
}

impl Member {
    /// Has taken nothing.
    pub const NEW: Self = Self { share: [0; 2] };
}

const _: () = assert!(size_of::<Group>() == 88);
