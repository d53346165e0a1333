//! 3 × 3 convolution with a border of zeros, and its gradient to the input, which is one as well.
//!
//! By Winograd's tiles (see [`super::winograd`]): the image's tiles and the weights are transformed, products of small
//! matrices over the channels take their place, and the result is transformed back,
//!
//! ```text
//! Y[t, o] = Aᵀ [ Σ_i (G g[o, i] Gᵀ) ⊙ (Bᵀ d[i, t] B) ] A      for every tile t and output channel o.
//! ```
//!
//! Nothing is transformed to main memory and back. Where there are more tiles than output channels, a task takes some
//! tiles through all three steps, and the weights are transformed before. Where there are fewer, deep in a network, it
//! is the weights that are many: a task takes some output channels, transforms their weights as it goes, and the tiles
//! are transformed before.

use std::marker::PhantomData;

use candle_core::WithDType as _;
use rayon::prelude::*;

use super::{
    filters::{Filters, Way},
    lanes::{Block, LANES, Lanes, Real},
    maps::{Size, Span, load_up_to, spans},
    product::{Begin, OverChannels},
    shared::Shared,
    simd::{Dispatch, InstructionSet, Kernel},
    source::{COLUMNS, LONGEST_RUN, Planes, Source, Tiling, transform},
    winograd::{Four, Tile, Two},
};

/// A convolution's result: what is done to the sums, and where they go.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a, R> {
    /// `[O]`, added.
    pub(crate) bias: Option<&'a [R]>,
    pub(crate) relu: bool,
    /// Whether the result's moments are wanted.
    pub(crate) moments: bool,
}

/// Σ x and Σ x² over a part of an image, by block of channels.
///
/// In f64, where the difference of two sums keeps the digits that a variance needs.
#[derive(Clone, Debug)]
pub(crate) struct PartialMoments {
    pub(crate) image: usize,
    /// `[C/16]` of Σ x, Σ x².
    pub(crate) sums: Vec<[[f64; LANES]; 2]>,
}

/// Sums over a few pixels: those of differences from the first, in the lanes' own precision.
#[derive(Clone, Copy)]
pub(super) struct FewMoments<L> {
    count: usize,
    first: L,
    sum: L,
    square: L,
}

impl<L: Lanes> FewMoments<L> {
    /// More pixels than this should not be added before [`Self::give`].
    pub(super) const MOST: usize = 32;

    #[inline(always)]
    pub(super) fn none() -> Self {
        Self {
            count: 0,
            first: L::zero(),
            sum: L::zero(),
            square: L::zero(),
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, x: L) {
        if self.count == 0 {
            self.first = x;
        }
        self.count += 1;
        let difference = x - self.first;
        self.sum = self.sum + difference;
        self.square = difference.fma(difference, self.square);
    }

    /// Adds them to wider sums, and begins anew.
    #[inline(always)]
    pub(super) fn give(&mut self, [sums, squares]: &mut [[f64; LANES]; 2]) {
        let (first, sum, square) = (
            self.first.to_block(),
            self.sum.to_block(),
            self.square.to_block(),
        );
        let n = self.count as f64;
        for lane in 0..LANES {
            let (s, sum) = (first.0[lane].to_f64(), sum.0[lane].to_f64());
            sums[lane] += n * s + sum;
            squares[lane] += s * (n * s + 2.0 * sum) + square.0[lane].to_f64();
        }
        *self = Self::none();
    }
}

/// One convolution.
#[derive(Clone, Copy)]
pub(crate) struct Conv<'a, R> {
    pub(crate) source: &'a Source<'a, R>,
    pub(crate) filters: Filters<'a, R>,
    pub(crate) way: Way,
    /// Channels of the result, by tensor.
    pub(crate) outputs: &'a [usize],
    pub(crate) finish: Finish<'a, R>,
}

/// How many output channels' worth of blocks, of how many, go through a product together.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub(super) first: usize,
    pub(super) blocks: usize,
}

pub(super) fn groups<L: Lanes>(blocks: usize) -> Vec<Group> {
    (0..blocks)
        .step_by(L::GROUP)
        .map(|first| Group {
            first,
            blocks: L::GROUP.min(blocks - first),
        })
        .collect()
}

/// A distance between rows that no two rows of a cache's set share: an odd number of lines.
pub(super) fn stride(blocks: usize) -> usize {
    blocks | 1
}

