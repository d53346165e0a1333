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

/// Where the weights of a matrix `[rows][columns][TAPS]` lie.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a, R> {
    pub(crate) weights: &'a [R],
    pub(crate) columns: usize,
}

impl<R: Real> Filters<'_, R> {
    /// For each column of a span, each tap's weights with the rows in the lanes: `[16][TAPS]`.
    #[inline(always)]
    pub(super) fn rows_in_lanes<L: Lanes<Real = R>, const TAPS: usize>(
        &self,
        rows: Span,
        columns: Span,
        taps: &mut [Block<R>],
    ) {
        let (length, count) = (self.columns * TAPS, columns.count * TAPS);
        for (i, taps) in taps[..LANES * TAPS].chunks_exact_mut(LANES).enumerate() {
            let mut lanes = [L::zero(); LANES];
            if i * LANES < count {
                for (r, lanes) in lanes.iter_mut().enumerate().take(rows.count) {
                    let weights = &self.weights[(rows.first + r) * length..][..length];
                    let weights = &weights[columns.first * TAPS..][..count];
                    *lanes = load_up_to(&weights[i * LANES..]);
                }
                L::transpose(&mut lanes);
            }
            for (tap, lanes) in taps.iter_mut().zip(lanes) {
                lanes.store(tap);
            }
        }
    }

    /// For each row of a span, each tap's weights with the columns in the lanes: `[16][TAPS]`.
    #[inline(always)]
    pub(super) fn columns_in_lanes<L: Lanes<Real = R>, const TAPS: usize>(
        &self,
        rows: Span,
        columns: Span,
        taps: &mut [Block<R>],
    ) {
        let length = self.columns * TAPS;
        for (r, taps) in taps[..LANES * TAPS].chunks_exact_mut(TAPS).enumerate() {
            let mut lanes = [L::zero(); LANES];
            if r < rows.count {
                let weights = &self.weights[(rows.first + r) * length..][..length];
                for (c, lanes) in lanes.iter_mut().enumerate().take(columns.count) {
                    *lanes = load_up_to(&weights[(columns.first + c) * TAPS..][..TAPS]);
                }
                L::transpose(&mut lanes);
            }
            for (tap, lanes) in taps.iter_mut().zip(lanes) {
                lanes.store(tap);
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
                match way {
                    Way::Forward => {
                        self.rows_in_lanes::<L, TAPS>(lanes_of_block, summed, &mut taps);
                    }
                    Way::Backward => {
                        self.columns_in_lanes::<L, TAPS>(summed, lanes_of_block, &mut taps);
                        for taps in taps.chunks_exact_mut(TAPS) {
                            taps.reverse();
                        }
                    }
                }
                for (c, taps) in taps.chunks_exact(TAPS).enumerate() {
                    let at = (s * LANES + c) * lanes.len() + g;
                    let mut columns = [[L::zero(); 6]; 3];
                    for (x, column) in columns.iter_mut().enumerate() {
                        let [a, b, c] = [&taps[x], &taps[3 + x], &taps[6 + x]];
                        *column = T::filter([L::load(a), L::load(b), L::load(c)]);
                    }
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
            let mut row = [L::zero(); 6];
            for (product, column) in row.iter_mut().zip(&columns) {
                *product = column[y];
            }
            taps[3 * y..][..3].copy_from_slice(&T::filter_adjoint(row));
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
        for (row, weights) in columns
            .into_iter()
            .zip(rows.chunks_exact_mut(inputs * TAPS))
        {
            let weights = &mut weights[summed.first * TAPS..][..count];
            store_up_to(row, &mut weights[i * LANES..]);
        }
    }
}
