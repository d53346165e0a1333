//! Many tests at once.

/// Holm's step-down p-values (Holm 1979, A simple sequentially rejective multiple test procedure): with those at most α
/// taken for real, the probability of a single false one among all the tests is at most α, however the tests depend on
/// each other.
///
/// The k-th smallest of m is multiplied by m − k + 1, is no smaller than the one before it, and at most 1. The order is
/// kept. A NaN stands for a test that was not made: it stays NaN and does not count.
///
/// ```
/// use seg_train::stats::holm;
/// assert_eq!(holm(&[0.5, 0.01, 0.25]), [0.5, 0.03, 0.5]);
/// assert!(holm(&[]).is_empty());
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut least = 0.0_f64;
    for (before, &i) in order.iter().enumerate() {
        least = least.max((order.len() - before) as f64 * p[i]).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    #[test]
    fn a_case_checked_by_hand() {
        // Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; the last is lifted to 0.06.
        let found = holm(&[0.03, 0.01, 0.04, 0.02]);
        for (found, expected) in found.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert!((found - expected).abs() < 1e-15, "{found}");
        }
        assert_eq!(holm(&[0.75, 0.75]), [1.0, 1.0]);
        let found = holm(&[f64::NAN, 0.25, f64::NAN]);
        assert!(found[0].is_nan() && found[2].is_nan());
        assert_eq!(found[1], 0.25, "one test is not corrected");
    }

    /// The procedure itself: reject from the smallest on, until one is above α / (tests left).
    fn rejected(p: &[f64], alpha: f64) -> Vec<bool> {
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
        let mut rejected = vec![false; p.len()];
        for (before, &i) in order.iter().enumerate() {
            if p[i] * (p.len() - before) as f64 > alpha {
                break;
            }
            rejected[i] = true;
        }
        rejected
    }

    #[test]
    fn at_most_alpha_is_what_the_procedure_rejects() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        for case in 0..500 {
            // Eighths of a tenth tie often.
            let p: Vec<f64> = (0..=case % 9)
                .map(|_| f64::from(rng.random_range(0..=40_u32)) / 80.0)
                .collect();
            let adjusted = holm(&p);
            for alpha in (0..100).map(|k| (f64::from(k) + 0.5) / 100.0) {
                let found: Vec<bool> = adjusted.iter().map(|&p| p <= alpha).collect();
                assert_eq!(found, rejected(&p, alpha), "{p:?} at {alpha}");
            }
        }
    }
}
