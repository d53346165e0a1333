//! Logits to probabilities and their complements, in which nothing cancels.

use super::lanes::{Lanes, Real};

/// The probability of a class, its complement, and their logarithms if they were asked for.
#[derive(Clone, Copy)]
pub(super) struct Probability<L> {
    pub(super) p: L,
    /// `1 − p`.
    pub(super) q: L,
    /// `p q`, the derivative of a sigmoid.
    pub(super) p_q: L,
    pub(super) ln_p: L,
    pub(super) ln_q: L,
}

/// `p = σ(u)`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(u: L, logs: bool) -> Probability<L> {
    let size = u.abs();
    let e = (-size).exp();
    let large = (L::one() + e).reciprocal();
    let small = e * large;
    let positive = u.is_above(L::zero());
    let p = L::select(positive, large, small);
    let q = L::select(positive, small, large);
    let p_q = small * large;
    if !logs {
        return Probability {
            p,
            q,
            p_q,
            ln_p: p,
            ln_q: q,
        };
    }
    let ln_large = -e.ln_1p(large);
    let ln_small = ln_large - size;
    Probability {
        p,
        q,
        p_q,
        ln_p: L::select(positive, ln_large, ln_small),
        ln_q: L::select(positive, ln_small, ln_large),
    }
}

/// Some numbers of each class, at `COUNT` pixels.
pub(super) struct Classes<'a, L> {
    /// Logits in; less the largest out.
    pub(super) z: &'a mut [L],
    pub(super) p: &'a mut [L],
    /// `1 − p`.
    pub(super) q: &'a mut [L],
    pub(super) ln_p: &'a mut [L],
    /// Not by [`Classes::softmax`], as few are needed of it.
    pub(super) ln_q: &'a mut [L],
    /// What a pass needs besides.
    pub(super) more: &'a mut [L],
}

impl<L: Lanes> Classes<'_, L> {
    /// The softmax of `z`, and the logarithms of it if asked for.
    ///
    /// `q` is the sum of the other classes' exponentials over that of all: `1 − p` would be 0, or a rounding error,
    /// where p is nearly 1.
    #[inline(always)]
    pub(super) fn softmax(&mut self, logs: bool) {
        let mut largest = self.z[0];
        for z in &self.z[1..] {
            largest = largest.at_least(*z);
        }
        for (p, z) in self.p.iter_mut().zip(&mut *self.z) {
            *z = *z - largest;
            *p = z.exp();
        }
        sums_of_others(self.p, self.q);
        let share = (self.p[0] + self.q[0]).reciprocal();
        if logs {
            // The largest exponential is 1, so the smallest sum of the others is all that exceeds 1.
            let mut excess = self.q[0];
            for q in &self.q[1..] {
                excess = excess.at_most(*q);
            }
            let ln_total = excess.ln_1p(share);
            for (ln_p, z) in self.ln_p.iter_mut().zip(&*self.z) {
                *ln_p = *z - ln_total;
            }
        }
        for (p, q) in self.p.iter_mut().zip(&mut *self.q) {
            *p = *p * share;
            *q = *q * share;
        }
    }

    /// From `more`, which holds `p dL/dp` of each class, the derivative of the loss in each logit,
    /// `q_k more_k − p_k Σ_{c ≠ k} more_c`, into `z`.
    #[inline(always)]
    pub(super) fn slopes_of_logits(&mut self) {
        sums_of_others(self.more, self.z);
        for c in 0..self.z.len() {
            self.z[c] = self.q[c] * self.more[c] - self.p[c] * self.z[c];
        }
    }
}

/// `ln q` of a complement that may have vanished: then so far below 0 that no power of it is left. A NaN stays one.
#[inline(always)]
pub(super) fn ln_of_complement<L: Lanes>(q: L) -> L {
    let ln = q.at_least(L::splat(L::Real::TINY)).ln();
    let vanished = L::select(q.equals(L::zero()), L::constant(-1e4), q);
    L::select(q.is_above(L::zero()), ln, vanished)
}

/// For each of two or more classes the sum of `x` over all the others, without subtraction.
#[inline(always)]
fn sums_of_others<L: Lanes>(x: &[L], others: &mut [L]) {
    let last = x.len() - 1;
    let mut before = x[0];
    for c in 1..=last {
        others[c] = before;
        before = before + x[c];
    }
    let mut behind = x[last];
    for c in (1..last).rev() {
        others[c] = others[c] + behind;
        behind = behind + x[c];
    }
    others[0] = behind;
}
