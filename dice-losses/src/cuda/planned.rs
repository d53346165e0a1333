//! A loss with everything fixed but the numbers, to be captured in a CUDA graph.

use candle_core::{
    CudaDevice, DType, Result, bail,
    cuda_backend::cudarc::driver::{CudaStream, CudaView, CudaViewMut, SyncOnDrop},
};

use super::{
    plan::{Inputs, LARGE, Plan, Scale, Task, Values},
    source::{Form, LabelKind, TruthKind, WeightKind},
};
use crate::{
    fused::{Part, PassTerms, parts},
    loss::Loss,
    prediction::Activation,
    sums::Request,
};

/// What a [`Planned`] loss is planned for.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Items of a batch.
    pub items: usize,
    /// Channels of the prediction.
    pub channels: usize,
    /// Pixels of an item.
    pub pixels: usize,
    /// How the channels relate; of one channel there is no softmax.
    pub activation: Activation,
    /// What is true.
    pub truth: TruthLayout,
    /// How much pixels count.
    pub weights: WeightLayout,
    /// Label smoothing ε, from 0 to below 1, as [`Target::smoothing`](crate::Target::smoothing) has it.
    pub smoothing: f64,
}

/// What a planned loss reads the truth from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruthLayout {
    /// Class numbers u8 `[N, S]`.
    Labels {
        /// The label of pixels that do not count.
        ignore: Option<u8>,
    },
    /// A value a class and pixel, f32 `[N, C, S]`.
    Dense,
}

/// What a planned loss reads the pixels' weights from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightLayout {
    /// Every pixel counts once.
    #[default]
    None,
    /// u8 `[N, S]`: pixels count where it is not 0.
    Mask,
    /// f32 `[N, S]`.
    Factors,
}

