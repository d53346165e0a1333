//! What the network says, and in which form.

use candle_core::{Result, Tensor, bail};

/// How the channels of a prediction relate to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The classes exclude one another: softmax over dimension 1.
    Softmax,
    /// Each channel is a question of its own: a sigmoid a channel.
    Sigmoid,
}

/// Whether the values are logits or already probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Any real number.
    Logits,
    /// In `[0, 1]`.
    Probabilities,
}

/// A network's output `[N, C, …]`, of any rank from `[N, C]` up, together with what its numbers mean.
///
/// Logits are the ordinary input: from them every derivative is exact, however sure the network is. Channel 0 is the
/// background; a single channel is the foreground's.
///
/// ```
/// use dice_losses::{Activation, Prediction, candle_core::{Device, Tensor}};
/// let logits = Tensor::zeros((1, 2, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
/// assert_eq!(Prediction::logits(&logits).activation(), Activation::Softmax);
/// assert_eq!(Prediction::logits(&logits.narrow(1, 0, 1)?).activation(), Activation::Sigmoid);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prediction {
    values: Tensor,
    activation: Activation,
    scale: Scale,
}

impl Prediction {
    /// Logits of classes that exclude one another (softmax over dimension 1); one channel is a sigmoid's.
    pub fn logits(values: &Tensor) -> Self {
        Self {
            values: values.clone(),
            activation: by_channels(values),
            scale: Scale::Logits,
        }
    }

    /// Logits of labels that may hold together: a sigmoid a channel.
    pub fn multi_label(logits: &Tensor) -> Self {
        Self {
            values: logits.clone(),
            activation: Activation::Sigmoid,
            scale: Scale::Logits,
        }
    }

    /// Probabilities of classes that exclude one another, or of the foreground if there is one channel.
    ///
    /// The channels are taken as they are: nothing is normalised, and the gradient treats them as independent.
    /// Prefer logits. A probability of exactly 0 or 1 has lost what the logit knew, and at such pixels the
    /// derivative has to be bounded (see [`crate::guard`]).
    pub fn probabilities(values: &Tensor) -> Self {
        Self {
            values: values.clone(),
            activation: by_channels(values),
            scale: Scale::Probabilities,
        }
    }

    /// Probabilities of labels that may hold together.
    pub fn multi_label_probabilities(values: &Tensor) -> Self {
        Self {
            values: values.clone(),
            activation: Activation::Sigmoid,
            scale: Scale::Probabilities,
        }
    }

    /// The tensor `[N, C, …]` as it was given.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// How the channels relate.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Logits or probabilities.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The same meaning with other values.
    pub(crate) fn with_values(&self, values: Tensor) -> Self {
        Self { values, ..*self }
    }

    /// `(N, C, S)`: items, channels, and pixels an item.
    pub(crate) fn sizes(&self) -> Result<(usize, usize, usize)> {
        if !self.values.dtype().is_float() {
            bail!(
                "a prediction is of floats, found {:?}; are prediction and target exchanged?",
                self.values.dtype()
            );
        }
        match self.values.dims() {
            [n, c, space @ ..] if *n > 0 && *c > 0 => Ok((*n, *c, space.iter().product())),
            dims => {
                bail!("a prediction has shape [N, C, ...] with N and C at least 1, found {dims:?}")
            }
        }
    }
}

fn by_channels(values: &Tensor) -> Activation {
    if values.dims().get(1) == Some(&1) {
        Activation::Sigmoid
    } else {
        Activation::Softmax
    }
}

impl From<&Tensor> for Prediction {
    fn from(logits: &Tensor) -> Self {
        Self::logits(logits)
    }
}

impl From<&Prediction> for Prediction {
    fn from(prediction: &Prediction) -> Self {
        prediction.clone()
    }
}
