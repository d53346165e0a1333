//! What holds for every row of the zoo, on random predictions.

use std::fmt::Write as _;

use candle_core::{DType, Device, Tensor};
use dice_losses::{
    Classes, FocalCrossEntropy, Loss, LossSpec, Modulation, PerClass, Prediction, Reduction,
    Region, RegionIndex, RegionLoss, RegionStats, Target, WeightedSum, Weighting,
    spec::{Kind, Parameter, REGION_PARAMETERS},
    zoo::{self, Errors, ZOO},
};
use proptest::prelude::*;

use crate::case::{
    Case, GAMMAS, assert_all_close, assert_close, flat, of_loss, plain_and_plus_plus,
    plus_plus_rows, row, scalar, value_and_grad, with,
};

/// Rows of region losses take `smooth`; those without have no smoothing to switch off.
fn unsmoothed(spec: &str) -> String {
    if row(spec).has_regions() {
        with(spec, "smooth=0")
    } else {
        spec.to_string()
    }
}

/// A loss whose errors take the general power, at γ = 1.
fn general<I: RegionIndex>(loss: RegionLoss<I>) -> RegionLoss<I> {
    loss.modulation(Modulation::Power(1.0))
}

/// The paper's Eq. 2, one minus it, and its gradient in the logits, written out with loops.
fn equation_2(case: &Case) -> (f64, Vec<f64>) {
    let (n, c, s) = (case.items, case.channels, case.pixels);
    let p = case.p();
    let mut dice = 0.0;
    let mut gradient = vec![0.0; n * c * s];
    for (item, p) in p.iter().enumerate() {
        let mut in_p = vec![vec![0.0; s]; c];
        for k in 0..c {
            let py: f64 = (0..s).map(|i| p[k][i] * case.y(item, k, i)).sum();
            let sum: f64 = (0..s).map(|i| p[k][i] + case.y(item, k, i)).sum();
            dice += 2.0 * py / sum / (n * c) as f64;
            for (i, slot) in in_p[k].iter_mut().enumerate() {
                let slope = (2.0 * case.y(item, k, i) * sum - 2.0 * py) / (sum * sum);
                *slot = -slope / (n * c) as f64;
            }
        }
        for i in 0..s {
            let mean: f64 = (0..c).map(|k| in_p[k][i] * p[k][i]).sum();
            for k in 0..c {
                let slope = if c == 1 {
                    in_p[0][i] * (1.0 - p[0][i])
                } else {
                    in_p[k][i] - mean
                };
                gradient[(item * c + k) * s + i] = p[k][i] * slope;
            }
        }
    }
    (1.0 - dice, gradient)
}

