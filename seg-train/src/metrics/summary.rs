//! A test set's summary: means over images with 95 % intervals, and what only all pixels together can tell.

use super::{
    Bins, Calibration, CalibrationSummary, ImageRow, MetricsConfig, Pixels, Scores,
    calibration::class_mean, image::measure,
};
use crate::{raster::Labels, stats::MeanInterval};
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
    /// A line a metric, in the order of [`ImageRow::columns`].
    pub lines: Vec<Line>,
    /// All pixels as one lot.
    pub pooled: Pooled,
    /// What they tell of calibration; `None` before the first image, without which there are no classes.
    pub calibration: Option<CalibrationSummary>,
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
/// use seg_train::{metrics::{Evaluation, MetricsConfig, Pixels}, raster::Labels};
/// let mut evaluation = Evaluation::new(MetricsConfig::default());
/// for (id, p) in [("a", [0.9_f32, 0.2]), ("b", [0.6, 0.6])] {
///     let truth = Labels { height: 1, width: 2, data: vec![1, 0] };
///     let predicted = Labels { data: p.map(|p| u8::from(p > 0.5)).into(), ..truth };
///     let pixels = Pixels::new(&p, 1, &truth.data)?;
///     evaluation.add(id, [&predicted, &truth], &pixels, [1, 2], None)?;
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
    calibration: Option<Calibration>,
}

impl Evaluation {
    /// Nothing measured yet.
    pub fn new(config: MetricsConfig) -> Self {
        Self {
            config,
            rows: Vec::new(),
            sums: None,
            calibration: None,
        }
    }

    /// Measures one image ([`measure`]) and keeps its row: `[predicted, truth]` at the image's own size, `pixels` and `q`
    /// at the network's, `size`.
    ///
    /// # Errors
    ///
    /// As [`measure`]; or if the number of classes changes between images.
    pub fn add<P: Copy + Into<f64>>(
        &mut self,
        id: &str,
        labels: [&Labels; 2],
        pixels: &Pixels<'_, P>,
        size: [usize; 2],
        q: Option<&[f32]>,
    ) -> Result<&ImageRow> {
        let measured = measure(id, labels, pixels, size, q, &self.config)?;
        self.calibration
            .get_or_insert_with(|| Calibration::new(pixels.classes(), &self.config))
            .take(pixels, &measured.calibration)?;
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
        let lines = ImageRow::columns()
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
        Summary {
            lines,
            pooled,
            calibration: self.calibration.as_ref().map(Calibration::summary),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::EmptyMask, raster::IGNORE};

    fn add(
        evaluation: &mut Evaluation,
        id: &str,
        [predicted, truth]: [&[u8]; 2],
        p: &[f32],
        q: Option<&[f32]>,
    ) {
        let row = |data: &[u8]| Labels {
            height: 1,
            width: data.len(),
            data: data.to_vec(),
        };
        let pixels = Pixels::new(p, 1, truth).unwrap();
        let labels = [&row(predicted), &row(truth)];
        let size = [1, truth.len()];
        evaluation.add(id, labels, &pixels, size, q).unwrap();
    }

    #[test]
    fn skipped_images_are_counted_and_leave_the_mean() {
        let mut evaluation = Evaluation::new(MetricsConfig {
            empty: EmptyMask::Skip,
            ..MetricsConfig::default()
        });
        let p = [0.25_f32, 0.25];
        add(&mut evaluation, "empty", [&[0, 0], &[0, 0]], &p, None);
        add(&mut evaluation, "half", [&[0, 1], &[1, 1]], &p, None);
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
            add(&mut evaluation, id, [&[0, 1], &labels], &[0.25; 2], None);
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
            add(&mut evaluation, "pixel", [&[0], &[y]], &p, None);
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
        assert_eq!(summary.calibration, None);
    }

    #[test]
    fn the_calibration_is_that_of_all_images_and_agrees_with_the_pooled_figures() {
        let mut evaluation = Evaluation::new(MetricsConfig::default());
        let (p, q) = ([0.9, 0.2, 0.45], [0.75, 0.25, 0.5]);
        for truth in [[1, 0, 0], [1, 1, 0]] {
            add(&mut evaluation, "image", [&[1, 0, 0], &truth], &p, Some(&q));
        }
        let summary = evaluation.summary();
        let (pooled, calibration) = (summary.pooled, summary.calibration.unwrap());
        let close =
            |a: Option<f64>, b: Option<f64>| assert!((a.unwrap() - b.unwrap()).abs() < 1e-14);
        let width = calibration.views[0].equal_width;
        close(width.ece, pooled.ece);
        close(width.ace, pooled.ace);
        close(width.mce, pooled.mce);
        close(calibration.nll, pooled.nll);
        close(calibration.brier.map(|brier| brier.score), pooled.brier);
        close(
            calibration.truth.map(|truth| truth.kl),
            summary.lines[8].mean,
        );
        assert_eq!((calibration.images, calibration.pixels), (2, 6));
        let names: Vec<_> = summary.lines.iter().map(|line| line.metric).collect();
        let columns: Vec<_> = ImageRow::columns().map(|(name, _)| name).collect();
        assert_eq!(names, columns);
    }
}
