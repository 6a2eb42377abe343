//! Plain TCP and UDP between namespaces, and meters for both.

pub mod meter;
pub mod ping;
pub mod rude;
pub mod tcp;
pub mod udp;

pub use meter::Meter;
