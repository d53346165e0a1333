//! The named choices of a loss: which classes, what a region is, what an empty one costs, and how losses are reduced.

use candle_core::{Result, bail};

use crate::prediction::Activation;

/// The classes a region loss looks at.
///
/// Channel 0 is the background where the classes exclude one another. Where each channel is a question of its own (a
/// single channel, multi-label) there is no background: every channel is a foreground.
///
/// ```
/// use dice_losses::{Classes, Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64; 4]; 2]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 0, 0, 1]], &Device::Cpu)?;
/// let value = |classes| zoo::dice().classes(classes).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// // Of the background TP = 3/2, FP = ½, FN = 3/2; of the foreground ½, 3/2, ½.
/// assert!((value(Classes::Foreground)? - 2.0 / 3.0).abs() < 1e-6);
/// assert!((value(Classes::Listed(vec![0]))? - 2.0 / 5.0).abs() < 1e-6);
/// assert!((value(Classes::All)? - 8.0 / 15.0).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Classes {
    /// Every channel, the background too: what the paper's authors trained.
    #[default]
    All,
    /// Every channel but the background's: the paper's equations.
    Foreground,
    /// These channels.
    Listed(Vec<usize>),
}

impl Classes {
    /// The channels chosen out of `channels`.
    pub(crate) fn of(&self, channels: usize, activation: Activation) -> Result<Vec<u32>> {
        match self {
            Self::All => Ok((0..channels as u32).collect()),
            Self::Foreground => {
                let first = u32::from(activation == Activation::Softmax);
                Ok((first..channels as u32).collect())
            }
            Self::Listed(listed) => {
                if listed.is_empty() {
                    bail!("the list of classes is empty; name at least one, or take Classes::All");
                }
                if let Some(class) = listed.iter().find(|class| **class >= channels) {
                    bail!(
                        "class {class} is listed, but the prediction has {channels} channels, 0 to {}",
                        channels - 1
                    );
                }
                if let Some(class) =
                    (1..listed.len()).find(|&at| listed[..at].contains(&listed[at]))
                {
                    bail!(
                        "class {} is listed twice; it would count twice",
                        listed[class]
                    );
                }
                Ok(listed.iter().map(|class| *class as u32).collect())
            }
        }
    }
}

/// How the losses of an item's classes become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClassReduction {
    /// Their mean: what the paper's authors trained.
    #[default]
    Mean,
    /// Their sum: the paper's Eq. 17 and 20.
    Sum,
}

/// Over which pixels one ratio is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Region {
    /// Each item of the batch by itself; the loss is the mean of their losses.
    #[default]
    Item,
    /// All items together: one ratio a class.
    Batch,
}

/// What a region costs whose truth is empty (Σ y = 0): a choice, the same at every γ.
///
/// Left to the formula ([`EmptyRegion::Ratio`]) it is a by-product of the smoothing term and changes with γ: a nearly
/// perfect prediction of an empty 256² mask costs about 1 at γ = 1 and 0.01 at γ = 2.
///
/// ```
/// use dice_losses::{EmptyRegion, Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[-(3f64.ln()); 2]]], &Device::Cpu)?; // p = ¼ everywhere
/// let labels = Tensor::new(&[[0u8, 0]], &Device::Cpu)?; // and nothing there
/// let value = |empty| zoo::dice().empty(empty).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// assert!((value(EmptyRegion::Penalty)? - 0.25).abs() < 1e-12);
/// assert_eq!((value(EmptyRegion::Zero)?, value(EmptyRegion::One)?, value(EmptyRegion::Skip)?), (0.0, 1.0, 0.0));
/// assert!((value(EmptyRegion::Ratio)? - 1.0).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyRegion {
    /// The mean probability that was placed on it, Σ p / number of pixels: 0 when right, 1 when all wrong, and a
    /// gradient that always points to less.
    #[default]
    Penalty,
    /// Nothing, and it is not counted in the means.
    Skip,
    /// 0, counted.
    Zero,
    /// 1, counted.
    One,
    /// Whatever the loss's formula and its smoothing term give: the authors' code.
    Ratio,
}

