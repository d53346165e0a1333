//! Region losses for segmentation with [Candle](candle_core), and DSC++, which makes their probabilities mean something.
//!
//! Networks trained with the Dice loss segment well and are far too sure of themselves. Yeung et al. mend that with
//! one exponent γ on the false-positive and false-negative terms. Here γ is a modifier that every loss of the Tversky
//! family takes, and at γ = 1 it is exactly the plain loss.
//!
//! ```
//! use dice_losses::{candle_core::{Device, Tensor}, dice, dice_pp};
//!
//! let logits = Tensor::randn(0f32, 1., (2, 3, 32, 32), &Device::Cpu)?; // [N, C, …], softmax inside
//! let labels = Tensor::zeros((2, 32, 32), candle_core::DType::U8, &Device::Cpu)?; // [N, …] class numbers
//! let plain = dice(&logits, &labels)?;
//! let calibrated = dice_pp(&logits, &labels, 2.0)?;
//! assert!(plain.to_scalar::<f32>()? <= 1.0 && calibrated.to_scalar::<f32>()? <= 1.0);
//! assert_eq!(dice_pp(&logits, &labels, 1.0)?.to_scalar::<f32>()?, plain.to_scalar::<f32>()?);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! # How it is made
//!
//! ```text
//! Prediction × Target ─▶ RegionStats {tp, fp, fn_} [N, C] ─▶ RegionIndex ─▶ 1 − index ─▶ Outer ─▶ weights ─▶ Reduction
//! ```
//!
//! Only the sums ([`RegionStats`], [`PixelSums`]) see pixels, softmax and γ. A Tversky-family loss is a little algebra on
//! three small tensors, so a loss of your own is one closure and has `++`, every option and the single pass over the
//! pixels for free:
//!
//! ```
//! use dice_losses::{Loss, RegionLoss, RegionStats, candle_core::{Device, Result, Tensor}};
//!
//! /// Fowlkes and Mallows: the geometric mean of precision and recall.
//! fn fowlkes_mallows(s: &RegionStats) -> Result<Tensor> {
//!     let tp = (&s.tp + 1e-7)?;
//!     &tp / ((&tp + &s.fp)? * (&tp + &s.fn_)?)?.sqrt()?
//! }
//! let loss = RegionLoss::new(fowlkes_mallows).plus_plus(2.0);
//! # let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
//! # let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
//! # assert!((loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()? - 1.0 / 3.0).abs() < 1e-6);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Pixel losses are [`FocalCrossEntropy`] with different settings, compounds a [`WeightedSum`]. The named losses are in
//! [`zoo`]; as text they are a [`LossSpec`]:
//!
//! ```
//! use dice_losses::LossSpec;
//! let spec: LossSpec = "unified-focal++:gamma=3,delta=0.7".parse()?;
//! assert_eq!(spec.gamma(), Some(3.0));
//! # Ok::<(), dice_losses::SpecError>(())
//! ```
//!
//! [`guide`] says [which loss to take](guide::choosing_a_loss), what [another library's
//! arguments](guide::coming_from) are called here, and has [recipes](guide::recipes): deep supervision, a loss of other
//! sums.
//!
//! # What is guaranteed
//!
//! Value and gradient are finite for every γ above 0 and at most [`MAX_GAMMA`], for powers below 1, for saturated
//! logits, empty and full masks, and with all pixels ignored; no sum overflows in half precision. Where a derivative has
//! a pole, [`guard`] says what is done. On the CPU the same input gives the same bits for any number of threads, in f32 within 5·10⁻⁷ of f64 (the
//! tests ask for 10⁻⁶ of the value, 2·10⁻⁶ of the gradient); [`guide::numerics`] has the rest.
//!
//! # On a GPU
//!
//! With the feature `cuda` logits of f32, f16 and bf16 on a CUDA device have kernels of their own, compiled at run time:
//! `value_and_grad` is two launches, nothing is read back, and the same input gives the same bits; the module `cuda` has the
//! rest. There a label that is no class makes the loss NaN. These kernels have been run on a device in software, not yet
//! on a GPU. Everything else, and other backends, run plain Candle operations.
//!
//! # Scope
//!
//! Losses that are algebra on the sums of one pass over the pixels. Lovász, Wasserstein, boundary and Hausdorff
//! distances, clDice, top-k and losses on calibration errors are not, and are not here.

pub use candle_core;

mod composed;
#[cfg(feature = "cuda")]
pub mod cuda;
mod field;
mod fused;
pub mod guard;
pub mod guide;
mod index;
mod loss;
mod options;
mod outer;
mod pixel;
mod prediction;
mod region;
pub mod spec;
mod stats;
mod sum;
mod sums;
mod target;
pub mod zoo;

pub use index::{GeneralisedDice, RegionIndex, Tversky, Weighting};
pub use loss::Loss;
pub use options::{ClassReduction, Classes, EmptyRegion, PerClass, Reduction, Region};
pub use outer::Outer;
pub use pixel::FocalCrossEntropy;
pub use prediction::{Activation, Prediction, Scale};
pub use region::RegionLoss;
pub use spec::{LossSpec, SpecError};
pub use stats::{MAX_GAMMA, Modulation, RegionStats};
pub use sum::WeightedSum;
pub use sums::{PixelSums, PixelTerm, Request, Sums};
pub use target::Target;

use candle_core::{Result, Tensor};

/// The Dice loss with every choice at its default: [`zoo::dice`].
///
/// Logits `[N, C, …]` of any float dtype; labels as class numbers `[N, …]` of any integer dtype, or one-hot `[N, C, …]`.
/// A scalar in `[0, 1]`: f64 for f64 logits, else f32.
///
/// # Errors
///
/// If shapes, dtypes or labels do not fit.
///
/// ```
/// use dice_losses::{candle_core::{Device, Tensor}, dice};
/// let logits = Tensor::new(&[[[0f32, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// assert!((dice(&logits, &labels)?.to_scalar::<f32>()? - 0.5).abs() < 1e-6); // TP = FP = FN = ½
/// # Ok::<(), dice_losses::candle_core::Error>(())
/// ```
pub fn dice(prediction: impl Into<Prediction>, target: impl Into<Target>) -> Result<Tensor> {
    zoo::dice().loss(&prediction.into(), &target.into())
}

/// The DSC++ loss (paper, Eq. 9) with every choice at its default: [`zoo::dice`] with `gamma`. The paper takes 2.
///
/// Shapes and dtypes are those of [`dice`].
///
/// # Errors
///
/// If shapes, dtypes or labels do not fit, or `gamma` is not a positive number.
///
/// ```
/// use dice_losses::{candle_core::{Device, Tensor}, dice_pp};
/// let logits = Tensor::new(&[[[0f32, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// assert!((dice_pp(&logits, &labels, 2.0)?.to_scalar::<f32>()? - 1.0 / 3.0).abs() < 1e-6); // TP = ½, FP = FN = ¼
/// # Ok::<(), dice_losses::candle_core::Error>(())
/// ```
pub fn dice_pp(
    prediction: impl Into<Prediction>,
    target: impl Into<Target>,
    gamma: f64,
) -> Result<Tensor> {
    zoo::dice()
        .plus_plus(gamma)
        .loss(&prediction.into(), &target.into())
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
