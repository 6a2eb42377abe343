//! What the kernel programs and the daemon share: the layouts and names of the
//! maps, and the arithmetic of the token bucket. `no_std`, without dependencies
//! in the kernel; every type and name of the data path exists here once.
#![cfg_attr(not(test), no_std)]

pub mod backpressure;
pub mod bucket;
pub mod class;
pub mod control;
pub mod event;
pub mod flow;
pub mod group;
pub mod key;
pub mod names;
pub mod share;
pub mod stats;

#[cfg(feature = "user")]
mod pod;