/// `1 − 2Σpy / (Σp² + Σy²)`, the mean over items and channels, written out with loops.
fn squared_dice(case: &Case, y: &dyn Fn(usize, usize, usize) -> f64) -> f64 {
    let mut loss = 0.0;
    for (n, p) in case.p().iter().enumerate() {
        for (c, p) in p.iter().enumerate() {
            let py: f64 = p.iter().enumerate().map(|(i, p)| p * y(n, c, i)).sum();
            let squares = |(i, p): (usize, &f64)| p * p + y(n, c, i) * y(n, c, i);
            loss += 1.0 - 2.0 * py / p.iter().enumerate().map(squares).sum::<f64>();
        }
    }
    loss / (case.items * case.channels) as f64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gamma_1_has_the_bits_of_the_plain_loss(case in Case::any()) {
        for name in plus_plus_rows() {
            let target = Target::labels(&case.labels());
            let plain = value_and_grad(name, &case.logits(), &target);
            let plus_plus = value_and_grad(&format!("{name}++:gamma=1"), &case.logits(), &target);
            prop_assert_eq!(plain, plus_plus, "{}", name);
        }
    }

    #[test]
    fn gamma_1_is_equation_2(case in Case::any()) {
        let case = Case { labels: case.labels.clone(), ..case }.with_all_classes();
        prop_assume!(case.pixels >= case.channels.max(2));
        let (value, gradient) = equation_2(&case);
        let target = Target::labels(&case.labels());
        let ours = value_and_grad("dice++:gamma=1,smooth=0", &case.logits(), &target);
        assert_close(ours.0, value, 1e-13, "value");
        assert_all_close(&ours.1, &gradient, 1e-13, "gradient");
    }

    #[test]
    fn the_general_power_at_gamma_1_is_the_plain_loss(case in Case::any()) {
        let (prediction, target) = (Prediction::logits(&case.logits()), Target::labels(&case.labels()));
        let pairs: [(&str, Box<dyn Loss>); 14] = [
            ("dice", Box::new(general(zoo::dice()))),
            ("generalised-dice", Box::new(general(zoo::generalised_dice(Weighting::Square)))),
            ("log-cosh-dice", Box::new(general(zoo::log_cosh_dice()))),
            ("focal-dice", Box::new(general(zoo::focal_dice(0.5)))),
            ("jaccard", Box::new(general(zoo::jaccard()))),
            ("tversky", Box::new(general(zoo::tversky(0.3, 0.7)))),
            ("f-beta", Box::new(general(zoo::f_beta(2.0)))),
            ("focal-tversky", Box::new(general(zoo::focal_tversky(0.3, 0.7, 0.75)))),
            ("asymmetric-focal-tversky", Box::new(general(zoo::asymmetric_focal_tversky(0.6, 0.1)))),
            ("combo", Box::new(zoo::combo(0.5, 0.5, general))),
            ("unified-focal", Box::new(zoo::unified_focal(0.5, 0.6, 0.1, general))),
            ("exponential-log", Box::new(zoo::exponential_log(0.2, 0.3, 0.3, 1.0, general))),
            ("dice+ce", Box::new(zoo::dice_ce(1.0, 1.0, general))),
            ("dice+focal", Box::new(zoo::dice_focal(1.0, 1.0, 2.0, general))),
        ];
        prop_assert_eq!(pairs.len(), plus_plus_rows().count(), "a row is missing here");
        for (name, forced) in pairs {
            let plain = value_and_grad(name, &case.logits(), &target);
            let forced = of_loss(forced.as_ref(), &prediction, &target);
            assert_close(forced.0, plain.0, 1e-6, name);
            assert_all_close(&forced.1, &plain.1, 1e-6, name);
        }
    }

    #[test]
    fn the_loss_is_continuous_as_gamma_tends_to_1(case in Case::any()) {
        let target = Target::labels(&case.labels());
        for name in plus_plus_rows() {
            let plain = value_and_grad(name, &case.logits(), &target);
            for gamma in [1.0 - 1e-7, 1.0 + 1e-7] {
                let near = value_and_grad(&format!("{name}++:gamma={gamma}"), &case.logits(), &target);
                assert_close(near.0, plain.0, 1e-5, name);
                assert_all_close(&near.1, &plain.1, 1e-5, name);
            }
        }
    }

    #[test]
    fn tversky_with_two_halves_is_dice(case in Case::any()) {
        let target = Target::labels(&case.labels());
        for gamma in GAMMAS {
            let tversky = format!("tversky++:alpha=0.5,beta=0.5,gamma={gamma}");
            prop_assert_eq!(
                value_and_grad(&tversky, &case.logits(), &target),
                value_and_grad(&format!("dice++:gamma={gamma}"), &case.logits(), &target)
            );
        }
    }

    #[test]
    fn gamma_2_with_hard_labels_is_the_squared_denominator_dice(case in Case::any()) {
        let case = case.with_all_classes();
        prop_assume!(case.pixels >= case.channels.max(2));
        let target = Target::labels(&case.labels());
        let ours = value_and_grad("squared-dice:smooth=0", &case.logits(), &target);
        prop_assert_eq!(&ours, &value_and_grad("dice++:gamma=2,smooth=0", &case.logits(), &target));
        assert_close(ours.0, squared_dice(&case, &|n, c, i| case.y(n, c, i)), 1e-13, "value");
    }

    #[test]
    fn squared_dice_of_soft_labels_has_the_squares_of_both(case in Case::any(), soft in prop::collection::vec(0.0..1.0f64, 360)) {
        let at = |n: usize, c: usize, i: usize| (n * case.channels + c) * case.pixels + i;
        let shape = (case.items, case.channels, case.pixels);
        let y = Tensor::from_slice(&soft[..case.logits.len()], shape, &Device::Cpu).unwrap();
        let (ours, _) = value_and_grad("squared-dice:smooth=0", &case.logits(), &Target::dense(&y));
        assert_close(ours, squared_dice(&case, &|n, c, i| soft[at(n, c, i)]), 1e-12, "value");
    }

    #[test]
    fn generalised_dice_is_one_ratio_of_all_classes(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let target = Target::labels(&case.labels());
        let p = case.p();
        for (weighting, exponent) in [("square", 2), ("simple", 1), ("uniform", 0)] {
            let mut sum = 0.0;
            for (n, p) in p.iter().enumerate() {
                let volume = |c: usize| (0..case.pixels).map(|i| case.y(n, c, i)).sum::<f64>();
                let volumes: Vec<f64> = (0..case.channels).map(volume).collect();
                let largest = volumes.iter().filter(|v| **v > 0.0).map(|v| v.powi(-exponent)).fold(0.0, f64::max);
                let (mut errors, mut all) = (0.0, 0.0);
                for (c, p) in p.iter().enumerate() {
                    let w = if volumes[c] > 0.0 { volumes[c].powi(-exponent) } else { largest };
                    for (i, p) in p.iter().enumerate() {
                        let y = case.y(n, c, i);
                        let e = (p * (1.0 - y) + (1.0 - p) * y).powf(gamma);
                        errors += w * e;
                        all += w * (2.0 * p * y + e);
                    }
                }
                // Without any of the classes: the mean probability of them.
                sum += if all > 0.0 { errors / all } else { p.iter().flatten().sum::<f64>() / (case.channels * case.pixels) as f64 };
            }
            let spec = format!("generalised-dice++:gamma={gamma},weighting={weighting},smooth=0");
            let (ours, _) = value_and_grad(&spec, &case.logits(), &target);
            assert_close(ours, sum / case.items as f64, 1e-12, &spec);
        }
    }

    #[test]
    fn f_beta_is_the_tversky_loss_with_its_weights(case in Case::any(), b in 0.2..4.0f64) {
        let target = Target::labels(&case.labels());
        let value = |spec: &str| value_and_grad(spec, &case.logits(), &target);
        let (alpha, beta) = (1.0 / (1.0 + b * b), b * b / (1.0 + b * b));
        prop_assert_eq!(value(&format!("f-beta++:recall_weight={b}")), value(&format!("tversky++:alpha={alpha},beta={beta}")));
        prop_assert_eq!(value("f-beta++:recall_weight=1"), value("dice++"));
    }

    #[test]
    fn an_outer_function_is_taken_of_every_region(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let (prediction, target) = (Prediction::logits(&case.logits()), Target::labels(&case.labels()));
        let regions = flat(&zoo::dice().plus_plus(gamma).per_region(&prediction, &target).unwrap()).unwrap();
        let mean = |f: &dyn Fn(f64) -> f64| regions.iter().map(|loss| f(*loss)).sum::<f64>() / regions.len() as f64;
        let value = |spec: &str| value_and_grad(spec, &case.logits(), &target).0;
        assert_close(value(&format!("log-cosh-dice++:gamma={gamma}")), mean(&|l| l.cosh().ln()), 1e-13, "log-cosh");
        assert_close(value(&format!("focal-dice++:gamma={gamma},index_power=0.4")), mean(&|l| 1.0 - (1.0 - l).powf(0.4)), 1e-13, "focal");
        let ce = value_and_grad("cross-entropy", &case.logits(), &target).0;
        // Of 1 − l the digits of a small l are lost, and the power magnifies that.
        let log = mean(&|l| (-(-l).ln_1p()).powf(0.3));
        let spec = format!("exponential-log++:gamma={gamma},log_power=1");
        assert_close(value(&spec), 0.8 * log + 0.2 * ce, 1e-11, &spec);
    }

    #[test]
    fn compounds_are_sums_of_their_parts(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let target = Target::labels(&case.labels());
        let value = |spec: &str| value_and_grad(spec, &case.logits(), &target).0;
        let (dice, ce, focal) = (value(&format!("dice++:gamma={gamma}")), value("ce"), value("focal:focus=1.5"));
        assert_close(value(&format!("dice+ce++:gamma={gamma},dice_weight=0.7,ce_weight=3")), 0.7 * dice + 3.0 * ce, 1e-14, "dice+ce");
        assert_close(
            value(&format!("dice+focal++:gamma={gamma},dice_weight=2,focal_weight=0.5,focus=1.5")),
            2.0 * dice + 0.5 * focal,
            1e-14,
            "dice+focal",
        );
        assert_close(value(&format!("combo++:gamma={gamma},ce_share=0.3")), 0.3 * ce / 2.0 - 0.7 * (1.0 - dice), 1e-14, "combo");
    }

    #[test]
    fn a_pixel_of_weight_3_is_three_pixels(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let weight = |i: usize| (i + 1) % 4;
        let copies: Vec<u32> = (0..case.pixels).flat_map(|i| vec![i as u32; weight(i)]).collect();
        let copies = Tensor::new(copies, &Device::Cpu).unwrap();
        let (logits, labels) = (case.logits().index_select(&copies, 2).unwrap(), case.labels().index_select(&copies, 1).unwrap());
        let weights: Vec<f64> = (0..case.items * case.pixels).map(|at| weight(at % case.pixels) as f64).collect();
        let weights = Tensor::from_vec(weights, (case.items, case.pixels), &Device::Cpu).unwrap();
        for spec in plain_and_plus_plus(gamma) {
            let repeated = value_and_grad(&spec, &logits, &Target::labels(&labels));
            let weighted = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()).pixel_weights(&weights));
            assert_close(weighted.0, repeated.0, 1e-12, &spec);
            let mut gradient = repeated.1.iter();
            for (at, ours) in weighted.1.iter().enumerate() {
                let copies: f64 = gradient.by_ref().take(weight(at % case.pixels)).sum();
                assert_close(*ours, copies, 1e-11, &spec);
            }
        }
    }

    #[test]
    fn weights_0_and_1_are_a_mask(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let ones: Vec<f64> = (0..case.items * case.pixels).map(|i| f64::from(u8::from(i % 3 != 1))).collect();
        let weights = Tensor::from_vec(ones, (case.items, case.pixels), &Device::Cpu).unwrap();
        for spec in plain_and_plus_plus(gamma) {
            let weighted = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()).pixel_weights(&weights));
            let masked = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()).mask(&weights));
            assert_close(weighted.0, masked.0, 1e-14, &spec);
            assert_all_close(&weighted.1, &masked.1, 1e-14, &spec);
        }
    }

    #[test]
    fn sample_weights_are_factors_of_the_items_losses(case in Case::any(), weights in prop::collection::vec(0.0..3.0f64, 3)) {
        let weights = &weights[..case.items];
        let tensor = Tensor::new(weights, &Device::Cpu).unwrap();
        for spec in plain_and_plus_plus(2.0) {
            // Combo's constant is added to the sum and belongs to no item.
            let constant = spec.parse::<LossSpec>().unwrap().perfection();
            let (weighted, _) = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()).sample_weights(&tensor));
            let items = (0..case.items).map(|n| {
                let (logits, labels) = (case.logits().narrow(0, n, 1).unwrap(), case.labels().narrow(0, n, 1).unwrap());
                weights[n] * (value_and_grad(&spec, &logits, &Target::labels(&labels)).0 - constant)
            });
            assert_close(weighted, constant + items.sum::<f64>() / case.items as f64, 1e-12, &spec);
        }
    }

    #[test]
    fn smoothed_labels_are_a_soft_target(case in Case::any(), epsilon in 0.0..0.5f64) {
        let classes = case.channels.max(2) as f64;
        let soft: Vec<f64> = (0..case.items)
            .flat_map(|n| (0..case.channels).map(move |c| (n, c)))
            .flat_map(|(n, c)| (0..case.pixels).map(move |i| (n, c, i)))
            .map(|(n, c, i)| (1.0 - epsilon) * case.y(n, c, i) + epsilon / classes)
            .collect();
        let soft = Tensor::from_vec(soft, (case.items, case.channels, case.pixels), &Device::Cpu).unwrap();
        for spec in plain_and_plus_plus(1.5) {
            let smoothed = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()).smoothing(epsilon));
            let dense = value_and_grad(&spec, &case.logits(), &Target::dense(&soft));
            assert_close(smoothed.0, dense.0, 1e-13, &spec);
            assert_all_close(&smoothed.1, &dense.1, 1e-12, &spec);
        }
    }

    #[test]
    fn tiling_an_image_changes_nothing(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let tiled_logits = Tensor::cat(&[case.logits(), case.logits()], 2).unwrap();
        let tiled_labels = Tensor::cat(&[case.labels(), case.labels()], 1).unwrap();
        for name in plain_and_plus_plus(gamma) {
            let spec = unsmoothed(&name);
            let (one, _) = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
            let (two, _) = value_and_grad(&spec, &tiled_logits, &Target::labels(&tiled_labels));
            assert_close(two, one, 1e-12, &spec);
        }
    }

    #[test]
    fn permuting_pixels_and_items_changes_nothing(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let reversed = |n: usize| Tensor::from_vec((0..n as u32).rev().collect(), n, &Device::Cpu).unwrap();
        let (pixels, items) = (reversed(case.pixels), reversed(case.items));
        let logits = case.logits().index_select(&pixels, 2).unwrap().index_select(&items, 0).unwrap();
        let labels = case.labels().index_select(&pixels, 1).unwrap().index_select(&items, 0).unwrap();
        for spec in plain_and_plus_plus(gamma) {
            let (one, _) = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
            let (two, _) = value_and_grad(&spec, &logits, &Target::labels(&labels));
            assert_close(two, one, 1e-12, &spec);
        }
    }

    #[test]
    fn ignored_pixels_are_inert(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        // Every third pixel is ignored, once with what was predicted there and once with nonsense.
        let ignored: Vec<bool> = (0..case.items * case.pixels).map(|i| i % 3 == 0).collect();
        let mut nonsense = case.clone();
        let mut labels = case.labels.clone();
        for (i, _) in ignored.iter().enumerate().filter(|(_, ignored)| **ignored) {
            labels[i] = 255;
            let (item, pixel) = (i / case.pixels, i % case.pixels);
            for c in 0..case.channels {
                let at = (item * case.channels + c) * case.pixels + pixel;
                nonsense.logits[at] = [f64::NAN, f64::INFINITY, -1e300][(i + c) % 3];
            }
        }
        let shape = (case.items, case.pixels);
        let ignoring = Target::labels(&Tensor::from_vec(labels, shape, &Device::Cpu).unwrap()).ignore_label(255);
        let counts: Vec<u8> = ignored.iter().map(|ignored| u8::from(!ignored)).collect();
        let masked = Target::labels(&case.labels()).mask(&Tensor::from_vec(counts, shape, &Device::Cpu).unwrap());
        for spec in plain_and_plus_plus(gamma) {
            let sense = value_and_grad(&spec, &case.logits(), &ignoring);
            let none = value_and_grad(&spec, &nonsense.logits(), &ignoring);
            prop_assert!(sense.0.is_finite());
            prop_assert_eq!(&sense, &none, "{}", &spec);
            for (i, _) in ignored.iter().enumerate().filter(|(_, ignored)| **ignored) {
                let (item, pixel) = (i / case.pixels, i % case.pixels);
                for c in 0..case.channels {
                    prop_assert_eq!(none.1[(item * case.channels + c) * case.pixels + pixel], 0.0);
                }
            }
            let mask = value_and_grad(&spec, &nonsense.logits(), &masked);
            assert_close(mask.0, sense.0, 1e-14, &spec);
        }
    }

    #[test]
    fn appending_ignored_pixels_changes_nothing(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let more = Tensor::full(2.5f64, (case.items, case.channels, 3), &Device::Cpu).unwrap();
        let ignored = Tensor::full(255u8, (case.items, 3), &Device::Cpu).unwrap();
        let logits = Tensor::cat(&[case.logits(), more], 2).unwrap();
        let labels = Tensor::cat(&[case.labels(), ignored], 1).unwrap();
        for spec in plain_and_plus_plus(gamma) {
            let (alone, _) = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
            let (padded, _) = value_and_grad(&spec, &logits, &Target::labels(&labels).ignore_label(255));
            assert_close(padded, alone, 1e-12, &spec);
        }
    }

    #[test]
    fn every_row_stays_in_its_range(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        for name in plain_and_plus_plus(gamma) {
            let mut specs = vec![name.clone(), with(&name, "preset=paper")];
            if row(&name).has_regions() {
                for empty in ["skip", "zero", "one", "ratio"] {
                    specs.push(with(&name, &format!("empty={empty}")));
                }
                specs.push(with(&name, "class_reduction=sum"));
                specs.push(with(&name, "region=batch"));
            }
            for spec in specs {
                let parsed: LossSpec = spec.parse().unwrap();
                let (low, high) = parsed.range(case.channels);
                let (value, _) = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
                prop_assert!(value >= low - 1e-12 && value <= high + 1e-12, "{}: {} not in [{}, {}]", spec, value, low, high);
            }
        }
    }

    #[test]
    fn every_row_has_its_value_at_perfection(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        // Logits so sure that the largest error left is e^-2000.
        let logits: Vec<f64> = (0..case.items)
            .flat_map(|n| (0..case.channels).map(move |c| (n, c)))
            .flat_map(|(n, c)| (0..case.pixels).map(move |i| (n, c, i)))
            .map(|(n, c, i)| 2000.0 * case.y(n, c, i) - 1000.0)
            .collect();
        let perfect = Case { logits, ..case };
        for name in plain_and_plus_plus(gamma) {
            let spec: LossSpec = name.parse().unwrap();
            let (value, _) = value_and_grad(&name, &perfect.logits(), &Target::labels(&perfect.labels()));
            assert_close(value, spec.perfection(), 1e-12, &name);
        }
    }

    #[test]
    fn a_larger_gamma_forgives_more(case in Case::any()) {
        // e^γ falls in γ for every error e below 1, so the penalty does too.
        let target = Target::labels(&case.labels());
        for name in plus_plus_rows() {
            let values: Vec<f64> = GAMMAS
                .iter()
                .map(|gamma| value_and_grad(&format!("{name}++:gamma={gamma}"), &case.logits(), &target).0)
                .collect();
            prop_assert!(values.windows(2).all(|pair| pair[1] <= pair[0] + 1e-12), "{name}: {values:?}");
        }
    }

    #[test]
    fn labels_and_one_hot_are_the_same_truth(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let one_hot: Vec<f64> = (0..case.items)
            .flat_map(|n| (0..case.channels).map(move |c| (n, c)))
            .flat_map(|(n, c)| (0..case.pixels).map(move |i| (n, c, i)))
            .map(|(n, c, i)| case.y(n, c, i))
            .collect();
        let shape = (case.items, case.channels, case.pixels);
        let one_hot = Tensor::from_vec(one_hot, shape, &Device::Cpu).unwrap();
        for spec in plain_and_plus_plus(gamma) {
            let reference = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
            for dtype in [DType::F32, DType::F64] {
                let dense = value_and_grad(&spec, &case.logits(), &Target::dense(&one_hot.to_dtype(dtype).unwrap()));
                // Class numbers have a kernel of their own.
                assert_close(dense.0, reference.0, 1e-14, &spec);
                assert_all_close(&dense.1, &reference.1, 1e-13, &spec);
            }
            for dtype in [DType::U32, DType::I64] {
                let labels = Target::labels(&case.labels().to_dtype(dtype).unwrap());
                prop_assert_eq!(&reference, &value_and_grad(&spec, &case.logits(), &labels));
            }
        }
    }

    #[test]
    fn rank_and_strides_change_nothing(case in Case::of(2, 3, 24), gamma in prop::sample::select(&GAMMAS)) {
        let volume = case.logits().reshape((2, 3, 2, 3, 4)).unwrap();
        let volume_labels = case.labels().reshape((2, 1, 2, 3, 4)).unwrap();
        // Channels last in memory, channels first in shape.
        let strided = case.logits().transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
        prop_assert!(!strided.is_contiguous());
        for spec in plain_and_plus_plus(gamma) {
            let reference = value_and_grad(&spec, &case.logits(), &Target::labels(&case.labels()));
            prop_assert_eq!(&reference, &value_and_grad(&spec, &volume, &Target::labels(&volume_labels)));
            prop_assert_eq!(&reference, &value_and_grad(&spec, &strided, &Target::labels(&case.labels())));
        }
    }

    #[test]
    fn value_and_grad_is_what_backward_gives(case in Case::any(), gamma in prop::sample::select(&GAMMAS)) {
        let target = Target::labels(&case.labels());
        for name in plain_and_plus_plus(gamma) {
            let spec: LossSpec = name.parse().unwrap();
            let logits = candle_core::Var::from_tensor(&case.logits()).unwrap();
            let loss = spec.build().loss(&Prediction::logits(&logits), &target).unwrap();
            let gradient = flat(loss.backward().unwrap().get(&logits).unwrap()).unwrap();
            prop_assert_eq!((scalar(&loss), gradient), value_and_grad(&name, &case.logits(), &target));
        }
    }

    #[test]
    fn parse_and_display_are_inverse(
        row in 0..ZOO.len(),
        plus_plus: bool,
        numbers in prop::collection::vec(0.001..0.999f64, 8),
        words in prop::collection::vec(0..100usize, 8),
    ) {
        let row = &ZOO[row];
        let mut pairs = Vec::new();
        if plus_plus && row.plus_plus() {
            pairs.push(format!("gamma={}", 5.0 * numbers[7]));
        }
        for (at, parameter) in LossSpec::parameters(row).enumerate() {
            let value = match parameter.kind {
                // Above 0 and below 1 is within every range of the zoo.
                Kind::Number { .. } => numbers[at % 8].to_string(),
                Kind::Choice(choices) => choices[words[at % 8] % choices.len()].to_string(),
                Kind::Classes => ["all", "fg", "1+3"][words[at % 8] % 3].to_string(),
            };
            pairs.push(format!("{}={value}", parameter.name));
        }
        let name = format!("{}{}", row.name, if plus_plus && row.plus_plus() { "++" } else { "" });
        let text = if pairs.is_empty() { name } else { format!("{name}:{}", pairs.join(",")) };
        let spec: LossSpec = text.parse().unwrap();
        prop_assert_eq!(&spec.to_string(), &text);
        prop_assert_eq!(spec.to_string().parse::<LossSpec>().unwrap(), spec);
    }

    #[test]
    fn half_and_single_precision_are_near_double(case in Case::of(2, 2, 40), gamma in prop::sample::select(&GAMMAS)) {
        let target = Target::labels(&case.labels());
        for spec in plain_and_plus_plus(gamma) {
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 2e-3), (DType::BF16, 2e-2)] {
                // What is compared is the loss of the rounded logits, so the tolerance is the output's alone.
                let rounded = case.logits().to_dtype(dtype).unwrap();
                let exact = value_and_grad(&spec, &rounded.to_dtype(DType::F64).unwrap(), &target);
                let ours = value_and_grad(&spec, &rounded, &target);
                assert_close(ours.0, exact.0, 1e-6, &spec);
                assert_all_close(&ours.1, &exact.1, tolerance, &spec);
            }
        }
    }
}

