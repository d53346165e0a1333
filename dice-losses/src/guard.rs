//! The three places where a derivative has a pole, and what is done there.
//!
//! From logits there is none: the derivative of `e^γ` in the log-odds is `γ e^γ (1 − e)` up to sign, finite at every
//! γ > 0. What is left is
//!
//! * an outer power below 1 of a loss that is zero (focal Tversky at a perfect prediction),
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

/// A tensor whose value is `value` and whose derivative in `x` is `slope`: `value + slope·(x − x)`.
fn linear(x: &Tensor, value: &Tensor, slope: &Tensor) -> Result<Tensor> {
    value.detach() + (slope.detach() * (x - x.detach())?)?
}

/// `a / b` for sums `a`, `b ≥ 0` that may both be zero, or so small that the `b²` of the quotient's derivative would
/// underflow: then 0.
pub(crate) fn ratio(a: &Tensor, b: &Tensor) -> Result<Tensor> {
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
