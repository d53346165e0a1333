//! Random numbers of the normal distribution, one by one and as smooth fields.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;

/// A standard normal number (Box-Muller).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // 1 − u is in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

/// A smooth random function of the plane, standard normal at every point.
///
/// g(x) = Σ (a cos k·x + b sin k·x) / √M with normal a and b is normal with variance Σ (cos² + sin²) / M = 1 whatever
/// the wave vectors k, so exactly, and not only for many of them. Wave vectors drawn with standard deviation 1/ℓ give
/// a correlation of about exp(−r²/2ℓ²) at distance r.
pub(super) struct SmoothField {
    waves: Vec<[f64; 4]>,
}

impl SmoothField {
    const WAVES: usize = 24;

    /// A field of correlation length `length`.
    pub(super) fn draw(length: f64, rng: &mut ChaCha8Rng) -> Self {
        let share = (Self::WAVES as f64).sqrt().recip();
        let waves = (0..Self::WAVES)
            .map(|_| {
                [
                    normal(rng) / length,
                    normal(rng) / length,
                    normal(rng) * share,
                    normal(rng) * share,
                ]
            })
            .collect();
        Self { waves }
    }

    pub(super) fn at(&self, [y, x]: [f64; 2]) -> f64 {
        self.waves
            .iter()
            .map(|[ky, kx, a, b]| {
                let (sin, cos) = (ky * y + kx * x).sin_cos();
                a * cos + b * sin
            })
            .sum()
    }
}
