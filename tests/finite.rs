//! The matrix over which value and gradient are finite.

use candle_core::{DType, Device, Tensor};
use dice_losses::{LossSpec, Prediction, Target, zoo::ZOO};

use crate::case::{GAMMAS, of_loss, plus_plus_rows, region_rows};

const PIXELS: usize = 12;

/// Foreground logits a pixel; with two channels the background has the opposite sign.
fn logit_patterns() -> Vec<(&'static str, Vec<f32>)> {
    let alternate = |a: f32, b: f32| {
        (0..PIXELS)
            .map(|i| if i % 2 == 0 { a } else { b })
            .collect()
    };
    vec![
        ("all zero", vec![0.0; PIXELS]),
        ("all +50", vec![50.0; PIXELS]),
        ("all -50", vec![-50.0; PIXELS]),
        ("+50 and -50", alternate(50.0, -50.0)),
        ("+50 and 0", alternate(50.0, 0.0)),
        ("-50 and 1", alternate(-50.0, 1.0)),
        ("+60000 and -60000", alternate(60_000.0, -60_000.0)),
    ]
}

fn label_patterns() -> Vec<(&'static str, Vec<u8>)> {
    let mut one = vec![0; PIXELS];
    one[5] = 1;
    vec![
        ("empty", vec![0; PIXELS]),
        ("full", vec![1; PIXELS]),
        ("one pixel", one),
        ("every other", (0..PIXELS).map(|i| (i % 2) as u8).collect()),
        ("all ignored", vec![255; PIXELS]),
        (
            "all but one ignored",
            (0..PIXELS).map(|i| if i == 3 { 1 } else { 255 }).collect(),
        ),
    ]
}

/// Every row, plain and with `++` at every γ, with each policy for empty regions, and exponents far below 1.
fn specs() -> Vec<String> {
    let mut specs: Vec<String> = ZOO.iter().map(|row| row.name.to_string()).collect();
    specs.extend(["focal:focus=0.5", "asymmetric-focal:focus=0.9"].map(String::from));
    for name in region_rows() {
        specs.push(format!("{name}:smooth=0,empty=ratio"));
        for empty in ["skip", "zero", "one", "ratio"] {
            specs.push(format!("{name}:empty={empty}"));
        }
    }
    for name in plus_plus_rows() {
        for gamma in GAMMAS {
            specs.push(format!("{name}++:gamma={gamma}"));
            specs.push(format!("{name}++:gamma={gamma},smooth=0,empty=ratio"));
        }
        // The ends of its range.
        for gamma in [1e-6, 1e6] {
            specs.push(format!("{name}++:gamma={gamma}"));
        }
        specs.push(format!("{name}++:preset=paper"));
        for empty in ["skip", "zero", "one", "ratio"] {
            specs.push(format!("{name}++:empty={empty}"));
        }
    }
    for steep in [
        "focal-dice++:index_power=0.1",
        "focal-dice++:index_power=9",
        "exponential-log++:power=0.05,log_power=0.05",
        "exponential-log++:power=2,log_power=2",
        "generalised-dice++:weighting=simple",
    ] {
        specs.extend(GAMMAS.map(|gamma| format!("{steep},gamma={gamma},smooth=0,empty=ratio")));
    }
    specs.extend(
        GAMMAS.map(|gamma| format!("focal-tversky++:power=0.1,gamma={gamma},smooth=0,empty=ratio")),
    );
    specs.extend(
        GAMMAS
            .map(|gamma| format!("unified-focal++:focus=0.99,gamma={gamma},smooth=0,empty=ratio")),
    );
    specs
}

fn assert_finite(prediction: &Prediction, target: &Target, what: &str) {
    for spec in specs() {
        let loss = spec.parse::<LossSpec>().unwrap().build();
        let (value, gradient) = of_loss(loss.as_ref(), prediction, target);
        assert!(value.is_finite(), "{spec}, {what}: value {value}");
        assert!(
            gradient.iter().all(|g| g.is_finite()),
            "{spec}, {what}: gradient {gradient:?}"
        );
    }
}

#[test]
fn losses_of_logits_are_finite() {
    for (logits_name, foreground) in logit_patterns() {
        for (labels_name, labels) in label_patterns() {
            let target =
                Target::labels(&Tensor::from_vec(labels, (1, PIXELS), &Device::Cpu).unwrap())
                    .ignore_label(255);
            for channels in [1, 2, 3] {
                let background: Vec<f32> = foreground.iter().map(|z| -z).collect();
                let values = match channels {
                    1 => foreground.clone(),
                    2 => [background, foreground.clone()].concat(),
                    _ => [background, foreground.clone(), vec![0.5; PIXELS]].concat(),
                };
                let logits = Tensor::from_vec(values, (1, channels, PIXELS), &Device::Cpu).unwrap();
                for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
                    let prediction = Prediction::logits(&logits.to_dtype(dtype).unwrap());
                    let what = format!(
                        "logits {logits_name}, {labels_name}, {channels} channels, {dtype:?}"
                    );
                    assert_finite(&prediction, &target, &what);
                }
            }
        }
    }
}

#[test]
fn losses_of_probabilities_are_finite() {
    let alternate = |a: f32, b: f32| -> Vec<f32> {
        (0..PIXELS)
            .map(|i| if i % 2 == 0 { a } else { b })
            .collect()
    };
    for p in [
        alternate(0.0, 0.0),
        alternate(1.0, 1.0),
        alternate(0.0, 1.0),
        alternate(0.5, 1.0),
        alternate(1e-38, 0.3),
    ] {
        for (labels_name, labels) in label_patterns() {
            let target =
                Target::labels(&Tensor::from_vec(labels, (1, PIXELS), &Device::Cpu).unwrap())
                    .ignore_label(255);
            for channels in [1, 2] {
                let q: Vec<f32> = p.iter().map(|p| 1.0 - p).collect();
                let values = if channels == 1 {
                    p.clone()
                } else {
                    [q, p.clone()].concat()
                };
                let values = Tensor::from_vec(values, (1, channels, PIXELS), &Device::Cpu).unwrap();
                for dtype in [DType::F64, DType::F32] {
                    let prediction = Prediction::probabilities(&values.to_dtype(dtype).unwrap());
                    assert_finite(
                        &prediction,
                        &target,
                        &format!("{p:?}, {labels_name}, {channels} channels"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_half_precision_sum_does_not_overflow() {
    // 300 × 300 foreground pixels exceed the largest f16.
    let logits = Tensor::full(4f32, (1, 1, 300, 300), &Device::Cpu).unwrap();
    let target = Target::labels(&Tensor::ones((1, 300, 300), DType::U8, &Device::Cpu).unwrap());
    let p = 1.0 / (1.0 + (-4f64).exp());
    for dtype in [DType::F16, DType::BF16] {
        let loss = "dice".parse::<LossSpec>().unwrap().build();
        let prediction = Prediction::logits(&logits.to_dtype(dtype).unwrap());
        let (value, _) = of_loss(loss.as_ref(), &prediction, &target);
        assert!(
            (value - (1.0 - 2.0 * p / (1.0 + p))).abs() < 1e-6,
            "{dtype:?}: {value}"
        );
    }
}
