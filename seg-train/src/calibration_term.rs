//! Average calibration error as a term of the training loss.
//!
//! Of each class of an image, the counted pixels fall by their probability p into bins of equal width; with e the mean p
//! of a bin and o the share of its pixels that are of the class,
//!
//! ```text
//! ACE = mean over classes of mean over filled bins of |e − o|,
//! ```
//!
//! and the term is the mean of the images' ACE: the hard-binned, marginal L1-ACE of Barfoot et al. 2024, who add it to
//! Dice and cross-entropy. Which bin a pixel is in has no gradient; within its bin of n pixels, of M filled bins and C
//! classes, ∂ACE/∂p = sign(e − o) / (C M n). Bins and their edges are those of [`Bins`], and the value is that of
//! [`Bins::ace`], class by class.
//!
//! It belongs to the trainer: no algebra on the sums of a Dice loss knows in which bin a pixel falls.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    metrics::{Bins, Top},
    raster::{IGNORE, NO_CLASS},
};

/// The term and how much it counts: `recipe.calibration_term`. The loss becomes `L + weight · ACE`, in training and in
/// validation.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use seg_train::calibration_term::CalibrationTerm;
/// let term = CalibrationTerm { weight: 1.0, bins: 10 };
/// // Four pixels at p = ¼ of being foreground. One is: calibrated. Two are: off by a quarter, of either class.
/// let logits = Tensor::new(&[[[[3_f64.ln(); 4]], [[0.0; 4]]]], &Device::Cpu)?;
/// assert!(term.value(&logits, &[0, 1, 0, 0])? < 1e-15);
/// assert!((term.value(&logits, &[0, 1, 1, 0])? - 0.25).abs() < 1e-15);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationTerm {
    /// Its factor beside the loss.
    pub weight: f64,
    /// Bins of probability.
    #[serde(default = "usual_bins")]
    pub bins: usize,
}

fn usual_bins() -> usize {
    15
}

impl CalibrationTerm {
    pub(crate) fn check(&self) -> Result<()> {
        let Self { weight, bins } = *self;
        ensure!(
            weight.is_finite() && weight > 0.0,
            "weight is {weight}; expected a finite number above 0, or leave the term out"
        );
        ensure!(
            (1..=10_000).contains(&bins),
            "bins is {bins}; expected a whole number from 1 to 10000"
        );
        Ok(())
    }

    /// The term without its weight: the mean ACE of the images whose logits `[N, C, H, W]` and labels `[N, H, W]` these
    /// are. Pixels that are ignored or of no class are left out; an image of such alone has an ACE of 0.
    ///
    /// # Errors
    ///
    /// If the labels are not one a pixel, or there are less than two classes.
    pub fn value(&self, logits: &Tensor, labels: &[u8]) -> Result<f64> {
        Ok(mean(self.each(logits, labels, |image| image.ace())?))
    }

    /// The term without its weight and its gradient in the logits, image after image. A bin without a gap has the
    /// gradient 0.
    ///
    /// # Errors
    ///
    /// As [`value`](Self::value).
    pub fn value_and_grad(&self, logits: &Tensor, labels: &[u8]) -> Result<(f64, Vec<f64>)> {
        let items = logits.dim(0)?;
        let (values, gradients): (Vec<f64>, Vec<Vec<f64>>) = self
            .each(logits, labels, |image| {
                (image.ace(), image.gradient(1.0 / items as f64))
            })?
            .into_iter()
            .unzip();
        Ok((mean(values), gradients.concat()))
    }

    /// A loss and its gradient in the logits, with the weighted term added to both.
    ///
    /// # Errors
    ///
    /// As [`value`](Self::value).
    pub fn add_to(
        &self,
        (loss, gradient): (f64, &Tensor),
        logits: &Tensor,
        labels: &[u8],
    ) -> Result<(f64, Tensor)> {
        let (value, of_term) = self.value_and_grad(logits, labels)?;
        let of_term = Tensor::from_vec(of_term, logits.shape(), logits.device())?;
        let sum = (gradient.to_dtype(DType::F64)? + (of_term * self.weight)?)?;
        Ok((
            loss + self.weight * value,
            sum.to_dtype(gradient.dtype())?.detach(),
        ))
    }

