//! A block of pixels, forward and backward: which kernel serves it.

use std::mem::MaybeUninit;

use super::{
    activation::Classes,
    binary::{self, LogOdds, Slopes},
    blocks::{Block, Planes},
    hard,
    lanes::{Lanes, Real},
    rows::{Gradients, Rows},
    simd::Kernel,
    soft,
    terms::Terms,
};
use crate::{prediction::Activation, target::SLACK};

/// What is true at the pixels of a block.
#[derive(Clone, Copy)]
pub(super) enum Truth<'a, R> {
    /// Class numbers.
    Hard,
    /// Class numbers, smoothed: the truth of the class that is named, and that of the others.
    Smoothed { own: f64, other: f64 },
    /// A value a class, `y ↦ factor · y + term` for smoothing.
    Dense {
        y: Planes<'a, R>,
        factor: f64,
        term: f64,
    },
}

/// A block of one item's pixels.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a, R> {
    pub(super) channels: usize,
    pub(super) activation: Activation,
    pub(super) z: Planes<'a, R>,
    pub(super) truth: Truth<'a, R>,
    pub(super) block: Block<'a, R>,
    pub(super) terms: &'a Terms,
}

impl<'a, R: Real> Pixels<'a, R> {
    /// Whether every question has two answers: a sigmoid's channels have, and a softmax of two.
    fn is_binary(&self) -> bool {
        self.activation == Activation::Sigmoid || self.channels == 2
    }

    /// The question that a channel answers.
    fn log_odds(&self, channel: usize) -> LogOdds<'a, R> {
        LogOdds {
            z: self.z,
            channel,
            class: self.class(channel),
        }
    }

    /// The class number that means yes for a channel.
    fn class(&self, channel: usize) -> usize {
        if self.channels == 1 { 1 } else { channel }
    }

    /// The logits of every class from `at` on; 0 where a pixel does not count, which must not matter, not even as a
    /// NaN.
    #[inline(always)]
    fn load<L: Lanes<Real = R>, const WEIGHTED: bool>(&self, at: usize, weight: L, to: &mut [L]) {
        for (c, to) in to.iter_mut().enumerate() {
            *to = load::<L, WEIGHTED>(&self.z, c, at, weight);
        }
    }

    /// All that a kernel needs of the pixels from `at` on; returns their class numbers.
    #[inline(always)]
    fn load_all<L: Lanes<Real = R>, K: Kind<L>, const WEIGHTED: bool>(
        &self,
        at: usize,
        weight: L,
        classes: &mut Classes<L>,
    ) -> L {
        self.load::<L, WEIGHTED>(at, weight, classes.z);
        if K::SOFT {
            self.load_truth::<L, WEIGHTED>(at, weight, classes.more);
            L::zero()
        } else {
            L::load(&self.block.labels[at..])
        }
    }

    /// The truth of every class.
    #[inline(always)]
    fn load_truth<L: Lanes<Real = R>, const WEIGHTED: bool>(
        &self,
        at: usize,
        weight: L,
        to: &mut [L],
    ) {
        match self.truth {
            Truth::Dense { y, factor, term } => {
                let (factor, term) = (L::constant(factor), L::constant(term));
                for (c, to) in to.iter_mut().enumerate() {
                    let y = load::<L, WEIGHTED>(&y, c, at, weight);
                    *to = smoothed(rounded_into_range(y), factor, term);
                }
            }
            Truth::Smoothed { own, other } => {
                let label = L::load(&self.block.labels[at..]);
                for (c, to) in to.iter_mut().enumerate() {
                    let is = label.equals(L::constant(self.class(c) as f64));
                    *to = L::select(is, L::constant(own), L::constant(other));
                }
            }
            Truth::Hard => {}
        }
    }
}

/// A truth that is outside [0, 1] by rounding only, brought back into it.
#[inline(always)]
fn rounded_into_range<L: Lanes>(y: L) -> L {
    let inside = y.at_least(L::zero()).at_most(L::one());
    let is_rounding = L::constant(SLACK).is_above((y - inside).abs());
    L::select(is_rounding, inside, y)
}

/// `factor y + term` of a truth; one outside [0, 1] stays what it is, for smoothing might hide it.
#[inline(always)]
fn smoothed<L: Lanes>(y: L, factor: L, term: L) -> L {
    L::select(is_outside(y), y, y.mul_add(factor, term))
}

