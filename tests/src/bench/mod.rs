//! The benchmarks.

pub mod balance;
pub mod conformance;
mod cost;
mod cpu;
pub mod flood;
mod history;
pub mod isolation;
pub mod join;
pub mod proxy_cost;
mod report;
mod sampling;
mod upload;

pub use cost::cost;
pub use history::history;
pub use sampling::sampling;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const ROUNDS: usize = 9;

const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 7);

/// Median, and the smallest.
fn summary(times: &mut [Duration]) -> (u128, u128) {
    times.sort_unstable();
    (times[times.len() / 2].as_nanos(), times[0].as_nanos())
}
