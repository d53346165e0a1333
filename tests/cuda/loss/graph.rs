//! Planned losses: in a graph, with other numbers at every replay.

use candle_core::{
    CudaDevice, Device, Tensor,
    cuda_backend::cudarc::driver::{CudaSlice, sys},
};
use dice_losses::{
    Activation, Loss, Prediction, RegionLoss, RegionStats, Target, WeightedSum,
    cuda::{Layout, Planned, Truth, TruthLayout, WeightLayout, Weights},
    zoo,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{near, to_f64};
use crate::device;

/// Numbers of a batch, on the host.
struct Batch {
    logits: Vec<f32>,
    labels: Vec<u8>,
    dense: Vec<f32>,
    mask: Vec<u8>,
    factors: Vec<f32>,
}

impl Batch {
    fn new(layout: &Layout, seed: u64) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pixels = layout.items * layout.pixels;
        let numbers = pixels * layout.channels;
        let classes = layout.channels.max(2);
        Self {
            logits: (0..numbers)
                .map(|_| rng.random::<f32>() * 8.0 - 4.0)
                .collect(),
            labels: (0..pixels)
                .map(|_| {
                    if rng.random_bool(0.1) {
                        255
                    } else {
                        rng.random_range(0..classes) as u8
                    }
                })
                .collect(),
            dense: (0..numbers).map(|_| rng.random()).collect(),
            mask: (0..pixels)
                .map(|_| u8::from(rng.random_bool(0.7)) * 3)
                .collect(),
            factors: (0..pixels).map(|_| rng.random()).collect(),
        }
    }

    /// Value and gradient on the CPU.
    fn exact(&self, loss: &dyn Loss, layout: &Layout) -> (Vec<f64>, Vec<f64>) {
        let (items, pixels) = (layout.items, layout.pixels);
        let shape = (items, layout.channels, pixels);
        let cpu = &Device::Cpu;
        let logits = Tensor::from_slice(&self.logits, shape, cpu).unwrap();
        let prediction = match layout.activation {
            Activation::Softmax => Prediction::logits(&logits),
            Activation::Sigmoid => Prediction::multi_label(&logits),
        };
        let target = match layout.truth {
            TruthLayout::Labels { ignore } => {
                let labels = Tensor::from_slice(&self.labels, (items, pixels), cpu).unwrap();
                Target::labels(&labels).ignore_label(i64::from(ignore.unwrap()))
            }
            TruthLayout::Dense => {
                Target::dense(&Tensor::from_slice(&self.dense, shape, cpu).unwrap())
            }
        };
        let target = match layout.weights {
            WeightLayout::None => target,
            WeightLayout::Mask => {
                target.mask(&Tensor::from_slice(&self.mask, (items, pixels), cpu).unwrap())
            }
            WeightLayout::Factors => target
                .pixel_weights(&Tensor::from_slice(&self.factors, (items, pixels), cpu).unwrap()),
        };
        let target = target.smoothing(layout.smoothing);
        let (value, gradient) = loss.value_and_grad(&prediction, &target).unwrap();
        (to_f64(&value), to_f64(&gradient))
    }
}

/// The same on the device, at addresses that stay.
struct There {
    logits: CudaSlice<f32>,
    labels: CudaSlice<u8>,
    dense: CudaSlice<f32>,
    mask: CudaSlice<u8>,
    factors: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    value: CudaSlice<f32>,
}

impl There {
    fn new(device: &CudaDevice, batch: &Batch, values: usize) -> Self {
        Self {
            logits: device.clone_htod(&batch.logits).unwrap(),
            labels: device.clone_htod(&batch.labels).unwrap(),
            dense: device.clone_htod(&batch.dense).unwrap(),
            mask: device.clone_htod(&batch.mask).unwrap(),
            factors: device.clone_htod(&batch.factors).unwrap(),
            gradient: device.alloc_zeros(batch.logits.len()).unwrap(),
            value: device.alloc_zeros(values).unwrap(),
        }
    }

    fn put(&mut self, device: &CudaDevice, batch: &Batch) {
        device.memcpy_htod(&batch.logits, &mut self.logits).unwrap();
        device.memcpy_htod(&batch.labels, &mut self.labels).unwrap();
        device.memcpy_htod(&batch.dense, &mut self.dense).unwrap();
        device.memcpy_htod(&batch.mask, &mut self.mask).unwrap();
        device
            .memcpy_htod(&batch.factors, &mut self.factors)
            .unwrap();
    }

    fn enqueue(&mut self, planned: &mut Planned, layout: &Layout, gradient: bool) {
        let truth = match layout.truth {
            TruthLayout::Labels { .. } => Truth::Labels(self.labels.as_view()),
            TruthLayout::Dense => Truth::Dense(self.dense.as_view()),
        };
        let weights = match layout.weights {
            WeightLayout::None => None,
            WeightLayout::Mask => Some(Weights::Mask(self.mask.as_view())),
            WeightLayout::Factors => Some(Weights::Factors(self.factors.as_view())),
        };
        let (logits, value) = (self.logits.as_view(), &mut self.value.as_view_mut());
        if gradient {
            let gradient = &mut self.gradient.as_view_mut();
            planned
                .enqueue(&logits, &truth, weights.as_ref(), gradient, value)
                .unwrap();
        } else {
            planned
                .enqueue_value(&logits, &truth, weights.as_ref(), value)
                .unwrap();
        }
    }

