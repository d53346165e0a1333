//! The three places where a derivative has a pole, and what is done there.
//!
//! From logits there is none: the derivative of `e^γ` in the log-odds is `γ e^γ (1 − e)` up to sign, finite at every
//! γ > 0. What is left is
//!
//! * an outer function of a region's loss: a power below 1 where the loss is zero (focal Tversky at a perfect prediction),
//!   a logarithm of the index or a power below 1 of it where the index is zero ([`crate::Outer`]),
//! * `e^γ` with γ < 1 of a *probability* that is exactly 0 or 1,
//! * the logarithm of a *probability* that is zero.
//!
//! A guard bounds the derivative by taking it no nearer to the pole than [`NEAREST`]. The value of a power is never
//! touched; a logarithm's is bounded at the same distance, since ln 0 has no value.

use candle_core::{DType, Result, Tensor};

/// How near to a pole a derivative is taken.
///
/// Far below any error that a gradient step could resolve, and large enough that `NEAREST^(−1)` is an `f32`.
pub const NEAREST: f64 = 1e-12;

/// `x^k` for `x ≥ 0`, with `k·max(x, NEAREST)^(k−1)` as its derivative where `k < 1`.
pub(crate) fn power(x: &Tensor, k: f64) -> Result<Tensor> {
    if k == 1.0 {
        return Ok(x.clone());
    }
    let at = x.detach();
    let near = if k < 1.0 {
        at.maximum(NEAREST)?
    } else {
        at.clone()
    };
    let slope = (near.powf(k - 1.0)? * k)?;
    linear(x, &at.powf(k)?, &slope)
}

/// `ln x` for `x ≥ 0`, both value and derivative taken at `max(x, NEAREST)`.
pub(crate) fn ln(x: &Tensor) -> Result<Tensor> {
    let near = x.detach().maximum(NEAREST)?;
    linear(x, &near.log()?, &near.recip()?)
}

/// `−ln(1 − x)` for `0 ≤ x ≤ 1`, value and derivative taken with `1 − x` no less than `NEAREST`.
pub(crate) fn minus_ln_of_rest(x: &Tensor) -> Result<Tensor> {
    let at = x.detach();
    let rest = at.affine(-1.0, 1.0)?.maximum(NEAREST)?;
    linear(x, &minus_ln(&rest, &at)?, &rest.recip()?)
}

/// `1 − (1 − x)^k` for `0 ≤ x ≤ 1`, with the derivative of a power `k < 1` taken no nearer to `x = 1` than `NEAREST`.
pub(crate) fn power_of_rest(x: &Tensor, k: f64) -> Result<Tensor> {
    if k == 1.0 {
        return Ok(x.clone());
    }
    let at = x.detach();
    let rest = at.affine(-1.0, 1.0)?.maximum(0.0)?;
    // 1 − e^{−y} = 2t/(1 + t) with t = tanh(y/2), which loses nothing at a small y and bears an infinite one.
    let t = (minus_ln(&rest, &at)? * (k / 2.0))?.tanh()?;
    let value = ((&t * 2.0)? / (t + 1.0)?)?;
    let near = if k < 1.0 {
        rest.maximum(NEAREST)?
    } else {
        rest
    };
    linear(x, &value, &(near.powf(k - 1.0)? * k)?)
}

/// `ln cosh x` for `x ≥ 0`.
pub(crate) fn ln_cosh(x: &Tensor) -> Result<Tensor> {
    let at = x.detach();
    let slope = at.tanh()?;
    // −½ ln(1 − tanh²x) has all digits of a small x; x + ln(1 + e^{−2x}) − ln 2 does not overflow at a large one.
    let small = slope.sqr()?;
    let small = (minus_ln(&small.affine(-1.0, 1.0)?.maximum(NEAREST)?, &small)? * 0.5)?;
    let large =
        (&at + ((&at * -2.0)?.exp()? + 1.0)?.log()?)?.affine(1.0, -std::f64::consts::LN_2)?;
    linear(x, &at.gt(1f64)?.where_cond(&large, &small)?, &slope)
}

/// `−ln rest`, where `rest` is `1 − x` as rounded and `x` is known to all its digits.
///
/// The rounding of `rest` is put right by `x / (1 − rest)`, as Kahan does it: both are off by the same part.
fn minus_ln(rest: &Tensor, x: &Tensor) -> Result<Tensor> {
    let difference = rest.affine(-1.0, 1.0)?;
    let none = difference.eq(0f64)?;
    let divisor = (&difference + none.to_dtype(difference.dtype())?)?;
    none.where_cond(x, &(rest.log()?.neg()? * (x / divisor)?)?)
}

/// A tensor whose value is `value` and whose derivative in `x` is `slope`: `value + slope·(x − x)`.
pub(crate) fn linear(x: &Tensor, value: &Tensor, slope: &Tensor) -> Result<Tensor> {
    value.detach() + (slope.detach() * (x - x.detach())?)?
}

/// `a / b` for sums `a`, `b ≥ 0` that may both be zero, or so small that the `b²` of the quotient's derivative would
/// underflow: then 0.
pub(crate) fn ratio(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_known(b, |b| b > 1e-100)? {
        return a / b;
    }
    let smallest = if b.dtype() == DType::F64 {
        1e-290
    } else {
        1e-35
    };
    let at = b.detach();
    let present = at.gt(smallest)?.to_dtype(b.dtype())?;
    // Both are scaled to b = 1 first: of e^γ at a confident pixel little may be left, but the ratio of two such sums
    // is an ordinary number.
    let scale = (at.maximum(smallest)?.recip()? * &present)?;
    (a * &scale)? / ((b * &scale)? + present.affine(-1.0, 1.0)?)?
}

/// Whether something is known of all numbers of a small tensor. On the CPU they are looked at, which is cheaper than
/// the operations that make ready for the exception; elsewhere it would stall the device, and nothing is known.
pub(crate) fn is_known(x: &Tensor, f: impl Fn(f64) -> bool) -> Result<bool> {
    if !x.device().is_cpu() {
        return Ok(false);
    }
    let numbers = x.detach().to_dtype(DType::F64)?.flatten_all()?;
    Ok(numbers.to_vec1::<f64>()?.into_iter().all(f))
}
