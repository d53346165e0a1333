//! What is made of a region's loss before it is weighted and reduced: one function of it, the same for every index.

use candle_core::{Result, Tensor, bail};

use crate::{guard, options::PerClass, prediction::Activation};

/// The outer function `f(L)` of each region's loss `L`, after an empty region has been given its cost.
///
/// | function | `f(L)` | loss |
/// |---|---|---|
/// | `Power(k)` | `L^k` | focal Tversky (paper, Eq. 17); `k = 1`, the default, is the loss itself |
/// | `IndexPower(k)` | `1 − (1 − L)^k` | focal Dice (Wang and Chung 2018) |
/// | `MinusLog(k)` | `(−ln(1 − L))^k` | exponential-logarithmic (Wong et al. 2018) |
/// | `LogCosh` | `ln cosh L` | log-cosh Dice (Jadon 2020) |
///
/// All of them are 0 at 0 and grow with `L`, and none loses digits at a small `L`; near
/// `L = 1` those of `1 − L` are known to its rounding. Exponents are above 0. Where the
/// derivative has a pole it is bounded as [`crate::guard`] says; `MinusLog` is so itself, and no more than `27.6^k`.
///
/// ```
/// use dice_losses::{Loss, Outer, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere: the Dice loss is ½
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let value = |outer: Outer| zoo::dice().outer(outer).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// assert!((value(Outer::from(2.0))? - 0.25).abs() < 1e-6);
/// assert!((value(Outer::IndexPower(2.0))? - 0.75).abs() < 1e-6);
/// assert!((value(Outer::MinusLog(1.0))? - 2f64.ln()).abs() < 1e-6);
/// assert!((value(Outer::LogCosh)? - 0.5f64.cosh().ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Outer {
    /// `L^k`, with an exponent for each class.
    Power(PerClass),
    /// `1 − (1 − L)^k`: the loss of the index to a power.
    IndexPower(f64),
    /// `(−ln(1 − L))^k`: minus the index's logarithm, to a power.
    MinusLog(f64),
    /// `ln cosh L`.
    LogCosh,
}

impl Default for Outer {
    /// The loss itself.
    fn default() -> Self {
        Self::from(1.0)
    }
}

impl<P: Into<PerClass>> From<P> for Outer {
    /// A power, the commonest of them.
    fn from(power: P) -> Self {
        Self::Power(power.into())
    }
}

impl Outer {
    /// Its kind and exponent as numbers, and the exponents of the columns of the losses where it is a power.
    #[cfg(feature = "cuda")]
    pub(crate) fn as_data(&self, chosen: &Chosen, columns: usize) -> Result<(f64, f64, Vec<f64>)> {
        let mut powers = vec![1.0; columns];
        let (kind, power) = match self {
            Self::Power(each) => {
                powers = chosen.numbers(each, columns, "powers")?;
                powers.iter().try_for_each(|k| positive(*k))?;
                (0.0, 1.0)
            }
            Self::IndexPower(k) => (1.0, *k),
            Self::MinusLog(k) => (2.0, *k),
            Self::LogCosh => (3.0, 1.0),
        };
        positive(power)?;
        Ok((kind, power, powers))
    }

    /// `f` of the losses `[N, C']` of the classes `chosen` out of `channels`, or of the one loss `[N, 1]` of them all.
    pub(crate) fn of(&self, loss: &Tensor, chosen: &Chosen) -> Result<Tensor> {
        match self {
            Self::Power(powers) => {
                let powers = chosen.numbers(powers, loss.dim(1)?, "powers")?;
                powers.iter().try_for_each(|k| positive(*k))?;
                each_power(loss, &powers)
            }
            Self::IndexPower(k) => {
                positive(*k)?;
                guard::power_of_rest(loss, *k)
            }
            Self::MinusLog(k) => {
                positive(*k)?;
                guard::power(&guard::minus_ln_of_rest(loss)?, *k)
            }
            Self::LogCosh => guard::ln_cosh(loss),
        }
    }
}

/// The classes that a region loss looks at.
pub(crate) struct Chosen {
    pub(crate) classes: Vec<u32>,
    pub(crate) channels: usize,
    pub(crate) activation: Activation,
}

impl Chosen {
    /// One number for each column of the losses, which have a column a class or one for all.
    pub(crate) fn numbers(
        &self,
        values: &PerClass,
        columns: usize,
        what: &str,
    ) -> Result<Vec<f64>> {
        let of_channels = values.of(self.channels, self.activation, what)?;
        let numbers: Vec<f64> = self
            .classes
            .iter()
            .map(|c| of_channels[*c as usize])
            .collect();
        if columns == numbers.len() {
            return Ok(numbers);
        }
        match numbers.as_slice() {
            [first, others @ ..] if others.iter().all(|other| other == first) => Ok(vec![*first]),
            numbers => bail!(
                "{what} that differ from class to class need a loss a class, found {numbers:?} for an index that makes \
                 one ratio of all classes; give one number"
            ),
        }
    }
}

fn positive(k: f64) -> Result<()> {
    if !(k > 0.0 && k.is_finite()) {
        bail!("the power of a region loss must be a positive number, found {k}");
    }
    Ok(())
}