/// Whether a truth is none; a NaN is not.
#[inline(always)]
pub(super) fn is_outside<L: Lanes>(y: L) -> L::Mask {
    let half = L::constant(0.5);
    (y - half).abs().is_above(half)
}

#[inline(always)]
fn load<L: Lanes, const WEIGHTED: bool>(
    planes: &Planes<L::Real>,
    c: usize,
    at: usize,
    weight: L,
) -> L {
    if WEIGHTED {
        let counts = weight.is_above(L::zero());
        L::select(counts, planes.load_padded(c, at), L::zero())
    } else {
        planes.load(c, at)
    }
}

/// Room for six numbers of each class.
#[inline(always)]
fn split<L>(room: &mut [L]) -> Classes<'_, L> {
    let mut rows = room.chunks_mut(room.len() / 6);
    let mut row = || rows.next().unwrap_or_default();
    Classes {
        z: row(),
        p: row(),
        q: row(),
        ln_p: row(),
        ln_q: row(),
        more: row(),
    }
}

/// The same in arrays of a known length.
#[inline(always)]
fn in_rows<L, const C: usize>(room: &mut [[L; C]; 6]) -> Classes<'_, L> {
    let [z, p, q, ln_p, ln_q, more] = room;
    Classes {
        z,
        p,
        q,
        ln_p,
        ln_q,
        more,
    }
}

/// A kernel of pixels whose classes are looked at together: [`Hard`] or [`Soft`] labels.
///
/// With `LOGS` logarithms of probabilities are at hand; with `WEIGHTED` a pixel has a weight, or may lie beyond the
/// last one.
trait Kind<L: Lanes> {
    /// Sums of a class.
    type Sum: Copy;
    /// Derivatives of the loss in them.
    type Slope: Copy;
    /// Whether the classes' truths stand in `classes.more`, rather than a class number in `label`.
    const SOFT: bool;

    fn zero() -> Self::Sum;
    fn add<const LOGS: bool, const WEIGHTED: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        label: L,
        weight: L,
        sums: &mut [Self::Sum],
    );
    /// Adds the sums to their rows; returns whether a truth was none.
    fn finish(sum: &Self::Sum, pixels: f64, c: usize, rows: &mut Rows) -> bool;
    fn slope(gradients: &Gradients, terms: &Terms, c: usize) -> Self::Slope;
    fn slopes<const LOGS: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        label: L,
        slopes: &[Self::Slope],
    );
}

struct Hard;

impl<L: Lanes> Kind<L> for Hard {
    type Sum = hard::Sum<L>;
    type Slope = hard::Slope<L>;
    const SOFT: bool = false;

    #[inline(always)]
    fn zero() -> Self::Sum {
        hard::Sum::zero()
    }

    #[inline(always)]
    fn add<const LOGS: bool, const WEIGHTED: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        label: L,
        weight: L,
        sums: &mut [Self::Sum],
    ) {
        hard::add::<L, LOGS, WEIGHTED>(classes, label, weight, pixels.terms, sums);
    }

    #[inline(always)]
    fn finish(sum: &Self::Sum, pixels: f64, c: usize, rows: &mut Rows) -> bool {
        sum.finish(pixels, c, rows);
        false
    }

    #[inline(always)]
    fn slope(gradients: &Gradients, terms: &Terms, c: usize) -> Self::Slope {
        hard::Slope::new(gradients, terms, c)
    }

    #[inline(always)]
    fn slopes<const LOGS: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        label: L,
        slopes: &[Self::Slope],
    ) {
        hard::slopes::<L, LOGS>(classes, label, pixels.terms, slopes);
    }
}

struct Soft;

impl<L: Lanes> Kind<L> for Soft {
    type Sum = soft::Sum<L>;
    type Slope = soft::Slope<L>;
    const SOFT: bool = true;

    #[inline(always)]
    fn zero() -> Self::Sum {
        soft::Sum::zero()
    }

