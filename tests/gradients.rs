//! Gradients against central differences, in f64.

use candle_core::{Device, Tensor};
use dice_losses::{Loss, LossSpec, Prediction, Target};

use crate::case::{GAMMAS, flat, of_loss, plain_and_plus_plus, row, scalar, with};

/// Deterministic numbers in (−1, 1), no two alike: a fixed case makes a fixed error.
fn numbers(count: usize) -> Vec<f64> {
    (0..count)
        .map(|i| ((i * i + 3 * i) as f64 * 0.754_877).sin())
        .collect()
}

fn check(
    loss: &dyn Loss,
    of: &dyn Fn(&Tensor) -> Prediction,
    values: &Tensor,
    target: &Target,
    what: &str,
) {
    const STEP: f64 = 1e-5;
    let (_, gradient) = of_loss(loss, &of(values), target);
    let flat_values = flat(values).unwrap();
    for (i, ours) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut moved = flat_values.clone();
            moved[i] += by;
            let moved = Tensor::from_vec(moved, values.shape(), &Device::Cpu).unwrap();
            scalar(&loss.loss(&of(&moved), target).unwrap())
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!(
            (ours - difference).abs() <= 1e-8 + 1e-6 * difference.abs(),
            "{what}, element {i}: gradient {ours}, central difference {difference}"
        );
    }
}

fn every_loss(of: &dyn Fn(&Tensor) -> Prediction, values: &Tensor, target: &Target, what: &str) {
    for gamma in GAMMAS {
        for name in plain_and_plus_plus(gamma) {
            let loss = name.parse::<LossSpec>().unwrap().build();
            check(
                loss.as_ref(),
                of,
                values,
                target,
                &format!("{name}, {what}"),
            );
        }
    }
}

fn logits(shape: &[usize]) -> Tensor {
    let values = numbers(shape.iter().product())
        .iter()
        .map(|x| 3.0 * x)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn labels(shape: &[usize], classes: usize) -> Tensor {
    let count = shape.iter().product();
    let labels: Vec<u8> = (0..count)
        .map(|i: usize| ((i * 7 + i / 5) % classes) as u8)
        .collect();
    Tensor::from_vec(labels, shape, &Device::Cpu).unwrap()
}

#[test]
fn gradients_of_a_softmax_of_two_are_central_differences() {
    every_loss(
        &Prediction::logits,
        &logits(&[2, 2, 3, 3]),
        &Target::labels(&labels(&[2, 3, 3], 2)),
        "2 classes",
    );
}

#[test]
fn gradients_of_a_softmax_of_four_in_3d_are_central_differences() {
    let target = Target::labels(&labels(&[1, 2, 2, 3], 4));
    every_loss(
        &Prediction::logits,
        &logits(&[1, 4, 2, 2, 3]),
        &target,
        "4 classes",
    );
}

#[test]
fn gradients_of_a_sigmoid_are_central_differences() {
    every_loss(
        &Prediction::logits,
        &logits(&[2, 1, 3, 3]),
        &Target::labels(&labels(&[2, 3, 3], 2)),
        "1 channel",
    );
}

#[test]
fn gradients_of_multi_label_and_soft_targets_are_central_differences() {
    let soft: Vec<f64> = numbers(2 * 3 * 5).iter().map(|x| 0.5 + 0.45 * x).collect();
    let soft = Tensor::from_vec(soft, (2, 3, 5), &Device::Cpu).unwrap();
    every_loss(
        &Prediction::multi_label,
        &logits(&[2, 3, 5]),
        &Target::dense(&soft),
        "multi-label, soft",
    );
}

#[test]
fn gradients_of_probabilities_are_central_differences() {
    let p: Vec<f64> = numbers(2 * 2 * 6).iter().map(|x| 0.5 + 0.45 * x).collect();
    let p = Tensor::from_vec(p, (2, 2, 6), &Device::Cpu).unwrap();
    every_loss(
        &Prediction::probabilities,
        &p,
        &Target::labels(&labels(&[2, 6], 2)),
        "probabilities",
    );
}

#[test]
fn gradients_of_every_option_are_central_differences() {
    let target = Target::labels(&labels(&[2, 6], 3)).ignore_label(2);
    for option in [
        "classes=fg",
        "classes=0+2",
        "class_reduction=sum",
        "region=batch",
        "empty=skip",
        // Without smoothing to speak of an empty region is so near to 1 that differences of its logarithm are rounding.
        "empty=ratio,smooth=0.5",
        "empty=penalty",
        "preset=paper",
    ] {
        for spec in plain_and_plus_plus(2.0) {
            if !row(&spec).has_regions() {
                continue;
            }
            let spec = with(&spec, option);
            let loss = spec.parse::<LossSpec>().unwrap().build();
            check(
                loss.as_ref(),
                &Prediction::logits,
                &logits(&[2, 3, 6]),
                &target,
                &spec,
            );
        }
    }
}

/// The gradient of a confidently wrong pixel is small, and all its digits are right.
#[test]
fn a_confidently_wrong_pixel_keeps_its_true_gradient() {
    for dtype in [candle_core::DType::F32, candle_core::DType::F64] {
        for z in [10.0f64, 20.0, 30.0, 40.0] {
            // A background pixel with foreground log-odds z beside a foreground pixel that is right: with e = σ(z),
            // FP = e^γ and L = ½FP/(TP + ½FP + ½FN) over the foreground alone.
            let logits =
                Tensor::new(&[[[-z / 2.0, -20.0], [z / 2.0, 20.0]]], &Device::Cpu).unwrap();
            let target = Target::labels(&Tensor::new(&[[0u8, 1]], &Device::Cpu).unwrap());
            for gamma in GAMMAS {
                let loss = format!("dice++:gamma={gamma},classes=fg,smooth=0")
                    .parse::<LossSpec>()
                    .unwrap()
                    .build();
                let prediction = Prediction::logits(&logits.to_dtype(dtype).unwrap());
                let (_, gradient) = of_loss(loss.as_ref(), &prediction, &target);
                let e = 1.0 / (1.0 + (-z).exp());
                let not_e = (-z).exp() / (1.0 + (-z).exp());
                let (tp, fp) = (1.0, e.powf(gamma));
                let in_fp = 0.5 * tp / (tp + 0.5 * fp).powi(2);
                let expected = in_fp * gamma * e.powf(gamma) * not_e;
                let ours = gradient[2];
                assert!(
                    (ours / expected - 1.0).abs() < 1e-6,
                    "γ = {gamma}, log-odds {z}: {ours}, expected {expected}"
                );
            }
        }
    }
}