/// Each column `c` of `x` to the power `powers[c]`.
fn each_power(x: &Tensor, powers: &[f64]) -> Result<Tensor> {
    if powers.windows(2).all(|pair| pair[0] == pair[1]) {
        return guard::power(x, powers[0]);
    }
    let columns: Result<Vec<Tensor>> = powers
        .iter()
        .enumerate()
        .map(|(c, k)| guard::power(&x.narrow(1, c, 1)?, *k))
        .collect();
    Tensor::cat(&columns?, 1)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    /// `f` and its derivative at a number.
    fn at(outer: &Outer, x: f64) -> (f64, f64) {
        let x = Var::from_tensor(&Tensor::new(&[[x]], &Device::Cpu).unwrap()).unwrap();
        let chosen = Chosen {
            classes: vec![0],
            channels: 1,
            activation: Activation::Sigmoid,
        };
        let y = outer.of(&x, &chosen).unwrap();
        let slope = y.backward().unwrap().remove(&x).unwrap();
        let scalar = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
        (scalar(&y), scalar(&slope))
    }

    #[test]
    fn every_function_keeps_its_digits_however_small_the_loss() {
        for x in [
            1e-300,
            1e-160,
            1e-17,
            1e-9,
            1e-4,
            0.01,
            0.3,
            0.5,
            0.9,
            1.0 - 1e-9,
        ] {
            let ln_rest = f64::ln_1p(-x);
            let sinh = f64::sinh(x / 2.0);
            let cases = [
                (Outer::from(0.75), x.powf(0.75), 0.75 * x.powf(-0.25)),
                (
                    Outer::IndexPower(0.5),
                    -f64::exp_m1(0.5 * ln_rest),
                    0.5 * (-0.5 * ln_rest).exp(),
                ),
                (
                    Outer::IndexPower(3.0),
                    -f64::exp_m1(3.0 * ln_rest),
                    3.0 * (2.0 * ln_rest).exp(),
                ),
                (Outer::MinusLog(1.0), -ln_rest, (-ln_rest).exp()),
                // cosh x = 1 + 2 sinh²(x/2)
                (Outer::LogCosh, f64::ln_1p(2.0 * sinh * sinh), x.tanh()),
            ];
            for (outer, value, slope) in cases {
                let found = at(&outer, x);
                let slope = if x < guard::NEAREST && outer == Outer::from(0.75) {
                    0.75 * guard::NEAREST.powf(-0.25)
                } else {
                    slope
                };
                // Next to 1 the argument has lost its own digits: 1 − x is known to 1e-7 of itself there.
                let tolerance = if x > 0.999 { 1e-7 } else { 1e-14 };
                assert!(
                    (found.0 - value).abs() <= tolerance * value,
                    "{outer:?} of {x}: {found:?}, {value}"
                );
                assert!(
                    (found.1 - slope).abs() <= tolerance * slope,
                    "{outer:?} of {x}: {found:?}, slope {slope}"
                );
            }
        }
    }

    #[test]
    fn both_ends_are_finite() {
        let pole = 1.0 / guard::NEAREST;
        for (outer, one) in [
            (Outer::from(0.75), 1.0),
            (Outer::IndexPower(0.5), 1.0),
            (Outer::IndexPower(40.0), 1.0),
            (Outer::MinusLog(1.0), pole.ln()),
            (Outer::MinusLog(0.3), pole.ln().powf(0.3)),
            (Outer::LogCosh, 1f64.cosh().ln()),
        ] {
            let (zero, slope_at_zero) = at(&outer, 0.0);
            assert_eq!(zero, 0.0, "{outer:?}");
            let (found, slope) = at(&outer, 1.0);
            assert!(
                (found - one).abs() < 1e-10,
                "{outer:?}: {found}, expected {one}"
            );
            assert!(
                slope_at_zero.is_finite() && slope.is_finite(),
                "{outer:?}: {slope_at_zero}, {slope}"
            );
        }
        // Beyond 1 there is no index, but ln cosh goes on.
        assert!((at(&Outer::LogCosh, 800.0).0 - (800.0 - 2f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn in_f32_too() {
        let x = Tensor::new(&[[0f32, 1e-15, 1e-3, 0.5, 1.0]], &Device::Cpu).unwrap();
        let chosen = Chosen {
            classes: vec![0, 1, 2, 3, 4],
            channels: 5,
            activation: Activation::Sigmoid,
        };
        for outer in [
            Outer::IndexPower(0.5),
            Outer::MinusLog(1.0),
            Outer::MinusLog(0.3),
            Outer::LogCosh,
        ] {
            let single = outer.of(&x, &chosen).unwrap().to_dtype(DType::F64).unwrap();
            let double = outer.of(&x.to_dtype(DType::F64).unwrap(), &chosen).unwrap();
            let (single, double) = (
                single.to_vec2::<f64>().unwrap(),
                double.to_vec2::<f64>().unwrap(),
            );
            for (a, b) in single[0].iter().zip(&double[0]) {
                assert!((a - b).abs() <= 1e-6 * b, "{outer:?}: {a}, {b}");
            }
        }
    }
}
