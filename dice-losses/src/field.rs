//! Probabilities a pixel, in the form in which nothing cancels: the only code that knows softmax and sigmoid.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::{
    guard,
    prediction::{Activation, Prediction, Scale},
    target::{SLACK, Truth},
};

/// For every class and pixel `[N, C, S]` the probability `p` and its complement `q = 1 − p`.
///
/// From logits both are functions of the log-odds `u` of the class against all others, `p = σ(u)` and `q = σ(−u)`.
/// A pixel the network is sure of has `q = e^{−u}`, where `1 − p` would be 0 or a rounding error; and automatic
/// differentiation of this form never subtracts two nearly equal numbers, so the gradient at a confidently wrong
/// pixel has all its digits, however small it is.
pub(crate) enum Field {
    LogOdds { log_p: Tensor, log_q: Tensor },
    Probabilities { p: Tensor, q: Tensor },
}

/// What stands for a `−ln p` of 0 under a power: what log-odds of 667 leave of it.
const LEAST_LOG: f64 = 1e-290;

/// The dtype of sums and of the algebra on them.
///
/// Half precision saturates at 65,504 (or loses everything below 1/256 of the sum) over one 512² image, and f32
/// loses four digits; f64 is used wherever the device has it.
pub(crate) fn working_dtype(device: &Device) -> DType {
    if device.is_metal() {
        DType::F32
    } else {
        DType::F64
    }
}

impl Field {
    pub(crate) fn new(prediction: &Prediction, truth: &Truth) -> Result<Self> {
        let (n, c, s) = prediction.sizes()?;
        let dtype = truth.y.dtype();
        let mut values = prediction.values().reshape((n, c, s))?.to_dtype(dtype)?;
        if let Some(weights) = &truth.weights {
            // Not a product with the weights: NaN · 0 is NaN.
            let counts = weights.ne(0f64)?.broadcast_as(values.shape())?;
            values = counts.where_cond(&values, &values.zeros_like()?)?;
        }
        match prediction.scale() {
            Scale::Probabilities => {
                check_probabilities(&values)?;
                // The slack is taken off the value alone, so that a gradient still flows.
                let at = values.detach();
                let values = (&values + (at.clamp(0.0, 1.0)? - &at)?)?;
                let q = values.affine(-1.0, 1.0)?;
                Ok(Self::Probabilities { p: values, q })
            }
            Scale::Logits => {
                let u = log_odds(&values, prediction.activation())?;
                Ok(Self::LogOdds {
                    log_p: softplus(&u.neg()?)?.neg()?,
                    log_q: softplus(&u)?.neg()?,
                })
            }
        }
    }

    /// `p`.
    pub(crate) fn p(&self) -> Result<Tensor> {
        match self {
            Self::LogOdds { log_p, .. } => log_p.exp(),
            Self::Probabilities { p, .. } => Ok(p.clone()),
        }
    }

    /// `p^k`.
    pub(crate) fn p_power(&self, k: f64) -> Result<Tensor> {
        match self {
            Self::LogOdds { log_p, .. } => (log_p * k)?.exp(),
            Self::Probabilities { p, .. } => guard::power(p, k),
        }
    }

    /// `(−ln p)^k`.
    ///
    /// From logits its derivative `k (−ln p)^(k − 1) q` has no pole at any k > 0, as `q ≤ −ln p`.
    pub(crate) fn minus_log_p_power(&self, k: f64) -> Result<Tensor> {
        let minus_log_p = self.log_p()?.neg()?;
        match self {
            _ if k == 1.0 => Ok(minus_log_p),
            Self::LogOdds { .. } => (minus_log_p.maximum(LEAST_LOG)?.log()? * k)?.exp(),
            Self::Probabilities { .. } => guard::power(&minus_log_p, k),
        }
    }

    /// `ln p`.
    pub(crate) fn log_p(&self) -> Result<Tensor> {
        match self {
            Self::LogOdds { log_p, .. } => Ok(log_p.clone()),
            Self::Probabilities { p, .. } => guard::ln(p),
        }
    }

    /// The same with `p` and `q` exchanged: the probabilities of "not this class".
    pub(crate) fn complement(&self) -> Self {
        match self {
            Self::LogOdds { log_p, log_q } => Self::LogOdds {
                log_p: log_q.clone(),
                log_q: log_p.clone(),
            },
            Self::Probabilities { p, q } => Self::Probabilities {
                p: q.clone(),
                q: p.clone(),
            },
        }
    }
}

/// `ln(1 + e^x)`, without overflow, and with every digit of it and of its derivative σ(x) where they are tiny.
///
/// The kink of each half adds up to the true derivative ½ at 0, where Candle's `relu` and `abs` have derivative 1.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + ln_1p(&x.abs()?.neg()?.exp()?)?
}

