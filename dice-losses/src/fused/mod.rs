//! The sums of a loss in one pass over logits and targets, and its gradient in another: the CPU's own operation.
//!
//! `terms` says what is summed at a pixel; `binary`, `hard` and `soft` are the kernels, written in `lanes`; `simd`
//! chooses the instruction set; `pass` shares the pixels among threads. `unsafe` is confined to this module.

mod activation;
mod binary;
mod blocks;
mod hard;
mod kernel;
mod lanes;
mod math;
mod memory;
mod pass;
mod rows;
mod simd;
mod soft;
mod terms;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(feature = "cuda")]
pub(crate) use self::{
    rows::ROWS as ROWS_OF_SUMS,
    terms::{Power, Terms as PassTerms},
};

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, Var, WithDType,
    bail,
};
use half::{bf16, f16};

use self::{
    blocks::{Element, LabelMap, Labels},
    pass::{Pass, Truth},
    rows::ROWS,
    simd::InstructionSet,
    terms::Terms,
};
use crate::{
    composed,
    prediction::{Activation, Prediction, Scale},
    stats::{Modulation, RegionStats},
    sums::{PixelSums, PixelTerm, Request, Sums},
    target::{Encoding, SLACK, Target, a_pixel, stray_label, stray_truth},
};

/// The sums that were asked for, differentiable in the prediction.
pub(crate) fn sums(prediction: &Prediction, target: &Target, request: &Request) -> Result<Sums> {
    #[cfg(feature = "cuda")]
    if crate::cuda::serves(prediction) {
        return crate::cuda::sums(prediction, target, request);
    }
    if !serves(prediction) {
        return composed::sums(prediction, target, request);
    }
    let values = prediction.values().contiguous()?;
    let truth = Arc::new(Prepared::new(prediction, target)?);
    let mut sums = Sums::new(prediction, target)?;
    for part in parts(request) {
        let rows = values.apply_op1(FusedSums {
            truth: truth.clone(),
            terms: part.terms(),
        })?;
        let rows: Result<Vec<Tensor>> = (0..ROWS).map(|row| rows.get(row)).collect();
        part.put(&rows?, prediction.activation(), &mut sums);
    }
    Ok(sums)
}

/// The loss and its gradient in the prediction, both detached.
pub(crate) fn value_and_grad(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    of_sums: &(dyn Fn(&Sums) -> Result<Tensor> + Sync),
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if crate::cuda::serves(prediction) {
        return crate::cuda::value_and_grad_of_sums(prediction, target, request, of_sums);
    }
    if !serves(prediction) {
        return composed_value_and_grad(prediction, target, request, of_sums);
    }
    // Once among rayon's threads rather than once a pass: each way there puts threads to sleep and wakes them.
    if rayon::current_thread_index().is_none()
        && !pass::is_sequential(prediction.values().elem_count())
    {
        return rayon::scope(|_| value_and_grad(prediction, target, request, of_sums));
    }
    let values = prediction.values().detach().contiguous()?;
    let truth = Prepared::new(prediction, target)?;
    let (items, channels, _) = prediction.sizes()?;
    let mut sums = Sums::new(prediction, target)?;
    let parts = parts(request);
    let mut leaves = Vec::new();
    for part in &parts {
        let numbers = {
            let (storage, layout) = values.storage_and_layout();
            truth.sums(cpu(&storage)?, layout, &part.terms())?
        };
        // A leaf a row: the rows of one tensor would each cost a tensor of zeros on the way back.
        let rows: Result<Vec<Var>> = numbers
            .chunks(items * channels)
            .map(|row| Var::from_slice(row, (items, channels), &Device::Cpu))
            .collect();
        let rows = rows?;
        let tensors: Vec<Tensor> = rows.iter().map(|row| row.as_tensor().clone()).collect();
        part.put(&tensors, prediction.activation(), &mut sums);
        leaves.push(rows);
    }
    let loss = of_sums(&sums)?;
    let mut of_loss = loss.sum_all()?.backward()?;
    let mut gradient: Option<Tensor> = None;
    for (part, rows) in parts.iter().zip(&leaves) {
        let mut upstream = Vec::with_capacity(ROWS * items * channels);
        for row in rows {
            match of_loss.remove(row) {
                Some(row) => upstream.extend(row.flatten_all()?.to_vec1::<f64>()?),
                None => upstream.resize(upstream.len() + items * channels, 0.0),
            }
        }
        let part = truth.gradient(&values, &part.terms(), &upstream)?;
        gradient = Some(match gradient {
            Some(gradient) => (gradient + part)?,
            None => part,
        });
    }
    match gradient {
        Some(gradient) => Ok((loss.detach(), gradient)),
        None => Ok((loss.detach(), values.zeros_like()?)),
    }
}