    /// What `f` makes of each image, in their order.
    fn each<T: Send>(
        &self,
        logits: &Tensor,
        labels: &[u8],
        f: impl Fn(Binned<'_>) -> T + Sync,
    ) -> Result<Vec<T>> {
        let (items, classes, height, width) = logits.dims4()?;
        let plane = height * width;
        if classes < 2 || labels.len() != items * plane {
            bail!(
                "the calibration term takes logits of two classes or more and a label a pixel; found logits {:?} and {} \
                 labels",
                logits.dims(),
                labels.len()
            );
        }
        let logits = logits.detach().to_dtype(DType::F64)?.flatten_all()?;
        let logits = logits.to_vec1::<f64>()?;
        Ok(logits
            .par_chunks_exact(classes * plane)
            .zip(labels.par_chunks_exact(plane))
            .map(|(logits, labels)| f(Binned::new(logits, classes, labels, self.bins)))
            .collect())
    }
}

fn mean(values: Vec<f64>) -> f64 {
    let items = values.len();
    values.into_iter().sum::<f64>() / items as f64
}

/// One image: its probabilities, and the bins of each class.
struct Binned<'a> {
    labels: &'a [u8],
    /// Planar, `[classes, pixels]`; 0 where a pixel is not counted.
    p: Vec<f64>,
    classes: Vec<Bins>,
}

impl<'a> Binned<'a> {
    fn new(logits: &[f64], classes: usize, labels: &'a [u8], bins: usize) -> Self {
        let plane = labels.len();
        let mut p = vec![0.0; logits.len()];
        let mut sums = vec![Bins::new(bins, Top::Closed); classes];
        for (i, &label) in labels
            .iter()
            .enumerate()
            .filter(|(_, label)| counts(**label))
        {
            let logit = |class: usize| logits[class * plane + i];
            // The largest becomes 0, so no exponential overflows.
            let largest = (0..classes).map(logit).fold(f64::NEG_INFINITY, f64::max);
            let power = |class: usize| (logit(class) - largest).exp();
            let all: f64 = (0..classes).map(power).sum();
            for (class, sums) in sums.iter_mut().enumerate() {
                let share = power(class) / all;
                p[class * plane + i] = share;
                sums.add(share, usize::from(label) == class);
            }
        }
        Self {
            labels,
            p,
            classes: sums,
        }
    }

    fn ace(&self) -> f64 {
        let each = self.classes.iter().map(|bins| bins.ace().unwrap_or(0.0));
        each.sum::<f64>() / self.classes.len() as f64
    }

    /// `share` times the gradient of [`ace`](Self::ace) in the logits, planar.
    fn gradient(&self, share: f64) -> Vec<f64> {
        let (classes, plane) = (self.classes.len(), self.labels.len());
        let slopes: Vec<Vec<f64>> = self
            .classes
            .iter()
            .map(|bins| slopes(bins, share / classes as f64))
            .collect();
        let mut gradient = vec![0.0; self.p.len()];
        let counted = self.labels.iter().enumerate();
        for (i, _) in counted.filter(|(_, label)| counts(**label)) {
            let p = |class: usize| self.p[class * plane + i];
            let slope = |class: usize| slopes[class][self.classes[class].index(p(class))];
            // Through the softmax: ∂L/∂z_k = p_k (s_k − Σ s_c p_c).
            let mean: f64 = (0..classes).map(|class| slope(class) * p(class)).sum();
            for class in 0..classes {
                gradient[class * plane + i] = p(class) * (slope(class) - mean);
            }
        }
        gradient
    }
}

