//! What a convolution reads: feature maps, joined along the channels and normalised on the way.

use super::{
    lanes::{Block, Lanes},
    maps::{Size, Span, spans},
    winograd::Tile,
};

/// scale · x + shift of each channel of each image: `[C/16][N]` pairs.
pub(crate) type Affine<R> = Vec<[Block<R>; 2]>;

/// One of the tensors that are joined.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a, R> {
    pub(crate) maps: &'a [Block<R>],
    pub(crate) channels: usize,
    /// Instance norm, if the maps hold what is yet to be normalised.
    pub(crate) affine: Option<&'a Affine<R>>,
}

/// Feature maps that lie in one or more tensors of one size: nobody copies them into one.
pub(crate) struct Source<'a, R> {
    pub(crate) size: Size,
    pub(crate) parts: Vec<Part<'a, R>>,
}

/// A block of channels of all images.
#[derive(Clone, Copy)]
pub(crate) struct Planes<'a, R> {
    pub(crate) maps: &'a [Block<R>],
    pub(crate) affine: Option<&'a [[Block<R>; 2]]>,
}

impl<'a, R> Source<'a, R> {
    pub(crate) fn channels(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.channels).collect()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        spans(&self.channels())
    }

    pub(crate) fn planes(&self) -> Vec<Planes<'a, R>> {
        let mut planes = Vec::new();
        for part in &self.parts {
            let affine = |i: usize| part.affine.map(|a| &a[i * self.size.n..][..self.size.n]);
            let maps = part.maps.chunks_exact(self.size.pixels()).enumerate();
            planes.extend(maps.map(|(i, maps)| Planes {
                maps,
                affine: affine(i),
            }));
        }
        planes
    }
}

/// Tiles side by side in one row of one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) image: usize,
    pub(crate) y: usize,
    pub(crate) x: usize,
    pub(crate) count: usize,
}

/// How images are cut into tiles of M × M outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(crate) size: Size,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Tiling {
    pub(crate) fn new<T: Tile>(size: Size) -> Self {
        Self {
            size,
            rows: size.h.div_ceil(T::M),
            columns: size.w.div_ceil(T::M),
        }
    }

    /// Tiles of one image.
    pub(crate) fn of_image(&self) -> usize {
        self.rows * self.columns
    }

    /// Tiles of all images.
    pub(crate) fn count(&self) -> usize {
        self.size.n * self.of_image()
    }

    /// The tiles from `first` on, row by row: the place of each run among them, and the run.
    pub(crate) fn runs(
        self,
        first: usize,
        count: usize,
        longest: usize,
    ) -> impl Iterator<Item = (usize, Run)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == count {
                return None;
            }
            let tile = first + done;
            let (image, tile) = (tile / self.of_image(), tile % self.of_image());
            let (y, x) = (tile / self.columns, tile % self.columns);
            let run = Run {
                image,
                y,
                x,
                count: (self.columns - x).min(count - done).min(longest),
            };
            let at = done;
            done += run.count;
            Some((at, run))
        })
    }
}

/// The longest run that [`transform`] takes: its rows then stay in the innermost cache.
pub(crate) const LONGEST_RUN: usize = 14;
/// Room that [`transform`] needs.
pub(crate) const COLUMNS: usize = 6 * (4 * LONGEST_RUN + 2);

#[inline(always)]
fn inside(x: isize, end: usize) -> bool {
    0 <= x && x < end as isize
}

/// Bᵀ d B of a run of tiles and one block of channels, zero outside the image; product k of tile t to
/// `v[k · stride + t]`.
#[inline(always)]
pub(crate) fn transform<L: Lanes, T: Tile>(
    planes: Planes<'_, L::Real>,
    size: Size,
    run: Run,
    columns: &mut [Block<L::Real>],
    v: &mut [Block<L::Real>],
    stride: usize,
) {
    let maps = &planes.maps[run.image * size.area()..][..size.area()];
    let affine = match planes.affine {
        Some(affine) => {
            let [scale, shift] = &affine[run.image];
            Some((L::load(scale), L::load(shift)))
        }
        None => None,
    };
    // Down the columns first, once for tiles that share one.
    let width = run.count * T::M + 2;
    let columns = &mut columns[..T::N * width];
    let (top, left) = ((run.y * T::M) as isize - 1, (run.x * T::M) as isize - 1);
    let whole = inside(top, size.h) && inside(top + T::N as isize - 1, size.h);
    for i in 0..width {
        let x = left + i as isize;
        let mut d = [L::zero(); 6];
        if inside(x, size.w) {
            if whole {
                let maps = &maps[top as usize * size.w + x as usize..];
                for (j, d) in d.iter_mut().enumerate().take(T::N) {
                    *d = L::load(&maps[j * size.w]);
                }
                if let Some((scale, shift)) = affine {
                    for d in &mut d {
                        *d = d.fma(scale, shift);
                    }
                }
            } else {
                for (j, d) in d.iter_mut().enumerate().take(T::N) {
                    let y = top + j as isize;
                    if inside(y, size.h) {
                        *d = L::load(&maps[y as usize * size.w + x as usize]);
                        if let Some((scale, shift)) = affine {
                            *d = d.fma(scale, shift);
                        }
                    }
                }
            }
        }
        for (j, d) in T::input(d).into_iter().enumerate().take(T::N) {
            d.store(&mut columns[j * width + i]);
        }
    }
    for (j, row) in columns.chunks_exact(width).enumerate() {
        for t in 0..run.count {
            let row = &row[t * T::M..][..T::N];
            let mut d = [L::zero(); 6];
            for (d, column) in d.iter_mut().zip(row) {
                *d = L::load(column);
            }
            for (i, product) in T::input(d).into_iter().enumerate().take(T::N) {
                product.store(&mut v[(j * T::N + i) * stride + t]);
            }
        }
    }
}

/// A y Aᵀ of a run of tiles of a gradient, zero outside the image; product k of tile t to `q[k · stride + t · step]`.
#[inline(always)]
pub(crate) fn transform_gradient<L: Lanes, T: Tile>(
    maps: &[Block<L::Real>],
    size: Size,
    run: Run,
    q: &mut [Block<L::Real>],
    stride: usize,
    step: usize,
) {
    let maps = &maps[run.image * size.area()..][..size.area()];
    let top = run.y * T::M;
    for t in 0..run.count {
        let left = (run.x + t) * T::M;
        let mut columns = [[L::zero(); 6]; 4];
        for (i, column) in columns.iter_mut().enumerate().take(T::M) {
            let mut y = [L::zero(); 4];
            if left + i < size.w {
                for (j, y) in y.iter_mut().enumerate().take(T::M) {
                    if top + j < size.h {
                        *y = L::load(&maps[(top + j) * size.w + left + i]);
                    }
                }
            }
            *column = T::output_adjoint(y);
        }
        for j in 0..T::N {
            let [a, b, c, d] = &columns;
            let row = T::output_adjoint([a[j], b[j], c[j], d[j]]);
            for (i, product) in row.into_iter().enumerate().take(T::N) {
                product.store(&mut q[(j * T::N + i) * stride + t * step]);
            }
        }
    }
}
