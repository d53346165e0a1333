//! Products of small matrices: where the time goes.
//!
//! Both keep a rectangle of sums in registers while they walk along the summed index: some rows, each a number to be
//! spread over all lanes, times one or two blocks of output channels. Everything is laid out so that the walk goes
//! through memory in order.

use super::{
    lanes::{Block, LANES, Lanes, Real},
    simd::Kernel,
};

/// How the sums begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At 0.
    Anew,
    /// At what the result holds.
    Add,
}

/// Calls a macro with `$rows`, which is 1 to 14, as a constant.
macro_rules! with_rows {
    ($rows:expr, $call:ident ! $arguments:tt) => {
        match $rows {
            1 => $call!(1, $arguments),
            2 => $call!(2, $arguments),
            3 => $call!(3, $arguments),
            4 => $call!(4, $arguments),
            5 => $call!(5, $arguments),
            6 => $call!(6, $arguments),
            7 => $call!(7, $arguments),
            8 => $call!(8, $arguments),
            9 => $call!(9, $arguments),
            10 => $call!(10, $arguments),
            11 => $call!(11, $arguments),
            12 => $call!(12, $arguments),
            13 => $call!(13, $arguments),
            14 => $call!(14, $arguments),
            rows => unreachable!("{rows} rows"),
        }
    };
}

/// m[t, o] (+)= Σ_c v[c, t] · u[c, o]
///
/// `v` holds a block of channels every `pitch`, each with `rows` positions or more; `u` is `[C][G]`, `m` `[rows][G]`.
pub(crate) struct OverChannels<'a, R, const G: usize> {
    pub(crate) rows: usize,
    pub(crate) v: &'a [Block<R>],
    pub(crate) pitch: usize,
    pub(crate) u: &'a [Block<R>],
    pub(crate) m: &'a mut [Block<R>],
    pub(crate) begin: Begin,
}

impl<R: Real, const G: usize> Kernel<R> for OverChannels<'_, R, G> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Self {
            pitch, u, begin, ..
        } = self;
        macro_rules! call {
            ($rows:literal, ($first:expr, $m:expr)) => {
                if $rows <= L::ROWS {
                    over_channels::<L, { $rows }, G>(&self.v[$first..], pitch, u, $m, begin)
                }
            };
        }
        for (first, count) in even_parts(self.rows, L::ROWS) {
            let m = &mut self.m[first * G..][..count * G];
            with_rows!(count, call!(first, m));
        }
    }
}

#[inline(always)]
fn over_channels<L: Lanes, const T: usize, const G: usize>(
    v: &[Block<L::Real>],
    pitch: usize,
    u: &[Block<L::Real>],
    m: &mut [Block<L::Real>],
    begin: Begin,
) {
    let mut sums = [[L::zero(); G]; T];
    for (v, u) in v.chunks(pitch).zip(u.chunks_exact(LANES * G)) {
        let v = &v[..T];
        for c in 0..LANES {
            let mut weights = [L::zero(); G];
            for (g, weights) in weights.iter_mut().enumerate() {
                *weights = L::load(&u[c * G + g]);
            }
            for (sums, v) in sums.iter_mut().zip(v) {
                let x = L::splat(v.0[c]);
                for (sum, &weights) in sums.iter_mut().zip(&weights) {
                    *sum = x.fma(weights, *sum);
                }
            }
        }
    }
    // Added at the end: a short sum loses less than one that goes on from where others stopped.
    for (sums, m) in sums.iter().zip(m.chunks_exact_mut(G)) {
        for (&sum, m) in sums.iter().zip(m) {
            match begin {
                Begin::Anew => sum.store(m),
                Begin::Add => (L::load(m) + sum).store(m),
            }
        }
    }
}

/// u[c, o] (+)= Σ_t v[t, c] · q[t, o] for the 16 channels c of one block
///
/// `v` holds blocks `[T]`, `q` `[T][G]` and `u` `[16][G]`.
pub(crate) struct OverPositions<'a, R, const G: usize> {
    pub(crate) v: &'a [Block<R>],
    pub(crate) q: &'a [Block<R>],
    pub(crate) u: &'a mut [Block<R>],
    pub(crate) begin: Begin,
}

impl<R: Real, const G: usize> Kernel<R> for OverPositions<'_, R, G> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        // A divisor of 16 that fits: 8 rows with 32 registers, 4 with 16.
        const MANY: usize = 8;
        const FEW: usize = 4;
        if L::ROWS >= MANY {
            for (i, u) in self.u.chunks_exact_mut(MANY * G).enumerate() {
                over_positions::<L, MANY, G>(self.v, i * MANY, self.q, u, self.begin);
            }
        } else {
            for (i, u) in self.u.chunks_exact_mut(FEW * G).enumerate() {
                over_positions::<L, FEW, G>(self.v, i * FEW, self.q, u, self.begin);
            }
        }
    }
}

#[inline(always)]
fn over_positions<L: Lanes, const C: usize, const G: usize>(
    v: &[Block<L::Real>],
    first: usize,
    q: &[Block<L::Real>],
    u: &mut [Block<L::Real>],
    begin: Begin,
) {
    let mut sums = [[L::zero(); G]; C];
    for (v, q) in v.iter().zip(q.chunks_exact(G)) {
        let mut gradients = [L::zero(); G];
        for (gradient, q) in gradients.iter_mut().zip(q) {
            *gradient = L::load(q);
        }
        let v = &v.0[first..first + C];
        for (sums, &v) in sums.iter_mut().zip(v) {
            let x = L::splat(v);
            for (sum, &gradient) in sums.iter_mut().zip(&gradients) {
                *sum = x.fma(gradient, *sum);
            }
        }
    }
    // Added at the end: a short sum loses less than one that goes on from where others stopped.
    for (sums, u) in sums.iter().zip(u.chunks_exact_mut(G)) {
        for (&sum, u) in sums.iter().zip(u) {
            match begin {
                Begin::Anew => sum.store(u),
                Begin::Add => (L::load(u) + sum).store(u),
            }
        }
    }
}

/// Cuts `length` into the fewest parts of at most `most`, as equal as can be: first index and length of each.
#[inline(always)]
pub(crate) fn even_parts(length: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = length.div_ceil(most);
    (0..parts).map(move |i| {
        let (start, end) = (i * length / parts, (i + 1) * length / parts);
        (start, end - start)
    })
}
