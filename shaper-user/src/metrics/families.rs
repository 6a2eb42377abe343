//! From a snapshot to named values. A name is as Prometheus has it, but for the
//! `_total` of a counter, which belongs to the format.

mod haproxy;
mod host;
mod policy;

use super::snapshot::Snapshot;
use jiff::Timestamp;

/// Rules, and servers, that have series of their own.
pub const MOST: usize = 1000;

/// Labels of one value.
pub type Labels = Vec<(&'static str, String)>;

/// How values are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It goes up; from zero after a restart.
    Counter,
    /// Only its labels say something.
    Info,
}

/// A metric with all its values.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub help: &'static str,
    /// How it is meant.
    pub kind: Kind,
    /// By labels.
    pub values: Vec<(Labels, f64)>,
}

/// Every metric. Those without a value are there as well.
#[must_use]
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut all = All(Vec::new());
    host::daemon(&mut all, snapshot);
    host::totals(&mut all, snapshot);
    host::kernel(&mut all, snapshot);
    host::interfaces(&mut all, &snapshot.status.interfaces);
    policy::rules(&mut all, snapshot);
    policy::groups(&mut all, &snapshot.status.groups);
    haproxy::haproxy(&mut all, &snapshot.status.haproxy);
    haproxy::servers(&mut all, &snapshot.servers);
    policy::clients(&mut all, snapshot);
    all.0
}

struct All(Vec<Family>);

impl All {
    fn add(
        &mut self,
        kind: Kind,
        name: impl Into<String>,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.0.push(Family {
            name: name.into(),
            help,
            kind,
            values: values.into_iter().collect(),
        });
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Gauge, name, help, values);
    }

    fn counter(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Counter, name, help, values);
    }
}

/// A value without labels.
fn one(value: impl Into<Option<u64>>) -> Option<(Labels, f64)> {
    value.into().map(|value| (Vec::new(), number(value)))
}

/// Exact up to 2^53: nine petabytes.
#[allow(clippy::cast_precision_loss)]
const fn number(value: u64) -> f64 {
    value as f64
}

/// A rate in bytes a second, the base unit.
fn rate(bits: u64) -> f64 {
    number(bits) / 8.0
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1000.0
}

#[allow(clippy::cast_precision_loss)]
fn time(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

const DIRECTIONS: [&str; 2] = ["upload", "download"];

/// The values of both directions, as far as there are any, under the labels that
/// are given and `direction`.
fn by_direction<V: Into<Option<f64>>>(labels: &Labels, values: [V; 2]) -> Vec<(Labels, f64)> {
    let values = values.into_iter().zip(DIRECTIONS);
    let labelled = values.filter_map(|(value, direction)| {
        let mut labels = labels.clone();
        labels.push(("direction", direction.to_owned()));
        Some((labels, value.into()?))
    });
    labelled.collect()
}
