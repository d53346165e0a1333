//! The sums in one pass over the pixels.

use candle_core::{Result, Tensor, Var};

use crate::{
    composed,
    prediction::Prediction,
    sums::{Request, Sums},
    target::Target,
};

pub(crate) fn sums(prediction: &Prediction, target: &Target, request: &Request) -> Result<Sums> {
    composed::sums(prediction, target, request)
}

pub(crate) fn value_and_grad(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    of_sums: impl FnOnce(&Sums) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let values = Var::from_tensor(&prediction.values().detach().contiguous()?)?;
    let prediction = prediction.with_values(values.as_tensor().clone());
    let loss = of_sums(&composed::sums(&prediction, target, request)?)?;
    let gradient = match loss.sum_all()?.backward()?.remove(&values) {
        Some(gradient) => gradient.detach(),
        None => values.zeros_like()?,
    };
    Ok((loss.detach(), gradient))
}