#[test]
fn names_are_unique_and_defaults_lie_in_their_ranges() {
    let mut names: Vec<&str> = ZOO
        .iter()
        .flat_map(|row| row.aliases.iter().chain([&row.name]))
        .copied()
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for row in ZOO {
        for parameter in LossSpec::parameters(row) {
            if let Kind::Number { default, .. } = parameter.kind {
                let spec = format!("{}:{}={default}", row.name, parameter.name);
                assert!(spec.parse::<LossSpec>().is_ok(), "{spec}");
            }
        }
        assert!(!row.citation.is_empty() && !row.summary.is_empty());
        for alias in row.aliases {
            assert_eq!(
                alias.parse::<LossSpec>().unwrap(),
                row.name.parse().unwrap()
            );
        }
        // A setting of the paper that is no parameter would fail here.
        assert!(
            format!("{}:preset=paper", row.name)
                .parse::<LossSpec>()
                .is_ok()
        );
    }
    assert_eq!(REGION_PARAMETERS.len(), 5);
}

#[test]
fn false_positives_and_false_negatives_are_weighed_apart() {
    // p is 0.9 at one foreground and one background pixel: FP = 0.9, FN = 0.1.
    let logits = Tensor::new(&[[[9f64.ln(), 9f64.ln()]]], &Device::Cpu).unwrap();
    let target = Target::labels(&Tensor::new(&[[1u8, 0]], &Device::Cpu).unwrap());
    let value = |spec: &str| value_and_grad(spec, &logits, &target).0;
    assert_close(
        value("tversky:alpha=0.1,beta=0.9"),
        0.18 / 1.08,
        1e-6,
        "alpha 0.1",
    );
    assert_close(
        value("tversky:alpha=0.9,beta=0.1"),
        0.82 / 1.72,
        1e-6,
        "alpha 0.9",
    );
    let on_fn = value("asymmetric-focal-tversky:focus=0,delta=0.9");
    let on_fp = value("asymmetric-focal-tversky:focus=0,delta=0.9,delta_on=fp");
    assert_close(on_fn, 0.18 / 1.08, 1e-6, "delta on FN");
    assert_close(on_fp, 0.82 / 1.72, 1e-6, "delta on FP");
}

