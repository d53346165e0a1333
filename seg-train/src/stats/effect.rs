//! How large a difference is, on a scale that does not depend on the number of images as a p-value does.

use super::{Ranks, paired::SignedRanks};

/// Matched-pairs rank-biserial correlation (r₊ − r₋) / (r₊ + r₋) (Kerby 2014), the effect size of
/// [`signed_rank`](super::signed_rank): 1 where every difference x − y is positive, −1 where every one is negative.
///
/// 0 where all differences are zero. `None` for no pairs, values without partners, or a difference that is NaN.
///
/// ```
/// use seg_train::stats::matched_rank_biserial;
/// // Differences 1, 2, −3: the ranks 1 and 2 against 3.
/// assert_eq!(matched_rank_biserial(&[2.0, 3.0, 4.0], &[1.0, 1.0, 7.0]), Some(0.0));
/// assert_eq!(matched_rank_biserial(&[2.0, 3.0], &[1.0, 1.0]), Some(1.0));
/// ```
pub fn matched_rank_biserial(x: &[f64], y: &[f64]) -> Option<f64> {
    let SignedRanks { plus, minus, .. } = SignedRanks::of(x, y).ok()?;
    let all = plus + minus;
    Some(if all > 0.0 { (plus - minus) / all } else { 0.0 })
}

/// Cliff's delta P(X > Y) − P(X < Y) over all pairs of a value of each sample (Cliff 1993): the rank-biserial
/// correlation of the unpaired tests, [`rank_sum`](super::rank_sum) and [`mann_whitney`](super::mann_whitney).
///
/// From U = nm(δ + 1)/2, so that it costs a sort and not all pairs. `None` for an empty sample or a NaN.
///
/// ```
/// use seg_train::stats::cliffs_delta;
/// // Of the six pairs x is larger in four, smaller in one, equal in one.
/// assert_eq!(cliffs_delta(&[2.0, 5.0, 6.0], &[2.0, 3.0]), Some(0.5));
/// ```
pub fn cliffs_delta(x: &[f64], y: &[f64]) -> Option<f64> {
    let (n, m) = (x.len() as f64, y.len() as f64);
    let u = Ranks::of(x, y).ok()?.sum_x - n * (n + 1.0) / 2.0;
    Some((2.0 * u - n * m) / (n * m))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    #[test]
    fn cliffs_delta_counts_all_pairs() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        for case in 0..200_u32 {
            let mut draw = |n: u32| -> Vec<f64> {
                (0..n)
                    .map(|_| f64::from(rng.random_range(0..10 + case % 50)))
                    .collect()
            };
            let (x, y) = (draw(1 + case % 13), draw(1 + case % 7));
            let mut sum = 0_i32;
            for &a in &x {
                for &b in &y {
                    sum += i32::from(a > b) - i32::from(a < b);
                }
            }
            let expected = f64::from(sum) / (x.len() * y.len()) as f64;
            assert_eq!(cliffs_delta(&x, &y), Some(expected), "{x:?} {y:?}");
        }
    }

    #[test]
    fn a_paired_effect_is_signed_and_ignores_pairs_without_a_difference() {
        let (x, y) = ([5.0, 1.0, 2.0, 9.0], [5.0, 3.0, 1.0, 4.0]);
        // Differences −2, 1, 5 of ranks 2, 1, 3.
        assert_eq!(matched_rank_biserial(&x, &y), Some(4.0 / 6.0 - 2.0 / 6.0));
        assert_eq!(matched_rank_biserial(&y, &x), Some(2.0 / 6.0 - 4.0 / 6.0));
        assert_eq!(matched_rank_biserial(&x, &x), Some(0.0));
    }

    #[test]
    fn nothing_to_compare_has_no_effect_size() {
        assert_eq!(cliffs_delta(&[], &[1.0]), None);
        assert_eq!(cliffs_delta(&[f64::NAN], &[1.0]), None);
        assert_eq!(matched_rank_biserial(&[], &[]), None);
        assert_eq!(matched_rank_biserial(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(matched_rank_biserial(&[1.0], &[f64::NAN]), None);
    }
}
