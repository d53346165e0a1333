//! Instance norm behind a `ReLU`, without maps of its own: who reads the maps r = relu(z) applies it.
//!
//! With μ and σ² over the pixels of one channel of one image, ŷ = (r − μ) / √(σ² + ε) and y = w ŷ + b, which is a
//! factor and an addend a channel. In reverse, with ⟨·⟩ the mean over the same pixels,
//!
//! ```text
//! ∂z = [r > 0] · w / √(σ² + ε) · (g − ⟨g⟩ − ŷ ⟨g ŷ⟩),    ∂w = Σ g ŷ,    ∂b = Σ g.
//! ```

use rayon::prelude::*;

use super::{
    conv::PartialMoments,
    lanes::{Block, LANES, Lanes, Real},
    maps::{Size, spans},
    pool::first_maximum,
    simd::{Dispatch, InstructionSet, Kernel},
    source::Affine,
};

/// μ and 1/√(σ² + ε) of each block of channels of each image, `[C/16][N]`.
#[derive(Clone, Debug)]
pub(crate) struct Moments<R> {
    pub(crate) mean: Vec<Block<R>>,
    pub(crate) rstd: Vec<Block<R>>,
}

impl<R: Real> Moments<R> {
    /// From the moments of all parts of all images of `area` pixels, in their order.
    pub(crate) fn of_parts(
        parts: &[PartialMoments],
        blocks: usize,
        Size { n: images, h, w }: Size,
        eps: f64,
    ) -> Self {
        let area = (h * w) as f64;
        let mut totals = vec![[[0.0; LANES]; 2]; blocks * images];
        for part in parts {
            for (block, sums) in part.sums.iter().enumerate() {
                let total = &mut totals[block * images + part.image];
                for (total, sums) in total.iter_mut().zip(sums) {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total += sum;
                    }
                }
            }
        }
        let mut moments = Self {
            mean: vec![Block::default(); blocks * images],
            rstd: vec![Block::default(); blocks * images],
        };
        for (i, [sums, squares]) in totals.iter().enumerate() {
            for lane in 0..LANES {
                let mean = sums[lane] / area;
                let variance = squares[lane] / area - mean * mean;
                // Rounding may leave less than nothing of a constant channel; a NaN has to come through.
                let variance = if variance < 0.0 { 0.0 } else { variance };
                moments.mean[i].0[lane] = R::from_f64(mean);
                moments.rstd[i].0[lane] = R::from_f64(1.0 / (variance + eps).sqrt());
            }
        }
        moments
    }

    /// y = scale · r + shift.
    pub(crate) fn affine(&self, weight: &[R], bias: &[R]) -> Affine<R> {
        let spans = spans(&[weight.len()]);
        let images = self.mean.len() / spans.len();
        let mut affine = vec![[Block::default(); 2]; self.mean.len()];
        for (i, [scale, shift]) in affine.iter_mut().enumerate() {
            let span = spans[i / images];
            for lane in 0..span.count {
                let (w, b) = (weight[span.first + lane], bias[span.first + lane]);
                let (mean, rstd) = (self.mean[i].0[lane], self.rstd[i].0[lane]);
                let factor = w.to_f64() * rstd.to_f64();
                scale.0[lane] = R::from_f64(factor);
                shift.0[lane] = R::from_f64(b.to_f64() - factor * mean.to_f64());
            }
        }
        affine
    }
}

/// What the norm's result was: what [`backward`] needs.
#[derive(Clone, Copy)]
pub(crate) struct Normed<'a, R> {
    pub(crate) maps: &'a [Block<R>],
    pub(crate) channels: usize,
    pub(crate) size: Size,
    pub(crate) moments: &'a Moments<R>,
    pub(crate) affine: &'a Affine<R>,
}

/// Gradients of a norm's weight and bias, and of the bias of the convolution before.
pub(crate) struct ChannelGradients<R> {
    pub(crate) weight: Vec<R>,
    pub(crate) bias: Vec<R>,
    pub(crate) conv_bias: Vec<R>,
}

