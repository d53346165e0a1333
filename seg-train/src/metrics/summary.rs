//! A test set's summary: means over images with 95 % intervals, and what only all pixels together can tell.

use super::{
    Bins, ImageRow, MetricsConfig, Pixels, Scores, calibration::class_mean, image::measure,
};
use crate::stats::MeanInterval;
use anyhow::Result;
use serde::Serialize;

/// A metric over the images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The column of [`ImageRow`].
    pub metric: &'static str,
    /// Images in the mean.
    pub images: usize,
    /// Images with an empty cell, which are not.
    pub skipped: usize,
    /// Mean over the images; `None` without any.
    pub mean: Option<f64>,
    /// 95 % intervals; `None` for fewer than two images.
    pub interval: Option<MeanInterval>,
}

/// What the pixels of all images give when they are taken as one lot.
///
/// A calibration error of means is not the mean of calibration errors: a single image's bins hold few pixels, whose
/// chance deviations all count as error. The pooled figure is the one to compare models by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pooled {
    /// Pixels that count.
    pub pixels: u64,
    /// Expected calibration error, the mean over the foreground classes.
    pub ece: Option<f64>,
    /// Maximum calibration error, likewise.
    pub mce: Option<f64>,
    /// Average calibration error over filled bins, likewise.
    pub ace: Option<f64>,
    /// Negative log-likelihood over all classes.
    pub nll: Option<f64>,
    /// Brier score.
    pub brier: Option<f64>,
}

/// The summary of a test set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// A line a metric, in the order of [`ImageRow::COLUMNS`].
    pub lines: Vec<Line>,
    /// All pixels as one lot.
    pub pooled: Pooled,
}

impl Summary {
    /// The line of a metric.
    pub fn line(&self, metric: &str) -> Option<&Line> {
        self.lines.iter().find(|l| l.metric == metric)
    }
}

/// Measures a test set image by image, keeping a row an image and the merged sums.
///
/// ```
/// use seg_train::metrics::{Evaluation, MetricsConfig, Pixels};
/// let mut evaluation = Evaluation::new(MetricsConfig::default());
/// for (id, p) in [("a", [0.9_f32, 0.2]), ("b", [0.6, 0.6])] {
///     let labels = [1, 0];
///     let predicted = p.map(|p| u8::from(p > 0.5));
///     evaluation.add(id, &predicted, &labels, &Pixels::new(&p, 1, &labels)?, None)?;
/// }
/// let dice = evaluation.summary();
/// let dice = dice.line("dice").unwrap();
/// assert_eq!(dice.mean, Some((1.0 + 2.0 / 3.0) / 2.0));
/// assert_eq!((dice.images, dice.skipped), (2, 0));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Evaluation {
    config: MetricsConfig,
    rows: Vec<ImageRow>,
    sums: Option<(Scores, Vec<Bins>)>,
}

impl Evaluation {
    /// Nothing measured yet.
    pub fn new(config: MetricsConfig) -> Self {
        Self {
            config,
            rows: Vec::new(),
            sums: None,
        }
    }

    /// Measures one image ([`measure`]) and keeps its row.
    ///
    /// # Errors
    ///
    /// As [`measure`]; or if the number of classes changes between images.
    pub fn add<P: Copy + Into<f64>>(
        &mut self,
        id: &str,
        predicted: &[u8],
        truth: &[u8],
        pixels: &Pixels<'_, P>,
        q: Option<&[f32]>,
    ) -> Result<&ImageRow> {
        let measured = measure(id, predicted, truth, pixels, q, &self.config)?;
        match &mut self.sums {
            None => self.sums = Some((measured.scores, measured.bins)),
            Some((scores, bins)) => {
                scores.merge(&measured.scores)?;
                for (mine, new) in bins.iter_mut().zip(&measured.bins) {
                    mine.merge(new)?;
                }
            }
        }
        let at = self.rows.len();
        self.rows.push(measured.row);
        Ok(&self.rows[at])
    }

    /// The rows so far, in the order they were added.
    pub fn rows(&self) -> &[ImageRow] {
        &self.rows
    }

