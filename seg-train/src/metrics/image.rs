//! One row an image: what the paper's tables are means of.

use super::{
    Bins, Confusion, EmptyMask, Pixels, Scores, Surfaces, Top,
    calibration::{ImageCalibration, class_mean},
    scores::excess_nll,
};
use crate::raster::Labels;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How images are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Bins of the calibration errors.
    pub bins: usize,
    /// What 0/0 counts as in an overlap.
    pub empty: EmptyMask,
    /// How many pixels from the truth's boundary, at the network's size, still are near it
    /// ([`near_boundary`](super::calibration::near_boundary)).
    #[serde(skip_serializing_if = "is_boundary")]
    pub boundary: usize,
    /// Height and width of a pixel of an image's own size, say in millimetres: the unit of the surface distances.
    #[serde(skip_serializing_if = "is_spacing")]
    pub spacing: [f64; 2],
    /// How far apart two surfaces may be and still agree, in that unit ([`Surfaces::dice`]).
    #[serde(skip_serializing_if = "is_tolerance")]
    pub tolerance: f64,
    /// Whether the test set is measured again under every shift ([`shift`](crate::shift)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shift: bool,
}

impl Default for MetricsConfig {
    /// 15 bins (Guo et al. 2017); near the boundary are two pixels on; a pixel is one by one, and so much is tolerated.
    fn default() -> Self {
        Self {
            bins: 15,
            empty: EmptyMask::default(),
            boundary: 2,
            spacing: [1.0; 2],
            tolerance: 1.0,
            shift: false,
        }
    }
}