    fn check(&self, device: &CudaDevice, exact: &(Vec<f64>, Vec<f64>), what: &str) {
        let read = |slice: &CudaSlice<f32>| -> Vec<f64> {
            let numbers = device.clone_dtoh(slice).unwrap();
            numbers.into_iter().map(f64::from).collect()
        };
        near(&read(&self.value), &exact.0, 1e-5, 0.0, what);
        near(&read(&self.gradient), &exact.1, 1e-5, 0.0, what);
    }
}

/// Captures a planned loss and replays it with other numbers.
fn replayed(loss: &dyn Loss, layout: &Layout) {
    let (_, device) = device::open();
    // SAFETY: there is one stream.
    #[allow(unsafe_code)]
    unsafe {
        device.disable_event_tracking();
    }
    let stream = device.cuda_stream();
    let mut planned = Planned::new(loss, &device, layout).unwrap().unwrap();
    let first = Batch::new(layout, 1);
    let mut there = There::new(&device, &first, planned.values());
    there.enqueue(&mut planned, layout, true);
    let what = format!("{layout:?}");
    there.check(&device, &first.exact(loss, layout), &what);
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    there.enqueue(&mut planned, layout, true);
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .unwrap()
        .unwrap();
    for seed in 2..4 {
        let batch = Batch::new(layout, seed);
        there.put(&device, &batch);
        graph.launch().unwrap();
        there.check(&device, &batch.exact(loss, layout), &what);
    }
    let batch = Batch::new(layout, 9);
    there.put(&device, &batch);
    let before = device.clone_dtoh(&there.gradient).unwrap();
    there.enqueue(&mut planned, layout, false);
    let value: Vec<f64> = device
        .clone_dtoh(&there.value)
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect();
    near(
        &value,
        &batch.exact(loss, layout).0,
        1e-5,
        0.0,
        "the value alone",
    );
    assert_eq!(device.clone_dtoh(&there.gradient).unwrap(), before);
}

fn layout(channels: usize, pixels: usize) -> Layout {
    Layout {
        items: 2,
        channels,
        pixels,
        activation: if channels == 1 {
            Activation::Sigmoid
        } else {
            Activation::Softmax
        },
        truth: TruthLayout::Labels { ignore: Some(255) },
        weights: WeightLayout::None,
        smoothing: 0.0,
    }
}

#[test]
fn a_captured_loss_follows_its_numbers() {
    let unified = zoo::unified_focal(0.5, 0.6, 0.1, |region| region.plus_plus(2.0));
    for channels in [1, 2, 4, 10] {
        for pixels in [16, 19] {
            replayed(&unified, &layout(channels, pixels));
        }
    }
    let mut dense = layout(3, 16);
    dense.truth = TruthLayout::Dense;
    dense.weights = WeightLayout::Factors;
    replayed(&zoo::dice().plus_plus(2.0), &dense);
    let mut masked = layout(2, 16);
    masked.weights = WeightLayout::Mask;
    masked.smoothing = 0.2;
    replayed(&unified, &masked);
    let sum = WeightedSum::new(1.0)
        .plus(1.0, zoo::dice().plus_plus(2.0))
        .plus(0.5, zoo::jaccard().plus_plus(3.0));
    replayed(&sum, &layout(3, 16));
    let items = zoo::dice().reduction(dice_losses::Reduction::None);
    replayed(&items, &layout(3, 16));
}

/// An index that no kernel knows.
fn share(s: &RegionStats) -> candle_core::Result<Tensor> {
    &s.tp / (&s.volume + 1.0)?
}

#[test]
fn what_was_not_planned_for_is_refused() {
    let (_, device) = device::open();
    let loss = zoo::dice();
    let mut planned = Planned::new(&loss, &device, &layout(2, 16))
        .unwrap()
        .unwrap();
    let batch = Batch::new(&layout(2, 16), 1);
    let there = There::new(&device, &batch, 1);
    let mut value = device.alloc_zeros::<f32>(1).unwrap();
    let mut refused = |logits, truth: &Truth, weights: Option<&Weights>, start: &str| {
        let error = planned.enqueue_value(&logits, truth, weights, &mut value.as_view_mut());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    };
    let labels = Truth::Labels(there.labels.as_view());
    refused(
        there.logits.slice(4..),
        &labels,
        None,
        "the logits of the planned loss must have 64 numbers, found 60",
    );
    refused(
        there.logits.as_view(),
        &Truth::Dense(there.dense.as_view()),
        None,
        "the loss was planned for Labels",
    );
    let mask = Weights::Mask(there.mask.as_view());
    refused(
        there.logits.as_view(),
        &labels,
        Some(&mask),
        "the loss was planned for weights None",
    );
    let long = device.alloc_zeros::<f32>(65).unwrap();
    refused(
        long.slice(1..),
        &labels,
        None,
        "slices must begin at a multiple of 16 bytes",
    );

    let own = RegionLoss::new(share);
    assert!(
        Planned::new(&own, &device, &layout(2, 16))
            .unwrap()
            .is_none()
    );
    let mut none = layout(2, 16);
    none.items = 0;
    assert!(Planned::new(&loss, &device, &none).is_err());
    let error = Planned::new(&zoo::focal(-1.0), &device, &layout(2, 16))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("a focal exponent is a number, 0 or more"),
        "{error}"
    );
}