    /// The pooled calibration sums of every foreground class against the rest, for a reliability diagram.
    pub fn bins(&self) -> &[Bins] {
        self.sums.as_ref().map_or(&[], |(_, bins)| bins)
    }

    /// Means, intervals and pooled figures of what was measured so far.
    pub fn summary(&self) -> Summary {
        let lines = ImageRow::COLUMNS
            .iter()
            .map(|(metric, read)| {
                let values: Vec<f64> = self.rows.iter().filter_map(read).collect();
                Line {
                    metric,
                    images: values.len(),
                    skipped: self.rows.len() - values.len(),
                    mean: (!values.is_empty())
                        .then(|| values.iter().sum::<f64>() / values.len() as f64),
                    interval: MeanInterval::of(&values, 0.95),
                }
            })
            .collect();
        let bins = self.bins();
        let scores = self
            .sums
            .as_ref()
            .map(|(scores, _)| scores)
            .filter(|s| s.pixels() > 0);
        let pooled = Pooled {
            pixels: scores.map_or(0, Scores::pixels),
            ece: class_mean(bins, Bins::ece),
            mce: class_mean(bins, Bins::mce),
            ace: class_mean(bins, Bins::ace),
            nll: scores.map(Scores::nll),
            brier: scores.map(Scores::brier),
        };
        Summary { lines, pooled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::EmptyMask, raster::IGNORE};

    #[test]
    fn skipped_images_are_counted_and_leave_the_mean() {
        let mut evaluation = Evaluation::new(MetricsConfig {
            empty: EmptyMask::Skip,
            ..MetricsConfig::default()
        });
        let p = [0.25_f32, 0.25];
        evaluation
            .add(
                "empty",
                &[0, 0],
                &[0, 0],
                &Pixels::new(&p, 1, &[0, 0]).unwrap(),
                None,
            )
            .unwrap();
        evaluation
            .add(
                "half",
                &[0, 1],
                &[1, 1],
                &Pixels::new(&p, 1, &[1, 1]).unwrap(),
                None,
            )
            .unwrap();
        let summary = evaluation.summary();
        let dice = summary.line("dice").unwrap();
        assert_eq!(
            (dice.images, dice.skipped, dice.mean),
            (1, 1, Some(2.0 / 3.0))
        );
        assert_eq!(dice.interval, None);
        assert_eq!(summary.line("brier").unwrap().images, 2);
        assert_eq!(summary.line("excess_nll").unwrap().mean, None);
    }

    #[test]
    fn an_image_whose_labels_are_all_ignored_is_skipped_under_the_default_policy() {
        let mut evaluation = Evaluation::new(MetricsConfig::default());
        for (id, labels) in [("blank", [IGNORE; 2]), ("half", [1, 1])] {
            let pixels = Pixels::new(&[0.25_f32; 2], 1, &labels).unwrap();
            evaluation.add(id, &[0, 1], &labels, &pixels, None).unwrap();
        }
        let summary = evaluation.summary();
        for (metric, mean) in [("dice", 2.0 / 3.0), ("precision", 1.0), ("brier", 0.5625)] {
            let line = summary.line(metric).unwrap();
            assert_eq!(
                (line.images, line.skipped, line.mean),
                (1, 1, Some(mean)),
                "{metric}"
            );
        }
    }

    #[test]
    fn pooling_cancels_the_chance_of_single_images() {
        let mut evaluation = Evaluation::new(MetricsConfig::default());
        let p = [0.5_f32];
        for y in [0, 1] {
            evaluation
                .add(
                    "pixel",
                    &[0],
                    &[y],
                    &Pixels::new(&p, 1, &[y]).unwrap(),
                    None,
                )
                .unwrap();
        }
        let summary = evaluation.summary();
        assert_eq!(summary.line("ece").unwrap().mean, Some(0.5));
        assert_eq!(summary.pooled.ece, Some(0.0));
        assert_eq!(summary.pooled.pixels, 2);
    }

    #[test]
    fn nothing_measured_gives_an_empty_summary() {
        let summary = Evaluation::new(MetricsConfig::default()).summary();
        assert!(
            summary
                .lines
                .iter()
                .all(|l| l.images == 0 && l.mean.is_none())
        );
        assert_eq!(summary.pooled.nll, None);
    }
}
