//! Nuclei with their boundaries: three classes from a mask a nucleus.
//!
//! A union of masks cannot say where one nucleus ends and its neighbour begins. The third class can: it is drawn along
//! every nucleus before they are united, between two that touch as well as towards the background (as U-Nets for nuclei
//! are taught, Caicedo et al. 2019). Where a boundary lies is also what annotators agree on least, and so the class whose
//! probabilities are worth most.

use serde::{Deserialize, Serialize};

use crate::raster::Labels;

/// What the masks of an image with a mask a nucleus become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NucleusLabels {
    /// 0 background, 1 nucleus: the union of the masks, as the paper reads them.
    #[default]
    Union,
    /// 0 background, 1 inside of a nucleus, 2 its boundary: the pixels of a nucleus within [`boundary_width`] of one that
    /// is not of the same nucleus.
    Boundary,
}

impl NucleusLabels {
    /// The number of classes, the background included.
    pub fn classes(self) -> usize {
        match self {
            Self::Union => 2,
            Self::Boundary => 3,
        }
    }
}

/// The network's side for which a boundary is one pixel wide.
pub const BOUNDARY_SIDE: usize = 128;

/// The width of a boundary in pixels of an image of this height and width, at least one: its shorter side over
/// [`BOUNDARY_SIDE`], rounded.
///
/// Labels are brought to the network's size by the nearest neighbour, so that a boundary of fixed width would fall
/// between the pixels that are kept, by chance and all the more the larger the image. One that grows with the image
/// stays a closed line of one pixel at 128 × 128 and of two at 256 × 256. At the sizes of dsb2018:
///
/// ```
/// use seg_train::data::boundary_width;
/// let sizes = [[64, 64], [256, 256], [256, 320], [520, 696], [1040, 1388]];
/// assert_eq!(sizes.map(boundary_width), [1, 2, 2, 4, 8]);
/// ```
pub fn boundary_width([height, width]: [usize; 2]) -> usize {
    let side = height.min(width);
    ((side + BOUNDARY_SIDE / 2) / BOUNDARY_SIDE).max(1)
}

/// Draws one nucleus: its inside as 1, its boundary as 2, which nothing overwrites. The image's border is no boundary:
/// there the nucleus goes on.
pub(super) fn draw(labels: &mut Labels, is_nucleus: impl Fn(usize) -> bool) {
    let (height, width) = (labels.height, labels.width);
    let reach = boundary_width([height, width]);
    let within = |y: usize, x: usize| is_nucleus(y * width + x);
    let Some([top, bottom, left, right]) = bounds(height, width, within) else {
        return;
    };
    let near = |i: usize, side: usize| i.saturating_sub(reach)..(i + reach + 1).min(side);
    // A pixel is inside if its square of reach is all nucleus: first along the rows, then along the columns.
    let columns = right + 1 - left;
    let rows = near(top, height).start..near(bottom, height).end;
    let (first, mut along) = (rows.start, Vec::with_capacity(rows.len() * columns));
    for y in rows {
        along.extend((left..=right).map(|x| near(x, width).all(|x| within(y, x))));
    }
    for y in top..=bottom {
        for x in left..=right {
            if within(y, x) {
                let inside = near(y, height).all(|y| along[(y - first) * columns + x - left]);
                let label = &mut labels.data[y * width + x];
                *label = (*label).max(if inside { 1 } else { 2 });
            }
        }
    }
}

/// The first and the last row, and the first and the last column, of a nucleus that has a pixel.
fn bounds(
    height: usize,
    width: usize,
    within: impl Fn(usize, usize) -> bool,
) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for y in 0..height {
        for x in (0..width).filter(|&x| within(y, x)) {
            let [top, bottom, left, right] = found.unwrap_or([y, y, x, x]);
            found = Some([top, bottom.max(y), left.min(x), right.max(x)]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The labels of an image drawn with a letter a nucleus, each a digit.
    fn drawn(image: &[&str], nuclei: &[u8]) -> Vec<String> {
        let (height, width) = (image.len(), image[0].len());
        let letters: Vec<u8> = image.concat().into_bytes();
        let mut labels = Labels {
            height,
            width,
            data: vec![0; height * width],
        };
        for nucleus in nuclei {
            draw(&mut labels, |i| letters[i] == *nucleus);
        }
        labels
            .data
            .chunks(width)
            .map(|row| row.iter().map(|l| char::from(b'0' + l)).collect())
            .collect()
    }

    #[test]
    fn touching_nuclei_are_parted_and_the_images_border_is_no_boundary() {
        let found = drawn(
            &[
                "..........",
                ".aaaabbbb.",
                ".aaaabbbb.",
                ".aaaabbbb.",
                "......bbbb",
                "cc....bbbb",
                "cc....bbbb",
            ],
            b"abc",
        );
        assert_eq!(
            found,
            [
                "0000000000",
                "0222222220",
                "0211221120",
                "0222222120",
                "0000002122",
                "2200002111",
                "1200002111",
            ]
        );
    }

    #[test]
    fn the_order_of_the_masks_and_an_empty_one_change_nothing() {
        let image = ["aabb", "aabb", "aabb", "aabb"];
        assert_eq!(drawn(&image, b"ab"), ["1221"; 4]);
        assert_eq!(drawn(&image, b"ba"), ["1221"; 4]);
        assert_eq!(drawn(&image, b"za"), ["1200"; 4]);
    }

    #[test]
    fn the_chessboard_distance_counts() {
        // The pixel in the middle touches the background by a corner only.
        let found = drawn(&["aaaa", "aaaa", "aaa."], b"a");
        assert_eq!(found, ["1111", "1122", "1120"]);
    }

    #[test]
    fn boundaries_of_large_images_survive_at_the_networks_size() {
        use crate::resample::resize_labels;
        for side in [256, 512, 1024] {
            let (first, last) = (side / 4, 3 * side / 4);
            let mut labels = Labels {
                height: side,
                width: side,
                data: vec![0; side * side],
            };
            draw(&mut labels, |i| {
                [i / side, i % side]
                    .iter()
                    .all(|at| (first..last).contains(at))
            });
            let small = resize_labels(&labels, [BOUNDARY_SIDE; 2]);
            let square = |y: usize, x: usize| match [y, x].map(|at| at.clamp(32, 95) == at) {
                [true, true] if [y, x].iter().any(|at| [32, 95].contains(at)) => 2,
                [true, true] => 1,
                _ => 0,
            };
            let expected: Vec<u8> = (0..BOUNDARY_SIDE * BOUNDARY_SIDE)
                .map(|i| square(i / BOUNDARY_SIDE, i % BOUNDARY_SIDE))
                .collect();
            assert_eq!(small.data, expected, "a closed line around a square of 64");
        }
    }
}
