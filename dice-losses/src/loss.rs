//! What every loss can do.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::{
    Prediction, Target, composed, fused,
    sums::{Request, Sums},
};

/// A loss: a prediction and a target to a number that training makes small.
///
/// A loss says which sums over the pixels it needs and what it makes of them; everything else follows. Most losses of
/// one's own need neither method: [`crate::RegionLoss`] takes a closure, [`crate::WeightedSum`] adds losses up.
///
/// ```
/// use dice_losses::{Loss, Prediction, Target, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f32, 0., 0., 0.], [2., 1., -1., -2.]]], &Device::Cpu)?; // [1, 2, 4]
/// let labels = Tensor::new(&[[1u8, 1, 0, 0]], &Device::Cpu)?;
/// let (value, gradient) =
///     zoo::dice().plus_plus(2.0).value_and_grad(&Prediction::logits(&logits), &Target::labels(&labels))?;
/// assert!(value.to_scalar::<f32>()? < 0.1);
/// assert_eq!(gradient.dims(), logits.dims());
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait Loss: Send + Sync {
    /// Asks for the sums that the loss is made of.
    ///
    /// # Errors
    ///
    /// If a parameter of the loss is outside its range, or does not fit the number of channels.
    fn request(&self, request: &mut Request) -> Result<()>;

    /// The loss in the dtype of the sums, differentiable in them: a scalar, or `[N]`.
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    fn of_sums(&self, sums: &Sums) -> Result<Tensor>;

    /// What the loss divides by, region by region: `TP + α FP + β FN + s` with γ in FP and FN of every item and class for
    /// the Tversky family, `Σ w (2TP + FP + FN) + s` of every item for the generalised Dice loss. A compound has those of
    /// its parts. Regions whose loss is no ratio are left out: those without truth, unless they are told to be
    /// ([`crate::EmptyRegion::Ratio`]), so that a loss of pixels alone has none.
    ///
    /// For watching a training, since a small denominator makes a large gradient. It is a pass over the pixels of its own.
    ///
    /// ```
    /// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
    /// let logits = Tensor::new(&[[[0f64, 0., 0.]; 3]], &Device::Cpu)?; // p = ⅓ everywhere
    /// let labels = Tensor::new(&[[0u8, 1, 1]], &Device::Cpu)?;
    /// let of = |loss: &dyn Loss| loss.denominators(&(&logits).into(), &(&labels).into());
    /// let found = of(&zoo::dice())?; // the third class is absent
    /// assert_eq!(found.len(), 2);
    /// assert!((found[0] - 1.0).abs() < 1e-6); // TP = ⅓, FP = ⅔, FN = ⅔
    /// assert!((found[1] - 1.5).abs() < 1e-6); // TP = ⅔, FP = ⅓, FN = 4/3
    /// let found = of(&zoo::dice_ce(1.0, 1.0, |dice| dice.plus_plus(2.0)))?;
    /// assert!((found[0] - (1.0 / 3.0 + (2.0 / 9.0 + 4.0 / 9.0) / 2.0)).abs() < 1e-6);
    /// assert!(of(&zoo::cross_entropy())?.is_empty());
    /// # Ok::<(), dice_losses::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    fn denominators(&self, _prediction: &Prediction, _target: &Target) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }

    /// What [`Loss::of_sums`] computes, as data that a CUDA kernel computes behind the sums: then the value and the
    /// gradient are two launches in all. None, the default, if the loss is made of tensor operations: they run on the
    /// device one by one, and nothing else changes. A loss that is another one gives the other's.
    ///
    /// # Errors
    ///
    /// If a parameter of the loss is outside its range, or does not fit the number of channels.
    #[cfg(feature = "cuda")]
    fn algebra(&self, _request: &Request) -> Result<Option<crate::cuda::Algebra>> {
        Ok(None)
    }

    /// The loss in the working dtype (f64 where the device has it), differentiable in the prediction; users call
    /// [`Loss::loss`].
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    fn evaluate(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        let request = requested(self, prediction)?;
        #[cfg(feature = "cuda")]
        if let Some(algebra) = algebra(self, prediction, &request)?
            && let Some(loss) = crate::cuda::evaluate(prediction, target, &request, &algebra)?
        {
            return Ok(loss);
        }
        self.of_sums(&fused::sums(prediction, target, &request)?)
    }

    /// The same as [`Loss::evaluate`], from sums made of plain Candle operations: what the fused pass is tested
    /// against. Slow.
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    fn evaluate_composed(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        let request = requested(self, prediction)?;
        self.of_sums(&composed::sums(prediction, target, &request)?)
    }

    /// The loss, a scalar (or `[N]` with [`crate::Reduction::None`]) in the prediction's dtype; for f16 and bf16
    /// predictions in f32.
    ///
    /// # Errors
    ///
    /// If shapes, dtypes or labels do not fit, or a parameter of the loss is outside its range.
    fn loss(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        self.evaluate(prediction, target)?
            .to_dtype(output_dtype(prediction))
    }

    /// The loss and its gradient in the prediction's values, both detached.
    ///
    /// On the CPU and on a CUDA device this is one pass for the sums and one for the gradient, and the gradient is the only large tensor
    /// that is made (of contiguous logits; a mask, weights, or a dense target of another dtype are copied), where
    /// `Tensor::backward` would add a zero-filled tensor to it. A sum of losses with several γ makes a pass for each. In a training step multiply the gradient
    /// into the logits and call `backward` on the sum, `(logits * gradient)?.sum_all()?.backward()?`. With
    /// [`crate::Reduction::None`] it is the gradient of the losses' sum.
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    fn value_and_grad(&self, prediction: &Prediction, target: &Target) -> Result<(Tensor, Tensor)> {
        let request = requested(self, prediction)?;
        #[cfg(feature = "cuda")]
        if let Some(algebra) = algebra(self, prediction, &request)?
            && let Some(both) = crate::cuda::value_and_grad(prediction, target, &request, &algebra)?
        {
            return Ok(both);
        }
        let (loss, gradient) =
            fused::value_and_grad(prediction, target, &request, &|sums| self.of_sums(sums))?;
        Ok((loss.to_dtype(output_dtype(prediction))?, gradient))
    }
}

