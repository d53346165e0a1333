//! Intervals of a mean.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::normal_quantile;

/// A mean with two intervals for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanInterval {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1.
    pub sd: f64,
    /// Mean ± z·sd/√n, the normal interval: what the paper prints.
    pub normal: [f64; 2],
    /// Mean ± t·sd/√n with n − 1 degrees of freedom: wider, and right for few images of normal spread.
    pub t: [f64; 2],
}

impl MeanInterval {
    /// Intervals at a confidence level, say 0.95; `None` for fewer than two values, which show no spread, or a level
    /// outside (0, 1).
    ///
    /// Of two models measured on the same images, the values are the differences image by image: their interval is the
    /// one that leaves out how hard the images are, as [`signed_rank`](super::signed_rank) does.
    ///
    /// ```
    /// use seg_train::stats::MeanInterval;
    /// let i = MeanInterval::of(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
    /// assert_eq!(i.mean, 3.0);
    /// assert!((i.normal[1] - (3.0 + 1.959_963_985 * 0.5_f64.sqrt())).abs() < 1e-8);
    /// assert!((i.t[1] - (3.0 + 2.776_445_105 * 0.5_f64.sqrt())).abs() < 1e-8);
    /// ```
    pub fn of(values: &[f64], level: f64) -> Option<Self> {
        let n = values.len();
        if n < 2 || !(level > 0.0 && level < 1.0) {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
        let sem = sd / (n as f64).sqrt();
        let around = |quantile: f64| [mean - quantile * sem, mean + quantile * sem];
        Some(Self {
            n,
            mean,
            sd,
            normal: around(normal_quantile(level)),
            t: around(t_quantile(level, (n - 1) as f64)?),
        })
    }
}

/// The mean and its 95 % interval by Student's t, as every table and figure shows them; no interval of one value, and NaN is
/// the mean of none.
///
/// ```
/// use seg_train::stats::mean_and_interval;
/// assert_eq!(mean_and_interval(&[0.5]), (0.5, None));
/// assert!(mean_and_interval(&[]).0.is_nan());
/// ```
pub fn mean_and_interval(values: &[f64]) -> (f64, Option<[f64; 2]>) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (
        mean,
        MeanInterval::of(values, 0.95).map(|interval| interval.t),
    )
}

/// t with P(|T| ≤ t) = level.
pub(crate) fn t_quantile(level: f64, freedom: f64) -> Option<f64> {
    Some(
        StudentsT::new(0.0, 1.0, freedom)
            .ok()?
            .inverse_cdf(f64::midpoint(1.0, level)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_the_tables() {
        assert!((t_quantile(0.95, 1.0).unwrap() - 12.706_204_736_432_095).abs() < 1e-9);
        assert!((t_quantile(0.95, 19.0).unwrap() - 2.093_024_054_408_263).abs() < 1e-11);
    }
}
