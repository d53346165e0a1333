//! Overlap of a predicted and a true mask: the four counts and what is made of them.

use super::Pixels;
use crate::raster::{IGNORE, NO_CLASS};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// The counts of one class against the rest, in pixels.
///
/// ```
/// use seg_train::metrics::{Confusion, EmptyMask};
/// let c = Confusion::of_labels(&[1, 1, 0, 0], &[1, 0, 1, 255], 1)?; // the last pixel is ignored
/// assert_eq!((c.tp, c.fp, c.fn_, c.tn), (1, 1, 1, 0));
/// assert_eq!(c.dice(EmptyMask::Skip), Some(0.5));
/// assert_eq!(c.jaccard(EmptyMask::Skip), Some(1.0 / 3.0));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Of the class, and said to be.
    pub tp: u64,
    /// Not of the class, but said to be.
    pub fp: u64,
    /// Of the class, but said not to be.
    pub fn_: u64,
    /// Not of the class, nor said to be.
    pub tn: u64,
}

/// What a ratio counts as where its denominator is zero: Dice and Jaccard if both masks are empty, precision if nothing
/// was predicted, recall if nothing is there.
///
/// The authors' evaluation gives NaN there, which then is the mean of the whole test set. Where not a single pixel was
/// counted there is nothing to agree on: no ratio is counted, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyMask {
    /// 1 where prediction and truth agree in every pixel, else 0: finding nothing where nothing is was right, finding
    /// nothing where something is was not. The default, because every image then counts for every model: leaving images
    /// out by what a model predicted would compare means over different images.
    #[default]
    Agreement,
    /// Not counted; the summary says how many were not.
    Skip,
    /// 1.
    One,
    /// 0.
    Zero,
}

/// On which side of the threshold p = T falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Foreground where p ≥ T: the paper's Eq. 10 as its text means it (it is printed the other way round).
    #[default]
    AtLeast,
    /// Foreground where p > T; at T = ½ and two classes this is the argmax, whose ties go to the background.
    Above,
}

/// A softmax threshold on the foreground probability (paper, Eq. 10): the higher, the more precision for less recall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Threshold {
    /// T, a probability.
    pub at: f64,
    /// What p = T is.
    pub rule: Rule,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            at: 0.5,
            rule: Rule::default(),
        }
    }
}

impl Threshold {
    /// Whether a pixel of foreground probability `p` is foreground.
    pub fn foreground(self, p: f64) -> bool {
        match self.rule {
            Rule::AtLeast => p >= self.at,
            Rule::Above => p > self.at,
        }
    }
}

impl Confusion {
    /// Adds one pixel.
    pub fn add(&mut self, predicted: bool, truth: bool) {
        match (predicted, truth) {
            (true, true) => self.tp += 1,
            (true, false) => self.fp += 1,
            (false, true) => self.fn_ += 1,
            (false, false) => self.tn += 1,
        }
    }

    /// `class` against the rest, from two label maps; pixels whose truth is [`IGNORE`] or [`NO_CLASS`] are not counted.
    ///
    /// # Errors
    ///
    /// If the maps differ in size.
    pub fn of_labels(predicted: &[u8], truth: &[u8], class: u8) -> Result<Self> {
        if predicted.len() != truth.len() {
            bail!(
                "the predicted mask has {} pixels, the true one {}; resize the prediction to the truth's size first",
                predicted.len(),
                truth.len()
            );
        }
        let mut counts = Self::default();
        for (&p, &y) in predicted
            .iter()
            .zip(truth)
            .filter(|&(_, &y)| !matches!(y, IGNORE | NO_CLASS))
        {
            counts.add(p == class, y == class);
        }
        Ok(counts)
    }

