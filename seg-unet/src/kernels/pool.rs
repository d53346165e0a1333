//! 2 × 2 max-pooling of maps that are normalised on the way. The first maximum, row by row, gets the gradient.

use rayon::prelude::*;

use super::{
    lanes::{Block, Lanes, Real},
    maps::Size,
    simd::{Dispatch, InstructionSet, Kernel},
    source::Affine,
};

/// The first maximum of four, and what each gets of a gradient. A NaN is a maximum.
#[inline(always)]
pub(super) fn first_maximum<L: Lanes>(y: [L; 4], gradient: L) -> (L, [L; 4]) {
    let mut best = y[0];
    let mut shares = [gradient, L::zero(), L::zero(), L::zero()];
    for i in 1..4 {
        let beaten = best.beaten_by(y[i]);
        best = L::select(beaten, y[i], best);
        for share in &mut shares[..i] {
            *share = L::select(beaten, L::zero(), *share);
        }
        shares[i] = L::select(beaten, gradient, L::zero());
    }
    (best, shares)
}

/// The maxima `[C/16, N, H/2, W/2]` of scale · r + shift, for the maps r `[C/16, N, H, W]`.
pub(crate) fn max_pool2<R: Dispatch>(
    isa: InstructionSet,
    maps: &[Block<R>],
    affine: &Affine<R>,
    size: Size,
    pooled: &mut [Block<R>],
) {
    let area = size.area();
    pooled
        .par_chunks_mut(area / 4)
        .zip(maps.par_chunks(area))
        .zip(affine)
        .for_each(|((pooled, maps), affine)| {
            pooled
                .par_chunks_mut(size.w / 2)
                .zip(maps.par_chunks(2 * size.w))
                .for_each(|(pooled, maps)| {
                    R::dispatch(
                        isa,
                        Row {
                            maps,
                            affine,
                            pooled,
                        },
                    );
                });
        });
}

struct Row<'a, R> {
    maps: &'a [Block<R>],
    affine: &'a [Block<R>; 2],
    pooled: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for Row<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let (scale, shift) = (L::load(&self.affine[0]), L::load(&self.affine[1]));
        let (upper, lower) = self.maps.split_at(self.maps.len() / 2);
        let windows = upper.chunks_exact(2).zip(lower.chunks_exact(2));
        for (pooled, (upper, lower)) in self.pooled.iter_mut().zip(windows) {
            let y = [&upper[0], &upper[1], &lower[0], &lower[1]];
            let mut best = L::load(y[0]).fma(scale, shift);
            for y in &y[1..] {
                let y = L::load(y).fma(scale, shift);
                best = L::select(best.beaten_by(y), y, best);
            }
            best.store(pooled);
        }
    }
}