/// The truth of a batch.
#[derive(Debug)]
pub enum Truth<'a> {
    /// Class numbers `[N, S]`.
    Labels(CudaView<'a, u8>),
    /// A value a class and pixel `[N, C, S]`.
    Dense(CudaView<'a, f32>),
}

/// The weights of a batch's pixels.
#[derive(Debug)]
pub enum Weights<'a> {
    /// Where it is not 0, `[N, S]`.
    Mask(CudaView<'a, u8>),
    /// Factors `[N, S]`.
    Factors(CudaView<'a, f32>),
}

/// A loss whose shapes, choices and memory are fixed, so that [`enqueue`](Planned::enqueue) is launches and nothing else:
/// no memory is taken, nothing is copied to or from the host, and the whole can be captured in a CUDA graph and replayed
/// with other numbers at the same addresses.
///
/// Launch it once before a capture: the driver may load kernels at their first launch. The launches go to the
/// device's stream, and the memory between them belongs to the plan: one plan serves one stream.
///
/// ```no_run
/// use dice_losses::{Activation, candle_core::{CudaDevice, Result, backend::BackendDevice}, zoo};
/// use dice_losses::cuda::{Layout, Planned, Truth, TruthLayout, WeightLayout};
/// let device = CudaDevice::new(0)?;
/// let layout = Layout {
///     items: 8, channels: 2, pixels: 512 * 512, activation: Activation::Softmax,
///     truth: TruthLayout::Labels { ignore: Some(255) }, weights: WeightLayout::None, smoothing: 0.0,
/// };
/// let loss = zoo::dice().plus_plus(2.0);
/// let mut planned = Planned::new(&loss, &device, &layout)?.expect("a loss of the zoo has an algebra");
/// let logits = device.alloc_zeros::<f32>(8 * 2 * 512 * 512)?;
/// let labels = device.alloc_zeros::<u8>(8 * 512 * 512)?;
/// let (mut gradient, mut value) = (device.alloc_zeros::<f32>(8 * 2 * 512 * 512)?, device.alloc_zeros::<f32>(1)?);
/// let truth = Truth::Labels(labels.as_view());
/// planned.enqueue(&logits.as_view(), &truth, None, &mut gradient.as_view_mut(), &mut value.as_view_mut())?;
/// # Ok::<(), dice_losses::candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Planned {
    plan: Plan,
    layout: Layout,
    values: usize,
}

impl Planned {
    /// Compiles the kernels and takes all memory they need. None if the loss has no
    /// [algebra](crate::Loss::algebra): then it is made of tensor operations, and cannot be planned.
    ///
    /// # Errors
    ///
    /// If there are no items or channels, a parameter of the loss is outside its range, the smoothing is outside
    /// [0, 1), or NVRTC or the device reports something.
    pub fn new(loss: &dyn Loss, device: &CudaDevice, layout: &Layout) -> Result<Option<Self>> {
        let &Layout {
            items,
            channels,
            pixels,
            activation,
            smoothing,
            ..
        } = layout;
        if items == 0 || channels == 0 {
            bail!("a planned loss has at least 1 item and 1 channel, found {items} and {channels}");
        }
        if activation == Activation::Softmax && channels == 1 {
            bail!("a softmax has at least 2 channels, found 1; a single channel is a sigmoid's");
        }
        if !(0.0..1.0).contains(&smoothing) {
            bail!("label smoothing is from 0 to below 1, found {smoothing}");
        }
        let mut request = Request::of(channels, activation);
        loss.request(&mut request)?;
        let Some(algebra) = loss.algebra(&request)? else {
            return Ok(None);
        };
        let Some(program) = algebra.program(&request, items) else {
            return Ok(None);
        };
        let (truth, ignore) = match layout.truth {
            TruthLayout::Labels { ignore } if smoothing == 0.0 => {
                (TruthKind::Labels(LabelKind::U8), ignore)
            }
            TruthLayout::Labels { ignore } => (TruthKind::Smoothed(LabelKind::U8), ignore),
            TruthLayout::Dense => (TruthKind::Dense, None),
        };
        let mut form = Form {
            dtype: DType::F32,
            activation,
            channels,
            truth,
            ignore: ignore.is_some(),
            weights: match layout.weights {
                WeightLayout::None => WeightKind::None,
                WeightLayout::Mask => WeightKind::Mask,
                WeightLayout::Factors => WeightKind::F32,
            },
            aligned: false,
            streamed: items * channels * pixels * size_of::<f32>() > LARGE,
        };
        form.aligned = pixels.is_multiple_of(form.vector());
        let sides = match activation {
            Activation::Softmax => channels,
            Activation::Sigmoid => 2,
        };
        let terms: Vec<PassTerms> = parts(&request).iter().map(Part::terms).collect();
        let task = Task {
            sizes: (items, channels, pixels),
            ignore: ignore.map(i64::from),
            smoothed: (1.0 - smoothing, smoothing / sides as f64),
            parts: &terms,
            program: Some(&program.numbers),
        };
        Ok(Some(Self {
            plan: Plan::new(device, form, &task)?,
            layout: layout.clone(),
            values: program.values.unwrap_or(1),
        }))
    }

    /// Numbers of the value: 1, or as many as items with [`Reduction::None`](crate::Reduction::None).
    pub fn values(&self) -> usize {
        self.values
    }

    /// Launches the loss of logits `[N, C, S]` and its gradient in them, which `gradient` and `value` hold when the
    /// stream has come there. A label that is no class, and a truth outside [0, 1], make them NaN.
    ///
    /// # Errors
    ///
    /// If the truth or the weights are not of the kind that was planned for, if a slice is of another length, or if one
    /// does not begin at a multiple of sixteen bytes where pixels are a multiple of four, or if a launch fails.
    pub fn enqueue(
        &mut self,
        logits: &CudaView<'_, f32>,
        truth: &Truth<'_>,
        weights: Option<&Weights<'_>>,
        gradient: &mut CudaViewMut<'_, f32>,
        value: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let numbers = self.layout.items * self.layout.channels * self.layout.pixels;
        length("the gradient", gradient.len(), numbers)?;
        let stream = self.plan.device().cuda_stream();
        let (out, _out) = writing(gradient, &stream);
        if self.plan.form.aligned && !out.is_multiple_of(16) {
            bail!("the gradient must begin at a multiple of 16 bytes, found address {out}");
        }
        self.launch(&stream, logits, truth, weights, value, |plan, inputs| {
            plan.gradient(inputs, Scale::default(), out)
        })
    }

    /// Launches the loss alone, for validation.
    ///
    /// # Errors
    ///
    /// As [`Planned::enqueue`].
    pub fn enqueue_value(
        &mut self,
        logits: &CudaView<'_, f32>,
        truth: &Truth<'_>,
        weights: Option<&Weights<'_>>,
        value: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let stream = self.plan.device().cuda_stream();
        self.launch(&stream, logits, truth, weights, value, |_, _| Ok(()))
    }

    fn launch(
        &self,
        stream: &CudaStream,
        logits: &CudaView<'_, f32>,
        truth: &Truth<'_>,
        weights: Option<&Weights<'_>>,
        value: &mut CudaViewMut<'_, f32>,
        then: impl FnOnce(&Plan, &Inputs) -> Result<()>,
    ) -> Result<()> {
        let layout = &self.layout;
        let pixels = layout.items * layout.pixels;
        let numbers = pixels * layout.channels;
        length("the logits", logits.len(), numbers)?;
        length("the value", value.len(), self.values)?;
        let (logits, _logits) = reading(logits, stream);
        let (truth, _truth) = match (truth, layout.truth) {
            (Truth::Labels(labels), TruthLayout::Labels { .. }) => {
                length("the labels", labels.len(), pixels)?;
                reading(labels, stream)
            }
            (Truth::Dense(values), TruthLayout::Dense) => {
                length("the dense truth", values.len(), numbers)?;
                reading(values, stream)
            }
            (_, planned) => bail!("the loss was planned for {planned:?}, found another truth"),
        };
        let weights = match (weights, layout.weights) {
            (None, WeightLayout::None) => None,
            (Some(Weights::Mask(mask)), WeightLayout::Mask) => {
                length("the mask", mask.len(), pixels)?;
                Some(reading(mask, stream))
            }
            (Some(Weights::Factors(factors)), WeightLayout::Factors) => {
                length("the weights", factors.len(), pixels)?;
                Some(reading(factors, stream))
            }
            (_, planned) => bail!("the loss was planned for weights {planned:?}, found others"),
        };
        let inputs = Inputs {
            logits,
            truth,
            weights: weights.as_ref().map_or(0, |(at, _)| *at),
            samples: 0,
        };
        if !self.plan.serves(&inputs) {
            bail!(
                "slices must begin at a multiple of 16 bytes where pixels are a multiple of 4, found {inputs:?}; \
                 copy them, or narrow a batch by whole items"
            );
        }
        let (value, _value) = writing(value, stream);
        self.plan
            .statistics(&inputs, 0, Values { f64: 0, f32: value })?;
        then(&self.plan, &inputs)
    }
}

fn length(what: &str, found: usize, expected: usize) -> Result<()> {
    if found != expected {
        bail!("{what} of the planned loss must have {expected} numbers, found {found}");
    }
    Ok(())
}

fn reading<'a, T>(view: &'a CudaView<'_, T>, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
    use candle_core::cuda_backend::cudarc::driver::DevicePtr as _;
    view.device_ptr(stream)
}

fn writing<'a, T>(
    view: &'a mut CudaViewMut<'_, T>,
    stream: &'a CudaStream,
) -> (u64, SyncOnDrop<'a>) {
    use candle_core::cuda_backend::cudarc::driver::DevicePtrMut as _;
    view.device_ptr_mut(stream)
}
