//! Intervals, tests and effect sizes for comparing models over the images of a test set.
//!
//! The paper reports 95 % intervals of the mean and Wilcoxon rank-sum tests. The functions follow `SciPy`'s, whose
//! meaning of every option they bear, so that numbers can be checked there.
//!
//! | question | what answers it |
//! |---|---|
//! | how large is the mean, how sure is that | [`MeanInterval`], [`bootstrap_mean`] |
//! | do two losses differ, as the paper asks it | [`rank_sum`], [`mann_whitney`]; how much: [`cliffs_delta`] |
//! | do two losses differ on the same images | [`signed_rank`], [`MeanInterval`] of the differences; how much: [`matched_rank_biserial`] |
//! | does anything differ, when many pairs are tested | [`holm`] |

mod bootstrap;
mod effect;
mod interval;
mod multiple;
mod paired;
mod unpaired;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use statrs::function::erf::{erfc, erfc_inv};
use std::f64::consts::SQRT_2;

pub use bootstrap::bootstrap_mean;
pub use effect::{cliffs_delta, matched_rank_biserial};
pub(crate) use interval::t_quantile;
pub use interval::{MeanInterval, mean_and_interval};
pub use multiple::holm;
pub use paired::signed_rank;
pub use unpaired::{MOST_EXACT_PAIRS, Method, mann_whitney, rank_sum};

/// Which way the first sample is suspected to differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alternative {
    /// Either way.
    #[default]
    TwoSided,
    /// The first sample tends to be smaller.
    Less,
    /// The first sample tends to be larger.
    Greater,
}

/// A test's statistic and p-value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// The statistic; which one, the test says.
    pub statistic: f64,
    /// Probability of one at least as extreme if both samples come from one distribution.
    pub p: f64,
}

/// z with P(|Z| ≤ z) = level.
fn normal_quantile(level: f64) -> f64 {
    SQRT_2 * erfc_inv(1.0 - level)
}

/// P(Z ≥ z). By erfc, so that far tails keep their digits where 1 − Φ would be 0.
fn normal_tail(z: f64) -> f64 {
    0.5 * erfc(z / SQRT_2)
}

/// Average ranks of the values of two samples put together, as far as the tests need them.
struct Ranks {
    /// Sum of the first sample's ranks, counted from 1.
    sum_x: f64,
    /// Σ (t³ − t) over the groups of t equal values.
    ties: f64,
    /// Twice every rank, ascending: whole numbers, since ties share halves at most.
    twice: Vec<usize>,
}

impl Ranks {
    fn of(x: &[f64], y: &[f64]) -> Result<Self> {
        if x.is_empty() || y.is_empty() {
            bail!(
                "a rank test needs values in both samples, got {} and {}",
                x.len(),
                y.len()
            );
        }
        if x.iter().chain(y).any(|v| v.is_nan()) {
            bail!("a rank test cannot order NaN; leave out images without a value");
        }
        let of_x = x.iter().map(|&v| (v, true));
        Ok(Self::flagged(
            of_x.chain(y.iter().map(|&v| (v, false))).collect(),
        ))
    }

    /// The ranks of values of which some, flagged, are the first sample's; none may be NaN.
    fn flagged(mut all: Vec<(f64, bool)>) -> Self {
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut sum_x, mut ties, mut twice) = (0.0, 0.0, Vec::with_capacity(all.len()));
        // Not by total_cmp: −0 and 0 are one value.
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            let doubled = 2 * twice.len() + group.len() + 1;
            let t = group.len() as f64;
            sum_x += doubled as f64 / 2.0 * group.iter().filter(|&&(_, of_x)| of_x).count() as f64;
            ties += t * t * t - t;
            twice.extend(std::iter::repeat_n(doubled, group.len()));
        }
        Self { sum_x, ties, twice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_the_tables() {
        assert!((normal_quantile(0.95) - 1.959_963_984_540_054).abs() < 1e-12);
    }

    #[test]
    fn equal_values_share_the_mean_of_their_ranks() {
        let ranks = Ranks::of(&[0.0, 5.0, 2.0], &[-0.0, 2.0, 2.0, 9.0]).unwrap();
        assert_eq!(ranks.twice, [3, 3, 8, 8, 8, 12, 14]);
        assert_eq!(ranks.sum_x, 1.5 + 4.0 + 6.0);
        assert_eq!(ranks.ties, (8.0 - 2.0) + (27.0 - 3.0));
    }
}
