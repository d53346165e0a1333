//! What every loss can do.

use candle_core::{DType, Result, Tensor, Var};

use crate::{Prediction, Target};

/// A loss: a prediction and a target to a number that training makes small.
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
    /// The loss in the working dtype (f64 where the device has it), differentiable in the prediction.
    ///
    /// This is what a composition such as [`crate::WeightedSum`] adds up; users call [`Loss::loss`].
    ///
    /// # Errors
    ///
    /// If shapes, dtypes or labels do not fit, or a parameter of the loss is outside its range.
    fn evaluate(&self, prediction: &Prediction, target: &Target) -> Result<Tensor>;

    /// The loss, a scalar (or `[N]` with [`crate::Reduction::None`]) in the prediction's dtype; for f16 and bf16
    /// predictions in f32.
    ///
    /// # Errors
    ///
    /// As [`Loss::evaluate`].
    fn loss(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        self.evaluate(prediction, target)?
            .to_dtype(output_dtype(prediction))
    }

    /// The loss and its gradient in the prediction's values, both detached.
    ///
    /// For a training step this spares Candle's backward pass the loss: multiply the gradient into the logits and
    /// call `backward` on the sum, `(logits * gradient)?.sum_all()?.backward()?`. With [`crate::Reduction::None`] it
    /// is the gradient of the losses' sum.
    ///
    /// # Errors
    ///
    /// As [`Loss::evaluate`].
    fn value_and_grad(&self, prediction: &Prediction, target: &Target) -> Result<(Tensor, Tensor)> {
        let values = Var::from_tensor(&prediction.values().detach().contiguous()?)?;
        let loss = self.evaluate(&prediction.with_values(values.as_tensor().clone()), target)?;
        let gradient = match loss.sum_all()?.backward()?.remove(&values) {
            Some(gradient) => gradient.detach(),
            None => values.zeros_like()?,
        };
        Ok((loss.detach().to_dtype(output_dtype(prediction))?, gradient))
    }
}

impl<L: Loss + ?Sized> Loss for Box<L> {
    fn evaluate(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        (**self).evaluate(prediction, target)
    }
}

/// A loss in half precision would lose the third digit.
fn output_dtype(prediction: &Prediction) -> DType {
    match prediction.values().dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
