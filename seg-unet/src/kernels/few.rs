//! 3 × 3 convolution of an image of few channels, and its gradient to the weights.
//!
//! A grey or a colour image would leave most of a block of sixteen channels empty. So it is read as the planes
//! `[N, C, H, W]` that it is; each number of it is spread over the lanes, which are output channels.

use rayon::prelude::*;

use super::{
    conv::{FewMoments, Finish, Group, PartialMoments, groups},
    filters::TAPS,
    lanes::{Block, LANES, Lanes},
    maps::{Size, Span, load_up_to, spans},
    shared::Shared,
    simd::{Dispatch, InstructionSet, Kernel},
};

/// Up to this many channels it is quicker than blocks that are mostly empty.
pub(crate) const FEW: usize = 8;

/// Rows that are summed before they are added to the others.
const ROWS: usize = 8;

/// An image of few channels.
#[derive(Clone, Copy)]
pub(crate) struct Few<'a, R> {
    /// `[N, C, H, W]`
    pub(crate) planes: &'a [R],
    pub(crate) channels: usize,
    pub(crate) size: Size,
}

impl<R: Dispatch> Few<'_, R> {
    /// Image and rows of each task.
    fn chunks(&self) -> Vec<(usize, usize, usize)> {
        let h = self.size.h;
        let of_image = |image| {
            (0..h)
                .step_by(ROWS)
                .map(move |y| (image, y, ROWS.min(h - y)))
        };
        (0..self.size.n).flat_map(of_image).collect()
    }

    /// The result `[O/16, N, H, W]` of weights `[O, C, 3, 3]`.
    pub(crate) fn conv(
        &self,
        isa: InstructionSet,
        weights: &[R],
        finish: Finish<'_, R>,
        outputs: usize,
        result: &mut [Block<R>],
    ) -> Vec<PartialMoments> {
        let spans = spans(&[outputs]);
        let length = self.channels * TAPS;
        // [C · 9][O/16]
        let mut blocks = vec![Block::default(); length * spans.len()];
        for (b, span) in spans.iter().enumerate() {
            for lane in 0..span.count {
                let row = &weights[(span.first + lane) * length..][..length];
                for (tap, &weight) in row.iter().enumerate() {
                    blocks[tap * spans.len() + b].0[lane] = weight;
                }
            }
        }
        let result = Shared::new(result);
        self.chunks()
            .into_par_iter()
            .map(|(image, first, rows)| {
                let (few, spans, weights) = (*self, &spans[..], &blocks[..]);
                R::dispatch(
                    isa,
                    Forward {
                        few,
                        spans,
                        weights,
                        finish,
                        image,
                        first,
                        rows,
                        result,
                    },
                )
            })
            .collect()
    }

    /// ∂weights `[O, C, 3, 3]` from the gradient `[O/16, N, H, W]` of the result.
    pub(crate) fn weight_gradient(
        &self,
        isa: InstructionSet,
        gradient: &[Block<R>],
        outputs: usize,
        weights: &mut [R],
    ) {
        let spans = spans(&[outputs]);
        let sums: Vec<Vec<Block<R>>> = self
            .chunks()
            .into_par_iter()
            .map(|(image, first, rows)| {
                let (few, blocks) = (*self, spans.len());
                R::dispatch(
                    isa,
                    Backward {
                        few,
                        blocks,
                        gradient,
                        image,
                        first,
                        rows,
                    },
                )
            })
            .collect();
        let length = self.channels * TAPS;
        for (b, span) in spans.iter().enumerate() {
            for lane in 0..span.count {
                let row = &mut weights[(span.first + lane) * length..][..length];
                for (tap, weight) in row.iter_mut().enumerate() {
                    let i = tap * spans.len() + b;
                    *weight = R::from_f64(sums.iter().map(|s| s[i].0[lane].to_f64()).sum());
                }
            }
        }
    }

    /// The numbers under the kernel's rows, with a border of zeros: `[C][rows + 2][W + 2]`.
    #[inline(always)]
    fn padded(&self, image: usize, first: usize, rows: usize) -> Vec<R> {
        let Size { h, w, .. } = self.size;
        let mut padded = vec![R::default(); self.channels * (rows + 2) * (w + 2)];
        for (i, row) in padded.chunks_exact_mut(w + 2).enumerate() {
            let (channel, y) = (i / (rows + 2), first + i % (rows + 2));
            if (1..=h).contains(&y) {
                let start = ((image * self.channels + channel) * h + y - 1) * w;
                row[1..=w].copy_from_slice(&self.planes[start..][..w]);
            }
        }
        padded
    }
}

struct Forward<'a, R> {
    few: Few<'a, R>,
    spans: &'a [Span],
    weights: &'a [Block<R>],
    finish: Finish<'a, R>,
    image: usize,
    first: usize,
    rows: usize,
    result: Shared<'a, Block<R>>,
}

