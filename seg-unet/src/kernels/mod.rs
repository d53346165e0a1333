//! The network's operations on the CPU, in blocks of sixteen channels.

pub(crate) mod buffers;
pub(crate) mod conv;
pub(crate) mod conv_gradient;
pub(crate) mod few;
pub(crate) mod filters;
pub(crate) mod head;
pub(crate) mod lanes;
pub(crate) mod maps;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod product;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub(crate) mod up;
pub(crate) mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;
