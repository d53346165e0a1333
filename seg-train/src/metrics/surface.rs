//! How far the predicted outline lies from the true one.
//!
//! A mask's surface is the pixels that its erosion by the four neighbours takes away: those with a neighbour outside the
//! mask or the image. Distances are between centres of pixels, in the unit of the spacing, from each surface pixel of one
//! mask to the nearest of the other.

use super::{
    EmptyMask,
    distance::{neighbours, squared},
};
use crate::raster::{IGNORE, Labels, NO_CLASS};
use anyhow::{Result, bail};

/// The distances of two surfaces; each figure is `None` where it is not defined.
///
/// | both masks empty | Hausdorff, average | surface Dice |
/// |---|---|---|
/// | [`EmptyMask::Agreement`], [`EmptyMask::One`] | 0 | 1 |
/// | [`EmptyMask::Zero`] | `None`: no distance is the worst | 0 |
/// | [`EmptyMask::Skip`] | `None` | `None` |
///
/// With one mask empty, there is nothing to measure a distance to: it is not zero, and infinity would be the mean of the
/// whole test set. So it is `None`, and a model that misses a structure altogether is spared its worst image: beside such
/// a mean belongs the number of images in it, or the surface Dice, which is 0 there.
///
/// ```
/// use seg_train::{metrics::{EmptyMask, Surfaces}, raster::Labels};
/// let labels = |data: [u8; 6]| Labels { height: 1, width: 6, data: data.into() };
/// let (predicted, truth) = (labels([0, 1, 0, 0, 0, 0]), labels([0, 0, 0, 1, 1, 0]));
/// let surfaces = Surfaces::between(&predicted, &truth, 1, [1.0, 0.5])?; // pixels half as wide as high
/// assert_eq!(surfaces.average_distance(EmptyMask::Skip), Some((1.0 + 1.0 + 1.5) / 3.0));
/// assert_eq!(surfaces.hausdorff(100.0, EmptyMask::Skip), Some(1.5));
/// assert_eq!(surfaces.dice(1.0, EmptyMask::Skip), Some(2.0 / 3.0));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Surfaces {
    /// From the predicted surface to the true one, then the other way round, ascending; `None` without a counted pixel.
    /// A surface with nothing to be distant from has infinite distances.
    distances: Option<[Vec<f64>; 2]>,
}

impl Surfaces {
    /// The surfaces of `class` in two label maps, `spacing` the height and width of a pixel.
    ///
    /// Pixels whose truth is [`IGNORE`] or [`NO_CLASS`] are in neither mask, and a mask does not end at them: where the
    /// truth is unknown there is no outline to be wrong about.
    ///
    /// # Errors
    ///
    /// If the maps differ in size, or the spacing is not above zero and finite.
    pub fn between(
        predicted: &Labels,
        truth: &Labels,
        class: u8,
        spacing: [f64; 2],
    ) -> Result<Self> {
        let size = [truth.height, truth.width];
        if size != [predicted.height, predicted.width] {
            bail!(
                "the predicted mask is {} × {} pixels, the true one {} × {}; resize the prediction to the truth's size first",
                predicted.height,
                predicted.width,
                truth.height,
                truth.width
            );
        }
        if !spacing.iter().all(|s| s.is_finite() && *s > 0.0) {
            bail!(
                "a pixel is said to be {} high and {} wide; both must be above zero",
                spacing[0],
                spacing[1]
            );
        }
        if !truth.data.iter().any(|&y| counts(y)) {
            return Ok(Self { distances: None });
        }
        let [a, b] = [predicted, truth].map(|mask| surface(&mask.data, &truth.data, class, size));
        let boxed = Crop::around([&a, &b], size);
        let [a, b] = [a, b].map(|surface| boxed.cut(&surface, size[1]));
        let one_way = |from: &[bool], to: &[bool]| {
            let squares = squared(to, boxed.size, spacing);
            let of_surface = from.iter().zip(squares).filter(|&(&is, _)| is);
            let mut distances: Vec<f64> = of_surface.map(|(_, square)| square.sqrt()).collect();
            distances.sort_unstable_by(f64::total_cmp);
            distances
        };
        Ok(Self {
            distances: Some([one_way(&a, &b), one_way(&b, &a)]),
        })
    }

