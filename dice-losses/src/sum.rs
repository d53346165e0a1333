//! Compound losses.

use std::fmt;

use candle_core::{Device, Result, Tensor};

use crate::{
    loss::Loss,
    prediction::Prediction,
    sums::{Request, Sums},
    target::Target,
};

/// A weighted sum of losses and a constant.
///
/// ```
/// use dice_losses::{Loss, WeightedSum, zoo, candle_core::{Device, Tensor}};
/// let dice_ce = WeightedSum::new(0.0).plus(1.0, zoo::dice().plus_plus(2.0)).plus(1.0, zoo::cross_entropy());
/// let logits = Tensor::new(&[[[30f64, -30.], [-30., 30.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// assert!(dice_ce.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()? < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Default)]
pub struct WeightedSum {
    constant: f64,
    terms: Vec<(f64, Box<dyn Loss>)>,
}

impl WeightedSum {
    /// The constant alone. (Combo has one: Eq. 13 of the paper is −(1 − α) at a perfect prediction.) It is added once,
    /// after the reductions, so that no sample weight touches it.
    pub fn new(constant: f64) -> Self {
        Self {
            constant,
            terms: Vec::new(),
        }
    }

    /// Adds a loss with a weight. All losses of a sum must be reduced alike.
    #[must_use]
    pub fn plus(mut self, weight: f64, loss: impl Loss + 'static) -> Self {
        self.terms.push((weight, Box::new(loss)));
        self
    }
}

impl fmt::Debug for WeightedSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights: Vec<f64> = self.terms.iter().map(|(weight, _)| *weight).collect();
        f.debug_struct("WeightedSum")
            .field("constant", &self.constant)
            .field("weights", &weights)
            .finish()
    }
}

impl Loss for WeightedSum {
    fn request(&self, request: &mut Request) -> Result<()> {
        self.terms
            .iter()
            .try_for_each(|(_, loss)| loss.request(request))
    }

    fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for (weight, loss) in &self.terms {
            let term = (loss.of_sums(sums)? * *weight)?;
            total = Some(match total {
                Some(total) => (total + term)?,
                None => term,
            });
        }
        match total {
            Some(total) => total + self.constant,
            None => Tensor::new(self.constant, &Device::Cpu)?.to_dtype(sums.dtype()),
        }
    }

    fn denominators(&self, prediction: &Prediction, target: &Target) -> Result<Vec<f64>> {
        let mut all = Vec::new();
        for (_, loss) in &self.terms {
            all.extend(loss.denominators(prediction, target)?);
        }
        Ok(all)
    }

    #[cfg(feature = "cuda")]
    fn algebra(&self, request: &Request) -> Result<Option<crate::cuda::Algebra>> {
        let mut sum = crate::cuda::Algebra::constant(self.constant);
        for (weight, loss) in &self.terms {
            match loss.algebra(request)? {
                Some(term) => sum = sum.plus(*weight, term),
                None => return Ok(None),
            }
        }
        Ok(Some(sum))
    }
}
