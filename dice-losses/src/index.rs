//! From the sums of a region to how well it overlaps.

use candle_core::{D, Result, Tensor};

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
    /// The index of every region, `[N, C]`; or of all classes of an item together, `[N, 1]`. `C` are the classes chosen,
    /// and over a whole batch `N` is 1.
    ///
    /// One ratio of all classes has no classes to tell apart afterwards: class weights and powers must then be the same
    /// for all, and the item is empty where it has none of the classes.
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

    /// What the index divides by, one number for each of [`RegionIndex::index`]'s; none, the default, if it is no ratio
    /// or does not say. For watching a training: where it is small, the gradient is large.
    ///
    /// # Errors
    ///
    /// Whatever the tensor operations report.
    fn denominator(&self, _stats: &RegionStats) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The index as data, if it is one of those that a CUDA kernel knows; the others' tensor operations run on the
    /// device one by one.
    #[cfg(feature = "cuda")]
    fn ratio(&self) -> Option<crate::cuda::Ratio> {
        None
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
}

impl Tversky {
    /// `α FP + β FN`, and `TP + α FP + β FN + s`.
    fn parts(&self, stats: &RegionStats) -> Result<(Tensor, Tensor)> {
        let errors = ((&stats.fp * self.alpha)? + (&stats.fn_ * self.beta)?)?;
        let all = ((&stats.tp + &errors)? + self.smooth)?;
        Ok((errors, all))
    }
}

impl RegionIndex for Tversky {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self.loss(stats)?.affine(-1.0, 1.0)
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        let (errors, all) = self.parts(stats)?;
        guard::ratio(&errors, &all)
    }

    /// `TP + α FP + β FN + s`.
    fn denominator(&self, stats: &RegionStats) -> Result<Option<Tensor>> {
        Ok(Some(self.parts(stats)?.1))
    }

    #[cfg(feature = "cuda")]
    fn ratio(&self) -> Option<crate::cuda::Ratio> {
        Some(crate::cuda::Ratio::Tversky(*self))
    }
}

/// How much each class counts in one ratio of all classes, by its volume Σy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weighting {
    /// `1/(Σy)²`: errors count relative to the square of the class's volume. Sudre et al. 2017.
    #[default]
    Square,
    /// `1/Σy`: errors count relative to the class's volume.
    Simple,
    /// 1: every pixel counts alike, whatever its class.
    Uniform,
}

/// The generalised Dice score: one ratio of all classes, the rarer ones weighted up.
///
/// $$ \frac{2 \sum_c w_c TP_c + s}{\sum_c w_c (2 TP_c + FP_c + FN_c) + s}, \quad
///    w_c = \Bigl( \frac{\min_k V_k}{V_c} \Bigr)^2, \quad V_c = \sum_i y_{ic} $$
///
/// that is `(2 Σ w TP + s) / (Σ w (2TP + FP + FN) + s)`. Sudre et al. 2017, whose weights `1/V²` are here divided by the
/// largest of them. That changes nothing at `s = 0`; but it keeps `s` in pixels (of the rarest class), where `1/V²` of a
/// large image would make any smoothing outweigh the image.
///
/// A class that is absent from an item has `1/V = ∞`. It gets the largest weight of the classes that are present, so that
/// false positives of it cost as much as those of the rarest class: with weight 0 they would cost nothing. (MONAI
/// has the same rule.) An item with none of the classes is an empty region.
///
/// The loss is computed as `Σ w (FP + FN) / (Σ w (2TP + FP + FN) + s)`. It is one number an item: `[N, 1]`.
///
/// ```
/// use dice_losses::{GeneralisedDice, Loss, RegionLoss, Weighting, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64; 4]; 2]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 0, 0, 1]], &Device::Cpu)?;
/// // Volumes 3 and 1, so w = 1/9 and 1. TP = 3/2, FP = ½, FN = 3/2 of the background; ½, 3/2, ½ of the foreground.
/// let loss = RegionLoss::new(GeneralisedDice { weighting: Weighting::Square, smooth: 0.0 });
/// let value = loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((value - (2.0 / 9.0 + 2.0) / (5.0 / 9.0 + 3.0)).abs() < 1e-12); // 5/8
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneralisedDice {
    /// The classes' weights.
    pub weighting: Weighting,
    /// Smoothing `s`, in pixels of the rarest class.
    pub smooth: f64,
}

impl GeneralisedDice {
    /// `w` of each class and item, `[N, C]`, from their volumes: 1 for the rarest and for those that are absent.
    ///
    /// # Errors
    ///
    /// Whatever the tensor operations report.
    pub fn weights(&self, volume: &Tensor) -> Result<Tensor> {
        // Volumes beyond any image stand for those of absent classes.
        const NONE: f64 = 1e30;
        let exponent = match self.weighting {
            Weighting::Square => 2.0,
            Weighting::Simple => 1.0,
            Weighting::Uniform => return volume.ones_like(),
        };
        let volume = volume.detach();
        let absent = volume.eq(0f64)?;
        let or =
            |stand_in: &Tensor| absent.where_cond(&stand_in.broadcast_as(volume.shape())?, &volume);
        let rarest = or(&volume.ones_like()?.affine(NONE, 0.0)?)?.min_keepdim(D::Minus1)?;
        rarest.broadcast_div(&or(&rarest)?)?.powf(exponent)
    }

    /// `Σ w (FP + FN)`, and `Σ w (2TP + FP + FN) + s`.
    fn parts(&self, stats: &RegionStats) -> Result<(Tensor, Tensor)> {
        let weights = self.weights(&stats.volume)?;
        let errors = (&stats.fp + &stats.fn_)?;
        let all = ((&stats.tp * 2.0)? + &errors)?;
        let sum = |x: Tensor| (x * &weights)?.sum_keepdim(D::Minus1);
        let (errors, all) = (sum(errors)?, (sum(all)? + self.smooth)?);
        Ok((errors, all))
    }
}

impl RegionIndex for GeneralisedDice {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self.loss(stats)?.affine(-1.0, 1.0)
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        let (errors, all) = self.parts(stats)?;
        guard::ratio(&errors, &all)
    }

    /// `Σ w (2TP + FP + FN) + s`.
    fn denominator(&self, stats: &RegionStats) -> Result<Option<Tensor>> {
        Ok(Some(self.parts(stats)?.1))
    }

    #[cfg(feature = "cuda")]
    fn ratio(&self) -> Option<crate::cuda::Ratio> {
        Some(crate::cuda::Ratio::GeneralisedDice(*self))
    }
}
