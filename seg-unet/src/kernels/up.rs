//! 2 × 2 transposed convolution with stride 2: each pixel becomes four by four matrices over the channels.
//!
//! ```text
//! y[o, 2h + a, 2w + b] = Σ_i weight[i, o, a, b] · x[i, h, w] + bias[o]
//! ```
//!
//! Windows do not overlap, so that all of it, and its gradients, are matrix products.

use rayon::prelude::*;

use super::{
    conv::{Group, groups, product},
    filters::Filters,
    lanes::{Block, LANES, Lanes, Real},
    maps::{Size, Span, load_up_to, spans, store_up_to},
    product::{Begin, OverPositions, even_parts},
    shared::Shared,
    simd::{Dispatch, InstructionSet, Kernel},
    source::Part,
};

/// Pixels of a window: the taps of `weight`.
const TAPS: usize = 4;

/// One transposed convolution.
#[derive(Clone, Copy)]
pub(crate) struct Up<'a, R> {
    pub(crate) source: Part<'a, R>,
    pub(crate) size: Size,
    /// `[I, O, 2, 2]`
    pub(crate) weights: &'a [R],
    pub(crate) outputs: usize,
}

/// Pixels of one image that a task takes at a time.
fn chunks(size: Size, most: usize) -> Vec<(usize, usize, usize)> {
    let parts = |image| even_parts(size.area(), most).map(move |(first, n)| (image, first, n));
    (0..size.n).flat_map(parts).collect()
}

impl<R: Dispatch> Up<'_, R> {
    fn filters(&self) -> Filters<'_, R> {
        Filters {
            weights: self.weights,
            columns: self.outputs,
        }
    }

    fn inputs(&self) -> Vec<Span> {
        spans(&[self.source.channels])
    }

    /// Writes blocks `[O/16, N, 2H, 2W]`.
    pub(crate) fn run(&self, isa: InstructionSet, bias: &[R], result: &mut [Block<R>]) {
        R::dispatch(
            isa,
            Forward {
                up: self,
                bias,
                result,
            },
        );
    }

    /// ∂x, blocks `[I/16, N, H, W]`, from that of the result.
    pub(crate) fn input_gradient(
        &self,
        isa: InstructionSet,
        gradient: &[Block<R>],
        result: &mut [Block<R>],
    ) {
        R::dispatch(
            isa,
            Backward {
                up: self,
                gradient,
                result,
            },
        );
    }

    /// ∂weight `[I, O, 2, 2]` and ∂bias `[O]`.
    pub(crate) fn weight_gradient(
        &self,
        isa: InstructionSet,
        gradient: &[Block<R>],
        weights: &mut [R],
        bias: &mut [R],
    ) {
        R::dispatch(
            isa,
            WeightGradient {
                up: self,
                gradient,
                weights,
                bias,
            },
        );
    }
}

struct Forward<'a, R> {
    up: &'a Up<'a, R>,
    bias: &'a [R],
    result: &'a mut [Block<R>],
}

impl<R: Dispatch> Kernel<R> for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        forward::<L>(self);
    }
}