    #[inline(always)]
    fn add<const LOGS: bool, const WEIGHTED: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        _: L,
        weight: L,
        sums: &mut [Self::Sum],
    ) {
        soft::add::<L, LOGS>(classes, pixels.activation, weight, pixels.terms, sums);
    }

    #[inline(always)]
    fn finish(sum: &Self::Sum, pixels: f64, c: usize, rows: &mut Rows) -> bool {
        sum.finish(pixels, c, rows)
    }

    #[inline(always)]
    fn slope(gradients: &Gradients, terms: &Terms, c: usize) -> Self::Slope {
        soft::Slope::new(gradients, terms, c)
    }

    #[inline(always)]
    fn slopes<const LOGS: bool>(
        pixels: &Pixels<L::Real>,
        classes: &mut Classes<L>,
        _: L,
        slopes: &[Self::Slope],
    ) {
        soft::slopes::<L, LOGS>(classes, pixels.activation, pixels.terms, slopes);
    }
}

/// The sums of a block, added to its item's rows; returns whether a dense truth is none.
pub(super) struct Forward<'a, 'b, R> {
    pub(super) pixels: Pixels<'a, R>,
    pub(super) rows: &'a mut Rows<'b>,
}

impl<R: Real> Kernel<R> for Forward<'_, '_, R> {
    type Output = bool;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> bool {
        let Self { pixels, rows } = self;
        let (pixels, unweighted) = (&pixels, pixels.block.weights.is_none());
        match (pixels.truth, pixels.terms.logs(), pixels.channels) {
            (Truth::Hard, false, _) if pixels.is_binary() => {
                binary_forward::<L, false>(pixels, rows)
            }
            (Truth::Hard, true, _) if pixels.is_binary() => binary_forward::<L, true>(pixels, rows),
            (Truth::Hard, false, 3) if unweighted => forward_of::<L, Hard, 3>(pixels, rows),
            (Truth::Hard, false, 4) if unweighted => forward_of::<L, Hard, 4>(pixels, rows),
            (Truth::Hard, false, _) => forward_any::<L, Hard, false>(pixels, rows),
            (Truth::Hard, true, _) => forward_any::<L, Hard, true>(pixels, rows),
            (_, false, 1) if unweighted => forward_of::<L, Soft, 1>(pixels, rows),
            (_, false, 2) if unweighted => forward_of::<L, Soft, 2>(pixels, rows),
            (_, false, 4) if unweighted => forward_of::<L, Soft, 4>(pixels, rows),
            (_, false, _) => forward_any::<L, Soft, false>(pixels, rows),
            (_, true, _) => forward_any::<L, Soft, true>(pixels, rows),
        }
    }
}

#[inline(always)]
fn binary_forward<L: Lanes, const LOGS: bool>(pixels: &Pixels<L::Real>, rows: &mut Rows) -> bool {
    let terms = pixels.terms;
    for piece in pixels.block.pieces::<L>() {
        if pixels.activation == Activation::Softmax {
            binary::forward::<L, LOGS, true>(pixels.log_odds(1), piece, terms, rows);
        } else {
            for channel in 0..pixels.channels {
                binary::forward::<L, LOGS, false>(pixels.log_odds(channel), piece, terms, rows);
            }
        }
    }
    false
}

/// A few classes, every pixel counting once: all in registers.
#[inline(always)]
fn forward_of<L: Lanes, K: Kind<L>, const C: usize>(
    pixels: &Pixels<L::Real>,
    rows: &mut Rows,
) -> bool {
    let mut room = [[L::zero(); C]; 6];
    let mut sums = [K::zero(); C];
    forward::<L, K, false, false>(pixels, in_rows(&mut room), &mut sums, rows)
}

/// As many classes as there are.
#[inline(always)]
fn forward_any<L: Lanes, K: Kind<L>, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    rows: &mut Rows,
) -> bool {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let mut sums = vec![K::zero(); pixels.channels];
    forward::<L, K, LOGS, true>(pixels, split(&mut room), &mut sums, rows)
}

#[inline(always)]
fn forward<L: Lanes, K: Kind<L>, const LOGS: bool, const WEIGHTED: bool>(
    pixels: &Pixels<L::Real>,
    mut classes: Classes<L>,
    sums: &mut [K::Sum],
    rows: &mut Rows,
) -> bool {
    let mut stray = false;
    for piece in pixels.block.pieces::<L>() {
        sums.fill(K::zero());
        let mut count = L::zero();
        let mut at = piece.start;
        while at < piece.end {
            let weight = piece.weight_at::<L, WEIGHTED>(at);
            let label = pixels.load_all::<L, K, WEIGHTED>(at, weight, &mut classes);
            K::add::<LOGS, WEIGHTED>(pixels, &mut classes, label, weight, sums);
            count = count + weight;
            at += L::COUNT;
        }
        let count = count.sum();
        for (c, sum) in sums.iter().enumerate() {
            stray |= K::finish(sum, count, c, rows);
        }
    }
    stray
}

