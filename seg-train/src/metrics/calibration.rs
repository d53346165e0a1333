//! Calibration: whether p = 0.8 is right eight times in ten.
//!
//! Probabilities fall into equal-width bins; a bin's gap is |accuracy − confidence|, the difference between how often
//! the bin's pixels were right and how probable they were said to be. Bins are sums, so a whole test set costs as much
//! memory as one image, and bins of images merge into bins of the set. Guo et al. 2017 (ECE, MCE), Nixon et al. 2019
//! (ACE, class-wise).
//!
//! [`Bins`] are one binning of one kind of confidence; [`Calibration`] is all that a data set's probabilities tell.

mod boundary;
mod brier;
mod data_set;
mod diagram;
mod exact;
mod image;
mod mass;
mod summary;
mod tally;
mod truth;
mod volume;

pub use boundary::near_boundary;
pub use brier::Decomposition;
pub use data_set::Calibration;
pub use diagram::Reliability;
pub use exact::Exact;
pub use image::ImageCalibration;
pub use summary::{CalibrationSummary, View};
pub use tally::Errors;
pub use truth::TruthDistance;
pub use volume::Volume;

use super::Pixels;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Which bin p = 1 falls into; all other bins are `[lo, hi)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Top {
    /// The last bin, which so is closed.
    #[default]
    Closed,
    /// A bin of its own beyond the last: how torchmetrics bins.
    OwnBin,
}

/// Sums a bin of confidence: how many pixels, how confident, how often right.
///
/// ```
/// use seg_train::metrics::{Bins, Pixels, Top};
/// // Four pixels at p = 0.75, two of them foreground: a gap of a quarter.
/// let pixels = Pixels::new(&[0.75_f32; 4], 1, &[1, 1, 0, 0])?;
/// let bins = Bins::foreground(&pixels, 10, Top::Closed);
/// assert_eq!(bins.ece(), Some(0.25));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bins {
    count: Vec<u64>,
    confidence: Vec<f64>,
    accuracy: Vec<f64>,
    top: Top,
}

/// One bin that holds pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Number of pixels.
    pub count: u64,
    /// Mean confidence.
    pub confidence: f64,
    /// Share that was right.
    pub accuracy: f64,
}

/// One bin of a reliability diagram: confidence against the share that was right, which are equal where a model is
/// calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Its lower edge, a probability.
    pub low: f64,
    /// Its upper edge.
    pub high: f64,
    /// Number of pixels.
    pub pixels: u64,
    /// Mean confidence; `None` without pixels.
    pub confidence: Option<f64>,
    /// Share that was right; `None` without pixels.
    pub accuracy: Option<f64>,
}

impl Bins {
    /// `bins` empty bins of equal width over `[0, 1]`; zero is taken as one.
    pub fn new(bins: usize, top: Top) -> Self {
        let n = bins.max(1) + usize::from(top == Top::OwnBin);
        Self {
            count: vec![0; n],
            confidence: vec![0.0; n],
            accuracy: vec![0.0; n],
            top,
        }
    }

