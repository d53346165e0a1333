//! 1 × 1 convolution to the classes: from maps that are normalised on the way to planes `[N, K, H, W]`, and back.
//!
//! There are few classes, so that this is no matrix product worth the name: a pass over the maps.

use rayon::prelude::*;

use super::{
    lanes::{Block, LANES, Lanes, Real},
    maps::{Size, spans, store_up_to},
    shared::Shared,
    simd::{Dispatch, InstructionSet, Kernel},
    source::Part,
};

/// Pixels that a task takes: whole registers of them.
const CHUNK: usize = 64 * LANES;

/// A 1 × 1 convolution.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a, R> {
    pub(crate) source: Part<'a, R>,
    pub(crate) size: Size,
    /// `[K, C]`
    pub(crate) weights: &'a [R],
    pub(crate) classes: usize,
}

/// Gradients of weights and bias.
pub(crate) struct HeadGradients<R> {
    pub(crate) weights: Vec<R>,
    pub(crate) bias: Vec<R>,
}

impl<R: Dispatch> Head<'_, R> {
    /// Image and pixels of each task.
    fn chunks(&self) -> Vec<(usize, usize, usize)> {
        let area = self.size.area();
        let of_image = |image| {
            (0..area)
                .step_by(CHUNK)
                .map(move |p| (image, p, CHUNK.min(area - p)))
        };
        (0..self.size.n).flat_map(of_image).collect()
    }

    /// The weights of each class, in blocks: `[K][C/16]`.
    fn blocks(&self) -> Vec<Block<R>> {
        let spans = spans(&[self.source.channels]);
        let rows = self.weights.chunks_exact(self.source.channels);
        rows.flat_map(|row| {
            spans.iter().map(|span| {
                let mut block = Block::default();
                block.0[..span.count].copy_from_slice(&row[span.first..][..span.count]);
                block
            })
        })
        .collect()
    }

    /// Writes planes `[N, K, H, W]`.
    pub(crate) fn run(&self, isa: InstructionSet, bias: &[R], planes: &mut [R]) {
        let spans = spans(&[self.source.channels]);
        let planes = Shared::new(planes);
        self.chunks()
            .into_par_iter()
            .for_each(|(image, first, count)| {
                let head = *self;
                R::with_scratch(spans.len() * LANES, |x| {
                    R::dispatch(
                        isa,
                        Forward {
                            head,
                            bias,
                            image,
                            first,
                            count,
                            x,
                            planes,
                        },
                    );
                });
            });
    }

    /// ∂x in blocks, ∂weights and ∂bias, from the gradient of the planes.
    pub(crate) fn backward(
        &self,
        isa: InstructionSet,
        planes: &[R],
        result: &mut [Block<R>],
    ) -> HeadGradients<R> {
        let (spans, blocks) = (spans(&[self.source.channels]), self.blocks());
        let result = Shared::new(result);
        let sums: Vec<Vec<Block<R>>> = self
            .chunks()
            .into_par_iter()
            .map(|(image, first, count)| {
                let (head, weights) = (*self, &blocks[..]);
                R::dispatch(
                    isa,
                    Backward {
                        head,
                        weights,
                        image,
                        first,
                        count,
                        planes,
                        result,
                    },
                )
            })
            .collect();
        let total = |i: usize, lane: usize| -> R {
            R::from_f64(sums.iter().map(|sums| sums[i].0[lane].to_f64()).sum())
        };
        let mut weights = Vec::with_capacity(self.weights.len());
        for class in 0..self.classes {
            for (b, span) in spans.iter().enumerate() {
                let lanes = 0..span.count;
                weights.extend(lanes.map(|lane| total(class * spans.len() + b, lane)));
            }
        }
        let area = self.size.area();
        let bias = (0..self.classes)
            .map(|class| {
                let planes = planes.chunks_exact(area).skip(class).step_by(self.classes);
                R::from_f64(planes.map(|plane| crate::ops::sum(plane, |g| g)).sum())
            })
            .collect();
        HeadGradients { weights, bias }
    }
}

