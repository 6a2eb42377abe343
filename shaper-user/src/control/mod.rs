//! The control socket: [`crate::protocol`] over a Unix stream socket.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`request`] | one line to one command, checked |
//! | [`socket`] | the listening socket: its place, mode, group and end |
//! | [`server`] | connections: their limits, and who is on the other side |
//! | `trust` | whether a directory is safe for the daemon's files |
//! | [`client`] | what the commands and the dashboard use |

pub mod client;
pub mod lock;
pub mod request;
pub mod server;
pub mod socket;
mod trust;
