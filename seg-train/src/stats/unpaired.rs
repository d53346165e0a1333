//! Rank tests of two samples that have nothing to do with each other.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{Alternative, Ranks, Test, normal_tail};

/// Wilcoxon rank-sum test, the paper's; the statistic is z.
///
/// As `scipy.stats.ranksums`: normal approximation, without correction for ties or continuity. Average ranks for ties.
///
/// # Errors
///
/// If a sample is empty or holds a NaN.
///
/// ```
/// use seg_train::stats::{Alternative, rank_sum};
/// let test = rank_sum(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], Alternative::TwoSided)?;
/// assert!((test.statistic + 1.963_961).abs() < 1e-6);
/// assert!((test.p - 0.049_535).abs() < 1e-6);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn rank_sum(x: &[f64], y: &[f64], alternative: Alternative) -> Result<Test> {
    let ranks = Ranks::of(x, y)?;
    let (n, m) = (x.len() as f64, y.len() as f64);
    let z = (ranks.sum_x - n * (n + m + 1.0) / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt();
    let p = match alternative {
        Alternative::TwoSided => 2.0 * normal_tail(z.abs()),
        Alternative::Less => normal_tail(-z),
        Alternative::Greater => normal_tail(z),
    };
    Ok(Test { statistic: z, p })
}

/// How [`mann_whitney`] finds its p-value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Normal approximation, corrected for ties and for continuity (½ towards the mean).
    Asymptotic,
    /// The same without the correction for continuity.
    AsymptoticUncorrected,
    /// The distribution over all orders of the values, supposing that there are no ties (with ties: an approximation).
    Exact,
}

/// The most pairs n·m that [`Method::Exact`] takes: time grows with their square.
pub const MOST_EXACT_PAIRS: usize = 20_000;

/// Mann-Whitney U test; the statistic is U of the first sample: the pairs in which its value is the larger, ties half.
///
/// As `scipy.stats.mannwhitneyu` with the same method.
///
/// # Errors
///
/// If a sample is empty or holds a NaN, or is too large for the exact method.
///
/// ```
/// use seg_train::stats::{Alternative, Method, mann_whitney};
/// let test = mann_whitney(&[1.0, 2.0], &[3.0, 4.0, 5.0], Alternative::Less, Method::Exact)?;
/// assert_eq!(test.statistic, 0.0);
/// assert!((test.p - 0.1).abs() < 1e-15); // one order in ten is as extreme
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn mann_whitney(
    x: &[f64],
    y: &[f64],
    alternative: Alternative,
    method: Method,
) -> Result<Test> {
    let ranks = Ranks::of(x, y)?;
    let (n, m) = (x.len() as f64, y.len() as f64);
    let u_x = ranks.sum_x - n * (n + 1.0) / 2.0;
    let u_y = n * m - u_x;
    // Every alternative is an upper tail of one of the two: that the larger U is large, or a named one.
    let (u, sides) = match alternative {
        Alternative::TwoSided => (u_x.max(u_y), 2.0),
        Alternative::Less => (u_y, 1.0),
        Alternative::Greater => (u_x, 1.0),
    };
    let tail = match method {
        Method::Exact => {
            let pairs = x.len() * y.len();
            if pairs > MOST_EXACT_PAIRS {
                bail!(
                    "the exact test of {} against {} values has {pairs} pairs, more than {MOST_EXACT_PAIRS}; use the asymptotic method",
                    x.len(),
                    y.len()
                );
            }
            // Ties can make U a half-integer; rounded down, as SciPy does, the p-value errs on the safe side.
            u_distribution(x.len(), y.len())[u.floor() as usize..]
                .iter()
                .sum()
        }
        Method::Asymptotic | Method::AsymptoticUncorrected => {
            let all = n + m;
            let variance = n * m / 12.0 * ((all + 1.0) - ranks.ties / (all * (all - 1.0)));
            let half = if method == Method::Asymptotic {
                0.5
            } else {
                0.0
            };
            normal_tail((u - n * m / 2.0 - half) / variance.sqrt())
        }
    };
    Ok(Test {
        statistic: u_x,
        p: (sides * tail).clamp(0.0, 1.0),
    })
}