struct Forward<'a, R> {
    head: Head<'a, R>,
    bias: &'a [R],
    image: usize,
    first: usize,
    count: usize,
    /// Room for sixteen pixels, channel by channel.
    x: &'a mut [Block<R>],
    planes: Shared<'a, R>,
}

impl<R: Real> Kernel<R> for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Head {
            source,
            size,
            weights,
            classes,
        } = self.head;
        let area = size.area();
        for start in (self.first..self.first + self.count).step_by(LANES) {
            let count = LANES.min(self.first + self.count - start);
            for (block, x) in self.x.chunks_exact_mut(LANES).enumerate() {
                let plane = block * size.n + self.image;
                let maps = &source.maps[plane * area + start..][..count];
                let mut lanes = [L::zero(); LANES];
                for (lanes, maps) in lanes.iter_mut().zip(maps) {
                    *lanes = L::load(maps);
                }
                if let Some(affine) = source.affine {
                    let [scale, shift] = &affine[plane];
                    let (scale, shift) = (L::load(scale), L::load(shift));
                    for lanes in &mut lanes {
                        *lanes = lanes.fma(scale, shift);
                    }
                }
                L::transpose(&mut lanes);
                for (x, lanes) in x.iter_mut().zip(lanes) {
                    lanes.store(x);
                }
            }
            for class in 0..classes {
                let weights = &weights[class * source.channels..][..source.channels];
                // Blocks of channels side by side, then their sum: short chains of additions.
                let mut sum = L::splat(self.bias[class]);
                for (x, weights) in self.x.chunks_exact(LANES).zip(weights.chunks(LANES)) {
                    let mut parts = [L::zero(); 4];
                    for (c, &weight) in weights.iter().enumerate() {
                        let part = &mut parts[c % 4];
                        *part = L::load(&x[c]).fma(L::splat(weight), *part);
                    }
                    sum = sum + ((parts[0] + parts[1]) + (parts[2] + parts[3]));
                }
                let at = (self.image * classes + class) * area + start;
                #[allow(unsafe_code)]
                // SAFETY: tasks have pixels of their own.
                let plane = unsafe { self.planes.part(at..at + count) };
                store_up_to(sum, plane);
            }
        }
    }
}

struct Backward<'a, R> {
    head: Head<'a, R>,
    weights: &'a [Block<R>],
    image: usize,
    first: usize,
    count: usize,
    planes: &'a [R],
    result: Shared<'a, Block<R>>,
}

impl<R: Real> Kernel<R> for Backward<'_, R> {
    /// What these pixels add to the weights' gradient.
    type Output = Vec<Block<R>>;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Self::Output {
        let Head {
            source,
            size,
            classes,
            ..
        } = self.head;
        let area = size.area();
        let blocks = self.weights.len() / classes;
        let mut sums = vec![Block::default(); self.weights.len()];
        for block in 0..blocks {
            let plane = block * size.n + self.image;
            let at = plane * area + self.first;
            let maps = &source.maps[at..][..self.count];
            #[allow(unsafe_code)]
            // SAFETY: tasks have pixels of their own.
            let result = unsafe { self.result.part(at..at + self.count) };
            let (scale, shift) = match source.affine {
                Some(affine) => (L::load(&affine[plane][0]), L::load(&affine[plane][1])),
                None => (L::splat(R::one()), L::zero()),
            };
            for class in 0..classes {
                let weights = L::load(&self.weights[class * blocks + block]);
                let start = (self.image * classes + class) * area + self.first;
                let planes = &self.planes[start..][..self.count];
                let mut sum = [L::zero(); 4];
                for (i, ((&g, x), result)) in planes.iter().zip(maps).zip(&mut *result).enumerate()
                {
                    let g = L::splat(g);
                    let part = &mut sum[i % 4];
                    *part = g.fma(L::load(x).fma(scale, shift), *part);
                    let before = if class == 0 {
                        L::zero()
                    } else {
                        L::load(result)
                    };
                    g.fma(weights, before).store(result);
                }
                let sum = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                sum.store(&mut sums[class * blocks + block]);
            }
        }
        sums
    }
}
