//! The calibration of a data set in one pass and constant memory.

use super::{
    CalibrationSummary, Errors, Exact, ImageCalibration, View,
    brier::{BrierSums, Decomposition},
    diagram::{Diagram, Histogram},
    image::pooled,
    mass::Cells,
    truth::TruthSums,
    volume::VolumeSums,
};
use crate::metrics::{MetricsConfig, Pixels, scores::surprise};
use anyhow::{Result, bail};

/// Streaming sums of a data set: as large after ten thousand images as after one, about half a megabyte for each
/// foreground class twice and one for the most probable.
///
/// Every sum is a whole number or [`Exact`], so the summary has the same bits in whatever order the images come and
/// however they are divided among accumulators that then [`merge`](Self::merge).
///
/// ```
/// use seg_train::metrics::{Calibration, MetricsConfig, Pixels};
/// let mut calibration = Calibration::new(2, &MetricsConfig::default());
/// for labels in [[1, 0], [1, 1]] {
///     calibration.add(&Pixels::new(&[0.75_f32, 0.25], 1, &labels)?, [1, 2], None)?;
/// }
/// let summary = calibration.summary();
/// let foreground = summary.view("foreground").unwrap();
/// assert_eq!(foreground.equal_width.ece, Some(0.25)); // gaps: 1 − 0.75 and 0.5 − 0.25
/// assert_eq!(summary.volume.bias, Some(-1.0 / 3.0));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    config: MetricsConfig,
    images: u64,
    pixels: u64,
    nll: Exact,
    /// Every class.
    brier: Vec<BrierSums>,
    /// Every foreground class against the rest.
    classes: Vec<Track>,
    /// The same of the pixels near the boundary.
    edges: Vec<Track>,
    /// The diagrams of all foreground classes as one lot.
    foreground: Diagram,
    boundary: Diagram,
    top: Track,
    volume: VolumeSums,
    truth: TruthSums,
    histogram: Histogram,
}

/// One confidence: bins of equal width, and cells for those of equal mass.
#[derive(Clone, Debug, PartialEq)]
struct Track {
    diagram: Diagram,
    cells: Cells,
}

impl Track {
    fn new(bins: usize) -> Self {
        Self {
            diagram: Diagram::new(bins),
            cells: Cells::new(),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.diagram.merge(&other.diagram);
        self.cells.merge(&other.cells);
    }

    fn equal_width(&self) -> Errors {
        Errors::of_tallies(self.diagram.bins())
    }

    fn equal_mass(&self) -> Errors {
        self.cells.errors(self.diagram.bins().len())
    }

    fn view(&self, name: String) -> View {
        View::of(name, self.equal_width(), self.equal_mass(), &self.diagram)
    }
}

impl View {
    fn of(name: String, equal_width: Errors, equal_mass: Errors, diagram: &Diagram) -> Self {
        Self {
            name,
            pixels: diagram.bins().iter().map(|bin| bin.count).sum(),
            equal_width,
            equal_mass,
            reliability: diagram.reliability(),
        }
    }

    /// The errors' mean over classes, beside the diagram of their pixels.
    fn of_classes(name: &str, classes: &[Track], diagram: &Diagram) -> Self {
        let mean = |errors: fn(&Track) -> Errors| {
            Errors::class_mean(&classes.iter().map(errors).collect::<Vec<_>>())
        };
        let (width, mass) = (mean(Track::equal_width), mean(Track::equal_mass));
        Self::of(name.into(), width, mass, diagram)
    }
}

impl Calibration {
    /// Nothing measured yet, of so many classes (two for a one-channel output).
    pub fn new(classes: usize, config: &MetricsConfig) -> Self {
        let bins = config.bins.max(1);
        let classes = classes.max(2);
        let tracks = vec![Track::new(bins); classes - 1];
        Self {
            config: config.clone(),
            images: 0,
            pixels: 0,
            nll: Exact::default(),
            brier: vec![BrierSums::new(bins); classes],
            classes: tracks.clone(),
            edges: tracks,
            foreground: Diagram::new(bins),
            boundary: Diagram::new(bins),
            top: Track::new(bins),
            volume: VolumeSums::default(),
            truth: TruthSums::new(classes, bins),
            histogram: Histogram::new(bins),
        }
    }

    /// Adds one image of height and width `size`; `q` are its true probabilities, planar `[classes − 1, pixels]`.
    ///
    /// # Errors
    ///
    /// If there is another number of classes, of pixels or of true probabilities; nothing is added then.
    pub fn add<P: Copy + Into<f64>>(
        &mut self,
        pixels: &Pixels<'_, P>,
        size: [usize; 2],
        q: Option<&[f32]>,
    ) -> Result<ImageCalibration> {
        let image = ImageCalibration::of(pixels, size, q, &self.config)?;
        self.take(pixels, &image)?;
        Ok(image)
    }

