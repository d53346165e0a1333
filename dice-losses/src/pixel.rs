//! Pixel losses: cross-entropy and its focal variants, one struct with different settings.

use candle_core::{Result, Tensor};

use crate::{
    guard,
    loss::Loss,
    options::{PerClass, Reduction},
    prediction::Activation,
    sums::{PixelSums, PixelTerm, Request, Sums},
};

/// Cross-entropy with a weight and a focal exponent for each class, averaged over the pixels that count.
///
/// $$ -\frac{1}{N} \sum_i \sum_c w_c (1 - p_{ic})^{f_c}  y_{ic} \log p_{ic} $$
///
/// that is `−mean Σ_c w_c (1 − p_c)^f_c y_c ln p_c`. With one channel, and in multi-label mode, the background is the
/// other side of each sigmoid: `y` and `1 − y` are the two classes, and several channels are averaged.
///
/// | `w` | `f` | name | source |
/// |---|---|---|---|
/// | 1 | 0 | cross-entropy | paper, Eq. 1 |
/// | 1 | focus | focal | Lin et al. 2017 |
/// | 1 − δ, δ | focus, 0 | asymmetric focal (background, foreground) | Yeung et al. 2021; paper, Eq. 19 |
/// | 1 − β, β | 0 | modified cross-entropy of Combo | Taghanaki et al. 2019; paper, Eq. 14 |
///
/// ```
/// use dice_losses::{FocalCrossEntropy, Loss, PerClass, candle_core::{Device, Tensor}};
/// let ce = FocalCrossEntropy::new(1.0, 0.0);
/// let logits = Tensor::new(&[[[0f64], [0.]]], &Device::Cpu)?; // p = ½
/// let labels = Tensor::new(&[[1u8]], &Device::Cpu)?;
/// let value = |loss: FocalCrossEntropy| loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// assert!((value(ce)? - 2f64.ln()).abs() < 1e-15);
/// assert!((value(FocalCrossEntropy::new(1.0, 2.0))? - 2f64.ln() / 4.0).abs() < 1e-15);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FocalCrossEntropy {
    weights: PerClass,
    focus: PerClass,
    log_power: f64,
    reduction: Reduction,
}

impl FocalCrossEntropy {
    /// The loss with these weights `w` and focal exponents `f` (0: none).
    pub fn new(weights: impl Into<PerClass>, focus: impl Into<PerClass>) -> Self {
        Self {
            weights: weights.into(),
            focus: focus.into(),
            log_power: 1.0,
            reduction: Reduction::Mean,
        }
    }

    /// An exponent on each pixel's `−ln p`, above 0: the cross-entropy of the exponential-logarithmic loss (Wong et
    /// al. 2018).
    #[must_use]
    pub fn log_power(mut self, power: f64) -> Self {
        self.log_power = power;
        self
    }

    /// Mean over all pixels, one mean an item, or the sum of the items' means.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl FocalCrossEntropy {
    fn term(&self, channels: usize, activation: Activation) -> Result<PixelTerm> {
        let what = "focal exponents";
        let (other_focus, focus) = match activation {
            Activation::Softmax => (Vec::new(), self.focus.of(channels, activation, what)?),
            Activation::Sigmoid => sides(&self.focus, channels, what)?,
        };
        Ok(PixelTerm {
            focus,
            other_focus,
            log_power: self.log_power,
        })
    }
}

impl Loss for FocalCrossEntropy {
    fn request(&self, request: &mut Request) -> Result<()> {
        request.pixel(self.term(request.channels(), request.activation())?)
    }

    fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
        let activation = sums.activation();
        let channels = sums.channels();
        let PixelSums {
            of_class,
            of_others,
            pixels,
        } = sums.pixel(&self.term(channels, activation)?)?;
        let weighted = |sums: &Tensor, weights: Vec<f64>| -> Result<Tensor> {
            let weights = Tensor::new(weights, sums.device())?.to_dtype(sums.dtype())?;
            sums.broadcast_mul(&weights.unsqueeze(0)?)?.sum(1)
        };
        let what = "class weights";
        let sum = match activation {
            Activation::Softmax => {
                weighted(of_class, self.weights.of(channels, activation, what)?)?
            }
            Activation::Sigmoid => {
                let (other, class) = sides(&self.weights, channels, what)?;
                ((weighted(of_class, class)? + weighted(of_others, other)?)? / channels as f64)?
            }
        };
        let sum = match sums.sample_weights() {
            Some(weights) => (sum * weights)?,
            None => sum,
        };
        let pixels = pixels.narrow(1, 0, 1)?.squeeze(1)?;
        match self.reduction {
            Reduction::Mean => guard::ratio(&sum.sum_all()?, &pixels.sum_all()?),
            Reduction::Sum => guard::ratio(&sum, &pixels)?.sum_all(),
            Reduction::None => guard::ratio(&sum, &pixels),
        }
    }

    #[cfg(feature = "cuda")]
    fn algebra(&self, request: &Request) -> Result<Option<crate::cuda::Algebra>> {
        let (channels, activation) = (request.channels(), request.activation());
        let what = "class weights";
        let (others, weights, divisor) = match activation {
            Activation::Softmax => (
                vec![0.0; channels],
                self.weights.of(channels, activation, what)?,
                1.0,
            ),
            Activation::Sigmoid => {
                let (others, weights) = sides(&self.weights, channels, what)?;
                (others, weights, channels as f64)
            }
        };
        Ok(Some(crate::cuda::Algebra::pixel(
            crate::cuda::PixelAlgebra {
                term: self.term(channels, activation)?,
                weights,
                others,
                divisor,
                reduction: self.reduction,
            },
        )))
    }
}

/// The two sides (background, foreground) of every sigmoid channel.
fn sides(values: &PerClass, channels: usize, what: &str) -> Result<(Vec<f64>, Vec<f64>)> {
    match values {
        PerClass::Split {
            background,
            foreground,
        } => Ok((vec![*background; channels], vec![*foreground; channels])),
        PerClass::Each(pair) if channels == 1 && pair.len() == 2 => {
            Ok((vec![pair[0]], vec![pair[1]]))
        }
        other => other
            .of(channels, Activation::Sigmoid, what)
            .map(|values| (values.clone(), values)),
    }
}
