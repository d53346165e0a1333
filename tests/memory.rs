//! What `value_and_grad` allocates: the gradient, and less than a megabyte besides. A program of its own, since the
//! allocator that counts is the whole program's.

use candle_core::{DType, Device, Tensor};
use dice_losses::{LossSpec, Prediction, Target};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

#[test]
fn value_and_grad_needs_the_gradient_and_less_than_a_megabyte() {
    for shape in [
        vec![1, 2, 512, 512],
        vec![1, 1, 512, 512],
        vec![2, 4, 128, 128, 128],
        vec![1, 2, 2048, 2048],
        vec![16, 3, 100, 100],
    ] {
        let logits = Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
        let a_pixel = [&shape[..1], &shape[2..]].concat();
        let labels = Tensor::zeros(a_pixel.as_slice(), DType::U8, &Device::Cpu).unwrap();
        for name in ["dice++", "unified-focal++:gamma=0.75"] {
            let loss = name.parse::<LossSpec>().unwrap().build();
            let (prediction, target) = (Prediction::logits(&logits), Target::labels(&labels));
            // The first call also makes the threads.
            drop(loss.value_and_grad(&prediction, &target).unwrap());
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            let (_, gradient) = loss.value_and_grad(&prediction, &target).unwrap();
            let extra = ALLOCATOR.peak_usage() - before - gradient.elem_count() * 4;
            println!(
                "{name}, {shape:?}: {} kB besides the gradient",
                extra / 1000
            );
            assert!(extra < 1_000_000, "{name}, {shape:?}: {extra} bytes");
        }
    }
}