    /// The foreground (class 1) of a thresholded output.
    pub fn at_threshold<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>, threshold: Threshold) -> Self {
        let mut counts = Self::default();
        for (i, y) in pixels.counted() {
            counts.add(threshold.foreground(pixels.p(1, i)), y == 1);
        }
        counts
    }

    /// Every class against the rest, predicted by the argmax.
    pub fn of_argmax<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>) -> Vec<Self> {
        let mut counts = vec![Self::default(); pixels.classes()];
        for (i, y) in pixels.counted() {
            let predicted = pixels.argmax(i);
            for (class, c) in counts.iter_mut().enumerate() {
                c.add(predicted == class, y == class);
            }
        }
        counts
    }

    /// Dice similarity 2TP / (2TP + FP + FN), also known as F1.
    pub fn dice(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn_, empty)
    }

    /// Jaccard index TP / (TP + FP + FN), also known as `IoU`.
    pub fn jaccard(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(self.tp, self.tp + self.fp + self.fn_, empty)
    }

    /// Precision TP / (TP + FP).
    pub fn precision(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(self.tp, self.tp + self.fp, empty)
    }

    /// Recall TP / (TP + FN), also known as sensitivity.
    pub fn recall(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(self.tp, self.tp + self.fn_, empty)
    }

    /// F-β (1 + β²)TP / ((1 + β²)TP + β²·FN + FP): the harmonic mean of precision and recall in which recall weighs β² times
    /// as much (van Rijsbergen 1979); β = 1 is [`dice`](Self::dice).
    ///
    /// ```
    /// use seg_train::metrics::{Confusion, EmptyMask};
    /// let c = Confusion { tp: 4, fp: 4, fn_: 1, tn: 0 };
    /// assert_eq!(c.f_beta(2.0, EmptyMask::Skip), Some(20.0 / 28.0));
    /// assert_eq!(c.f_beta(1.0, EmptyMask::Skip), c.dice(EmptyMask::Skip));
    /// ```
    pub fn f_beta(&self, beta: f64, empty: EmptyMask) -> Option<f64> {
        if self.tp + self.fp + self.fn_ == 0 {
            return self.ratio(0, 0, empty);
        }
        let (square, [tp, fp, fn_]) = (beta * beta, [self.tp, self.fp, self.fn_].map(|c| c as f64));
        let right = (1.0 + square) * tp;
        Some(right / (right + square * fn_ + fp))
    }

    /// Specificity TN / (TN + FP).
    pub fn specificity(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(self.tn, self.tn + self.fp, empty)
    }

    /// Accuracy (TP + TN) / all.
    pub fn accuracy(&self, empty: EmptyMask) -> Option<f64> {
        self.ratio(
            self.tp + self.tn,
            self.tp + self.fp + self.fn_ + self.tn,
            empty,
        )
    }

    /// The only division of this file, so that 0/0 is settled in one place.
    fn ratio(&self, part: u64, whole: u64, empty: EmptyMask) -> Option<f64> {
        if whole > 0 {
            return Some(part as f64 / whole as f64);
        }
        if *self == Self::default() {
            return None;
        }
        match empty {
            EmptyMask::Agreement => Some(if self.fp + self.fn_ == 0 { 1.0 } else { 0.0 }),
            EmptyMask::Skip => None,
            EmptyMask::One => Some(1.0),
            EmptyMask::Zero => Some(0.0),
        }
    }
}

impl AddAssign for Confusion {
    fn add_assign(&mut self, other: Self) {
        self.tp += other.tp;
        self.fp += other.fp;
        self.fn_ += other.fn_;
        self.tn += other.tn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_a_case_checked_by_hand() {
        let c = Confusion {
            tp: 3,
            fp: 1,
            fn_: 2,
            tn: 4,
        };
        let skip = EmptyMask::Skip;
        assert_eq!(c.dice(skip), Some(6.0 / 9.0));
        assert_eq!(c.jaccard(skip), Some(3.0 / 6.0));
        assert_eq!(c.precision(skip), Some(3.0 / 4.0));
        assert_eq!(c.recall(skip), Some(3.0 / 5.0));
        assert_eq!(c.specificity(skip), Some(4.0 / 5.0));
        assert_eq!(c.accuracy(skip), Some(7.0 / 10.0));
    }

    #[test]
    fn two_empty_masks_agree_and_a_missed_structure_does_not() {
        let both_empty = Confusion {
            tn: 9,
            ..Confusion::default()
        };
        assert_eq!(both_empty.dice(EmptyMask::Agreement), Some(1.0));
        assert_eq!(both_empty.recall(EmptyMask::Agreement), Some(1.0));
        assert_eq!(both_empty.dice(EmptyMask::Skip), None);
        assert_eq!(both_empty.dice(EmptyMask::One), Some(1.0));
        assert_eq!(both_empty.dice(EmptyMask::Zero), Some(0.0));
        let missed = Confusion {
            fn_: 2,
            tn: 7,
            ..Confusion::default()
        };
        assert_eq!(missed.precision(EmptyMask::Agreement), Some(0.0));
        assert_eq!(missed.precision(EmptyMask::One), Some(1.0));
        let invented = Confusion {
            fp: 2,
            tn: 7,
            ..Confusion::default()
        };
        assert_eq!(invented.recall(EmptyMask::Agreement), Some(0.0));
        assert_eq!(invented.dice(EmptyMask::Skip), Some(0.0)); // not a 0/0
    }

    #[test]
    fn without_a_counted_pixel_no_policy_gives_a_ratio() {
        let nothing = Confusion::of_labels(&[1, 0], &[IGNORE, NO_CLASS], 1).unwrap();
        for empty in [
            EmptyMask::Agreement,
            EmptyMask::Skip,
            EmptyMask::One,
            EmptyMask::Zero,
        ] {
            for metric in [
                Confusion::dice,
                Confusion::jaccard,
                Confusion::precision,
                Confusion::recall,
                Confusion::specificity,
                Confusion::accuracy,
            ] {
                assert_eq!(metric(&nothing, empty), None, "{empty:?}");
            }
        }
    }

    #[test]
    fn the_rule_decides_what_p_at_the_threshold_is() {
        let p = [0.5_f64, 0.4, 0.6];
        let pixels = Pixels::new(&p, 1, &[1, 0, 1]).unwrap();
        let tp = |rule| Confusion::at_threshold(&pixels, Threshold { at: 0.5, rule }).tp;
        assert_eq!((tp(Rule::AtLeast), tp(Rule::Above)), (2, 1));
        assert_eq!(Confusion::of_argmax(&pixels)[1].tp, 1);
    }

    #[test]
    fn masks_of_different_sizes_are_refused() {
        assert_eq!(
            Confusion::of_labels(&[1; 4], &[1; 6], 1)
                .unwrap_err()
                .to_string(),
            "the predicted mask has 4 pixels, the true one 6; resize the prediction to the truth's size first"
        );
    }
}