/// Below this many channels the error of the large tile would show in a network's result: it grows with the sums, and
/// the sums of few channels come last in a network.
const CHANNELS_FOR_FOUR: usize = 128;
/// Below this many large tiles the transformed weights would be more work than the products save.
const TILES_FOR_FOUR: usize = 16;

impl<R: Dispatch> Conv<'_, R> {
    /// Writes blocks `[C/16, N, H, W]` of each tensor of `outputs`.
    pub(crate) fn run(
        &self,
        isa: InstructionSet,
        result: Vec<&mut [Block<R>]>,
    ) -> Vec<PartialMoments> {
        let size = self.source.size;
        let channels: usize = self.source.channels().iter().sum();
        // A gradient passes no threshold of a ReLU or a pool any more: it may be as inexact as it comes.
        let exact = self.way == Way::Forward && channels < CHANNELS_FOR_FOUR;
        if !exact && worth_four(size) {
            R::dispatch(isa, Task::new(*self, Four, result))
        } else {
            R::dispatch(isa, Task::new(*self, Two, result))
        }
    }
}

/// Whether an image has enough tiles for the large ones. Each image by itself: in a batch it gives the same bits.
pub(super) fn worth_four(size: Size) -> bool {
    Tiling::new::<Four>(size).of_image() >= TILES_FOR_FOUR
}

struct Task<'a, R, T> {
    conv: Conv<'a, R>,
    planes: Vec<Planes<'a, R>>,
    summed: Vec<Span>,
    lanes: Vec<Span>,
    tiling: Tiling,
    /// A block of channels each.
    result: Vec<Shared<'a, Block<R>>>,
    of: PhantomData<T>,
}

impl<'a, R: Real, T: Tile> Task<'a, R, T> {
    const PRODUCTS: usize = T::N * T::N;

    fn new(conv: Conv<'a, R>, _: T, result: Vec<&'a mut [Block<R>]>) -> Self {
        let lanes = spans(conv.outputs);
        let pixels = conv.source.size.pixels();
        let result: Vec<_> = result
            .into_iter()
            .flat_map(|maps| maps.chunks_exact_mut(pixels))
            .map(Shared::new)
            .collect();
        assert_eq!(result.len(), lanes.len());
        Self {
            conv,
            planes: conv.source.planes(),
            summed: conv.source.spans(),
            lanes,
            tiling: Tiling::new::<T>(conv.source.size),
            result,
            of: PhantomData,
        }
    }

    /// Those of an image's tiles, before there is anything to add.
    fn no_moments(&self, image: usize) -> PartialMoments {
        let blocks = if self.conv.finish.moments {
            self.lanes.len()
        } else {
            0
        };
        PartialMoments {
            image,
            sums: vec![[[0.0; LANES]; 2]; blocks],
        }
    }
}

impl<R: Dispatch, T: Tile> Kernel<R> for Task<'_, R, T> {
    type Output = Vec<PartialMoments>;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Self::Output {
        if self.tiling.of_image() < self.lanes.len() * LANES {
            self.by_channels::<L>()
        } else {
            self.by_tiles::<L>()
        }
    }
}