impl MetricsConfig {
    /// Refuses lengths that are none.
    pub(crate) fn check_lengths(&self) -> Result<()> {
        let [height, width] = self.spacing;
        if ![height, width].iter().all(|s| s.is_finite() && *s > 0.0) {
            bail!("metrics.spacing is [{height}, {width}]; expected two numbers above zero");
        }
        if self.tolerance.is_nan() || self.tolerance < 0.0 {
            bail!(
                "metrics.tolerance is {}; expected a number of at least zero",
                self.tolerance
            );
        }
        Ok(())
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_boundary(k: &usize) -> bool {
    *k == MetricsConfig::default().boundary
}

fn is_spacing(spacing: &[f64; 2]) -> bool {
    *spacing == MetricsConfig::default().spacing
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_tolerance(tolerance: &f64) -> bool {
    *tolerance == MetricsConfig::default().tolerance
}

/// The metrics of one image; `None` is an empty cell: not defined, without a counted pixel, or not counted by the
/// [`EmptyMask`] policy.
///
/// Overlaps are at the image's own size, from the predicted mask brought there; scores and calibration are at the
/// network's size, where its probabilities are. Surfaces are at the image's own size too. With several foreground classes
/// overlaps, surfaces and calibration errors are means over those.
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
    /// Calibration error over bins of equal mass, their mean ([`ImageCalibration::ace`]).
    #[serde(default)]
    pub ace: Option<f64>,
    /// Expected calibration error near the truth's boundary ([`ImageCalibration::ece_boundary`]).
    #[serde(default)]
    pub ece_boundary: Option<f64>,
    /// (Σp − Σy) / Σy: signed, and best at zero ([`ImageCalibration::volume_bias`]).
    #[serde(default)]
    pub volume_bias: Option<f64>,
    /// Calibration error against the true probability, on a phantom ([`ImageCalibration::ece_truth`]).
    #[serde(default)]
    pub ece_truth: Option<f64>,
    /// Mean distance from it ([`ImageCalibration::truth_distance`]).
    #[serde(default)]
    pub truth_distance: Option<f64>,
    /// Hausdorff distance at 95 % ([`Surfaces::hausdorff`]).
    #[serde(default)]
    pub hd95: Option<f64>,
    /// Average symmetric surface distance ([`Surfaces::average_distance`]).
    #[serde(default)]
    pub assd: Option<f64>,
    /// Normalised surface Dice ([`Surfaces::dice`]).
    #[serde(default)]
    pub nsd: Option<f64>,
}

/// A column of [`ImageRow`]: its name and how to read it.
pub type Column = (&'static str, fn(&ImageRow) -> Option<f64>);

impl ImageRow {
    /// The metrics that tables show, in their order: the one list that comparisons loop over.
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

    /// The further ones: in files and pages, not in the tables of the terminal. A file of earlier than these lacks them.
    pub const FURTHER: [Column; 8] = [
        ("ace", |r| r.ace),
        ("ece_boundary", |r| r.ece_boundary),
        ("volume_bias", |r| r.volume_bias),
        ("ece_truth", |r| r.ece_truth),
        ("truth_distance", |r| r.truth_distance),
        ("hd95", |r| r.hd95),
        ("assd", |r| r.assd),
        ("nsd", |r| r.nsd),
    ];

    /// Every metric in the order of `metrics.csv`.
    ///
    /// ```
    /// use seg_train::metrics::ImageRow;
    /// let names: Vec<_> = ImageRow::columns().map(|(name, _)| name).collect();
    /// assert_eq!((names[0], names[9], names.len()), ("dice", "ace", 17));
    /// ```
    pub fn columns() -> impl Iterator<Item = Column> {
        Self::COLUMNS.into_iter().chain(Self::FURTHER)
    }

    /// Whether more is better in a column; errors, distances and scores are better small.
    pub fn more_is_better(column: &str) -> bool {
        matches!(column, "dice" | "jaccard" | "precision" | "recall" | "nsd")
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
    /// What its probabilities tell of the model's calibration.
    pub calibration: ImageCalibration,
}

/// Measures one image.
///
/// `predicted` and `truth` are label maps at the image's own size; `pixels` pairs the probabilities with the labels at
/// the network's size, whose height and width are `size`; `q` are the phantom's true probabilities there, planar
/// `[classes − 1, pixels]`.
///
/// # Errors
///
/// If sizes differ; the message begins with the image's name.
pub fn measure<P: Copy + Into<f64>>(
    id: &str,
    [predicted, truth]: [&Labels; 2],
    pixels: &Pixels<'_, P>,
    size: [usize; 2],
    q: Option<&[f32]>,
    config: &MetricsConfig,
) -> Result<Measured> {
    let of = || format!("image {id}");
    let overlaps = (1..pixels.classes())
        .map(|class| Confusion::of_labels(&predicted.data, &truth.data, class as u8))
        .collect::<Result<Vec<_>>>()
        .with_context(of)?;
    let surfaces = (1..pixels.classes())
        .map(|class| Surfaces::between(predicted, truth, class as u8, config.spacing))
        .collect::<Result<Vec<_>>>()
        .with_context(of)?;
    let mean = |metric: fn(&Confusion, EmptyMask) -> Option<f64>| {
        mean_of(overlaps.iter().map(|c| metric(c, config.empty)))
    };
    let surface = |metric: &dyn Fn(&Surfaces) -> Option<f64>| mean_of(surfaces.iter().map(metric));
    let mut scores = Scores::new(pixels.classes());
    scores.add(pixels)?;
    let bins = Bins::class_wise(pixels, config.bins, Top::Closed).split_off(1);
    let scored = |value: f64| (scores.pixels() > 0).then_some(value);
    let excess = q
        .map(|q| excess_nll(pixels, q))
        .transpose()
        .with_context(of)?;
    let calibration = ImageCalibration::of(pixels, size, q, config).with_context(of)?;
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
        ace: calibration.ace,
        ece_boundary: calibration.ece_boundary,
        volume_bias: calibration.volume_bias,
        ece_truth: calibration.ece_truth,
        truth_distance: calibration.truth_distance,
        hd95: surface(&|s| s.hausdorff(95.0, config.empty)),
        assd: surface(&|s| s.average_distance(config.empty)),
        nsd: surface(&|s| s.dice(config.tolerance, config.empty)),
    };
    Ok(Measured {
        row,
        scores,
        bins,
        calibration,
    })
}

/// The mean of the values that there are.
fn mean_of(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::IGNORE;

    fn row(data: &[u8]) -> Labels {
        Labels {
            height: 1,
            width: data.len(),
            data: data.to_vec(),
        }
    }

    #[test]
    fn a_row_of_an_image_checked_by_hand() {
        let p = [0.75_f32, 0.75, 0.25, 0.25];
        let pixels = Pixels::new(&p, 1, &[1, 0, 1, IGNORE]).unwrap();
        let q = [0.75, 0.75, 0.25, 0.25];
        let row = measure(
            "eye",
            [&row(&[1, 1, 0, 0, 1, 0]), &row(&[1, 0, 0, 0, 1, 1])],
            &pixels,
            [2, 2],
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
        // Two rows of two pixels, the last ignored: all others lie at a change of label. Fifteen runs of a pixel each, of
        // which the two at 0.75 share the one that is right.
        assert!((row.ece_boundary.unwrap() - row.ece.unwrap()).abs() < 1e-12);
        assert!((row.ace.unwrap() - (0.75 + 0.25 + 0.25) / 3.0).abs() < 1e-12);
        assert_eq!(row.volume_bias, Some((1.75 - 2.0) / 2.0));
        assert_eq!((row.ece_truth, row.truth_distance), (Some(0.0), Some(0.0)));
        // Surfaces {0, 1, 4} and {0, 4, 5} of pixels side by side.
        assert_eq!(row.assd, Some(2.0 / 6.0));
        assert!((row.hd95.unwrap() - 0.9).abs() < 1e-12);
        assert_eq!(row.nsd, Some(1.0));
    }

    #[test]
    fn an_image_without_counted_pixels_has_empty_cells() {
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[IGNORE; 2]).unwrap();
        let row = measure(
            "blank",
            [&row(&[0; 2]), &row(&[IGNORE; 2])],
            &pixels,
            [1, 2],
            Some(&[0.5; 2]),
            &MetricsConfig::default(),
        )
        .unwrap()
        .row;
        assert!(
            ImageRow::columns().all(|(_, read)| read(&row).is_none()),
            "{row:?}"
        );
    }

    #[test]
    fn spacing_and_tolerance_are_those_of_the_configuration() {
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[1, 0]).unwrap();
        let labels = [&row(&[1, 0, 0, 0]), &row(&[0, 0, 1, 0])];
        let config = MetricsConfig {
            spacing: [5.0, 0.5],
            tolerance: 0.99,
            boundary: 0,
            ..MetricsConfig::default()
        };
        let row = measure("eye", labels, &pixels, [1, 2], None, &config)
            .unwrap()
            .row;
        assert_eq!(
            (row.hd95, row.assd, row.nsd),
            (Some(1.0), Some(1.0), Some(0.0))
        );
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<MetricsConfig>(&text).unwrap(), config);
        assert!(
            text.contains("boundary = 0\nspacing = [5.0, 0.5]\ntolerance = 0.99"),
            "{text}"
        );
    }

    #[test]
    fn lengths_that_are_none_are_refused() {
        let error = |spacing, tolerance| {
            let config = MetricsConfig {
                spacing,
                tolerance,
                ..MetricsConfig::default()
            };
            config.check_lengths().map_err(|error| error.to_string())
        };
        assert_eq!(error([0.5, 1e-3], 0.0), Ok(()));
        let spacing = "metrics.spacing is [1, 0]; expected two numbers above zero";
        assert_eq!(error([1.0, 0.0], 1.0), Err(spacing.into()));
        error([f64::INFINITY, 1.0], 1.0).unwrap_err();
        error([1.0, f64::NAN], 1.0).unwrap_err();
        let tolerance = "metrics.tolerance is -1; expected a number of at least zero";
        assert_eq!(error([1.0; 2], -1.0), Err(tolerance.into()));
        error([1.0; 2], f64::NAN).unwrap_err();
    }

    #[test]
    fn what_has_its_default_and_once_was_no_key_is_not_written() {
        let text = toml::to_string(&MetricsConfig::default()).unwrap();
        assert_eq!(text, "bins = 15\nempty = \"agreement\"\n");
        assert_eq!(
            toml::from_str::<MetricsConfig>(&text).unwrap(),
            MetricsConfig::default()
        );
    }

    #[test]
    fn an_image_of_two_sizes_is_named() {
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[0; 2]).unwrap();
        let error = measure(
            "eye",
            [&row(&[0; 3]), &row(&[0; 2])],
            &pixels,
            [1, 2],
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