/// Rows of an image that are summed before they are added to the others; even, so that a pool's windows are whole.
const ROWS: usize = 8;

/// Pixels whose sum is rounded little: these are added to the others as one.
const SHORT: usize = 64;

/// Turns the gradient of y, to which that of y's maxima of 2 × 2 is added if there is one, into that of z.
pub(crate) fn backward<R: Dispatch>(
    isa: InstructionSet,
    normed: Normed<'_, R>,
    gradient: &mut [Block<R>],
    pooled: Option<&[Block<R>]>,
) -> ChannelGradients<R> {
    let Normed {
        maps,
        channels,
        size,
        moments,
        affine,
    } = normed;
    let (spans, area) = (spans(&[channels]), size.area());
    let (chunk, per_plane) = (ROWS * size.w, size.h.div_ceil(ROWS));
    let sums: Vec<[Block<R>; 2]> = gradient
        .par_chunks_mut(area)
        .zip(maps.par_chunks(area))
        .enumerate()
        .flat_map(|(plane, (gradient, maps))| {
            let pooled = pooled.map(|pooled| &pooled[plane * area / 4..][..area / 4]);
            gradient
                .par_chunks_mut(chunk)
                .zip(maps.par_chunks(chunk))
                .enumerate()
                .map(move |(i, (gradient, maps))| {
                    R::dispatch(
                        isa,
                        Sums {
                            gradient,
                            maps,
                            pooled: pooled.map(|pooled| &pooled[i * chunk / 4..]),
                            width: size.w,
                            affine: &affine[plane],
                            mean: &moments.mean[plane],
                        },
                    )
                })
        })
        .collect();
    // Σ g and Σ g ŷ of each plane.
    let mut result = ChannelGradients {
        weight: vec![R::default(); channels],
        bias: vec![R::default(); channels],
        conv_bias: vec![R::default(); channels],
    };
    let mut totals = vec![[0.0; 3]; channels];
    let factors: Vec<[Block<R>; 3]> = sums
        .chunks_exact(per_plane)
        .enumerate()
        .map(|(plane, sums)| {
            let (span, m) = (spans[plane / size.n], area as f64);
            let mut factors = [Block::default(); 3];
            for lane in 0..span.count {
                let rstd = moments.rstd[plane].0[lane].to_f64();
                let total = |i: usize| sums.iter().map(|s| s[i].0[lane].to_f64()).sum::<f64>();
                let (g, gn) = (total(0), total(1) * rstd);
                totals[span.first + lane][0] += gn;
                totals[span.first + lane][1] += g;
                let scale = affine[plane][0].0[lane].to_f64();
                let of = [scale, -scale * rstd * gn / m, -scale * g / m];
                for (factor, of) in factors.iter_mut().zip(of) {
                    factor.0[lane] = R::from_f64(of);
                }
            }
            factors
        })
        .collect();
    let sums: Vec<Block<R>> = gradient
        .par_chunks_mut(area)
        .zip(maps.par_chunks(area))
        .enumerate()
        .flat_map(|(plane, (gradient, maps))| {
            let (factors, mean) = (&factors[plane], &moments.mean[plane]);
            gradient
                .par_chunks_mut(chunk)
                .zip(maps.par_chunks(chunk))
                .map(move |(gradient, maps)| {
                    R::dispatch(
                        isa,
                        Through {
                            gradient,
                            maps,
                            factors,
                            mean,
                        },
                    )
                })
        })
        .collect();
    for (plane, sums) in sums.chunks_exact(per_plane).enumerate() {
        let span = spans[plane / size.n];
        for lane in 0..span.count {
            let sum: f64 = sums.iter().map(|sum| sum.0[lane].to_f64()).sum();
            totals[span.first + lane][2] += sum;
        }
    }
    for (channel, [weight, bias, conv_bias]) in totals.into_iter().enumerate() {
        result.weight[channel] = R::from_f64(weight);
        result.bias[channel] = R::from_f64(bias);
        result.conv_bias[channel] = R::from_f64(conv_bias);
    }
    result
}

