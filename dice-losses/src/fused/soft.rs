//! Soft labels, and several labels that hold together: every class has a truth `y` of its own at each pixel.

use super::{
    activation::{Classes, Probability, ln_of_complement, sigmoid},
    kernel::is_outside,
    lanes::Lanes,
    rows::{Gradients, Rows},
    terms::{Errors, Miss, Terms},
};
use crate::prediction::Activation;

/// Sums of one class.
#[derive(Clone, Copy)]
pub(super) struct Sum<L> {
    tp: L,
    predicted: L,
    fp: L,
    fn_: L,
    volume: L,
    of_class: L,
    of_others: L,
    /// Truths that lie outside [0, 1].
    outside: L,
}

/// One class at some pixels.
struct Class<L> {
    probability: Probability<L>,
    y: L,
    focus: L,
    other_focus: L,
}

impl<L: Lanes> Class<L> {
    #[inline(always)]
    fn of<const LOGS: bool>(classes: &Classes<L>, c: usize, terms: &Terms) -> Self {
        let of = |focus: &[f64]| L::constant(focus.get(c).copied().unwrap_or(0.0));
        let (focus, other_focus) = match &terms.pixel {
            Some(pixel) if LOGS => (of(&pixel.focus), of(&pixel.other_focus)),
            _ => (L::zero(), L::zero()),
        };
        Self {
            probability: Probability {
                p: classes.p[c],
                q: classes.q[c],
                p_q: classes.p[c] * classes.q[c],
                ln_p: classes.ln_p[c],
                ln_q: classes.ln_q[c],
            },
            y: classes.more[c],
            focus,
            other_focus,
        }
    }

    /// The class as missed where it is true.
    #[inline(always)]
    fn missed(&self) -> Miss<L> {
        let Probability {
            p, q, ln_p, ln_q, ..
        } = self.probability;
        Miss {
            e: q,
            r: p,
            ln_e: ln_q,
            minus_ln_r: -ln_p,
            focus: self.focus,
        }
    }

    /// The class as seen where it is not true.
    #[inline(always)]
    fn mistaken(&self) -> Miss<L> {
        let Probability {
            p, q, ln_p, ln_q, ..
        } = self.probability;
        Miss {
            e: p,
            r: q,
            ln_e: ln_p,
            minus_ln_r: -ln_q,
            focus: self.other_focus,
        }
    }

    /// `p − y`, in which nothing cancels where y is 0 or 1.
    #[inline(always)]
    fn difference(&self) -> L {
        let Probability { p, q, .. } = self.probability;
        p * (L::one() - self.y) - q * self.y
    }

    /// The modulated false positive and false negative.
    #[inline(always)]
    fn errors<const LOGS: bool>(&self, errors: &Errors) -> (L, L) {
        if errors.squared_difference {
            let difference = self.difference();
            let over = difference.at_least(L::zero());
            let under = difference.at_most(L::zero());
            return (over * over, under * under);
        }
        let Probability {
            p, q, ln_p, ln_q, ..
        } = self.probability;
        let power = errors.power;
        (
            power.value::<L, LOGS>(p, ln_p) * power.of_truth::<L, LOGS>(L::one() - self.y),
            power.value::<L, LOGS>(q, ln_q) * power.of_truth::<L, LOGS>(self.y),
        )
    }
}

impl<L: Lanes> Sum<L> {
    #[inline(always)]
    pub(super) fn zero() -> Self {
        let zero = L::zero();
        Self {
            tp: zero,
            predicted: zero,
            fp: zero,
            fn_: zero,
            volume: zero,
            of_class: zero,
            of_others: zero,
            outside: zero,
        }
    }

    #[inline(always)]
    fn add<const LOGS: bool>(&mut self, class: &Class<L>, weight: L, terms: &Terms, others: bool) {
        self.outside = self.outside.add_where(is_outside(class.y), L::one());
        let y = class.y * weight;
        self.volume = self.volume + y;
        if let Some(errors) = &terms.errors {
            let p = class.probability.p;
            let (fp, fn_) = class.errors::<LOGS>(errors);
            self.tp = p.mul_add(y, self.tp);
            self.predicted = p.mul_add(weight, self.predicted);
            self.fp = fp.mul_add(weight, self.fp);
            self.fn_ = fn_.mul_add(weight, self.fn_);
        }
        if let Some(pixel) = terms.pixel.as_ref().filter(|_| LOGS) {
            self.of_class = pixel.value(&class.missed()).mul_add(y, self.of_class);
            if others {
                let loss = pixel.value(&class.mistaken());
                self.of_others = loss.mul_add(weight - y, self.of_others);
            }
        }
    }

    /// Adds a block's sums to its item's rows; returns whether a truth lies outside [0, 1].
    #[inline(always)]
    pub(super) fn finish(&self, pixels: f64, c: usize, rows: &mut Rows) -> bool {
        rows.tp[c] += self.tp.sum();
        rows.predicted[c] += self.predicted.sum();
        rows.fp[c] += self.fp.sum();
        rows.fn_[c] += self.fn_.sum();
        rows.volume[c] += self.volume.sum();
        rows.pixels[c] += pixels;
        rows.of_class[c] += self.of_class.sum();
        rows.of_others[c] += self.of_others.sum();
        self.outside.sum() > 0.0
    }
}