#[test]
fn an_empty_region_costs_the_same_at_every_gamma() {
    // Item 0 has foreground, item 1 none; p of the foreground is ½, and 0.2 on the empty item.
    let z = 0.25f64.ln();
    let logits = Tensor::new(&[[[0f64, 0.]], [[z, z]]], &Device::Cpu).unwrap();
    let target = Target::labels(&Tensor::new(&[[1u8, 0], [0, 0]], &Device::Cpu).unwrap());
    for gamma in GAMMAS {
        let value = |empty: &str| {
            value_and_grad(
                &format!("dice++:gamma={gamma},empty={empty}"),
                &logits,
                &target,
            )
            .0
        };
        let present = value("skip");
        assert_close(
            value("penalty"),
            f64::midpoint(present, 0.2),
            1e-12,
            "penalty",
        );
        assert_close(value("zero"), present / 2.0, 1e-12, "zero");
        assert_close(value("one"), f64::midpoint(present, 1.0), 1e-12, "one");
        // Left to the formula it changes with γ: ½FP/(½FP + smooth) of FP = 2·0.2^γ.
        let fp = 0.2f64.powf(gamma);
        let ratio = f64::midpoint(present, fp / (fp + 1e-7));
        assert_close(value("ratio"), ratio, 1e-12, "ratio");
    }
}

