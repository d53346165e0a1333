//! A reliability diagram of many images, with intervals that images make, not pixels.

use super::{
    bin_of,
    tally::{Tally, add_all},
};
use crate::stats::t_quantile;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// One bin of a data set's reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Its lower edge, a probability.
    pub low: f64,
    /// Its upper edge.
    pub high: f64,
    /// Number of pixels.
    pub pixels: u64,
    /// Number of images that have some of them.
    pub images: u64,
    /// Mean confidence; `None` without pixels.
    pub confidence: Option<f64>,
    /// Share that was right; `None` without pixels.
    pub accuracy: Option<f64>,
    /// 95 % interval of the accuracy over images, within `[0, 1]`; `None` for fewer than two images, which show no
    /// spread.
    ///
    /// Pixels of an image are right or wrong together, so an interval that counts pixels would be far too narrow. The
    /// accuracy is a ratio of two sums over images, R/N of right and all pixels; with r and n those of one of m images,
    /// its variance is m/(m − 1) · Σ(r − nR/N)² / N² (Cochran 1977, ch. 6), and the interval is Student's with m − 1.
    pub interval: Option<[f64; 2]>,
}

/// Products of an image's pixels n and right ones r in one bin, over images. Whole numbers, so exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spread {
    images: u64,
    nn: u128,
    nr: u128,
    rr: u128,
}

impl AddAssign for Spread {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.nn += other.nn;
        self.nr += other.nr;
        self.rr += other.rr;
    }
}

/// The sums of a reliability diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagram {
    bins: Vec<Tally>,
    spread: Vec<Spread>,
}

impl Diagram {
    pub(crate) fn new(bins: usize) -> Self {
        Self {
            bins: vec![Tally::default(); bins],
            spread: vec![Spread::default(); bins],
        }
    }

    /// Adds the bins of one image.
    pub(crate) fn add(&mut self, image: &[Tally]) {
        add_all(&mut self.bins, image);
        for (spread, bin) in self.spread.iter_mut().zip(image) {
            let (n, r) = (u128::from(bin.count), u128::from(bin.right));
            *spread += Spread {
                images: u64::from(bin.count > 0),
                nn: n * n,
                nr: n * r,
                rr: r * r,
            };
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        add_all(&mut self.bins, &other.bins);
        add_all(&mut self.spread, &other.spread);
    }

    pub(crate) fn bins(&self) -> &[Tally] {
        &self.bins
    }

    pub(crate) fn reliability(&self) -> Vec<Reliability> {
        let edge = |k: usize| k as f64 / self.bins.len() as f64;
        let sums = self.bins.iter().zip(&self.spread).enumerate();
        sums.map(|(k, (bin, spread))| Reliability {
            low: edge(k),
            high: edge(k + 1),
            pixels: bin.count,
            images: spread.images,
            confidence: bin.means().map(|[confidence, _]| confidence),
            accuracy: bin.means().map(|[_, accuracy]| accuracy),
            interval: interval(bin, spread),
        })
        .collect()
    }
}

fn interval(bin: &Tally, spread: &Spread) -> Option<[f64; 2]> {
    let [_, accuracy] = bin.means()?;
    let m = spread.images as f64;
    let t = t_quantile(0.95, m - 1.0)?;
    let error = (m / (m - 1.0) * residual(bin, spread)).sqrt() / bin.count as f64;
    Some([
        (accuracy - t * error).max(0.0),
        (accuracy + t * error).min(1.0),
    ])
}

/// Σ(r − nR/N)² = (N²Σr² − 2NRΣnr + R²Σn²) / N², whose terms all but cancel: in whole numbers while they fit.
fn residual(bin: &Tally, spread: &Spread) -> f64 {
    let (n, r) = (u128::from(bin.count), u128::from(bin.right));
    let whole = || {
        let squares = (n * n)
            .checked_mul(spread.rr)?
            .checked_add((r * r).checked_mul(spread.nn)?)?;
        let cross = (2 * n).checked_mul(r)?.checked_mul(spread.nr)?;
        Some(squares.saturating_sub(cross) as f64 / (n as f64 * n as f64))
    };
    whole().unwrap_or_else(|| {
        let share = r as f64 / n as f64;
        let sum =
            spread.rr as f64 - 2.0 * share * spread.nr as f64 + share * share * spread.nn as f64;
        sum.max(0.0)
    })
}

/// How many images had which accuracy in each bin of confidence.
///
/// A diagram of all pixels tells how a model does on the whole; that half of the images are overconfident and half are
/// not, only this shows. It has bins² cells: of more bins than [`Histogram::MOST`] there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram(pub(crate) Vec<Vec<u64>>);

impl Histogram {
    /// More rows would be finer than the accuracy of an image is known.
    pub(crate) const MOST: usize = 100;