/// `share` times ∂ACE/∂p of the pixels of each bin.
fn slopes(bins: &Bins, share: f64) -> Vec<f64> {
    let filled = bins.iter().flatten().count();
    bins.iter()
        .map(|bin| {
            bin.map_or(0.0, |bin| {
                let gap = bin.confidence - bin.accuracy;
                // f64::signum knows no 0.
                let sign = if gap == 0.0 { 0.0 } else { gap.signum() };
                share * sign / (filled as f64 * bin.count as f64)
            })
        })
        .collect()
}

/// Whether a pixel can be right: what is ignored is nothing, and what is of no class has none to be right about.
fn counts(label: u8) -> bool {
    !matches!(label, IGNORE | NO_CLASS)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::Rng as _;

    use super::*;
    use crate::{
        metrics::Pixels,
        rng::{Purpose, stream},
    };

    const TERM: CalibrationTerm = CalibrationTerm {
        weight: 1.0,
        bins: 7,
    };

    /// Logits of some images of 5 × 6 pixels, and labels of all kinds.
    fn images(items: usize, classes: usize, seed: u64) -> (Vec<f64>, Vec<u8>) {
        let mut rng = stream(seed, Purpose::Phantom, 0, 0);
        let logits = (0..items * classes * 30)
            .map(|_| rng.random_range(-3.0..3.0))
            .collect();
        let labels = (0..items * 30)
            .map(|i| match i % 11 {
                3 => IGNORE,
                7 => NO_CLASS,
                _ => rng.random_range(0..classes as u8),
            })
            .collect();
        (logits, labels)
    }

    fn tensor(logits: &[f64], classes: usize) -> Tensor {
        let shape = (logits.len() / (classes * 30), classes, 5, 6);
        Tensor::from_slice(logits, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn it_is_the_mean_of_the_class_wise_error_that_evaluation_measures() {
        for classes in [2, 4] {
            let (logits, labels) = images(3, classes, 1);
            let found = TERM.value(&tensor(&logits, classes), &labels).unwrap();
            let p = crate::evaluate::probabilities(&tensor(&logits, classes)).unwrap();
            let each = p.chunks(classes * 30).zip(labels.chunks(30));
            let expected: f64 = each
                .map(|(p, labels)| {
                    let pixels = Pixels::new(p, classes, labels).unwrap();
                    let bins = Bins::class_wise(&pixels, 7, Top::Closed);
                    bins.iter().map(|b| b.ace().unwrap()).sum::<f64>() / classes as f64
                })
                .sum::<f64>()
                / 3.0;
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
            assert!(found > 0.05, "random predictions are not calibrated");
        }
    }

    #[test]
    fn the_gradient_is_the_central_difference_away_from_edges() {
        let h = 1e-6;
        for classes in [2, 4] {
            let (logits, labels) = images(2, classes, 2);
            let value = |logits: &[f64]| TERM.value(&tensor(logits, classes), &labels).unwrap();
            let (at, gradient) = TERM
                .value_and_grad(&tensor(&logits, classes), &labels)
                .unwrap();
            assert_eq!(at, value(&logits));
            let mut compared = 0;
            for (i, expected) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut logits = logits.clone();
                    logits[i] += by;
                    value(&logits)
                };
                let [low, high] = [moved(-h), moved(h)];
                // A pixel that changes its bin makes a jump, where there is no derivative.
                if (low - at).abs().max((high - at).abs()) < 2.0 * h {
                    let difference = (high - low) / (2.0 * h);
                    assert!(
                        (difference - expected).abs() < 1e-8,
                        "{difference} {expected}"
                    );
                    compared += 1;
                }
            }
            assert!(compared * 100 > 98 * gradient.len(), "{compared}");
            assert!(gradient.iter().filter(|g| g.abs() > 1e-4).count() > gradient.len() / 2);
        }
    }

    #[test]
    fn a_pixel_that_is_not_counted_changes_nothing_whatever_is_predicted_there() {
        let (logits, labels) = images(1, 2, 3);
        let (value, gradient) = TERM.value_and_grad(&tensor(&logits, 2), &labels).unwrap();
        let mut other = logits.clone();
        for at in [3, 7, 30 + 14, 30 + 18] {
            assert!(matches!(labels[at % 30], IGNORE | NO_CLASS));
            assert_eq!(gradient[at], 0.0);
            other[at] = f64::NAN;
        }
        let (same, of_same) = TERM.value_and_grad(&tensor(&other, 2), &labels).unwrap();
        assert_eq!((same, of_same), (value, gradient));
        let nothing = TERM
            .value_and_grad(&tensor(&logits, 2), &[IGNORE; 30])
            .unwrap();
        assert_eq!(nothing, (0.0, vec![0.0; 60]));
    }

    #[test]
    fn of_a_calibrated_batch_it_is_nothing() {
        // 12 pixels at p = ¼, three of them foreground, and 18 at p = ⅔, twelve of them.
        let foreground: Vec<f64> = (0..30)
            .map(|i| if i < 12 { -3_f64.ln() } else { 2_f64.ln() })
            .collect();
        let logits = [vec![0.0; 30], foreground].concat();
        let labels: Vec<u8> = (0..30).map(|i| u8::from(!(3..18).contains(&i))).collect();
        let value = TERM.value(&tensor(&logits, 2), &labels).unwrap();
        assert!(value < 1e-15, "{value}");
    }

    #[test]
    fn going_down_its_gradient_calibrates() {
        let (mut logits, labels) = images(2, 3, 4);
        let before = TERM.value(&tensor(&logits, 3), &labels).unwrap();
        for _ in 0..200 {
            let (_, gradient) = TERM.value_and_grad(&tensor(&logits, 3), &labels).unwrap();
            for (logit, slope) in logits.iter_mut().zip(&gradient) {
                *logit -= 2.0 * slope;
            }
        }
        let after = TERM.value(&tensor(&logits, 3), &labels).unwrap();
        assert!(after < 0.8 * before, "{before} {after}");
    }

    #[test]
    fn it_is_added_to_value_and_gradient_with_its_weight() {
        let (logits, labels) = images(1, 2, 5);
        let logits = tensor(&logits, 2).to_dtype(DType::F32).unwrap();
        let term = CalibrationTerm {
            weight: 2.5,
            ..TERM
        };
        let (value, gradient) = term.value_and_grad(&logits, &labels).unwrap();
        let ones = logits.ones_like().unwrap();
        let (sum, of_sum) = term.add_to((7.0, &ones), &logits, &labels).unwrap();
        assert_eq!(sum, 7.0 + 2.5 * value);
        let of_sum = of_sum.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = gradient.iter().map(|g| (1.0 + 2.5 * g) as f32).collect();
        assert_eq!(of_sum, expected);
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let (logits, labels) = images(9, 3, 6);
        let logits = tensor(&logits, 3);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| TERM.value_and_grad(&logits, &labels).unwrap())
        };
        assert_eq!(with(1), with(4));
    }

    #[test]
    fn what_it_cannot_be_is_said() {
        let term = |weight, bins| {
            let term = CalibrationTerm { weight, bins };
            term.check().unwrap_err().to_string()
        };
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                term(weight, 15),
                format!(
                    "weight is {weight}; expected a finite number above 0, or leave the term out"
                )
            );
        }
        assert_eq!(
            term(1.0, 0),
            "bins is 0; expected a whole number from 1 to 10000"
        );
        let (logits, _) = images(1, 2, 7);
        assert_eq!(
            TERM.value(&tensor(&logits, 2), &[0; 29])
                .unwrap_err()
                .to_string(),
            "the calibration term takes logits of two classes or more and a label a pixel; found logits [1, 2, 5, 6] and \
             29 labels"
        );
    }
}
