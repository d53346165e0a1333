//! Paired differences of methods on the same images, and what they decide.

use anyhow::Result;
use serde::Serialize;

use super::{
    methods::Method,
    values::{Compared, pairs},
};
use crate::{
    metrics::ImageRow,
    stats::holm,
    study::claim::{self, SIGNIFICANT, can_be_decided},
};

/// The figures that are compared, as columns of the table of images.
pub const COMPARED: [&str; 10] = [
    "dice",
    "nll",
    "brier",
    "ece",
    "ace",
    "ece_boundary",
    "hd95",
    "excess_nll",
    "ece_truth",
    "truth_distance",
];

/// What a difference shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The method does better than the one it is compared with.
    Better,
    /// It does worse.
    Worse,
    /// The images do not tell.
    Undecided,
}

/// A method beside another by one figure: the method's minus the other's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The method.
    pub method: String,
    /// What it is compared with.
    pub against: String,
    /// The figure, a column of the table of images.
    pub metric: &'static str,
    /// Images that both have it for.
    pub images: usize,
    /// The method's mean over these.
    pub mean: f64,
    /// The other's.
    pub mean_against: f64,
    /// The mean of the differences.
    pub difference: f64,
    /// Its 95 % interval by Student's t; none for one image.
    pub interval: Option<[f64; 2]>,
    /// Wilcoxon's signed-rank test, two-sided.
    pub p: f64,
    /// The same after Holm's correction over all comparisons of the page.
    pub p_holm: f64,
    /// Matched-pairs rank-biserial correlation.
    pub rank_biserial: Option<f64>,
    /// What it shows.
    pub side: Side,
}

/// Compares every method but one with that one by every figure that both have.
///
/// # Errors
///
/// When a figure is no number for some image.
pub fn compare(runs: &[Compared], methods: &[Method], against: usize) -> Result<Vec<Comparison>> {
    let base = &methods[against];
    let mut all = Vec::new();
    let others = methods.iter().enumerate();
    for (_, method) in others.filter(|(place, _)| *place != against) {
        for metric in COMPARED {
            let column = ImageRow::columns().find(|(name, _)| *name == metric);
            let Some((_, read)) = column else { continue };
            let (x, y) = pairs(runs, [method, base], read);
            let Some(difference) = claim::Difference::of(&x, &y)? else {
                continue;
            };
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            all.push(Comparison {
                method: method.name.clone(),
                against: base.name.clone(),
                metric,
                images: x.len(),
                mean: mean(&x),
                mean_against: mean(&y),
                difference: difference.mean.map_or(mean(&x) - mean(&y), |of| of.mean),
                interval: difference.mean.map(|of| of.t),
                p: difference.signed_rank,
                p_holm: f64::NAN,
                rank_biserial: difference.rank_biserial,
                side: Side::Undecided,
            });
        }
    }
    let corrected = holm(&all.iter().map(|one| one.p).collect::<Vec<_>>());
    for (one, p) in all.iter_mut().zip(corrected) {
        one.p_holm = p;
        one.side = side(one.metric, one.interval, p);
    }
    Ok(all)
}

/// Better or worse when the whole interval lies on that side and the corrected p is below 0.05; else undecided.
fn side(metric: &str, interval: Option<[f64; 2]>, p: f64) -> Side {
    let Some([low, high]) = interval.filter(|_| p < SIGNIFICANT) else {
        return Side::Undecided;
    };
    match (high < 0.0, low > 0.0, ImageRow::more_is_better(metric)) {
        (true, _, false) | (_, true, true) => Side::Better,
        (_, true, false) | (true, _, true) => Side::Worse,
        _ => Side::Undecided,
    }
}

/// What a column is called on the page.
pub fn title(metric: &str) -> &'static str {
    match metric {
        "dice" => "Dice",
        "nll" => "NLL",
        "brier" => "Brier score",
        "ece" => "ECE of an image",
        "ace" => "ACE of an image",
        "ece_boundary" => "ECE at the boundary",
        "hd95" => "HD95",
        "excess_nll" => "excess NLL",
        "ece_truth" => "ECE against the true probabilities",
        "truth_distance" => "|p − q| from the true probabilities",
        _ => "figure",
    }
}

