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