fn forward<L: Lanes>(task: Forward<'_, L::Real>)
where
    L::Real: Dispatch,
{
    let Forward { up, bias, result } = task;
    let (inputs, outputs) = (up.inputs(), spans(&[up.outputs]));
    let groups = groups::<L>(outputs.len());
    let channels = inputs.len() * LANES;
    let u_length = TAPS * channels * L::GROUP;
    let most = 2 * L::ROWS;
    let result = Shared::new(result);
    let mut u = L::Real::arena().take(groups.len() * u_length);
    u.par_chunks_mut(u_length)
        .zip(&groups)
        .for_each(|(u, group)| {
            let outputs = &outputs[group.first..][..group.blocks];
            L::call(ForwardFilters {
                filters: up.filters(),
                inputs: &inputs,
                outputs,
                u,
            });
        });
    let u = &*u;
    let v_length = inputs.len() * most;
    chunks(up.size, most)
        .into_par_iter()
        .for_each(|(image, first, count)| {
            L::Real::with_scratch(v_length + most * L::GROUP, |scratch| {
                let (v, m) = scratch.split_at_mut(v_length);
                L::call(Load {
                    up,
                    image,
                    first,
                    count,
                    v,
                });
                for (group, u) in groups.iter().zip(u.chunks_exact(u_length)) {
                    for tap in 0..TAPS {
                        let u = &u[tap * channels * group.blocks..][..channels * group.blocks];
                        product::<L>(group.blocks, count, (v, count), u, m, Begin::Anew);
                        let outputs = &outputs[group.first..][..group.blocks];
                        let group = *group;
                        let size = up.size;
                        L::call(Deal {
                            size,
                            group,
                            outputs,
                            bias,
                            image,
                            first,
                            count,
                            tap,
                            m,
                            result,
                        });
                    }
                }
            });
        });
}

/// `[4][I][G]` of a group of outputs.
struct ForwardFilters<'a, R> {
    filters: Filters<'a, R>,
    inputs: &'a [Span],
    outputs: &'a [Span],
    u: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for ForwardFilters<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let group = self.outputs.len();
        let of_tap = self.inputs.len() * LANES * group;
        let mut taps = [Block::<R>::default(); LANES * TAPS];
        for (g, outputs) in self.outputs.iter().enumerate() {
            for (i, inputs) in self.inputs.iter().enumerate() {
                self.filters
                    .columns_in_lanes::<L, TAPS>(*inputs, *outputs, &mut taps);
                for (c, taps) in taps.chunks_exact(TAPS).enumerate() {
                    for (tap, weights) in taps.iter().enumerate() {
                        self.u[tap * of_tap + (i * LANES + c) * group + g] = *weights;
                    }
                }
            }
        }
    }
}

/// Normalised pixels `first .. first + count` of an image: `[I/16][count]`.
struct Load<'a, R> {
    up: &'a Up<'a, R>,
    image: usize,
    first: usize,
    count: usize,
    v: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for Load<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let size = self.up.size;
        for (block, v) in self.v.chunks_exact_mut(self.count).enumerate() {
            let plane = block * size.n + self.image;
            if plane * size.area() >= self.up.source.maps.len() {
                break; // room of a longer chunk
            }
            let maps = &self.up.source.maps[plane * size.area() + self.first..][..self.count];
            match self.up.source.affine {
                Some(affine) => {
                    let (scale, shift) = (L::load(&affine[plane][0]), L::load(&affine[plane][1]));
                    for (v, x) in v.iter_mut().zip(maps) {
                        L::load(x).fma(scale, shift).store(v);
                    }
                }
                None => v.copy_from_slice(maps),
            }
        }
    }
}

/// Products of one tap to their pixels.
struct Deal<'a, R> {
    size: Size,
    group: Group,
    outputs: &'a [Span],
    bias: &'a [R],
    image: usize,
    first: usize,
    count: usize,
    tap: usize,
    m: &'a [Block<R>],
    result: Shared<'a, Block<R>>,
}

impl<R: Real> Kernel<R> for Deal<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let group = self.group.blocks;
        let size = self.size.doubled();
        for (g, outputs) in self.outputs.iter().enumerate() {
            let bias: L = load_up_to(&self.bias[outputs.first..][..outputs.count]);
            let plane = ((self.group.first + g) * size.n + self.image) * size.area();
            for t in 0..self.count {
                let at = plane + window(self.size, self.first + t, self.tap);
                #[allow(unsafe_code)]
                // SAFETY: tasks have pixels of their own, and windows do not overlap.
                let result = unsafe { self.result.part(at..at + 1) };
                (L::load(&self.m[t * group + g]) + bias).store(&mut result[0]);
            }
        }
    }
}

/// Where in the doubled image a tap of a pixel's window lies.
#[inline(always)]
fn window(size: Size, pixel: usize, tap: usize) -> usize {
    let (y, x) = (pixel / size.w, pixel % size.w);
    (2 * y + tap / 2) * 2 * size.w + 2 * x + tap % 2
}

struct Backward<'a, R> {
    up: &'a Up<'a, R>,
    gradient: &'a [Block<R>],
    result: &'a mut [Block<R>],
}

impl<R: Dispatch> Kernel<R> for Backward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        backward::<L>(self);
    }
}

