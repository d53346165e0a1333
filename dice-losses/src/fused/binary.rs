//! Two classes that exclude one another, hard labels: a sigmoid's channel, or a softmax of two by the log-odds of its
//! second class. Both classes are wrong by the same error, so one exponential a pixel serves everything.

use std::mem::MaybeUninit;

use super::{
    activation::{Probability, sigmoid},
    blocks::{Block, Planes},
    lanes::{Lanes, Real},
    rows::{Gradients, Rows},
    terms::{Errors, Miss, Pixel, Terms},
};

impl<L: Lanes> Probability<L> {
    /// The pixel seen from its truth.
    #[inline(always)]
    fn miss(&self, y: L::Mask, focus: L) -> Miss<L> {
        Miss {
            e: L::select(y, self.q, self.p),
            r: L::select(y, self.p, self.q),
            ln_e: L::select(y, self.ln_q, self.ln_p),
            minus_ln_r: -L::select(y, self.ln_p, self.ln_q),
            focus,
        }
    }
}

/// The log-odds of the class in question: a plane of logits, or the last of two less the first.
#[derive(Clone, Copy)]
pub(super) struct LogOdds<'a, R> {
    pub(super) z: Planes<'a, R>,
    /// The channel, 1 of a softmax of two.
    pub(super) channel: usize,
    /// The class number that means yes.
    pub(super) class: usize,
}

impl<R: Real> LogOdds<'_, R> {
    #[inline(always)]
    fn at<L: Lanes<Real = R>, const SOFTMAX: bool>(&self, at: usize) -> L {
        let z = self.z.load::<L>(self.channel, at);
        if SOFTMAX { z - self.z.load(0, at) } else { z }
    }

    /// The same where a vector may reach beyond the last pixel.
    #[inline(always)]
    fn at_padded<L: Lanes<Real = R>, const SOFTMAX: bool>(&self, at: usize) -> L {
        let z = self.z.load_padded::<L>(self.channel, at);
        if SOFTMAX {
            z - self.z.load_padded(0, at)
        } else {
            z
        }
    }
}

/// Sums of one block.
struct Sums<L> {
    p_true: L,
    q_true: L,
    p_false: L,
    q_false: L,
    errors_true: L,
    errors_false: L,
    pixels_true: L,
    pixels: L,
    loss_true: L,
    loss_false: L,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn new() -> Self {
        let zero = L::zero();
        Self {
            p_true: zero,
            q_true: zero,
            p_false: zero,
            q_false: zero,
            errors_true: zero,
            errors_false: zero,
            pixels_true: zero,
            pixels: zero,
            loss_true: zero,
            loss_false: zero,
        }
    }

    /// Adds some pixels. Without errors to be modulated, the sums of regions are not needed.
    #[inline(always)]
    fn add<const LOGS: bool>(
        &mut self,
        u: L,
        y: L::Mask,
        weight: Option<L>,
        terms: &Terms,
        focus: [L; 2],
    ) {
        let weighted = |x: L| match weight {
            Some(weight) => x * weight,
            None => x,
        };
        let s = sigmoid(u, LOGS);
        let miss = s.miss(y, L::select(y, focus[1], focus[0]));
        if let Some(errors) = &terms.errors {
            let (p, q) = (weighted(s.p), weighted(s.q));
            self.p_true = self.p_true.add_where(y, p);
            self.p_false = self.p_false.add_unless(y, p);
            self.q_true = self.q_true.add_where(y, q);
            self.q_false = self.q_false.add_unless(y, q);
            let error = weighted(errors.power.value::<L, LOGS>(miss.e, miss.ln_e));
            self.errors_true = self.errors_true.add_where(y, error);
            self.errors_false = self.errors_false.add_unless(y, error);
        }
        if let Some(pixel) = terms.pixel.as_ref().filter(|_| LOGS) {
            let loss = weighted(pixel.value(&miss));
            self.loss_true = self.loss_true.add_where(y, loss);
            self.loss_false = self.loss_false.add_unless(y, loss);
        }
        let one = weighted(L::one());
        self.pixels_true = self.pixels_true.add_where(y, one);
        self.pixels = self.pixels + one;
    }
}

/// The focal exponents where `y` is 0 and 1: of the other side and of the channel, or of the two classes.
#[inline(always)]
fn focus<L: Lanes>(pixel: Option<&Pixel>, channel: usize, softmax: bool) -> [L; 2] {
    match pixel {
        None => [L::zero(); 2],
        Some(pixel) if softmax => [L::constant(pixel.focus[0]), L::constant(pixel.focus[1])],
        Some(pixel) => [
            L::constant(pixel.other_focus[channel]),
            L::constant(pixel.focus[channel]),
        ],
    }
}

