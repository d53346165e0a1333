//! What to use and why: advice that the numbers carry, and none that they do not.

use serde::{Deserialize, Serialize};

use super::{decide::Estimate, findings::Finding};
use crate::{
    metrics::{Confusion, EmptyMask, ImageThresholds},
    report::document::rounded,
    study::claim::Verdict,
};

/// An ECE is worth mending from here on, beyond twice what chance alone makes of it.
pub const WORTH: f64 = 0.01;

/// What advice is made from.
#[derive(Clone, Debug, Default)]
pub struct Situation<'a> {
    /// The run's folder, as a command names it.
    pub run: &'a str,
    /// Validation images.
    pub validation: usize,
    /// ECE of the foreground over all pixels, and what chance alone makes of it.
    pub ece: Option<(f64, f64)>,
    /// Whether p = 0.8 is right eight times in ten.
    pub eight: Option<&'a Finding>,
    /// Whether it is as sure as it is right.
    pub sure: Option<&'a Finding>,
    /// Whether it is as good at the boundary.
    pub boundary: Option<&'a Finding>,
    /// Whether the expected volume is the true one.
    pub volume: Option<&'a Finding>,
    /// Mean size of an image's relative error of its expected volume.
    pub volume_error: Option<f64>,
    /// What thresholds do; of two classes.
    pub thresholds: Option<Thresholds>,
    /// Whether the probabilities are scaled already.
    pub scaled: bool,
}

/// What T = ½ gives, and what the threshold of the highest mean Dice gives beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Mean recall at T = ½.
    pub recall: f64,
    /// Mean precision at T = ½.
    pub precision: f64,
    /// The threshold of the highest mean Dice on these images.
    pub best: f64,
    /// Dice there minus Dice at ½, image by image.
    pub gain: Estimate,
}

impl Thresholds {
    /// From the counts of images that were all counted at the same thresholds, ½ among them; else `None`.
    pub fn of(images: &[ImageThresholds], empty: EmptyMask) -> Option<Self> {
        let marks = &images.first()?.counts;
        let half = marks.iter().position(|(t, _)| *t == 0.5)?;
        let values = |mark: usize, figure: fn(&Confusion, EmptyMask) -> Option<f64>| {
            let counts = images.iter().map(|image| image.counts.get(mark));
            let values = counts.map(|counts| counts.and_then(|(_, counts)| figure(counts, empty)));
            values.collect::<Vec<Option<f64>>>()
        };
        let mean = |values: &[Option<f64>]| {
            Estimate::of(&values.iter().copied().flatten().collect::<Vec<_>>()).map(|of| of.mean)
        };
        let dice = |mark| values(mark, Confusion::dice);
        let (best, _) = (0..marks.len())
            .filter_map(|mark| Some((mark, mean(&dice(mark))?)))
            .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let gains = dice(best).into_iter().zip(dice(half));
        let gains: Vec<f64> = gains
            .filter_map(|(best, half)| Some(best? - half?))
            .collect();
        Some(Self {
            recall: mean(&values(half, Confusion::recall))?,
            precision: mean(&values(half, Confusion::precision))?,
            best: marks[best].0,
            gain: Estimate::of(&gains)?,
        })
    }
}

/// The advice, a paragraph an item.
pub fn advice(at: &Situation<'_>) -> Vec<String> {
    let mut all = vec![recalibration(at)];
    all.extend(at.boundary.filter(|finding| finding.errs_upwards()).map(|_| {
        "At the boundary: one number for all pixels, as a temperature is, cannot mend errors that are there alone. Read a probability at an edge as an order of the pixels rather than as a rate.".to_owned()
    }));
    all.extend(
        at.thresholds
            .as_ref()
            .map(|thresholds| threshold(at.run, thresholds)),
    );
    all.extend(at.volume.map(|finding| volume(finding, at.volume_error)));
    all
}

fn verdict(finding: Option<&Finding>) -> Option<Verdict> {
    finding.map(|finding| finding.verdict)
}

fn recalibration(at: &Situation<'_>) -> String {
    let Some((ece, chance)) = at.ece else {
        return "Recalibration: without a calibration error there is nothing to advise.".into();
    };
    let facts = format!(
        "the ECE of the foreground is {}, where chance alone gives about {}",
        rounded(ece, None),
        rounded(chance, None)
    );
    let fails = [at.eight, at.sure]
        .map(verdict)
        .contains(&Some(Verdict::Fails));
    let beyond = ece - 2.0 * chance;
    if fails && beyond >= WORTH && at.scaled {
        return format!(
            "Recalibration: {facts}, and that after scaling. What one scaling for all pixels leaves, another loss or fine-tuning may mend; seg-train compare tells."
        );
    }
    if fails && beyond >= WORTH && at.validation > 0 {
        return format!(
            "Recalibration is worth a try: {facts}. Temperature scaling fits one number on the {} validation images and leaves every most probable class as it is: seg-train --config {}/run.toml --set inference.scaling=temperature. Whether it helped, seg-train compare tells on the same test images.",
            at.validation, at.run
        );
    }
    if fails && beyond >= WORTH {
        return format!(
            "Recalibration: {facts}. There is no validation image to fit a temperature on, and it must not be fitted on the test set."
        );
    }
    if ece + 2.0 * chance <= WORTH {
        return format!("No recalibration: {facts}; there is next to nothing to mend.");
    }
    format!(
        "Whether recalibration would help these images do not decide: {facts}, and what was asked above is not shown to fail by more than its margin."
    )
}