/// A loss behind a pointer is that loss, whatever it does in its own way.
macro_rules! pointer {
    ($($pointer:ty),*) => {$(
        impl<L: Loss + ?Sized> Loss for $pointer {
            fn request(&self, request: &mut Request) -> Result<()> {
                (**self).request(request)
            }

            fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
                (**self).of_sums(sums)
            }

            fn denominators(&self, prediction: &Prediction, target: &Target) -> Result<Vec<f64>> {
                (**self).denominators(prediction, target)
            }

            #[cfg(feature = "cuda")]
            fn algebra(&self, request: &Request) -> Result<Option<crate::cuda::Algebra>> {
                (**self).algebra(request)
            }

            fn evaluate(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
                (**self).evaluate(prediction, target)
            }

            fn evaluate_composed(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
                (**self).evaluate_composed(prediction, target)
            }

            fn loss(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
                (**self).loss(prediction, target)
            }

            fn value_and_grad(&self, prediction: &Prediction, target: &Target) -> Result<(Tensor, Tensor)> {
                (**self).value_and_grad(prediction, target)
            }
        }
    )*};
}

pointer!(Box<L>, Arc<L>, &L);

fn requested<L: Loss + ?Sized>(loss: &L, prediction: &Prediction) -> Result<Request> {
    let mut request = Request::new(prediction)?;
    loss.request(&mut request)?;
    Ok(request)
}

/// The loss as data, where a CUDA kernel would compute it.
#[cfg(feature = "cuda")]
fn algebra<L: Loss + ?Sized>(
    loss: &L,
    prediction: &Prediction,
    request: &Request,
) -> Result<Option<crate::cuda::Algebra>> {
    if crate::cuda::serves(prediction) {
        loss.algebra(request)
    } else {
        Ok(None)
    }
}

/// A loss in half precision would lose the third digit.
fn output_dtype(prediction: &Prediction) -> DType {
    match prediction.values().dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