impl<R: Dispatch, T: Tile> Task<'_, R, T> {
    /// Many tiles: each task takes some of them.
    fn by_tiles<L: Lanes<Real = R>>(&self) -> Vec<PartialMoments> {
        let groups = groups::<L>(self.lanes.len());
        let channels = self.summed.len() * LANES;
        let u_stride = |group: Group| stride(channels * group.blocks);
        let u_length = Self::PRODUCTS * stride(channels * L::GROUP);
        let most = 2 * L::ROWS;
        let of_image = self.tiling.of_image();
        let parts: Vec<(usize, usize)> = (0..self.tiling.size.n)
            .flat_map(|image| {
                (0..of_image)
                    .step_by(most)
                    .map(move |i| (image * of_image + i, most.min(of_image - i)))
            })
            .collect();
        let v_stride = stride(most);
        let mut u = R::arena().take(groups.len() * u_length);
        u.par_chunks_mut(u_length)
            .zip(&groups)
            .for_each(|(u, group)| {
                L::call(TransformFilters {
                    task: self,
                    group: *group,
                    summed: &self.summed,
                    u,
                    stride: u_stride(*group),
                });
            });
        let u = &*u;
        let v_length = self.planes.len() * Self::PRODUCTS * v_stride;
        let m_length = Self::PRODUCTS * stride(most * L::GROUP);
        parts
            .par_iter()
            .map(|&(first, count)| {
                R::with_scratch(v_length + m_length + COLUMNS, |scratch| {
                    let (v, scratch) = scratch.split_at_mut(v_length);
                    let (m, columns) = scratch.split_at_mut(m_length);
                    for (planes, v) in self
                        .planes
                        .iter()
                        .zip(v.chunks_exact_mut(Self::PRODUCTS * v_stride))
                    {
                        L::call(TransformTiles::<_, T> {
                            of: PhantomData,
                            planes: *planes,
                            tiling: self.tiling,
                            first,
                            count,
                            columns,
                            v,
                            stride: v_stride,
                        });
                    }
                    let mut moments = self.no_moments(first / of_image);
                    for (group, u) in groups.iter().zip(u.chunks_exact(u_length)) {
                        let m_stride = stride(count * group.blocks);
                        for k in 0..Self::PRODUCTS {
                            let (v, m) = (&v[k * v_stride..], &mut m[k * m_stride..]);
                            let u = &u[k * u_stride(*group)..][..channels * group.blocks];
                            let pitch = Self::PRODUCTS * v_stride;
                            product::<L>(group.blocks, count, (v, pitch), u, m, Begin::Anew);
                        }
                        L::call(TransformBack {
                            task: self,
                            group: *group,
                            first,
                            count,
                            m,
                            stride: m_stride,
                            moments: std::slice::from_mut(&mut moments),
                        });
                    }
                    moments
                })
            })
            .collect()
    }

    /// Few tiles, many channels: each task takes some output channels.
    fn by_channels<L: Lanes<Real = R>>(&self) -> Vec<PartialMoments> {
        /// Blocks of input channels whose weights are transformed at a time: they stay in the second cache.
        const AT_A_TIME: usize = 4;
        let groups = groups::<L>(self.lanes.len());
        let count = self.tiling.count();
        let v_stride = stride(count);
        let pitch = Self::PRODUCTS * v_stride;
        let mut v = R::arena().take(self.planes.len() * pitch);
        v.par_chunks_mut(pitch)
            .zip(&self.planes)
            .for_each(|(v, planes)| {
                R::with_scratch(COLUMNS, |columns| {
                    L::call(TransformTiles::<_, T> {
                        of: PhantomData,
                        planes: *planes,
                        tiling: self.tiling,
                        first: 0,
                        count,
                        columns,
                        v,
                        stride: v_stride,
                    });
                });
            });
        let v = &*v;
        let moments: Vec<Vec<PartialMoments>> = groups
            .par_iter()
            .map(|group| {
                let m_stride = stride(count * group.blocks);
                let u_stride = stride(AT_A_TIME * LANES * group.blocks);
                let m_length = Self::PRODUCTS * m_stride;
                R::with_scratch(m_length + Self::PRODUCTS * u_stride, |scratch| {
                    let (m, u) = scratch.split_at_mut(m_length);
                    for (i, summed) in self.summed.chunks(AT_A_TIME).enumerate() {
                        L::call(TransformFilters {
                            task: self,
                            group: *group,
                            summed,
                            u,
                            stride: u_stride,
                        });
                        let v = &v[i * AT_A_TIME * pitch..][..summed.len() * pitch];
                        let begin = if i == 0 { Begin::Anew } else { Begin::Add };
                        for k in 0..Self::PRODUCTS {
                            let (v, m) = (&v[k * v_stride..], &mut m[k * m_stride..]);
                            let u = &u[k * u_stride..][..summed.len() * LANES * group.blocks];
                            product::<L>(group.blocks, count, (v, pitch), u, m, begin);
                        }
                    }
                    let Size { n, .. } = self.tiling.size;
                    let mut moments: Vec<_> = (0..n).map(|i| self.no_moments(i)).collect();
                    L::call(TransformBack {
                        task: self,
                        group: *group,
                        first: 0,
                        count,
                        m,
                        stride: m_stride,
                        moments: &mut moments,
                    });
                    moments
                })
            })
            .collect();
        // Each task has the moments of its channels.
        moments
            .into_iter()
            .zip(&groups)
            .reduce(|(mut all, whole), (some, group)| {
                for (all, some) in all.iter_mut().zip(some) {
                    if !all.sums.is_empty() {
                        let channels = group.first..group.first + group.blocks;
                        all.sums[channels.clone()].clone_from_slice(&some.sums[channels]);
                    }
                }
                (all, whole)
            })
            .map_or(Vec::new(), |(all, _)| all)
    }
}

