//! The network on CUDA devices: kernels of its own, compiled when they are first used, and an engine that launches them.
//!
//! [`UNet::pass`](crate::UNet::pass) and [`UNet::infer`](crate::UNet::infer) use an [`Engine`] where the weights are on a CUDA
//! device; a trainer may hold one itself, whose launches it can record as a CUDA graph. Kernels and engine keep to the CPU's
//! arithmetic: the gradient of a `ReLU` at 0 is 0, of tied maxima the first has it all, and every sum is added up in an order
//! that the sizes decide, so the same input gives the same bits on the same GPU model and toolkit.
//!
//! Maps are `[N, H, W, C]`, the channels padded to a multiple of 16 with zeros. The products of matrices, which are all
//! convolutions here, run on the tensor cores in TF32 and bfloat16, and as multiply-adds in f32 ([`Precision`](crate::Precision)).

mod engine;
mod engines;
mod kernels;
mod layers;
mod network;
mod operations;
mod products;
mod room;
pub mod single;
mod table;

pub use engine::Engine;
pub(crate) use engines::Engines;
pub use kernels::sources;
