//! Bins of equal mass, exactly of an image and from fine cells of a data set.
//!
//! Pixels in the order of their confidence are cut into runs of equal length, the first ones one longer where it does
//! not divide. Pixels of one confidence have no order: a run that ends among them takes its share of those that were
//! right. So the figure depends on the pixels alone, not on where in the image or in which image they lie.

use super::tally::{Errors, Tally, add_all};

/// The binary orders of magnitude below ½ that are told apart; below is as good as zero.
const ORDERS: u32 = 32;

/// The bits of the mantissa that are.
const MANTISSA: u32 = 8;

/// The first cell that is not zero, as the leading bits of an f32.
const LOWEST: u32 = (126 - ORDERS) << MANTISSA;

/// Cells up to ½.
const HALF: usize = ((ORDERS as usize) << MANTISSA) + 1;

/// Pixels by confidence in 16,386 cells of fixed edges: memory that no data set grows.
///
/// An image's pixels are nearly all almost sure, so that cells of equal width would put most of them into the first and
/// the last, which many runs then share. These are as wide as min(p, 1 − p) allows: 256 a binary order of magnitude, down
/// to 2⁻³² from either end. No cell is wider than 2⁻¹⁰.
///
/// A run that is cut inside a cell takes its share of the cell's sums. If that cell holds c pixels and is δ wide, the
/// run's right ones are off by no more than c/4 and its confidence by cδ/4, since the worst order puts all right ones on
/// one side of the cut. So the gap of a run of n pixels is within (c + c′)(1 + δ)/4n of the exact one, where c and c′ are
/// its two cut cells, and exact where none is cut or a cell holds one confidence only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cells(Vec<Tally>);

impl Cells {
    pub(crate) fn new() -> Self {
        Self(vec![Tally::default(); 2 * HALF])
    }

    pub(crate) fn add(&mut self, confidence: f64, right: bool) {
        self.0[cell(confidence)].add(confidence, right);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        add_all(&mut self.0, &other.0);
    }

    /// The errors of `bins` runs.
    pub(crate) fn errors(&self, bins: usize) -> Errors {
        Errors::of(runs(&self.0, bins))
    }
}

/// The cell of a confidence; it never falls as the confidence rises.
fn cell(p: f64) -> usize {
    let below = |p: f64| {
        let leading = (p.max(0.0) as f32).to_bits() >> (23 - MANTISSA);
        leading.saturating_sub(LOWEST) as usize
    };
    if p <= 0.5 {
        below(p)
    } else {
        2 * HALF - 1 - below(1.0 - p)
    }
}

impl Errors {
    /// The errors of `bins` runs of equal mass over confidences and whether each was right, of all pixels at once: every
    /// confidence is a cell of its own, so nothing is shared but among equals.
    ///
    /// [`equal_mass`](super::equal_mass) cuts a sorted list instead, in which equal confidences keep the order that they
    /// came in.
    ///
    /// ```
    /// use seg_train::metrics::calibration::{Errors, equal_mass};
    /// let pixels = [(0.5, true), (0.5, true), (0.5, false), (0.5, false)];
    /// assert_eq!(Errors::equal_mass(pixels.to_vec(), 2).ace, Some(0.0));
    /// assert_eq!(equal_mass(&pixels, 2).unwrap().unweighted, 0.5);
    /// ```
    pub fn equal_mass(mut pixels: Vec<(f64, bool)>, bins: usize) -> Self {
        pixels.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let cells: Vec<Tally> = pixels
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| {
                let mut sums = Tally::default();
                for &(p, right) in same {
                    sums.add(p, right);
                }
                sums
            })
            .collect();
        Self::of(runs(&cells, bins))
    }
}