/// One of Winograd's products for a group of output channels.
#[inline(always)]
pub(super) fn product<L: Lanes>(
    group: usize,
    rows: usize,
    (v, pitch): (&[Block<L::Real>], usize),
    u: &[Block<L::Real>],
    m: &mut [Block<L::Real>],
    begin: Begin,
) {
    if group == 1 {
        L::call(OverChannels::<_, 1> {
            rows,
            v,
            pitch,
            u,
            m,
            begin,
        });
    } else {
        L::call(OverChannels::<_, 2> {
            rows,
            v,
            pitch,
            u,
            m,
            begin,
        });
    }
}

struct TransformFilters<'a, R, T> {
    task: &'a Task<'a, R, T>,
    group: Group,
    summed: &'a [Span],
    u: &'a mut [Block<R>],
    stride: usize,
}

impl<R: Real, T: Tile> Kernel<R> for TransformFilters<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let lanes = &self.task.lanes[self.group.first..][..self.group.blocks];
        let Conv { filters, way, .. } = self.task.conv;
        filters.transform::<L, T>(way, lanes, self.summed, self.u, self.stride);
    }
}

/// The tiles `first .. first + count` of one block of channels, product k of the i-th to `v[k · stride + i]`.
pub(super) struct TransformTiles<'a, R, T> {
    pub(super) of: PhantomData<T>,
    pub(super) planes: Planes<'a, R>,
    pub(super) tiling: Tiling,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) columns: &'a mut [Block<R>],
    pub(super) v: &'a mut [Block<R>],
    pub(super) stride: usize,
}

impl<R: Real, T: Tile> Kernel<R> for TransformTiles<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        for (at, run) in self.tiling.runs(self.first, self.count, LONGEST_RUN) {
            let v = &mut self.v[at..];
            transform::<L, T>(
                self.planes,
                self.tiling.size,
                run,
                self.columns,
                v,
                self.stride,
            );
        }
    }
}

/// A group's products of the tiles `first .. first + count`, back to pixels.
struct TransformBack<'a, 'b, R, T> {
    task: &'a Task<'b, R, T>,
    group: Group,
    first: usize,
    count: usize,
    m: &'a [Block<R>],
    stride: usize,
    /// Of the images from that of the first tile on.
    moments: &'a mut [PartialMoments],
}

impl<R: Real, T: Tile> Kernel<R> for TransformBack<'_, '_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Task {
            conv,
            tiling,
            result,
            lanes,
            ..
        } = self.task;
        let size = tiling.size;
        let first_image = self.first / tiling.of_image();
        for g in 0..self.group.blocks {
            let block = self.group.first + g;
            let bias = match conv.finish.bias {
                Some(bias) => load_up_to(&bias[lanes[block].first..][..lanes[block].count]),
                None => L::zero(),
            };
            for (at, run) in tiling.runs(self.first, self.count, usize::MAX) {
                let plane = run.image * size.area();
                let (top, height) = (run.y * T::M, T::M.min(size.h - run.y * T::M));
                let moments = &mut self.moments[run.image - first_image];
                let mut sums = moments.sums.get_mut(block);
                let mut few = FewMoments::<L>::none();
                for t in 0..run.count {
                    let left = (run.x + t) * T::M;
                    let width = T::M.min(size.w - left);
                    let mut rows = [[L::zero(); 6]; 4];
                    for j in 0..T::N {
                        let mut m = [L::zero(); 6];
                        for (i, m) in m.iter_mut().enumerate().take(T::N) {
                            let k = (i * T::N + j) * self.stride;
                            *m = L::load(&self.m[k + (at + t) * self.group.blocks + g]);
                        }
                        for (row, y) in rows.iter_mut().zip(T::output(m)).take(T::M) {
                            row[j] = y;
                        }
                    }
                    for (i, row) in rows.into_iter().enumerate().take(height) {
                        let y = T::output(row);
                        let start = plane + (top + i) * size.w + left;
                        #[allow(unsafe_code)]
                        // SAFETY: tasks have tiles or channels of their own, and tiles do not overlap.
                        let result = unsafe { result[block].part(start..start + width) };
                        for (result, y) in result.iter_mut().zip(y) {
                            let y = y + bias;
                            let y = if conv.finish.relu { y.relu() } else { y };
                            y.store(result);
                            if sums.is_some() {
                                few.add(y);
                            }
                        }
                    }
                    let full = few.count + T::M * T::M > FewMoments::<L>::MOST;
                    if let Some(sums) = &mut sums
                        && (full || t + 1 == run.count)
                    {
                        few.give(sums);
                    }
                }
            }
        }
    }
}