    /// Adds an image whose own figures are there already.
    pub(crate) fn take<P: Copy + Into<f64>>(
        &mut self,
        pixels: &Pixels<'_, P>,
        image: &ImageCalibration,
    ) -> Result<()> {
        if pixels.classes() != self.brier.len() {
            bail!(
                "a calibration of {} classes cannot take an output of {}; use one Calibration a model",
                self.brier.len(),
                pixels.classes()
            );
        }
        for (i, y) in pixels.counted() {
            self.pixels += 1;
            self.nll.add(surprise(pixels.p(y, i)));
            for (class, brier) in self.brier.iter_mut().enumerate() {
                brier.add(pixels.p(class, i), y == class);
            }
            for class in 1..pixels.classes() {
                let (p, right) = (pixels.p(class, i), y == class);
                self.classes[class - 1].cells.add(p, right);
                if image.near[i] {
                    self.edges[class - 1].cells.add(p, right);
                }
            }
            let best = pixels.argmax(i);
            self.top.cells.add(pixels.p(best, i), best == y);
        }
        for (tracks, bins) in [
            (&mut self.classes, &image.classes),
            (&mut self.edges, &image.edges),
        ] {
            for (track, bins) in tracks.iter_mut().zip(bins) {
                track.diagram.add(bins);
            }
        }
        let foreground = pooled(&image.classes);
        self.histogram.add(&foreground);
        self.foreground.add(&foreground);
        self.boundary.add(&pooled(&image.edges));
        self.top.diagram.add(&image.top);
        self.volume.image(&image.volume);
        if let Some(truth) = &image.truth {
            self.truth.merge(truth);
        }
        self.images += 1;
        Ok(())
    }

