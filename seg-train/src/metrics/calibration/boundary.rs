//! Where the errors are: the pixels near the boundary of the truth.

use crate::{
    metrics::distance::{nearest_within, neighbours},
    raster::{IGNORE, NO_CLASS},
};

/// The pixels no further than `k` pixels from a change of label in the truth, row after row.
///
/// A pixel is at a change if one of its four neighbours has another label; it has distance 0, any other the Euclidean
/// distance between its centre and that of the nearest such pixel. So k = 0 is a line two pixels wide, and k = 2 a band of
/// six. [`IGNORE`] and [`NO_CLASS`] are no labels: what lies beside them is unknown, not another class.
///
/// # Panics
///
/// If there are not `size[0] · size[1]` labels.
///
/// ```
/// use seg_train::metrics::calibration::near_boundary;
/// let row = [0, 0, 0, 0, 1, 1, 255, 0]; // of a change beside what is ignored nothing is known
/// assert_eq!(near_boundary(&row, [1, 8], 0), [false, false, false, true, true, false, false, false]);
/// assert_eq!(near_boundary(&row, [1, 8], 2), [false, true, true, true, true, true, true, false]);
/// ```
pub fn near_boundary(labels: &[u8], size: [usize; 2], k: usize) -> Vec<bool> {
    let unknown = |label: u8| matches!(label, IGNORE | NO_CLASS);
    let changes: Vec<bool> = (0..labels.len())
        .map(|i| {
            !unknown(labels[i])
                && neighbours(i, size)
                    .into_iter()
                    .flatten()
                    .any(|j| labels[j] != labels[i] && !unknown(labels[j]))
        })
        .collect();
    nearest_within(&changes, size, k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    #[test]
    fn a_corner_is_rounded_as_euclid_has_it() {
        // The lower right quarter of 8 × 8 is foreground: the changes beside its corner are (3, 4) and (4, 3).
        let labels: Vec<u8> = (0..64).map(|i| u8::from(i / 8 > 3 && i % 8 > 3)).collect();
        let near = near_boundary(&labels, [8, 8], 2);
        let at = |y: usize, x: usize| near[y * 8 + x];
        // (2, 2) is √5 from both, (2, 3) is √2 from the first and (3, 3) 1 from both.
        assert_eq!(
            [at(2, 2), at(2, 3), at(3, 3), at(4, 4)],
            [false, true, true, true]
        );
        assert_eq!(
            [at(1, 7), at(0, 7), at(6, 6), at(7, 7)],
            [true, false, true, false]
        );
    }

    #[test]
    fn the_band_is_that_of_comparing_every_pair() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        for case in 0..60 {
            let size = [
                1 + rng.random_range(0..12_usize),
                1 + rng.random_range(0..12_usize),
            ];
            let labels: Vec<u8> = (0..size[0] * size[1])
                .map(|_| [0, 0, 0, 0, 0, 0, 1, 2, IGNORE, NO_CLASS][rng.random_range(0..10_usize)])
                .collect();
            let place = |i: usize| [i / size[1], i % size[1]];
            let square = |i: usize, j: usize| {
                let (a, b) = (place(i), place(j));
                a[0].abs_diff(b[0]).pow(2) + a[1].abs_diff(b[1]).pow(2)
            };
            let counts = |i: usize| labels[i] < NO_CLASS;
            let is_change = |i: usize| {
                let differs = |j| square(i, j) == 1 && counts(j) && labels[j] != labels[i];
                counts(i) && (0..labels.len()).any(differs)
            };
            for k in 0..4 {
                let expected: Vec<bool> = (0..labels.len())
                    .map(|i| (0..labels.len()).any(|j| is_change(j) && square(i, j) <= k * k))
                    .collect();
                assert_eq!(
                    near_boundary(&labels, size, k),
                    expected,
                    "case {case}, k = {k}"
                );
            }
        }
    }
}
