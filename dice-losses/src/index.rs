//! From the sums of a region to how well it overlaps.

use candle_core::{Result, Tensor};

use crate::{guard, stats::RegionStats};

/// A similarity of prediction and truth, computed from the sums alone: 1 when perfect.
///
/// Closures are indices, so a loss of one's own is one function, with γ, class subsets and all the rest for free:
///
/// ```
/// use dice_losses::{RegionLoss, RegionStats, Loss, candle_core::{Device, Result, Tensor}};
/// /// Kulczyński's index: the mean of precision and recall.
/// fn kulczynski(s: &RegionStats) -> Result<Tensor> {
///     let tp = (&s.tp + 1e-7)?;
///     let precision = (&tp / (&tp + &s.fp)?)?;
///     let recall = (&tp / (&tp + &s.fn_)?)?;
///     (precision + recall)? * 0.5
/// }
/// let loss = RegionLoss::new(kulczynski).plus_plus(2.0);
/// let logits = Tensor::new(&[[[20f64, -20.], [-20., 20.]]], &Device::Cpu)?; // [1, 2, 2]
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// assert!(loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()? < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait RegionIndex: Send + Sync {
    /// The index of every region, `[N, C]`.
    ///
    /// # Errors
    ///
    /// Whatever the tensor operations report.
    fn index(&self, stats: &RegionStats) -> Result<Tensor>;

    /// One minus the index. An index that knows a form without cancellation near 1 gives it here.
    ///
    /// # Errors
    ///
    /// Whatever the tensor operations report.
    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        self.index(stats)?.affine(-1.0, 1.0)
    }
}

impl<F: Fn(&RegionStats) -> Result<Tensor> + Send + Sync> RegionIndex for F {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self(stats)
    }
}

/// The Tversky index, of which Dice and Jaccard are two constants.
///
/// $$ TI = \frac{TP + s}{TP + \alpha FP + \beta FN + s} $$
///
/// that is `(TP + s) / (TP + α FP + β FN + s)`. Salehi et al. 2017; paper, Eq. 16. (Abraham and Khan's α is `beta`.)
/// The loss is computed as `(α FP + β FN) / (TP + α FP + β FN + s)`, which keeps its digits near a perfect prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tversky {
    /// Weight α of false positives.
    pub alpha: f64,
    /// Weight β of false negatives.
    pub beta: f64,
    /// Smoothing `s`, in pixels. In the form `2TP / (2TP + FP + FN)` of Dice it counts twice.
    pub smooth: f64,
}

impl Tversky {
    /// α = β = ½: the Dice similarity coefficient. Paper, Eq. 4.
    pub const DICE: Self = Self {
        alpha: 0.5,
        beta: 0.5,
        smooth: 1e-7,
    };
    /// α = β = 1: the Jaccard index, or intersection over union. Paper, Eq. 12.
    pub const JACCARD: Self = Self {
        alpha: 1.0,
        beta: 1.0,
        smooth: 1e-7,
    };

    fn weighted_errors(&self, stats: &RegionStats) -> Result<Tensor> {
        (&stats.fp * self.alpha)? + (&stats.fn_ * self.beta)?
    }
}

impl RegionIndex for Tversky {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        let hits = (&stats.tp + self.smooth)?;
        guard::ratio(&hits, &(&hits + self.weighted_errors(stats)?)?)
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        let errors = self.weighted_errors(stats)?;
        guard::ratio(&errors, &((&stats.tp + &errors)? + self.smooth)?)
    }
}
