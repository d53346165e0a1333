//! When a deviation is small, when it is not, and when the images do not tell.

use serde::{Deserialize, Serialize};

use crate::study::claim::Verdict;

/// A number and its 95 % interval, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub mean: f64,
    /// Its interval; none where fewer than two images have the number.
    pub interval: Option<[f64; 2]>,
}

impl Estimate {
    /// The mean over images and its interval by Student's t; `None` without images.
    ///
    /// ```
    /// use seg_train::report::calibration::decide::Estimate;
    /// assert_eq!(Estimate::of(&[0.25]).unwrap().interval, None);
    /// let two = Estimate::of(&[0.0, 1.0]).unwrap();
    /// assert_eq!(two.mean, 0.5);
    /// assert!((two.interval.unwrap()[1] - (0.5 + 12.706_204_736 * 0.5)).abs() < 1e-8);
    /// assert_eq!(Estimate::of(&[]), None);
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        let (mean, interval) = crate::stats::mean_and_interval(values);
        (!values.is_empty()).then_some(Self { mean, interval })
    }

    /// Whether a deviation is within ± `margin`, where it should be zero.
    ///
    /// It holds when the whole interval is, and fails when the interval leaves out zero and the deviation itself is at
    /// least the margin. Everything else is undecided: that zero is within an interval shows no deviation to be absent.
    ///
    /// ```
    /// use seg_train::report::calibration::decide::Estimate;
    /// use seg_train::study::claim::Verdict;
    /// let deviation = |mean, low, high| Estimate { mean, interval: Some([low, high]) };
    /// assert_eq!(deviation(0.004, 0.001, 0.007).small(0.01), Verdict::Holds);
    /// assert_eq!(deviation(0.06, 0.02, 0.10).small(0.01), Verdict::Fails);
    /// assert_eq!(deviation(0.06, -0.02, 0.14).small(0.01), Verdict::Undecided);
    /// ```
    pub fn small(&self, margin: f64) -> Verdict {
        match self.interval {
            Some([low, high]) if low >= -margin && high <= margin => Verdict::Holds,
            Some([low, high]) if (low > 0.0 || high < 0.0) && self.mean.abs() >= margin => {
                Verdict::Fails
            }
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_about_zero_decides_only_when_it_is_narrow() {
        use Verdict::{Fails, Holds, Undecided};
        for (mean, interval, expected) in [
            (0.0, Some([-0.01, 0.01]), Holds),
            (0.0, Some([-0.011, 0.009]), Undecided),
            (0.02, Some([0.001, 0.039]), Fails),
            (-0.02, Some([-0.039, -0.001]), Fails),
            // There, and perhaps too small to matter.
            (0.009, Some([0.001, 0.017]), Undecided),
            (0.02, Some([0.0, 0.04]), Undecided),
            (0.5, None, Undecided),
            (f64::NAN, Some([f64::NAN, f64::NAN]), Undecided),
        ] {
            assert_eq!(Estimate { mean, interval }.small(0.01), expected, "{mean}");
        }
    }
}
