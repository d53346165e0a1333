//! What is true: labels, one-hot or soft maps, and how much each pixel and item counts.

use candle_core::{DType, Device, Error, Result, Tensor, bail};

use crate::{
    field::working_dtype,
    prediction::{Activation, Prediction},
};

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
    pub(crate) encoding: Encoding,
    pub(crate) ignore_label: Option<i64>,
    mask: Option<Tensor>,
    pixel_weights: Option<Tensor>,
    pub(crate) smoothing: f64,
    sample_weights: Option<Tensor>,
}

#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    Labels(Tensor),
    Dense(Tensor),
}

/// A target laid out for one prediction, in the working dtype.
pub(crate) struct Truth {
    /// One-hot, soft or multi-label `[N, C, S]`.
    pub(crate) y: Tensor,
    /// Whether `y` is 0 or 1 everywhere because it comes from class numbers.
    pub(crate) hard: bool,
    /// How much each pixel counts, `[N, 1, S]`; none: 1.
    pub(crate) weights: Option<Tensor>,
}

impl Truth {
    /// `x` `[N, C, S]` times the pixel's weight.
    pub(crate) fn counted(&self, x: Tensor) -> Result<Tensor> {
        match &self.weights {
            Some(weights) => x.broadcast_mul(weights),
            None => Ok(x),
        }
    }
}

impl Target {
    /// Class numbers `[N, …]` or `[N, 1, …]`, of any integer dtype.
    ///
    /// With `C` channels they run from 0 to `C − 1`; with one channel 0 is background and 1 foreground. u8, u32 and
    /// i64 are read as they are, no one-hot map is made.
    pub fn labels(labels: &Tensor) -> Self {
        Self::new(Encoding::Labels(apart(labels)))
    }

    /// A value a class and pixel `[N, C, …]`: one-hot, soft labels, or several labels that hold together.
    pub fn dense(values: &Tensor) -> Self {
        Self::new(Encoding::Dense(apart(values)))
    }

    fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            ignore_label: None,
            mask: None,
            pixel_weights: None,
            smoothing: 0.0,
            sample_weights: None,
        }
    }

    /// Pixels with this label do not count. Only class numbers have one; a dense target takes a [mask](Self::mask).
    #[must_use]
    pub fn ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// Only pixels where the mask (`[N, …]` or `[N, 1, …]`, any dtype) is not zero count. (Labels under it must still be
    /// classes, or the ignore label.)
    #[must_use]
    pub fn mask(mut self, mask: &Tensor) -> Self {
        self.mask = Some(apart(mask));
        self
    }

    /// How much each pixel counts (`[N, …]` or `[N, 1, …]`, any float dtype): a factor, 0 or more, on everything that
    /// is summed there, the number of pixels included. A weight of 0 leaves the pixel out as a [mask](Self::mask) does.
    ///
    /// ```
    /// use dice_losses::{Loss, Target, zoo, candle_core::{Device, Tensor}};
    /// let logits = Tensor::new(&[[[1f64, -1., 0.]]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[[1u8, 0, 1]], &Device::Cpu)?;
    /// let weighted = Target::labels(&labels).pixel_weights(&Tensor::new(&[[2f64, 1., 0.]], &Device::Cpu)?);
    /// let loss = zoo::dice().loss(&(&logits).into(), &weighted)?.to_scalar::<f64>()?;
    /// // The same as seeing the first pixel twice and the third not at all.
    /// let logits = Tensor::new(&[[[1f64, 1., -1.]]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[[1u8, 1, 0]], &Device::Cpu)?;
    /// assert!((zoo::dice().loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()? - loss).abs() < 1e-12);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn pixel_weights(mut self, weights: &Tensor) -> Self {
        self.pixel_weights = Some(apart(weights));
        self
    }

    /// Label smoothing: `y` becomes `(1 − ε) y + ε / C` (`ε / 2` for a sigmoid's channel), as Szegedy et al. 2016 have it.
    /// In `[0, 1)`.
    #[must_use]
    pub fn smoothing(mut self, epsilon: f64) -> Self {
        self.smoothing = epsilon;
        self
    }

    /// A factor on each item's loss (`[N]`, any float dtype). The mean over the items divides by their number, not by
    /// the weights' sum. Over a whole batch ([`crate::Region::Batch`]) there is one region and nothing to weigh:
    /// use [`Target::pixel_weights`].
    #[must_use]
    pub fn sample_weights(mut self, weights: &Tensor) -> Self {
        self.sample_weights = Some(apart(weights));
        self
    }

    /// The items' weights `[N]` in the working dtype.
    pub(crate) fn weights_of_samples(&self, prediction: &Prediction) -> Result<Option<Tensor>> {
        let Some(weights) = &self.sample_weights else {
            return Ok(None);
        };
        let (n, _, _) = prediction.sizes()?;
        if weights.dims() != [n] {
            bail!(
                "sample weights for {n} items have shape [{n}], found {:?}",
                weights.dims()
            );
        }
        let device = prediction.values().device();
        let weights = weights.to_device(device)?.to_dtype(working_dtype(device))?;
        check_weights(&weights, "sample")?;
        Ok(Some(weights))
    }

    /// Mask and pixel weights as one factor a pixel, `[N, 1, S]`.
    pub(crate) fn weights_of_pixels(
        &self,
        prediction: &Prediction,
        dtype: DType,
    ) -> Result<Option<Tensor>> {
        let mask = match &self.mask {
            Some(mask) => Some(
                a_pixel(mask, prediction, "mask")?
                    .ne(0f64)?
                    .to_dtype(dtype)?,
            ),
            None => None,
        };
        let weights = match &self.pixel_weights {
            Some(weights) => {
                let weights = a_pixel(weights, prediction, "weight map")?.to_dtype(dtype)?;
                check_weights(&weights, "pixel")?;
                Some(weights)
            }
            None => None,
        };
        Ok(match (mask, weights) {
            (Some(mask), Some(weights)) => Some((mask * weights)?),
            (one, other) => one.or(other),
        })
    }

    /// `(a, b)` of label smoothing, `y ↦ a y + b`.
    pub(crate) fn smoothed(&self, prediction: &Prediction) -> Result<(f64, f64)> {
        let epsilon = self.smoothing;
        if !(0.0..1.0).contains(&epsilon) {
            bail!("label smoothing is from 0 to below 1, found {epsilon}");
        }
        let (_, channels, _) = prediction.sizes()?;
        let classes = match prediction.activation() {
            Activation::Softmax => channels,
            Activation::Sigmoid => 2,
        };
        Ok((1.0 - epsilon, epsilon / classes as f64))
    }

    /// Refuses what no prediction of this shape can be compared with: the dtype and shape of the truth.
    pub(crate) fn check(&self, prediction: &Prediction) -> Result<()> {
        match &self.encoding {
            Encoding::Labels(labels) if labels.dtype().is_float() => bail!(
                "labels are integers, found {:?}; convert them, or pass one-hot and soft maps as Target::dense",
                labels.dtype()
            ),
            Encoding::Labels(labels) => a_pixel(labels, prediction, "label map").map(|_| ()),
            Encoding::Dense(_) if self.ignore_label.is_some() => bail!(
                "an ignore label needs class numbers; with a dense target pass Target::mask instead"
            ),
            Encoding::Dense(values) if values.dims() != prediction.values().dims() => bail!(
                "a dense target has the prediction's shape {:?}, found {:?}; pass class numbers as Target::labels",
                prediction.values().dims(),
                values.dims()
            ),
            Encoding::Dense(_) => Ok(()),
        }
    }

    /// Lays the target out for a prediction with plain operations.
    pub(crate) fn truth(&self, prediction: &Prediction) -> Result<Truth> {
        self.check(prediction)?;
        let (n, c, s) = prediction.sizes()?;
        let device = prediction.values().device();
        let dtype = working_dtype(device);
        let mut weights = self.weights_of_pixels(prediction, dtype)?;
        let (a, b) = self.smoothed(prediction)?;
        let y = match &self.encoding {
            Encoding::Labels(labels) => {
                let mut labels = a_pixel(labels, prediction, "label map")?.to_dtype(DType::I64)?;
                if let Some(ignore) = self.ignore_label {
                    let counts = labels.ne(ignore)?;
                    labels = counts.where_cond(&labels, &labels.zeros_like()?)?;
                    let counts = counts.to_dtype(dtype)?;
                    weights = Some(match weights {
                        Some(weights) => (weights * counts)?,
                        None => counts,
                    });
                }
                check_labels(&labels, c, self.ignore_label)?;
                one_hot(&labels, c, dtype)?
            }
            Encoding::Dense(values) => values.reshape((n, c, s))?.to_dtype(dtype)?,
        };
        let y = y.to_device(device)?;
        let weights = weights
            .map(|weights| weights.to_device(device))
            .transpose()?;
        // What stands at an uncounted pixel must not matter, not even a NaN.
        let y = match &weights {
            Some(weights) => weights
                .ne(0f64)?
                .broadcast_as(y.shape())?
                .where_cond(&y, &y.zeros_like()?)?,
            None => y,
        };
        let y = match &self.encoding {
            Encoding::Labels(_) => y,
            Encoding::Dense(_) => in_range(&y)?,
        };
        let smooth = self.smoothing != 0.0;
        Ok(Truth {
            y: if smooth { y.affine(a, b)? } else { y },
            hard: matches!(self.encoding, Encoding::Labels(_)) && !smooth,
            weights,
        })
    }
}

