//! The 2-D U-Net of the DSC++ paper on Candle, with right gradients and quick on a CPU.
//!
//! The network of Yeung et al. 2023: on every level twice (3 × 3 convolution, `ReLU`, instance norm), down by 2 × 2
//! max-pooling, up by a 2 × 2 transposed convolution whose result is joined with the level's own, and a 1 × 1
//! convolution to the classes. It gives logits; the losses take it from there.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use seg_unet::{UNet, UNetConfig};
//!
//! let config = UNetConfig { in_channels: 1, width: 4, depth: 2, ..UNetConfig::default() };
//! let net = UNet::new(&config, 7, &Device::Cpu)?;
//! let logits = net.forward(&Tensor::zeros((1, 1, 16, 24), DType::F32, &Device::Cpu)?)?;
//! assert_eq!(logits.dims(), [1, 2, 16, 24]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! - [`UNetConfig`]: channels, classes, width, depth. [`UNet`]: the network, its weights, saving and loading. A `PyTorch`
//!   module with submodules of the same names reads the files, and the other way round.
//! - [`ops`]: the operations, each beside a reference made of plain Candle operations.
//!
//! Equal seeds give equal bits, whatever the number of threads. Not here: other networks, 3-D, pretrained weights.

mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod init;
mod kernels;
pub mod ops;
mod pass;
mod precision;
pub mod profile;
mod unet;
mod weights;

pub use config::UNetConfig;
pub use kernels::simd::InstructionSet;
pub use precision::Precision;
pub use unet::{Pass, UNet};
