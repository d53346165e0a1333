//! Every branch of every rule, by numbers that lead there.

use super::*;
use crate::metrics::calibration::{Errors, Volume};

fn bin(pixels: u64, confidence: f64, accuracy: f64, interval: Option<[f64; 2]>) -> Reliability {
    Reliability {
        low: (confidence * 10.0).floor() / 10.0,
        high: (confidence * 10.0).floor() / 10.0 + 0.1,
        pixels,
        images: 12,
        confidence: Some(confidence),
        accuracy: Some(accuracy),
        interval,
    }
}

fn view(name: &str, bins: Vec<Reliability>) -> View {
    View {
        name: name.into(),
        pixels: bins.iter().map(|bin| bin.pixels).sum(),
        equal_width: Errors::default(),
        equal_mass: Errors::default(),
        reliability: bins,
    }
}

fn summary(views: Vec<View>) -> CalibrationSummary {
    CalibrationSummary {
        images: 12,
        pixels: 100,
        nll: None,
        brier: None,
        views,
        volume: Volume::default(),
        truth: None,
        histogram: Vec::new(),
    }
}

fn at_eight(accuracy: f64, interval: Option<[f64; 2]>) -> Finding {
    eight_in_ten(Some(&view(
        "foreground",
        vec![
            bin(1000, 0.05, 0.05, None),
            bin(100, 0.8, accuracy, interval),
        ],
    )))
}

#[test]
fn eight_in_ten_holds_when_the_share_is_surely_near() {
    let finding = at_eight(0.81, Some([0.77, 0.85]));
    assert_eq!(finding.verdict, Verdict::Holds);
    assert_eq!(
        finding.sentence,
        "Holds, within ±0.05: pixels that were given a probability of about 0.80 were foreground in 81.0 (77.0 to 85.0) % of the cases."
    );
}

#[test]
fn eight_in_ten_fails_upwards_and_downwards() {
    let low = at_eight(0.6, Some([0.55, 0.65]));
    assert_eq!(low.verdict, Verdict::Fails);
    assert!(
        low.sentence
            .ends_with("What it says there is too high by 0.200."),
        "{low:?}"
    );
    let high = at_eight(0.95, Some([0.9, 1.0]));
    assert_eq!(high.verdict, Verdict::Fails);
    assert!(high.errs_upwards() && !low.errs_upwards());
    assert!(
        high.sentence
            .ends_with("What it says there is too low by 0.150."),
        "{high:?}"
    );
}

#[test]
fn eight_in_ten_is_undecided_for_three_reasons_and_each_is_said() {
    for (accuracy, interval, reason) in [
        (0.7, None, "one image alone has no interval"),
        (
            0.7,
            Some([0.5, 0.9]),
            "the interval holds zero and more than the margin",
        ),
        (
            0.77,
            Some([0.745, 0.795]),
            "whether it is more than the margin the images leave open",
        ),
    ] {
        let finding = at_eight(accuracy, interval);
        assert_eq!(finding.verdict, Verdict::Undecided);
        assert!(finding.sentence.contains(reason), "{finding:?}");
    }
    let far = view("foreground", vec![bin(9, 0.05, 0.05, None)]);
    for none in [None, Some(&far)] {
        let finding = eight_in_ten(none);
        assert_eq!(
            (finding.verdict, finding.deviation),
            (Verdict::Undecided, None)
        );
        assert!(finding.sentence.contains("hardly a pixel"), "{finding:?}");
    }
}

fn sure(gaps: &[f64]) -> Finding {
    let image = |gap: &f64| Sureness {
        id: String::new(),
        confidence: 0.9,
        accuracy: 0.9 - gap,
    };
    as_sure_as_right(&gaps.iter().map(image).collect::<Vec<_>>())
}

#[test]
fn confidence_is_held_against_accuracy_image_by_image() {
    let over = sure(&[0.05, 0.06, 0.07]);
    assert_eq!(over.verdict, Verdict::Fails);
    assert!(
        over.sentence.starts_with("Fails, it is over-confident: its most probable class has a probability of 90 % in the mean and is right for 84 % of the pixels, a difference of 0.060 ("),
        "{over:?}"
    );
    assert!(
        sure(&[-0.05, -0.06, -0.07])
            .sentence
            .starts_with("Fails, it is under-confident")
    );
    let holds = sure(&[0.001, 0.002, -0.001]);
    assert_eq!(holds.verdict, Verdict::Holds);
    assert!(
        holds.sentence.contains("may cancel in this mean"),
        "{holds:?}"
    );
    assert_eq!(sure(&[0.05]).verdict, Verdict::Undecided);
    assert_eq!(sure(&[0.05, -0.06]).verdict, Verdict::Undecided);
    assert_eq!(sure(&[]).deviation, None);
}