fn threshold(run: &str, at: &Thresholds) -> String {
    let gain = rounded(at.gain.mean, at.gain.interval);
    let dice = match at.gain.interval {
        Some([low, _]) if low > 0.0 && at.best != 0.5 => format!(
            "Dice is highest at T = {}, by {gain} over T = ½; found on these very images, that is flattered: seg-train threshold {run} --f-beta 1 chooses on the validation set",
            at.best
        ),
        _ => "for Dice these images show no threshold to be better than T = ½".to_owned(),
    };
    format!(
        "Thresholds: at T = ½ the mean recall is {} and the mean precision {}. Where a recall is required: seg-train threshold {run} --target-recall 0.95, which chooses on the validation set, and predict then uses it. {}.",
        rounded(at.recall, None),
        rounded(at.precision, None),
        capital(&dice)
    )
}

fn volume(finding: &Finding, error: Option<f64>) -> String {
    let error = error.map_or(String::new(), |error| {
        format!(
            " Of a single image it is off by {} in the mean, in either direction.",
            super::findings::percent(error, None)
        )
    });
    let what = match finding.verdict {
        Verdict::Holds => "the sum of all p may be reported as the volume.",
        Verdict::Fails => "the sum of all p should not be reported as the volume as it is.",
        Verdict::Undecided => {
            "whether the sum of all p may be reported as the volume these images do not decide."
        }
    };
    format!("Volumes: {what}{error}")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, mean: f64) -> Finding {
        Finding {
            claim: String::new(),
            verdict,
            sentence: String::new(),
            deviation: Some(Estimate {
                mean,
                interval: None,
            }),
            margin: 0.05,
        }
    }

    #[test]
    fn scaling_is_advised_only_where_something_fails_beyond_chance_and_can_be_fitted() {
        let (fails, holds) = (finding(Verdict::Fails, 0.1), finding(Verdict::Holds, 0.0));
        let first = |ece, eight, validation, scaled| {
            let situation = Situation {
                run: "runs/a",
                validation,
                ece,
                eight: Some(eight),
                sure: Some(&holds),
                scaled,
                ..Situation::default()
            };
            advice(&situation)[0].clone()
        };
        let text = first(Some((0.05, 0.01)), &fails, 12, false);
        assert!(
            text.starts_with("Recalibration is worth a try: the ECE of the foreground is 0.0500, where chance alone gives about 0.0100. Temperature scaling fits one number on the 12 validation images"),
            "{text}"
        );
        let text = first(Some((0.05, 0.01)), &fails, 12, true);
        assert!(text.contains("and that after scaling"), "{text}");
        let text = first(Some((0.05, 0.01)), &fails, 0, false);
        assert!(
            text.contains("must not be fitted on the test set"),
            "{text}"
        );
        for (ece, eight) in [((0.05, 0.021), &fails), ((0.05, 0.01), &holds)] {
            let text = first(Some(ece), eight, 12, false);
            assert!(text.contains("do not decide"), "{text}");
        }
        let text = first(Some((0.006, 0.002)), &holds, 12, false);
        assert!(text.starts_with("No recalibration: "), "{text}");
        let text = first(None, &holds, 12, false);
        assert!(text.contains("nothing to advise"), "{text}");
    }

    #[test]
    fn edges_are_spoken_of_only_where_the_boundary_errs_more() {
        let said = |finding: Finding| {
            let situation = Situation {
                boundary: Some(&finding),
                ..Situation::default()
            };
            advice(&situation).len() == 2
        };
        assert!(said(finding(Verdict::Fails, 0.1)));
        assert!(!said(finding(Verdict::Fails, -0.1)));
        assert!(!said(finding(Verdict::Undecided, 0.1)));
    }

    #[test]
    fn a_threshold_found_on_the_test_set_is_told_from_one_that_is_chosen() {
        let image = |dice_at: [u64; 3]| ImageThresholds {
            id: String::new(),
            counts: [0.25, 0.5, 0.75]
                .into_iter()
                .zip(dice_at)
                .map(|(t, tp)| {
                    (
                        t,
                        Confusion {
                            tp,
                            fp: 0,
                            fn_: 100 - tp,
                            tn: 0,
                        },
                    )
                })
                .collect(),
        };
        let better = [
            image([60, 50, 40]),
            image([61, 50, 40]),
            image([62, 50, 40]),
        ];
        let found = Thresholds::of(&better, EmptyMask::Skip).unwrap();
        assert_eq!(
            (found.best, found.recall, found.precision),
            (0.25, 0.5, 1.0)
        );
        let text = threshold("runs/a", &found);
        assert!(
            text.contains("Dice is highest at T = 0.25, by 0.09") && text.contains("flattered"),
            "{text}"
        );
        let alike = [image([60, 50, 40]), image([40, 50, 60])];
        let found = Thresholds::of(&alike, EmptyMask::Skip).unwrap();
        assert!(threshold("runs/a", &found).contains("no threshold to be better than T = ½"));
        assert_eq!(Thresholds::of(&[], EmptyMask::Skip), None);
    }

    #[test]
    fn what_is_said_of_volumes_follows_the_finding() {
        for (verdict, said) in [
            (Verdict::Holds, "may be reported as the volume."),
            (Verdict::Fails, "should not be reported"),
            (Verdict::Undecided, "do not decide"),
        ] {
            let text = volume(&finding(verdict, 0.1), Some(0.125));
            assert!(
                text.contains(said) && text.contains("off by 12.5 %"),
                "{text}"
            );
        }
    }
}
