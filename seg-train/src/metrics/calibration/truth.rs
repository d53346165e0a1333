//! How far the probabilities are from the true ones, where those are known.

use super::{
    Exact, bin_of,
    tally::{Errors, add_all},
};
use crate::metrics::{Pixels, scores::surprise};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Distances from the true probabilities q of a phantom, over the pixels that count.
///
/// Against drawn labels a calibration error has a floor of chance; against q it has none. And being calibrated is not
/// being right: a model that says the mean everywhere has an ece of 0 and is far from q.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthDistance {
    /// Calibration error against q: over bins of p of equal width the mean over the pixels of |mean p − mean q|, then the
    /// mean over the foreground classes.
    pub ece: f64,
    /// The mean over pixels and foreground classes of |p − q|.
    pub absolute: f64,
    /// The mean over pixels of KL(q‖p) over all classes, in nats: what the NLL expects to exceed that of q by.
    pub kl: f64,
    /// Pixels.
    pub pixels: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    count: u64,
    p: Exact,
    q: Exact,
}

impl AddAssign for Pair {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.p += other.p;
        self.q += other.q;
    }
}

/// The sums behind a [`TruthDistance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TruthSums {
    pixels: u64,
    /// The bins of every foreground class.
    bins: Vec<Vec<Pair>>,
    absolute: Exact,
    kl: Exact,
}

impl TruthSums {
    pub(crate) fn new(classes: usize, bins: usize) -> Self {
        Self {
            pixels: 0,
            bins: vec![vec![Pair::default(); bins]; classes - 1],
            absolute: Exact::default(),
            kl: Exact::default(),
        }
    }

    /// Adds an image, `q` planar `[classes − 1, pixels]`.
    pub(crate) fn add<P: Copy + Into<f64>>(
        &mut self,
        pixels: &Pixels<'_, P>,
        q: &[f32],
    ) -> Result<()> {
        let (n, foreground) = (pixels.labels.len(), pixels.classes() - 1);
        if q.len() != n * foreground {
            bail!(
                "{} true probabilities do not make {foreground} foreground classes of {n} pixels; pass [classes − 1, pixels] at the size of the output",
                q.len()
            );
        }
        for (i, _) in pixels.counted() {
            let mut rest = 1.0;
            let mut kl = 0.0;
            let mut diverge = |q: f64, p: f64| {
                // q log q → 0 as q → 0, while log 0 is infinite.
                if q > 0.0 {
                    kl += q * (q.ln() + surprise(p));
                }
            };
            for (class, bins) in self.bins.iter_mut().enumerate() {
                let (p, q) = (pixels.p(class + 1, i), f64::from(q[class * n + i]));
                let last = bins.len() - 1;
                let bin = &mut bins[bin_of(p, last + 1).min(last)];
                bin.count += 1;
                bin.p.add(p);
                bin.q.add(q);
                self.absolute.add((p - q).abs());
                diverge(q, p);
                rest -= q;
            }
            diverge(rest, pixels.p(0, i));
            self.kl.add(kl);
            self.pixels += 1;
        }
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.pixels += other.pixels;
        for (bins, other) in self.bins.iter_mut().zip(&other.bins) {
            add_all(bins, other);
        }
        self.absolute += other.absolute;
        self.kl += other.kl;
    }

    /// The distances; `None` without pixels.
    pub(crate) fn distance(&self) -> Option<TruthDistance> {
        let of_class = |bins: &Vec<Pair>| {
            Errors::of(bins.iter().filter(|bin| bin.count > 0).map(|bin| {
                let n = bin.count as f64;
                (n, (bin.p.value() / n - bin.q.value() / n).abs())
            }))
        };
        let classes: Vec<Errors> = self.bins.iter().map(of_class).collect();
        let n = self.pixels as f64;
        Some(TruthDistance {
            ece: Errors::class_mean(&classes).ece?,
            absolute: self.absolute.value() / (n * classes.len() as f64),
            kl: self.kl.value() / n,
            pixels: self.pixels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::scores::excess_nll,
        raster::IGNORE,
        rng::{Purpose, stream},
    };
    use rand::Rng as _;

    fn distance(p: &[f64], channels: usize, labels: &[u8], q: &[f32]) -> TruthDistance {
        let mut sums = TruthSums::new(channels.max(2), 10);
        sums.add(&Pixels::new(p, channels, labels).unwrap(), q)
            .unwrap();
        sums.distance().unwrap()
    }

    #[test]
    fn the_mean_everywhere_is_calibrated_and_wrong() {
        let found = distance(&[0.5; 4], 1, &[0; 4], &[0.25, 0.75, 0.0, 1.0]);
        assert_eq!((found.ece, found.absolute, found.pixels), (0.0, 0.375, 4));
        let right = distance(&[0.25, 0.75], 1, &[1, 0], &[0.25, 0.75]);
        assert_eq!((right.ece, right.absolute, right.kl), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_divergence_is_the_excess_nll() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        let p: Vec<f64> = (0..500).map(|_| rng.random()).collect();
        let q: Vec<f32> = (0..500).map(|_| rng.random::<f32>().round_to(3)).collect();
        let mut labels = vec![0; 500];
        labels[3] = IGNORE;
        let found = distance(&p, 1, &labels, &q);
        let expected = excess_nll(&Pixels::new(&p, 1, &labels).unwrap(), &q).unwrap();
        assert!((found.kl - expected).abs() < 1e-14);
        assert_eq!(found.pixels, 499);
    }

    /// Short decimals, so that zero and one are among them.
    trait RoundTo {
        fn round_to(self, steps: u8) -> Self;
    }

    impl RoundTo for f32 {
        fn round_to(self, steps: u8) -> Self {
            (self * Self::from(steps)).round() / Self::from(steps)
        }
    }

    #[test]
    fn three_classes_checked_by_hand() {
        // Two pixels; classes 0, 1, 2.
        let p = [0.5, 0.25, 0.25, 0.25, 0.25, 0.5];
        let q = [0.25, 0.5, 0.5, 0.5];
        let found = distance(&p, 3, &[0, 0], &q);
        // Class 1: one bin, mean q 0.375. Class 2: two bins, gaps 0.25 and 0.
        assert!((found.ece - 0.125).abs() < 1e-15);
        assert!((found.absolute - (0.0 + 0.25 + 0.25 + 0.0) / 4.0).abs() < 1e-15);
        // KL of (¼, ¼, ½) from (½, ¼, ¼), and of (0, ½, ½) from (¼, ¼, ½).
        let kl = f64::midpoint(0.25 * 0.5_f64.ln() + 0.5 * 2_f64.ln(), 0.5 * 2_f64.ln());
        assert!((found.kl - kl).abs() < 1e-15);
    }

    #[test]
    fn another_number_of_true_probabilities_is_refused() {
        let pixels = Pixels::new(&[0.5_f64; 6], 3, &[0; 2]).unwrap();
        assert_eq!(
            TruthSums::new(3, 10)
                .add(&pixels, &[0.5; 2])
                .unwrap_err()
                .to_string(),
            "2 true probabilities do not make 2 foreground classes of 2 pixels; pass [classes − 1, pixels] at the size of the output"
        );
        assert_eq!(TruthSums::new(3, 10).distance(), None);
    }
}
