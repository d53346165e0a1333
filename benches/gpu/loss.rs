//! The loss and its gradient on the GPU.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{
    DType, Device, Tensor,
    cuda_backend::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys},
};
use dice_losses::{
    Activation, Loss, LossSpec, Prediction, Target,
    cuda::{Layout, Planned, Truth, TruthLayout, WeightLayout},
};

/// One shape, ready to be measured.
pub(crate) struct Bench {
    loss: Box<dyn Loss>,
    logits: Tensor,
    labels: Tensor,
    /// A plan is of f32.
    recorded: Option<Recorded>,
}

/// The planned loss as a graph, with what it reads and writes.
struct Recorded {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    gradient: CudaSlice<f32>,
    value: CudaSlice<f32>,
    _logits: CudaSlice<f32>,
    _labels: CudaSlice<u8>,
    _planned: Planned,
}

impl Bench {
    /// The raw files `logits.f32` and `labels.u8` of a folder, little-endian.
    pub(crate) fn read(folder: &Path, shape: &str, dtype: DType, device: &Device) -> Result<Self> {
        let dims = shape
            .split('x')
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>()?;
        let [n, _, space @ ..] = &dims[..] else {
            bail!("a shape is NxCx..., found {shape}");
        };
        let logits = fs::read(folder.join("logits.f32"))?;
        let (numbers, _) = logits.as_chunks::<4>();
        let numbers: Vec<f32> = numbers
            .iter()
            .map(|&four| f32::from_le_bytes(four))
            .collect();
        let logits = Tensor::from_vec(numbers, &dims[..], &Device::Cpu)?;
        let without_channels = [&[*n], space].concat();
        let labels = fs::read(folder.join("labels.u8"))?;
        let labels = Tensor::from_vec(labels, without_channels, &Device::Cpu)?;
        let loss = "dice++:gamma=2".parse::<LossSpec>()?.build();
        let recorded = match dtype {
            DType::F32 => Some(Recorded::new(&*loss, &logits, &labels, device)?),
            _ => None,
        };
        Ok(Self {
            loss,
            logits: logits.to_dtype(dtype)?.to_device(device)?,
            labels: labels.to_device(device)?,
            recorded,
        })
    }

    /// The least bytes that loss and gradient have to move: logits and labels read twice, since no gradient can be
    /// written before the sums over all pixels are known, and the gradient written once.
    pub(crate) fn least_bytes(&self) -> usize {
        let logits = self.logits.elem_count() * self.logits.dtype().size_in_bytes();
        let labels = self.labels.elem_count();
        2 * logits + 2 * labels + logits
    }

    fn recorded(&self) -> Result<&Recorded> {
        let recorded = self.recorded.as_ref();
        recorded.context("a planned loss is of f32 logits")
    }

    /// The plan, once, which is not waited for.
    pub(crate) fn replay(&self) -> Result<()> {
        Ok(self.recorded()?.graph.launch()?)
    }

    /// `value_and_grad`, which makes a fresh gradient.
    pub(crate) fn call(&self) -> Result<(Tensor, Tensor)> {
        let (prediction, target) = (
            Prediction::logits(&self.logits),
            Target::labels(&self.labels),
        );
        Ok(self.loss.value_and_grad(&prediction, &target)?)
    }

    /// The loss; writes the gradient.
    pub(crate) fn write(&self, contestant: &str, file: &Path) -> Result<f32> {
        let (value, gradient) = match contestant {
            "planned" => {
                self.replay()?;
                let of = self.recorded()?;
                let value = of.stream.clone_dtoh(&of.value)?[0];
                (value, of.stream.clone_dtoh(&of.gradient)?)
            }
            "call" => {
                let (value, gradient) = self.call()?;
                // Not Candle's conversion: it is not what is measured.
                let gradient = gradient.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                (value.to_scalar()?, gradient.flatten_all()?.to_vec1()?)
            }
            _ => bail!("the contestants are planned and call, found {contestant}"),
        };
        let expected = self.logits.elem_count();
        ensure!(
            gradient.len() == expected,
            "the gradient has {} numbers, expected {expected}",
            gradient.len()
        );
        let bytes: Vec<u8> = gradient.into_iter().flat_map(f32::to_le_bytes).collect();
        fs::write(file, bytes)?;
        Ok(value)
    }
}

impl Recorded {
    fn new(loss: &dyn Loss, logits: &Tensor, labels: &Tensor, device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?;
        let stream = device.cuda_stream();
        let [items, channels, space @ ..] = logits.dims() else {
            bail!("expected logits [N, C, ...], found {:?}", logits.dims());
        };
        let layout = Layout {
            items: *items,
            channels: *channels,
            pixels: space.iter().product(),
            activation: Activation::Softmax,
            truth: TruthLayout::Labels { ignore: None },
            weights: WeightLayout::None,
            smoothing: 0.0,
        };
        let mut planned =
            Planned::new(loss, device, &layout)?.context("the loss has no algebra")?;
        let logits = stream.clone_htod(&logits.flatten_all()?.to_vec1::<f32>()?)?;
        let labels = stream.clone_htod(&labels.flatten_all()?.to_vec1::<u8>()?)?;
        let mut gradient = stream.alloc_zeros::<f32>(logits.len())?;
        let mut value = stream.alloc_zeros::<f32>(planned.values())?;
        let mut enqueue = || {
            let truth = Truth::Labels(labels.as_view());
            let (gradient, value) = (&mut gradient.as_view_mut(), &mut value.as_view_mut());
            planned.enqueue(&logits.as_view(), &truth, None, gradient, value)
        };
        // The first time loads what the driver loads late, which a recording may not.
        enqueue()?;
        stream.synchronize()?;
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let enqueued = enqueue();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        Ok(Self {
            graph: graph?.context("the loss has no launches")?,
            stream,
            gradient,
            value,
            _logits: logits,
            _labels: labels,
            _planned: planned,
        })
    }
}