#[test]
fn all_items_skipped_is_zero() {
    let logits = Tensor::new(&[[[3f64, -3.]]], &Device::Cpu).unwrap();
    let target = Target::labels(&Tensor::new(&[[0u8, 0]], &Device::Cpu).unwrap());
    let (value, gradient) = value_and_grad("dice++:empty=skip", &logits, &target);
    assert_eq!((value, gradient), (0.0, vec![0.0, 0.0]));
}

#[test]
fn a_region_over_the_batch_is_one_image_of_all_items() {
    let logits = Tensor::new(&[[[1f64, -2., 0.5]], [[-1., 0.3, 2.]]], &Device::Cpu).unwrap();
    let labels = Tensor::new(&[[1u8, 0, 0], [0, 1, 1]], &Device::Cpu).unwrap();
    let joined = logits.reshape((1, 1, 6)).unwrap();
    let joined_labels = labels.reshape((1, 6)).unwrap();
    for spec in plain_and_plus_plus(2.0) {
        if !row(&spec).has_regions() {
            continue;
        }
        let over_batch = with(&spec, "region=batch");
        let batch = value_and_grad(&over_batch, &logits, &Target::labels(&labels));
        let one = value_and_grad(&spec, &joined, &Target::labels(&joined_labels));
        assert_close(batch.0, one.0, 1e-14, &spec);
        assert_all_close(&batch.1, &one.1, 1e-14, &spec);
    }
}

