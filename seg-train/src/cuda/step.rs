//! A training step: network, loss, network backwards, optimiser, as one sequence that the GPU replays.

use std::{collections::HashMap, env, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor,
    cuda_backend::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys},
};
use dice_losses::{
    Activation, Loss, Prediction,
    cuda::{Layout as LossLayout, Planned, Truth, TruthLayout, WeightLayout},
};
use seg_unet::{Precision, UNet};

use super::{
    copies::{Copies, HostBatch, Pool},
    infer::Engines,
    ledger::{LINES, Ledger, Line},
    sgd::{Fused, Tables},
};
use crate::{batches::target, optim::Sgd, raster::IGNORE};
pub(crate) use seg_unet::cuda::Engine;

/// `off`: every step is launched kernel by kernel, as where a step is to be looked at with a profiler.
const GRAPH: &str = "SEG_TRAIN_CUDA_GRAPH";

/// A step that is on its way: the images it is of, by name.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) ids: Vec<String>,
}

/// One training's side of the GPU.
pub(crate) struct Steps {
    device: Device,
    stream: Arc<CudaStream>,
    precision: Precision,
    /// Whether a step of no number is left out, rather than ending the run.
    skips: bool,
    graphs: bool,
    pool: Arc<Pool>,
    copies: Copies,
    ledger: Ledger,
    /// By the number of images.
    sizes: HashMap<usize, Size>,
    pending: Vec<Pending>,
    /// For validation.
    pub(crate) engines: Engines,
}

/// What a step of so many images needs.
struct Size {
    engine: Engine,
    labels: CudaSlice<u8>,
    /// The loss as launches; none where it is known as a closure only.
    planned: Option<Planned>,
    tables: Tables,
    replay: Replay,
}

/// How the next step is made.
enum Replay {
    /// Kernel by kernel: the first step also loads what the driver loads late, which a recording may not.
    Fresh,
    /// Recorded, then replayed.
    Warm,
    /// Replayed.
    Ready(CudaGraph),
}

