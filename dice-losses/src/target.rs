//! What is true: labels, one-hot or soft maps, and which pixels count.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::prediction::Prediction;

/// The truth a prediction `[N, C, …]` is compared with.
///
/// | constructor | tensor | dtype |
/// |---|---|---|
/// | [`Target::labels`] | class numbers `[N, …]` or `[N, 1, …]` | any integer |
/// | [`Target::dense`] | one-hot, soft or multi-label `[N, C, …]`, values in `[0, 1]` | any float |
///
/// An ignored pixel is inert: neither value nor gradient of any loss depends on what is predicted there, be it NaN.
///
/// ```
/// use dice_losses::{Target, candle_core::{Device, Tensor}, dice};
/// let logits = Tensor::new(&[[[9f32, -9., 9.], [-9., 9., -9.]]], &Device::Cpu)?; // [1, 2, 3]
/// let labels = Tensor::new(&[[0u8, 1, 255]], &Device::Cpu)?;
/// let loss = dice(&logits, Target::labels(&labels).ignore_label(255))?;
/// assert!(loss.to_scalar::<f32>()? < 1e-4);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    encoding: Encoding,
    ignore_label: Option<i64>,
    mask: Option<Tensor>,
}

#[derive(Clone, Debug)]
enum Encoding {
    Labels(Tensor),
    Dense(Tensor),
}

/// A target laid out for one prediction, in the working dtype.
pub(crate) struct Truth {
    /// One-hot, soft or multi-label `[N, C, S]`.
    pub(crate) y: Tensor,
    /// Which pixels count, 1 or 0, `[N, 1, S]`; none: all of them.
    pub(crate) mask: Option<Tensor>,
}

impl Truth {
    /// `x` `[N, C, S]` with zeros at the pixels that do not count.
    pub(crate) fn counted(&self, x: Tensor) -> Result<Tensor> {
        match &self.mask {
            Some(mask) => x.broadcast_mul(mask),
            None => Ok(x),
        }
    }
}

impl Target {
    /// Class numbers `[N, …]` or `[N, 1, …]`, of any integer dtype.
    ///
    /// With `C` channels they run from 0 to `C − 1`; with one channel 0 is background and 1 foreground.
    pub fn labels(labels: &Tensor) -> Self {
        Self {
            encoding: Encoding::Labels(labels.clone()),
            ignore_label: None,
            mask: None,
        }
    }

    /// A value a class and pixel `[N, C, …]`: one-hot, soft labels, or several labels that hold together.
    pub fn dense(values: &Tensor) -> Self {
        Self {
            encoding: Encoding::Dense(values.clone()),
            ignore_label: None,
            mask: None,
        }
    }

    /// Pixels with this label do not count. Only class numbers have one; a dense target takes a [mask](Self::mask).
    #[must_use]
    pub fn ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// Only pixels where the mask (`[N, …]` or `[N, 1, …]`, any dtype) is not zero count.
    #[must_use]
    pub fn mask(mut self, mask: &Tensor) -> Self {
        self.mask = Some(mask.clone());
        self
    }

    /// Lays the target out for a prediction: every shape, encoding and mask question is answered here.
    pub(crate) fn truth(&self, prediction: &Prediction, dtype: DType) -> Result<Truth> {
        let (n, c, s) = prediction.sizes()?;
        let device = prediction.values().device();
        let mut mask = match &self.mask {
            Some(mask) => Some(
                a_pixel(mask, prediction, "mask")?
                    .ne(0f64)?
                    .to_dtype(dtype)?,
            ),
            None => None,
        };
        let y = match &self.encoding {
            Encoding::Labels(labels) => {
                if labels.dtype().is_float() {
                    bail!(
                        "labels are integers, found {:?}; convert them, or pass one-hot and soft maps as Target::dense",
                        labels.dtype()
                    );
                }
                let mut labels = a_pixel(labels, prediction, "label map")?.to_dtype(DType::I64)?;
                if let Some(ignore) = self.ignore_label {
                    let counts = labels.ne(ignore)?;
                    labels = counts.where_cond(&labels, &labels.zeros_like()?)?;
                    let counts = counts.to_dtype(dtype)?;
                    mask = Some(match mask {
                        Some(mask) => (mask * counts)?,
                        None => counts,
                    });
                }
                check_labels(&labels, c, self.ignore_label)?;
                one_hot(&labels, c, dtype)?
            }
            Encoding::Dense(values) => {
                if self.ignore_label.is_some() {
                    bail!(
                        "an ignore label needs class numbers; with a dense target pass Target::mask instead"
                    );
                }
                if values.dims() != prediction.values().dims() {
                    bail!(
                        "a dense target has the prediction's shape {:?}, found {:?}; pass class numbers as Target::labels",
                        prediction.values().dims(),
                        values.dims()
                    );
                }
                values.detach().reshape((n, c, s))?.to_dtype(dtype)?
            }
        };
        let y = y.to_device(device)?;
        let mask = mask.map(|mask| mask.to_device(device)).transpose()?;
        // What stands at an uncounted pixel must not matter, not even a NaN.
        let y = match &mask {
            Some(mask) => mask
                .ne(0f64)?
                .broadcast_as(y.shape())?
                .where_cond(&y, &y.zeros_like()?)?,
            None => y,
        };
        Ok(Truth { y, mask })
    }
}

