//! A softmax of three or more classes, hard labels.

use super::{
    activation::{Classes, ln_of_complement},
    lanes::Lanes,
    rows::{Gradients, Rows},
    terms::{Miss, Pixel, Terms},
};

/// Sums of one class.
#[derive(Clone, Copy)]
pub(super) struct Sum<L> {
    tp: L,
    p_false: L,
    errors_true: L,
    errors_false: L,
    volume: L,
    loss: L,
}

impl<L: Lanes> Sum<L> {
    #[inline(always)]
    pub(super) fn zero() -> Self {
        let zero = L::zero();
        Self {
            tp: zero,
            p_false: zero,
            errors_true: zero,
            errors_false: zero,
            volume: zero,
            loss: zero,
        }
    }

    /// Adds a block's sums to its item's rows.
    #[inline(always)]
    pub(super) fn finish(&self, pixels: f64, c: usize, rows: &mut Rows) {
        let tp = self.tp.sum();
        rows.tp[c] += tp;
        rows.predicted[c] += tp + self.p_false.sum();
        rows.fp[c] += self.errors_false.sum();
        rows.fn_[c] += self.errors_true.sum();
        rows.volume[c] += self.volume.sum();
        rows.pixels[c] += pixels;
        rows.of_class[c] += self.loss.sum();
    }
}

/// The pixel seen from the class that is true; `ln e` and `ℓ` only if they are needed.
#[inline(always)]
fn miss<L: Lanes, const LOGS: bool>(classes: &Classes<L>, label: L, terms: &Terms) -> Miss<L> {
    let mut miss = Miss {
        e: L::zero(),
        r: L::zero(),
        ln_e: L::zero(),
        minus_ln_r: L::zero(),
        focus: L::zero(),
    };
    if !LOGS {
        return miss;
    }
    let focal = terms.pixel.as_ref().filter(|pixel| pixel.focal);
    for c in 0..classes.p.len() {
        let is = label.equals(L::constant(c as f64));
        miss.e = L::select(is, classes.q[c], miss.e);
        miss.r = L::select(is, classes.p[c], miss.r);
        miss.minus_ln_r = L::select(is, -classes.ln_p[c], miss.minus_ln_r);
        if let Some(Pixel { focus, .. }) = focal {
            miss.focus = L::select(is, L::constant(focus[c]), miss.focus);
        }
    }
    if terms.logs_of_errors() {
        miss.ln_e = ln_of_complement(miss.e);
    }
    miss
}

/// Adds some pixels to the sums of every class. The logits stand in `classes.z`.
#[inline(always)]
pub(super) fn add<L: Lanes, const LOGS: bool, const WEIGHTED: bool>(
    classes: &mut Classes<L>,
    label: L,
    weight: L,
    terms: &Terms,
    sums: &mut [Sum<L>],
) {
    classes.softmax(LOGS);
    let miss = miss::<L, LOGS>(classes, label, terms);
    let loss = match &terms.pixel {
        Some(pixel) if LOGS => pixel.value(&miss) * weight,
        _ => L::zero(),
    };
    for (c, sum) in sums.iter_mut().enumerate() {
        let is = label.equals(L::constant(c as f64));
        if let Some(errors) = &terms.errors {
            let p = classes.p[c];
            let e = L::select(is, classes.q[c], p);
            let ln_e = L::select(is, miss.ln_e, classes.ln_p[c]);
            let error = errors.power.value::<L, LOGS>(e, ln_e);
            let (p, error) = if WEIGHTED {
                (p * weight, error * weight)
            } else {
                (p, error)
            };
            sum.tp = sum.tp.add_where(is, p);
            sum.p_false = sum.p_false.add_unless(is, p);
            sum.errors_true = sum.errors_true.add_where(is, error);
            sum.errors_false = sum.errors_false.add_unless(is, error);
        }
        sum.volume = sum.volume.add_where(is, weight);
        if LOGS {
            sum.loss = sum.loss.add_where(is, loss);
        }
    }
}

/// Derivatives of the loss in the sums of one class, as a pixel needs them.
#[derive(Clone, Copy)]
pub(super) struct Slope<L> {
    /// In the probability, where the class is true and where it is not.
    overlap: [L; 2],
    /// γ times that in the errors.
    error: [L; 2],
    loss: L,
}

impl<L: Lanes> Slope<L> {
    #[inline(always)]
    pub(super) fn new(gradients: &Gradients, terms: &Terms, c: usize) -> Self {
        let g = gradients;
        let gamma = terms.errors.map_or(1.0, |errors| errors.gamma);
        Self {
            overlap: [
                L::coefficient(g.predicted[c]),
                L::coefficient(g.predicted[c] + g.tp[c]),
            ],
            error: [
                L::coefficient(gamma * g.fp[c]),
                L::coefficient(-gamma * g.fn_[c]),
            ],
            loss: L::coefficient(-g.of_class[c]),
        }
    }
}

/// The derivative of the loss in some pixels' logits, from and to `classes.z`.
#[inline(always)]
pub(super) fn slopes<L: Lanes, const LOGS: bool>(
    classes: &mut Classes<L>,
    label: L,
    terms: &Terms,
    slopes: &[Slope<L>],
) {
    classes.softmax(LOGS);
    let miss = miss::<L, LOGS>(classes, label, terms);
    for (c, slope) in slopes.iter().enumerate() {
        let is = label.equals(L::constant(c as f64));
        let of = |pair: &[L; 2]| L::select(is, pair[1], pair[0]);
        let p = classes.p[c];
        let mut of_p = L::zero();
        if let Some(errors) = &terms.errors {
            let ln_e = L::select(is, miss.ln_e, classes.ln_p[c]);
            let of_error = errors
                .power
                .slope_times_p::<L, LOGS>(is, p, classes.q[c], ln_e);
            of_p = of_error.mul_add(of(&slope.error), p * of(&slope.overlap));
        }
        if let Some(pixel) = terms.pixel.as_ref().filter(|_| LOGS) {
            let of_loss = pixel.slope_over_error(&miss) * slope.loss;
            of_p = of_p.add_where(is, of_loss);
        }
        classes.more[c] = of_p;
    }
    classes.slopes_of_logits();
}