    /// Confidence p of the foreground (class 1), right where it is foreground.
    pub fn foreground<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>, bins: usize, top: Top) -> Self {
        Self::of_class(pixels, 1, bins, top)
    }

    /// Confidence max p over the classes, right where the argmax is.
    pub fn top_label<P: Copy + Into<f64>>(pixels: &Pixels<'_, P>, bins: usize, top: Top) -> Self {
        let mut sums = Self::new(bins, top);
        for (i, y) in pixels.counted() {
            let predicted = pixels.argmax(i);
            sums.add(pixels.p(predicted, i), predicted == y);
        }
        sums
    }

    /// Each class against the rest; the class-wise figure is the mean over these.
    pub fn class_wise<P: Copy + Into<f64>>(
        pixels: &Pixels<'_, P>,
        bins: usize,
        top: Top,
    ) -> Vec<Self> {
        (0..pixels.classes())
            .map(|class| Self::of_class(pixels, class, bins, top))
            .collect()
    }

    fn of_class<P: Copy + Into<f64>>(
        pixels: &Pixels<'_, P>,
        class: usize,
        bins: usize,
        top: Top,
    ) -> Self {
        let mut sums = Self::new(bins, top);
        for (i, y) in pixels.counted() {
            sums.add(pixels.p(class, i), y == class);
        }
        sums
    }

    /// Adds one pixel.
    pub fn add(&mut self, confidence: f64, right: bool) {
        let bin = self.index(confidence);
        self.count[bin] += 1;
        self.confidence[bin] += confidence;
        self.accuracy[bin] += f64::from(u8::from(right));
    }

    /// Adds the sums of other bins.
    ///
    /// # Errors
    ///
    /// If those are other bins.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.top, self.count.len()) != (other.top, other.count.len()) {
            bail!(
                "{} bins cannot take the sums of {}; use one number of bins and one rule for p = 1",
                self.count.len(),
                other.count.len()
            );
        }
        self.count
            .iter_mut()
            .zip(&other.count)
            .for_each(|(a, b)| *a += b);
        self.confidence
            .iter_mut()
            .zip(&other.confidence)
            .for_each(|(a, b)| *a += b);
        self.accuracy
            .iter_mut()
            .zip(&other.accuracy)
            .for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Pixels counted.
    pub fn pixels(&self) -> u64 {
        self.count.iter().sum()
    }

    /// All bins from low to high; `None` for an empty one, whose means are 0/0.
    pub fn iter(&self) -> impl Iterator<Item = Option<Bin>> + '_ {
        self.count
            .iter()
            .zip(self.confidence.iter().zip(&self.accuracy))
            .map(|(&count, (c, a))| {
                (count > 0).then(|| Bin {
                    count,
                    confidence: c / count as f64,
                    accuracy: a / count as f64,
                })
            })
    }

    /// The bins with their edges, from low to high; that of p = 1 alone ([`Top::OwnBin`]) has 1 for both.
    ///
    /// ```
    /// use seg_train::metrics::{Bins, Top};
    /// let mut bins = Bins::new(2, Top::Closed);
    /// bins.add(0.75, true);
    /// let [empty, filled] = bins.reliability()[..] else { panic!() };
    /// assert_eq!((empty.low, empty.high, empty.pixels, empty.confidence), (0.0, 0.5, 0, None));
    /// assert_eq!((filled.high, filled.pixels, filled.accuracy), (1.0, 1, Some(1.0)));
    /// ```
    pub fn reliability(&self) -> Vec<ReliabilityBin> {
        let n = self.equal();
        let edge = |k: usize| k.min(n) as f64 / n as f64;
        self.iter()
            .enumerate()
            .map(|(k, bin)| ReliabilityBin {
                low: edge(k),
                high: edge(k + 1),
                pixels: bin.map_or(0, |bin| bin.count),
                confidence: bin.map(|bin| bin.confidence),
                accuracy: bin.map(|bin| bin.accuracy),
            })
            .collect()
    }

    /// Expected calibration error Σ share · gap; `None` if nothing was counted.
    pub fn ece(&self) -> Option<f64> {
        self.some(self.gaps().map(|(share, gap)| share * gap).sum())
    }

    /// The same as a root mean square, √Σ share · gap².
    pub fn ece_l2(&self) -> Option<f64> {
        self.some(
            self.gaps()
                .map(|(share, gap)| share * gap * gap)
                .sum::<f64>()
                .sqrt(),
        )
    }

    /// Maximum calibration error, the largest gap.
    pub fn mce(&self) -> Option<f64> {
        self.some(self.gaps().map(|(_, gap)| gap).fold(0.0, f64::max))
    }

    /// Average calibration error, the mean gap over the bins that hold pixels: rare confidences weigh as much as
    /// frequent ones, which matters where nine pixels in ten are sure background.
    pub fn ace(&self) -> Option<f64> {
        let filled = self.gaps().count();
        self.some(self.gaps().map(|(_, gap)| gap).sum::<f64>() / filled as f64)
    }

    fn gaps(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let all = self.pixels() as f64;
        self.iter()
            .flatten()
            .map(move |b| (b.count as f64 / all, (b.accuracy - b.confidence).abs()))
    }

    fn some(&self, value: f64) -> Option<f64> {
        (self.pixels() > 0).then_some(value)
    }

    /// The number of bins of equal width.
    fn equal(&self) -> usize {
        match self.top {
            Top::Closed => self.count.len(),
            Top::OwnBin => self.count.len() - 1,
        }
    }

    fn index(&self, p: f64) -> usize {
        bin_of(p, self.equal()).min(self.count.len() - 1)
    }
}

/// Of `n` bins over `[0, 1]`, k is `[k/n, (k+1)/n)`, and 1 is beyond the last. p·n may round across an edge, so the edges
/// themselves decide.
fn bin_of(p: f64, n: usize) -> usize {
    let edge = |k: usize| k as f64 / n as f64;
    let mut k = ((p * n as f64) as usize).min(n);
    if k > 0 && p < edge(k) {
        k -= 1;
    } else if k < n && p >= edge(k + 1) {
        k += 1;
    }
    k
}