/// A tensor of one value a pixel, `[N, …]` or `[N, 1, …]`, as `[N, 1, S]`.
fn a_pixel(tensor: &Tensor, prediction: &Prediction, what: &str) -> Result<Tensor> {
    let (n, _, s) = prediction.sizes()?;
    let dims = prediction.values().dims();
    let squeezed = [&dims[..1], &dims[2..]].concat();
    let kept = [&dims[..1], &[1], &dims[2..]].concat();
    if tensor.dims() != squeezed && tensor.dims() != kept {
        bail!(
            "a {what} for a prediction of shape {dims:?} has shape {squeezed:?} or {kept:?}, found {:?}",
            tensor.dims()
        );
    }
    tensor.detach().reshape((n, 1, s))
}

/// An out-of-range label would silently belong to no class. Read back on the CPU only: elsewhere it would stall the device.
fn check_labels(labels: &Tensor, channels: usize, ignore_label: Option<i64>) -> Result<()> {
    if !matches!(labels.device(), Device::Cpu) || labels.elem_count() == 0 {
        return Ok(());
    }
    let classes = channels.max(2) as i64;
    for label in [
        labels.min_all()?.to_scalar::<i64>()?,
        labels.max_all()?.to_scalar::<i64>()?,
    ] {
        if !(0..classes).contains(&label) {
            let ignored = ignore_label.map_or(String::from("none is set"), |ignore| {
                format!("it is {ignore}")
            });
            bail!(
                "found label {label}, expected 0 to {}; if it marks pixels to leave out, pass it as Target::ignore_label ({ignored})",
                classes - 1
            );
        }
    }
    Ok(())
}

/// `[N, 1, S]` class numbers to `[N, C, S]`; a single channel is class 1.
fn one_hot(labels: &Tensor, channels: usize, dtype: DType) -> Result<Tensor> {
    let classes: Vec<i64> = if channels == 1 {
        vec![1]
    } else {
        (0..channels as i64).collect()
    };
    let classes = Tensor::new(classes, labels.device())?.reshape((1, channels, 1))?;
    labels.broadcast_eq(&classes)?.to_dtype(dtype)
}

impl From<&Tensor> for Target {
    /// Integers are class numbers, floats a dense target.
    fn from(tensor: &Tensor) -> Self {
        if tensor.dtype().is_float() {
            Self::dense(tensor)
        } else {
            Self::labels(tensor)
        }
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dice, dice_pp};

    fn zeros(shape: &[usize], dtype: DType) -> Tensor {
        Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn refuses(prediction: impl Into<Prediction>, target: impl Into<Target>, sentence: &str) {
        let error = dice(prediction, target).unwrap_err().to_string();
        assert_eq!(error.lines().next().unwrap(), sentence);
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_would() {
        let logits = zeros(&[2, 3, 4, 5], DType::F32);
        refuses(
            &logits,
            &zeros(&[2, 4, 4], DType::U8),
            "a label map for a prediction of shape [2, 3, 4, 5] has shape [2, 4, 5] or [2, 1, 4, 5], found [2, 4, 4]",
        );
        refuses(
            &logits,
            &zeros(&[2, 4, 5], DType::F32),
            "a dense target has the prediction's shape [2, 3, 4, 5], found [2, 4, 5]; \
             pass class numbers as Target::labels",
        );
        refuses(
            &logits,
            Target::labels(&zeros(&[2, 4, 5], DType::F32)),
            "labels are integers, found F32; convert them, or pass one-hot and soft maps as Target::dense",
        );
        refuses(
            &logits,
            Target::dense(&zeros(&[2, 3, 4, 5], DType::F32)).ignore_label(255),
            "an ignore label needs class numbers; with a dense target pass Target::mask instead",
        );
        refuses(
            &logits,
            Target::labels(&zeros(&[2, 4, 5], DType::U8)).mask(&zeros(&[2, 5], DType::U8)),
            "a mask for a prediction of shape [2, 3, 4, 5] has shape [2, 4, 5] or [2, 1, 4, 5], found [2, 5]",
        );
        refuses(
            &zeros(&[4], DType::F32),
            &zeros(&[4], DType::U8),
            "a prediction has shape [N, C, ...] with N and C at least 1, found [4]",
        );
    }

    #[test]
    fn a_label_out_of_range_is_found() {
        let logits = zeros(&[1, 2, 2], DType::F32);
        let labels = Tensor::new(&[[1u8, 255]], &Device::Cpu).unwrap();
        refuses(
            &logits,
            &labels,
            "found label 255, expected 0 to 1; if it marks pixels to leave out, \
             pass it as Target::ignore_label (none is set)",
        );
        let negative = Tensor::new(&[[1i64, -100]], &Device::Cpu).unwrap();
        refuses(
            &logits,
            Target::labels(&negative).ignore_label(255),
            "found label -100, expected 0 to 1; if it marks pixels to leave out, \
             pass it as Target::ignore_label (it is 255)",
        );
        assert!(dice(&logits, Target::labels(&negative).ignore_label(-100)).is_ok());
    }

    #[test]
    fn logits_passed_for_probabilities_are_found() {
        let logits = Tensor::new(&[[[3.5f32, 0.]]], &Device::Cpu).unwrap();
        refuses(
            Prediction::probabilities(&logits),
            &zeros(&[1, 2], DType::U8),
            "probabilities lie in [0, 1], found 3.5; pass logits as Prediction::logits",
        );
    }

    #[test]
    fn a_gamma_that_is_no_exponent_is_refused() {
        let (logits, labels) = (zeros(&[1, 2, 3], DType::F32), zeros(&[1, 3], DType::U8));
        for (gamma, found) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN")] {
            let error = dice_pp(&logits, &labels, gamma).unwrap_err().to_string();
            let sentence = format!(
                "γ must be a positive number, found {found}; the paper sweeps 0.5 to 5 and settles on 2"
            );
            assert_eq!(error.lines().next().unwrap(), sentence);
        }
    }
}
