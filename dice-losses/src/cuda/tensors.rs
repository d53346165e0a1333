//! Losses of Candle's tensors on a CUDA device: what is true laid out there, and the operations that autograd knows.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage,
    Tensor, Var,
    backend::BackendStorage as _,
    bail,
    cuda_backend::cudarc::driver::{CudaStream, SyncOnDrop},
    op::BackpropOp,
};
use half::{bf16, f16};

use super::{
    Algebra,
    plan::{Inputs, LARGE, Plan, Scale, Task, Values, address, room, weight_kind},
    source::{Form, LabelKind, TruthKind},
};
use crate::{
    fused::{Part, PassTerms, ROWS_OF_SUMS as ROWS, parts},
    prediction::{Prediction, Scale as Meaning},
    region::sample_weights_of_one_region,
    sums::{Request, Sums},
    target::{Encoding, Target, a_pixel},
};

/// Whether there are kernels for the prediction.
pub(crate) fn serves(prediction: &Prediction) -> bool {
    prediction.values().device().is_cuda()
        && prediction.scale() == Meaning::Logits
        && matches!(
            prediction.values().dtype(),
            DType::F32 | DType::F16 | DType::BF16
        )
}

/// The sums that were asked for, differentiable in the prediction.
pub(crate) fn sums(prediction: &Prediction, target: &Target, request: &Request) -> Result<Sums> {
    let scene = Arc::new(Scene::new(prediction, target)?);
    let mut sums = Sums::new(prediction, target)?;
    for part in parts(request) {
        let op = SumsOp::new(&scene, &part, None)?;
        let rows = scene.logits.apply_op1(op)?;
        put(&part, &rows, prediction, &mut sums)?;
    }
    Ok(sums)
}

/// The rows of a pass, by name.
fn put(part: &Part, rows: &Tensor, prediction: &Prediction, sums: &mut Sums) -> Result<()> {
    let rows: Result<Vec<Tensor>> = (0..ROWS).map(|row| rows.get(row)).collect();
    part.put(&rows?, prediction.activation(), sums);
    Ok(())
}

/// The loss and its gradient by way of a loss's own tensor operations on the sums.
pub(crate) fn value_and_grad_of_sums(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    of_sums: &(dyn Fn(&Sums) -> Result<Tensor> + Sync),
) -> Result<(Tensor, Tensor)> {
    let scene = Arc::new(Scene::new(prediction, target)?);
    let mut sums = Sums::new(prediction, target)?;
    let (parts, mut leaves) = (parts(request), Vec::new());
    let out = Gradient::new(&scene)?;
    for part in &parts {
        let op = SumsOp::new(&scene, part, None)?;
        let numbers = scene.logits.detach().apply_op1_no_bwd(&op)?;
        // A leaf a row: the rows of one tensor would each cost a tensor of zeros on the way back.
        let rows: Result<Vec<Var>> = (0..ROWS)
            .map(|row| Var::from_tensor(&numbers.get(row)?))
            .collect();
        let rows = rows?;
        let tensors: Vec<Tensor> = rows.iter().map(|row| row.as_tensor().clone()).collect();
        part.put(&tensors, prediction.activation(), &mut sums);
        leaves.push((op, rows));
    }
    let loss = of_sums(&sums)?;
    let mut of_loss = loss.sum_all()?.backward()?;
    for (at, (op, rows)) in leaves.iter().enumerate() {
        let upstream: Result<Vec<Tensor>> = rows
            .iter()
            .map(|row| match of_loss.remove(row) {
                Some(slope) => slope.detach().contiguous(),
                None => row.zeros_like(),
            })
            .collect();
        let upstream = Tensor::stack(&upstream?, 0)?;
        out.fill(&op.plan, &scene, &upstream, at > 0)?;
    }
    if parts.is_empty() {
        return Ok((loss.detach(), prediction.values().zeros_like()?));
    }
    Ok((loss.detach(), out.tensor()))
}

