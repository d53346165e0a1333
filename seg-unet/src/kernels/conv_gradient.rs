//! The gradient of a 3 × 3 convolution to its weights.
//!
//! The adjoint of Winograd's tiles in the filter, with as many products as the convolution:
//!
//! ```text
//! ∂g[o, i] = Gᵀ [ Σ_t (A ∂y[o, t] Aᵀ) ⊙ (Bᵀ d[i, t] B) ] G      over all tiles t.
//! ```
//!
//! As in [`super::conv`], tasks take tiles where these are many, and then every task has sums of its own, which are
//! added in one order; else they take output channels.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::{
    conv::{Group, TransformTiles, groups, stride, worth_four},
    filters::{TAPS, transform_adjoint},
    lanes::{Block, LANES, Lanes, Real},
    maps::{Span, spans},
    product::{Begin, OverPositions, even_parts},
    simd::{Dispatch, InstructionSet, Kernel},
    source::{COLUMNS, Planes, Source, Tiling, transform_gradient},
    winograd::{Four, Tile, Two},
};

/// ∂w `[O, I, 3, 3]` of a convolution that read `source`, from the gradient `[O/16, N, H, W]` of its result.
pub(crate) fn weight_gradient<R: Dispatch>(
    isa: InstructionSet,
    source: &Source<'_, R>,
    gradient: &[Block<R>],
    outputs: usize,
    weights: &mut [R],
) {
    if worth_four(source.size) {
        let task = Task::new(source, gradient, outputs, Four);
        R::dispatch(isa, (task, weights));
    } else {
        let task = Task::new(source, gradient, outputs, Two);
        R::dispatch(isa, (task, weights));
    }
}

struct Task<'a, R, T> {
    planes: Vec<Planes<'a, R>>,
    inputs: Vec<Span>,
    outputs: Vec<Span>,
    tiling: Tiling,
    gradient: &'a [Block<R>],
    of: PhantomData<T>,
}

impl<'a, R: Real, T: Tile> Task<'a, R, T> {
    const PRODUCTS: usize = T::N * T::N;

    fn new(source: &'a Source<'a, R>, gradient: &'a [Block<R>], outputs: usize, _: T) -> Self {
        let outputs = spans(&[outputs]);
        assert_eq!(gradient.len(), outputs.len() * source.size.pixels());
        Self {
            planes: source.planes(),
            inputs: source.spans(),
            outputs,
            tiling: Tiling::new::<T>(source.size),
            gradient,
            of: PhantomData,
        }
    }

    fn channels(&self) -> usize {
        self.inputs.iter().map(|span| span.count).sum()
    }

    /// The weights of each group of outputs.
    fn rows<'w>(&self, groups: &[Group], mut weights: &'w mut [R]) -> Vec<&'w mut [R]> {
        let row = self.channels() * TAPS;
        let mut rows = Vec::new();
        for group in groups {
            let blocks = &self.outputs[group.first..][..group.blocks];
            let outputs: usize = blocks.iter().map(|span| span.count).sum();
            let (these, others) = weights.split_at_mut(outputs * row);
            rows.push(these);
            weights = others;
        }
        rows
    }
}

impl<R: Dispatch, T: Tile> Kernel<R> for (Task<'_, R, T>, &mut [R]) {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let (task, weights) = self;
        if task.tiling.count() < task.outputs.len() * LANES {
            task.by_channels::<L>(weights);
        } else {
            task.by_tiles::<L>(weights);
        }
    }
}