    /// Adds the sums of other images.
    ///
    /// # Errors
    ///
    /// If those are of another number of classes, or were measured in another way.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.brier.len(), &self.config) != (other.brier.len(), &other.config) {
            bail!(
                "a calibration of {} classes in {} bins cannot take one of {} in {}; measure both with one configuration",
                self.brier.len(),
                self.config.bins,
                other.brier.len(),
                other.config.bins
            );
        }
        self.images += other.images;
        self.pixels += other.pixels;
        self.nll += other.nll;
        for (mine, other) in self.brier.iter_mut().zip(&other.brier) {
            mine.merge(other);
        }
        for (mine, other) in [
            (&mut self.classes, &other.classes),
            (&mut self.edges, &other.edges),
        ] {
            for (mine, other) in mine.iter_mut().zip(other) {
                mine.merge(other);
            }
        }
        self.foreground.merge(&other.foreground);
        self.boundary.merge(&other.boundary);
        self.top.merge(&other.top);
        self.volume.merge(&other.volume);
        self.truth.merge(&other.truth);
        self.histogram.merge(&other.histogram);
        Ok(())
    }

    /// What the images so far come to.
    pub fn summary(&self) -> CalibrationSummary {
        let parts: Option<Vec<Decomposition>> = self.brier.iter().map(BrierSums::parts).collect();
        let mut views = vec![View::of_classes(
            "foreground",
            &self.classes,
            &self.foreground,
        )];
        let single = self.classes.iter().enumerate();
        views.extend(single.map(|(k, track)| track.view(format!("class {}", k + 1))));
        views.push(self.top.view("top label".into()));
        views.push(View::of_classes("boundary", &self.edges, &self.boundary));
        CalibrationSummary {
            images: self.images,
            pixels: self.pixels,
            nll: (self.pixels > 0).then(|| self.nll.value() / self.pixels as f64),
            brier: parts.and_then(|parts| Decomposition::mean(&parts)),
            views,
            volume: self.volume.summary(),
            truth: self.truth.distance(),
            histogram: self.histogram.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        raster::IGNORE,
        rng::{Purpose, stream},
    };
    use rand::Rng as _;

    /// An image of probabilities, labels drawn from them, and its size.
    fn drawn(seed: u64, classes: usize, size: [usize; 2]) -> (Vec<f32>, Vec<u8>) {
        let mut rng = stream(seed, Purpose::Order, 0, 0);
        let n = size[0] * size[1];
        let (mut p, mut labels) = (vec![0.0; classes * n], vec![0; n]);
        for i in 0..n {
            let weights: Vec<f32> = (0..classes).map(|_| rng.random::<f32>().powi(4)).collect();
            let mut left = rng.random::<f32>();
            for (class, weight) in weights.iter().enumerate() {
                let share = weight / weights.iter().sum::<f32>();
                p[class * n + i] = share;
                if left >= 0.0 {
                    labels[i] = class as u8;
                }
                left -= share;
            }
        }
        (p, labels)
    }

    #[test]
    fn labels_drawn_from_the_probabilities_leave_no_error_and_the_interval_holds_the_diagonal() {
        let config = MetricsConfig::default();
        let mut calibration = Calibration::new(3, &config);
        for seed in 0..40 {
            let (p, labels) = drawn(seed, 3, [50, 60]);
            let pixels = Pixels::new(&p, 3, &labels).unwrap();
            calibration
                .add(&pixels, [50, 60], Some(&p[3000..]))
                .unwrap();
        }
        let summary = calibration.summary();
        // 120,000 pixels: a bin of n is off by √(p(1 − p)/n) or so, a hundredth at most.
        for name in ["foreground", "class 1", "class 2", "top label", "boundary"] {
            let view = summary.view(name).unwrap();
            for errors in [view.equal_width, view.equal_mass] {
                assert!(errors.ece.unwrap() < 0.006, "{name}: {errors:?}");
                assert!(errors.mce.unwrap() < 0.04, "{name}: {errors:?}");
            }
        }
        let bins = &summary.view("class 1").unwrap().reliability;
        let inside = bins.iter().filter(|bin| {
            let [low, high] = bin.interval.unwrap();
            (low..=high).contains(&bin.confidence.unwrap())
        });
        assert!(inside.count() >= 12, "{bins:?}");
        let truth = summary.truth.unwrap();
        assert!(truth.ece < 1e-15 && truth.absolute < 1e-15 && truth.kl.abs() < 1e-6);
        assert!(summary.volume.bias.unwrap().abs() < 0.01);
        let brier = summary.brier.unwrap();
        assert!(brier.reliability < 1e-4 && brier.resolution > 0.05);
        let rows: Vec<u64> = summary
            .histogram
            .iter()
            .map(|row| row.iter().sum())
            .collect();
        assert_eq!(rows, [40; 15]);
    }

    #[test]
    fn too_sure_a_model_is_found_out() {
        let mut calibration = Calibration::new(2, &MetricsConfig::default());
        let (p, labels) = drawn(0, 2, [100, 100]);
        // Twice the log-odds.
        let sure = p[10_000..]
            .iter()
            .map(|p| p * p / (p * p + (1.0 - p) * (1.0 - p)));
        let sure: Vec<f32> = sure.collect();
        let pixels = Pixels::new(&sure, 1, &labels).unwrap();
        calibration
            .add(&pixels, [100, 100], Some(&p[10_000..]))
            .unwrap();
        let summary = calibration.summary();
        let view = &summary.views[0];
        let expected = p[10_000..]
            .iter()
            .zip(&sure)
            .map(|(q, p)| f64::from((q - p).abs()));
        let expected = expected.sum::<f64>() / 10_000.0;
        assert!(expected > 0.03);
        for found in [
            view.equal_width.ece.unwrap(),
            view.equal_mass.ece.unwrap(),
            summary.truth.unwrap().ece,
        ] {
            assert!((found - expected).abs() < 0.01, "{found}, {expected}");
        }
        assert!((summary.truth.unwrap().absolute - expected).abs() < 1e-9);
    }

    #[test]
    fn neither_the_order_of_images_nor_how_they_are_divided_changes_a_bit() {
        let sizes = [[5, 7], [9, 4], [1, 30], [12, 12], [3, 3], [8, 20]];
        let config = MetricsConfig::default();
        let add = |to: &mut Calibration, k: usize| {
            let (p, mut labels) = drawn(k as u64, 3, sizes[k]);
            labels[k] = IGNORE;
            let q = (k != 2).then(|| &p[labels.len()..]); // one without
            let pixels = Pixels::new(&p, 3, &labels).unwrap();
            to.add(&pixels, sizes[k], q).unwrap();
        };
        let new = || Calibration::new(3, &config);
        let mut whole = new();
        (0..6).for_each(|k| add(&mut whole, k));
        for orders in [[[3, 1, 5], [0, 4, 2]], [[5, 4, 3], [2, 1, 0]]] {
            let [mut merged, other] = orders.map(|order| {
                let mut part = new();
                for k in order {
                    add(&mut part, k);
                }
                part
            });
            merged.merge(&other).unwrap();
            merged.merge(&new()).unwrap();
            assert_eq!(merged, whole);
            assert_eq!(merged.summary(), whole.summary());
        }
        assert_eq!(whole.summary().images, 6);
        assert_eq!(whole.summary().pixels, 35 + 36 + 30 + 144 + 9 + 160 - 6);
        assert_eq!(
            whole.summary().truth.unwrap().pixels,
            35 + 36 + 144 + 9 + 160 - 5
        );
    }

    #[test]
    fn ignored_pixels_change_nothing_but_the_boundary_beside_them() {
        let config = MetricsConfig::default();
        let summary = |p: &[f32], labels: &[u8]| {
            let mut calibration = Calibration::new(2, &config);
            let pixels = Pixels::new(p, 1, labels).unwrap();
            calibration
                .add(&pixels, [1, labels.len()], Some(p))
                .unwrap();
            calibration.summary()
        };
        let without = summary(&[0.1, 0.6, 0.7], &[0, 1, 0]);
        let with = summary(&[0.1, 0.6, 0.7, 0.9, 0.9], &[0, 1, 0, IGNORE, IGNORE]);
        assert_eq!(with, without);
    }

    #[test]
    fn the_boundary_is_a_view_of_its_own() {
        // Wrong at the boundary alone: two pixels on each side of the change, as k = 1 has it.
        let (mut p, labels) = (vec![0.0_f32; 20], [vec![0; 10], vec![1; 10]].concat());
        p[10..].fill(1.0);
        p[8..12].fill(0.5);
        let config = MetricsConfig {
            boundary: 1,
            ..MetricsConfig::default()
        };
        let mut calibration = Calibration::new(2, &config);
        let pixels = Pixels::new(&p, 1, &labels).unwrap();
        let image = calibration.add(&pixels, [1, 20], None).unwrap();
        let summary = calibration.summary();
        let boundary = summary.view("boundary").unwrap();
        assert_eq!(boundary.pixels, 4);
        assert_eq!(boundary.reliability[7].pixels, 4);
        assert_eq!(
            (image.ece_boundary, boundary.equal_width.ece),
            (Some(0.0), Some(0.0))
        );
        p[8..10].fill(0.75);
        let pixels = Pixels::new(&p, 1, &labels).unwrap();
        let image = ImageCalibration::of(&pixels, [1, 20], None, &config).unwrap();
        assert_eq!(image.ece_boundary, Some(0.625)); // two at 0.75 never right, two at 0.5 always
        let one = Pixels::new(&p, 1, &[0; 20]).unwrap();
        let image = ImageCalibration::of(&one, [1, 20], None, &config).unwrap();
        assert_eq!(image.ece_boundary, None);
    }

    #[test]
    fn without_a_pixel_there_is_no_figure() {
        let mut calibration = Calibration::new(2, &MetricsConfig::default());
        let pixels = Pixels::new(&[0.5_f32; 2], 1, &[IGNORE; 2]).unwrap();
        calibration.add(&pixels, [1, 2], Some(&[0.5; 2])).unwrap();
        let summary = calibration.summary();
        assert_eq!((summary.images, summary.pixels), (1, 0));
        assert_eq!(
            (summary.nll, summary.brier, summary.truth),
            (None, None, None)
        );
        assert_eq!(
            summary.volume,
            crate::metrics::calibration::Volume::default()
        );
        for view in &summary.views {
            assert_eq!(
                (view.equal_width, view.equal_mass),
                (Errors::default(), Errors::default())
            );
            assert!(view.reliability.iter().all(|bin| bin.accuracy.is_none()));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_sums_alone() {
        let config = MetricsConfig::default();
        let mut calibration = Calibration::new(2, &config);
        let empty = calibration.clone();
        let p = [0.25_f32, 0.25, 0.5];
        let three = Pixels::new(&p, 3, &[1]).unwrap();
        assert_eq!(
            calibration
                .add(&three, [1, 1], None)
                .unwrap_err()
                .to_string(),
            "a calibration of 2 classes cannot take an output of 3; use one Calibration a model"
        );
        let two = Pixels::new(&p, 1, &[1, 0, 1]).unwrap();
        assert_eq!(
            calibration.add(&two, [2, 2], None).unwrap_err().to_string(),
            "3 pixels do not make 2 rows of 2; pass the height and the width of the probabilities"
        );
        calibration.add(&two, [1, 3], Some(&[0.5; 2])).unwrap_err();
        let fewer = MetricsConfig { bins: 5, ..config };
        assert_eq!(
            calibration
                .merge(&Calibration::new(3, &fewer))
                .unwrap_err()
                .to_string(),
            "a calibration of 2 classes in 15 bins cannot take one of 3 in 5; measure both with one configuration"
        );
        assert_eq!(calibration, empty);
    }
}