/// `ln(1 + x)` of numbers that are not negative, with every digit where they are small.
fn ln_1p(x: &Tensor) -> Result<Tensor> {
    let at = x.detach();
    let sum = (&at + 1.0)?;
    // What the addition has rounded off.
    let lost = (at - (&sum - 1.0)?)?;
    let slope = sum.recip()?;
    guard::linear(x, &(sum.log()? + (lost * &slope)?)?, &slope)
}

/// Log-odds of each class against the rest, `[N, C, S]`: `u_c = z_c − ln Σ_{k≠c} e^{z_k}`.
fn log_odds(z: &Tensor, activation: Activation) -> Result<Tensor> {
    let (_, c, _) = z.dims3()?;
    match (activation, c) {
        (Activation::Sigmoid, _) => Ok(z.clone()),
        (Activation::Softmax, 2) => {
            let u = (z.narrow(1, 1, 1)? - z.narrow(1, 0, 1)?)?;
            Tensor::cat(&[&u.neg()?, &u], 1)
        }
        (Activation::Softmax, _) => {
            // The others' sum from those before and those behind: O(C), where a tensor of all pairs would be O(C²).
            let z: Vec<Tensor> = (0..c).map(|k| z.narrow(1, k, 1)).collect::<Result<_>>()?;
            let (mut before, mut behind) = (vec![z[0].clone()], vec![z[c - 1].clone()]);
            for k in 1..c - 1 {
                before.push(ln_sum_exp(&before[k - 1], &z[k])?);
                behind.push(ln_sum_exp(&behind[k - 1], &z[c - 1 - k])?);
            }
            let odds: Result<Vec<Tensor>> = (0..c)
                .map(|k| match k {
                    0 => &z[0] - &behind[c - 2],
                    k if k == c - 1 => &z[k] - &before[c - 2],
                    k => &z[k] - ln_sum_exp(&before[k - 1], &behind[c - 2 - k])?,
                })
                .collect();
            Tensor::cat(&odds?, 1)
        }
    }
}

/// `ln(e^a + e^b)`. Any constant serves as the shift, so it is left out of the graph.
fn ln_sum_exp(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shift = a.detach().maximum(&b.detach())?;
    ((a - &shift)?.exp()? + (b - &shift)?.exp()?)?.log()? + shift
}

/// Logits passed for probabilities are the commonest mistake; read back on the CPU only, as it would stall a device.
fn check_probabilities(p: &Tensor) -> Result<()> {
    if !matches!(p.device(), Device::Cpu) || p.elem_count() == 0 {
        return Ok(());
    }
    for extreme in [p.detach().min_all()?, p.detach().max_all()?] {
        let extreme = extreme.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !(-SLACK..=1.0 + SLACK).contains(&extreme) {
            bail!(
                "probabilities lie in [0, 1], found {extreme}; pass logits as Prediction::logits"
            );
        }
    }
    Ok(())
}

/// Sum over the last dimension in blocks, so that the rounding error of an f32 sum grows with the block, not the image.
pub(crate) fn block_sum(x: &Tensor) -> Result<Tensor> {
    const BLOCK: usize = 1024;
    let s = x.dim(D::Minus1)?;
    if x.dtype() == DType::F64 || s <= BLOCK {
        return x.sum(D::Minus1);
    }
    let whole = s / BLOCK * BLOCK;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.extend([whole / BLOCK, BLOCK]);
    let blocks = block_sum(
        &x.narrow(D::Minus1, 0, whole)?
            .contiguous()?
            .reshape(dims)?
            .sum(D::Minus1)?,
    )?;
    if whole == s {
        Ok(blocks)
    } else {
        blocks + x.narrow(D::Minus1, whole, s - whole)?.sum(D::Minus1)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_f32_sum_keeps_its_digits() {
        // Candle's own f32 sum of 2^21 tenths is off by 6e-4.
        let x = Tensor::full(0.1f32, (1, 1, (1 << 21) + 3), &Device::Cpu).unwrap();
        let sum = block_sum(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()[0];
        let exact = f64::from(0.1f32) * f64::from((1 << 21) + 3);
        assert!(
            (f64::from(sum) / exact - 1.0).abs() < 1e-6,
            "{sum}, exact {exact}"
        );
    }

    #[test]
    fn the_derivative_of_softplus_at_its_kink_is_a_half() {
        let x = candle_core::Var::from_tensor(&Tensor::zeros(1, DType::F64, &Device::Cpu).unwrap())
            .unwrap();
        let gradients = softplus(&x).unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec1::<f64>().unwrap(), [0.5]);
    }
}