/// A plan for a loss that has an algebra, and the shape of what it makes.
fn planned(
    scene: &Scene,
    request: &Request,
    algebra: &Algebra,
    samples: Option<&Tensor>,
) -> Result<Option<(Plan, Shape)>> {
    if samples.is_some() && algebra.has_batch_regions() {
        return Err(sample_weights_of_one_region());
    }
    let Some(program) = algebra.program(request, scene.sizes.0) else {
        return Ok(None);
    };
    let terms: Vec<PassTerms> = parts(request).iter().map(Part::terms).collect();
    let plan = scene.plan(&terms, Some(&program.numbers))?;
    let shape = match program.values {
        None => Shape::from(()),
        Some(values) => Shape::from(values),
    };
    Ok(Some((plan, shape)))
}

/// The loss in f64, differentiable in the prediction; none if it is to be made of tensor operations.
pub(crate) fn evaluate(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    algebra: &Algebra,
) -> Result<Option<Tensor>> {
    let scene = Scene::new(prediction, target)?;
    let samples = target.weights_of_samples(prediction)?;
    let Some((plan, shape)) = planned(&scene, request, algebra, samples.as_ref())? else {
        return Ok(None);
    };
    let logits = scene.logits.clone();
    logits
        .apply_op1(LossOp {
            scene,
            plan,
            samples,
            shape,
        })
        .map(Some)
}

/// The loss in f32 and its gradient, both detached: a launch each.
pub(crate) fn value_and_grad(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    algebra: &Algebra,
) -> Result<Option<(Tensor, Tensor)>> {
    let scene = Scene::new(prediction, target)?;
    let samples = target.weights_of_samples(prediction)?;
    let Some((plan, shape)) = planned(&scene, request, algebra, samples.as_ref())? else {
        return Ok(None);
    };
    let device = &scene.device;
    let stream = device.cuda_stream();
    let value = room::<f32>(device, shape.elem_count())?;
    let out = Gradient::new(&scene)?;
    scene.with_inputs(&scene.logits, samples.as_ref(), |inputs| {
        let (at, _value) = address(&value, &stream);
        plan.statistics(inputs, 0, Values { f64: 0, f32: at })?;
        out.with_address(|out| plan.gradient(inputs, Scale::default(), out))
    })?;
    let value = CudaStorage::wrap_cuda_slice(value, device.clone());
    Ok(Some((
        Tensor::from_storage(Storage::Cuda(value), shape, BackpropOp::none(), false),
        out.tensor(),
    )))
}

/// A prediction and a target on the device, contiguous, in dtypes that the kernels read.
struct Scene {
    device: CudaDevice,
    /// (N, C, S)
    sizes: (usize, usize, usize),
    logits: Tensor,
    truth: Tensor,
    weights: Option<Tensor>,
    ignore: Option<i64>,
    smoothed: (f64, f64),
    form: Form,
}

impl Scene {
    fn new(prediction: &Prediction, target: &Target) -> Result<Self> {
        target.check(prediction)?;
        let sizes = prediction.sizes()?;
        let logits = prediction.values().contiguous()?;
        let Device::Cuda(device) = logits.device() else {
            bail!("the kernels read tensors on a CUDA device");
        };
        let here = |tensor: &Tensor| tensor.to_device(logits.device())?.contiguous();
        let is_smoothed = target.smoothing != 0.0;
        let (truth, kind, ignore) = match &target.encoding {
            Encoding::Labels(labels) => {
                let labels = a_pixel(labels, prediction, "label map")?;
                let (labels, kind) = match labels.dtype() {
                    DType::U8 => (labels, LabelKind::U8),
                    DType::U32 => (labels, LabelKind::U32),
                    DType::I64 => (labels, LabelKind::I64),
                    _ => (labels.to_dtype(DType::I64)?, LabelKind::I64),
                };
                // A label that the dtype cannot hold is never met.
                let ignore = target.ignore_label.filter(|label| match kind {
                    LabelKind::U8 => u8::try_from(*label).is_ok(),
                    LabelKind::U32 => u32::try_from(*label).is_ok(),
                    LabelKind::I64 => true,
                });
                let kind = if is_smoothed {
                    TruthKind::Smoothed(kind)
                } else {
                    TruthKind::Labels(kind)
                };
                (here(&labels)?, kind, ignore)
            }
            Encoding::Dense(values) => {
                (here(&values.to_dtype(DType::F32)?)?, TruthKind::Dense, None)
            }
        };
        let weights = target.weights_of_pixels(prediction, DType::F32)?;
        let (items, channels, pixels) = sizes;
        let bytes = items * channels * pixels * logits.dtype().size_in_bytes();
        let form = Form {
            dtype: logits.dtype(),
            activation: prediction.activation(),
            channels,
            truth: kind,
            ignore: ignore.is_some(),
            weights: weight_kind(weights.is_some()),
            aligned: true,
            streamed: bytes > LARGE,
        };
        let mut scene = Self {
            device: device.clone(),
            sizes,
            truth,
            weights: weights.as_ref().map(here).transpose()?,
            ignore,
            smoothed: target.smoothed(prediction)?,
            form,
            logits,
        };
        scene.form.aligned = pixels.is_multiple_of(form.vector())
            && scene.with_inputs(&scene.logits, None, |inputs| Ok(inputs.are_aligned(&form)))?;
        Ok(scene)
    }

