//! Metrics for Prometheus: what the daemon knows as OpenMetrics, over HTTP.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`snapshot`] | everything that metrics are made of, at one time |
//! | [`families`] | from a snapshot to named values |
//! | [`process`] | what the daemon itself takes |
//! | [`expose`] | named values as text |
//! | [`exporter`] | the HTTP listener |
//!
//! `docs/metrics.md` says what each is. Of clients only the busiest have series, so
//! that their number is bounded however many clients there are.

pub mod exporter;
pub mod expose;
pub mod families;
mod help;
pub mod process;
pub mod snapshot;

pub use exporter::{Exporter, Source};
pub use snapshot::{Health, Snapshot};

#[cfg(test)]
mod tests;
