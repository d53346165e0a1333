//! What `value_and_grad` allocates: the gradient, and less than a megabyte besides. And what the calibration of a data set
//! does: nothing after its first image. A program of its own, since the allocator that counts is the whole program's.

use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use dice_losses::{LossSpec, Prediction, Target};
use peak_alloc::PeakAlloc;
use rand::Rng as _;
use seg_train::{
    metrics::{Calibration, MetricsConfig, Pixels},
    rng::{Purpose, stream},
};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Each test counts the whole program, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn value_and_grad_needs_the_gradient_and_less_than_a_megabyte() {
    let _alone = ALONE.lock().unwrap();
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

#[test]
fn the_calibration_of_ten_thousand_images_needs_no_more_than_that_of_one() {
    let _alone = ALONE.lock().unwrap();
    let mut rng = stream(0, Purpose::Order, 0, 0);
    let side = 24;
    let p: Vec<f32> = (0..2 * side * side)
        .map(|_| 0.5 * rng.random::<f32>())
        .collect();
    let background = (0..side * side).map(|i| 1.0 - p[i] - p[side * side + i]);
    let p: Vec<f32> = background.chain(p.iter().copied()).collect();
    let labels: Vec<u8> = (0..side * side).map(|_| rng.random_range(0..3)).collect();
    let q = &p[side * side..];

    let before = ALLOCATOR.current_usage();
    let mut calibration = Calibration::new(3, &MetricsConfig::default());
    let mut used = Vec::new();
    for image in 1..=10_000 {
        ALLOCATOR.reset_peak_usage();
        // Other sizes, so that whatever an image leaves behind would differ.
        let (height, width) = (1 + image % side, side);
        let n = height * width;
        let planes: Vec<f32> = p
            .chunks(side * side)
            .flat_map(|plane| &plane[..n])
            .copied()
            .collect();
        let truth: Vec<f32> = q
            .chunks(side * side)
            .flat_map(|plane| &plane[..n])
            .copied()
            .collect();
        let pixels = Pixels::new(&planes, 3, &labels[..n]).unwrap();
        calibration
            .add(&pixels, [height, width], Some(&truth))
            .unwrap();
        let passing = ALLOCATOR.peak_usage() - ALLOCATOR.current_usage();
        assert!(passing < 200_000, "image {image} needs {passing} bytes");
        drop((planes, truth));
        if [1, 100, 10_000].contains(&image) {
            used.push(ALLOCATOR.current_usage() - before);
        }
    }
    println!("after 1, 100 and 10,000 images: {used:?} bytes");
    // A byte an image would be ten thousand; the harness itself takes some hundreds when the other test ends.
    assert!(
        used.iter().all(|&bytes| bytes.abs_diff(used[0]) <= 4096),
        "{used:?}"
    );
    assert!(used[0] < 4_000_000, "{used:?}");
    assert_eq!(calibration.summary().images, 10_000);
}