/// What was found, a sentence a method, and one on what could be found at all.
pub fn sentences(comparisons: &[Comparison]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for of_method in comparisons.chunk_by(|a, b| a.method == b.method) {
        let list = |side: Side| -> Vec<String> {
            let of_side = of_method.iter().filter(|one| one.side == side);
            of_side.map(|one| title(one.metric).to_owned()).collect()
        };
        let (better, worse, open) = (list(Side::Better), list(Side::Worse), list(Side::Undecided));
        let mut parts = Vec::new();
        if !better.is_empty() {
            parts.push(format!("better in {}", better.join(", ")));
        }
        if !worse.is_empty() {
            parts.push(format!("worse in {}", worse.join(", ")));
        }
        if !open.is_empty() {
            parts.push(format!("undecided in {}", open.join(", ")));
        }
        let one = &of_method[0];
        let verdict = match (better.is_empty(), worse.is_empty()) {
            (true, true) => "nothing tells the two apart",
            (false, true) => "nothing is shown to speak against it",
            (true, false) => "nothing is shown to speak for it",
            (false, false) => "which of the two to use depends on what is wanted",
        };
        all.push(format!(
            "{} against {}: {}; {verdict}.",
            one.method,
            one.against,
            parts.join("; ")
        ));
    }
    if let Some(fewest) = comparisons.iter().map(|one| one.images).min() {
        let family = comparisons.len();
        let comparisons = if family == 1 {
            "comparison"
        } else {
            "comparisons"
        };
        all.push(if can_be_decided(fewest, family) {
            format!(
                "Undecided is not alike: a difference that these images do not show may be there. The p-values of this page's {family} {comparisons} are corrected for each other (Holm)."
            )
        } else {
            format!(
                "With {fewest} images and {family} {comparisons} not even a difference that every image shows could be told from chance: more test images are needed, or fewer runs on a page."
            )
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(metric: &'static str, side: Side, images: usize) -> Comparison {
        Comparison {
            method: "b".into(),
            against: "a".into(),
            metric,
            images,
            mean: 0.0,
            mean_against: 0.0,
            difference: 0.0,
            interval: None,
            p: 1.0,
            p_holm: 1.0,
            rank_biserial: None,
            side,
        }
    }

    #[test]
    fn a_side_needs_the_whole_interval_and_a_small_p() {
        use Side::{Better, Undecided, Worse};
        for (interval, p, of_dice, of_nll) in [
            (Some([0.1, 0.3]), 0.01, Better, Worse),
            (Some([-0.3, -0.1]), 0.049, Worse, Better),
            (Some([0.1, 0.3]), 0.05, Undecided, Undecided),
            (Some([0.0, 0.3]), 0.01, Undecided, Undecided),
            (Some([-0.1, 0.3]), 0.01, Undecided, Undecided),
            (None, 0.01, Undecided, Undecided),
        ] {
            assert_eq!(side("dice", interval, p), of_dice, "{interval:?}");
            assert_eq!(side("nll", interval, p), of_nll, "{interval:?}");
        }
    }

    #[test]
    fn sentences_say_what_is_better_what_is_worse_and_what_is_open() {
        use Side::{Better, Undecided, Worse};
        let said = |sides: [Side; 3]| {
            let all: Vec<Comparison> = ["dice", "nll", "hd95"]
                .into_iter()
                .zip(sides)
                .map(|(metric, side)| comparison(metric, side, 12))
                .collect();
            sentences(&all)[0].clone()
        };
        assert_eq!(
            said([Better, Undecided, Worse]),
            "b against a: better in Dice; worse in HD95; undecided in NLL; which of the two to use depends on what is wanted."
        );
        assert_eq!(
            said([Better; 3]),
            "b against a: better in Dice, NLL, HD95; nothing is shown to speak against it."
        );
        assert!(said([Worse; 3]).ends_with("nothing is shown to speak for it."));
        assert!(said([Undecided; 3]).ends_with("nothing tells the two apart."));
    }

    #[test]
    fn too_few_images_to_decide_anything_are_said() {
        let few = sentences(&[comparison("dice", Side::Undecided, 5)]);
        assert!(
            few[1].starts_with("With 5 images and 1 comparison not even"),
            "{few:?}"
        );
        let enough = sentences(&[comparison("dice", Side::Undecided, 6)]);
        assert!(
            enough[1].starts_with("Undecided is not alike"),
            "{enough:?}"
        );
        assert!(sentences(&[]).is_empty());
    }

    #[test]
    fn every_figure_has_a_column_and_a_title() {
        for metric in COMPARED {
            assert!(
                ImageRow::columns().any(|(name, _)| name == metric),
                "{metric}"
            );
            assert_ne!(title(metric), "figure");
        }
    }
}
