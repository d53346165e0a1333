//! What a reader of probabilities would rely on, and whether it holds: decided from the numbers by rule.
//!
//! | claim | deviation | margin |
//! |---|---|---|
//! | p = 0.8 is right eight times in ten | observed share − mean probability, in the bin nearest 0.8 | [`EIGHT`] |
//! | it is as sure as it is right | confidence − accuracy, mean over images | [`SURE`] |
//! | it is as good at the boundary | ECE there − ECE elsewhere | [`BOUNDARY`] |
//! | the expected volume is the true one | Σp − Σy in units of Σy, mean over images | [`VOLUME`] |
//! | it reaches what the image shows (phantom) | excess NLL − noise floor | 0 |
//!
//! Each is decided by [`Estimate::small`], but for the last. The margins are ours; each is named in its sentence.

use serde::{Deserialize, Serialize};

use super::{
    decide::Estimate,
    sureness::{Sureness, mean_gap},
};
use crate::{
    evaluate::Truth,
    metrics::{
        ImageRow,
        calibration::{CalibrationSummary, Reliability, View},
    },
    report::document::{fixed, rounded},
    study::claim::Verdict,
};

/// What p = 0.8 may be off by: up to 85 and down to 75 times in a hundred most readers call eight times in ten.
pub const EIGHT: f64 = 0.05;
/// What the mean confidence may differ from the accuracy by. Most pixels are sure background, so this mean moves little.
pub const SURE: f64 = 0.01;
/// What two ECEs may differ by.
pub const BOUNDARY: f64 = 0.02;
/// What an expected volume may be off by, in units of the true one.
pub const VOLUME: f64 = 0.05;
/// The claims, in the order of the page.
pub const EIGHT_IN_TEN: &str = "p = 0.8 is right eight times in ten";
/// Of all pixels.
pub const AS_SURE_AS_RIGHT: &str = "It is as sure as it is right";
/// Of those near the truth's boundary.
pub const AT_THE_BOUNDARY: &str = "It is as well calibrated at the boundary as elsewhere";
/// Of the sum of all p.
pub const EXPECTED_VOLUME: &str = "The expected volume is the true one";
/// On a phantom.
pub const NOISE_FLOOR: &str = "It reaches what the image shows";
/// Fewer test images than this are said to be few.
pub const FEW: usize = 10;

/// A claim and what the numbers say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The claim, which holds where nothing is wrong.
    pub claim: String,
    /// Whether it holds.
    pub verdict: Verdict,
    /// The same in words, with its numbers.
    pub sentence: String,
    /// The deviation, which would be zero.
    pub deviation: Option<Estimate>,
    /// What it may be.
    pub margin: f64,
}

impl Finding {
    fn new(claim: &str, deviation: Option<Estimate>, margin: f64) -> Self {
        Self {
            claim: claim.into(),
            verdict: deviation.map_or(Verdict::Undecided, |deviation| deviation.small(margin)),
            sentence: String::new(),
            deviation,
            margin,
        }
    }

    /// Whether it fails by a deviation above zero.
    pub fn errs_upwards(&self) -> bool {
        self.verdict == Verdict::Fails
            && self.deviation.is_some_and(|deviation| deviation.mean > 0.0)
    }

    fn says(mut self, sentence: String) -> Self {
        self.sentence = sentence;
        self
    }
}

/// The filled bin whose mean confidence is nearest to `p`, if one is within a tenth.
pub fn nearest_bin(view: &View, p: f64) -> Option<&Reliability> {
    let distance = |bin: &Reliability| {
        bin.confidence
            .map_or(f64::INFINITY, |mean| (mean - p).abs())
    };
    view.reliability
        .iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .filter(|bin| distance(bin) <= 0.1)
}

/// How much less or more often than it says a bin is right: observed share − mean confidence.
pub fn bin_deviation(bin: &Reliability) -> Option<Estimate> {
    let (confidence, accuracy) = (bin.confidence?, bin.accuracy?);
    Some(Estimate {
        mean: accuracy - confidence,
        interval: bin.interval.map(|ends| ends.map(|end| end - confidence)),
    })
}