    pub(crate) fn new(bins: usize) -> Self {
        let rows = if bins <= Self::MOST { bins } else { 0 };
        Self(vec![vec![0; bins]; rows])
    }

    pub(crate) fn add(&mut self, image: &[Tally]) {
        let n = image.len();
        for (row, bin) in self.0.iter_mut().zip(image) {
            if let Some([_, accuracy]) = bin.means() {
                row[bin_of(accuracy, n).min(n - 1)] += 1;
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (row, other) in self.0.iter_mut().zip(&other.0) {
            add_all(row, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::calibration::Exact;

    fn bin(count: u64, right: u64) -> Tally {
        let mut confidence = Exact::default();
        confidence.add(0.75 * count as f64);
        Tally {
            count,
            right,
            confidence,
        }
    }

    fn diagram(images: &[(u64, u64)]) -> Reliability {
        let mut diagram = Diagram::new(1);
        for &(n, r) in images {
            diagram.add(&[bin(n, r)]);
        }
        diagram.reliability()[0]
    }

    #[test]
    fn the_interval_is_that_of_the_ratio_over_images() {
        // R/N = 8/16; residuals 5 − 4 = 1, 1 − 2 = −1, 2 − 2 = 0 of images of 8, 4 and 4 pixels.
        let found = diagram(&[(8, 5), (4, 1), (4, 2)]);
        let error = (3.0 / 2.0 * 2.0_f64).sqrt() / 16.0;
        let t = 4.302_652_729_911_275; // two-sided 95 %, two degrees of freedom
        let [low, high] = found.interval.unwrap();
        assert!((low - (0.5 - t * error)).abs() < 1e-9, "{low}");
        assert!((high - (0.5 + t * error)).abs() < 1e-9, "{high}");
        assert_eq!((found.pixels, found.images), (16, 3));
        assert_eq!((found.confidence, found.accuracy), (Some(0.75), Some(0.5)));
    }

    #[test]
    fn an_image_without_pixels_in_the_bin_is_not_one_of_its_images() {
        assert_eq!(diagram(&[(4, 1), (0, 0)]).interval, None);
        assert_eq!(diagram(&[(0, 0)]).accuracy, None);
        let two = diagram(&[(8, 5), (4, 1), (4, 2)]);
        assert_eq!(diagram(&[(8, 5), (0, 0), (4, 1), (4, 2)]), two);
    }

    #[test]
    fn images_that_agree_leave_no_interval_however_large() {
        // Beyond 2^128 the sums are taken in f64.
        for size in [3, 3_000_000, 3 << 40] {
            let found = diagram(&[(size, size / 3), (2 * size, 2 * size / 3)]);
            let [low, high] = found.interval.unwrap();
            assert!(high - low < 1e-6, "{size}: {low} to {high}");
            assert!(size > 1 << 40 || low == high);
        }
    }

    #[test]
    fn an_interval_ends_where_shares_do() {
        let found = diagram(&[(4, 4), (4, 3)]);
        assert_eq!(found.interval.unwrap()[1], 1.0);
        let found = diagram(&[(4, 0), (4, 1)]);
        assert_eq!(found.interval.unwrap()[0], 0.0);
    }

    #[test]
    fn every_image_is_counted_once_in_each_bin_that_it_has() {
        let mut histogram = Histogram::new(2);
        histogram.add(&[bin(4, 1), bin(0, 0)]);
        histogram.add(&[bin(4, 3), bin(2, 2)]);
        histogram.add(&[bin(4, 0), bin(2, 1)]);
        assert_eq!(histogram.0, [[2, 1], [0, 2]]);
        assert_eq!(Histogram::new(100).0.len(), 100);
        let mut none = Histogram::new(101);
        none.add(&[bin(4, 1); 101]);
        assert!(none.0.is_empty());
    }
}