#[test]
fn reductions_and_class_weights_act_in_order() {
    let logits = Tensor::new(
        &[
            [[0f64, 0., 1.], [0., 1., -1.], [2., 0., 0.]],
            [[1., 0., 0.], [0.; 3], [0.; 3]],
        ],
        &Device::Cpu,
    )
    .unwrap();
    let labels = Tensor::new(&[[0u8, 1, 2], [2, 1, 0]], &Device::Cpu).unwrap();
    let (prediction, target) = (Prediction::logits(&logits), Target::labels(&labels));
    let weights = [0.5, 1.0, 2.0];
    let loss = zoo::focal_tversky(0.3, 0.7, 0.75).plus_plus(2.0);
    let regions = flat(&loss.per_region(&prediction, &target).unwrap()).unwrap();
    let weighted = loss.clone().class_weights(weights);
    let items: Vec<f64> = regions
        .chunks(3)
        .map(|item| item.iter().zip(weights).map(|(l, w)| l * w).sum::<f64>() / 3.0)
        .collect();
    let value = |reduction| {
        flat(
            &weighted
                .clone()
                .reduction(reduction)
                .loss(&prediction, &target)
                .unwrap(),
        )
        .unwrap()
    };
    assert_all_close(&value(Reduction::None), &items, 1e-14, "none");
    assert_all_close(&value(Reduction::Sum), &[items[0] + items[1]], 1e-14, "sum");
    assert_all_close(
        &value(Reduction::Mean),
        &[f64::midpoint(items[0], items[1])],
        1e-14,
        "mean",
    );
    // The power comes before the weights: (w·L)^k would differ from w·L^k.
    let plain = flat(
        &zoo::tversky(0.3, 0.7)
            .plus_plus(2.0)
            .per_region(&prediction, &target)
            .unwrap(),
    )
    .unwrap();
    let powered: Vec<f64> = plain.iter().map(|l| l.powf(0.75)).collect();
    assert_all_close(&regions, &powered, 1e-13, "power");
}

#[test]
fn an_item_a_loss_is_the_loss_of_the_item() {
    let logits = Tensor::new(
        &[
            [[1f64, -2., 0.5], [0., 1., 0.]],
            [[-1., 0.3, 2.], [0.5, 0.5, 0.]],
        ],
        &Device::Cpu,
    )
    .unwrap();
    let labels = Tensor::new(&[[1u8, 255, 0], [0, 1, 1]], &Device::Cpu).unwrap();
    let target = |labels: &Tensor| Target::labels(labels).ignore_label(255);
    let weights = PerClass::Split {
        background: 0.3,
        foreground: 0.7,
    };
    let loss = || {
        WeightedSum::new(0.25)
            .plus(2.0, zoo::dice().plus_plus(1.5).reduction(Reduction::None))
            .plus(
                0.5,
                FocalCrossEntropy::new(weights.clone(), 1.0).reduction(Reduction::None),
            )
    };
    let each = flat(
        &loss()
            .loss(&Prediction::logits(&logits), &target(&labels))
            .unwrap(),
    )
    .unwrap();
    for (n, value) in each.iter().enumerate() {
        let (logits, labels) = (
            logits.narrow(0, n, 1).unwrap(),
            labels.narrow(0, n, 1).unwrap(),
        );
        let one = flat(
            &loss()
                .loss(&Prediction::logits(&logits), &target(&labels))
                .unwrap(),
        )
        .unwrap();
        assert_all_close(&one, &[*value], 1e-14, "item");
    }
}