/// Adds some pixels, whose logits stand in `classes.z` and whose truths in `classes.more`.
#[inline(always)]
pub(super) fn add<L: Lanes, const LOGS: bool>(
    classes: &mut Classes<L>,
    activation: Activation,
    weight: L,
    terms: &Terms,
    sums: &mut [Sum<L>],
) {
    let others = activation == Activation::Sigmoid;
    probabilities::<L, LOGS>(classes, activation);
    for (c, sum) in sums.iter_mut().enumerate() {
        let class = Class::<L>::of::<LOGS>(classes, c, terms);
        sum.add::<LOGS>(&class, weight, terms, others);
    }
}

/// From the logits of `classes.z` to the probabilities, their complements and their logarithms.
#[inline(always)]
fn probabilities<L: Lanes, const LOGS: bool>(classes: &mut Classes<L>, activation: Activation) {
    match activation {
        Activation::Softmax => {
            classes.softmax(LOGS);
            if LOGS {
                for (ln_q, q) in classes.ln_q.iter_mut().zip(&*classes.q) {
                    *ln_q = ln_of_complement(*q);
                }
            }
        }
        Activation::Sigmoid => {
            for c in 0..classes.z.len() {
                let one = sigmoid(classes.z[c], LOGS);
                (classes.p[c], classes.q[c]) = (one.p, one.q);
                (classes.ln_p[c], classes.ln_q[c]) = (one.ln_p, one.ln_q);
            }
        }
    }
}

/// Derivatives of the loss in the sums of one class.
#[derive(Clone, Copy)]
pub(super) struct Slope<L> {
    tp: L,
    predicted: L,
    /// γ times those in the errors.
    fp: L,
    fn_: L,
    of_class: L,
    of_others: L,
}

impl<L: Lanes> Slope<L> {
    #[inline(always)]
    pub(super) fn new(gradients: &Gradients, terms: &Terms, c: usize) -> Self {
        let g = gradients;
        let gamma = terms.errors.map_or(1.0, |errors| errors.gamma);
        Self {
            tp: L::coefficient(g.tp[c]),
            predicted: L::coefficient(g.predicted[c]),
            fp: L::coefficient(gamma * g.fp[c]),
            fn_: L::coefficient(gamma * g.fn_[c]),
            of_class: L::coefficient(g.of_class[c]),
            of_others: L::coefficient(g.of_others[c]),
        }
    }

    /// `p dL/dp`, without the losses of the other side of a sigmoid.
    #[inline(always)]
    fn of_p<const LOGS: bool>(&self, class: &Class<L>, terms: &Terms) -> L {
        let Probability {
            p, q, ln_p, ln_q, ..
        } = class.probability;
        let mut of_p = L::zero();
        if let Some(errors) = &terms.errors {
            let overlap = self.tp.mul_add(class.y, self.predicted);
            let of_errors = if errors.squared_difference {
                let difference = class.difference();
                let over = difference.is_above(L::zero());
                p * difference * L::select(over, self.fp, self.fn_)
            } else {
                let power = errors.power;
                let not_y = L::one() - class.y;
                let fp = power.value::<L, LOGS>(p, ln_p) * power.of_truth::<L, LOGS>(not_y);
                let fn_ = p * power.slope::<L, LOGS>(q, ln_q) * power.of_truth::<L, LOGS>(class.y);
                self.fp * fp - self.fn_ * fn_
            };
            of_p = p.mul_add(overlap, of_errors);
        }
        if let Some(pixel) = terms.pixel.as_ref().filter(|_| LOGS) {
            let slope = pixel.slope_over_error(&class.missed());
            of_p = of_p - self.of_class * class.y * slope;
        }
        of_p
    }

    /// The derivative in the logit of a sigmoid.
    #[inline(always)]
    fn of_log_odds<const LOGS: bool>(&self, class: &Class<L>, of_p: L, terms: &Terms) -> L {
        let of_class = class.probability.q * of_p;
        match &terms.pixel {
            Some(pixel) if LOGS => {
                let not_y = L::one() - class.y;
                (self.of_others * not_y).mul_add(pixel.slope(&class.mistaken()), of_class)
            }
            _ => of_class,
        }
    }
}

/// The derivative of the loss in some pixels' logits, from and to `classes.z`; the truths stand in `classes.more`.
#[inline(always)]
pub(super) fn slopes<L: Lanes, const LOGS: bool>(
    classes: &mut Classes<L>,
    activation: Activation,
    terms: &Terms,
    slopes: &[Slope<L>],
) {
    probabilities::<L, LOGS>(classes, activation);
    for (c, slope) in slopes.iter().enumerate() {
        let class = Class::<L>::of::<LOGS>(classes, c, terms);
        let of_p = slope.of_p::<LOGS>(&class, terms);
        match activation {
            Activation::Softmax => classes.more[c] = of_p,
            Activation::Sigmoid => classes.z[c] = slope.of_log_odds::<LOGS>(&class, of_p, terms),
        }
    }
    if activation == Activation::Softmax {
        classes.slopes_of_logits();
    }
}