    fn plan(&self, parts: &[PassTerms], program: Option<&[f64]>) -> Result<Plan> {
        let task = Task {
            sizes: self.sizes,
            ignore: self.ignore,
            smoothed: self.smoothed,
            parts,
            program,
        };
        Plan::new(&self.device, self.form, &task)
    }

    /// Has `f` see the addresses of all that the kernels read.
    fn with_inputs<T>(
        &self,
        logits: &Tensor,
        samples: Option<&Tensor>,
        f: impl FnOnce(&Inputs) -> Result<T>,
    ) -> Result<T> {
        let (storage, layout) = logits.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("the kernels read tensors on a CUDA device");
        };
        self.with_inputs_of(storage, layout, samples, f)
    }

    fn with_inputs_of<T>(
        &self,
        logits: &CudaStorage,
        layout: &Layout,
        samples: Option<&Tensor>,
        f: impl FnOnce(&Inputs) -> Result<T>,
    ) -> Result<T> {
        let stream = self.device.cuda_stream();
        let (logits, _logits) = start(logits, layout, &stream)?;
        with_address(Some(&self.truth), &stream, |truth| {
            with_address(self.weights.as_ref(), &stream, |weights| {
                with_address(samples, &stream, |samples| {
                    f(&Inputs {
                        logits,
                        truth,
                        weights,
                        samples,
                    })
                })
            })
        })
    }
}

/// Has `f` see the address of a tensor's numbers, 0 if there is none.
fn with_address<T>(
    tensor: Option<&Tensor>,
    stream: &CudaStream,
    f: impl FnOnce(u64) -> Result<T>,
) -> Result<T> {
    let Some(tensor) = tensor else {
        return f(0);
    };
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("the kernels read tensors on a CUDA device");
    };
    let (at, _guard) = start(storage, layout, stream)?;
    f(at)
}

/// The address of a contiguous tensor's first number.
fn start<'a>(
    storage: &'a CudaStorage,
    layout: &Layout,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let Some((offset, _)) = layout.contiguous_offsets() else {
        bail!(
            "the kernels read contiguous tensors, found strides {:?}",
            layout.stride()
        );
    };
    let dtype = storage.dtype();
    let (at, guard) = match dtype {
        DType::U8 => address(storage.as_cuda_slice::<u8>()?, stream),
        DType::U32 => address(storage.as_cuda_slice::<u32>()?, stream),
        DType::I64 => address(storage.as_cuda_slice::<i64>()?, stream),
        DType::F16 => address(storage.as_cuda_slice::<f16>()?, stream),
        DType::BF16 => address(storage.as_cuda_slice::<bf16>()?, stream),
        DType::F32 => address(storage.as_cuda_slice::<f32>()?, stream),
        DType::F64 => address(storage.as_cuda_slice::<f64>()?, stream),
        other => bail!("the kernels read no {other:?}"),
    };
    Ok((at + (offset * dtype.size_in_bytes()) as u64, guard))
}

/// Room for a gradient in the logits' dtype.
struct Gradient {
    storage: CudaStorage,
    shape: Shape,
}