/// The gradient of a block.
pub(super) struct Backward<'a, 'b, 'c, R> {
    pub(super) pixels: Pixels<'a, R>,
    pub(super) gradients: &'a Gradients<'b>,
    pub(super) out: &'a mut [&'c mut [MaybeUninit<R>]],
}

type Out<'a, R> = &'a mut [MaybeUninit<R>];

impl<R: Real> Kernel<R> for Backward<'_, '_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Self {
            pixels,
            gradients: g,
            out,
        } = self;
        let (pixels, unweighted) = (&pixels, pixels.block.weights.is_none());
        match (pixels.truth, pixels.terms.logs(), pixels.channels) {
            (Truth::Hard, false, _) if pixels.is_binary() => {
                binary_backward::<L, false>(pixels, g, out);
            }
            (Truth::Hard, true, _) if pixels.is_binary() => {
                binary_backward::<L, true>(pixels, g, out);
            }
            (Truth::Hard, false, 3) if unweighted => backward_of::<L, Hard, 3>(pixels, g, out),
            (Truth::Hard, false, 4) if unweighted => backward_of::<L, Hard, 4>(pixels, g, out),
            (Truth::Hard, false, _) => backward_any::<L, Hard, false>(pixels, g, out),
            (Truth::Hard, true, _) => backward_any::<L, Hard, true>(pixels, g, out),
            (_, false, 1) if unweighted => backward_of::<L, Soft, 1>(pixels, g, out),
            (_, false, 2) if unweighted => backward_of::<L, Soft, 2>(pixels, g, out),
            (_, false, 4) if unweighted => backward_of::<L, Soft, 4>(pixels, g, out),
            (_, false, _) => backward_any::<L, Soft, false>(pixels, g, out),
            (_, true, _) => backward_any::<L, Soft, true>(pixels, g, out),
        }
    }
}

#[inline(always)]
fn binary_backward<L: Lanes, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let (block, terms) = (pixels.block, pixels.terms);
    if pixels.activation == Activation::Softmax {
        let slopes = Slopes::<L>::new(gradients, terms, 1, true);
        binary::backward::<L, LOGS, true>(pixels.log_odds(1), block, terms, &slopes, out);
    } else {
        for channel in 0..pixels.channels {
            let slopes = Slopes::<L>::new(gradients, terms, channel, false);
            binary::backward::<L, LOGS, false>(
                pixels.log_odds(channel),
                block,
                terms,
                &slopes,
                out,
            );
        }
    }
}

/// A few classes, every pixel counting once: all in registers.
#[inline(always)]
fn backward_of<L: Lanes, K: Kind<L>, const C: usize>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let mut room = [[L::zero(); C]; 6];
    let slopes: [_; C] = std::array::from_fn(|c| K::slope(gradients, pixels.terms, c));
    backward::<L, K, false, false>(pixels, in_rows(&mut room), &slopes, out);
}

/// As many classes as there are.
#[inline(always)]
fn backward_any<L: Lanes, K: Kind<L>, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let slopes: Vec<_> = (0..pixels.channels)
        .map(|c| K::slope(gradients, pixels.terms, c))
        .collect();
    backward::<L, K, LOGS, true>(pixels, split(&mut room), &slopes, out);
}

#[inline(always)]
fn backward<L: Lanes, K: Kind<L>, const LOGS: bool, const WEIGHTED: bool>(
    pixels: &Pixels<L::Real>,
    mut classes: Classes<L>,
    slopes: &[K::Slope],
    out: &mut [Out<L::Real>],
) {
    let mut at = pixels.block.start;
    while at < pixels.block.end {
        let weight = pixels.block.weight_at::<L, WEIGHTED>(at);
        let label = pixels.load_all::<L, K, WEIGHTED>(at, weight, &mut classes);
        K::slopes::<LOGS>(pixels, &mut classes, label, slopes);
        for (slope, out) in classes.z.iter().zip(out.iter_mut()) {
            if WEIGHTED {
                (*slope * weight).store_padded(&mut out[at..]);
            } else {
                slope.store(&mut out[at..]);
            }
        }
        at += L::COUNT;
    }
}
