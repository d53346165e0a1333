//! The sums every region loss is made of: the only code that sees γ.

use candle_core::{Result, Tensor, bail};

use crate::{
    field::{Field, block_sum, working_dtype},
    options::Region,
    prediction::Prediction,
    target::Target,
};

/// What happens to an error `e` (a false-positive or false-negative pixel's share) before it is summed.
///
/// [`Modulation::from_gamma`] takes the plain path at γ = 1, so that a `++` loss at γ = 1 *is* the plain loss, bit for
/// bit in value and gradient. `Power(1.0)` computes the same through the general power, to rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Modulation {
    /// `e`: the plain loss.
    Plain,
    /// `e^γ`: the `++` loss.
    Power(f64),
}

impl Modulation {
    /// The modulation of an exponent γ.
    pub fn from_gamma(gamma: f64) -> Self {
        if gamma == 1.0 {
            Self::Plain
        } else {
            Self::Power(gamma)
        }
    }

    /// The exponent γ.
    pub fn gamma(self) -> f64 {
        match self {
            Self::Plain => 1.0,
            Self::Power(gamma) => gamma,
        }
    }

    fn check(self) -> Result<()> {
        let gamma = self.gamma();
        if !(gamma > 0.0 && gamma.is_finite()) {
            bail!(
                "γ must be a positive number, found {gamma}; the paper sweeps 0.5 to 5 and settles on 2"
            );
        }
        Ok(())
    }
}

/// Sums over the pixels of each region, one a class and item: `[N, C]`, or `[1, C]` over a whole batch, in f64 where
/// the device has it.
///
/// With `p` the predicted probability and `y` the truth of a class at a pixel (paper, Eq. 8 and 9):
///
/// | field | meaning |
/// |---|---|
/// | `tp` | Σ p y |
/// | `fp` | Σ (p (1 − y))^γ |
/// | `fn_` | Σ ((1 − p) y)^γ |
/// | `volume` | Σ y |
/// | `predicted` | Σ p |
/// | `pixels` | number of pixels that count |
///
/// ```
/// use dice_losses::{Modulation, Prediction, Region, RegionStats, Target, candle_core::{Device, Tensor}};
/// let p = Tensor::new(&[[[0.8f64, 0.5]]], &Device::Cpu)?; // one item, one channel, two pixels
/// let y = Tensor::new(&[[1u8, 0]], &Device::Cpu)?;
/// let stats = RegionStats::new(
///     &Prediction::probabilities(&p), &Target::labels(&y), Modulation::from_gamma(2.0), Region::Item)?;
/// let value = |t: &Tensor| t.flatten_all()?.get(0)?.to_scalar::<f64>();
/// assert!((value(&stats.tp)? - 0.8).abs() < 1e-15);
/// assert!((value(&stats.fp)? - 0.25).abs() < 1e-15); // 0.5²
/// assert!((value(&stats.fn_)? - 0.04).abs() < 1e-15); // 0.2²
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RegionStats {
    /// True positives, Σ p y.
    pub tp: Tensor,
    /// False positives, Σ (p (1 − y))^γ.
    pub fp: Tensor,
    /// False negatives, Σ ((1 − p) y)^γ.
    pub fn_: Tensor,
    /// Σ y.
    pub volume: Tensor,
    /// Σ p.
    pub predicted: Tensor,
    /// Number of pixels that count.
    pub pixels: Tensor,
}

impl RegionStats {
    /// The sums, made of plain Candle operations and differentiable in the prediction.
    ///
    /// # Errors
    ///
    /// If shapes, dtypes, labels or probabilities are not what [`Prediction`] and [`Target`] ask for, or γ is not a
    /// positive number.
    pub fn new(
        prediction: &Prediction,
        target: &Target,
        modulation: Modulation,
        region: Region,
    ) -> Result<Self> {
        modulation.check()?;
        let truth = target.truth(prediction, working_dtype(prediction.values().device()))?;
        let field = Field::new(prediction, &truth)?;
        let (p, y) = (field.p()?, &truth.y);
        let not_y = y.affine(-1.0, 1.0)?;
        // For hard labels (p (1 − y))^γ = p^γ (1 − y); for soft ones the power takes the label too, as Eq. 9 has it.
        let (fp, fn_) = match modulation {
            Modulation::Plain => ((&p * &not_y)?, (field.complement().p()? * y)?),
            Modulation::Power(gamma) => (
                (field.p_power(gamma)? * not_y.powf(gamma)?)?,
                (field.complement().p_power(gamma)? * y.powf(gamma)?)?,
            ),
        };
        let sum = |x: Tensor| -> Result<Tensor> {
            let sum = block_sum(&truth.counted(x)?)?;
            match region {
                Region::Item => Ok(sum),
                Region::Batch => sum.sum_keepdim(0),
            }
        };
        Ok(Self {
            tp: sum((&p * y)?)?,
            fp: sum(fp)?,
            fn_: sum(fn_)?,
            volume: sum(y.clone())?,
            pixels: sum(y.ones_like()?)?,
            predicted: sum(p)?,
        })
    }

    /// The same sums of some of the channels only.
    pub(crate) fn select(&self, channels: &Tensor) -> Result<Self> {
        let select = |x: &Tensor| x.index_select(channels, 1);
        Ok(Self {
            tp: select(&self.tp)?,
            fp: select(&self.fp)?,
            fn_: select(&self.fn_)?,
            volume: select(&self.volume)?,
            predicted: select(&self.predicted)?,
            pixels: select(&self.pixels)?,
        })
    }
}
