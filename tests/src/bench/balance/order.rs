//! In which order clients open.

/// A client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Opening {
    /// When it opens: 0 first, 1 last.
    pub(super) at: f64,
    pub(super) heavy: bool,
}

/// All clients of a run, in the order in which they open.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) seed: u64,
    pub(super) openings: Vec<Opening>,
}

impl Order {
    /// The same for the same seed: a shuffled list, at evenly random moments.
    pub(super) fn new(seed: u64, heavy: u16, light: u16) -> Self {
        let mut random = Random(seed);
        let count = usize::from(heavy) + usize::from(light);
        let mut kinds: Vec<bool> = (0..count).map(|n| n < usize::from(heavy)).collect();
        // Fisher and Yates.
        for left in (1..count).rev() {
            let other = (random.next() * (left + 1) as f64) as usize;
            kinds.swap(left, other.min(left));
        }
        let mut moments: Vec<f64> = kinds.iter().map(|_| random.next()).collect();
        moments.sort_unstable_by(f64::total_cmp);
        let openings = moments
            .into_iter()
            .zip(kinds)
            .map(|(at, heavy)| Opening { at, heavy })
            .collect();
        Self { seed, openings }
    }

    /// The busier of two servers that take turns, over their mean; `rates` of a
    /// light and of a heavy client.
    pub(super) fn taking_turns(&self, rates: [f64; 2]) -> f64 {
        let mut loads = [0.0; 2];
        for (turn, opening) in self.openings.iter().enumerate() {
            if let Some(load) = loads.get_mut(turn % 2) {
                *load += rates[usize::from(opening.heavy)];
            }
        }
        imbalance(&loads)
    }
}

/// The largest over the mean; 0 where there is nothing.
pub(super) fn imbalance(loads: &[f64]) -> f64 {
    let sum: f64 = loads.iter().sum();
    let largest = loads.iter().copied().fold(0.0, f64::max);
    if sum > 0.0 {
        largest * loads.len() as f64 / sum
    } else {
        0.0
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
struct Random(u64);

impl Random {
    /// From 0 up to, but without, 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_every_client_once_and_is_its_seeds_own() {
        let order = Order::new(7, 6, 60);
        let heavy = order.openings.iter().filter(|client| client.heavy).count();
        assert_eq!((order.openings.len(), heavy), (66, 6));
        assert!(order.openings.is_sorted_by(|a, b| a.at <= b.at));
        assert!(order.openings.iter().all(|o| (0.0..1.0).contains(&o.at)));
        assert_eq!(order.openings, Order::new(7, 6, 60).openings);
        assert_ne!(order.openings, Order::new(8, 6, 60).openings);
    }

    #[test]
    fn turns() {
        let mut order = Order::new(1, 1, 3);
        for (turn, opening) in order.openings.iter_mut().enumerate() {
            opening.heavy = turn == 2;
        }
        // 1 and 20 against 1 and 1.
        assert!((order.taking_turns([1.0, 20.0]) - 42.0 / 23.0).abs() < 1e-9);
        assert!((imbalance(&[3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!(imbalance(&[0.0, 0.0]) == 0.0);
    }

    #[test]
    fn every_place_is_as_likely() {
        let mut first = 0;
        for seed in 0..2_000 {
            first += usize::from(Order::new(seed, 6, 60).openings[0].heavy);
        }
        // 2,000 × 6/66, and four standard deviations.
        assert!((130..=234).contains(&first), "{first}");
    }
}
