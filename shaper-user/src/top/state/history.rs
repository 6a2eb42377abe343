//! The last minute of a client, a flow or the host, second by second.

use std::collections::VecDeque;

/// Seconds that are remembered.
pub const MINUTE: usize = 60;
/// Weight of the newest sample in the smoothed rate: a time constant of about
/// three seconds.
const NEWEST: f64 = 0.3;

/// Upload and download rate in bits per second.
pub type Rates = [u64; 2];

/// At most [`MINUTE`] samples, one a second; `None` where nothing was heard.
#[derive(Clone, Debug, Default)]
pub struct Past {
    samples: VecDeque<Option<Rates>>,
    /// The second of the newest sample.
    second: i64,
    smooth: [f64; 2],
    /// What the row is sorted by, see [`super::list`].
    pub held: Option<f64>,
}

impl Past {
    /// Takes a sample of second `second`, averaged over `span` seconds. A gap
    /// of one sample is the two clocks drifting, and is filled; a longer one
    /// stays a gap.
    pub fn push(&mut self, second: i64, span: u64, rates: Rates) {
        let gap = second.saturating_sub(self.second);
        if self.samples.is_empty() || gap < 0 {
            self.samples.clear();
            self.smooth = rates.map(to_f64);
        } else if gap == 0 {
            self.samples.pop_back();
        } else {
            let fill = (gap.unsigned_abs() <= span.saturating_add(1)).then_some(rates);
            for _ in 1..gap.min(MINUTE as i64) {
                self.add(fill);
            }
        }
        if gap != 0 {
            for (smooth, rate) in self.smooth.iter_mut().zip(rates) {
                *smooth += NEWEST * (to_f64(rate) - *smooth);
            }
        }
        self.second = second;
        self.add(Some(rates));
    }

    fn add(&mut self, sample: Option<Rates>) {
        if self.samples.len() == MINUTE {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Whether nothing was heard for a minute before `second`.
    pub fn is_stale(&self, second: i64) -> bool {
        second.saturating_sub(self.second) > MINUTE as i64
    }

    /// Upload and download rate, smoothed.
    pub fn smooth(&self) -> [f64; 2] {
        self.smooth
    }

    /// The last minute in at most `width` cells, each the mean of what `of` picks.
    /// Cells start at whole multiples of their length, so that they scroll but
    /// never shimmer.
    pub fn cells(&self, width: usize, of: impl Fn(Rates) -> u64) -> Vec<Option<u64>> {
        let width = width.clamp(1, MINUTE);
        // As many cells as the minute fills with whole seconds.
        let length = MINUTE.div_ceil(width);
        let width = MINUTE.div_ceil(length);
        let length = length as i64;
        let last = self.second.div_euclid(length);
        let first_second = self.second - self.samples.len() as i64 + 1;
        let mut sums = vec![(0_u64, 0_u64); width];
        for (second, sample) in (first_second..).zip(&self.samples) {
            let back = last - second.div_euclid(length);
            let cell = usize::try_from(back)
                .ok()
                .and_then(|back| (width - 1).checked_sub(back));
            if let (Some(cell), Some(rates)) = (cell, sample) {
                sums[cell].0 = sums[cell].0.saturating_add(of(*rates));
                sums[cell].1 += 1;
            }
        }
        sums.into_iter()
            .map(|(sum, n)| sum.checked_div(n))
            .collect()
    }
}

/// A rate as the smoothing counts; exact to 2^53.
#[allow(clippy::cast_precision_loss)]
pub fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(samples: &[(i64, u64)]) -> Past {
        let mut past = Past::default();
        for (second, rate) in samples {
            past.push(*second, 1, [*rate, 0]);
        }
        past
    }

    #[test]
    fn a_minute_is_kept_and_no_more() {
        let mut past = Past::default();
        for second in 0..500 {
            past.push(second, 1, [second as u64, 1]);
        }
        let cells = past.cells(60, |r| r[0]);
        assert_eq!(cells.len(), 60);
        assert_eq!(cells[0], Some(440));
        assert_eq!(cells[59], Some(499));
    }

    #[test]
    fn a_short_gap_is_filled_and_a_long_one_shown() {
        let past = past(&[(100, 10), (102, 30), (110, 50), (110, 60)]);
        let cells = past.cells(60, |r| r[0]);
        assert_eq!(cells[59], Some(60), "the same second is replaced");
        assert_eq!(cells[58], None);
        assert_eq!(cells[52], None);
        assert_eq!(cells[51], Some(30));
        assert_eq!(cells[50], Some(30), "one missing sample is filled");
        assert_eq!(cells[49], Some(10));
        assert_eq!(cells[48], None);
    }

    #[test]
    fn narrow_cells_are_means_of_fixed_spans() {
        // 12 cells of 5 s: second 124 closes the cell 120..=124.
        let samples: Vec<_> = (110..125).map(|s| (s, (s as u64 - 110) * 10)).collect();
        let cells = past(&samples).cells(12, |r| r[0]);
        assert_eq!(&cells[9..], [Some(20), Some(70), Some(120)]);
        // One second later everything moved by one whole cell.
        let samples: Vec<_> = (110..126).map(|s| (s, (s as u64 - 110) * 10)).collect();
        let cells = past(&samples).cells(12, |r| r[0]);
        assert_eq!(&cells[8..], [Some(20), Some(70), Some(120), Some(150)]);
    }

    #[test]
    fn cells_are_as_many_as_whole_seconds_fill() {
        let past = past(&[(1, 1)]);
        for (width, cells) in [(1, 1), (12, 12), (29, 20), (59, 30), (60, 60), (200, 60)] {
            assert_eq!(past.cells(width, |r| r[0]).len(), cells, "{width}");
        }
    }

    #[test]
    fn a_clock_set_back_starts_anew() {
        let past = past(&[(100, 10), (50, 20)]);
        let cells = past.cells(60, |r| r[0]);
        assert_eq!(cells[59], Some(20));
        assert!(cells[..59].iter().all(Option::is_none));
    }

    #[test]
    fn smoothing_follows_slowly() {
        let past = past(&[(1, 100), (2, 200)]);
        assert!((past.smooth()[0] - 130.0).abs() < 1e-9);
    }
}
