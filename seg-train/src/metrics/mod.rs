//! What a segmentation is worth: overlap, proper scores and calibration, an image and overall.
//!
//! Everything streams: an accumulator ([`Confusion`], [`Scores`], [`Bins`]) takes one image after the other, adds up in
//! f64, and holds a handful of numbers however many pixels it has seen. [`Evaluation`] drives them over a test set.
//!
//! | what | equation | where |
//! |---|---|---|
//! | Dice, Jaccard, precision, recall | paper, II-E | [`overlap`] |
//! | NLL over all classes (proper) and over the foreground alone (as the authors' evaluation has it), Brier | Eq. 1, Eq. 11 | [`scores`] |
//! | ECE, MCE, ACE over bins of equal width and of equal mass; Brier's parts; near the boundary; expected volume; distance from true probabilities | Guo et al. 2017; Nixon et al. 2019; Murphy 1973 | [`calibration`] |
//! | Hausdorff 95 %, average surface distance, surface Dice | Nikolov et al. 2018 | [`surface`] |
//! | the counts at many softmax thresholds | Eq. 10 | [`thresholds`] |
//! | a row an image | | [`image`] |
//! | means with 95 % intervals, pooled ECE | | [`summary`] |

pub mod calibration;
pub mod distance;
pub mod image;
pub mod overlap;
pub mod scores;
pub mod summary;
pub mod surface;
pub mod thresholds;

pub use calibration::{Bins, Calibration, CalibrationSummary, ReliabilityBin, Top};
pub use image::{ImageRow, MetricsConfig};
pub use overlap::{Confusion, EmptyMask, Rule, Threshold};
pub use scores::Scores;
pub use summary::{Evaluation, Line, Summary};
pub use surface::Surfaces;
pub use thresholds::{ImageThresholds, ThresholdSweep};

use crate::raster::{IGNORE, NO_CLASS};
use anyhow::{Result, bail};

/// Rounding of an f32 softmax may leave `[0, 1]` by this much; more is an error.
const SLACK: f64 = 1e-6;

/// Probabilities beside the labels they are measured against: planar `[channels, n]` and `[n]`.
///
/// One channel is the foreground probability of a sigmoid, read as the two classes `1 − p` and `p`. Pixels labelled
/// [`IGNORE`] or [`NO_CLASS`] are never counted: the first by its meaning, the second because there is no class to be
/// right about.
///
/// ```
/// use seg_train::metrics::Pixels;
/// let p = [0.9_f32, 0.2, 0.6, 0.5]; // a sigmoid map of four pixels, the third ignored
/// let pixels = Pixels::new(&p, 1, &[0, 0, 255, 1])?;
/// assert_eq!(pixels.classes(), 2);
/// assert_eq!(pixels.p(1, 0), f64::from(0.9_f32));
/// assert_eq!(pixels.counted().count(), 3);
/// assert_eq!(pixels.argmax(3), 0); // a tie goes to the lowest class
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a, P> {
    p: &'a [P],
    channels: usize,
    labels: &'a [u8],
}

impl<'a, P: Copy + Into<f64>> Pixels<'a, P> {
    /// Pairs probabilities, f32 or f64, with labels.
    ///
    /// # Errors
    ///
    /// If the lengths do not fit, a label is no class of the output, or a value is no probability.
    pub fn new(p: &'a [P], channels: usize, labels: &'a [u8]) -> Result<Self> {
        if channels == 0 || p.len() != channels * labels.len() {
            bail!(
                "{} probabilities do not make {channels} channels of {} labelled pixels; pass [channels, pixels], one channel after the other",
                p.len(),
                labels.len()
            );
        }
        let classes = channels.max(2);
        if let Some((i, &label)) = labels
            .iter()
            .enumerate()
            .find(|&(_, &l)| !matches!(l, IGNORE | NO_CLASS) && usize::from(l) >= classes)
        {
            bail!(
                "pixel {i} is labelled {label}, but the output has the classes 0 to {}; map the label or mark it {IGNORE} (ignored)",
                classes - 1
            );
        }
        if let Some((i, v)) = p
            .iter()
            .map(|&v| v.into())
            .enumerate()
            .find(|(_, v)| !(-SLACK..=1.0 + SLACK).contains(v))
        {
            bail!(
                "pixel {} has probability {v} in channel {}, which is outside [0, 1]; pass softmax or sigmoid output (a NaN here means that the training diverged)",
                i % labels.len(),
                i / labels.len()
            );
        }
        Ok(Self {
            p,
            channels,
            labels,
        })
    }

    /// Number of classes; two for a one-channel output.
    pub fn classes(&self) -> usize {
        self.channels.max(2)
    }

    /// Probability of `class` at pixel `i`.
    ///
    /// # Panics
    ///
    /// If there is no such pixel or class, as indexing does.
    pub fn p(&self, class: usize, i: usize) -> f64 {
        match (self.channels, class) {
            (1, 0) => 1.0 - self.p[i].into(),
            (1, 1) => self.p[i].into(),
            _ => self.p[class * self.labels.len() + i].into(),
        }
    }

    /// The pixels that count: index and class.
    pub fn counted(&self) -> impl Iterator<Item = (usize, usize)> + use<'a, P> {
        self.labels
            .iter()
            .enumerate()
            .filter(|&(_, &l)| !matches!(l, IGNORE | NO_CLASS))
            .map(|(i, &l)| (i, usize::from(l)))
    }

    /// The most probable class of pixel `i`; a tie goes to the lowest class, so at p = ½ to the background.
    pub fn argmax(&self, i: usize) -> usize {
        (1..self.classes()).fold(0, |best, c| {
            if self.p(c, i) > self.p(best, i) {
                c
            } else {
                best
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_fit_are_named() {
        let error = Pixels::new(&[0.5_f32; 5], 2, &[0; 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "5 probabilities do not make 2 channels of 3 labelled pixels; pass [channels, pixels], one channel after the other"
        );
    }

    #[test]
    fn a_label_beyond_the_output_is_named() {
        let error = Pixels::new(&[0.5_f32; 6], 2, &[0, 1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pixel 2 is labelled 2, but the output has the classes 0 to 1; map the label or mark it 255 (ignored)"
        );
    }

    #[test]
    fn a_value_that_is_no_probability_is_named() {
        let error = Pixels::new(&[0.5, 0.5, f64::NAN, 0.5], 2, &[0, 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pixel 0 has probability NaN in channel 1, which is outside [0, 1]; pass softmax or sigmoid output (a NaN here means that the training diverged)"
        );
    }
}