fn composed_value_and_grad(
    prediction: &Prediction,
    target: &Target,
    request: &Request,
    of_sums: &(dyn Fn(&Sums) -> Result<Tensor> + Sync),
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

/// Whether there are kernels for the prediction.
fn serves(prediction: &Prediction) -> bool {
    prediction.values().device().is_cpu()
        && prediction.scale() == Scale::Logits
        && matches!(
            prediction.values().dtype(),
            DType::F32 | DType::F64 | DType::F16 | DType::BF16
        )
}

/// What one pass serves: a modulation and a pixel loss.
pub(crate) struct Part {
    modulation: Option<Modulation>,
    pixel: Option<PixelTerm>,
}

pub(crate) fn parts(request: &Request) -> Vec<Part> {
    let (modulations, terms) = (&request.modulations, &request.pixel_terms);
    (0..modulations.len().max(terms.len()))
        .map(|at| Part {
            modulation: modulations.get(at).copied(),
            pixel: terms.get(at).cloned(),
        })
        .collect()
}

impl Part {
    pub(crate) fn terms(&self) -> Terms {
        Terms::new(self.modulation, self.pixel.as_ref())
    }

    /// The rows of a pass, by name.
    pub(crate) fn put(&self, rows: &[Tensor], activation: Activation, sums: &mut Sums) {
        let [tp, fp, fn_, volume, predicted, pixels, of_class, of_others] = rows else {
            unreachable!("a pass has {ROWS} rows");
        };
        if let Some(modulation) = self.modulation {
            let stats = RegionStats {
                tp: tp.clone(),
                fp: fp.clone(),
                fn_: fn_.clone(),
                volume: volume.clone(),
                predicted: predicted.clone(),
                pixels: pixels.clone(),
                activation,
                modulation,
            };
            sums.regions.push((modulation, stats));
        }
        if let Some(term) = &self.pixel {
            let pixels = PixelSums {
                of_class: of_class.clone(),
                of_others: of_others.clone(),
                pixels: pixels.clone(),
            };
            sums.pixels.push((term.clone(), pixels));
        }
    }
}

/// A target laid out for a prediction: contiguous, on the CPU, in a dtype that the kernels read.
#[derive(Debug)]
struct Prepared {
    sizes: (usize, usize, usize),
    activation: Activation,
    /// Class numbers (u8, u32 or i64) or values in the dtype of the computation.
    truth: Tensor,
    hard: bool,
    ignore: Option<i64>,
    /// `(a, b)` of `y ↦ a y + b`, if labels are smoothed.
    smoothed: Option<(f64, f64)>,
    weights: Option<Tensor>,
}

impl Prepared {
    fn new(prediction: &Prediction, target: &Target) -> Result<Self> {
        target.check(prediction)?;
        let real = match prediction.values().dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let here = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.contiguous();
        let (truth, hard) = match &target.encoding {
            Encoding::Labels(labels) => {
                let labels = a_pixel(labels, prediction, "label map")?;
                let labels = match labels.dtype() {
                    DType::U8 | DType::U32 | DType::I64 => labels,
                    _ => labels.to_dtype(DType::I64)?,
                };
                (here(&labels)?, true)
            }
            Encoding::Dense(values) => (here(&values.to_dtype(real)?)?, false),
        };
        let weights = target.weights_of_pixels(prediction, real)?;
        let (a, b) = target.smoothed(prediction)?;
        Ok(Self {
            sizes: prediction.sizes()?,
            activation: prediction.activation(),
            truth,
            hard,
            ignore: target.ignore_label,
            smoothed: (target.smoothing != 0.0).then_some((a, b)),
            weights: weights.as_ref().map(here).transpose()?,
        })
    }

    /// Has `f` make a pass over `z`.
    fn pass<E: Element, T>(
        &self,
        z: &[E],
        terms: &Terms,
        f: impl FnOnce(&Pass<E>) -> Result<T>,
    ) -> Result<T> {
        let (items, channels, pixels) = self.sizes;
        let (truth, truth_layout) = self.truth.storage_and_layout();
        let truth = cpu(&truth)?;
        let weights = self.weights.as_ref().map(Tensor::storage_and_layout);
        let map = || -> Result<LabelMap<'_>> {
            Ok(LabelMap {
                labels: match truth.dtype() {
                    DType::U8 => Labels::U8(slice(truth, truth_layout)?),
                    DType::U32 => Labels::U32(slice(truth, truth_layout)?),
                    _ => Labels::I64(slice(truth, truth_layout)?),
                },
                ignore: self.ignore,
                classes: channels.max(2),
            })
        };
        let pass = Pass {
            items,
            channels,
            pixels,
            activation: self.activation,
            z,
            truth: match (self.hard, self.smoothed) {
                (true, None) => Truth::Hard(map()?),
                (true, Some((a, b))) => Truth::Smoothed(map()?, [a + b, b]),
                (false, smoothed) => {
                    let (a, b) = smoothed.unwrap_or((1.0, 0.0));
                    Truth::Dense(slice(truth, truth_layout)?, [a, b])
                }
            },
            weights: match &weights {
                Some((weights, layout)) => Some(slice(cpu(weights)?, layout)?),
                None => None,
            },
            terms,
        };
        f(&pass)
    }

    fn forward<E: Element>(&self, z: &[E], terms: &Terms) -> Result<Vec<f64>> {
        self.pass(z, terms, |pass| {
            match pass.forward(InstructionSet::get()?) {
                Some(sums) => Ok(sums),
                None => Err(self.stray(pass)),
            }
        })
    }

    fn backward<E: Element>(&self, z: &[E], terms: &Terms, upstream: &[f64]) -> Result<Vec<E>> {
        self.pass(z, terms, |pass| {
            Ok(pass.backward(InstructionSet::get()?, upstream))
        })
    }

    fn stray<E: Element>(&self, pass: &Pass<E>) -> candle_core::Error {
        match pass.truth {
            Truth::Hard(map) | Truth::Smoothed(map, _) => {
                let label = map.labels.stray(map.classes, map.ignore);
                stray_label(label.unwrap_or_default(), pass.channels, self.ignore)
            }
            Truth::Dense(y, _) => {
                let counts = |at: usize| {
                    let (item, pixel) =
                        (at / (pass.channels * pass.pixels), at % pass.pixels.max(1));
                    pass.weights.is_none_or(|weights| {
                        WithDType::to_f64(weights[item * pass.pixels + pixel]) > 0.0
                    })
                };
                let outside = y
                    .iter()
                    .enumerate()
                    .map(|(at, y)| (at, WithDType::to_f64(*y)))
                    .find(|(at, y)| (*y < -SLACK || *y > 1.0 + SLACK) && counts(*at));
                stray_truth(outside.map_or(f64::NAN, |(_, y)| y))
            }
        }
    }

    /// The sums `[ROWS, N, C]` of contiguous logits.
    fn sums(&self, storage: &CpuStorage, layout: &Layout, terms: &Terms) -> Result<Vec<f64>> {
        match storage.dtype() {
            DType::F64 => self.forward(slice::<f64>(storage, layout)?, terms),
            DType::F32 => self.forward(slice::<f32>(storage, layout)?, terms),
            DType::F16 => self.forward(slice::<f16>(storage, layout)?, terms),
            _ => self.forward(slice::<bf16>(storage, layout)?, terms),
        }
    }

    /// The gradient in contiguous logits.
    fn gradient(&self, values: &Tensor, terms: &Terms, upstream: &[f64]) -> Result<Tensor> {
        let (storage, layout) = values.storage_and_layout();
        let storage = cpu(&storage)?;
        macro_rules! gradient {
            ($dtype:ty) => {{
                let z = slice::<$dtype>(storage, layout)?;
                Tensor::from_vec(
                    self.backward(z, terms, upstream)?,
                    values.shape(),
                    &Device::Cpu,
                )
            }};
        }
        match values.dtype() {
            DType::F64 => gradient!(f64),
            DType::F32 => gradient!(f32),
            DType::F16 => gradient!(f16),
            _ => gradient!(bf16),
        }
    }
}

/// The storage of a tensor that was brought to the CPU.
fn cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("the kernels read tensors on the CPU"),
    }
}

/// The numbers of a contiguous tensor.
fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        // A view of no numbers may begin behind the last one that there is.
        Some((start, end)) => Ok(storage.as_slice::<T>()?.get(start..end).unwrap_or_default()),
        None => bail!(
            "the kernels read contiguous tensors, found strides {:?}",
            layout.stride()
        ),
    }
}

/// The sums as an operation on the logits.
struct FusedSums {
    truth: Arc<Prepared>,
    terms: Terms,
}

impl CustomOp1 for FusedSums {
    fn name(&self) -> &'static str {
        "dice-losses-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (items, channels, _) = self.truth.sizes;
        let sums = self.truth.sums(storage, layout, &self.terms)?;
        Ok((CpuStorage::F64(sums), (ROWS, items, channels).into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.flatten_all()?.to_vec1::<f64>()?;
        self.truth
            .gradient(logits, &self.terms, &upstream)
            .map(Some)
    }
}