/// P(U = u), u = 0 … nm, over all equally likely orders of n and m distinct values.
///
/// The largest value belongs to the first sample with probability n/(n+m), and then beats all m of the second. All
/// terms are positive, so nothing cancels, and they are probabilities, so nothing overflows as counts of orders would.
fn u_distribution(n: usize, m: usize) -> Vec<f64> {
    // rows[i] is the distribution for i against j values; j grows.
    let mut rows = vec![vec![1.0]; n + 1];
    for j in 1..=m {
        for i in 1..=n {
            let (take, leave) = (i as f64 / (i + j) as f64, j as f64 / (i + j) as f64);
            let mut next = vec![0.0; i * j + 1];
            for (u, p) in rows[i - 1].iter().enumerate() {
                next[u + j] += take * p;
            }
            for (u, p) in rows[i].iter().enumerate() {
                next[u] += leave * p;
            }
            rows[i] = next;
        }
    }
    rows.swap_remove(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_of_u_counts_orders() {
        // Two against two: of the six orders U is 0, 1, 2, 2, 3, 4.
        let expected = [1.0, 1.0, 2.0, 1.0, 1.0].map(|c: f64| c / 6.0);
        for (p, e) in u_distribution(2, 2).iter().zip(expected) {
            assert!((p - e).abs() < 1e-16);
        }
        let p = u_distribution(30, 41);
        assert_eq!(p.len(), 30 * 41 + 1);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(
            p.iter()
                .zip(p.iter().rev())
                .all(|(a, b)| (a - b).abs() <= 1e-12 * a)
        );
    }

    #[test]
    fn exchanging_the_samples_exchanges_the_alternatives() {
        let (x, y) = ([0.3, 0.5, 0.5, 0.9], [0.1, 0.5, 0.2]);
        for method in [
            Method::Asymptotic,
            Method::AsymptoticUncorrected,
            Method::Exact,
        ] {
            let there = mann_whitney(&x, &y, Alternative::Greater, method).unwrap();
            let back = mann_whitney(&y, &x, Alternative::Less, method).unwrap();
            assert!((there.p - back.p).abs() < 1e-14);
            assert_eq!(there.statistic + back.statistic, 12.0);
        }
        let there = rank_sum(&x, &y, Alternative::Greater).unwrap();
        assert!((there.p - rank_sum(&y, &x, Alternative::Less).unwrap().p).abs() < 1e-14);
    }

    #[test]
    fn a_far_tail_keeps_its_digits() {
        let x: Vec<f64> = (0..200).map(f64::from).collect();
        let y: Vec<f64> = (200..400).map(f64::from).collect();
        let p = rank_sum(&x, &y, Alternative::Greater).unwrap().p;
        assert_eq!(p, 1.0);
        let p = rank_sum(&x, &y, Alternative::Less).unwrap().p;
        assert!(p > 0.0 && p < 1e-60, "{p}");
    }

    #[test]
    fn samples_that_cannot_be_ranked_are_refused() {
        let error = rank_sum(&[], &[1.0], Alternative::TwoSided).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a rank test needs values in both samples, got 0 and 1"
        );
        let error = rank_sum(&[f64::NAN], &[1.0], Alternative::TwoSided).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a rank test cannot order NaN; leave out images without a value"
        );
        let many = vec![0.0; 200];
        let error = mann_whitney(&many, &many, Alternative::TwoSided, Method::Exact).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the exact test of 200 against 200 values has 40000 pairs, more than 20000; use the asymptotic method"
        );
    }

    /// What statrs 0.19.1 asserts of its own `stats_tests::mannwhitneyu`, where that is defined (its exact method takes no
    /// ties). The function itself is behind a feature that would bring a linear algebra library along.
    #[test]
    fn statrs_finds_the_same() {
        use Alternative::{Greater, Less, TwoSided};
        type Case<'a> = (&'a [f64], &'a [f64], Method, Alternative, f64, f64);
        let (male, female) = ([19., 22., 16., 29., 24.], [20., 11., 17., 12.]);
        let (eight, four) = ([5., 2., 7., 8., 9., 3., 11., 12.], [1., 6., 10., 4.]);
        let cases: [Case<'_>; 10] = [
            (&male, &female, Method::Exact, TwoSided, 17.0, 1.0 / 9.0),
            (
                &male,
                &female,
                Method::Exact,
                Less,
                17.0,
                0.968_253_968_253_968_3,
            ),
            (
                &male,
                &female,
                Method::Asymptotic,
                TwoSided,
                17.0,
                0.111_346_886_533_140_4,
            ),
            (
                &male,
                &female,
                Method::Asymptotic,
                Greater,
                17.0,
                0.055_673_443_266_570_2,
            ),
            (
                &male,
                &female,
                Method::AsymptoticUncorrected,
                Less,
                17.0,
                0.956_794_633_513_15,
            ),
            (
                &eight,
                &four,
                Method::Exact,
                Greater,
                21.0,
                0.230_303_030_303_030_3,
            ),
            (
                &eight,
                &four,
                Method::Exact,
                Less,
                21.0,
                0.816_161_616_161_616_1,
            ),
            (
                &eight,
                &four,
                Method::Exact,
                TwoSided,
                21.0,
                0.460_606_060_606_060_6,
            ),
            (&[1.], &[2.], Method::Asymptotic, Less, 0.0, 0.5),
            (&female, &male, Method::Exact, TwoSided, 3.0, 1.0 / 9.0),
        ];
        for (x, y, method, alternative, statistic, p) in cases {
            let found = mann_whitney(x, y, alternative, method).unwrap();
            assert_eq!(found.statistic, statistic);
            let case = format!("{method:?}, {alternative:?}: {} and {p}", found.p);
            assert!((found.p - p).abs() < 1e-10, "{case}");
        }
    }
}
