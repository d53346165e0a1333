//! What is summed at a pixel, and its derivative: powers of an error, and the pixel loss.

use super::lanes::{Lanes, Real};
use crate::{stats::Modulation, sums::PixelTerm};

/// `e ↦ e^γ`, with a shorter way where γ allows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Power {
    Half,
    One,
    ThreeHalves,
    Two,
    Three,
    General(f64),
}

impl Power {
    fn of(modulation: Modulation) -> Self {
        match modulation {
            Modulation::Plain => Self::One,
            Modulation::Power(0.5) => Self::Half,
            Modulation::Power(1.5) => Self::ThreeHalves,
            Modulation::Power(2.0) | Modulation::SquaredDifference => Self::Two,
            Modulation::Power(3.0) => Self::Three,
            Modulation::Power(gamma) => Self::General(gamma),
        }
    }

    /// `e^γ`.
    #[inline(always)]
    pub(super) fn value<L: Lanes, const LOGS: bool>(self, e: L, ln_e: L) -> L {
        match self {
            Self::General(gamma) if LOGS => (L::constant(gamma) * ln_e).exp(),
            Self::One | Self::General(_) => e,
            Self::Half => e.sqrt(),
            Self::ThreeHalves => e * e.sqrt(),
            Self::Two => e * e,
            Self::Three => e * e * e,
        }
    }

    /// `e^(γ − 1)`, bounded where γ < 1 and e vanishes; it is only used in a product with something that is as small
    /// as e.
    #[inline(always)]
    pub(super) fn slope<L: Lanes, const LOGS: bool>(self, e: L, ln_e: L) -> L {
        match self {
            Self::General(gamma) if LOGS => (L::constant(gamma - 1.0) * ln_e)
                .at_most(L::splat(L::Real::STEEPEST))
                .exp(),
            Self::One | Self::General(_) => L::one(),
            Self::Half => {
                let least = L::splat(L::Real::LEAST_DIVISOR);
                L::one() / e.at_least(least * least).sqrt()
            }
            Self::ThreeHalves => e.sqrt(),
            Self::Two => e,
            Self::Three => e * e,
        }
    }

    /// `p` times the slope of the error: `p q^(γ − 1)` where the class is true, elsewhere `p^γ`, which has no pole.
    #[inline(always)]
    pub(super) fn slope_times_p<L: Lanes, const LOGS: bool>(
        self,
        is: L::Mask,
        p: L,
        q: L,
        ln_e: L,
    ) -> L {
        match self {
            Self::General(gamma) if LOGS => {
                let exponent = L::select(is, L::constant(gamma - 1.0), L::constant(gamma));
                let power = (exponent * ln_e).at_most(L::splat(L::Real::STEEPEST)).exp();
                L::select(is, p, L::one()) * power
            }
            _ => p * self.slope::<L, false>(L::select(is, q, p), ln_e),
        }
    }

    /// `y^γ` of a truth `y ≥ 0`.
    #[inline(always)]
    pub(super) fn of_truth<L: Lanes, const LOGS: bool>(self, y: L) -> L {
        match self {
            Self::General(gamma) if LOGS => power_of(y, gamma),
            _ => self.value::<L, false>(y, y),
        }
    }
}

/// `x^k`, 0 where `x` is 0.
#[inline(always)]
fn power_of<L: Lanes>(x: L, k: f64) -> L {
    let power = (L::constant(k) * x.at_least(L::splat(L::Real::TINY)).ln())
        .at_most(L::splat(L::Real::LARGEST_EXPONENT))
        .exp();
    // A NaN is not above 0, and stays one.
    L::select(x.is_above(L::zero()), power, x)
}

/// The modulation of errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errors {
    pub(crate) power: Power,
    /// γ.
    pub(crate) gamma: f64,
    /// Whether soft labels are compared as `(p − y)²`.
    pub(crate) squared_difference: bool,
}

/// The pixel loss `e^f ℓ^k` of an error `e = 1 − r`, `ℓ = −ln r`, with a focal exponent f a class.
#[derive(Clone, Debug)]
pub(crate) struct Pixel {
    pub(crate) focus: Vec<f64>,
    pub(crate) other_focus: Vec<f64>,
    /// Whether any focal exponent is not 0.
    pub(crate) focal: bool,
    pub(crate) log_power: f64,
}

