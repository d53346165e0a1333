//! What one image tells of a model's calibration.

use super::{
    bin_of,
    boundary::near_boundary,
    tally::{Errors, Tally, add_all},
    truth::TruthSums,
    volume::VolumeSums,
};
use crate::metrics::{MetricsConfig, Pixels};
use anyhow::{Result, bail};

/// The calibration figures of one image; `None` where nothing defines them. An error is the mean over the foreground
/// classes, each against the rest.
///
/// ```
/// use seg_train::metrics::{MetricsConfig, Pixels, calibration::ImageCalibration};
/// let labels = [0, 0, 0, 0, 0, 1];
/// let pixels = Pixels::new(&[0.0_f32, 0.0, 0.0, 0.25, 0.75, 0.75], 1, &labels)?;
/// let found = ImageCalibration::of(&pixels, [1, 6], None, &MetricsConfig::default())?;
/// assert_eq!(found.volume_bias, Some(0.75));
/// assert_eq!(found.ece_boundary, Some((0.25 + 2.0 * 0.25) / 4.0)); // the last four pixels
/// assert_eq!(found.truth_distance, None);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ImageCalibration {
    /// Mean gap over runs of equal mass; pixels of one confidence are taken to be right in equal shares wherever a run
    /// ends among them.
    pub ace: Option<f64>,
    /// Expected calibration error of the pixels near the truth's boundary ([`near_boundary`]); `None` without one.
    pub ece_boundary: Option<f64>,
    /// (Σp − Σy) / Σy of the foreground; `None` without foreground.
    pub volume_bias: Option<f64>,
    /// Calibration error against the true probabilities, if they are known ([`TruthDistance::ece`](super::TruthDistance::ece)).
    pub ece_truth: Option<f64>,
    /// Mean |p − q| from them.
    pub truth_distance: Option<f64>,
    /// The bins of every foreground class.
    pub(crate) classes: Vec<Vec<Tally>>,
    /// The same of the pixels near the boundary.
    pub(crate) edges: Vec<Vec<Tally>>,
    /// The bins of the most probable class.
    pub(crate) top: Vec<Tally>,
    /// Whether each pixel is near the boundary.
    pub(crate) near: Vec<bool>,
    pub(crate) volume: VolumeSums,
    pub(crate) truth: Option<TruthSums>,
}

impl ImageCalibration {
    /// Measures an image of height and width `size`; `q` are its true probabilities, planar `[classes − 1, pixels]`.
    ///
    /// # Errors
    ///
    /// If the size does not have as many pixels, or `q` another number.
    pub fn of<P: Copy + Into<f64>>(
        pixels: &Pixels<'_, P>,
        size: [usize; 2],
        q: Option<&[f32]>,
        config: &MetricsConfig,
    ) -> Result<Self> {
        let (classes, n) = (pixels.classes(), config.bins.max(1));
        if size[0] * size[1] != pixels.labels.len() {
            bail!(
                "{} pixels do not make {} rows of {}; pass the height and the width of the probabilities",
                pixels.labels.len(),
                size[0],
                size[1]
            );
        }
        let near = near_boundary(pixels.labels, size, config.boundary);
        let empty = vec![Tally::default(); n];
        let mut image = Self {
            ace: None,
            ece_boundary: None,
            volume_bias: None,
            ece_truth: None,
            truth_distance: None,
            classes: vec![empty.clone(); classes - 1],
            edges: vec![empty.clone(); classes - 1],
            top: empty,
            near,
            volume: VolumeSums::default(),
            truth: None,
        };
        for (i, y) in pixels.counted() {
            for class in 1..classes {
                let (p, right) = (pixels.p(class, i), y == class);
                let bin = bin_of(p, n).min(n - 1);
                image.classes[class - 1][bin].add(p, right);
                if image.near[i] {
                    image.edges[class - 1][bin].add(p, right);
                }
            }
            let best = pixels.argmax(i);
            let p = pixels.p(best, i);
            image.top[bin_of(p, n).min(n - 1)].add(p, best == y);
            image.volume.pixel(foreground(pixels, i), y > 0);
        }
        if let Some(q) = q {
            let mut truth = TruthSums::new(classes, n);
            truth.add(pixels, q)?;
            let distance = truth.distance();
            image.ece_truth = distance.map(|d| d.ece);
            image.truth_distance = distance.map(|d| d.absolute);
            image.truth = Some(truth);
        }
        let masses: Vec<Errors> = (1..classes)
            .map(|class| {
                let pairs = pixels
                    .counted()
                    .map(|(i, y)| (pixels.p(class, i), y == class));
                Errors::equal_mass(pairs.collect(), n)
            })
            .collect();
        image.ace = Errors::class_mean(&masses).ace;
        let edges: Vec<Errors> = image.edges.iter().map(|b| Errors::of_tallies(b)).collect();
        image.ece_boundary = Errors::class_mean(&edges).ece;
        image.volume_bias = image.volume.bias();
        Ok(image)
    }
}

/// The probability of any class but the background.
fn foreground<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>, i: usize) -> f64 {
    (1..pixels.classes()).map(|class| pixels.p(class, i)).sum()
}

/// The bins of all classes as one lot.
pub(crate) fn pooled(classes: &[Vec<Tally>]) -> Vec<Tally> {
    let mut all = vec![Tally::default(); classes.first().map_or(0, Vec::len)];
    for bins in classes {
        add_all(&mut all, bins);
    }
    all
}
