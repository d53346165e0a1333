//! Several numbers at once: the little arithmetic that the kernels are written in, once for every instruction set.

use std::{
    mem::MaybeUninit,
    ops::{Add, Div, Mul, Neg, Sub},
};

/// The numbers that kernels compute with: f32, or f64 for f64 predictions.
pub(super) trait Real: Copy + Default + Send + Sync + PartialOrd + 'static {
    /// The smallest number that may stand for a probability where a logarithm or a negative power is taken of it.
    const TINY: Self;
    /// The smallest number that something is divided by or that a root is divided from.
    const LEAST_DIVISOR: Self;
    /// The largest exponent of a slope `e^(γ − 1) = exp((γ − 1) ln e)`.
    const STEEPEST: Self;
    /// The largest derivative of the loss in a sum. Times the steepest slope, and times a few classes, it is a number
    /// still: infinity times a probability that has vanished would be a NaN.
    const LARGEST_DERIVATIVE: Self;
    /// The largest exponent whose exponential is a number.
    const LARGEST_EXPONENT: Self;

    fn from_f64(x: f64) -> Self;
    fn from_i32(x: i32) -> Self;
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    const TINY: Self = Self::MIN_POSITIVE;
    const LEAST_DIVISOR: Self = 1e-18;
    const STEEPEST: Self = 41.0;
    const LARGEST_DERIVATIVE: Self = 1e18;
    const LARGEST_EXPONENT: Self = 85.0;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn from_i32(x: i32) -> Self {
        x as Self
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const TINY: Self = Self::MIN_POSITIVE;
    const LEAST_DIVISOR: Self = 1e-150;
    const STEEPEST: Self = 345.0;
    const LARGEST_DERIVATIVE: Self = 1e150;
    const LARGEST_EXPONENT: Self = 700.0;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn from_i32(x: i32) -> Self {
        Self::from(x)
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

/// `COUNT` real numbers, one a pixel.
///
/// Arithmetic and [`Lanes::exp`] keep a NaN; a bound keeps that of `self`; what [`Lanes::select`] and [`Lanes::ln`]
/// make of one is said there.
pub(super) trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    type Real: Real;
    type Mask: Copy;
    const COUNT: usize;

    fn splat(x: Self::Real) -> Self;
    /// The first `COUNT` numbers of a slice, which has as many.
    fn load(from: &[Self::Real]) -> Self;
    /// To the first `COUNT` places of a slice, which has as many.
    fn store(self, to: &mut [MaybeUninit<Self::Real>]);
    /// `self · factor + term`.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger one, or `self` if that is a NaN.
    fn at_least(self, least: Self) -> Self;
    /// The smaller one, or `self` if that is a NaN.
    fn at_most(self, most: Self) -> Self;
    /// `1 / self` of a number from 1 to a few thousand.
    #[inline(always)]
    fn reciprocal(self) -> Self {
        Self::one() / self
    }
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    /// The natural logarithm of a positive normal number; of anything else (a NaN) nonsense.
    fn ln(self) -> Self;
    fn equals(self, other: Self) -> Self::Mask;
    fn is_above(self, other: Self) -> Self::Mask;
    /// `if mask { yes } else { no }`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// `if mask { self + term } else { self }`.
    fn add_where(self, mask: Self::Mask, term: Self) -> Self;
    /// `if mask { self } else { self + term }`.
    fn add_unless(self, mask: Self::Mask, term: Self) -> Self;
    /// The sum of all lanes, always in the same order.
    fn sum(self) -> f64;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(Self::Real::default())
    }

    #[inline(always)]
    fn one() -> Self {
        Self::constant(1.0)
    }

    #[inline(always)]
    fn constant(x: f64) -> Self {
        Self::splat(Self::Real::from_f64(x))
    }

    /// A derivative of the loss in a sum, cut off far beyond any that training could use.
    #[inline(always)]
    fn coefficient(x: f64) -> Self {
        let largest = Self::Real::LARGEST_DERIVATIVE.to_f64();
        Self::constant(x.clamp(-largest, largest))
    }

    /// `ln(1 + self)` of numbers that are not negative, with every digit where they are small; `reciprocal` is
    /// `1 / (1 + self)`, which callers have at hand.
    #[inline(always)]
    fn ln_1p(self, reciprocal: Self) -> Self {
        let sum = Self::one() + self;
        // What the addition has rounded off.
        (self - (sum - Self::one())).mul_add(reciprocal, sum.ln())
    }

    /// The first numbers of a slice that may be shorter than `COUNT`, then zeros.
    #[inline(always)]
    fn load_padded(from: &[Self::Real]) -> Self {
        if from.len() >= Self::COUNT {
            return Self::load(from);
        }
        let mut padded = [Self::Real::default(); MOST];
        padded[..from.len()].copy_from_slice(from);
        Self::load(&padded)
    }

    /// To the first places of a slice that may be shorter than `COUNT`.
    #[inline(always)]
    fn store_padded(self, to: &mut [MaybeUninit<Self::Real>]) {
        if to.len() >= Self::COUNT {
            return self.store(to);
        }
        let mut padded = [MaybeUninit::uninit(); MOST];
        self.store(&mut padded);
        let count = to.len();
        to.copy_from_slice(&padded[..count]);
    }
}

