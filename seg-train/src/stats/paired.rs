//! The rank test of two samples whose values belong together in pairs.

use anyhow::{Result, bail};

use super::{Alternative, Ranks, Test, normal_tail};

/// The most pairs whose p-value is computed from the exact distribution, where no two differences tie and none is zero.
const MOST_EXACT: usize = 50;
/// The same where some do: `SciPy` then runs through all 2ⁿ signs, up to 2¹³ of them.
const MOST_EXACT_TIED: usize = 13;

/// Wilcoxon signed-rank test of the differences x − y.
///
/// The right test for two losses on one test set: both are measured on the same images, so the values come in pairs. The
/// paper's [`rank_sum`](super::rank_sum) takes the two samples for unrelated ones. How hard an image is then counts as
/// noise, which is mostly larger than what the losses differ by, and differences that every image shows go unseen.
///
/// As `scipy.stats.wilcoxon(x, y, zero_method="wilcox", correction=False, method="auto")`. Differences of zero are left
/// out, equal sizes share the mean of their ranks. The statistic is r₊, the sum of the ranks of the positive differences;
/// two-sided it is the smaller of r₊ and r₋. The p-value is exact up to 50 pairs, with ties or zeros up to 13; beyond
/// that it is the normal approximation, corrected for ties.
///
/// Where all differences are zero, p is 1: nothing speaks for a difference (`SciPy` gives NaN).
///
/// # Errors
///
/// If there are no pairs, a value lacks its partner, or a difference is NaN.
///
/// ```
/// use seg_train::stats::{Alternative, signed_rank};
/// // Better by little on every image: certain enough, however much the images differ.
/// let (x, y) = ([0.31, 0.52, 0.73, 0.84, 0.95], [0.30, 0.50, 0.70, 0.80, 0.90]);
/// let test = signed_rank(&x, &y, Alternative::Greater)?;
/// assert_eq!((test.statistic, test.p), (15.0, 1.0 / 32.0));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn signed_rank(x: &[f64], y: &[f64], alternative: Alternative) -> Result<Test> {
    let signed = SignedRanks::of(x, y)?;
    let statistic = match alternative {
        Alternative::TwoSided => signed.plus.min(signed.minus),
        Alternative::Less | Alternative::Greater => signed.plus,
    };
    if signed.ranks.twice.is_empty() {
        return Ok(Test { statistic, p: 1.0 });
    }
    let plain = signed.ranks.ties == 0.0 && signed.ranks.twice.len() == x.len();
    let most = if plain { MOST_EXACT } else { MOST_EXACT_TIED };
    let p = if x.len() <= most {
        exact(&signed, alternative)
    } else {
        let n = signed.ranks.twice.len() as f64;
        let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - signed.ranks.ties / 2.0) / 24.0;
        let z = (signed.plus - n * (n + 1.0) / 4.0) / variance.sqrt();
        match alternative {
            Alternative::TwoSided => 2.0 * normal_tail(z.abs()),
            Alternative::Less => normal_tail(-z),
            Alternative::Greater => normal_tail(z),
        }
    };
    Ok(Test {
        statistic,
        p: p.min(1.0),
    })
}

/// The ranks of the sizes of the differences that are not zero.
pub(super) struct SignedRanks {
    /// Sum of the ranks of the positive differences.
    pub(super) plus: f64,
    /// Sum of the ranks of the negative ones.
    pub(super) minus: f64,
    ranks: Ranks,
}

impl SignedRanks {
    pub(super) fn of(x: &[f64], y: &[f64]) -> Result<Self> {
        if x.len() != y.len() || x.is_empty() {
            bail!(
                "a paired test needs pairs of values, got {} and {}; give both samples the same images in the same order",
                x.len(),
                y.len()
            );
        }
        let differences: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
        if differences.iter().any(|d| d.is_nan()) {
            bail!(
                "a paired test cannot rank NaN; leave out images without a value in both samples"
            );
        }
        let sizes = differences.iter().filter(|&&d| d != 0.0);
        let ranks = Ranks::flagged(sizes.map(|d| (d.abs(), *d > 0.0)).collect());
        let n = ranks.twice.len() as f64;
        Ok(Self {
            plus: ranks.sum_x,
            minus: n * (n + 1.0) / 2.0 - ranks.sum_x,
            ranks,
        })
    }
}

/// The p-value over all equally likely signs of these ranks.
fn exact(signed: &SignedRanks, alternative: Alternative) -> f64 {
    let distribution = distribution(&signed.ranks.twice);
    let at = (2.0 * signed.plus) as usize;
    let less: f64 = distribution[..=at].iter().sum();
    let greater: f64 = distribution[at..].iter().sum();
    match alternative {
        Alternative::TwoSided => 2.0 * less.min(greater),
        Alternative::Less => less,
        Alternative::Greater => greater,
    }
}

