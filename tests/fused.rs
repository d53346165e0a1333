//! The fused pass against the sums of plain operations in f64, over random shapes, dtypes, targets and losses.

use candle_core::{DType, Device, Tensor, Var};
use dice_losses::{
    FocalCrossEntropy, Loss, LossSpec, Modulation, Prediction, Reduction, Region, RegionStats,
    Target,
};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;

use crate::case::{GAMMAS, assert_all_close, flat, plain_and_plus_plus, scalar};

/// A number of cases: the environment's, or as many as are run without asking.
pub(crate) fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |cases| {
        cases
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, found {cases}"))
    })
}

/// How a target is given.
#[derive(Clone, Copy, Debug)]
enum Given {
    Labels(DType),
    OneHot,
    Soft,
}

/// A random prediction with its target, drawn from one seed.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // coins that are tossed apart
struct Drawn {
    shape: Vec<usize>,
    dtype: DType,
    multi_label: bool,
    given: Given,
    ignore: bool,
    weights: bool,
    smoothing: bool,
    /// Standard deviation of the logits, about.
    scale: f64,
    seed: u64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let space = prop_oneof![
        prop::collection::vec(1..=40usize, 1..=1),
        prop::collection::vec(1..=70usize, 2..=2),
        prop::collection::vec(1..=9usize, 3..=3),
        // Around the ends of blocks and parts.
        prop::sample::select(vec![1023, 1024, 1025, 4095, 4096, 4097, 9000]).prop_map(|s| vec![s]),
    ];
    let dtype = prop::sample::select(vec![DType::F32, DType::F64, DType::F16, DType::BF16]);
    let given = prop::sample::select(vec![
        Given::Labels(DType::U8),
        Given::Labels(DType::U32),
        Given::Labels(DType::I64),
        Given::OneHot,
        Given::Soft,
    ]);
    let scale = prop::sample::select(vec![0.1, 1.0, 4.0, 20.0]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = (1..=3usize, 1..=6usize, space);
    (sizes, dtype, given, scale, flags, any::<u64>()).prop_map(
        |(
            (items, channels, space),
            dtype,
            given,
            scale,
            (multi_label, ignore, weights, smoothing),
            seed,
        )| {
            let labels = matches!(given, Given::Labels(_));
            Drawn {
                shape: [vec![items, channels], space].concat(),
                dtype,
                multi_label,
                given,
                ignore: ignore && labels,
                weights,
                smoothing,
                scale,
                seed,
            }
        },
    )
}

impl Drawn {
    fn tensors(&self) -> (Prediction, Prediction, Target) {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        let shape = self.shape.as_slice();
        let (channels, count): (usize, usize) = (shape[1], shape.iter().product());
        let logits: Vec<f64> = (0..count)
            .map(|_| self.scale * (rng.random::<f64>() + rng.random::<f64>() - 1.0) * 2.4)
            .collect();
        let logits = Tensor::from_vec(logits, shape, &Device::Cpu).unwrap();
        let logits = logits.to_dtype(self.dtype).unwrap();
        let a_pixel = [&shape[..1], &shape[2..]].concat();
        let pixels = count / channels;
        let classes = channels.max(2);
        let labels: Vec<i64> = (0..pixels)
            .map(|_| {
                if self.ignore && rng.random_bool(0.1) {
                    255
                } else {
                    rng.random_range(0..classes as i64)
                }
            })
            .collect();
        let target = match self.given {
            Given::Labels(dtype) => {
                let labels = Tensor::from_vec(labels, a_pixel.as_slice(), &Device::Cpu).unwrap();
                let target = Target::labels(&labels.to_dtype(dtype).unwrap());
                if self.ignore {
                    target.ignore_label(255)
                } else {
                    target
                }
            }
            Given::OneHot | Given::Soft => {
                let values: Vec<f32> = (0..count)
                    .map(|_| match self.given {
                        Given::OneHot => f32::from(u8::from(rng.random_bool(0.4))),
                        _ => rng.random(),
                    })
                    .collect();
                Target::dense(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            }
        };
        let target = if self.weights {
            let weights: Vec<f32> = (0..pixels)
                .map(|_| f32::max(0.0, rng.random::<f32>() * 3.0 - 0.5))
                .collect();
            let weights = Tensor::from_vec(weights, a_pixel.as_slice(), &Device::Cpu).unwrap();
            target.pixel_weights(&weights)
        } else {
            target
        };
        let target = if self.smoothing {
            target.smoothing(0.1)
        } else {
            target
        };
        let of = |logits: &Tensor| {
            if self.multi_label {
                Prediction::multi_label(logits)
            } else {
                Prediction::logits(logits)
            }
        };
        let exact = of(&logits.to_dtype(DType::F64).unwrap());
        (of(&logits), exact, target)
    }
}

/// Value and gradient from sums of plain operations.
fn composed(loss: &dyn Loss, prediction: &Prediction, target: &Target) -> (f64, Vec<f64>) {
    let var = Var::from_tensor(prediction.values()).unwrap();
    let prediction = match prediction.activation() {
        dice_losses::Activation::Softmax => Prediction::logits(var.as_tensor()),
        dice_losses::Activation::Sigmoid => Prediction::multi_label(var.as_tensor()),
    };
    let value = loss.evaluate_composed(&prediction, target).unwrap();
    let gradients = value.backward().unwrap();
    let gradient = gradients
        .get(&var)
        .map_or_else(|| vec![0.0; var.elem_count()], |g| flat(g).unwrap());
    (scalar(&value), gradient)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// `(value, gradient)` of `ours` against `exact`, with the tolerances of a dtype.
fn assert_near(ours: &(f64, Vec<f64>), exact: &(f64, Vec<f64>), dtype: DType, what: &str) {
    let (of_value, of_gradient, unit) = match dtype {
        DType::F64 => (1e-12, 1e-12, 1e-16),
        DType::F32 => (1e-6, 2e-6, 2e-8),
        // The gradient is rounded to the logits' dtype, whose smallest number is near 6e-8 for f16.
        DType::F16 => (1e-6, 1e-3, 6e-8 * exact.1.len() as f64),
        _ => (1e-6, 8e-3, 2e-8),
    };
    let value = (ours.0 - exact.0).abs();
    assert!(
        value <= of_value * (1.0 + exact.0.abs()),
        "{what}: value {}, exact {}",
        ours.0,
        exact.0
    );
    let difference: Vec<f64> = ours.1.iter().zip(&exact.1).map(|(a, b)| a - b).collect();
    // Where the classes' shares of a gradient cancel (one pixel, say), what is left of it is their rounding: a unit in
    // the last place of a pixel's share of the loss.
    let room = of_gradient * norm(&exact.1) + unit / (exact.1.len() as f64).sqrt();
    assert!(
        norm(&difference) <= room,
        "{what}: gradient off by {:e} of {:e}",
        norm(&difference),
        norm(&exact.1)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number("PROPTEST_CASES", 150), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn value_and_gradient_are_those_of_f64(drawn in drawn(), gamma in prop::sample::select(&GAMMAS)) {
        let (prediction, exact, target) = drawn.tensors();
        for name in plain_and_plus_plus(gamma) {
            let loss = name.parse::<LossSpec>().unwrap().build();
            let exact = composed(loss.as_ref(), &exact, &target);
            let (value, gradient) = loss.value_and_grad(&prediction, &target).unwrap();
            let ours = (scalar(&value), flat(&gradient).unwrap());
            // −ln of an index near 0 is as ill-conditioned as the index is small, and so is its root: for the losses that
            // have them the sums are what is compared, below.
            if !["exponential-log", "focal-dice"].iter().any(|ill| name.starts_with(ill)) {
                assert_near(&ours, &exact, drawn.dtype, &format!("{name}, {drawn:?}"));
            }
        }
    }

    #[test]
    fn the_sums_are_those_of_f64(drawn in drawn(), gamma in prop::sample::select(&GAMMAS)) {
        let (prediction, exact, target) = drawn.tensors();
        let tolerance = if drawn.dtype == DType::F64 { 1e-12 } else { 1e-6 };
        for modulation in [Modulation::from_gamma(gamma), Modulation::Power(gamma), Modulation::SquaredDifference] {
            let ours = RegionStats::new(&prediction, &target, modulation, Region::Item).unwrap();
            let exact = RegionStats::composed(&exact, &target, modulation, Region::Item).unwrap();
            let pairs = [
                (&ours.tp, &exact.tp, "tp"),
                (&ours.fp, &exact.fp, "fp"),
                (&ours.fn_, &exact.fn_, "fn"),
                (&ours.volume, &exact.volume, "volume"),
                (&ours.predicted, &exact.predicted, "predicted"),
                (&ours.pixels, &exact.pixels, "pixels"),
            ];
            for (ours, exact, name) in pairs {
                let what = format!("{name}, {modulation:?}, {drawn:?}");
                assert_all_close(&flat(ours).unwrap(), &flat(exact).unwrap(), tolerance, &what);
            }
        }
        for log_power in [0.3, 1.0, 2.0] {
            let loss = FocalCrossEntropy::new(1.0, gamma - 0.5).log_power(log_power).reduction(Reduction::None);
            let ours = flat(&loss.loss(&prediction, &target).unwrap()).unwrap();
            let exact = flat(&loss.evaluate_composed(&exact, &target).unwrap()).unwrap();
            assert_all_close(&ours, &exact, tolerance, &format!("focus {}, k {log_power}, {drawn:?}", gamma - 0.5));
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads(drawn in drawn(), gamma in prop::sample::select(&GAMMAS)) {
        let (prediction, _, target) = drawn.tensors();
        let loss = format!("unified-focal++:gamma={gamma}").parse::<LossSpec>().unwrap().build();
        let with = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (value, gradient) = pool.install(|| loss.value_and_grad(&prediction, &target)).unwrap();
            (scalar(&value).to_bits(), flat(&gradient).unwrap().iter().map(|g| g.to_bits()).collect::<Vec<_>>())
        };
        let one = with(1);
        prop_assert_eq!(&one, &with(2));
        prop_assert_eq!(&one, &with(7));
    }
}

/// The same on an image that every thread has a share of.
#[test]
fn the_bits_of_a_large_image_do_not_depend_on_the_number_of_threads() {
    let drawn = Drawn {
        shape: vec![2, 4, 201, 333],
        dtype: DType::F32,
        multi_label: false,
        given: Given::Labels(DType::U8),
        ignore: true,
        weights: false,
        smoothing: false,
        scale: 3.0,
        seed: 1,
    };
    let (prediction, _, target) = drawn.tensors();
    for name in plain_and_plus_plus(2.0) {
        let loss = name.parse::<LossSpec>().unwrap().build();
        let with = |threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let (value, gradient) = pool
                .install(|| loss.value_and_grad(&prediction, &target))
                .unwrap();
            (scalar(&value), flat(&gradient).unwrap())
        };
        let one = with(1);
        assert_eq!(one, with(2), "{name}");
        assert_eq!(one, with(7), "{name}");
    }
}

/// A mistake upstream must show, not be summed away.
#[test]
fn a_nan_that_counts_is_a_nan_in_the_loss() {
    for channels in [1, 2, 3, 5] {
        for at in [0, 5, 1500] {
            let mut logits = vec![0.3f32; channels * 1501];
            logits[at] = f32::NAN;
            let logits = Tensor::from_vec(logits, (1, channels, 1501), &Device::Cpu).unwrap();
            let labels = Tensor::ones((1, 1501), DType::U8, &Device::Cpu).unwrap();
            for name in plain_and_plus_plus(0.75) {
                let loss = name.parse::<LossSpec>().unwrap().build();
                let value = loss.loss(&Prediction::logits(&logits), &Target::labels(&labels));
                assert!(
                    scalar(&value.unwrap()).is_nan(),
                    "{name}, {channels} channels, {at}"
                );
            }
        }
    }
}

/// Random corners: saturated logits, empty and full masks, all pixels ignored, every γ. `DICE_FINITE_CASES=1000000`
/// makes a long run of it.
#[test]
fn random_corners_are_finite() {
    let cases = number("DICE_FINITE_CASES", 20_000);
    let names: Vec<&str> = dice_losses::zoo::ZOO.iter().map(|row| row.name).collect();
    let rng = &mut ChaCha8Rng::seed_from_u64(20_230_423);
    for case in 0..cases {
        let (items, channels) = (rng.random_range(1..=2), rng.random_range(1..=5));
        let pixels = rng.random_range(1..=70);
        let size = [0.0f32, 1.0, 20.0, 50.0, 120.0, 60_000.0][rng.random_range(0..6)];
        let logits: Vec<f32> = (0..items * channels * pixels)
            .map(|_| match rng.random_range(0..4) {
                0 => size,
                1 => -size,
                2 => 0.0,
                _ => size * (rng.random::<f32>() * 2.0 - 1.0),
            })
            .collect();
        let pattern = rng.random_range(0..5);
        let labels: Vec<u8> = (0..items * pixels)
            .map(|_| match pattern {
                0 => 0,
                1 => 1,
                2 => 255,
                _ if rng.random_bool(0.1) => 255,
                _ => rng.random_range(0..channels.max(2)) as u8,
            })
            .collect();
        let dtype =
            [DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16][rng.random_range(0..5)];
        let logits = Tensor::from_vec(logits, (items, channels, pixels), &Device::Cpu).unwrap();
        let logits = logits.to_dtype(dtype).unwrap();
        let labels = Tensor::from_vec(labels, (items, pixels), &Device::Cpu).unwrap();
        let name = names[rng.random_range(0..names.len())];
        let plus_plus = dice_losses::zoo::find(name).unwrap().plus_plus();
        let mut spec = String::from(name);
        if plus_plus {
            let gamma = [
                0.5,
                0.75,
                1.0,
                1.5,
                2.0,
                3.0,
                5.0,
                0.1 + 5.0 * rng.random::<f64>(),
            ][rng.random_range(0..8)];
            let empty = ["penalty", "skip", "zero", "one", "ratio"][rng.random_range(0..5)];
            let smooth = [0.0, 1e-7, 1.0][rng.random_range(0..3)];
            spec = format!("{name}++:gamma={gamma},empty={empty},smooth={smooth}");
        }
        let loss = spec.parse::<LossSpec>().unwrap().build();
        let prediction = if rng.random_bool(0.2) {
            Prediction::multi_label(&logits)
        } else {
            Prediction::logits(&logits)
        };
        let target = Target::labels(&labels).ignore_label(255);
        let target = if rng.random_bool(0.2) {
            target.smoothing(0.2)
        } else {
            target
        };
        let (value, gradient) = loss.value_and_grad(&prediction, &target).unwrap();
        let what = format!(
            "case {case}, {spec}, {dtype:?}, {items}x{channels}x{pixels}, size {size}, labels {pattern}"
        );
        assert!(
            scalar(&value).is_finite(),
            "{what}: value {}",
            scalar(&value)
        );
        assert!(
            flat(&gradient).unwrap().iter().all(|g| g.is_finite()),
            "{what}: gradient"
        );
    }
}

/// The table of `docs/numerics.md`: `cargo test --workspace --test all -- how_far --nocapture` prints it.
#[test]
fn how_far_each_loss_is_from_f64() {
    let mut runner = TestRunner::deterministic();
    // With a few pixels the classes' shares of a gradient may cancel, and nothing but rounding is left.
    let cases: Vec<Drawn> = (0..60)
        .map(|_| drawn().new_tree(&mut runner).unwrap().current())
        .filter(|case| case.shape.iter().product::<usize>() >= 100)
        .collect();
    println!("{} predictions", cases.len());
    println!(
        "| loss | value, f32 | gradient, f32 | value, f64 | gradient, f64 |\n|---|---|---|---|---|"
    );
    for name in plain_and_plus_plus(0.75) {
        let loss = name.parse::<LossSpec>().unwrap().build();
        let worst = |dtype: DType| {
            let mut worst = (0f64, 0f64);
            for case in &cases {
                let (prediction, exact, target) = Drawn {
                    dtype,
                    ..case.clone()
                }
                .tensors();
                let (exact_value, exact_gradient) = composed(loss.as_ref(), &exact, &target);
                let (value, gradient) = loss.value_and_grad(&prediction, &target).unwrap();
                let of_value = (scalar(&value.to_dtype(DType::F64).unwrap()) - exact_value).abs()
                    / (1.0 + exact_value.abs());
                let gradient = flat(&gradient).unwrap();
                let difference: Vec<f64> = gradient
                    .iter()
                    .zip(&exact_gradient)
                    .map(|(a, b)| a - b)
                    .collect();
                let of_gradient = norm(&difference) / norm(&exact_gradient).max(1e-12);
                worst = (worst.0.max(of_value), worst.1.max(of_gradient));
            }
            worst
        };
        let (single, double) = (worst(DType::F32), worst(DType::F64));
        println!(
            "| `{name}` | {:.0e} | {:.0e} | {:.0e} | {:.0e} |",
            single.0, single.1, double.0, double.1
        );
        // −ln of an index near 0 is as ill-conditioned as the index is small.
        if !name.starts_with("exponential-log") {
            assert!(single.0 <= 1e-6 && single.1 <= 2e-6, "{name}: {single:?}");
            assert!(double.0 <= 1e-12 && double.1 <= 1e-12, "{name}: {double:?}");
        }
    }
}

#[track_caller]
fn refuses(prediction: impl Into<Prediction>, target: impl Into<Target>, sentence: &str) {
    let error = dice_losses::dice_pp(prediction, target, 2.0).unwrap_err();
    assert_eq!(error.to_string().lines().next().unwrap(), sentence);
}

#[test]
fn what_is_no_truth_is_named_wherever_it_stands() {
    let logits = Tensor::zeros((1, 2, 9000), DType::F32, &Device::Cpu).unwrap();
    let mut labels = vec![1i64; 9000];
    // In the last block, and 0 in its lower half.
    labels[8999] = 1 << 32;
    refuses(
        &logits,
        &Tensor::from_vec(labels, (1, 9000), &Device::Cpu).unwrap(),
        "found label 4294967296, expected 0 to 1; if it marks pixels to leave out, \
         pass it as Target::ignore_label (none is set)",
    );
    let mut soft = vec![0.5f32; 2 * 9000];
    soft[12_000] = 255.0;
    let soft = Tensor::from_vec(soft, (1, 2, 9000), &Device::Cpu).unwrap();
    let sentence = "a dense target lies in [0, 1], found 255; divide a map of 0 and 255 by 255, \
                    pass class numbers as Target::labels";
    refuses(&logits, &soft, sentence);
    let composed = RegionStats::composed(
        &Prediction::logits(&logits),
        &Target::dense(&soft),
        Modulation::Plain,
        Region::Item,
    );
    assert_eq!(
        composed.unwrap_err().to_string().lines().next().unwrap(),
        sentence
    );
    // Where it does not count it is nobody's business.
    let counts: Vec<u8> = (0..9000).map(|i| u8::from(i != 3000)).collect();
    let counts = Tensor::from_vec(counts, (1, 9000), &Device::Cpu).unwrap();
    assert!(dice_losses::dice(&logits, Target::dense(&soft).mask(&counts)).is_ok());
    refuses(
        &Tensor::zeros((1, 2, 9000), DType::U8, &Device::Cpu).unwrap(),
        &logits,
        "a prediction is of floats, found U8; are prediction and target exchanged?",
    );
}

/// Neither smoothing, which brings it back into [0, 1], nor a NaN before it hides what is no truth, in either form.
#[test]
fn what_is_no_truth_is_found_behind_smoothing_and_nan() {
    for channels in [1, 2, 3] {
        for first in [0.5, f32::NAN] {
            let mut soft = vec![0.5f32; channels * 20];
            soft[0] = first;
            soft[channels * 20 - 3] = 1.25;
            let soft = Tensor::from_vec(soft, (1, channels, 20), &Device::Cpu).unwrap();
            let prediction = Prediction::logits(&soft.zeros_like().unwrap());
            let target = Target::dense(&soft).smoothing(0.5);
            for sums in [RegionStats::new, RegionStats::composed] {
                let error = sums(&prediction, &target, Modulation::Plain, Region::Item);
                assert_eq!(
                    error.unwrap_err().to_string().lines().next().unwrap(),
                    "a dense target lies in [0, 1], found 1.25; divide a map of 0 and 255 by 255, \
                     pass class numbers as Target::labels",
                    "{channels} channels behind {first}"
                );
            }
        }
    }
}

#[test]
fn a_truth_that_is_1_but_for_rounding_is_1() {
    let logits = Tensor::new(&[[[0.3f32, -2.0, 1.0]]], &Device::Cpu).unwrap();
    let truth = |y: f32| Target::dense(&Tensor::new(&[[[y, 0.0, -1e-7]]], &Device::Cpu).unwrap());
    for gamma in GAMMAS {
        let value = |y| scalar(&dice_losses::dice_pp(&logits, truth(y), gamma).unwrap());
        assert_eq!(
            value(1.000_000_1).to_bits(),
            value(1.0).to_bits(),
            "γ = {gamma}"
        );
    }
}

#[test]
fn a_pixel_term_has_an_exponent_a_channel() {
    struct Short;
    impl Loss for Short {
        fn request(&self, request: &mut dice_losses::Request) -> candle_core::Result<()> {
            request.pixel(dice_losses::PixelTerm {
                focus: vec![0.0; request.channels()],
                other_focus: vec![],
                log_power: 1.0,
            })
        }
        fn of_sums(&self, _: &dice_losses::Sums) -> candle_core::Result<Tensor> {
            unreachable!("the request is refused")
        }
    }
    let logits = Tensor::zeros((1, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let target = Target::dense(&logits);
    let error = Short
        .loss(&Prediction::multi_label(&logits), &target)
        .unwrap_err();
    assert_eq!(
        error.to_string().lines().next().unwrap(),
        "a pixel term has a focal exponent a channel, found 0 for 3 channels; 0 is none"
    );
}

#[test]
fn every_sum_shows_a_nan() {
    for channels in [1, 2, 4] {
        let mut logits = vec![0.3f32; channels * 5];
        logits[2] = f32::NAN;
        let logits = Tensor::from_vec(logits, (1, channels, 5), &Device::Cpu).unwrap();
        let soft = Target::dense(&logits.zeros_like().unwrap().affine(1.0, 0.5).unwrap());
        let hard = Target::labels(&Tensor::ones((1, 5), DType::U8, &Device::Cpu).unwrap());
        for target in [hard, soft] {
            for gamma in [0.5, 1.0, 2.0, 4.0] {
                let prediction = Prediction::logits(&logits);
                let modulation = Modulation::from_gamma(gamma);
                let stats =
                    RegionStats::new(&prediction, &target, modulation, Region::Item).unwrap();
                for (name, sum) in [
                    ("fp", &stats.fp),
                    ("fn", &stats.fn_),
                    ("predicted", &stats.predicted),
                ] {
                    // Class 1 is true everywhere where labels are hard, so it has no false positives.
                    let sums = flat(sum).unwrap();
                    let all_hit = matches!((name, sums.last()), ("fp", Some(fp)) if *fp == 0.0);
                    assert!(
                        all_hit || sums.iter().any(|x| x.is_nan()),
                        "{name}, γ = {gamma}: {sums:?}"
                    );
                }
            }
        }
    }
}

/// A view of no numbers may begin behind the last number of its tensor.
#[test]
fn no_pixels_behind_the_end_of_a_tensor_are_no_pixels() {
    let logits = Tensor::zeros((1, 2, 3, 0), DType::F64, &Device::Cpu).unwrap();
    let labels = Tensor::zeros((1, 3, 0), DType::U8, &Device::Cpu).unwrap();
    let (logits, labels) = (
        logits.narrow(2, 1, 2).unwrap(),
        labels.narrow(1, 1, 2).unwrap(),
    );
    let behind = |dims: (usize, usize, usize), dtype| {
        let whole = Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
        whole.narrow(1, 1, 2).unwrap()
    };
    let shares = behind((1, 3, 0), DType::F16).reshape((1, 1, 2, 0)).unwrap();
    let targets = [
        Target::labels(&labels),
        Target::labels(&behind((1, 3, 0), DType::I16)),
        Target::labels(&labels)
            .mask(&behind((1, 3, 0), DType::U8))
            .pixel_weights(&behind((1, 3, 0), DType::F16)),
        Target::dense(&Tensor::cat(&[&shares, &shares], 1).unwrap()),
    ];
    for name in plain_and_plus_plus(0.75) {
        let loss = name.parse::<LossSpec>().unwrap().build();
        for target in &targets {
            let (value, gradient) = loss
                .value_and_grad(&Prediction::logits(&logits), target)
                .unwrap();
            assert!(scalar(&value).is_finite(), "{name}");
            assert_eq!(gradient.dims(), [1, 2, 2, 0], "{name}");
        }
    }
}

/// Many classes, many items, no pixels, views into larger tensors.
#[test]
fn unusual_shapes_are_those_of_f64() {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let mut random = |shape: &[usize]| {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| rng.random::<f32>() * 8.0 - 4.0)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let labels = |shape: &[usize], classes: u32| {
        let count: usize = shape.iter().product();
        let labels: Vec<u32> = (0..count as u32).map(|i| i * 7919 % classes).collect();
        Tensor::from_vec(labels, shape, &Device::Cpu).unwrap()
    };
    let wide = random(&[3, 4, 50, 7]);
    let view = wide.narrow(0, 1, 2).unwrap().narrow(1, 1, 3).unwrap();
    let item = wide.narrow(0, 2, 1).unwrap();
    let label_view = labels(&[3, 1, 50, 7], 3).narrow(0, 1, 2).unwrap();
    let cases = [
        ("300 classes", random(&[1, 300, 40]), labels(&[1, 40], 300)),
        ("2000 items", random(&[2000, 3]), labels(&[2000], 3)),
        ("no pixels", random(&[2, 3, 0]), labels(&[2, 0], 3)),
        ("a strided view", view, label_view),
        (
            "a view with an offset",
            item,
            labels(&[3, 50, 7], 4).narrow(0, 1, 1).unwrap(),
        ),
    ];
    for (what, logits, labels) in cases {
        for name in plain_and_plus_plus(0.75) {
            let loss = name.parse::<LossSpec>().unwrap().build();
            let target = Target::labels(&labels);
            for dtype in [DType::F32, DType::BF16] {
                let logits = logits.to_dtype(dtype).unwrap();
                let exact = Prediction::logits(&logits.to_dtype(DType::F64).unwrap());
                let exact = composed(loss.as_ref(), &exact, &target);
                let (value, gradient) = loss
                    .value_and_grad(&Prediction::logits(&logits), &target)
                    .unwrap();
                assert_near(
                    &(scalar(&value), flat(&gradient).unwrap()),
                    &exact,
                    dtype,
                    &format!("{name}, {what}"),
                );
            }
        }
    }
}
