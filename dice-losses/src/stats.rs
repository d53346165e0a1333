//! The sums every region loss is made of: the only code that sees γ.

use candle_core::{Result, Tensor, bail};

use crate::{
    composed, fused,
    options::Region,
    prediction::{Activation, Prediction},
    sums::{Request, Sums},
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
    /// `(p − y)²`, a false positive where `p` exceeds `y`, a false negative where it falls short: the Dice loss with
    /// squared denominators, `1 − 2Σpy / (Σp² + Σy²)`. For hard labels this is `Power(2.0)`, and takes its path.
    SquaredDifference,
}

/// The largest exponent γ: far above any use, and far below what f32 does not hold.
pub const MAX_GAMMA: f64 = 1e6;

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
            Self::SquaredDifference => 2.0,
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        let gamma = self.gamma();
        if !(gamma > 0.0 && gamma <= MAX_GAMMA) {
            bail!(
                "γ must be above 0 and at most {MAX_GAMMA}, found {gamma}; the paper sweeps 0.5 to 5 and settles on 2"
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
/// ([`Modulation::SquaredDifference`] has fp = Σ max(p − y, 0)² and fn = Σ max(y − p, 0)².)
/// With pixel weights every term has the pixel's weight as a factor.
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
    /// How the channels relate to each other: whether there is a background among them.
    pub activation: Activation,
    /// How the errors were modulated.
    pub modulation: Modulation,
}

impl RegionStats {
    /// The sums, differentiable in the prediction: in one fused pass on the CPU, of plain Candle operations elsewhere.
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
        Self::of(prediction, target, modulation, region, fused::sums)
    }

    /// The same sums of plain Candle operations: what the fused pass is tested against, and what other backends use.
    ///
    /// # Errors
    ///
    /// As [`RegionStats::new`].
    pub fn composed(
        prediction: &Prediction,
        target: &Target,
        modulation: Modulation,
        region: Region,
    ) -> Result<Self> {
        Self::of(prediction, target, modulation, region, composed::sums)
    }

    fn of(
        prediction: &Prediction,
        target: &Target,
        modulation: Modulation,
        region: Region,
        sums: impl FnOnce(&Prediction, &Target, &Request) -> Result<Sums>,
    ) -> Result<Self> {
        let mut request = Request::new(prediction)?;
        request.region(modulation)?;
        let sums = sums(prediction, target, &request)?;
        let stats = sums.region(modulation)?;
        match region {
            Region::Item => Ok(stats.clone()),
            Region::Batch => stats.batch(),
        }
    }

    /// One of every sum, each field by `f`.
    fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            tp: f(&self.tp)?,
            fp: f(&self.fp)?,
            fn_: f(&self.fn_)?,
            volume: f(&self.volume)?,
            predicted: f(&self.predicted)?,
            pixels: f(&self.pixels)?,
            activation: self.activation,
            modulation: self.modulation,
        })
    }

    /// All items as one region, `[1, C]`.
    ///
    /// # Errors
    ///
    /// Whatever the tensor operations report.
    pub fn batch(&self) -> Result<Self> {
        self.map(|x| x.sum_keepdim(0))
    }

    /// The sums of both together, for regions that are spread over devices, workers or tiles: sums add up, ratios
    /// do not.
    ///
    /// ```
    /// use dice_losses::{Modulation, Region, RegionStats, candle_core::{Device, Tensor}, zoo};
    /// let logits = Tensor::new(&[[[1f64, -2., 3., 0.]]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[[1u8, 0, 1, 0]], &Device::Cpu)?;
    /// let stats = |at, len| -> candle_core::Result<RegionStats> {
    ///     let (logits, labels) = (logits.narrow(2, at, len)?, labels.narrow(1, at, len)?);
    ///     RegionStats::new(&(&logits).into(), &(&labels).into(), Modulation::Power(2.0), Region::Batch)
    /// };
    /// // Each half of the image on a device of its own; `to_device` brings the six small tensors together.
    /// let here = stats(0, 2)?;
    /// let there = stats(2, 2)?.to_device(&Device::Cpu)?;
    /// let loss = zoo::dice().plus_plus(2.0);
    /// let (of_parts, of_whole) = (loss.of_stats(&here.plus(&there)?)?, loss.of_stats(&stats(0, 4)?)?);
    /// assert!((of_parts.to_scalar::<f64>()? - of_whole.to_scalar::<f64>()?).abs() < 1e-12);
    /// # use dice_losses::candle_core;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the shapes, the devices or the modulations differ.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        if self.modulation != other.modulation {
            bail!(
                "sums add up if they are modulated alike, found {:?} and {:?}",
                self.modulation,
                other.modulation
            );
        }
        Ok(Self {
            tp: (&self.tp + &other.tp)?,
            fp: (&self.fp + &other.fp)?,
            fn_: (&self.fn_ + &other.fn_)?,
            volume: (&self.volume + &other.volume)?,
            predicted: (&self.predicted + &other.predicted)?,
            pixels: (&self.pixels + &other.pixels)?,
            activation: self.activation,
            modulation: self.modulation,
        })
    }

    /// The same sums on another device.
    ///
    /// # Errors
    ///
    /// Whatever the transfer reports.
    pub fn to_device(&self, device: &candle_core::Device) -> Result<Self> {
        self.map(|x| x.to_device(device))
    }

    /// All classes of an item as one region, `[N, 1]`.
    pub(crate) fn merged(&self) -> Result<Self> {
        self.map(|x| x.sum_keepdim(1))
    }

    /// The same sums of some of the channels only.
    pub(crate) fn select(&self, channels: &Tensor) -> Result<Self> {
        self.map(|x| x.index_select(channels, 1))
    }
}