    /// Hausdorff distance at a percentile, say 95: within it lies that share of each surface, the larger of both ways.
    ///
    /// At 100 it is Hausdorff's own, which one stray pixel decides. Between two distances it is interpolated linearly,
    /// as NumPy and MONAI do.
    pub fn hausdorff(&self, percentile: f64, empty: EmptyMask) -> Option<f64> {
        let [there, back] = self.distances.as_ref()?;
        match (there.is_empty(), back.is_empty()) {
            (false, false) => Some(f64::max(at(there, percentile), at(back, percentile))),
            (true, true) => no_distance(empty),
            _ => None,
        }
    }

    /// Average symmetric surface distance: the mean over the pixels of both surfaces.
    pub fn average_distance(&self, empty: EmptyMask) -> Option<f64> {
        let [there, back] = self.distances.as_ref()?;
        match (there.is_empty(), back.is_empty()) {
            (false, false) => {
                let sum: f64 = there.iter().chain(back).sum();
                Some(sum / (there.len() + back.len()) as f64)
            }
            (true, true) => no_distance(empty),
            _ => None,
        }
    }

    /// Normalised surface Dice: the share of both surfaces' pixels that lie within `tolerance` of the other (Nikolov et
    /// al. 2018, with pixels for pieces of surface).
    pub fn dice(&self, tolerance: f64, empty: EmptyMask) -> Option<f64> {
        let both = self.distances.as_ref()?;
        let all: usize = both.iter().map(Vec::len).sum();
        if all == 0 {
            return match empty {
                EmptyMask::Agreement | EmptyMask::One => Some(1.0),
                EmptyMask::Zero => Some(0.0),
                EmptyMask::Skip => None,
            };
        }
        let near = |way: &Vec<f64>| way.partition_point(|&d| d <= tolerance);
        Some(both.iter().map(near).sum::<usize>() as f64 / all as f64)
    }
}

fn counts(label: u8) -> bool {
    !matches!(label, IGNORE | NO_CLASS)
}

/// How distant nothing is from nothing.
fn no_distance(empty: EmptyMask) -> Option<f64> {
    matches!(empty, EmptyMask::Agreement | EmptyMask::One).then_some(0.0)
}