/// A tensor of one value a pixel, `[N, …]` or `[N, 1, …]`, as `[N, 1, S]`.
pub(crate) fn a_pixel(tensor: &Tensor, prediction: &Prediction, what: &str) -> Result<Tensor> {
    let (n, _, s) = prediction.sizes()?;
    let dims = prediction.values().dims();
    let squeezed = [&dims[..1], &dims[2..]].concat();
    let kept = [&dims[..1], &[1], &dims[2..]].concat();
    if tensor.dims() != squeezed && tensor.dims() != kept {
        let remedy = if tensor.dims() == dims {
            "; pass one-hot maps as Target::dense"
        } else {
            ""
        };
        bail!(
            "a {what} for a prediction of shape {dims:?} has shape {squeezed:?} or {kept:?}, found {:?}{remedy}",
            tensor.dims()
        );
    }
    tensor.reshape((n, 1, s))
}

/// How far outside its range a probability or a truth may lie by rounding: a softmax in half precision, a sum of soft
/// labels.
pub(crate) const SLACK: f64 = 1e-3;

/// Values in [0, 1], rounding taken off. Read back on the CPU only: elsewhere it would stall the device.
fn in_range(y: &Tensor) -> Result<Tensor> {
    if matches!(y.device(), Device::Cpu) && y.elem_count() > 0 {
        // A NaN is the prediction's business to show, and hides what stands behind it from a minimum.
        let numbers = y.eq(y)?.where_cond(y, &y.zeros_like()?)?;
        for extreme in [numbers.min_all()?, numbers.max_all()?] {
            let extreme = extreme.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            if !(-SLACK..=1.0 + SLACK).contains(&extreme) {
                return Err(stray_truth(extreme));
            }
        }
    }
    y.clamp(0.0, 1.0)
}

/// The error for a dense truth that is none.
pub(crate) fn stray_truth(y: f64) -> Error {
    Error::Msg(format!(
        "a dense target lies in [0, 1], found {y}; divide a map of 0 and 255 by 255, pass class numbers as Target::labels"
    ))
    .bt()
}

/// A negative or infinite weight is a mistake. Read back on the CPU only: elsewhere it would stall the device.
fn check_weights(weights: &Tensor, what: &str) -> Result<()> {
    if !matches!(weights.device(), Device::Cpu) || weights.elem_count() == 0 {
        return Ok(());
    }
    // By way of a shape of its own: Candle's minimum of a single number divides by its stride, which in a view may be 0.
    let weights = weights.reshape(weights.elem_count())?;
    // The sum finds NaN, which a minimum passes over.
    for extreme in [weights.min_all()?, weights.sum_all()?] {
        let extreme = extreme.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !(extreme >= 0.0 && extreme.is_finite()) {
            bail!(
                "a {what} weight is 0 or more, found {extreme}; to leave something out, give it 0"
            );
        }
    }
    Ok(())
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
            return Err(stray_label(label, channels, ignore_label));
        }
    }
    Ok(())
}

/// The error for a label that is no class.
pub(crate) fn stray_label(label: i64, channels: usize, ignore_label: Option<i64>) -> Error {
    let ignored = ignore_label.map_or(String::from("none is set"), |ignore| {
        format!("it is {ignore}")
    });
    Error::Msg(format!(
        "found label {label}, expected 0 to {}; if it marks pixels to leave out, pass it as Target::ignore_label ({ignored})",
        channels.max(2) - 1
    ))
    .bt()
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

/// The tensor outside any graph; one of no numbers as a tensor of its own, for Candle looks for the first number of a view
/// even where it has none, which may be behind the last that there is.
fn apart(tensor: &Tensor) -> Tensor {
    let tensor = tensor.detach();
    if tensor.elem_count() > 0 {
        return tensor;
    }
    Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device()).unwrap_or(tensor)
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
    fn one_weight_may_be_a_view_that_repeats_it() {
        let (logits, labels) = (zeros(&[1, 2, 3], DType::F32), zeros(&[1, 3], DType::U8));
        // Two items' common weight, and the first item alone.
        let weight = Tensor::new(&[2f64], &Device::Cpu).unwrap();
        let weight = weight.expand(2).unwrap().narrow(0, 0, 1).unwrap();
        let value = |target| dice(&logits, target).unwrap().to_scalar::<f32>().unwrap();
        let weighed = value(Target::labels(&labels).sample_weights(&weight));
        assert_eq!(weighed, 2.0 * value(Target::labels(&labels)));
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
                "γ must be above 0 and at most 1000000, found {found}; the paper sweeps 0.5 to 5 and settles on 2"
            );
            assert_eq!(error.lines().next().unwrap(), sentence);
        }
    }
}
