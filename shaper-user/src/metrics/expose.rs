//! Named values as text: OpenMetrics, or the older format for who asks for no other.

use super::families::{Family, Kind, families};
use super::snapshot::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// The two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What a client asks for by its `Accept` header.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What the answer is called.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// A snapshot as text.
///
/// # Errors
/// Never: a string takes everything.
pub fn expose(snapshot: &Snapshot, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_with_unit(
        "shaper_sample_duration",
        "What reading the kernel's tables took",
        Unit::Seconds,
        snapshot.health.sample.clone(),
    );
    registry.register_with_unit(
        "shaper_loop_lag",
        "How much later than due the kernel's tables were read",
        Unit::Seconds,
        snapshot.health.lag.clone(),
    );
    registry.register_collector(Box::new(Families(families(snapshot))));
    let mut out = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut out, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut out, &registry)?,
    }
    Ok(out)
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.values.is_empty()) {
            let (name, unit) = unit(&family.name);
            let kind = match family.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
                Kind::Info => MetricType::Info,
            };
            // As the registry writes its own.
            let help = format!("{}.", family.help);
            let mut metric = encoder.encode_descriptor(name, &help, unit.as_ref(), kind)?;
            for (labels, value) in &family.values {
                match family.kind {
                    Kind::Info => metric.encode_info(labels)?,
                    // An empty set of labels would be written as one.
                    _ if labels.is_empty() => value_of(&mut metric, family.kind, *value)?,
                    kind => value_of(&mut metric.encode_family(labels)?, kind, *value)?,
                }
            }
        }
        Ok(())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number from zero on, and cut at the largest"
)]
fn value_of(metric: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> fmt::Result {
    match kind {
        Kind::Counter if value.fract() == 0.0 && value >= 0.0 => {
            metric.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None)
        }
        Kind::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge | Kind::Info => metric.encode_gauge(&value),
    }
}

/// The unit that a name ends with is given apart.
fn unit(name: &str) -> (&str, Option<Unit>) {
    let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
    for (suffix, unit) in units {
        if let Some(name) = name.strip_suffix(suffix) {
            return (name, Some(unit));
        }
    }
    (name, None)
}