#[test]
fn multi_label_channels_are_independent_one_channel_problems() {
    let logits = Tensor::new(&[[[1f64, -2., 0.5], [0., 1., 3.]]], &Device::Cpu).unwrap();
    let truth = Tensor::new(&[[[1f64, 0., 1.], [0., 1., 1.]]], &Device::Cpu).unwrap();
    let a_ratio_a_channel = |spec: &String| row(spec).name != "generalised-dice";
    for spec in plain_and_plus_plus(2.0)
        .into_iter()
        .filter(a_ratio_a_channel)
    {
        let loss = spec.parse::<LossSpec>().unwrap().build();
        let whole = loss
            .loss(&Prediction::multi_label(&logits), &Target::dense(&truth))
            .unwrap();
        let channel = |c| {
            let (logits, truth) = (
                logits.narrow(1, c, 1).unwrap(),
                truth.narrow(1, c, 1).unwrap(),
            );
            scalar(
                &loss
                    .loss(&Prediction::logits(&logits), &Target::dense(&truth))
                    .unwrap(),
            )
        };
        assert_close(
            scalar(&whole),
            f64::midpoint(channel(0), channel(1)),
            1e-14,
            &spec,
        );
    }
}

#[test]
fn one_ratio_of_all_classes_has_no_classes_to_weigh() {
    let logits = Tensor::zeros((1, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[[0u8, 1, 2, 1]], &Device::Cpu).unwrap();
    let refused = |loss: RegionLoss<_>| refusal(&loss, &logits, Target::labels(&labels));
    let gdl = || zoo::generalised_dice(Weighting::Square);
    assert_eq!(
        refused(gdl().class_weights([1.0, 2.0, 1.0])),
        "class weights that differ from class to class need a loss a class, found [1.0, 2.0, 1.0] for an index that \
         makes one ratio of all classes; give one number"
    );
    assert_eq!(
        refused(gdl().outer(PerClass::Split {
            background: 1.0,
            foreground: 0.5
        })),
        "powers that differ from class to class need a loss a class, found [1.0, 0.5, 0.5] for an index that makes one \
         ratio of all classes; give one number"
    );
    // One number is a factor of the one ratio, and with one class chosen there is nothing to merge.
    let value = |loss: RegionLoss<_>| {
        scalar(
            &loss
                .loss(&Prediction::logits(&logits), &Target::labels(&labels))
                .unwrap(),
        )
    };
    assert_close(
        value(gdl().class_weights(2.0)),
        2.0 * value(gdl()),
        1e-7,
        "factor",
    );
    let second = || gdl().classes(Classes::Listed(vec![1]));
    assert_close(
        value(second().class_weights([1.0, 2.0, 1.0])),
        2.0 * value(second()),
        1e-7,
        "one class",
    );
    let dice = zoo::dice().classes(Classes::Listed(vec![1]));
    let dice = scalar(
        &dice
            .loss(&Prediction::logits(&logits), &Target::labels(&labels))
            .unwrap(),
    );
    assert_close(value(second()), dice, 1e-6, "one class");
}

#[test]
fn an_index_of_another_shape_is_refused() {
    let logits = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::zeros((2, 4), DType::U8, &Device::Cpu).unwrap();
    let loss = RegionLoss::new(|stats: &RegionStats| stats.tp.sum_all());
    assert_eq!(
        refusal(&loss, &logits, Target::labels(&labels)),
        "an index has a value for every region, of shape [2, 3], or one for all classes of an item, of shape [2, 1]; \
         found []"
    );
}

#[test]
fn weights_and_smoothing_out_of_range_are_refused() {
    let logits = Tensor::zeros((2, 3, 2), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[[0u8, 1], [2, 0]], &Device::Cpu).unwrap();
    let target = || Target::labels(&labels);
    let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
    let refused = |target: Target| refusal(&zoo::dice(), &logits, target);
    let map = |a: f64| tensor(&[1.0, a, 1.0, 1.0]).reshape((2, 2)).unwrap();
    for (bad, found) in [(-1.0, "-1"), (f64::INFINITY, "inf"), (f64::NAN, "NaN")] {
        assert_eq!(
            refused(target().pixel_weights(&map(bad))),
            format!(
                "a pixel weight is 0 or more, found {found}; to leave something out, give it 0"
            )
        );
        assert_eq!(
            refused(target().sample_weights(&tensor(&[1.0, bad]))),
            format!(
                "a sample weight is 0 or more, found {found}; to leave something out, give it 0"
            )
        );
    }
    assert_eq!(
        refused(target().pixel_weights(&tensor(&[1.0, 1.0]))),
        "a weight map for a prediction of shape [2, 3, 2] has shape [2, 2] or [2, 1, 2], found [2]"
    );
    assert_eq!(
        refused(target().sample_weights(&tensor(&[1.0]))),
        "sample weights for 2 items have shape [2], found [1]"
    );
    for (bad, found) in [(1.0, "1"), (-0.1, "-0.1"), (f64::NAN, "NaN")] {
        assert_eq!(
            refused(target().smoothing(bad)),
            format!("label smoothing is from 0 to below 1, found {found}")
        );
    }
    assert_eq!(
        refusal(
            &zoo::dice().region(Region::Batch),
            &logits,
            target().sample_weights(&tensor(&[1.0, 2.0]))
        ),
        "sample weights need a region an item, found Region::Batch, where there is one region; weigh the items' pixels \
         with Target::pixel_weights instead"
    );
}

/// The sentence with which a loss refuses.
#[track_caller]
fn refusal(loss: &dyn Loss, logits: &Tensor, target: impl Into<Target>) -> String {
    let (prediction, target) = (Prediction::logits(logits), target.into());
    let error = loss.loss(&prediction, &target).unwrap_err();
    error.to_string().lines().next().unwrap().to_string()
}

#[test]
fn statistics_hold_what_their_names_say() {
    let p = Tensor::new(
        &[[[0.8f64, 0.5, 0.1, 0.3], [0.2, 0.5, 0.9, 0.7]]],
        &Device::Cpu,
    )
    .unwrap();
    let labels = Tensor::new(&[[0u8, 1, 1, 9]], &Device::Cpu).unwrap();
    let target = Target::labels(&labels).ignore_label(9);
    let stats = RegionStats::new(
        &Prediction::probabilities(&p),
        &target,
        Modulation::Power(3.0),
        Region::Item,
    )
    .unwrap();
    let check = |tensor: &Tensor, expected: [f64; 2], what: &str| {
        assert_all_close(&flat(tensor).unwrap(), &expected, 1e-14, what);
    };
    check(&stats.tp, [0.8, 1.4], "tp");
    check(
        &stats.fp,
        [0.5f64.powi(3) + 0.1f64.powi(3), 0.2f64.powi(3)],
        "fp",
    );
    check(
        &stats.fn_,
        [0.2f64.powi(3), 0.5f64.powi(3) + 0.1f64.powi(3)],
        "fn",
    );
    check(&stats.volume, [1.0, 2.0], "volume");
    check(&stats.predicted, [1.4, 1.6], "predicted");
    check(&stats.pixels, [3.0, 3.0], "pixels");
}

#[test]
fn soft_labels_are_inside_the_power() {
    let p = Tensor::new(&[[[0.6f64]]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[[[0.3f64]]], &Device::Cpu).unwrap();
    let stats = RegionStats::new(
        &Prediction::probabilities(&p),
        &Target::dense(&y),
        Modulation::Power(2.0),
        Region::Item,
    )
    .unwrap();
    assert_all_close(&flat(&stats.tp).unwrap(), &[0.18], 1e-15, "tp");
    assert_all_close(&flat(&stats.fp).unwrap(), &[0.42f64.powi(2)], 1e-15, "fp");
    assert_all_close(&flat(&stats.fn_).unwrap(), &[0.12f64.powi(2)], 1e-15, "fn");
}

/// What `choosing-a-loss.md` says of γ = 2: like pixels of which a fraction q is foreground are best at p = q/(1 − L).
#[test]
fn at_gamma_2_the_best_probability_is_the_truth_but_for_one_factor() {
    // Four pixels with q = ¼ at one logit, ten with q = ⅖ at another, and a foreground pixel that is sure.
    let labels: Vec<u8> = (0..15)
        .map(|i| u8::from(i == 0 || (4..8).contains(&i) || i == 14))
        .collect();
    let labels = Tensor::from_vec(labels, (1, 15), &Device::Cpu).unwrap();
    let at = |p: [f64; 2]| {
        let logit = |p: f64| (p / (1.0 - p)).ln();
        let logits = (0..15).map(|i| match i {
            0..4 => logit(p[0]),
            4..14 => logit(p[1]),
            _ => 40.0,
        });
        let logits = Tensor::from_vec(logits.collect(), (1, 1, 15), &Device::Cpu).unwrap();
        value_and_grad("dice++:smooth=0", &logits, &Target::labels(&labels))
    };
    let mut p = [0.25, 0.4];
    for _ in 0..200 {
        let (loss, _) = at(p);
        p = [0.25 / (1.0 - loss), 0.4 / (1.0 - loss)];
    }
    let (loss, gradient) = at(p);
    assert!(
        loss > 0.1 && p[1] < 1.0,
        "a case in which the factor tells: {loss}, {p:?}"
    );
    assert_close(gradient[..4].iter().sum(), 0.0, 1e-12, "slope of the first");
    assert_close(
        gradient[4..14].iter().sum(),
        0.0,
        1e-12,
        "slope of the second",
    );
    for near in [
        [p[0] * 1.01, p[1]],
        [p[0] * 0.99, p[1]],
        [p[0], p[1] * 1.01],
        [p[0], p[1] * 0.99],
    ] {
        assert!(at(near).0 > loss, "{near:?} is no worse than {p:?}");
    }
}

/// A specification of the page for those who come from another library that no longer parses would mislead them.
#[test]
fn the_specifications_for_newcomers_parse() {
    let page = include_str!("../dice-losses/docs/coming-from.md");
    let placeholder = |pair: &str| match pair.split_once('=') {
        Some(("weighting", "w")) => String::from("weighting=simple"),
        Some((key, "a" | "b" | "f" | "k" | "s")) => format!("{key}=0.5"),
        _ => pair.to_string(),
    };
    let specs: Vec<String> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(':'))
        .filter(|(name, _)| zoo::find(name).is_some())
        .map(|(name, pairs)| {
            let pairs: Vec<String> = pairs.split(',').map(placeholder).collect();
            format!("{name}:{}", pairs.join(","))
        })
        .collect();
    assert!(specs.len() >= 15, "{specs:?}");
    for spec in specs {
        if let Err(error) = spec.parse::<LossSpec>() {
            panic!("{spec}: {error}");
        }
    }
}

/// The zoo as the README of `dice-losses` shows it.
fn zoo_as_markdown() -> String {
    let list = |parameters: &[Parameter]| {
        let parameters = parameters
            .iter()
            .map(|p| format!("`{}={}`", p.name, p.default_text()));
        parameters.collect::<Vec<_>>().join(" ")
    };
    let mut table =
        String::from("| loss | is | parameters | `++` | source |\n|---|---|---|---|---|\n");
    for row in ZOO {
        let names: Vec<String> = [&[row.name], row.aliases]
            .concat()
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let plus_plus = match row.errors {
            Errors::Modulated => "yes",
            Errors::Squared => "is squared",
            Errors::None => "",
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {plus_plus} | {} |",
            names.join(", "),
            row.summary,
            list(row.parameters),
            row.citation
        );
    }
    let _ = writeln!(
        table,
        "\nWith `++` a loss takes `gamma=2`. Every loss of regions (all but those with an empty field under `++`) also \
         takes {}.",
        list(REGION_PARAMETERS)
    );
    table
}

#[test]
fn the_readme_shows_the_zoo() {
    let readme = include_str!("../dice-losses/README.md");
    let table = zoo_as_markdown();
    assert!(
        readme.contains(&table),
        "the README should hold this table:\n\n{table}"
    );
}