impl<R: Dispatch, T: Tile> Task<'_, R, T> {
    /// Many tiles: each task takes a share of them.
    fn by_tiles<L: Lanes<Real = R>>(&self, weights: &mut [R]) {
        /// Tiles whose products are summed before they are added to the others.
        const AT_A_TIME: usize = 32;
        /// Numbers that the sums of all tasks may take together.
        const ROOM: usize = 1 << 22;
        let groups = groups::<L>(self.outputs.len());
        let per_block = |group: usize| Self::PRODUCTS * stride(LANES * group);
        let per_group = self.inputs.len() * per_block(L::GROUP);
        let length = groups.len() * per_group;
        let count = self.tiling.count();
        // By the shape alone, so that the sums do not depend on the threads.
        let shares = (ROOM / (length * LANES))
            .clamp(2, 8)
            .min(count.div_ceil(AT_A_TIME));
        let shares: Vec<_> = even_parts(count, count.div_ceil(shares)).collect();
        let v_stride = stride(AT_A_TIME);
        let v_length = self.planes.len() * Self::PRODUCTS * v_stride;
        let q_length = Self::PRODUCTS * stride(AT_A_TIME * L::GROUP);
        let mut sums = R::arena().take(shares.len() * length);
        sums.par_chunks_mut(length)
            .zip(&shares)
            .for_each(|(sums, &(start, tiles))| {
                R::with_scratch(v_length + q_length + COLUMNS, |scratch| {
                    let (v, scratch) = scratch.split_at_mut(v_length);
                    let (q, columns) = scratch.split_at_mut(q_length);
                    for (i, (at, count)) in even_parts(tiles, AT_A_TIME).enumerate() {
                        let (first, begin) =
                            (start + at, if i == 0 { Begin::Anew } else { Begin::Add });
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
                        for (group, sums) in groups.iter().zip(sums.chunks_exact_mut(per_group)) {
                            let q_stride = stride(count * group.blocks);
                            L::call(TransformGradient {
                                task: self,
                                group: *group,
                                first,
                                count,
                                q,
                                stride: q_stride,
                            });
                            let u_stride = stride(LANES * group.blocks);
                            for k in 0..Self::PRODUCTS {
                                let q = &q[k * q_stride..][..count * group.blocks];
                                for i in 0..self.inputs.len() {
                                    let v = &v[(i * Self::PRODUCTS + k) * v_stride..][..count];
                                    let u = &mut sums[i * per_block(group.blocks) + k * u_stride..]
                                        [..LANES * group.blocks];
                                    product::<L>(group.blocks, v, q, u, begin);
                                }
                            }
                        }
                    }
                });
            });
        // The shares' sums are added to the first one's.
        let (all, others) = sums.split_at_mut(length);
        let rows = self.rows(&groups, weights);
        all.par_chunks_mut(per_group)
            .zip(&groups)
            .zip(rows)
            .enumerate()
            .for_each(|(g, ((sums, group), rows))| {
                for share in others.chunks_exact(length) {
                    L::call(Add {
                        sums,
                        terms: &share[g * per_group..][..per_group],
                    });
                }
                for (i, inputs) in self.inputs.iter().enumerate() {
                    L::call(TransformSums {
                        task: self,
                        group: *group,
                        inputs: *inputs,
                        u: &sums[i * per_block(group.blocks)..],
                        rows,
                    });
                }
            });
    }

    /// Few tiles, many channels: each task takes some output channels.
    fn by_channels<L: Lanes<Real = R>>(&self, weights: &mut [R]) {
        let groups = groups::<L>(self.outputs.len());
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
        let rows = self.rows(&groups, weights);
        groups.par_iter().zip(rows).for_each(|(group, rows)| {
            let q_stride = stride(count * group.blocks);
            let u_stride = stride(LANES * group.blocks);
            let q_length = Self::PRODUCTS * q_stride;
            R::with_scratch(q_length + Self::PRODUCTS * u_stride, |scratch| {
                let (q, u) = scratch.split_at_mut(q_length);
                L::call(TransformGradient {
                    task: self,
                    group: *group,
                    first: 0,
                    count,
                    q,
                    stride: q_stride,
                });
                for (inputs, v) in self.inputs.iter().zip(v.chunks_exact(pitch)) {
                    for k in 0..Self::PRODUCTS {
                        let q = &q[k * q_stride..][..count * group.blocks];
                        let u = &mut u[k * u_stride..][..LANES * group.blocks];
                        let v = &v[k * v_stride..][..count];
                        product::<L>(group.blocks, v, q, u, Begin::Anew);
                    }
                    L::call(TransformSums {
                        task: self,
                        group: *group,
                        inputs: *inputs,
                        u,
                        rows,
                    });
                }
            });
        });
    }
}

#[inline(always)]
fn product<L: Lanes>(
    group: usize,
    v: &[Block<L::Real>],
    q: &[Block<L::Real>],
    u: &mut [Block<L::Real>],
    begin: Begin,
) {
    if group == 1 {
        L::call(OverPositions::<_, 1> { v, q, u, begin });
    } else {
        L::call(OverPositions::<_, 2> { v, q, u, begin });
    }
}

/// A group's gradient in the tiles `first .. first + count`: `[T::N²][count][G]`.
struct TransformGradient<'a, 'b, R, T> {
    task: &'a Task<'b, R, T>,
    group: Group,
    first: usize,
    count: usize,
    q: &'a mut [Block<R>],
    stride: usize,
}

impl<R: Real, T: Tile> Kernel<R> for TransformGradient<'_, '_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Task {
            tiling, gradient, ..
        } = self.task;
        let (size, step) = (tiling.size, self.group.blocks);
        for g in 0..step {
            let maps = &gradient[(self.group.first + g) * size.pixels()..][..size.pixels()];
            for (at, run) in tiling.runs(self.first, self.count, usize::MAX) {
                let q = &mut self.q[at * step + g..];
                transform_gradient::<L, T>(maps, size, run, q, self.stride, step);
            }
        }
    }
}

/// The weights' gradient of a group of outputs and a block of inputs from the sums of their products.
struct TransformSums<'a, 'b, R, T> {
    task: &'a Task<'b, R, T>,
    group: Group,
    inputs: Span,
    u: &'a [Block<R>],
    rows: &'a mut [R],
}

impl<R: Real, T: Tile> Kernel<R> for TransformSums<'_, '_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let channels = self.task.channels();
        let blocks = self.group.blocks;
        let stride = stride(LANES * blocks);
        let rows = self.rows.chunks_mut(LANES * channels * TAPS);
        for (g, rows) in rows.enumerate() {
            transform_adjoint::<L, T>(self.u, stride, (g, blocks), rows, channels, self.inputs);
        }
    }
}

/// sums += terms
struct Add<'a, R> {
    sums: &'a mut [Block<R>],
    terms: &'a [Block<R>],
}

impl<R: Real> Kernel<R> for Add<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        for (sum, term) in self.sums.iter_mut().zip(self.terms) {
            (L::load(sum) + L::load(term)).store(sum);
        }
    }
}