/// Σ g and Σ g (r − μ) of some rows, after the pool's gradient has been added to g.
struct Sums<'a, R> {
    gradient: &'a mut [Block<R>],
    maps: &'a [Block<R>],
    pooled: Option<&'a [Block<R>]>,
    width: usize,
    affine: &'a [Block<R>; 2],
    mean: &'a Block<R>,
}

impl<R: Real> Kernel<R> for Sums<'_, R> {
    type Output = [Block<R>; 2];

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Self::Output {
        let mean = L::load(self.mean);
        let mut sums = [L::zero(); 2];
        if let Some(pooled) = self.pooled {
            let (scale, shift) = (L::load(&self.affine[0]), L::load(&self.affine[1]));
            let rows = self.gradient.chunks_exact_mut(2 * self.width);
            let rows = rows.zip(self.maps.chunks_exact(2 * self.width));
            for ((gradient, maps), pooled) in rows.zip(pooled.chunks_exact(self.width / 2)) {
                let mut row = [L::zero(); 2];
                for (x, pooled) in pooled.iter().enumerate() {
                    let places = [2 * x, 2 * x + 1, self.width + 2 * x, self.width + 2 * x + 1];
                    let mut r = [L::zero(); 4];
                    let mut y = [L::zero(); 4];
                    for (i, place) in places.into_iter().enumerate() {
                        r[i] = L::load(&maps[place]);
                        y[i] = r[i].fma(scale, shift);
                    }
                    let (_, pooled) = first_maximum(y, L::load(pooled));
                    for (i, place) in places.into_iter().enumerate() {
                        let g = L::load(&gradient[place]) + pooled[i];
                        g.store(&mut gradient[place]);
                        row[0] = row[0] + g;
                        row[1] = g.fma(r[i] - mean, row[1]);
                    }
                }
                sums = [sums[0] + row[0], sums[1] + row[1]];
            }
        } else {
            let parts = self.gradient.chunks(SHORT).zip(self.maps.chunks(SHORT));
            for (gradient, maps) in parts {
                let mut part = [L::zero(); 2];
                for (gradient, r) in gradient.iter().zip(maps) {
                    let (g, r) = (L::load(gradient), L::load(r));
                    part[0] = part[0] + g;
                    part[1] = g.fma(r - mean, part[1]);
                }
                sums = [sums[0] + part[0], sums[1] + part[1]];
            }
        }
        [sums[0].to_block(), sums[1].to_block()]
    }
}

/// ∂z of some rows in the place of g; their sum.
struct Through<'a, R> {
    gradient: &'a mut [Block<R>],
    maps: &'a [Block<R>],
    factors: &'a [Block<R>; 3],
    mean: &'a Block<R>,
}

impl<R: Real> Kernel<R> for Through<'_, R> {
    type Output = Block<R>;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Block<R> {
        let [of_g, of_r, of_one] = self.factors;
        let (of_g, of_r, of_one) = (L::load(of_g), L::load(of_r), L::load(of_one));
        let mean = L::load(self.mean);
        let mut sum = L::zero();
        let parts = self.gradient.chunks_mut(SHORT).zip(self.maps.chunks(SHORT));
        for (gradient, maps) in parts {
            let mut part = L::zero();
            for (gradient, r) in gradient.iter_mut().zip(maps) {
                let (g, r) = (L::load(gradient), L::load(r));
                let z = g.fma(of_g, (r - mean).fma(of_r, of_one));
                let z = L::select(r.positive(), z, L::zero());
                z.store(gradient);
                part = part + z;
            }
            sum = sum + part;
        }
        sum.to_block()
    }
}