/// What is summed in one pass.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) errors: Option<Errors>,
    pub(crate) pixel: Option<Pixel>,
}

impl Terms {
    pub(super) fn new(modulation: Option<Modulation>, term: Option<&PixelTerm>) -> Self {
        Self {
            errors: modulation.map(|modulation| Errors {
                power: Power::of(modulation),
                gamma: modulation.gamma(),
                squared_difference: modulation == Modulation::SquaredDifference,
            }),
            pixel: term.map(|term| Pixel {
                focus: term.focus.clone(),
                other_focus: term.other_focus.clone(),
                focal: term
                    .focus
                    .iter()
                    .chain(&term.other_focus)
                    .any(|f| *f != 0.0),
                log_power: term.log_power,
            }),
        }
    }

    /// Whether `ln` of an error is needed.
    pub(super) fn logs_of_errors(&self) -> bool {
        self.errors
            .is_some_and(|errors| matches!(errors.power, Power::General(_)))
            || self.pixel.as_ref().is_some_and(|pixel| pixel.focal)
    }

    /// Whether any logarithm of a probability is needed: if not, the kernels are compiled without (`LOGS`).
    pub(super) fn logs(&self) -> bool {
        self.pixel.is_some() || self.logs_of_errors()
    }
}

/// A pixel of one class, seen from its truth.
#[derive(Clone, Copy)]
pub(super) struct Miss<L> {
    /// The error `e`.
    pub(super) e: L,
    /// `r = 1 − e`.
    pub(super) r: L,
    /// `ln e`; anything if there is no focal exponent.
    pub(super) ln_e: L,
    /// `ℓ = −ln r`.
    pub(super) minus_ln_r: L,
    /// The focal exponent.
    pub(super) focus: L,
}

impl Pixel {
    /// `e^f`.
    #[inline(always)]
    fn focal_factor<L: Lanes>(&self, miss: &Miss<L>) -> L {
        if self.focal {
            // Of an infinite logit the logarithm is, and 0 times it would be a NaN.
            (miss.focus * miss.ln_e.at_least(L::constant(-1e30))).exp()
        } else {
            L::one()
        }
    }

    /// `ℓ^k`.
    #[inline(always)]
    fn log_factor<L: Lanes>(&self, miss: &Miss<L>) -> L {
        if self.log_power == 1.0 {
            miss.minus_ln_r
        } else {
            power_of(miss.minus_ln_r, self.log_power)
        }
    }

    /// `e^f ℓ^k`.
    #[inline(always)]
    pub(super) fn value<L: Lanes>(&self, miss: &Miss<L>) -> L {
        if self.focal {
            self.focal_factor(miss) * self.log_factor(miss)
        } else {
            self.log_factor(miss)
        }
    }

    /// The derivative in the log-odds of the error: `f e^f r ℓ^k + k e^f e ℓ^(k − 1)`.
    ///
    /// `e ≤ ℓ`, so `e ℓ^(k − 1) = ℓ^k e / ℓ` is bounded for every k > 0.
    #[inline(always)]
    pub(super) fn slope<L: Lanes>(&self, miss: &Miss<L>) -> L {
        let of_log = if self.log_power == 1.0 {
            miss.e
        } else {
            let least = miss.minus_ln_r.at_least(L::splat(L::Real::TINY));
            L::constant(self.log_power) * self.log_factor(miss) * (miss.e / least)
        };
        if self.focal {
            let of_focus = miss.focus * miss.r * self.log_factor(miss);
            self.focal_factor(miss) * (of_focus + of_log)
        } else {
            of_log
        }
    }

    /// [`Pixel::slope`] over `e`: `f e^(f − 1) r ℓ^k + k e^f ℓ^(k − 1)`, bounded where e vanishes; it is only used in
    /// a product with something that is as small as e.
    #[inline(always)]
    pub(super) fn slope_over_error<L: Lanes>(&self, miss: &Miss<L>) -> L {
        if !self.focal && self.log_power == 1.0 {
            return L::one();
        }
        self.slope(miss) / miss.e.at_least(L::splat(L::Real::LEAST_DIVISOR))
    }
}
