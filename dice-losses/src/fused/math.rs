//! Exponential and logarithm of f32 lanes, to about one unit in the last place.

use super::lanes::Lanes;

/// What the exponential and the logarithm ask of a number's bits.
pub(super) trait Bits: Lanes<Real = f32> {
    /// `2^k` for `self = MAGIC + k`, the integer k from −126 to 127 standing in the last bits.
    fn power_of_two(self) -> Self;
    /// `k` and `m` of `self = 2^k m`, m from √½ to √2; of a positive normal number.
    fn exponent_and_mantissa(self) -> (Self, Self);
}

/// The bits of √½.
pub(super) const SQRT_HALF: u32 = 0x3f35_04f3;

/// Added to a number, this rounds it to an integer that stands in the last bits: 1.5 · 2²³.
const MAGIC: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with few enough digits for k times it to be exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// The logarithm of the smallest normal number.
const LEAST: f32 = -87.336_54;

/// `e^x` for x up to 88; 0 below the smallest normal number.
///
/// `x = k ln 2 + r` with |r| ≤ ½ ln 2; the polynomial of `e^r` has the coefficients of Moshier's Cephes.
#[inline(always)]
pub(super) fn exp<L: Bits>(x: L) -> L {
    // What comes of such an x below is nonsense, and is not taken.
    let underflows = L::splat(LEAST).is_above(x);
    let rounded = x.mul_add(L::splat(std::f32::consts::LOG2_E), L::splat(MAGIC));
    let k = rounded - L::splat(MAGIC);
    let r = k.mul_add(L::splat(-LN_2_HIGH), x);
    let r = k.mul_add(L::splat(-LN_2_LOW), r);
    // In pairs (Estrin's scheme): half as long a chain of dependent instructions as Horner's.
    let of = |high: f32, low: f32| L::splat(high).mul_add(r, L::splat(low));
    let square = r * r;
    let polynomial = of(1.987_569_1e-4, 1.398_199_9e-3)
        .mul_add(square, of(8.333_452e-3, 4.166_579_6e-2))
        .mul_add(square, of(1.666_666_5e-1, 5e-1));
    let power = square.mul_add(polynomial, r + L::one()) * rounded.power_of_two();
    L::select(underflows, L::zero(), power)
}

/// `ln x` of a positive normal number.
///
/// `x = 2^k m`; the polynomial of `ln(1 + f)`, f = m − 1, has the coefficients of Moshier's Cephes.
#[inline(always)]
pub(super) fn ln<L: Bits>(x: L) -> L {
    let (k, m) = x.exponent_and_mantissa();
    let f = m - L::one();
    let square = f * f;
    let of = |high: f32, low: f32| L::splat(high).mul_add(f, L::splat(low));
    let fourth = square * square;
    let high =
        of(7.037_683_6e-2, -1.151_461e-1).mul_add(square, of(1.167_699_9e-1, -1.242_014_1e-1));
    let low =
        of(1.424_932_3e-1, -1.666_805_8e-1).mul_add(square, of(2.000_071_5e-1, -2.499_999_4e-1));
    let polynomial = high.mul_add(fourth, low).mul_add(f, L::splat(3.333_333e-1));
    let tail = (polynomial * f).mul_add(square, k * L::splat(LN_2_LOW));
    let tail = square.mul_add(L::splat(-0.5), tail);
    k.mul_add(L::splat(LN_2_HIGH), f + tail)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, each_instruction_set};
    use super::*;

    /// The largest relative error of a function of lanes over some numbers.
    struct Error<'a> {
        numbers: &'a [f32],
        exp: bool,
    }

    impl Kernel<f32> for Error<'_> {
        type Output = f64;

        #[inline(always)]
        fn run<L: Lanes<Real = f32>>(self) -> f64 {
            let mut worst = 0.0f64;
            for x in self.numbers {
                let lanes = L::splat(*x);
                let (ours, exact) = if self.exp {
                    (lanes.exp(), f64::from(*x).exp())
                } else {
                    (lanes.ln(), f64::from(*x).ln())
                };
                let ours = ours.sum() / L::COUNT as f64;
                let error = if exact == 0.0 {
                    ours
                } else {
                    ours / exact - 1.0
                };
                worst = worst.max(error.abs());
            }
            worst
        }
    }

    #[test]
    fn exp_and_ln_are_right_to_a_unit_or_two_in_the_last_place() {
        let exponents: Vec<f32> = (0..200_000).map(|i| -87.3 + i as f32 * 8.7e-4).collect();
        let mut numbers: Vec<f32> = exponents.iter().map(|x| x.exp()).collect();
        numbers.extend((0..100_000).map(|i| 1.0 + (i as f32 - 50_000.0) * 1e-6));
        for isa in each_instruction_set() {
            let exp = isa.run(Error {
                numbers: &exponents,
                exp: true,
            });
            let ln = isa.run(Error {
                numbers: &numbers,
                exp: false,
            });
            assert!(
                exp < 1.2e-7 * 1.5 && ln < 1.2e-7 * 1.5,
                "{isa:?}: {exp:e}, {ln:e}"
            );
        }
    }

    struct Corners;

    impl Kernel<f32> for Corners {
        type Output = [f64; 4];

        #[inline(always)]
        fn run<L: Lanes<Real = f32>>(self) -> [f64; 4] {
            let of = |x: f32| L::splat(x).exp().sum() / L::COUNT as f64;
            [of(0.0), of(-100.0), of(f32::NEG_INFINITY), of(f32::NAN)]
        }
    }

    #[test]
    fn exp_is_exact_at_0_vanishes_far_below_and_keeps_a_nan() {
        for isa in each_instruction_set() {
            let [zero, below, infinity, nan] = isa.run(Corners);
            assert_eq!((zero, below, infinity), (1.0, 0.0, 0.0), "{isa:?}");
            assert!(nan.is_nan(), "{isa:?}");
        }
    }
}
