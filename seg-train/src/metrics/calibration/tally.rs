//! What one bin holds, and the errors that many make.

use super::Exact;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// A bin's pixels: how many, how confident, how many of them right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) right: u64,
    pub(crate) confidence: Exact,
}

impl Tally {
    pub(crate) fn add(&mut self, confidence: f64, right: bool) {
        self.count += 1;
        self.right += u64::from(right);
        self.confidence.add(confidence);
    }

    /// Mean confidence and the share that was right; `None` without pixels.
    pub(crate) fn means(&self) -> Option<[f64; 2]> {
        let n = self.count as f64;
        (self.count > 0).then(|| [self.confidence.value() / n, self.right as f64 / n])
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.right += other.right;
        self.confidence += other.confidence;
    }
}

/// Adds the bins of `other` to those of `sums`, one by one.
pub(crate) fn add_all<T: Copy + AddAssign>(sums: &mut [T], other: &[T]) {
    sums.iter_mut().zip(other).for_each(|(sum, &o)| *sum += o);
}

/// The calibration errors of one binning; `None` where not a pixel was counted.
///
/// A bin's gap is |accuracy − confidence|, both means over its pixels; a bin without pixels has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Expected calibration error, the gaps' mean over the pixels (Guo et al. 2017).
    pub ece: Option<f64>,
    /// Average calibration error, their mean over the bins that hold pixels (Nixon et al. 2019).
    pub ace: Option<f64>,
    /// Maximum calibration error, the largest (Guo et al. 2017).
    pub mce: Option<f64>,
}

impl Errors {
    /// Of bins given by their pixels and their gap.
    pub(crate) fn of(bins: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let (mut all, mut filled, mut weighted, mut plain, mut most) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (pixels, gap) in bins {
            all += pixels;
            filled += 1.0;
            weighted += pixels * gap;
            plain += gap;
            most = f64::max(most, gap);
        }
        let some = |value: f64| (all > 0.0).then_some(value);
        Self {
            ece: some(weighted / all),
            ace: some(plain / filled),
            mce: some(most),
        }
    }

    /// Of bins' sums.
    pub(crate) fn of_tallies(bins: &[Tally]) -> Self {
        let filled = bins.iter().filter_map(|bin| Some((bin, bin.means()?)));
        Self::of(
            filled.map(|(bin, [confidence, accuracy])| {
                (bin.count as f64, (accuracy - confidence).abs())
            }),
        )
    }

    /// Each error's mean over the classes that have it.
    pub(crate) fn class_mean(classes: &[Self]) -> Self {
        let mean = |error: fn(&Self) -> Option<f64>| {
            let values: Vec<f64> = classes.iter().filter_map(error).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Self {
            ece: mean(|errors| errors.ece),
            ace: mean(|errors| errors.ace),
            mce: mean(|errors| errors.mce),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(pixels: &[(f64, bool)]) -> Tally {
        let mut sums = Tally::default();
        for &(p, right) in pixels {
            sums.add(p, right);
        }
        sums
    }

    #[test]
    fn the_errors_of_three_bins_checked_by_hand() {
        let bins = [
            tally(&[(0.25, false), (0.25, true), (0.25, false)]), // gap 1/12
            Tally::default(),
            tally(&[(0.75, false)]), // gap 3/4
        ];
        let errors = Errors::of_tallies(&bins);
        assert!((errors.ece.unwrap() - (0.75 / 12.0 + 0.25 * 0.75)).abs() < 1e-15);
        assert!((errors.ace.unwrap() - f64::midpoint(1.0 / 12.0, 0.75)).abs() < 1e-15);
        assert_eq!(errors.mce, Some(0.75));
    }

    #[test]
    fn bins_without_pixels_have_no_error() {
        assert_eq!(Errors::of_tallies(&[Tally::default()]), Errors::default());
        let of_one = Errors::of_tallies(&[tally(&[(0.5, true)])]);
        assert_eq!(Errors::class_mean(&[Errors::default(), of_one]), of_one);
        assert_eq!(Errors::class_mean(&[]), Errors::default());
    }
}