/// The largest `COUNT`.
pub(super) const MOST: usize = 16;

/// One number at a time, for every processor; f64 has nothing else.
#[derive(Clone, Copy)]
pub(super) struct Scalar<R>(R);

impl<R: Real + Add<Output = R>> Add for Scalar<R> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl<R: Real + Sub<Output = R>> Sub for Scalar<R> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl<R: Real + Mul<Output = R>> Mul for Scalar<R> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0 * other.0)
    }
}

impl<R: Real + Div<Output = R>> Div for Scalar<R> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(self.0 / other.0)
    }
}

impl<R: Real + Neg<Output = R>> Neg for Scalar<R> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

macro_rules! scalar {
    ($real:ty, $exp:path, $ln:path) => {
        impl Lanes for Scalar<$real> {
            type Real = $real;
            type Mask = bool;
            const COUNT: usize = 1;

            #[inline(always)]
            fn splat(x: $real) -> Self {
                Self(x)
            }

            #[inline(always)]
            fn load(from: &[$real]) -> Self {
                Self(from[0])
            }

            #[inline(always)]
            fn store(self, to: &mut [MaybeUninit<$real>]) {
                to[0].write(self.0);
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                // Not `f64::mul_add`, which is a function call where the processor has no such instruction.
                self * factor + term
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                if self.0 < least.0 { least } else { self }
            }

            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                if self.0 > most.0 { most } else { self }
            }

            #[inline(always)]
            fn abs(self) -> Self {
                Self(self.0.abs())
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(self.0.sqrt())
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn ln(self) -> Self {
                $ln(self)
            }

            #[inline(always)]
            fn equals(self, other: Self) -> bool {
                self.0 == other.0
            }

            #[inline(always)]
            fn is_above(self, other: Self) -> bool {
                self.0 > other.0
            }

            #[inline(always)]
            fn select(mask: bool, yes: Self, no: Self) -> Self {
                if mask { yes } else { no }
            }

            #[inline(always)]
            fn add_where(self, mask: bool, term: Self) -> Self {
                if mask { self + term } else { self }
            }

            #[inline(always)]
            fn add_unless(self, mask: bool, term: Self) -> Self {
                if mask { self } else { self + term }
            }

            #[inline(always)]
            fn sum(self) -> f64 {
                self.0.to_f64()
            }
        }
    };
}

/// The standard library's.
fn exp(x: Scalar<f64>) -> Scalar<f64> {
    Scalar(x.0.exp())
}

/// The standard library's.
fn ln(x: Scalar<f64>) -> Scalar<f64> {
    Scalar(x.0.ln())
}

scalar!(f64, exp, ln);
scalar!(f32, super::math::exp, super::math::ln);

impl super::math::Bits for Scalar<f32> {
    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(f32::from_bits(
            (self.0.to_bits() << 23).wrapping_add(127 << 23),
        ))
    }

    #[inline(always)]
    fn exponent_and_mantissa(self) -> (Self, Self) {
        let bits = self.0.to_bits();
        let exponent = bits.wrapping_sub(super::math::SQRT_HALF) as i32 >> 23;
        let mantissa = bits.wrapping_sub((exponent << 23) as u32);
        (Self(exponent as f32), Self(f32::from_bits(mantissa)))
    }
}
