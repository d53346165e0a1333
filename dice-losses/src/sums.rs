//! What losses are made of: a request names the sums over the pixels, one pass computes them, the loss is algebra on them.

use candle_core::{DType, Result, Tensor, bail};

use crate::{
    prediction::{Activation, Prediction},
    stats::{Modulation, RegionStats},
    target::Target,
};

/// The sums that a loss asks for, for a prediction of so many channels.
///
/// Losses that ask for the same share it. One pass over the pixels serves one modulation and one pixel term together:
/// all that a compound of the zoo needs.
///
/// ```
/// use dice_losses::{Loss, Modulation, PixelTerm, Request, Sums, candle_core::{Device, Result, Tensor}};
/// /// Cross-entropy over the probability mass that is in the right place.
/// struct PerHit;
/// fn cross_entropy(channels: usize) -> PixelTerm {
///     PixelTerm { focus: vec![0.0; channels], other_focus: vec![0.0; channels], log_power: 1.0 }
/// }
/// impl Loss for PerHit {
///     fn request(&self, request: &mut Request) -> Result<()> {
///         request.region(Modulation::Plain)?;
///         request.pixel(cross_entropy(request.channels()))
///     }
///     fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
///         let hits = sums.region(Modulation::Plain)?.tp.sum_all()?;
///         sums.pixel(&cross_entropy(sums.channels()))?.of_class.sum_all()? / hits
///     }
/// }
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = PerHit.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 2.0 * 2f64.ln()).abs() < 1e-12); // two pixels' ln 2 over TP = ½ + ½
/// # Ok::<(), dice_losses::candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    channels: usize,
    activation: Activation,
    pub(crate) modulations: Vec<Modulation>,
    pub(crate) pixel_terms: Vec<PixelTerm>,
}

impl Request {
    /// Nothing yet.
    pub(crate) fn new(prediction: &Prediction) -> Result<Self> {
        let (_, channels, _) = prediction.sizes()?;
        Ok(Self::of(channels, prediction.activation()))
    }

    /// Nothing yet, for so many channels.
    pub(crate) fn of(channels: usize, activation: Activation) -> Self {
        Self {
            channels,
            activation,
            modulations: Vec::new(),
            pixel_terms: Vec::new(),
        }
    }

    /// Channels of the prediction.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How the channels relate to each other.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Asks for a region's true and false positives and negatives, the errors modulated so.
    ///
    /// # Errors
    ///
    /// If γ is not a positive number.
    pub fn region(&mut self, modulation: Modulation) -> Result<()> {
        modulation.check()?;
        if !self.modulations.contains(&modulation) {
            self.modulations.push(modulation);
        }
        Ok(())
    }

    /// Asks for a pixel loss, summed over the pixels of every class.
    ///
    /// # Errors
    ///
    /// If an exponent is out of its range, or there is not one a channel.
    pub fn pixel(&mut self, term: PixelTerm) -> Result<()> {
        term.check()?;
        let sides = match self.activation {
            Activation::Softmax => vec![&term.focus],
            Activation::Sigmoid => vec![&term.focus, &term.other_focus],
        };
        if let Some(side) = sides.iter().find(|side| side.len() != self.channels) {
            bail!(
                "a pixel term has a focal exponent a channel, found {} for {} channels; 0 is none",
                side.len(),
                self.channels
            );
        }
        if !self.pixel_terms.contains(&term) {
            self.pixel_terms.push(term);
        }
        Ok(())
    }
}

/// The pixel loss `q^f (−ln p)^k` of the class that is true at a pixel, `p` being its predicted probability and
/// `q = 1 − p`: cross-entropy at f = 0 and k = 1, focal with f above 0 (Lin et al. 2017), that of the
/// exponential-logarithmic loss with k below 1 (Wong et al. 2018).
#[derive(Clone, Debug, PartialEq)]
pub struct PixelTerm {
    /// Focal exponent `f` of each channel's class; 0 is cross-entropy.
    pub focus: Vec<f64>,
    /// Focal exponent of the other side of each channel's sigmoid, "not this class"; unused for a softmax.
    pub other_focus: Vec<f64>,
    /// Exponent `k` of the logarithm: 1 but for the exponential-logarithmic loss.
    pub log_power: f64,
}

impl PixelTerm {
    fn check(&self) -> Result<()> {
        if let Some(focus) = self
            .focus
            .iter()
            .chain(&self.other_focus)
            .find(|focus| !(**focus >= 0.0 && focus.is_finite()))
        {
            bail!(
                "a focal exponent is a number, 0 or more, found {focus}; 0 is plain cross-entropy"
            );
        }
        if !(self.log_power > 0.0 && self.log_power.is_finite()) {
            bail!(
                "the exponent of the logarithm must be a positive number, found {}",
                self.log_power
            );
        }
        Ok(())
    }
}

/// A [`PixelTerm`] summed over the pixels of each item.
#[derive(Clone, Debug)]
pub struct PixelSums {
    /// `Σ y q^f (−ln p)^k` of each class, `[N, C]`.
    pub of_class: Tensor,
    /// `Σ (1 − y) p^f (−ln q)^k`, the other side of each channel's sigmoid, `[N, C]`; zeros for a softmax.
    pub of_others: Tensor,
    /// Number of pixels that count (the sum of their weights), `[N, C]`.
    pub pixels: Tensor,
}

/// The sums that were asked for.
#[derive(Debug)]
pub struct Sums {
    pub(crate) regions: Vec<(Modulation, RegionStats)>,
    pub(crate) pixels: Vec<(PixelTerm, PixelSums)>,
    channels: usize,
    activation: Activation,
    dtype: DType,
    sample_weights: Option<Tensor>,
}

impl Sums {
    /// None yet.
    pub(crate) fn new(prediction: &Prediction, target: &Target) -> Result<Self> {
        Ok(Self {
            regions: Vec::new(),
            pixels: Vec::new(),
            channels: prediction.sizes()?.1,
            activation: prediction.activation(),
            dtype: crate::field::working_dtype(prediction.values().device()),
            sample_weights: target.weights_of_samples(prediction)?,
        })
    }

    /// The region sums of each item with this modulation.
    ///
    /// # Errors
    ///
    /// If the loss did not ask for them.
    pub fn region(&self, modulation: Modulation) -> Result<&RegionStats> {
        match self.regions.iter().find(|(of, _)| *of == modulation) {
            Some((_, stats)) => Ok(stats),
            None => {
                bail!(
                    "the loss uses {modulation:?}, which its request did not ask for; call Request::pixel there"
                )
            }
        }
    }

    /// The sums of this pixel loss.
    ///
    /// # Errors
    ///
    /// If the loss did not ask for them.
    pub fn pixel(&self, term: &PixelTerm) -> Result<&PixelSums> {
        match self.pixels.iter().find(|(of, _)| of == term) {
            Some((_, sums)) => Ok(sums),
            None => bail!(
                "the loss uses {term:?}, which its request did not ask for; call Request::pixel there"
            ),
        }
    }

    /// Channels of the prediction.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How the channels relate to each other.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The dtype of all sums.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The factor on each item's loss `[N]`, if the target has one.
    pub fn sample_weights(&self) -> Option<&Tensor> {
        self.sample_weights.as_ref()
    }
}