/// A percentile of ascending values of which there is at least one.
fn at(sorted: &[f64], percentile: f64) -> f64 {
    let place = (percentile / 100.0).clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = sorted[place as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

/// The surface of a class in `mask`, where `truth` counts.
fn surface(mask: &[u8], truth: &[u8], class: u8, size: [usize; 2]) -> Vec<bool> {
    let ends =
        |neighbour: Option<usize>| neighbour.is_none_or(|j| mask[j] != class && counts(truth[j]));
    (0..mask.len())
        .map(|i| mask[i] == class && counts(truth[i]) && neighbours(i, size).into_iter().any(ends))
        .collect()
}

/// The part of an image that holds both surfaces: no distance between them leaves it.
struct Crop {
    from: [usize; 2],
    size: [usize; 2],
}

impl Crop {
    fn around(surfaces: [&[bool]; 2], [_, width]: [usize; 2]) -> Self {
        let (mut low, mut high) = ([usize::MAX; 2], [0; 2]);
        for surface in surfaces {
            for (y, row) in surface.chunks_exact(width).enumerate() {
                let (Some(first), Some(last)) =
                    (row.iter().position(|&s| s), row.iter().rposition(|&s| s))
                else {
                    continue;
                };
                low = [low[0].min(y), low[1].min(first)];
                high = [high[0].max(y + 1), high[1].max(last + 1)];
            }
        }
        let size = [0, 1].map(|axis| high[axis].saturating_sub(low[axis]));
        Self { from: low, size }
    }

    fn cut(&self, image: &[bool], width: usize) -> Vec<bool> {
        (0..self.size[0])
            .flat_map(|y| {
                let start = (self.from[0] + y) * width + self.from[1];
                image[start..start + self.size[1]].iter().copied()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    const POLICIES: [EmptyMask; 4] = [
        EmptyMask::Agreement,
        EmptyMask::Skip,
        EmptyMask::One,
        EmptyMask::Zero,
    ];

    fn labels(size: [usize; 2], data: &[u8]) -> Labels {
        Labels {
            height: size[0],
            width: size[1],
            data: data.to_vec(),
        }
    }

    /// A filled rectangle, rows and columns as half-open ranges.
    fn rectangle(size: [usize; 2], rows: [usize; 2], columns: [usize; 2]) -> Labels {
        let inside = |i: usize| {
            let (y, x) = (i / size[1], i % size[1]);
            rows[0] <= y && y < rows[1] && columns[0] <= x && x < columns[1]
        };
        let data: Vec<u8> = (0..size[0] * size[1])
            .map(|i| u8::from(inside(i)))
            .collect();
        labels(size, &data)
    }

    fn figures(surfaces: &Surfaces, empty: EmptyMask) -> [Option<f64>; 3] {
        [
            surfaces.hausdorff(95.0, empty),
            surfaces.average_distance(empty),
            surfaces.dice(1.0, empty),
        ]
    }

    #[test]
    fn a_square_moved_by_two_columns_checked_by_hand() {
        let size = [12, 14];
        let (a, b) = (
            rectangle(size, [3, 9], [2, 8]),
            rectangle(size, [3, 9], [4, 10]),
        );
        let s = Surfaces::between(&a, &b, 1, [1.0, 3.0]).unwrap();
        // The left side, six pixels, is two columns from that of the other; above and below, two pixels are one column
        // from it and eight upon it; the right side, four pixels, lies inside the other, one or two rows from its ends.
        let expected = [
            [0.0; 8].as_slice(),
            &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
            &[6.0; 6],
        ]
        .concat();
        assert_eq!(s.distances, Some([expected.clone(), expected]));
        assert_eq!(s.average_distance(EmptyMask::Skip), Some(48.0 / 20.0));
        assert_eq!(s.hausdorff(100.0, EmptyMask::Skip), Some(6.0));
        assert!((s.hausdorff(70.0, EmptyMask::Skip).unwrap() - 3.9).abs() < 1e-12);
        assert_eq!(s.dice(1.0, EmptyMask::Skip), Some(0.5));
        assert_eq!(s.dice(0.99, EmptyMask::Skip), Some(0.4));
    }

    #[test]
    fn the_surface_is_what_erosion_takes_and_ends_at_the_border_of_the_image() {
        let full = rectangle([4, 5], [0, 4], [0, 5]);
        let found = surface(&full.data, &full.data, 1, [4, 5]);
        assert_eq!(found.iter().filter(|&&s| s).count(), 14);
        assert!(!found[6] && !found[13] && found[5] && found[9]);
    }

    #[test]
    fn what_is_ignored_is_no_outline() {
        // The right half is unknown: the mask does not end there, whatever the prediction says about it.
        let truth = labels([1, 6], &[0, 0, 1, IGNORE, NO_CLASS, IGNORE]);
        for unknown in [0, 1] {
            let predicted = labels([1, 6], &[0, 0, 1, unknown, unknown, 1 - unknown]);
            let s = Surfaces::between(&predicted, &truth, 1, [1.0; 2]).unwrap();
            assert_eq!(s.distances, Some([vec![0.0], vec![0.0]]));
        }
        let inside = labels([3, 3], &[255, 255, 255, 255, 1, 255, 255, 255, 255]);
        let found = surface(&inside.data, &inside.data, 1, [3, 3]);
        assert_eq!(found, [false; 9]);
    }

    #[test]
    fn empty_masks_follow_the_policy_only_where_both_are() {
        let (none, some) = (labels([1, 3], &[0; 3]), labels([1, 3], &[0, 1, 0]));
        let both = Surfaces::between(&none, &none, 1, [1.0; 2]).unwrap();
        let expected = [
            [Some(0.0), Some(0.0), Some(1.0)],
            [None; 3],
            [Some(0.0), Some(0.0), Some(1.0)],
            [None, None, Some(0.0)],
        ];
        for (empty, expected) in POLICIES.into_iter().zip(expected) {
            assert_eq!(figures(&both, empty), expected, "{empty:?}");
            for (a, b) in [(&none, &some), (&some, &none)] {
                let one = Surfaces::between(a, b, 1, [1.0; 2]).unwrap();
                assert_eq!(figures(&one, empty), [None, None, Some(0.0)], "{empty:?}");
            }
            let unknown = labels([1, 3], &[IGNORE; 3]);
            let nothing = Surfaces::between(&some, &unknown, 1, [1.0; 2]).unwrap();
            assert_eq!(figures(&nothing, empty), [None; 3], "{empty:?}");
        }
    }

    #[test]
    fn the_figures_are_those_of_comparing_every_pair() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        for case in 0..100 {
            let size = [
                1 + rng.random_range(0..14_usize),
                1 + rng.random_range(0..14_usize),
            ];
            let spacing = [[1.0, 1.0], [0.5, 2.0], [1.7, 0.3]][case % 3];
            let share = [0.1, 0.5, 0.9][case % 3];
            let mut draw = || {
                let data = (0..size[0] * size[1]).map(|_| u8::from(rng.random::<f64>() < share));
                labels(size, &data.collect::<Vec<_>>())
            };
            let (a, b) = (draw(), draw());
            let outline = |mask: &Labels| -> Vec<[usize; 2]> {
                let is = |y: isize, x: isize| {
                    y >= 0
                        && x >= 0
                        && y < size[0] as isize
                        && x < size[1] as isize
                        && mask.data[y as usize * size[1] + x as usize] == 1
                };
                (0..size[0] as isize)
                    .flat_map(|y| (0..size[1] as isize).map(move |x| (y, x)))
                    .filter(|&(y, x)| {
                        is(y, x) && !(is(y - 1, x) && is(y + 1, x) && is(y, x - 1) && is(y, x + 1))
                    })
                    .map(|(y, x)| [y as usize, x as usize])
                    .collect()
            };
            let (outline_a, outline_b) = (outline(&a), outline(&b));
            let far = |p: &[usize; 2], q: &[usize; 2]| {
                let along = |axis: usize| p[axis].abs_diff(q[axis]) as f64 * spacing[axis];
                along(0).hypot(along(1))
            };
            let way = |from: &[[usize; 2]], to: &[[usize; 2]]| {
                let nearest = |p| to.iter().map(|q| far(p, q)).fold(f64::INFINITY, f64::min);
                let mut all: Vec<f64> = from.iter().map(nearest).collect();
                all.sort_unstable_by(f64::total_cmp);
                all
            };
            let expected = [way(&outline_a, &outline_b), way(&outline_b, &outline_a)];
            let found = Surfaces::between(&a, &b, 1, spacing).unwrap();
            for (found, expected) in found.distances.unwrap().iter().zip(expected) {
                assert_eq!(found.len(), expected.len(), "case {case}");
                for (f, e) in found.iter().zip(expected) {
                    assert!(
                        *f == e || (f - e).abs() < 1e-12,
                        "case {case}: {f}, expected {e}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_percentile_lies_linearly_between_its_neighbours() {
        let values = [0.0, 1.0, 3.0, 7.0, 9.0];
        let expected = [
            (0.0, 0.0),
            (50.0, 3.0),
            (60.0, 4.6),
            (95.0, 8.6),
            (100.0, 9.0),
        ];
        for (percentile, expected) in expected {
            assert!(
                (at(&values, percentile) - expected).abs() < 1e-12,
                "{percentile}"
            );
        }
        assert_eq!(at(&[2.0], 95.0), 2.0);
    }

    #[test]
    fn sizes_and_spacings_that_cannot_be_are_named() {
        let (a, b) = (labels([1, 2], &[0; 2]), labels([2, 1], &[0; 2]));
        let error = |truth: &Labels, spacing| {
            let found = Surfaces::between(&a, truth, 1, spacing);
            found.unwrap_err().to_string()
        };
        assert_eq!(
            error(&b, [1.0; 2]),
            "the predicted mask is 1 × 2 pixels, the true one 2 × 1; resize the prediction to the truth's size first"
        );
        assert_eq!(
            error(&a, [1.0, 0.0]),
            "a pixel is said to be 1 high and 0 wide; both must be above zero"
        );
        assert!(error(&a, [f64::NAN, 1.0]).starts_with("a pixel is said to be NaN high"));
    }
}
