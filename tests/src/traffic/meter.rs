//! Bytes over time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(100);
const WINDOWS: usize = 6_000;

/// Counts bytes per 100 ms, for ten minutes.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    total: AtomicU64,
    /// Of the first byte, in ns since `started`; 0: none yet.
    first: AtomicU64,
    windows: Vec<AtomicU64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            total: AtomicU64::new(0),
            first: AtomicU64::new(0),
            windows: (0..WINDOWS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Meter {
    fn window(&self, at: Instant) -> usize {
        let elapsed = at.saturating_duration_since(self.started);
        (elapsed.as_millis() / WINDOW.as_millis()) as usize
    }

    /// Adds bytes that arrived now.
    pub fn add(&self, bytes: usize) {
        if self.total.fetch_add(bytes as u64, Relaxed) == 0 && bytes > 0 {
            let nanos = self.started.elapsed().as_nanos() as u64;
            self.first.store(nanos.max(1), Relaxed);
        }
        if let Some(window) = self.windows.get(self.window(Instant::now())) {
            window.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// All bytes so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// When the first byte came.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        match self.first.load(Relaxed) {
            0 => None,
            nanos => Some(self.started + Duration::from_nanos(nanos)),
        }
    }

    /// Bits per second between two moments, cut to whole windows.
    #[must_use]
    pub fn rate_bps(&self, from: Instant, to: Instant) -> f64 {
        let (first, last) = (self.window(from) + 1, self.window(to));
        let windows = self.windows.get(first..last).unwrap_or_default();
        let bytes: u64 = windows.iter().map(|window| window.load(Relaxed)).sum();
        let seconds = windows.len() as f64 * WINDOW.as_secs_f64();
        if seconds > 0.0 {
            bytes as f64 * 8.0 / seconds
        } else {
            0.0
        }
    }
}
