//! The daemon, its control socket, its command line and its dashboard.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`model`] | the stable JSON: what every reader of the daemon sees |
//! | [`protocol`] | requests and answers of the control socket |
//! | [`policy`] | the policy file: parsing, checking, compiling to classes |
//! | [`runtime`] | limits and blocks set while the daemon runs |
//! | [`kernel`] | the one trait behind which maps, programs and sockets are |
//! | [`cli`] | the command line |
//! | [`control`] | the control socket: server and client |
//! | [`addr`] | addresses between the kernel's form and `std::net` |
//! | [`quota`] | byte quotas: what each client has used, and the store |
//! | [`sampler`] | from two samples of the kernel to rates and rows |
//! | [`daemon`] | `shaper run`: the loop, and what each command does |
//! | [`caps`] | limits by place, cut into limits of single connections |
//! | [`events`] | what happened, for the log and for those who follow |
//! | [`metrics`] | what is known, for Prometheus |
//! | [`history`] | the last hours by the minute, in a bounded store |
//! | [`haproxy`] | HAProxy's side of a flow: where it is pinned |
//! | [`render`] | answers for people: tables, units, colour |
//! | [`filter`] | which rows a query is about |
//! | [`top`] | the dashboard |
//! | [`steps`] | wherever a crash would leave something half done |

pub mod addr;
pub mod caps;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod events;
pub mod filter;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
pub mod haproxy;
pub mod history;
pub mod kernel;
pub mod listening;
pub mod metrics;
pub mod model;
pub mod policy;
mod private;
pub mod protocol;
pub mod quota;
mod redb_file;
pub mod render;
pub mod runtime;
pub mod sampler;
pub mod steps;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod top;