fn backward<L: Lanes>(task: Backward<'_, L::Real>)
where
    L::Real: Dispatch,
{
    let Backward {
        up,
        gradient,
        result,
    } = task;
    let (inputs, outputs) = (up.inputs(), spans(&[up.outputs]));
    let groups = groups::<L>(inputs.len());
    let summed = TAPS * outputs.len();
    let u_length = summed * LANES * L::GROUP;
    let most = 2 * L::ROWS;
    let (area, images) = (up.size.area(), up.size.n);
    let result = Shared::new(result);
    let mut u = L::Real::arena().take(groups.len() * u_length);
    u.par_chunks_mut(u_length)
        .zip(&groups)
        .for_each(|(u, group)| {
            let inputs = &inputs[group.first..][..group.blocks];
            L::call(BackwardFilters {
                filters: up.filters(),
                inputs,
                outputs: &outputs,
                u,
            });
        });
    let u = &*u;
    chunks(up.size, most)
        .into_par_iter()
        .for_each(|(image, first, count)| {
            let v_length = summed * count;
            L::Real::with_scratch(v_length + most * L::GROUP, |scratch| {
                let (v, m) = scratch.split_at_mut(v_length);
                let (size, outputs) = (up.size, outputs.len());
                L::call(Collect {
                    size,
                    gradient,
                    image,
                    first,
                    count,
                    blocks: 0..outputs,
                    v,
                    step: 1,
                });
                for (group, u) in groups.iter().zip(u.chunks_exact(u_length)) {
                    let u = &u[..summed * LANES * group.blocks];
                    product::<L>(group.blocks, count, (v, count), u, m, Begin::Anew);
                    for g in 0..group.blocks {
                        let at = ((group.first + g) * images + image) * area + first;
                        #[allow(unsafe_code)]
                        // SAFETY: tasks have pixels of their own.
                        let result = unsafe { result.part(at..at + count) };
                        for (result, m) in result.iter_mut().zip(m.chunks_exact(group.blocks)) {
                            *result = m[g];
                        }
                    }
                }
            });
        });
}

/// `[4][O][G]` of a group of inputs.
struct BackwardFilters<'a, R> {
    filters: Filters<'a, R>,
    inputs: &'a [Span],
    outputs: &'a [Span],
    u: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for BackwardFilters<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let group = self.inputs.len();
        let of_tap = self.outputs.len() * LANES * group;
        let mut taps = [Block::<R>::default(); LANES * TAPS];
        for (g, inputs) in self.inputs.iter().enumerate() {
            for (o, outputs) in self.outputs.iter().enumerate() {
                self.filters
                    .rows_in_lanes::<L, TAPS>(*inputs, *outputs, &mut taps);
                for (c, taps) in taps.chunks_exact(TAPS).enumerate() {
                    for (tap, weights) in taps.iter().enumerate() {
                        self.u[tap * of_tap + (o * LANES + c) * group + g] = *weights;
                    }
                }
            }
        }
    }
}

/// The gradient of some pixels' windows: `[4][blocks][count]` every `step`; their sum.
struct Collect<'a, R> {
    size: Size,
    gradient: &'a [Block<R>],
    image: usize,
    first: usize,
    count: usize,
    blocks: std::ops::Range<usize>,
    v: &'a mut [Block<R>],
    step: usize,
}

impl<R: Real> Kernel<R> for Collect<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let doubled = self.size.doubled();
        let blocks = self.blocks.len();
        for (b, block) in self.blocks.enumerate() {
            let plane = (block * doubled.n + self.image) * doubled.area();
            let gradient = &self.gradient[plane..][..doubled.area()];
            for tap in 0..TAPS {
                let start = if self.step == 1 {
                    (tap * blocks + b) * self.count
                } else {
                    tap * self.count * self.step + b
                };
                for t in 0..self.count {
                    let g = L::load(&gradient[window(self.size, self.first + t, tap)]);
                    g.store(&mut self.v[start + t * self.step]);
                }
            }
        }
    }
}

struct WeightGradient<'a, R> {
    up: &'a Up<'a, R>,
    gradient: &'a [Block<R>],
    weights: &'a mut [R],
    bias: &'a mut [R],
}

impl<R: Dispatch> Kernel<R> for WeightGradient<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        weight_gradient::<L>(self);
    }
}