/// A share as `71 %`, with its interval `71 (66 to 76) %`.
pub(super) fn percent(share: f64, interval: Option<[f64; 2]>) -> String {
    let interval = interval.map(|ends| ends.map(|end| 100.0 * end));
    match interval {
        Some(_) => format!("{} %", rounded(100.0 * share, interval)),
        None if share.abs() < 0.01 => format!("{} %", rounded(100.0 * share, None)),
        None => {
            let text = fixed(100.0 * share, 1);
            format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
        }
    }
}

fn estimate(of: &Estimate) -> String {
    rounded(of.mean, of.interval)
}

/// Why a deviation decides nothing.
fn why(deviation: &Estimate) -> &'static str {
    match deviation.interval {
        None => "one image alone has no interval",
        Some([low, high]) if low <= 0.0 && high >= 0.0 => {
            "the interval holds zero and more than the margin"
        }
        Some(_) => {
            "there is a deviation, but whether it is more than the margin the images leave open"
        }
    }
}

/// Whether what is said with p = 0.8 is so eight times in ten.
pub fn eight_in_ten(foreground: Option<&View>) -> Finding {
    let Some((bin, deviation)) = foreground
        .and_then(|view| nearest_bin(view, 0.8))
        .and_then(|bin| Some((bin, bin_deviation(bin)?)))
    else {
        return Finding::new(EIGHT_IN_TEN, None, EIGHT).says(
            "Undecided: hardly a pixel was given a probability near 0.8, so nothing can be said of it.".into(),
        );
    };
    let finding = Finding::new(EIGHT_IN_TEN, Some(deviation), EIGHT);
    let said = fixed(bin.confidence.unwrap_or(f64::NAN), 2);
    let seen = percent(bin.accuracy.unwrap_or(f64::NAN), bin.interval);
    let facts = format!(
        "pixels that were given a probability of about {said} were foreground in {seen} of the cases"
    );
    let sentence = match (finding.verdict, deviation.mean > 0.0) {
        (Verdict::Holds, _) => format!("Holds, within ±{EIGHT}: {facts}."),
        (Verdict::Fails, false) => format!(
            "Fails: {facts}. What it says there is too high by {}.",
            rounded(-deviation.mean, None)
        ),
        (Verdict::Fails, true) => format!(
            "Fails: {facts}. What it says there is too low by {}.",
            rounded(deviation.mean, None)
        ),
        (Verdict::Undecided, _) => {
            format!("Undecided: {facts}; {} (±{EIGHT}).", why(&deviation))
        }
    };
    finding.says(sentence)
}

/// Whether it is as sure as it is right, over all pixels.
pub fn as_sure_as_right(images: &[Sureness]) -> Finding {
    let Some(gap) = mean_gap(images) else {
        return Finding::new(AS_SURE_AS_RIGHT, None, SURE)
            .says("Undecided: no test image has a pixel that counts.".into());
    };
    let finding = Finding::new(AS_SURE_AS_RIGHT, Some(gap), SURE);
    let mean = |of: fn(&Sureness) -> f64| {
        percent(
            images.iter().map(of).sum::<f64>() / images.len() as f64,
            None,
        )
    };
    let facts = format!(
        "its most probable class has a probability of {} in the mean and is right for {} of the pixels, a difference of {}",
        mean(|image| image.confidence),
        mean(|image| image.accuracy),
        estimate(&gap)
    );
    let sentence = match (finding.verdict, gap.mean > 0.0) {
        (Verdict::Holds, _) => format!(
            "Holds, within ±{SURE} on the whole: {facts}. Being too sure in some places and not sure enough in others may cancel in this mean; the diagram below does not cancel."
        ),
        (Verdict::Fails, true) => format!("Fails, it is over-confident: {facts}."),
        (Verdict::Fails, false) => format!("Fails, it is under-confident: {facts}."),
        (Verdict::Undecided, _) => format!("Undecided: {facts}; {} (±{SURE}).", why(&gap)),
    };
    finding.says(sentence)
}

