//! The map types as plain old data, for aya's typed maps and for casting the
//! bytes of batched reads.

use crate::bucket::Limit;
use crate::class::{Class, Settings};
use crate::control::Control;
use crate::event::{Event, WindowUpdate};
use crate::flow::{Client, Flow, Handshake, Traffic};
use crate::group::{Group, Member};
use crate::key::{ClientKey, FlowKey, RuleKey};

macro_rules! pod {
    ($($t:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)`, integers and arrays of integers only, and no
        // implicit padding (the sizes are asserted beside each type).
        unsafe impl bytemuck::Zeroable for $t {}
        // SAFETY: as above; every bit pattern is valid.
        unsafe impl bytemuck::Pod for $t {}
        // SAFETY: as above.
        unsafe impl aya::Pod for $t {}
    )+};
}

pod!(
    Limit,
    Class,
    Settings,
    Control,
    Event,
    WindowUpdate,
    Traffic,
    Flow,
    Client,
    Handshake,
    Group,
    Member,
    ClientKey,
    FlowKey,
    RuleKey
);
