//! Losses on a CUDA device: feature `cuda`.
//!
//! Logits of f32, f16 and bf16 on a CUDA device are served by kernels of this crate's own, for any rank and any number of
//! classes, with whatever target, mask and weights: one pass over logits and truth for the sums, and behind it, in the
//! same launch, the loss and its derivatives in the sums in f64; one pass for the gradient. Nothing is read back, so
//! nothing waits for the device, and the same input gives the same bits. The kernels are compiled by NVRTC at the first
//! use of each combination of dtype, activation, class count, truth and exponents: it takes some tenths of a second, once a
//! process. f64 logits and probabilities are served by plain Candle operations on the device.
//!
//! On a GPU a label that is no class makes the loss and the gradient NaN, as does a dense truth outside [0, 1] and a
//! weight that is negative or infinite; on the CPU each is an error that says what was found, but to raise it the device
//! would have to be waited for.
//!
//! A loss whose [index](crate::RegionIndex) is a closure, or a [`Loss`](crate::Loss) with operations of its own, takes
//! its sums from the same kernels and runs its tensor operations on the device one by one. All others are an [`Algebra`].
//! [`Planned`] is a loss to be captured in a CUDA graph.
//!
//! So far the kernels have been run on a device in software only (the tests' `soft-cuda`), not on a GPU.

mod algebra;
#[allow(unsafe_code)]
mod plan;
mod planned;
mod source;
mod tensors;

pub use self::{
    algebra::{Algebra, Ratio},
    planned::{Layout, Planned, Truth, TruthLayout, WeightLayout, Weights},
};
pub(crate) use self::{
    algebra::{PixelAlgebra, RegionAlgebra},
    tensors::{evaluate, serves, sums, value_and_grad, value_and_grad_of_sums},
};

/// The kernels of every kind as `(name, text, options)`, for a check that compiles them without a GPU.
#[doc(hidden)]
pub fn sources() -> Vec<(String, String, Vec<String>)> {
    source::representative()
}
