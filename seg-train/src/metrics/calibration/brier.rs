//! The Brier score, taken apart: what calibration costs, what telling pixels apart gains, what no model can help.

use super::{Exact, bin_of, tally::add_all};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// The parts of a Brier score.
///
/// Over bins k of equal width, with p the probability and y = 1 where the class is, n of N pixels in a bin, p̄ and ȳ
/// their means over it, and ȳ₀ that over all pixels (Murphy 1973):
///
/// ```text
/// score = (1/N) Σ (p − y)² = reliability − resolution + uncertainty + within_variance − within_covariance
/// reliability       = (1/N) Σ_k n (p̄ − ȳ)²          what the bins' miscalibration costs
/// resolution        = (1/N) Σ_k n (ȳ − ȳ₀)²          what telling the bins apart gains
/// uncertainty       = ȳ₀ (1 − ȳ₀)                     what the rarest or commonest class leaves
/// within_variance   = (1/N) Σ (p − p̄)²               what differs within a bin costs,
/// within_covariance = (2/N) Σ (p − p̄)(y − ȳ)         and gains
/// ```
///
/// Murphy's three parts add up only if a bin holds one p; the last two close the sum exactly (Stephenson, Coelho &
/// Jolliffe 2008).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decomposition {
    /// The Brier score itself.
    pub score: f64,
    /// Mean squared gap of the bins; less is better.
    pub reliability: f64,
    /// Variance of the bins' shares; more is better.
    pub resolution: f64,
    /// Variance of the truth.
    pub uncertainty: f64,
    /// Variance of the probabilities within bins.
    pub within_variance: f64,
    /// Twice the covariance of probability and truth within bins.
    pub within_covariance: f64,
}

impl Decomposition {
    /// The mean of each part; `None` of none.
    pub(crate) fn mean(parts: &[Self]) -> Option<Self> {
        let mean =
            |part: fn(&Self) -> f64| parts.iter().map(part).sum::<f64>() / parts.len() as f64;
        (!parts.is_empty()).then(|| Self {
            score: mean(|d| d.score),
            reliability: mean(|d| d.reliability),
            resolution: mean(|d| d.resolution),
            uncertainty: mean(|d| d.uncertainty),
            within_variance: mean(|d| d.within_variance),
            within_covariance: mean(|d| d.within_covariance),
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moments {
    count: u64,
    y: u64,
    p: Exact,
    pp: Exact,
    py: Exact,
    square: Exact,
}

impl AddAssign for Moments {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.y += other.y;
        self.p += other.p;
        self.pp += other.pp;
        self.py += other.py;
        self.square += other.square;
    }
}

/// The sums of one class, a bin each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrierSums(Vec<Moments>);

impl BrierSums {
    pub(crate) fn new(bins: usize) -> Self {
        Self(vec![Moments::default(); bins])
    }

    pub(crate) fn add(&mut self, p: f64, is_class: bool) {
        let n = self.0.len();
        let bin = &mut self.0[bin_of(p, n).min(n - 1)];
        let y = f64::from(u8::from(is_class));
        bin.count += 1;
        bin.y += u64::from(is_class);
        bin.p.add(p);
        bin.pp.add(p * p);
        bin.py.add(p * y);
        bin.square.add((p - y) * (p - y));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        add_all(&mut self.0, &other.0);
    }

    /// The parts; `None` without pixels.
    pub(crate) fn parts(&self) -> Option<Decomposition> {
        let mut all = Moments::default();
        self.0.iter().for_each(|&bin| all += bin);
        if all.count == 0 {
            return None;
        }
        let pixels = all.count as f64;
        let base = all.y as f64 / pixels;
        let mut parts = Decomposition {
            score: all.square.value() / pixels,
            uncertainty: base * (1.0 - base),
            ..Decomposition::default()
        };
        for bin in self.0.iter().filter(|bin| bin.count > 0) {
            let n = bin.count as f64;
            let (p, y) = (bin.p.value() / n, bin.y as f64 / n);
            parts.reliability += n / pixels * (p - y) * (p - y);
            parts.resolution += n / pixels * (y - base) * (y - base);
            // In real numbers never below zero.
            parts.within_variance += (bin.pp.value() / n - p * p).max(0.0) * n / pixels;
            parts.within_covariance += 2.0 * (bin.py.value() / n - p * y) * n / pixels;
        }
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    fn parts(pixels: &[(f64, bool)], bins: usize) -> Decomposition {
        let mut sums = BrierSums::new(bins);
        for &(p, y) in pixels {
            sums.add(p, y);
        }
        sums.parts().unwrap()
    }

    #[test]
    fn the_parts_of_a_case_checked_by_hand() {
        // ȳ₀ = 1/2; a bin of 0.2 and 0.4 with ȳ = 1/2, one of 0.8 twice with ȳ = 1/2.
        let found = parts(&[(0.2, false), (0.4, true), (0.8, true), (0.8, false)], 2);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a}, expected {b}");
        close(found.score, (0.04 + 0.36 + 0.04 + 0.64) / 4.0);
        close(found.reliability, 0.5 * 0.04 + 0.5 * 0.09);
        close(found.resolution, 0.0);
        close(found.uncertainty, 0.25);
        close(found.within_variance, 0.5 * 0.01);
        close(found.within_covariance, 2.0 * (0.05 + 0.05) / 4.0);
        let sure = parts(&[(0.0, false), (1.0, true), (1.0, true)], 5);
        close(sure.resolution, sure.uncertainty);
        close(sure.score + sure.reliability, 0.0);
    }

    #[test]
    fn the_parts_add_up_to_the_score() {
        for (seed, n, bins) in [(0, 1, 3), (1, 17, 1), (2, 1000, 10), (3, 20_000, 15)] {
            let mut rng = stream(seed, Purpose::Order, 0, 0);
            let pixels: Vec<_> = (0..n)
                .map(|k| match k % 7 {
                    0 => (f64::from(rng.random::<bool>()), rng.random()),
                    _ => (rng.random::<f64>().powi(3), rng.random::<f64>() < 0.3),
                })
                .collect();
            let d = parts(&pixels, bins);
            let score = pixels
                .iter()
                .map(|&(p, y)| (p - f64::from(y)).powi(2))
                .sum::<f64>()
                / f64::from(n);
            assert!((d.score - score).abs() < 1e-14);
            let sum = d.reliability - d.resolution + d.uncertainty + d.within_variance
                - d.within_covariance;
            assert!((sum - score).abs() < 1e-14, "{sum}, the score is {score}");
        }
        assert_eq!(BrierSums::new(3).parts(), None);
    }
}
