//! The network's operations, each with a right gradient.
//!
//! Every operation stands here twice. The `*_reference` function is plain Candle operations: it defines the value and
//! the gradient, runs on any backend and is what the tests compare with. The function without the suffix is what
//! [`UNet::forward`](crate::UNet::forward) is made of: on the CPU, in f32 and f64, it is a custom operation with an
//! analytic backward, elsewhere the reference. No result depends on the number of threads: a sum is always split the
//! same way.

mod conv;
mod norm;
mod pool;
mod storage;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) use storage::{cpu_elements, sum};
mod up;

pub use conv::{
    conv2d_same, conv2d_same_joined, conv2d_same_joined_reference, conv2d_same_reference,
    conv2d_same_relu, conv2d_same_relu_reference,
};
pub use norm::{instance_norm, instance_norm_reference, relu_instance_norm, relu_reference};
pub use pool::{max_pool2, max_pool2_reference};
pub use up::{up2, up2_reference};
