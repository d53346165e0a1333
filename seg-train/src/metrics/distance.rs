//! The exact Euclidean distance to the nearest of many pixels, in time that grows with the pixels alone.

/// The four neighbours of pixel `i`: above, left, right, below; `None` outside the image.
pub(super) fn neighbours(i: usize, [height, width]: [usize; 2]) -> [Option<usize>; 4] {
    let (y, x) = (i / width, i % width);
    [
        (y > 0).then(|| i - width),
        (x > 0).then(|| i - 1),
        (x + 1 < width).then(|| i + 1),
        (y + 1 < height).then(|| i + width),
    ]
}

/// The squared distance from every pixel's centre to that of the nearest of `marked`, row after row, infinite if none is;
/// `spacing` is the height and width of a pixel, both above zero, and the distance is in its unit.
///
/// Down every column the nearest mark is a matter of two scans. Along a row, d² = min over columns c of
/// (column's distance)² + (x − c)² is the lower envelope of parabolas, found in one scan (Felzenszwalb & Huttenlocher
/// 2012).
///
/// # Panics
///
/// If there are not `size[0] · size[1]` marks.
///
/// ```
/// use seg_train::metrics::distance::squared;
/// let marked = [true, false, false, false, false, false]; // 2 × 3
/// assert_eq!(squared(&marked, [2, 3], [2.0, 1.0]), [0.0, 1.0, 4.0, 4.0, 5.0, 8.0]);
/// ```
pub fn squared(marked: &[bool], size: [usize; 2], spacing: [f64; 2]) -> Vec<f64> {
    let [height, width] = size;
    assert_eq!(marked.len(), height * width, "a mark a pixel");
    let mut distance = down_columns(marked, size, spacing[0]);
    let mut row = Envelope::new(width, spacing[1]);
    for values in distance.chunks_exact_mut(width.max(1)) {
        row.lower(values);
    }
    distance
}

/// Whether each pixel is no further than `limit` pixels from a marked one.
pub(super) fn nearest_within(marked: &[bool], size: [usize; 2], limit: f64) -> Vec<bool> {
    let squared = squared(marked, size, [1.0; 2]);
    squared.into_iter().map(|d| d <= limit * limit).collect()
}

/// Squared distance to the nearest mark of the same column.
fn down_columns(marked: &[bool], [height, width]: [usize; 2], spacing: f64) -> Vec<f64> {
    const FAR: u32 = u32::MAX;
    let mut steps: Vec<u32> = marked
        .iter()
        .map(|&marked| if marked { 0 } else { FAR })
        .collect();
    let mut relax = |to: usize, from: usize| {
        for x in 0..width {
            let beside = steps[from * width + x].saturating_add(1);
            let here = &mut steps[to * width + x];
            *here = beside.min(*here);
        }
    };
    (1..height).for_each(|y| relax(y, y - 1));
    (1..height).rev().for_each(|y| relax(y - 1, y));
    let square = |steps: u32| match steps {
        FAR => f64::INFINITY,
        steps => (f64::from(steps) * spacing).powi(2),
    };
    steps.into_iter().map(square).collect()
}

/// The parabolas of a row that are lowest somewhere: where each begins to be, and its column.
struct Envelope {
    spacing: f64,
    parabolas: Vec<(f64, usize)>,
    heights: Vec<f64>,
}

impl Envelope {
    fn new(width: usize, spacing: f64) -> Self {
        Self {
            spacing,
            parabolas: Vec::with_capacity(width),
            heights: Vec::with_capacity(width),
        }
    }

    /// Replaces a row's values by the lowest parabola over each.
    fn lower(&mut self, row: &mut [f64]) {
        self.heights.clear();
        self.heights.extend_from_slice(row);
        self.parabolas.clear();
        for (column, &height) in self.heights.iter().enumerate() {
            if height.is_infinite() {
                continue;
            }
            let mut start = f64::NEG_INFINITY;
            while let Some(&(begins, last)) = self.parabolas.last() {
                start = self.crossing(last, column);
                if start > begins {
                    break;
                }
                self.parabolas.pop();
                start = f64::NEG_INFINITY;
            }
            self.parabolas.push((start, column));
        }
        let mut next = self.parabolas.iter().copied().peekable();
        let Some((_, mut column)) = next.next() else {
            return;
        };
        for (x, value) in row.iter_mut().enumerate() {
            while let Some((_, later)) = next.next_if(|&(start, _)| start < x as f64) {
                column = later;
            }
            let along = x.abs_diff(column) as f64 * self.spacing;
            *value = self.heights[column] + along * along;
        }
    }

    /// Where the parabola over column `b` falls below that over an earlier column `a`, in columns.
    fn crossing(&self, a: usize, b: usize) -> f64 {
        let square = self.spacing * self.spacing;
        let between = (b - a) as f64;
        let rise = self.heights[b] - self.heights[a];
        // Two columns of one height meet in the middle: nothing is lost where the image is wide.
        a as f64 + between / 2.0 + rise / (2.0 * square * between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::Rng as _;

    #[test]
    fn the_distance_is_that_of_comparing_every_pair() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        for case in 0..200 {
            let size = [
                1 + rng.random_range(0..15_usize),
                1 + rng.random_range(0..15_usize),
            ];
            let spacing = [[1.0, 1.0], [0.7, 2.5], [3.0, 0.1], [1e-3, 1e3]][case % 4];
            let share = [0.02, 0.2, 0.7][case % 3];
            let marked: Vec<bool> = (0..size[0] * size[1])
                .map(|_| rng.random::<f64>() < share)
                .collect();
            let found = squared(&marked, size, spacing);
            for (i, found) in found.into_iter().enumerate() {
                let to = |j: usize| {
                    let [y, x] = [
                        (i / size[1]).abs_diff(j / size[1]),
                        (i % size[1]).abs_diff(j % size[1]),
                    ];
                    (y as f64 * spacing[0]).powi(2) + (x as f64 * spacing[1]).powi(2)
                };
                let expected = (0..marked.len())
                    .filter(|&j| marked[j])
                    .map(to)
                    .fold(f64::INFINITY, f64::min);
                assert!(
                    found == expected || (found / expected - 1.0).abs() < 1e-14,
                    "case {case}, pixel {i}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn without_a_mark_every_distance_is_infinite() {
        assert_eq!(squared(&[false; 6], [2, 3], [1.0; 2]), [f64::INFINITY; 6]);
        assert!(squared(&[], [0, 0], [1.0; 2]).is_empty());
    }

    #[test]
    fn neighbours_end_at_the_border() {
        assert_eq!(neighbours(0, [2, 3]), [None, None, Some(1), Some(3)]);
        assert_eq!(neighbours(5, [2, 3]), [Some(2), Some(4), None, None]);
        assert_eq!(neighbours(4, [2, 3]), [Some(1), Some(3), Some(5), None]);
    }
}