/// How the losses of a batch become the result.
///
/// ```
/// use dice_losses::{Loss, Reduction, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.]], [[0., 9.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[1u8, 0], [0, 1]], &Device::Cpu)?;
/// let of = |reduction| zoo::dice().reduction(reduction).loss(&(&logits).into(), &(&labels).into());
/// let each = of(Reduction::None)?.to_vec1::<f64>()?;
/// assert!((each[0] - 0.5).abs() < 1e-6 && each[1] < 0.25);
/// assert!((of(Reduction::Mean)?.to_scalar::<f64>()? - (each[0] + each[1]) / 2.0).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean, a scalar.
    #[default]
    Mean,
    /// Their sum, a scalar.
    Sum,
    /// One loss an item, `[N]` (`[1]` over a whole batch).
    None,
}

/// A number for every class.
///
/// ```
/// use dice_losses::PerClass;
/// assert_eq!(PerClass::from(2.0), PerClass::All(2.0));
/// assert_eq!(PerClass::from([0.5, 1.0, 2.0]), PerClass::Each(vec![0.5, 1.0, 2.0]));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum PerClass {
    /// The same for all.
    All(f64),
    /// One for the background, one for every foreground; see [`Classes`] for which is which.
    Split {
        /// Of the background.
        background: f64,
        /// Of every foreground.
        foreground: f64,
    },
    /// One a channel.
    Each(Vec<f64>),
}

impl PerClass {
    /// The number of each of `channels`.
    pub(crate) fn of(
        &self,
        channels: usize,
        activation: Activation,
        what: &str,
    ) -> Result<Vec<f64>> {
        Ok(match self {
            Self::All(value) => vec![*value; channels],
            Self::Split {
                background,
                foreground,
            } => {
                let mut values = vec![*foreground; channels];
                if activation == Activation::Softmax {
                    values[0] = *background;
                }
                values
            }
            Self::Each(values) if values.len() == channels => values.clone(),
            Self::Each(values) => bail!(
                "{} {what} are given for a prediction of {channels} channels; give one a channel",
                values.len()
            ),
        })
    }
}

impl From<f64> for PerClass {
    fn from(value: f64) -> Self {
        Self::All(value)
    }
}

impl From<Vec<f64>> for PerClass {
    fn from(values: Vec<f64>) -> Self {
        Self::Each(values)
    }
}

impl<const C: usize> From<[f64; C]> for PerClass {
    fn from(values: [f64; C]) -> Self {
        Self::Each(values.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::{Loss, Prediction, Target, zoo};

    #[track_caller]
    fn refuses(loss: &dyn Loss, sentence: &str) {
        let logits = Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu).unwrap();
        let labels = Tensor::zeros((1, 2), DType::U8, &Device::Cpu).unwrap();
        let error = loss
            .loss(&Prediction::logits(&logits), &Target::labels(&labels))
            .unwrap_err()
            .to_string();
        assert_eq!(error.lines().next().unwrap(), sentence);
    }

    #[test]
    fn choices_that_do_not_fit_the_prediction_are_named() {
        refuses(
            &zoo::dice().classes(Classes::Listed(vec![1, 3])),
            "class 3 is listed, but the prediction has 3 channels, 0 to 2",
        );
        refuses(
            &zoo::dice().classes(Classes::Listed(vec![])),
            "the list of classes is empty; name at least one, or take Classes::All",
        );
        refuses(
            &zoo::dice().classes(Classes::Listed(vec![1, 2, 1])),
            "class 1 is listed twice; it would count twice",
        );
        refuses(
            &zoo::dice().class_weights([1.0, 2.0]),
            "2 class weights are given for a prediction of 3 channels; give one a channel",
        );
        refuses(
            &zoo::dice().outer(0.0),
            "the power of a region loss must be a positive number, found 0",
        );
        refuses(
            &zoo::focal(-1.0),
            "a focal exponent is a number, 0 or more, found -1; 0 is plain cross-entropy",
        );
    }
}
