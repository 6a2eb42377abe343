//! Max-min fairness (water filling): nobody can be given more without taking it
//! from somebody who has as much or less.

/// The height at which `f(x) = Σ clamp(x, low, high)` reaches `total`; infinite
/// where it never does. `total` is finite, and every `low` is at most its `high`, and both are at least 0.
#[must_use]
pub fn level(total: f64, bounds: &[(f64, f64)]) -> f64 {
    // Where the sum begins or ends to grow with one more of them.
    let mut turns: Vec<(f64, f64)> = Vec::with_capacity(2 * bounds.len());
    for (low, high) in bounds {
        turns.push((*low, 1.0));
        turns.push((*high, -1.0));
    }
    turns.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum: f64 = bounds.iter().map(|(low, _)| low).sum();
    let (mut height, mut slope) = (0.0, 0.0);
    for (at, change) in turns {
        // No product with an infinite height while nothing grows.
        if slope > 0.0 {
            let reached = sum + slope * (at - height);
            if reached >= total {
                return height + (total - sum).max(0.0) / slope;
            }
            sum = reached;
        }
        height = at;
        slope += change;
    }
    f64::INFINITY
}

/// What each is given of `total`: at most `most`, and no more than it wants while
/// others want more than they have. What nobody wants goes to those who have
/// least, so that they can begin at once. All together at most `total`; all of it,
/// unless every `most` is reached.
#[must_use]
pub fn share_out(total: f64, wants: &[f64], most: &[f64]) -> Vec<f64> {
    let wanted: Vec<_> = wants
        .iter()
        .zip(most)
        .map(|(want, most)| want.min(*most))
        .collect();
    let below: Vec<_> = wanted.iter().map(|want| (0.0, *want)).collect();
    let height = level(total, &below);
    if height.is_finite() {
        return wanted.iter().map(|want| want.min(height)).collect();
    }
    let above: Vec<_> = wanted.iter().copied().zip(most.iter().copied()).collect();
    let height = level(total, &above);
    above
        .iter()
        .map(|(want, most)| height.clamp(*want, *most))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FREE: f64 = f64::INFINITY;

    #[test]
    fn who_wants_less_than_the_level_gets_it_and_the_others_the_rest() {
        assert_eq!(
            share_out(100.0, &[10.0, FREE, FREE], &[FREE; 3]),
            [10.0, 45.0, 45.0]
        );
        assert_eq!(
            share_out(100.0, &[FREE, FREE, FREE], &[20.0, FREE, FREE]),
            [20.0, 40.0, 40.0]
        );
        // Nobody wants all of it: the least is raised first.
        assert_eq!(
            share_out(100.0, &[60.0, 0.0, 10.0], &[FREE; 3]),
            [60.0, 20.0, 20.0]
        );
        assert_eq!(share_out(100.0, &[1.0, 2.0], &[30.0, 40.0]), [30.0, 40.0]);
        assert_eq!(share_out(0.0, &[1.0, FREE], &[5.0, FREE]), [0.0, 0.0]);
        assert!(share_out(7.0, &[], &[]).is_empty());
    }

    fn amount() -> impl Strategy<Value = f64> {
        prop_oneof![4 => 0.0..1e9, 1 => Just(0.0), 1 => Just(FREE)]
    }

    proptest! {
        #[test]
        fn all_of_it_and_no_more_is_shared_out_fairly(
            total in 0.0..1e9,
            each in proptest::collection::vec((amount(), amount()), 1..40),
        ) {
            let (wants, most): (Vec<_>, Vec<_>) = each.into_iter().unzip();
            let given = share_out(total, &wants, &most);
            let sum: f64 = given.iter().sum();
            prop_assert!(sum <= total * (1.0 + 1e-9) + 1e-3, "{sum}");
            let all: f64 = most.iter().sum();
            prop_assert!(sum >= total.min(all) * (1.0 - 1e-9) - 1e-3, "{sum}");
            for i in 0..given.len() {
                prop_assert!(given[i] <= most[i]);
                for j in 0..given.len() {
                    // Who is held has at least as much as any other takes.
                    let held = given[i] < wants[i].min(most[i]) - 1e-3;
                    prop_assert!(!held || given[i] >= given[j] - 1e-3);
                    if wants[i] == wants[j] && most[i] == most[j] {
                        prop_assert!((given[i] - given[j]).abs() < 1e-3);
                    }
                }
            }
        }

        #[test]
        fn more_to_share_is_less_for_nobody(
            total in 0.0..1e9,
            more in 0.0..1e9,
            wants in proptest::collection::vec(amount(), 1..40),
        ) {
            let most = vec![FREE; wants.len()];
            let little = share_out(total, &wants, &most);
            for (little, much) in little.iter().zip(share_out(total + more, &wants, &most)) {
                prop_assert!(much >= little - 1e-3);
            }
        }
    }
}
