//! DSC++ as a user of Candle would write it without this crate.

use candle_core::{Result, Tensor};
use candle_nn::ops::{sigmoid, softmax};

/// The smoothing term of [`dice_losses::zoo::dice`].
const SMOOTH: f64 = 1e-7;

/// DSC++ with γ = 2 of logits and a one-hot target, `[N, C, …]` both: Eq. 9 line by line, in the logits' dtype, mean over
/// classes and items. It computes what `dice++:gamma=2` computes.
///
/// # Errors
///
/// If the shapes differ.
pub fn composed(logits: &Tensor, y: &Tensor) -> Result<Tensor> {
    let p = match logits.dim(1)? {
        1 => sigmoid(logits)?,
        _ => softmax(logits, 1)?,
    };
    let sum = |x: Tensor| x.flatten_from(2)?.sum(2);
    let tp = sum((&p * y)?)?;
    let fp = sum((&p * (1.0 - y)?)?.sqr()?)?;
    let fn_ = sum(((1.0 - &p)? * y)?.sqr()?)?;
    let index = ((&tp + SMOOTH)? / ((tp + ((fp + fn_)? * 0.5)?)? + SMOOTH)?)?;
    (1.0 - index)?.mean_all()
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use dice_losses::{Loss as _, zoo};

    use crate::Input;

    /// Two paths that compute different things must not be compared.
    #[test]
    fn the_composed_path_is_the_loss_it_is_compared_with() {
        for dims in [[2, 3, 16, 16], [2, 1, 16, 16]] {
            let input = Input::draw(&dims).unwrap();
            let logits = Var::from_tensor(&input.logits).unwrap();
            let composed = super::composed(&logits, &input.one_hot).unwrap();
            let gradient = composed.backward().unwrap().remove(&logits).unwrap();
            let (ours, our_gradient) = zoo::dice()
                .plus_plus(2.0)
                .value_and_grad(&input.prediction(), &input.target())
                .unwrap();
            let square = |x: candle_core::Tensor| {
                let squares = x.sqr().unwrap().sum_all().unwrap();
                squares.to_scalar::<f32>().unwrap()
            };
            assert!(square((&composed - &ours).unwrap()).sqrt() < 1e-6);
            let difference = square((&gradient - &our_gradient).unwrap());
            assert!(difference.sqrt() < 1e-5 * square(our_gradient).sqrt());
        }
    }
}
