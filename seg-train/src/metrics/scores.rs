//! Proper scores of the probabilities: negative log-likelihood and Brier.

use super::Pixels;
use anyhow::{Result, bail};

/// Probabilities are clipped to `[CLIP, 1 − CLIP]` before a logarithm (and only there), as the authors' evaluation
/// does: one pixel that is wrong with certainty costs 16 nats instead of making the test set's mean infinite.
pub const CLIP: f64 = 1e-7;

/// −log p, kept finite by [`CLIP`].
pub(super) fn surprise(p: f64) -> f64 {
    -p.clamp(CLIP, 1.0 - CLIP).ln()
}

/// Running sums of the scores over the pixels that count. All are means over those pixels, in nats or squared
/// probability; NaN while no pixel has been counted.
///
/// ```
/// use seg_train::metrics::{Pixels, Scores};
/// let mut scores = Scores::new(2);
/// scores.add(&Pixels::new(&[0.5_f32, 0.25], 1, &[1, 0])?)?; // p of the foreground at two pixels
/// assert!((scores.nll() - (0.5_f64.ln() + 0.75_f64.ln()) / -2.0).abs() < 1e-12);
/// assert!((scores.nll_foreground() - 0.5_f64.ln() / -2.0).abs() < 1e-12); // blind to the second pixel
/// assert_eq!(scores.brier(), (0.25 + 0.0625) / 2.0);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    pixels: u64,
    /// Σ −log p of the true class, by true class.
    nll: Vec<f64>,
    /// Σ (y − p)², by class.
    brier: Vec<f64>,
}

impl Scores {
    /// Nothing counted yet, for so many classes (two for a one-channel output).
    pub fn new(classes: usize) -> Self {
        Self {
            pixels: 0,
            nll: vec![0.0; classes],
            brier: vec![0.0; classes],
        }
    }

    /// Adds the pixels of one image.
    ///
    /// # Errors
    ///
    /// If the number of classes is another one.
    pub fn add<P: Copy + Into<f64>>(&mut self, pixels: &Pixels<'_, P>) -> Result<()> {
        if pixels.classes() != self.brier.len() {
            bail!(
                "scores of {} classes cannot take an output of {}; use one Scores a model",
                self.brier.len(),
                pixels.classes()
            );
        }
        for (i, y) in pixels.counted() {
            self.pixels += 1;
            self.nll[y] += surprise(pixels.p(y, i));
            for (class, sum) in self.brier.iter_mut().enumerate() {
                let e = f64::from(u8::from(y == class)) - pixels.p(class, i);
                *sum += e * e;
            }
        }
        Ok(())
    }

    /// Adds what another accumulator of as many classes has counted.
    ///
    /// # Errors
    ///
    /// If the number of classes is another one.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.brier.len() != self.brier.len() {
            bail!(
                "scores of {} classes cannot take those of {}; use one Scores a model",
                self.brier.len(),
                other.brier.len()
            );
        }
        self.pixels += other.pixels;
        for (mine, theirs) in [(&mut self.nll, &other.nll), (&mut self.brier, &other.brier)] {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Pixels counted.
    pub fn pixels(&self) -> u64 {
        self.pixels
    }

    /// Negative log-likelihood −(1/N) Σ log p of the true class, over all classes (paper, Eq. 1): a proper score, and
    /// the one to draw conclusions from.
    pub fn nll(&self) -> f64 {
        self.nll.iter().sum::<f64>() / self.pixels as f64
    }

    /// −(1/N) Σ y log p over the foreground classes alone, N still all pixels: what the authors' evaluation computes.
    ///
    /// Not proper: a false positive, however confident, costs nothing, so over-segmentation is rewarded. Reported for
    /// comparison with the paper's tables.
    pub fn nll_foreground(&self) -> f64 {
        self.nll[1..].iter().sum::<f64>() / self.pixels as f64
    }

    /// Brier score, the mean of (y − p)² over pixels and classes (paper, Eq. 11).
    ///
    /// For two classes this is also the Brier score of the foreground channel, as the authors compute it.
    pub fn brier(&self) -> f64 {
        self.brier_sum() / self.brier.len() as f64
    }

    /// Brier's own form (1950), summed over the classes: [`Self::brier`] times their number.
    pub fn brier_sum(&self) -> f64 {
        self.brier.iter().sum::<f64>() / self.pixels as f64
    }

    /// The mean of (y − p)² over pixels, class by class.
    pub fn brier_per_class(&self) -> Vec<f64> {
        self.brier
            .iter()
            .map(|sum| sum / self.pixels as f64)
            .collect()
    }
}