/// The ECE that chance alone gives a calibrated network with these bins, about: Σ share · √(2/π) · standard error between
/// images. `None` without bins that have an interval.
pub fn chance(bins: &[Reliability]) -> Option<f64> {
    let all: f64 = bins.iter().map(|bin| bin.pixels as f64).sum();
    let half = |bin: &Reliability| {
        let (accuracy, [low, high]) = (bin.accuracy?, bin.interval?);
        // An end may be cut off at 0 or 1.
        Some(bin.pixels as f64 / all * (accuracy - low).max(high - accuracy))
    };
    let halves: Vec<f64> = bins.iter().filter_map(half).collect();
    let mean_size = (2.0 / std::f64::consts::PI).sqrt() / 1.959_964;
    (!halves.is_empty()).then(|| mean_size * halves.iter().sum::<f64>())
}

/// The ECE of bins; `None` without pixels.
pub fn ece(bins: &[Reliability]) -> Option<f64> {
    let all: f64 = bins.iter().map(|bin| bin.pixels as f64).sum();
    let gap = |bin: &Reliability| {
        let (confidence, accuracy) = (bin.confidence?, bin.accuracy?);
        Some(bin.pixels as f64 / all * (accuracy - confidence).abs())
    };
    (all > 0.0).then(|| bins.iter().filter_map(gap).sum())
}

/// What the bins of all pixels hold besides those of a part; `None` where they are not bins of a part.
fn without(all: &[Reliability], part: &[Reliability]) -> Option<Vec<Reliability>> {
    if all.len() != part.len() {
        return None;
    }
    all.iter()
        .zip(part)
        .map(|(all, part)| {
            let pixels = all.pixels.checked_sub(part.pixels)?;
            let left = |of: fn(&Reliability) -> Option<f64>| {
                let sum = |bin: &Reliability| of(bin).unwrap_or(0.0) * bin.pixels as f64;
                (pixels > 0).then(|| ((sum(all) - sum(part)) / pixels as f64).clamp(0.0, 1.0))
            };
            Some(Reliability {
                pixels,
                confidence: left(|bin| bin.confidence),
                accuracy: left(|bin| bin.accuracy),
                ..*all
            })
        })
        .collect()
}

/// Whether probabilities are as good within `k` pixels of the truth's boundary as elsewhere; of two classes.
///
/// The interval is the difference of the two ECEs ± twice what [`chance`] alone makes of each.
pub fn boundary(summary: &CalibrationSummary, k: usize) -> Option<Finding> {
    let (all, near) = (summary.view("foreground")?, summary.view("boundary")?);
    let far = without(&all.reliability, &near.reliability)?;
    let (there, elsewhere) = (ece(&near.reliability)?, ece(&far)?);
    let slack = chance(&near.reliability).zip(chance(&far));
    let deviation = Estimate {
        mean: there - elsewhere,
        interval: slack.map(|(a, b)| {
            let slack = 2.0 * (a + b);
            [there - elsewhere - slack, there - elsewhere + slack]
        }),
    };
    let count = |bins: &[Reliability]| bins.iter().map(|bin| bin.pixels).sum::<u64>() as f64;
    let finding = Finding::new(AT_THE_BOUNDARY, Some(deviation), BOUNDARY);
    let facts = format!(
        "within {k} pixels of the truth's boundary, where {} of the pixels are, the ECE is {}, elsewhere it is {}, a difference of {}",
        percent(count(&near.reliability) / count(&all.reliability), None),
        rounded(there, None),
        rounded(elsewhere, None),
        estimate(&deviation)
    );
    let sentence = match (finding.verdict, deviation.mean > 0.0) {
        (Verdict::Holds, _) => format!("Holds, within ±{BOUNDARY}: {facts}."),
        (Verdict::Fails, true) => format!(
            "Fails: {facts}. Its probabilities err most at the boundary, so of its edges they say less than the numbers over all pixels promise."
        ),
        (Verdict::Fails, false) => format!(
            "Fails: {facts}. They err most away from the boundary, where whole structures are missed or made up."
        ),
        (Verdict::Undecided, _) => {
            format!("Undecided: {facts}; {} (±{BOUNDARY}).", why(&deviation))
        }
    };
    Some(finding.says(sentence))
}

