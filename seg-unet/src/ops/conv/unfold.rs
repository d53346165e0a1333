//! An image unfolded for a convolution: every tap of the kernel a row of the same pixels at another offset.
//!
//! The image is copied once with a border of zeros, its rows `pitch` apart. A tap's view of it is then the copy from
//! another offset on, so that unfolding is copying long rows:
//!
//! ```text
//! padded, k = 3:   0 0 0 0 0     pitch = W + k/2: the zeros right of a row are also those left of the next
//!                  0 a b c 0     unfolded[(c, i, j), t] = padded[c, t + i·pitch + j]
//!                    d e f 0     t runs over the rows with their border, whose results are dropped
//!                    0 0 0 0 …
//! ```

use candle_core::{CpuStorage, Result, WithDType};
use rayon::prelude::*;

/// Elements of an unfolded strip: about what a core's caches hold, so it is multiplied while it is near.
///
/// From 2^17 to 2^22 the step times differ by less than they vary; memory grows with it.
pub(super) const STRIP: usize = 1 << 19;

/// Where the pixels of an image lie in its padded copy.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) height: usize,
    pub(super) width: usize,
    /// Size of the kernel.
    pub(super) k: usize,
}

impl Grid {
    pub(super) fn pitch(self) -> usize {
        self.width + self.k / 2
    }

    /// Where the first pixel lies.
    pub(super) fn origin(self) -> usize {
        (self.k / 2) * (self.pitch() + 1)
    }

    /// Length of one padded channel.
    pub(super) fn len(self) -> usize {
        self.height * self.pitch() + 2 * self.origin()
    }

    pub(super) fn pixels(self) -> usize {
        self.height * self.width
    }

    /// A copy of one image with its border of zeros.
    pub(super) fn pad<T: WithDType>(self, image: &[T]) -> Vec<T> {
        let mut padded = vec![T::zero(); image.len() / self.pixels() * self.len()];
        padded
            .par_chunks_mut(self.len())
            .zip(image.par_chunks(self.pixels()))
            .for_each(|(to, from)| {
                let rows = to[self.origin()..].chunks_mut(self.pitch());
                for (to, from) in rows.zip(from.chunks(self.width)) {
                    to[..self.width].copy_from_slice(from);
                }
            });
        padded
    }

    /// Calls `f(first row, rows, unfolded)` for strip after strip of a padded image of so many channels.
    ///
    /// `unfolded` is a matrix of `channels · k²` rows and `rows · pitch` columns.
    pub(super) fn unfold<T: WithDType>(
        self,
        padded: &[T],
        channels: usize,
        mut f: impl FnMut(usize, usize, &CpuStorage) -> Result<()>,
    ) -> Result<()> {
        let taps = self.k * self.k;
        let rows_fit = (STRIP / (channels * taps * self.pitch())).clamp(1, self.height);
        let strips = self.height.div_ceil(rows_fit);
        // Strips of nearly one height, decided by the shape alone.
        let step = self.height.div_ceil(strips);
        let mut unfolded = Vec::new();
        for first in (0..self.height).step_by(step) {
            let rows = step.min(self.height - first);
            let columns = rows * self.pitch();
            unfolded.resize(channels * taps * columns, T::zero());
            unfolded
                .par_chunks_mut(taps * columns)
                .zip(padded.par_chunks(self.len()))
                .for_each(|(to, from)| {
                    for (tap, to) in to.chunks_mut(columns).enumerate() {
                        let offset = (first + tap / self.k) * self.pitch() + tap % self.k;
                        to.copy_from_slice(&from[offset..offset + columns]);
                    }
                });
            let storage = T::to_cpu_storage_owned(unfolded);
            f(first, rows, &storage)?;
            unfolded = T::cpu_storage_data(storage)?;
        }
        Ok(())
    }
}

/// Copies the rows of a product `[channels, rows · pitch]` into an image, without the border, adding `bias` if any.
pub(super) fn fold_in<T: WithDType>(
    grid: Grid,
    product: &[T],
    first: usize,
    rows: usize,
    bias: &[T],
    image: &mut [T],
) {
    let outputs = image
        .par_chunks_mut(grid.pixels())
        .zip(product.par_chunks(rows * grid.pitch()));
    outputs.enumerate().for_each(|(o, (to, from))| {
        let b = bias.get(o).copied().unwrap_or_else(T::zero);
        for (to, from) in to[first * grid.width..]
            .chunks_mut(grid.width)
            .zip(from.chunks(grid.pitch()))
        {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from + b;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfolded_rows_are_the_shifted_image() {
        let (height, width) = (3, 2);
        let image: Vec<f64> = (1..=12).map(f64::from).collect();
        for k in [1, 3, 5] {
            let grid = Grid { height, width, k };
            let mut strips = 0;
            grid.unfold(&grid.pad(&image), 2, |first, rows, unfolded| {
                strips += 1;
                let unfolded = f64::cpu_storage_as_slice(unfolded)?;
                let columns = rows * grid.pitch();
                for (row, values) in unfolded.chunks(columns).enumerate() {
                    let (c, i, j) = (row / (k * k), row / k % k, row % k);
                    for (y, x) in (0..rows).flat_map(|y| (0..width).map(move |x| (y, x))) {
                        let inside = |at: usize, by: usize, size: usize| {
                            (at + by).checked_sub(k / 2).filter(|&v| v < size)
                        };
                        let expected = match (inside(first + y, i, height), inside(x, j, width)) {
                            (Some(y), Some(x)) => image[(c * height + y) * width + x],
                            _ => 0.0,
                        };
                        assert_eq!(
                            values[y * grid.pitch() + x],
                            expected,
                            "k {k}, row {row}, pixel ({y}, {x})"
                        );
                    }
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(strips, 1);
        }
    }

    #[test]
    fn strips_cover_every_row_once() {
        let grid = Grid {
            height: 1000,
            width: 99,
            k: 3,
        };
        let padded = vec![0.0_f32; 2 * grid.len()];
        let mut next = 0;
        let mut strips = 0;
        grid.unfold(&padded, 2, |first, rows, _| {
            assert_eq!(first, next);
            (next, strips) = (first + rows, strips + 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(next, grid.height);
        assert!(strips > 1);
    }
}
