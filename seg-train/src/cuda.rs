//! Training and inference on an NVIDIA GPU.
//!
//! A step is one sequence of launches on the device's stream, recorded once as a graph and replayed ([`step`]): the
//! network forward, the loss, the network back, the optimiser ([`sgd`]). What comes of it stays on the device, a line a
//! step ([`ledger`]), until somebody wants to know. Images come through page-locked memory on a stream of their own
//! ([`copies`]). Every sum has a fixed order: the same bits come out each time.

pub(crate) mod copies;
pub(crate) mod device;
pub(crate) mod infer;
pub(crate) mod ledger;
pub(crate) mod measure;
mod repeated;
pub(crate) mod sgd;
pub(crate) mod step;

pub use repeated::Repeated;

/// The sources of this crate's kernels, with the options they are compiled with: to be compiled where there is no GPU.
#[doc(hidden)]
pub fn sources() -> Vec<(String, String, Vec<String>)> {
    vec![sgd::source()]
}