/// Whether the sum of all p is the foreground's size; `None` where no image has any foreground.
pub fn volume(rows: &[ImageRow], pooled: Option<f64>) -> Option<Finding> {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.volume_bias).collect();
    let bias = Estimate::of(&values)?;
    let finding = Finding::new(EXPECTED_VOLUME, Some(bias), VOLUME);
    let all = pooled.map_or(String::new(), |pooled| {
        format!(", and {} over all images together", signed_percent(pooled))
    });
    let size = percent(
        bias.mean.abs(),
        bias.interval.map(|[low, high]| {
            if bias.mean < 0.0 {
                [-high, -low]
            } else {
                [low, high]
            }
        }),
    );
    let side = if bias.mean < 0.0 { "below" } else { "above" };
    let facts = format!(
        "the expected volume, the sum of all p, is {size} {side} the truth's in the mean over {} images{all}",
        values.len()
    );
    let margin = percent(VOLUME, None);
    let sentence = match finding.verdict {
        Verdict::Holds => format!("Holds, within ±{margin}: {facts}."),
        Verdict::Fails => format!("Fails: {facts}."),
        Verdict::Undecided => format!("Undecided: {facts}; {} (±{margin}).", why(&bias)),
    };
    Some(finding.says(sentence))
}

fn signed_percent(share: f64) -> String {
    let side = if share < 0.0 { "below" } else { "above" };
    format!("{} {side}", percent(share.abs(), None))
}

/// On a phantom, whether the probabilities are as near to the true ones as a simple reading of the image gets.
pub fn reaches_the_floor(rows: &[ImageRow], truth: &Truth) -> Option<Finding> {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.excess_nll).collect();
    let excess = Estimate::of(&values)?;
    let floor = truth.noise_floor;
    let over = Estimate {
        mean: excess.mean - floor,
        interval: excess.interval.map(|ends| ends.map(|end| end - floor)),
    };
    let verdict = match over.interval {
        Some([_, high]) if high <= 0.0 => Verdict::Holds,
        Some([low, _]) if low > 0.0 => Verdict::Fails,
        _ => Verdict::Undecided,
    };
    let facts = format!(
        "its NLL is {} nats a pixel above that of the true probabilities, which is {}; the image's noise leaves the best estimator at most {} above",
        estimate(&excess),
        rounded(truth.entropy, None),
        rounded(floor, None)
    );
    let sentence = match verdict {
        Verdict::Holds => format!("Holds: {facts}."),
        Verdict::Fails => format!(
            "Fails: {facts}. It is {} times that: the image shows more than its probabilities say.",
            rounded(excess.mean / floor, None)
        ),
        Verdict::Undecided => format!("Undecided: {facts}, which the interval holds."),
    };
    Some(Finding {
        claim: NOISE_FLOOR.into(),
        verdict,
        sentence,
        deviation: Some(over),
        margin: 0.0,
    })
}

/// What the number of test images lets any answer be.
pub fn evidence(images: usize) -> String {
    match images {
        0 | 1 => "With one test image there are no intervals, and nothing is decided.".into(),
        few if few < FEW => format!(
            "There are {few} test images. Intervals are between images, and so few make them wide: that much here is undecided says little about the network."
        ),
        many => format!(
            "There are {many} test images. Intervals are 95 % and between images: they say what other images of the kind would do, not what another training would."
        ),
    }
}

#[cfg(test)]
mod tests;
