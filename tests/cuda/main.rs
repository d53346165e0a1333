//! What runs on a GPU, against the same on the CPU. Without a GPU the kernels run on the processor (`tests/soft-cuda`).

mod compile;
mod device;
mod no_device;
