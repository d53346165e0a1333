//! What runs on a GPU, against the same on the CPU. Without a GPU the kernels run on the processor (`tests/soft-cuda`).

mod candle;
mod compile;
mod device;
mod loss;
mod no_device;
mod train;
mod unet;

use std::{env, process::Command};

use candle_core::Device;

/// The trainer: what Cargo has built beside these tests or, where they were carried to another machine, what `SEG_TRAIN`
/// names.
fn seg_train() -> Command {
    let built = env!("CARGO_BIN_EXE_seg-train-under-test");
    Command::new(env::var_os("SEG_TRAIN").unwrap_or(built.into()))
}

/// The device that is tested, with a stream of its own.
fn gpu() -> Device {
    Device::new_cuda_with_stream(0).unwrap()
}

/// Whether it is soft CUDA, where every thread of a kernel takes time.
fn is_software() -> bool {
    let device = gpu();
    let stream = device.as_cuda_device().unwrap().cuda_stream();
    stream.context().name().unwrap().contains("soft")
}
