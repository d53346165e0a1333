//! Pixel losses: cross-entropy and its focal variants, one struct with different settings.

use candle_core::{Result, Tensor, bail};

use crate::{
    field::{Field, block_sum, working_dtype},
    guard,
    loss::Loss,
    options::{PerClass, Reduction},
    prediction::{Activation, Prediction},
    target::{Target, Truth},
};

/// Cross-entropy with a weight and a focal exponent for each class, averaged over the pixels that count.
///
/// $$ -\frac{1}{N} \sum_i \sum_c w_c (1 - p_{ic})^{f_c}  y_{ic} \log p_{ic} $$
///
/// that is `−mean Σ_c w_c (1 − p_c)^f_c y_c ln p_c`. With one channel, and in multi-label mode, the background is the
/// other side of each sigmoid: `y` and `1 − y` are the two classes, and several channels are averaged.
///
/// | `w` | `f` | name | source |
/// |---|---|---|---|
/// | 1 | 0 | cross-entropy | paper, Eq. 1 |
/// | 1 | focus | focal | Lin et al. 2017 |
/// | 1 − δ, δ | focus, 0 | asymmetric focal (background, foreground) | Yeung et al. 2021; paper, Eq. 19 |
/// | 1 − β, β | 0 | modified cross-entropy of Combo | Taghanaki et al. 2019; paper, Eq. 14 |
///
/// ```
/// use dice_losses::{FocalCrossEntropy, Loss, PerClass, candle_core::{Device, Tensor}};
/// let ce = FocalCrossEntropy::new(1.0, 0.0);
/// let logits = Tensor::new(&[[[0f64], [0.]]], &Device::Cpu)?; // p = ½
/// let labels = Tensor::new(&[[1u8]], &Device::Cpu)?;
/// let value = |loss: FocalCrossEntropy| loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// assert!((value(ce)? - 2f64.ln()).abs() < 1e-15);
/// assert!((value(FocalCrossEntropy::new(1.0, 2.0))? - 2f64.ln() / 4.0).abs() < 1e-15);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FocalCrossEntropy {
    weights: PerClass,
    focus: PerClass,
    reduction: Reduction,
}

impl FocalCrossEntropy {
    /// The loss with these weights `w` and focal exponents `f` (0: none).
    pub fn new(weights: impl Into<PerClass>, focus: impl Into<PerClass>) -> Self {
        Self {
            weights: weights.into(),
            focus: focus.into(),
            reduction: Reduction::Mean,
        }
    }

    /// Mean over all pixels, one mean an item, or the sum of the items' means.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for FocalCrossEntropy {
    fn evaluate(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        let (_, channels, _) = prediction.sizes()?;
        let truth = target.truth(prediction, working_dtype(prediction.values().device()))?;
        let field = Field::new(prediction, &truth)?;
        // The pixel's loss, summed over classes: [N, S] as a sum over S already, [N].
        let (sum, share) = match prediction.activation() {
            Activation::Softmax => {
                let weights = self.weights.of(channels, "class weights")?;
                let focus = self.focus.of(channels, "focal exponents")?;
                (side(&field, &truth, &truth.y, &weights, &focus)?, 1.0)
            }
            Activation::Sigmoid => {
                let (w0, w1) = sides(&self.weights, channels, "class weights")?;
                let (f0, f1) = sides(&self.focus, channels, "focal exponents")?;
                let not_y = truth.y.affine(-1.0, 1.0)?;
                let foreground = side(&field, &truth, &truth.y, &w1, &f1)?;
                let background = side(&field.complement(), &truth, &not_y, &w0, &f0)?;
                ((foreground + background)?, channels as f64)
            }
        };
        let sum = (sum / share)?;
        let pixels =
            block_sum(&truth.counted(truth.y.narrow(1, 0, 1)?.ones_like()?)?)?.squeeze(1)?;
        match self.reduction {
            Reduction::Mean => guard::ratio(&sum.sum_all()?, &pixels.sum_all()?),
            Reduction::Sum => guard::ratio(&sum, &pixels)?.sum_all(),
            Reduction::None => guard::ratio(&sum, &pixels),
        }
    }
}

/// `−Σ_{c,i} w_c q^f_c y ln p` an item, `[N]`.
fn side(
    field: &Field,
    truth: &Truth,
    y: &Tensor,
    weights: &[f64],
    focus: &[f64],
) -> Result<Tensor> {
    if let Some(focus) = focus
        .iter()
        .find(|focus| !(**focus >= 0.0 && focus.is_finite()))
    {
        bail!("a focal exponent must not be negative, found {focus}");
    }
    let log_p = field.log_p()?;
    let loss = if focus.iter().all(|f| *f == 0.0) {
        log_p
    } else if focus.windows(2).all(|pair| pair[0] == pair[1]) {
        (field.complement().p_power(focus[0])? * log_p)?
    } else {
        // Classes are few; a power of its own for each keeps f = 0 exact.
        let columns: Result<Vec<Tensor>> = focus
            .iter()
            .enumerate()
            .map(|(c, f)| {
                let log_p = log_p.narrow(1, c, 1)?;
                if *f == 0.0 {
                    Ok(log_p)
                } else {
                    field.complement().p_power(*f)?.narrow(1, c, 1)? * log_p
                }
            })
            .collect();
        Tensor::cat(&columns?, 1)?
    };
    let weights = Tensor::new(weights, y.device())?
        .to_dtype(y.dtype())?
        .neg()?
        .unsqueeze(0)?;
    block_sum(&truth.counted((loss * y)?)?)?
        .broadcast_mul(&weights)?
        .sum(1)
}

/// The two sides (background, foreground) of every sigmoid channel.
fn sides(values: &PerClass, channels: usize, what: &str) -> Result<(Vec<f64>, Vec<f64>)> {
    match values {
        PerClass::Split {
            background,
            foreground,
        } => Ok((vec![*background; channels], vec![*foreground; channels])),
        PerClass::Each(pair) if channels == 1 && pair.len() == 2 => {
            Ok((vec![pair[0]], vec![pair[1]]))
        }
        other => other
            .of(channels, what)
            .map(|values| (values.clone(), values)),
    }
}