impl Steps {
    pub(crate) fn new(device: &Device, precision: Precision, skips: bool) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        Ok(Self {
            device: device.clone(),
            precision,
            skips,
            graphs: env::var_os(GRAPH).is_none_or(|value| value != "off"),
            pool: Arc::new(Pool::new(stream.context())),
            copies: Copies::new(&stream)?,
            ledger: Ledger::new(&stream)?,
            sizes: HashMap::new(),
            pending: Vec::new(),
            engines: Engines::new(precision),
            stream,
        })
    }

    /// Where batches are gathered, on whatever thread.
    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }

    /// Sets the learning rate of the steps to come.
    pub(crate) fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.ledger.set_lr(lr)
    }

    /// Steps that are on their way, or done and not read.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Replays the step of `n` images on those that lie on the device; whether it had been recorded.
    pub(crate) fn again(&self, n: usize) -> Result<bool> {
        match self.sizes.get(&n).map(|size| &size.replay) {
            Some(Replay::Ready(graph)) => {
                graph.launch()?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether there is no room for what comes of another step.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() == LINES
    }

    /// What came of the steps since the last call. Waits for them.
    pub(crate) fn read(&mut self) -> Result<Vec<(Pending, Line)>> {
        let lines = self.ledger.read(self.pending.len())?;
        Ok(self.pending.drain(..).zip(lines).collect())
    }

    /// Puts a step into the stream, and does not wait for it.
    pub(crate) fn step(
        &mut self,
        unet: &UNet,
        sgd: &mut Sgd,
        loss: &dyn Loss,
        batch: HostBatch,
    ) -> Result<()> {
        let fused = sgd
            .fused()
            .context("the weights on the CUDA device are no f32")?;
        let n = batch.len();
        if !self.sizes.contains_key(&n) {
            let size = Size::new(unet, fused, loss, self.precision, &batch, &self.device)?;
            self.sizes.insert(n, size);
        }
        let size = self.sizes.get_mut(&n).context("made above")?;
        self.copies
            .enqueue(&batch, size.engine.images_mut(), &mut size.labels)?;
        let (ledger, skips) = (&mut self.ledger, self.skips);
        if batch.has_no_class || size.planned.is_none() {
            size.engine.forward()?;
            size.composed_loss(loss, &batch, ledger, &self.device)?;
            size.engine.backward()?;
            fused.enqueue(&size.tables, ledger, skips)?;
        } else {
            match &size.replay {
                Replay::Ready(graph) => graph.launch()?,
                Replay::Warm if self.graphs => {
                    let graph = record(&self.stream, || size.enqueue(fused, ledger, skips))?;
                    graph.launch()?;
                    size.replay = Replay::Ready(graph);
                }
                Replay::Fresh | Replay::Warm => {
                    size.enqueue(fused, ledger, skips)?;
                    size.replay = Replay::Warm;
                }
            }
        }
        self.pending.push(Pending {
            ids: batch.ids.clone(),
        });
        self.pool.give_back(batch);
        Ok(())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // What is freed below may still be in use where a step has failed to start.
        let _ = super::device::wait(&self.stream);
    }
}

/// Records what `launch` puts into the stream; nothing of it is done yet.
fn record(stream: &Arc<CudaStream>, launch: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    // Other threads may go on: they prepare images, or train on streams of their own.
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let launched = launch();
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
    launched?;
    graph
        .with_context(|| format!("a step cannot be recorded as a graph; {GRAPH}=off does without"))?
        .context("a step has no launches")
}

impl Size {
    fn new(
        unet: &UNet,
        fused: &Fused,
        loss: &dyn Loss,
        precision: Precision,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Self> {
        let [n, _, height, width] = batch.shape;
        let cuda = device.as_cuda_device()?;
        let engine = Engine::new(unet, [n, height, width], precision, true)?;
        let pixels = height * width;
        let layout = LossLayout {
            items: n,
            channels: engine.logits().len() / (n * pixels),
            pixels,
            activation: Activation::Softmax,
            truth: TruthLayout::Labels {
                ignore: Some(IGNORE),
            },
            weights: WeightLayout::None,
            smoothing: 0.0,
        };
        Ok(Self {
            labels: cuda.alloc_zeros(n * height * width)?,
            planned: Planned::new(loss, cuda, &layout)?.filter(|planned| planned.values() == 1),
            tables: fused.tables(engine.gradients()?, engine.ranges())?,
            engine,
            replay: Replay::Fresh,
        })
    }

    /// All of a step whose images and labels are there.
    fn enqueue(&mut self, fused: &mut Fused, ledger: &mut Ledger, skips: bool) -> Result<()> {
        let planned = self.planned.as_mut().context("a loss without a plan")?;
        self.engine.forward()?;
        let (logits, slopes) = self.engine.logits_and_slopes()?;
        planned.enqueue(
            &logits.as_view(),
            &Truth::Labels(self.labels.as_view()),
            None,
            &mut slopes.as_view_mut(),
            &mut ledger.value.as_view_mut(),
        )?;
        self.engine.backward()?;
        fused.enqueue(&self.tables, ledger, skips)
    }

    /// The loss from the logits by Candle's operations, for what has no plan: a pixel of no class, a loss of one's own.
    fn composed_loss(
        &mut self,
        loss: &dyn Loss,
        batch: &HostBatch,
        ledger: &mut Ledger,
        device: &Device,
    ) -> Result<()> {
        let [n, _, height, width] = batch.shape;
        let cuda = device.as_cuda_device()?;
        let (logits, slopes) = self.engine.logits_and_slopes()?;
        let classes = logits.len() / (n * height * width);
        let copy = Tensor::zeros((n, classes, height, width), DType::F32, device)?;
        copy.inplace_op1(&Overwrite(logits))?;
        let target = target(batch.labels()?, (n, height, width), classes, device)?;
        let (value, gradient) = loss.value_and_grad(&Prediction::logits(&copy), &target)?;
        to_slice(&gradient, cuda, slopes)?;
        to_slice(&value, cuda, &mut ledger.value)
    }
}

/// Copies a tensor's numbers to a slice of the same length.
fn to_slice(tensor: &Tensor, cuda: &CudaDevice, slice: &mut CudaSlice<f32>) -> Result<()> {
    let tensor = tensor.detach().contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        anyhow::bail!("the loss has left the CUDA device");
    };
    let start = layout.start_offset();
    let all = storage.as_cuda_slice::<f32>()?;
    ensure!(
        tensor.elem_count() == slice.len(),
        "the loss gives {} numbers; expected {}",
        tensor.elem_count(),
        slice.len()
    );
    cuda.memcpy_dtod(&all.slice(start..start + slice.len()), slice)?;
    Ok(())
}

/// Puts the numbers of a slice in the place of a tensor's.
struct Overwrite<'a>(&'a CudaSlice<f32>);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("a slice of a CUDA device does not go to the processor")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        let device = storage.device.clone();
        device.memcpy_dtod(self.0, storage.as_cuda_slice_mut::<f32>()?)
    }
}
