//! A convolution's weights `[O, I, 3, 3]` on their way to the matrix products and back.

use super::{
    lanes::{Block, LANES, Lanes, Real},
    maps::{Span, load_up_to, store_up_to},
    winograd::Tile,
};

pub(crate) const TAPS: usize = 9;

/// Which way a convolution goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From inputs to outputs.
    Forward,
    /// From the outputs' gradient to the inputs': by the same weights, turned by half a turn, outputs and inputs
    /// exchanged.
    Backward,
}

/// Where the weights of `[O, I, 3, 3]` lie.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a, R> {
    pub(crate) weights: &'a [R],
    pub(crate) inputs: usize,
}

impl<R: Real> Filters<'_, R> {
    /// For each channel that is summed over, each tap's weights of the channels in the lanes: `[16][9]`.
    #[inline(always)]
    fn taps<L: Lanes<Real = R>>(
        &self,
        way: Way,
        lanes: Span,
        summed: Span,
        taps: &mut [Block<R>; LANES * TAPS],
    ) {
        let length = self.inputs * TAPS;
        match way {
            Way::Forward => {
                // A row of weights an output, taps of the inputs one after the other.
                let count = summed.count * TAPS;
                for (i, taps) in taps.chunks_exact_mut(LANES).enumerate() {
                    let mut rows = [L::zero(); LANES];
                    if i * LANES < count {
                        for (o, row) in rows.iter_mut().enumerate().take(lanes.count) {
                            let weights = &self.weights[(lanes.first + o) * length..][..length];
                            let weights = &weights[summed.first * TAPS..][..count];
                            *row = load_up_to(&weights[i * LANES..]);
                        }
                        L::transpose(&mut rows);
                    }
                    for (tap, row) in taps.iter_mut().zip(rows) {
                        row.store(tap);
                    }
                }
            }
            Way::Backward => {
                for (o, taps) in taps.chunks_exact_mut(TAPS).enumerate() {
                    let mut rows = [L::zero(); LANES];
                    if o < summed.count {
                        let weights = &self.weights[(summed.first + o) * length..][..length];
                        for (i, row) in rows.iter_mut().enumerate().take(lanes.count) {
                            *row = load_up_to(&weights[(lanes.first + i) * TAPS..][..TAPS]);
                        }
                        L::transpose(&mut rows);
                    }
                    for (tap, row) in taps.iter_mut().rev().zip(rows) {
                        row.store(tap);
                    }
                }
            }
        }
    }

    /// G g Gᵀ of some lanes and all that is summed over: `[T::N²][C][G]`, a product's part every `stride` blocks.
    #[inline(always)]
    pub(crate) fn transform<L: Lanes<Real = R>, T: Tile>(
        &self,
        way: Way,
        lanes: &[Span],
        summed: &[Span],
        u: &mut [Block<R>],
        stride: usize,
    ) {
        let mut taps = [Block::<R>::default(); LANES * TAPS];
        for (g, &lanes_of_block) in lanes.iter().enumerate() {
            for (s, &summed) in summed.iter().enumerate() {
                self.taps::<L>(way, lanes_of_block, summed, &mut taps);
                for (c, taps) in taps.chunks_exact(TAPS).enumerate() {
                    let at = (s * LANES + c) * lanes.len() + g;
                    let tap = |row: usize, column: usize| L::load(&taps[3 * row + column]);
                    let columns = [0, 1, 2].map(|x| T::filter([0, 1, 2].map(|y| tap(y, x))));
                    for i in 0..T::N {
                        let row = T::filter([columns[0][i], columns[1][i], columns[2][i]]);
                        for (j, &product) in row.iter().enumerate().take(T::N) {
                            product.store(&mut u[(i * T::N + j) * stride + at]);
                        }
                    }
                }
            }
        }
    }
}

/// Gᵀ u G: the gradient of the weights of one block of outputs (lane g of G) and one of inputs, from that of their
/// transform `u`, `[T::N²][16][G]` with a product's part every `stride` blocks. `rows` are the weights of the block's
/// outputs, each a row of `inputs` × 9.
#[inline(always)]
pub(crate) fn transform_adjoint<L: Lanes, T: Tile>(
    u: &[Block<L::Real>],
    stride: usize,
    (g, group): (usize, usize),
    rows: &mut [L::Real],
    inputs: usize,
    summed: Span,
) {
    let mut taps = [L::zero(); LANES * TAPS];
    for (c, taps) in taps.chunks_exact_mut(TAPS).enumerate() {
        let at = c * group + g;
        let mut columns = [[L::zero(); 3]; 6];
        for j in 0..T::N {
            let mut products = [L::zero(); 6];
            for (i, product) in products.iter_mut().enumerate().take(T::N) {
                *product = L::load(&u[(i * T::N + j) * stride + at]);
            }
            columns[j] = T::filter_adjoint(products);
        }
        for y in 0..3 {
            let row = T::filter_adjoint(columns.map(|column| column[y]));
            taps[3 * y..][..3].copy_from_slice(&row);
        }
    }
    let count = summed.count * TAPS;
    for (i, taps) in taps.chunks_exact(LANES).enumerate() {
        if i * LANES >= count {
            break;
        }
        let mut columns = [L::zero(); LANES];
        columns.copy_from_slice(taps);
        L::transpose(&mut columns);
        for (row, weights) in columns.into_iter().zip(rows.chunks_exact_mut(inputs * TAPS)) {
            let weights = &mut weights[summed.first * TAPS..][..count];
            store_up_to(row, &mut weights[i * LANES..]);
        }
    }
}