/// Adds a block's sums to its item's rows: those of the channel, or of both classes of a softmax.
#[inline(always)]
pub(super) fn forward<L: Lanes, const LOGS: bool, const SOFTMAX: bool>(
    u: LogOdds<L::Real>,
    block: Block<L::Real>,
    terms: &Terms,
    rows: &mut Rows,
) {
    let channel = u.channel;
    let focus = focus::<L>(terms.pixel.as_ref(), channel, SOFTMAX);
    let class = L::constant(u.class as f64);
    let mut sums = Sums::<L>::new();
    let mut at = block.start;
    match block.weights {
        None => {
            while at < block.end {
                let y = L::load(&block.labels[at..]).equals(class);
                sums.add::<LOGS>(u.at::<L, SOFTMAX>(at), y, None, terms, focus);
                at += L::COUNT;
            }
        }
        Some(weights) => {
            while at < block.end {
                let y = L::load(&block.labels[at..]).equals(class);
                let weight = L::load(&weights[at..]);
                // A pixel that does not count must not matter, not even a NaN.
                let counts = weight.is_above(L::zero());
                let u = L::select(counts, u.at_padded::<L, SOFTMAX>(at), L::zero());
                sums.add::<LOGS>(u, y, Some(weight), terms, focus);
                at += L::COUNT;
            }
        }
    }
    let (p_true, p_false) = (sums.p_true.sum(), sums.p_false.sum());
    let (q_true, q_false) = (sums.q_true.sum(), sums.q_false.sum());
    let (errors_true, errors_false) = (sums.errors_true.sum(), sums.errors_false.sum());
    let (pixels_true, pixels) = (sums.pixels_true.sum(), sums.pixels.sum());
    let (loss_true, loss_false) = (sums.loss_true.sum(), sums.loss_false.sum());
    rows.tp[channel] += p_true;
    rows.predicted[channel] += p_true + p_false;
    rows.fp[channel] += errors_false;
    rows.fn_[channel] += errors_true;
    rows.volume[channel] += pixels_true;
    rows.pixels[channel] += pixels;
    rows.of_class[channel] += loss_true;
    if SOFTMAX {
        rows.tp[0] += q_false;
        rows.predicted[0] += q_true + q_false;
        rows.fp[0] += errors_true;
        rows.fn_[0] += errors_false;
        rows.volume[0] += pixels - pixels_true;
        rows.pixels[0] += pixels;
        rows.of_class[0] += loss_false;
    } else {
        rows.of_others[channel] += loss_false;
    }
}

/// What a pixel's derivative in the log-odds is made of, where `y` is 0 and where it is 1:
/// `p q · overlap + r e^γ · error + pixel · loss`.
pub(super) struct Slopes<L> {
    overlap: [L; 2],
    error: [L; 2],
    loss: [L; 2],
    focus: [L; 2],
}

impl<L: Lanes> Slopes<L> {
    /// From the derivatives of the loss in an item's sums.
    #[inline(always)]
    pub(super) fn new(gradients: &Gradients, terms: &Terms, channel: usize, softmax: bool) -> Self {
        let g = gradients;
        let gamma = terms.errors.map_or(1.0, |errors| errors.gamma);
        let c = channel;
        let pair = |no: f64, yes: f64| [L::coefficient(no), L::coefficient(yes)];
        let focus = focus::<L>(terms.pixel.as_ref(), channel, softmax);
        if softmax {
            // Class 0 has the log-odds −u, and is true where class 1 is not.
            let predicted = g.predicted[1] - g.predicted[0];
            Self {
                overlap: pair(predicted - g.tp[0], predicted + g.tp[1]),
                error: pair(gamma * (g.fp[1] + g.fn_[0]), -gamma * (g.fn_[1] + g.fp[0])),
                loss: pair(g.of_class[0], -g.of_class[1]),
                focus,
            }
        } else {
            Self {
                overlap: pair(g.predicted[c], g.predicted[c] + g.tp[c]),
                error: pair(gamma * g.fp[c], -gamma * g.fn_[c]),
                loss: pair(g.of_others[c], -g.of_class[c]),
                focus,
            }
        }
    }

    /// The derivative of the loss in the log-odds of some pixels.
    #[inline(always)]
    fn of<const LOGS: bool>(&self, u: L, y: L::Mask, terms: &Terms) -> L {
        let of = |pair: &[L; 2]| L::select(y, pair[1], pair[0]);
        let s = sigmoid(u, LOGS);
        let miss = s.miss(y, of(&self.focus));
        let mut slope = L::zero();
        if let Some(Errors { power, .. }) = &terms.errors {
            let error = miss.r * power.value::<L, LOGS>(miss.e, miss.ln_e);
            slope = s.p_q.mul_add(of(&self.overlap), error * of(&self.error));
        }
        if let Some(pixel) = terms.pixel.as_ref().filter(|_| LOGS) {
            slope = pixel.slope(&miss).mul_add(of(&self.loss), slope);
        }
        slope
    }
}

/// The derivative of the loss in the logits of a block's pixels, to the channel's plane, or both of a softmax.
#[inline(always)]
pub(super) fn backward<L: Lanes, const LOGS: bool, const SOFTMAX: bool>(
    u: LogOdds<L::Real>,
    block: Block<L::Real>,
    terms: &Terms,
    slopes: &Slopes<L>,
    out: &mut [&mut [MaybeUninit<L::Real>]],
) {
    let class = L::constant(u.class as f64);
    let mut at = block.start;
    match block.weights {
        None => {
            while at < block.end {
                let y = L::load(&block.labels[at..]).equals(class);
                let slope = slopes.of::<LOGS>(u.at::<L, SOFTMAX>(at), y, terms);
                slope.store(&mut out[u.channel][at..]);
                if SOFTMAX {
                    (-slope).store(&mut out[0][at..]);
                }
                at += L::COUNT;
            }
        }
        Some(weights) => {
            while at < block.end {
                let y = L::load(&block.labels[at..]).equals(class);
                let weight = L::load(&weights[at..]);
                let counts = weight.is_above(L::zero());
                let log_odds = L::select(counts, u.at_padded::<L, SOFTMAX>(at), L::zero());
                let slope = slopes.of::<LOGS>(log_odds, y, terms) * weight;
                slope.store_padded(&mut out[u.channel][at..]);
                if SOFTMAX {
                    (-slope).store_padded(&mut out[0][at..]);
                }
                at += L::COUNT;
            }
        }
    }
}
