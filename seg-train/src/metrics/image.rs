//! One row an image: what the paper's tables are means of.

use super::{
    Bins, Confusion, EmptyMask, Pixels, Scores, Top, calibration::class_mean, scores::excess_nll,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How images are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Bins of the calibration errors.
    pub bins: usize,
    /// What 0/0 counts as in an overlap.
    pub empty: EmptyMask,
}

impl Default for MetricsConfig {
    /// 15 bins (Guo et al. 2017).
    fn default() -> Self {
        Self {
            bins: 15,
            empty: EmptyMask::default(),
        }
    }
}

/// The metrics of one image; `None` is an empty cell: not defined, without a counted pixel, or not counted by the
/// [`EmptyMask`] policy.
///
/// Overlaps are at the image's own size, from the predicted mask brought there; scores and calibration are at the
/// network's size, where its probabilities are. With several foreground classes the overlaps and the ECE are means
/// over those.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageRow {
    /// The image's name.
    pub id: String,
    /// Dice similarity.
    pub dice: Option<f64>,
    /// Jaccard index.
    pub jaccard: Option<f64>,
    /// Precision.
    pub precision: Option<f64>,
    /// Recall.
    pub recall: Option<f64>,
    /// Negative log-likelihood over all classes, in nats a pixel: proper ([`Scores::nll`]).
    pub nll: Option<f64>,
    /// The authors' NLL, over the foreground alone: not proper ([`Scores::nll_foreground`]).
    pub nll_foreground: Option<f64>,
    /// Brier score ([`Scores::brier`]).
    pub brier: Option<f64>,
    /// Expected calibration error of the foreground classes, each against the rest.
    pub ece: Option<f64>,
    /// Mean KL from the true probability, on a phantom ([`excess_nll`]).
    pub excess_nll: Option<f64>,
}

/// A column of [`ImageRow`]: its name and how to read it.
pub type Column = (&'static str, fn(&ImageRow) -> Option<f64>);

impl ImageRow {
    /// Every metric in the order of the table: the one list that summaries and comparisons loop over.
    pub const COLUMNS: [Column; 9] = [
        ("dice", |r| r.dice),
        ("jaccard", |r| r.jaccard),
        ("precision", |r| r.precision),
        ("recall", |r| r.recall),
        ("nll", |r| r.nll),
        ("nll_foreground", |r| r.nll_foreground),
        ("brier", |r| r.brier),
        ("ece", |r| r.ece),
        ("excess_nll", |r| r.excess_nll),
    ];

    /// Whether more is better in a column; errors and scores are better small.
    pub fn more_is_better(column: &str) -> bool {
        matches!(column, "dice" | "jaccard" | "precision" | "recall")
    }
}

/// One image's row together with the sums it came from, which merge over images.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The row.
    pub row: ImageRow,
    /// The scores' sums.
    pub scores: Scores,
    /// The calibration sums of every foreground class against the rest.
    pub bins: Vec<Bins>,
}

/// Measures one image.
///
/// `predicted` and `truth` are label maps at the image's own size; `pixels` pairs the probabilities with the labels at
/// the network's size; `q` is the phantom's true foreground probability at the network's size.
///
/// # Errors
///
/// If sizes differ, or `q` is given and there are more than two classes; the message begins with the image's name.
pub fn measure<P: Copy + Into<f64>>(
    id: &str,
    predicted: &[u8],
    truth: &[u8],
    pixels: &Pixels<'_, P>,
    q: Option<&[f32]>,
    config: &MetricsConfig,
) -> Result<Measured> {
    let overlaps = (1..pixels.classes())
        .map(|class| Confusion::of_labels(predicted, truth, class as u8))
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("image {id}"))?;
    let mean = |metric: fn(&Confusion, EmptyMask) -> Option<f64>| {
        let values: Vec<f64> = overlaps
            .iter()
            .filter_map(|c| metric(c, config.empty))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut scores = Scores::new(pixels.classes());
    scores.add(pixels)?;
    let bins = Bins::class_wise(pixels, config.bins, Top::Closed).split_off(1);
    let scored = |value: f64| (scores.pixels() > 0).then_some(value);
    let excess = q
        .map(|q| excess_nll(pixels, q))
        .transpose()
        .with_context(|| format!("image {id}"))?;
    let row = ImageRow {
        id: id.to_owned(),
        dice: mean(Confusion::dice),
        jaccard: mean(Confusion::jaccard),
        precision: mean(Confusion::precision),
        recall: mean(Confusion::recall),
        nll: scored(scores.nll()),
        nll_foreground: scored(scores.nll_foreground()),
        brier: scored(scores.brier()),
        ece: class_mean(&bins, Bins::ece),
        excess_nll: excess.and_then(scored),
    };
    Ok(Measured { row, scores, bins })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::IGNORE;

    #[test]
    fn a_row_of_an_image_checked_by_hand() {
        let p = [0.75_f32, 0.75, 0.25, 0.25];
        let pixels = Pixels::new(&p, 1, &[1, 0, 1, IGNORE]).unwrap();
        let q = [0.75, 0.75, 0.25, 0.25];
        let row = measure(
            "eye",
            &[1, 1, 0, 0, 1, 0],
            &[1, 0, 0, 0, 1, 1],
            &pixels,
            Some(&q),
            &MetricsConfig::default(),
        )
        .unwrap()
        .row;
        assert_eq!(row.dice, Some(4.0 / 6.0));
        assert_eq!(row.jaccard, Some(0.5));
        assert_eq!(row.precision, Some(2.0 / 3.0));
        assert_eq!(row.recall, Some(2.0 / 3.0));
        let nll = -(0.75_f64.ln() + 0.25_f64.ln() + 0.25_f64.ln()) / 3.0;
        assert!((row.nll.unwrap() - nll).abs() < 1e-12);
        assert!((row.brier.unwrap() - (0.0625 + 0.5625 + 0.5625) / 3.0).abs() < 1e-12);
        assert!((row.ece.unwrap() - (2.0 / 3.0 * 0.25 + 1.0 / 3.0 * 0.75)).abs() < 1e-12);
        assert_eq!(row.excess_nll, Some(0.0));
    }

    #[test]
    fn an_image_without_counted_pixels_has_empty_cells() {
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[IGNORE; 2]).unwrap();
        let row = measure(
            "blank",
            &[0; 2],
            &[IGNORE; 2],
            &pixels,
            Some(&[0.5; 2]),
            &MetricsConfig::default(),
        )
        .unwrap()
        .row;
        assert!(
            ImageRow::COLUMNS
                .iter()
                .all(|(_, read)| read(&row).is_none()),
            "{row:?}"
        );
    }

    #[test]
    fn an_image_of_two_sizes_is_named() {
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[0; 2]).unwrap();
        let error = measure(
            "eye",
            &[0; 3],
            &[0; 2],
            &pixels,
            None,
            &MetricsConfig::default(),
        )
        .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "image eye: the predicted mask has 3 pixels, the true one 2; resize the prediction to the truth's size first"
        );
    }
}