/// P(2·r₊ = k), k = 0, 1, …: each rank counts or not, with probability ½. All terms are multiples of 2⁻ⁿ and their sums
/// at most 1, so up to 53 ranks nothing is rounded.
fn distribution(twice: &[usize]) -> Vec<f64> {
    let mut p = vec![0.0; twice.iter().sum::<usize>() + 1];
    p[0] = 1.0;
    let mut reached = 0;
    for &rank in twice {
        reached += rank;
        for k in (0..=reached).rev() {
            let with = if k >= rank { p[k - rank] } else { 0.0 };
            p[k] = f64::midpoint(p[k], with);
        }
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALTERNATIVES: [Alternative; 3] = [
        Alternative::TwoSided,
        Alternative::Less,
        Alternative::Greater,
    ];

    /// Whole numbers, so that differences are what they were made as. In Python, with i = numpy.arange(n):
    /// `y = (i*31) % 17; x = y + numpy.where((i*i*7 + i*3 + 1) % 11 < 6, 1, -1) * ((i*37) % 211 // coarse + lowest)`.
    fn sample(n: i32, coarse: i32, lowest: i32) -> [Vec<f64>; 2] {
        let y = |i: i32| i * 31 % 17;
        let size = |i: i32| i * 37 % 211 / coarse + lowest;
        let sign = |i: i32| {
            if (i * i * 7 + i * 3 + 1) % 11 < 6 {
                1
            } else {
                -1
            }
        };
        [
            (0..n)
                .map(|i| f64::from(y(i) + sign(i) * size(i)))
                .collect(),
            (0..n).map(|i| f64::from(y(i))).collect(),
        ]
    }

    /// `n, coarse, lowest` of a sample, its statistics two-sided and one-sided, and p two-sided, less and greater.
    type Reference = (i32, i32, i32, [f64; 2], [f64; 3]);

    /// SciPy 1.17.1: `scipy.stats.wilcoxon(x, y, zero_method="wilcox", correction=False, alternative=..., method="auto")`.
    /// Coarse 1 has distinct differences, coarse 16 ties, lowest 0 zeros.
    #[rustfmt::skip]
    #[allow(clippy::unreadable_literal)] // as Python prints them
    const SCIPY: &[Reference] = &[
        (6, 1, 1, [4.0, 17.0], [0.21875, 0.921875, 0.109375]),
        (13, 1, 1, [10.0, 81.0], [0.010498046875, 0.9959716796875, 0.0052490234375]),
        (14, 1, 1, [11.0, 94.0], [0.0067138671875, 0.99737548828125, 0.00335693359375]),
        (20, 1, 1, [45.0, 165.0], [0.023950576782226562, 0.9892578125, 0.011975288391113281]),
        (49, 1, 1, [246.0, 979.0], [0.00015975473328211365, 0.9999237048867329, 7.987736664105682e-5]),
        (50, 1, 1, [249.0, 1026.0], [9.915398697479816e-5, 0.9999526564621908, 4.957699348739908e-5]),
        (51, 1, 1, [293.0, 1033.0], [0.0005239908344855039, 0.9997380045827573, 0.00026199541724275196]),
        (200, 1, 1, [3764.0, 16336.0], [1.7201006844743244e-14, 0.9999999999999915, 8.600503422371622e-15]),
        (6, 16, 1, [4.0, 17.0], [0.21875, 0.921875, 0.109375]),
        (13, 16, 1, [9.5, 81.5], [0.008544921875, 0.9962158203125, 0.0042724609375]),
        (14, 16, 1, [10.5, 94.5], [0.008325831620960377, 0.9958370841895198, 0.004162915810480189]),
        (20, 16, 1, [44.0, 166.0], [0.02268593309236892, 0.9886570334538155, 0.01134296654618446]),
        (49, 16, 1, [250.0, 975.0], [0.0003078060094775899, 0.9998460969952612, 0.00015390300473879496]),
        (50, 16, 1, [253.0, 1022.0], [0.00020362404565053347, 0.9998981879771748, 0.00010181202282526674]),
        (51, 16, 1, [298.0, 1028.0], [0.0006175248554758292, 0.9996912375722621, 0.0003087624277379146]),
        (200, 16, 1, [3798.0, 16302.0], [2.2780650169557215e-14, 0.9999999999999886, 1.1390325084778608e-14]),
        (6, 30, 0, [3.0, 12.0], [0.3125, 0.90625, 0.15625]),
        (13, 30, 0, [5.0, 50.0], [0.021484375, 0.994140625, 0.0107421875]),
        (14, 30, 0, [6.0, 60.0], [0.01599899029834769, 0.9920005048508261, 0.007999495149173846]),
        (20, 30, 0, [33.0, 120.0], [0.038812954375928556, 0.9805935228120357, 0.019406477187964278]),
        (49, 30, 0, [174.0, 687.0], [0.000852660580208384, 0.9995736697098958, 0.000426330290104192]),
        (50, 30, 0, [177.0, 726.0], [0.0005735631315470547, 0.9997132184342264, 0.00028678156577352737]),
        (51, 30, 0, [212.5, 733.5], [0.0015994272909926391, 0.9992002863545036, 0.0007997136454963196]),
        (200, 30, 0, [2739.5, 12138.5], [5.596070687367555e-13, 0.9999999999997202, 2.7980353436837776e-13]),
    ];

    #[test]
    fn scipy_finds_the_same() {
        let mut compared = 0;
        for &(n, coarse, lowest, [two_sided, one_sided], p) in SCIPY {
            let [x, y] = sample(n, coarse, lowest);
            // The exact distribution is, the error function of the normal one has ten digits.
            let exact = n <= if coarse == 1 { 50 } else { 13 };
            let bound = if exact { 1e-14 } else { 1e-9 };
            for (alternative, p) in ALTERNATIVES.into_iter().zip(p) {
                let found = signed_rank(&x, &y, alternative).unwrap();
                let statistic = match alternative {
                    Alternative::TwoSided => two_sided,
                    _ => one_sided,
                };
                let case = format!("{n}, {coarse}, {lowest}, {alternative:?}: {found:?}");
                assert_eq!(found.statistic, statistic, "{case}");
                assert!((found.p - p).abs() <= bound * p, "{case}, expected {p:e}");
                compared += 1;
            }
        }
        assert_eq!(compared, 72);
    }

    #[test]
    fn all_signs_of_a_few_ranks_are_counted() {
        // By hand: differences 1, 1, 2, so ranks 1.5, 1.5, 3; of the 8 signs r₊ is 0, 1.5 (twice), 3 (twice), 4.5 (twice), 6.
        let eighths = distribution(&[3, 3, 6])
            .iter()
            .map(|p| 8.0 * p)
            .collect::<Vec<_>>();
        assert_eq!(
            eighths,
            [
                1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 1.0
            ]
        );
    }

    #[test]
    fn exchanging_the_samples_exchanges_the_alternatives() {
        for (n, coarse) in [(9, 1), (13, 16), (40, 16)] {
            let [x, y] = sample(n, coarse, 0);
            let p = |x: &[f64], y: &[f64], a| signed_rank(x, y, a).unwrap().p;
            let (there, back) = (
                p(&x, &y, Alternative::Less),
                p(&y, &x, Alternative::Greater),
            );
            assert!((there - back).abs() < 1e-15);
            assert_eq!(
                signed_rank(&x, &y, Alternative::TwoSided).unwrap(),
                signed_rank(&y, &x, Alternative::TwoSided).unwrap()
            );
        }
    }

    #[test]
    fn pairs_without_a_difference_speak_for_none() {
        for alternative in ALTERNATIVES {
            let test = signed_rank(&[0.5; 30], &[0.5; 30], alternative).unwrap();
            assert_eq!((test.statistic, test.p), (0.0, 1.0));
        }
    }

    #[test]
    fn what_the_images_share_hides_a_difference_from_the_unpaired_test_only() {
        let y: Vec<f64> = (0..20).map(|i| f64::from(i) / 20.0).collect();
        let x: Vec<f64> = y.iter().map(|y| y + 0.01).collect();
        assert!(signed_rank(&x, &y, Alternative::TwoSided).unwrap().p < 1e-4);
        let unpaired = super::super::rank_sum(&x, &y, Alternative::TwoSided).unwrap();
        assert!(unpaired.p > 0.5);
    }

    #[test]
    fn values_without_a_partner_are_refused() {
        let error = |x: &[f64], y: &[f64]| {
            let refused = signed_rank(x, y, Alternative::TwoSided).unwrap_err();
            refused.to_string()
        };
        for (x, y, counts) in [
            (&[1.0, 2.0][..], &[1.0][..], "2 and 1"),
            (&[], &[], "0 and 0"),
        ] {
            assert_eq!(
                error(x, y),
                format!(
                    "a paired test needs pairs of values, got {counts}; give both samples the same images in the same order"
                )
            );
        }
        let expected =
            "a paired test cannot rank NaN; leave out images without a value in both samples";
        assert_eq!(error(&[1.0, f64::NAN], &[1.0, 2.0]), expected);
        assert_eq!(error(&[f64::INFINITY], &[f64::INFINITY]), expected);
    }
}