impl Gradient {
    fn new(scene: &Scene) -> Result<Self> {
        let (device, shape) = (&scene.device, scene.logits.shape().clone());
        let len = shape.elem_count();
        let own = device.clone();
        let storage = match scene.logits.dtype() {
            DType::F16 => CudaStorage::wrap_cuda_slice(room::<f16>(device, len)?, own),
            DType::BF16 => CudaStorage::wrap_cuda_slice(room::<bf16>(device, len)?, own),
            _ => CudaStorage::wrap_cuda_slice(room::<f32>(device, len)?, own),
        };
        Ok(Self { storage, shape })
    }

    fn with_address<T>(&self, f: impl FnOnce(u64) -> Result<T>) -> Result<T> {
        let stream = self.storage.device().cuda_stream();
        let (at, _guard) = start(&self.storage, &Layout::contiguous(&self.shape), &stream)?;
        f(at)
    }

    /// Writes or adds the gradient of one pass, from the derivatives `[ROWS, N, C]` in its sums.
    fn fill(&self, plan: &Plan, scene: &Scene, upstream: &Tensor, add: bool) -> Result<()> {
        let stream = scene.device.cuda_stream();
        scene.with_inputs(&scene.logits, None, |inputs| {
            with_address(Some(upstream), &stream, |upstream| {
                self.with_address(|out| {
                    plan.gradient_of(0, inputs, upstream, Scale::default(), out, add)
                })
            })
        })
    }

    fn tensor(self) -> Tensor {
        let storage = Storage::Cuda(self.storage);
        Tensor::from_storage(storage, self.shape, BackpropOp::none(), false)
    }
}

fn not_on_the_cpu() -> Result<(CpuStorage, Shape)> {
    bail!("this operation was made for a CUDA device; the CPU has its own")
}

/// The sums of one pass as an operation on the logits.
struct SumsOp {
    scene: Arc<Scene>,
    plan: Plan,
}

impl SumsOp {
    fn new(scene: &Arc<Scene>, part: &Part, program: Option<&[f64]>) -> Result<Self> {
        Ok(Self {
            plan: scene.plan(&[part.terms()], program)?,
            scene: scene.clone(),
        })
    }
}

impl CustomOp1 for SumsOp {
    fn name(&self) -> &'static str {
        "dice-losses-sums"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_the_cpu()
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, g) = (&self.scene.device, &self.plan.geometry);
        let sums = room::<f64>(device, g.sums())?;
        let stream = device.cuda_stream();
        self.scene.with_inputs_of(storage, layout, None, |inputs| {
            let (at, _sums) = address(&sums, &stream);
            self.plan.statistics(inputs, at, Values::default())
        })?;
        Ok((
            CudaStorage::wrap_cuda_slice(sums, device.clone()),
            (ROWS, g.items, g.channels).into(),
        ))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let out = Gradient::new(&self.scene)?;
        out.fill(&self.plan, &self.scene, &upstream.contiguous()?, false)?;
        Ok(Some(out.tensor()))
    }
}

/// A whole loss as an operation on the logits. Its derivatives in the sums stay where the plan has them.
struct LossOp {
    scene: Scene,
    plan: Plan,
    samples: Option<Tensor>,
    shape: Shape,
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        "dice-losses-loss"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_the_cpu()
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = &self.scene.device;
        let value = room::<f64>(device, self.shape.elem_count())?;
        let stream = device.cuda_stream();
        self.scene
            .with_inputs_of(storage, layout, self.samples.as_ref(), |inputs| {
                let (at, _value) = address(&value, &stream);
                self.plan.statistics(inputs, 0, Values { f64: at, f32: 0 })
            })?;
        Ok((
            CudaStorage::wrap_cuda_slice(value, device.clone()),
            self.shape.clone(),
        ))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let out = Gradient::new(&self.scene)?;
        let upstream = upstream.contiguous()?;
        let stream = self.scene.device.cuda_stream();
        self.scene.with_inputs(&self.scene.logits, None, |inputs| {
            with_address(Some(&upstream), &stream, |at| {
                // Over a whole batch there is one loss for all items.
                let an_item = self.shape.elem_count() > 1;
                let scale = Scale { at, an_item };
                out.with_address(|out| self.plan.gradient(inputs, scale, out))
            })
        })?;
        Ok(Some(out.tensor()))
    }
}