fn weight_gradient<L: Lanes>(task: WeightGradient<'_, L::Real>)
where
    L::Real: Dispatch,
{
    /// Pixels whose products are summed before they are added to the others.
    const AT_A_TIME: usize = 64;
    let WeightGradient {
        up,
        gradient,
        weights,
        bias,
    } = task;
    let (inputs, outputs) = (up.inputs(), spans(&[up.outputs]));
    let groups = groups::<L>(outputs.len());
    let per_block = TAPS * LANES * L::GROUP;
    // Sums of the products, and of the gradient itself.
    let per_group = inputs.len() * per_block + L::GROUP;
    let chunks = chunks(up.size, AT_A_TIME);
    let v_length = inputs.len() * AT_A_TIME;
    // Each task has a group of outputs, whose weights are few enough to sum over all pixels.
    let mut sums = L::Real::arena().take(groups.len() * per_group);
    sums.par_chunks_mut(per_group)
        .zip(&groups)
        .for_each(|(sums, group)| {
            let step = group.blocks;
            let (sums, totals) = sums.split_at_mut(inputs.len() * per_block);
            totals.fill(Block::default());
            L::Real::with_scratch(v_length + TAPS * AT_A_TIME * step, |scratch| {
                let (v, q) = scratch.split_at_mut(v_length);
                for (i, &(image, first, count)) in chunks.iter().enumerate() {
                    let begin = if i == 0 { Begin::Anew } else { Begin::Add };
                    L::call(Load {
                        up,
                        image,
                        first,
                        count,
                        v,
                    });
                    let blocks = group.first..group.first + step;
                    let size = up.size;
                    L::call(Collect {
                        size,
                        gradient,
                        image,
                        first,
                        count,
                        blocks,
                        v: q,
                        step,
                    });
                    L::call(AddUp {
                        terms: &q[..TAPS * count * step],
                        totals: &mut totals[..step],
                    });
                    for (v, sums) in v.chunks_exact(count).zip(sums.chunks_exact_mut(per_block)) {
                        for tap in 0..TAPS {
                            let q = &q[tap * count * step..][..count * step];
                            let u = &mut sums[tap * LANES * step..][..LANES * step];
                            if step == 1 {
                                L::call(OverPositions::<_, 1> { v, q, u, begin });
                            } else {
                                L::call(OverPositions::<_, 2> { v, q, u, begin });
                            }
                        }
                    }
                }
            });
        });
    let weights = Shared::new(weights);
    for (sums, group) in sums.chunks_exact(per_group).zip(&groups) {
        let outputs = &outputs[group.first..][..group.blocks];
        let (sums, totals) = sums.split_at(inputs.len() * per_block);
        for (total, span) in totals.iter().zip(outputs) {
            bias[span.first..][..span.count].copy_from_slice(&total.0[..span.count]);
        }
        inputs
            .par_iter()
            .zip(sums.par_chunks_exact(per_block))
            .for_each(|(inputs, sums)| {
                let columns = up.outputs;
                L::call(ToWeights {
                    inputs: *inputs,
                    outputs,
                    columns,
                    sums,
                    weights,
                });
            });
    }
}

/// totals += Σ terms, of each block of a group.
struct AddUp<'a, R> {
    terms: &'a [Block<R>],
    totals: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for AddUp<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let group = self.totals.len();
        for (g, total) in self.totals.iter_mut().enumerate() {
            let mut sum = L::zero();
            for terms in self.terms.chunks_exact(group) {
                sum = sum + L::load(&terms[g]);
            }
            (L::load(total) + sum).store(total);
        }
    }
}

/// `[4][16][G]` of a block of inputs to weights `[I, O, 2, 2]`.
struct ToWeights<'a, R> {
    inputs: Span,
    outputs: &'a [Span],
    columns: usize,
    sums: &'a [Block<R>],
    weights: Shared<'a, R>,
}

impl<R: Real> Kernel<R> for ToWeights<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let group = self.outputs.len();
        for c in 0..self.inputs.count {
            for (g, outputs) in self.outputs.iter().enumerate() {
                let mut lanes = [L::zero(); LANES];
                for (tap, lanes) in lanes.iter_mut().enumerate().take(TAPS) {
                    *lanes = L::load(&self.sums[(tap * LANES + c) * group + g]);
                }
                L::transpose(&mut lanes);
                let at = ((self.inputs.first + c) * self.columns + outputs.first) * TAPS;
                #[allow(unsafe_code)]
                // SAFETY: tasks have inputs of their own.
                let weights = unsafe { self.weights.part(at..at + outputs.count * TAPS) };
                for (weights, lanes) in weights.chunks_exact_mut(TAPS).zip(lanes) {
                    store_up_to(lanes, weights);
                }
            }
        }
    }
}