/// The mean of one figure over the class-wise bins, say [`Bins::ece`]; classes without pixels do not enter.
///
/// ```
/// use seg_train::metrics::{Bins, Pixels, Top, calibration::class_mean};
/// let bins = Bins::class_wise(&Pixels::new(&[0.75_f32; 4], 1, &[1, 1, 0, 0])?, 10, Top::Closed);
/// assert_eq!(class_mean(&bins, Bins::ece), Some(0.25));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn class_mean(bins: &[Bins], figure: impl Fn(&Bins) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = bins.iter().filter_map(figure).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Adaptive calibration error over bins of equal mass: pixels sorted by confidence and cut into `bins` runs of equal
/// length (the first ones one longer where it does not divide), each run's gap.
///
/// It needs all pixels at once, sorted: memory grows with them, so it is for study, not for the trainer's loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EqualMass {
    /// The mean gap over the runs (Nixon et al. 2019).
    pub unweighted: f64,
    /// The mean gap over the pixels.
    pub weighted: f64,
}

/// [`EqualMass`] of confidences and whether each was right; `None` for no pixels or no bins.
///
/// ```
/// use seg_train::metrics::calibration::equal_mass;
/// let ace = equal_mass(&[(0.1, false), (0.2, false), (0.9, true), (0.8, false)], 2).unwrap();
/// assert!((ace.unweighted - (0.15 + 0.35) / 2.0).abs() < 1e-12);
/// ```
pub fn equal_mass(pixels: &[(f64, bool)], bins: usize) -> Option<EqualMass> {
    if pixels.is_empty() || bins == 0 {
        return None;
    }
    let mut sorted = pixels.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0)); // stable: equal confidences keep their order
    let (short, longer) = (sorted.len() / bins, sorted.len() % bins);
    let (mut unweighted, mut weighted, mut filled) = (0.0, 0.0, 0_u32);
    let mut rest = &sorted[..];
    for k in 0..bins {
        let (run, after) = rest.split_at(short + usize::from(k < longer));
        rest = after;
        if run.is_empty() {
            continue;
        }
        let n = run.len() as f64;
        let confidence: f64 = run.iter().map(|&(c, _)| c).sum();
        let right = run.iter().filter(|&&(_, right)| right).count() as f64;
        let gap = (right / n - confidence / n).abs();
        unweighted += gap;
        weighted += gap * n / sorted.len() as f64;
        filled += 1;
    }
    Some(EqualMass {
        unweighted: unweighted / f64::from(filled),
        weighted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_opens_the_bin_above_it() {
        for n in [1, 3, 7, 10, 15, 49] {
            let bins = Bins::new(n, Top::Closed);
            for k in 0..n {
                let edge = k as f64 / n as f64;
                assert_eq!(bins.index(edge), k, "edge {k} of {n}");
                if k > 0 {
                    assert_eq!(bins.index(edge.next_down()), k - 1, "below edge {k} of {n}");
                }
            }
            assert_eq!(bins.index(1.0), n - 1);
        }
        assert_eq!(Bins::new(10, Top::OwnBin).index(1.0), 10);
    }

    #[test]
    fn figures_of_a_case_checked_by_hand() {
        let mut bins = Bins::new(2, Top::Closed);
        for (p, right) in [(0.25, false), (0.25, true), (0.75, true), (1.0, true)] {
            bins.add(p, right);
        }
        // Gaps 0.25 and 0.125, two pixels each.
        assert_eq!(bins.ece(), Some(0.1875));
        assert_eq!(
            bins.ece_l2(),
            Some((0.5 * 0.0625 + 0.5 * 0.015_625_f64).sqrt())
        );
        assert_eq!(bins.mce(), Some(0.25));
        assert_eq!(bins.ace(), Some(0.1875));
        assert_eq!(Bins::new(2, Top::Closed).ece(), None);
    }

    #[test]
    fn merged_bins_are_the_bins_of_all_pixels() {
        let (mut all, mut left, mut right) = (
            Bins::new(5, Top::Closed),
            Bins::new(5, Top::Closed),
            Bins::new(5, Top::Closed),
        );
        for k in 0..32 {
            let p = f64::from(k) / 32.0;
            all.add(p, k % 3 == 0);
            if k < 7 { &mut left } else { &mut right }.add(p, k % 3 == 0);
        }
        left.merge(&right).unwrap();
        assert_eq!(left, all);
        assert_eq!(
            left.merge(&Bins::new(6, Top::Closed))
                .unwrap_err()
                .to_string(),
            "5 bins cannot take the sums of 6; use one number of bins and one rule for p = 1"
        );
    }
}
