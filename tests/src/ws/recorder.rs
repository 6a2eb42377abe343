//! Latencies by phase.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where echo latencies are recorded, apart for each phase of a run.
#[derive(Debug)]
pub struct Recorder {
    /// Index of the phase, plus one; 0: nothing is recorded.
    phase: AtomicUsize,
    phases: Mutex<Vec<Histogram<u64>>>,
}

impl Recorder {
    /// For so many phases; recording starts with [`Recorder::record_into`].
    ///
    /// # Errors
    /// When a histogram cannot be made.
    pub fn new(phases: usize) -> anyhow::Result<Self> {
        // Microseconds up to a minute, to three digits.
        let phases = (0..phases)
            .map(|_| Histogram::new_with_max(60_000_000, 3).map_err(Into::into))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            phase: AtomicUsize::new(0),
            phases: Mutex::new(phases),
        })
    }

    /// Records what is sent from now on into a phase, or nowhere.
    pub fn record_into(&self, phase: Option<usize>) {
        self.phase.store(phase.map_or(0, |n| n + 1), Relaxed);
    }

    /// The phase that a message sent now belongs to.
    pub(super) fn phase(&self) -> Option<usize> {
        self.phase.load(Relaxed).checked_sub(1)
    }

    pub(super) fn record(&self, phase: Option<usize>, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = phase.and_then(|phase| phases.get_mut(phase)) {
            histogram.saturating_record(micros);
        }
    }

    /// The latency in ms that a share of the messages did not exceed, and how
    /// many there were.
    #[must_use]
    pub fn quantile_ms(&self, phase: usize, quantile: f64) -> (f64, u64) {
        let phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        phases.get(phase).map_or((0.0, 0), |histogram| {
            (
                histogram.value_at_quantile(quantile) as f64 / 1e3,
                histogram.len(),
            )
        })
    }
}