/// What the NLL expects to exceed the entropy of the truth by: the mean over pixels of KL(q‖p), where `q` is the true
/// foreground probability of a phantom (classes: background and foreground). Zero only for p = q.
///
/// Unlike the NLL against one drawn mask it does not hang on how that drawing fell out. Pixels whose label does not
/// count do not count here either; NaN if none does. p is clipped by [`CLIP`], so p = q = 0 costs 1e-7.
///
/// # Errors
///
/// If there are more than two classes or `q` has another number of pixels.
///
/// ```
/// use seg_train::metrics::{Pixels, scores::excess_nll};
/// let pixels = Pixels::new(&[0.5_f32, 0.25], 1, &[1, 0])?;
/// assert_eq!(excess_nll(&pixels, &[0.5, 0.25])?, 0.0);
/// assert!((excess_nll(&pixels, &[0.5, 1.0])? - 4_f64.ln() / 2.0).abs() < 1e-12);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn excess_nll<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>, q: &[f32]) -> Result<f64> {
    if pixels.classes() != 2 {
        bail!(
            "a true foreground probability is known for two classes only, the output has {}",
            pixels.classes()
        );
    }
    if q.len() != pixels.labels.len() {
        bail!(
            "the true probability has {} pixels, the output {}; bring both to one size",
            q.len(),
            pixels.labels.len()
        );
    }
    let (mut sum, mut n) = (0.0, 0_u64);
    for (i, _) in pixels.counted() {
        let q = f64::from(q[i]);
        for (q, p) in [(1.0 - q, pixels.p(0, i)), (q, pixels.p(1, i))] {
            // q log q → 0 as q → 0, while log 0 is infinite.
            if q > 0.0 {
                sum += q * (q.ln() + surprise(p));
            }
        }
        n += 1;
    }
    Ok(sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::IGNORE;

    #[test]
    fn ignored_pixels_change_no_score() {
        let mut counted = Scores::new(3);
        counted
            .add(&Pixels::new(&[0.2_f64, 0.5, 0.3], 3, &[1]).unwrap())
            .unwrap();
        let mut with_ignored = Scores::new(3);
        let p = [0.2_f64, 0.0, 0.5, 1.0, 0.3, 0.0];
        with_ignored
            .add(&Pixels::new(&p, 3, &[1, IGNORE]).unwrap())
            .unwrap();
        assert_eq!(counted, with_ignored);
        assert_eq!(counted.nll(), -(0.5_f64.ln()));
        assert!((counted.brier() - (0.04 + 0.25 + 0.09) / 3.0).abs() < 1e-15);
    }

    #[test]
    fn a_confident_false_positive_is_free_for_the_foreground_nll_and_dear_for_the_proper_one() {
        let mut scores = Scores::new(2);
        scores
            .add(&Pixels::new(&[1.0_f32], 1, &[0]).unwrap())
            .unwrap();
        assert_eq!(scores.nll_foreground(), 0.0);
        assert!((scores.nll() - -(CLIP.ln())).abs() < 1e-9);
    }

    #[test]
    fn merged_parts_equal_the_whole() {
        let (p, labels) = ([0.2_f64, 0.7, 0.4, 0.9], [0, 1, 1, 0]);
        let mut whole = Scores::new(2);
        let mut left = whole.clone();
        let mut right = whole.clone();
        whole.add(&Pixels::new(&p, 1, &labels).unwrap()).unwrap();
        left.add(&Pixels::new(&p[..1], 1, &labels[..1]).unwrap())
            .unwrap();
        right
            .add(&Pixels::new(&p[1..], 1, &labels[1..]).unwrap())
            .unwrap();
        left.merge(&right).unwrap();
        assert_eq!(left.pixels(), 4);
        assert!((left.nll() - whole.nll()).abs() < 1e-15);
    }

    #[test]
    fn another_number_of_classes_is_refused() {
        let error = Scores::new(3)
            .add(&Pixels::new(&[0.5_f32], 1, &[0]).unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "scores of 3 classes cannot take an output of 2; use one Scores a model"
        );
    }

    #[test]
    fn the_excess_is_the_cross_entropy_to_q_less_its_entropy() {
        let (p, q) = (0.3_f64, 0.7_f64);
        let cross = -(q * p.ln() + (1.0 - q) * (1.0 - p).ln());
        let entropy = -(q * q.ln() + (1.0 - q) * (1.0 - q).ln());
        let pixels = Pixels::new(std::slice::from_ref(&p), 1, &[0]).unwrap();
        assert!((excess_nll(&pixels, &[0.7]).unwrap() - (cross - entropy)).abs() < 1e-6);
    }
}