/// The runs, each with its pixels and its gap; a run of no pixels is none.
fn runs(cells: &[Tally], bins: usize) -> Vec<(f64, f64)> {
    let all: u64 = cells.iter().map(|cell| cell.count).sum();
    let bins = bins.max(1) as u64;
    let (short, longer) = (all / bins, all % bins);
    let mut cells = cells.iter().filter_map(|cell| Some((cell, cell.means()?)));
    let (mut left, mut means) = (0, [0.0; 2]);
    (0..bins)
        .map(|k| short + u64::from(k < longer))
        .filter(|&length| length > 0)
        .map(|length| {
            let (mut missing, mut excess) = (length, 0.0);
            while missing > 0 {
                if left == 0 {
                    // The lengths add up to the pixels of all cells, so there is one.
                    let Some((cell, of_cell)) = cells.next() else {
                        break;
                    };
                    (left, means) = (cell.count, of_cell);
                }
                let taken = left.min(missing);
                excess += taken as f64 * (means[1] - means[0]);
                (left, missing) = (left - taken, missing - taken);
            }
            (length as f64, (excess / length as f64).abs())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::calibration::equal_mass,
        rng::{Purpose, stream},
    };
    use rand::Rng as _;

    /// Pixels as a network has them: most are almost sure.
    fn pixels(seed: u64, n: usize) -> Vec<(f64, bool)> {
        let mut rng = stream(seed, Purpose::Order, 0, 0);
        let draw = |_| {
            let log_odds = 14.0 * rng.random::<f64>() - 11.0;
            let p = f64::from((1.0 / (1.0 + (-log_odds).exp())) as f32);
            (p, rng.random::<f64>() < p.powf(0.8))
        };
        (0..n).map(draw).collect()
    }

    #[test]
    fn runs_over_the_pixels_are_those_of_a_sorted_list_where_no_two_are_alike() {
        for (n, bins) in [(1, 1), (5, 7), (100, 10), (1003, 15)] {
            let pixels = pixels(n as u64, n);
            let listed = equal_mass(&pixels, bins).unwrap();
            let found = Errors::equal_mass(pixels, bins);
            assert!((found.ace.unwrap() - listed.unweighted).abs() < 1e-12);
            assert!((found.ece.unwrap() - listed.weighted).abs() < 1e-12);
        }
        assert_eq!(Errors::equal_mass(Vec::new(), 3), Errors::default());
    }

    #[test]
    fn equal_confidences_share_what_was_right() {
        let mut pixels: Vec<_> = (0..8).map(|k| (0.5, k < 4)).collect();
        // In the order of the list, one run is all right and the other all wrong.
        assert_eq!(equal_mass(&pixels, 2).unwrap().unweighted, 0.5);
        for _ in 0..8 {
            pixels.rotate_left(1);
            assert_eq!(Errors::equal_mass(pixels.clone(), 2).ace, Some(0.0));
        }
    }

    #[test]
    fn a_cell_is_narrow_beside_its_distance_from_certainty_and_confidences_keep_their_order() {
        let mut rng = stream(3, Purpose::Order, 0, 0);
        let mut last = vec![0.0_f64; 2 * HALF];
        let mut first = vec![f64::INFINITY; 2 * HALF];
        for _ in 0..400_000 {
            let far: f64 = 2_f64.powf(-1.0 - 33.0 * rng.random::<f64>());
            let p = if rng.random() { far } else { 1.0 - far };
            let at = cell(p);
            first[at] = first[at].min(p);
            last[at] = last[at].max(p);
        }
        let mut below = -1.0;
        for (at, (first, last)) in first.into_iter().zip(last).enumerate() {
            if first > last {
                continue;
            }
            assert!(first > below, "cell {at} begins at {first}, below {below}");
            below = last;
            let far = last.min(1.0 - first);
            assert!(
                last - first <= (far / 256.0 * 1.001).max(2_f64.powi(-32)),
                "cell {at} from {first} to {last}"
            );
        }
        assert_eq!([cell(0.0), cell(-1e-7), cell(1e-12)], [0; 3]);
        assert_eq!([cell(1.0), cell(1.0 + 1e-7)], [2 * HALF - 1; 2]);
        assert_eq!([cell(0.5), cell(0.5_f64.next_up())], [HALF - 1, HALF]);
    }

    #[test]
    fn cells_keep_the_promised_distance_from_the_exact_runs() {
        for (seed, n, bins) in [(0, 50, 4), (1, 3000, 10), (2, 200_000, 15)] {
            let pixels = pixels(seed, n);
            let mut cells = Cells::new();
            for &(p, right) in &pixels {
                cells.add(p, right);
            }
            let most = cells.0.iter().map(|cell| cell.count).max().unwrap();
            let bound = 2.0 * most as f64 * (1.0 + 2_f64.powi(-10)) / (4.0 * (n / bins) as f64);
            let (found, exact) = (cells.errors(bins), Errors::equal_mass(pixels, bins));
            println!("{n} pixels: bound {bound:.1e}, {found:?}, exactly {exact:?}");
            for error in [|e: &Errors| e.ece, |e: &Errors| e.ace, |e: &Errors| e.mce] {
                let off = (error(&found).unwrap() - error(&exact).unwrap()).abs();
                assert!(off <= bound, "{n} pixels: off by {off}, bound {bound}");
                assert!(n < 200_000 || off < 2e-4, "off by {off}");
            }
        }
    }

    #[test]
    fn saturated_confidences_are_cells_of_their_own_kind() {
        // Three in four pixels are sure: whole runs are cut from one cell.
        let mut pixels = pixels(4, 1000);
        pixels.extend((0..3000).map(|k| (f64::from(k % 2), k % 10 == 0)));
        let mut cells = Cells::new();
        for &(p, right) in &pixels {
            cells.add(p, right);
        }
        let (found, exact) = (cells.errors(8), Errors::equal_mass(pixels, 8));
        assert!((found.ace.unwrap() - exact.ace.unwrap()).abs() < 1e-3);
        assert!((found.mce.unwrap() - 1.0).abs() < 1e-12);
    }
}