/// A network off by `near` at the boundary and by `far` elsewhere, each bin's interval ± `half`.
fn edges(near: f64, far: f64, half: f64) -> Finding {
    let ends = |accuracy: f64| Some([accuracy - half, accuracy + half]);
    // 100 pixels near the boundary of 1000.
    let all = (100.0 * (0.5 - near) + 900.0 * (0.5 - far)) / 1000.0;
    let summary = summary(vec![
        view("foreground", vec![bin(1000, 0.5, all, ends(all))]),
        view(
            "boundary",
            vec![bin(100, 0.5, 0.5 - near, ends(0.5 - near))],
        ),
    ]);
    boundary(&summary, 2).unwrap()
}

#[test]
fn the_boundary_is_held_against_all_the_rest() {
    let worse = edges(0.2, 0.01, 0.005);
    assert_eq!(worse.verdict, Verdict::Fails);
    assert!((worse.deviation.unwrap().mean - 0.19).abs() < 1e-12);
    assert!(
        worse.sentence.starts_with("Fails: within 2 pixels of the truth's boundary, where 10 % of the pixels are, the ECE is 0.200, elsewhere it is 0.0100, ")
            && worse.errs_upwards(),
        "{worse:?}"
    );
    let better = edges(0.01, 0.2, 0.005);
    assert_eq!(better.verdict, Verdict::Fails);
    assert!(
        better.sentence.contains("away from the boundary"),
        "{better:?}"
    );
    assert_eq!(edges(0.05, 0.05, 0.002).verdict, Verdict::Holds);
    assert_eq!(edges(0.2, 0.01, 0.3).verdict, Verdict::Undecided);
}

#[test]
fn bins_that_are_no_part_give_no_finding_about_the_boundary() {
    let one = view("foreground", vec![bin(10, 0.5, 0.5, None)]);
    let more = view("boundary", vec![bin(20, 0.5, 0.5, None)]);
    assert_eq!(boundary(&summary(vec![one.clone(), more]), 2), None);
    let other = view("boundary", vec![bin(5, 0.5, 0.5, None); 2]);
    assert_eq!(boundary(&summary(vec![one.clone(), other]), 2), None);
    assert_eq!(boundary(&summary(vec![one]), 2), None);
}

#[test]
fn what_chance_gives_is_the_mean_size_of_a_normal_error() {
    // Half of 1.96 standard errors of 0.1, and their mean size √(2/π) · 0.1; cut off below at zero.
    let bins = [bin(3, 0.1, 0.05, Some([0.0, 0.05 + 0.195_996_4]))];
    assert!((chance(&bins).unwrap() - 0.079_788).abs() < 1e-5);
    assert_eq!(chance(&[bin(3, 0.5, 0.5, None)]), None);
    assert_eq!(ece(&[]), None);
}

fn volumes(biases: &[f64]) -> Option<Finding> {
    let row = |bias: &f64| ImageRow {
        volume_bias: Some(*bias),
        ..ImageRow::default()
    };
    volume(&biases.iter().map(row).collect::<Vec<_>>(), Some(-0.25))
}

#[test]
fn expected_volumes_are_said_to_be_above_or_below() {
    let above = volumes(&[0.1, 0.12, 0.14]).unwrap();
    assert_eq!(above.verdict, Verdict::Fails);
    assert_eq!(
        above.sentence,
        "Fails: the expected volume, the sum of all p, is 12.0 (7.0 to 17.0) % above the truth's in the mean over 3 images, and 25 % below over all images together."
    );
    let below = volumes(&[-0.1, -0.12, -0.14]).unwrap();
    assert!(
        below
            .sentence
            .contains("is 12.0 (7.0 to 17.0) % below the truth's"),
        "{below:?}"
    );
    assert_eq!(
        volumes(&[0.01, 0.0, -0.01]).unwrap().verdict,
        Verdict::Holds
    );
    assert_eq!(volumes(&[0.5, -0.4]).unwrap().verdict, Verdict::Undecided);
    assert_eq!(volumes(&[]), None);
}

#[test]
fn on_a_phantom_the_excess_is_held_against_the_noise_floor() {
    let truth = Truth {
        entropy: 0.1,
        dice: 0.9,
        noise_floor: 0.02,
    };
    let found = |excess: [f64; 3]| {
        let row = |excess: f64| ImageRow {
            excess_nll: Some(excess),
            ..ImageRow::default()
        };
        reaches_the_floor(&excess.map(row), &truth).unwrap()
    };
    assert_eq!(found([0.01, 0.011, 0.012]).verdict, Verdict::Holds);
    let above = found([0.1, 0.11, 0.09]);
    assert_eq!(above.verdict, Verdict::Fails);
    assert!(
        above.sentence.contains("It is 5.00 times that"),
        "{above:?}"
    );
    assert_eq!(found([0.0, 0.02, 0.05]).verdict, Verdict::Undecided);
    assert_eq!(reaches_the_floor(&[], &truth), None);
}

#[test]
fn few_images_are_said_to_be_few() {
    assert!(evidence(1).starts_with("With one test image"));
    assert!(evidence(FEW - 1).contains("so few make them wide"));
    assert!(evidence(FEW).starts_with("There are 10 test images. Intervals are 95 %"));
}