impl<R: Dispatch> Kernel<R> for Forward<'_, R> {
    type Output = PartialMoments;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Self::Output {
        let Size { w, .. } = self.few.size;
        let padded = self.few.padded(self.image, self.first, self.rows);
        let wanted = if self.finish.moments {
            self.spans.len()
        } else {
            0
        };
        let mut sums = vec![[[0.0; LANES]; 2]; wanted];
        for group in groups::<L>(self.spans.len()) {
            for row in 0..self.rows {
                let whole = w / PIXELS * PIXELS;
                for x in (0..whole).step_by(PIXELS) {
                    self.pixels_of::<L, PIXELS>(&padded, group, row, x, &mut sums);
                }
                for x in whole..w {
                    self.pixels_of::<L, 1>(&padded, group, row, x, &mut sums);
                }
            }
        }
        PartialMoments {
            image: self.image,
            sums,
        }
    }
}

/// Pixels side by side whose sums stay in registers.
const PIXELS: usize = 8;

impl<R: Dispatch> Forward<'_, R> {
    #[inline(always)]
    fn pixels_of<L: Lanes<Real = R>, const P: usize>(
        &self,
        padded: &[R],
        group: Group,
        row: usize,
        x: usize,
        moments: &mut [[[f64; LANES]; 2]],
    ) {
        if group.blocks == 1 {
            self.pixels::<L, P, 1>(padded, group.first, row, x, moments);
        } else {
            self.pixels::<L, P, 2>(padded, group.first, row, x, moments);
        }
    }

    #[inline(always)]
    fn pixels<L: Lanes<Real = R>, const P: usize, const G: usize>(
        &self,
        padded: &[R],
        block: usize,
        row: usize,
        x: usize,
        moments: &mut [[[f64; LANES]; 2]],
    ) {
        let size = self.few.size;
        let pitch = size.w + 2;
        let mut sums = [[L::zero(); G]; P];
        for channel in 0..self.few.channels {
            for tap in 0..TAPS {
                let line = channel * (self.rows + 2) + row + tap / 3;
                let numbers = &padded[line * pitch + x + tap % 3..][..P];
                let weights = &self.weights[(channel * TAPS + tap) * self.spans.len() + block..];
                for g in 0..G {
                    let weights = L::load(&weights[g]);
                    for p in 0..P {
                        sums[p][g] = L::splat(numbers[p]).fma(weights, sums[p][g]);
                    }
                }
            }
        }
        for g in 0..G {
            let span = self.spans[block + g];
            let bias = match self.finish.bias {
                Some(bias) => load_up_to(&bias[span.first..][..span.count]),
                None => L::zero(),
            };
            let plane = ((block + g) * size.n + self.image) * size.area();
            let start = plane + (self.first + row) * size.w + x;
            #[allow(unsafe_code)]
            // SAFETY: tasks have rows of their own.
            let result = unsafe { self.result.part(start..start + P) };
            let mut few = FewMoments::<L>::none();
            for (p, result) in result.iter_mut().enumerate() {
                let y = sums[p][g] + bias;
                let y = if self.finish.relu { y.relu() } else { y };
                y.store(result);
                few.add(y);
            }
            if let Some(sums) = moments.get_mut(block + g) {
                few.give(sums);
            }
        }
    }
}

struct Backward<'a, R> {
    few: Few<'a, R>,
    blocks: usize,
    gradient: &'a [Block<R>],
    image: usize,
    first: usize,
    rows: usize,
}

impl<R: Dispatch> Kernel<R> for Backward<'_, R> {
    /// `[C · 9][O/16]`
    type Output = Vec<Block<R>>;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Self::Output {
        let Few { size, channels, .. } = self.few;
        let padded = self.few.padded(self.image, self.first, self.rows);
        let pitch = size.w + 2;
        let mut sums = vec![Block::default(); channels * TAPS * self.blocks];
        for channel in 0..channels {
            for block in 0..self.blocks {
                let plane = (block * size.n + self.image) * size.area();
                let mut taps = [L::zero(); TAPS];
                for row in 0..self.rows {
                    let line = (channel * (self.rows + 2) + row) * pitch;
                    let upper = &padded[line..][..pitch];
                    let middle = &padded[line + pitch..][..pitch];
                    let lower = &padded[line + 2 * pitch..][..pitch];
                    let gradient = &self.gradient[plane + (self.first + row) * size.w..][..size.w];
                    for (x, g) in gradient.iter().enumerate() {
                        let g = L::load(g);
                        for (i, line) in [upper, middle, lower].into_iter().enumerate() {
                            for (j, &number) in line[x..x + 3].iter().enumerate() {
                                taps[3 * i + j] = L::splat(number).fma(g, taps[3 * i + j]);
                            }
                        }
                    }
                }
                for (tap, sum) in taps.into_iter().enumerate() {
                    sum.store(&mut sums[(channel * TAPS + tap) * self.blocks + block]);
                }
            }
        }
        sums
    }
}
