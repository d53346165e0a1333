//! The losses on a CUDA device against those on the CPU.

mod counts;
mod graph;

use candle_core::{DType, Device, Result, Tensor, Var};
use dice_losses::{
    Classes, EmptyRegion, FocalCrossEntropy, GeneralisedDice, Loss, LossSpec, Modulation, Outer,
    PerClass, PixelTerm, Prediction, Reduction, Region, RegionLoss, RegionStats, Request, Sums,
    Target, Tversky, WeightedSum, Weighting, zoo,
};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::device;

/// The device of this test's thread; a stream of its own each.
fn gpu() -> Device {
    device::open().0
}

fn to_f64(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_device(&Device::Cpu).unwrap().flatten_all();
    let flat = flat.unwrap().to_dtype(DType::F64).unwrap();
    flat.to_vec1::<f64>().unwrap()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Asserts that two lists agree, relative to the length of the second; NaN is nothing.
#[track_caller]
fn near(ours: &[f64], theirs: &[f64], tolerance: f64, least: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let difference: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let room = tolerance * norm(theirs) + least;
    assert!(
        norm(&difference) <= room,
        "{what}: off by {:e} of {:e}; {:?} and {:?}",
        norm(&difference),
        norm(theirs),
        &ours[..ours.len().min(8)],
        &theirs[..theirs.len().min(8)]
    );
}

/// A scene on the CPU, made of one seed.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // coins that are tossed apart
struct Scene {
    shape: Vec<usize>,
    dtype: DType,
    multi_label: bool,
    labels: Option<DType>,
    ignore: bool,
    weights: bool,
    mask: bool,
    samples: bool,
    smoothing: f64,
    scale: f64,
    seed: u64,
}

impl Scene {
    fn new(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            dtype: DType::F32,
            multi_label: false,
            labels: Some(DType::U8),
            ignore: false,
            weights: false,
            mask: false,
            samples: false,
            smoothing: 0.0,
            scale: 2.0,
            seed: 7,
        }
    }

    /// Logits and, on the device given, the target.
    fn tensors(&self, device: &Device) -> (Tensor, Target) {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        let (items, channels) = (self.shape[0], self.shape[1]);
        let count: usize = self.shape.iter().product();
        let a_pixel = [&self.shape[..1], &self.shape[2..]].concat();
        let pixels = count / channels;
        let from = |x: Vec<f32>, shape: &[usize]| Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
        let logits: Vec<f32> = (0..count)
            .map(|_| self.scale as f32 * 2.4 * (rng.random::<f32>() + rng.random::<f32>() - 1.0))
            .collect();
        let logits = from(logits, &self.shape).to_dtype(self.dtype).unwrap();
        let target = if let Some(dtype) = self.labels {
            let labels: Vec<i64> = (0..pixels)
                .map(|_| {
                    if rng.random_bool(0.1) && self.ignore {
                        255
                    } else {
                        rng.random_range(0..channels.max(2) as i64)
                    }
                })
                .collect();
            let labels = Tensor::from_vec(labels, a_pixel.as_slice(), &Device::Cpu).unwrap();
            let labels = labels.to_dtype(dtype).unwrap().to_device(device).unwrap();
            let target = Target::labels(&labels);
            if self.ignore {
                target.ignore_label(255)
            } else {
                target
            }
        } else {
            let values = (0..count).map(|_| match rng.random_range(0..3) {
                0 => 0.0,
                1 => 1.0,
                _ => rng.random(),
            });
            Target::dense(
                &from(values.collect(), &self.shape)
                    .to_device(device)
                    .unwrap(),
            )
        };
        let target = if self.weights {
            let weights = (0..pixels).map(|_| f32::max(0.0, rng.random::<f32>() * 3.0 - 0.5));
            target.pixel_weights(&from(weights.collect(), &a_pixel).to_device(device).unwrap())
        } else {
            target
        };
        let target = if self.mask {
            let mask: Vec<u8> = (0..pixels)
                .map(|_| u8::from(rng.random_bool(0.7)))
                .collect();
            let mask = Tensor::from_vec(mask, a_pixel.as_slice(), &Device::Cpu).unwrap();
            target.mask(&mask.to_device(device).unwrap())
        } else {
            target
        };
        let target = if self.samples {
            let weights = (0..items).map(|_| rng.random::<f32>() * 2.0).collect();
            target.sample_weights(&from(weights, &[items]).to_device(device).unwrap())
        } else {
            target
        };
        (
            logits.to_device(device).unwrap(),
            target.smoothing(self.smoothing),
        )
    }

    fn prediction(&self, logits: &Tensor) -> Prediction {
        if self.multi_label {
            Prediction::multi_label(logits)
        } else {
            Prediction::logits(logits)
        }
    }

    /// Value and gradient on a device.
    fn on(&self, device: &Device, loss: &dyn Loss) -> (Vec<f64>, Vec<f64>) {
        let (logits, target) = self.tensors(device);
        let (value, gradient) = loss
            .value_and_grad(&self.prediction(&logits), &target)
            .unwrap();
        assert!(value.device().same_device(device) && gradient.device().same_device(device));
        assert_eq!(gradient.dtype(), self.dtype);
        assert_eq!(gradient.dims(), self.shape);
        (to_f64(&value), to_f64(&gradient))
    }

    /// Compares the GPU with the CPU.
    #[track_caller]
    fn check(&self, gpu: &Device, loss: &dyn Loss, what: &str) {
        let (ours, theirs) = (self.on(gpu, loss), self.on(&Device::Cpu, loss));
        let what = format!("{what}, {self:?}");
        let count = theirs.1.len() as f64;
        let (of_gradient, least) = match self.dtype {
            DType::F32 => (1e-5, 2e-8 / count.sqrt()),
            // Of f16 the smallest number is near 6e-8.
            DType::F16 => (1e-2, 6e-8 * count.sqrt()),
            _ => (1e-2, 2e-8 / count.sqrt()),
        };
        near(&ours.0, &theirs.0, 1e-5, 1e-9, &format!("value of {what}"));
        near(
            &ours.1,
            &theirs.1,
            of_gradient,
            least,
            &format!("gradient of {what}"),
        );
    }
}

fn spec(text: &str) -> Box<dyn Loss> {
    text.parse::<LossSpec>().unwrap().build()
}

#[test]
fn the_whole_zoo() {
    let gpu = gpu();
    for shape in [vec![2, 3, 8, 12], vec![2, 1, 9, 7]] {
        let mut scene = Scene::new(&shape);
        scene.ignore = true;
        for row in zoo::ZOO {
            scene.check(
                &gpu,
                (row.build)(&row.name.parse().unwrap()).as_ref(),
                row.name,
            );
            let gammas: &[f64] = match (shape[1], row.name) {
                (3, "dice") => &[0.5, 1.5, 2.0, 3.0, 1.7],
                (3, _) => &[2.0, 1.7],
                _ => &[2.0],
            };
            for gamma in gammas.iter().filter(|_| row.plus_plus()) {
                let name = format!("{}++:gamma={gamma}", row.name);
                scene.check(&gpu, spec(&name).as_ref(), &name);
            }
        }
    }
}

#[test]
fn every_number_of_classes_in_every_rank() {
    let gpu = gpu();
    let loss = spec("dice+ce++:gamma=2");
    for channels in [1, 2, 3, 4, 7, 19, 40] {
        for space in [vec![21], vec![], vec![8, 16], vec![3, 5, 7]] {
            let shape = [vec![2, channels], space].concat();
            Scene::new(&shape).check(&gpu, loss.as_ref(), "dice+ce++");
        }
    }
}

#[test]
fn every_way_to_say_what_is_true() {
    let gpu = gpu();
    let loss = spec("unified-focal++:gamma=0.75");
    for channels in [1, 2, 4, 11] {
        let dtypes = match channels {
            4 => vec![Some(DType::U8), Some(DType::U32), Some(DType::I64), None],
            11 => vec![Some(DType::I64), None],
            _ => vec![Some(DType::U8), None],
        };
        for labels in dtypes {
            let mut scene = Scene::new(&[2, channels, 5, 8]);
            scene.labels = labels;
            scene.check(&gpu, loss.as_ref(), "plain");
            scene.ignore = labels.is_some();
            scene.mask = true;
            scene.samples = true;
            scene.check(&gpu, loss.as_ref(), "masked");
            scene.weights = true;
            scene.smoothing = 0.1;
            scene.check(&gpu, loss.as_ref(), "weighted and smoothed");
        }
        let mut scene = Scene::new(&[2, channels, 5, 7]);
        scene.labels = None;
        for name in ["squared-dice", "dice++:gamma=2", "cross-entropy"] {
            scene.check(&gpu, spec(name).as_ref(), name);
        }
    }
    let mut scene = Scene::new(&[2, 3, 6, 6]);
    scene.multi_label = true;
    for labels in [Some(DType::U8), None] {
        scene.labels = labels;
        scene.check(&gpu, loss.as_ref(), "labels that hold together");
    }
}

#[test]
fn half_precision() {
    let gpu = gpu();
    for dtype in [DType::F16, DType::BF16] {
        for channels in [1, 3, 12] {
            for pixels in if channels == 3 {
                vec![16, 21]
            } else {
                vec![16]
            } {
                let mut scene = Scene::new(&[2, channels, pixels]);
                scene.dtype = dtype;
                scene.ignore = true;
                scene.check(&gpu, spec("dice+ce++:gamma=2").as_ref(), "dice+ce++");
                scene.scale = 20.0;
                scene.check(&gpu, spec("dice+ce++:gamma=2").as_ref(), "sure of itself");
            }
        }
    }
}

#[test]
fn every_choice_of_a_region_loss() {
    let gpu = gpu();
    let mut scene = Scene::new(&[3, 4, 32]);
    // Some classes are absent of some items.
    scene.scale = 1.0;
    let base = || zoo::tversky(0.3, 0.6).plus_plus(2.0);
    let generalised = |weighting| {
        RegionLoss::new(GeneralisedDice {
            weighting,
            smooth: 1e-7,
        })
        .plus_plus(2.0)
    };
    for empty in [
        EmptyRegion::Penalty,
        EmptyRegion::Skip,
        EmptyRegion::Zero,
        EmptyRegion::One,
        EmptyRegion::Ratio,
    ] {
        for region in [Region::Item, Region::Batch] {
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                for classes in [
                    Classes::All,
                    Classes::Foreground,
                    Classes::Listed(vec![3, 1]),
                ] {
                    let what = format!("{empty:?} {region:?} {reduction:?} {classes:?}");
                    let loss = base()
                        .empty(empty)
                        .region(region)
                        .reduction(reduction)
                        .classes(classes.clone())
                        .class_weights([0.5, 1.0, 2.0, 3.0])
                        .class_reduction(if reduction == Reduction::Sum {
                            dice_losses::ClassReduction::Sum
                        } else {
                            dice_losses::ClassReduction::Mean
                        });
                    absent(&scene, &gpu, &loss, &what);
                    let loss = generalised(Weighting::Square)
                        .empty(empty)
                        .region(region)
                        .reduction(reduction)
                        .classes(classes);
                    absent(&scene, &gpu, &loss, &format!("generalised {what}"));
                }
            }
        }
    }
    for weighting in [Weighting::Simple, Weighting::Uniform] {
        absent(&scene, &gpu, &generalised(weighting), "weighting");
    }
    for outer in [
        Outer::from(0.75),
        Outer::from([0.5, 1.0, 2.0, 3.0]),
        Outer::IndexPower(0.5),
        Outer::IndexPower(3.0),
        Outer::MinusLog(1.0),
        Outer::MinusLog(0.3),
        Outer::LogCosh,
    ] {
        absent(
            &scene,
            &gpu,
            &base().outer(outer.clone()),
            &format!("{outer:?}"),
        );
    }
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        for multi_label in [false, true] {
            scene.multi_label = multi_label;
            scene.samples = true;
            let loss = FocalCrossEntropy::new(
                [0.5, 1.0, 2.0, 3.0],
                PerClass::Split {
                    background: 0.0,
                    foreground: 2.0,
                },
            )
            .log_power(0.5)
            .reduction(reduction);
            scene.check(&gpu, &loss, &format!("{reduction:?}"));
        }
    }
}

/// The same with a target in which items lack classes, and one item has none of the foreground's.
#[track_caller]
fn absent(scene: &Scene, gpu: &Device, loss: &dyn Loss, what: &str) {
    let labels: Vec<u8> = (0..3 * 32)
        .map(|at| match at / 32 {
            0 => 0,
            1 => [1, 3][at % 2],
            _ => [0, 1, 2][at % 3],
        })
        .collect();
    let labels = Tensor::from_vec(labels, (3, 32), &Device::Cpu).unwrap();
    let of = |device: &Device| {
        let (logits, _) = scene.tensors(device);
        let target = Target::labels(&labels.to_device(device).unwrap());
        let (value, gradient) = loss.value_and_grad(&(&logits).into(), &target).unwrap();
        (value.dims().to_vec(), to_f64(&value), to_f64(&gradient))
    };
    let (ours, theirs) = (of(gpu), of(&Device::Cpu));
    assert_eq!(ours.0, theirs.0, "{what}");
    near(&ours.1, &theirs.1, 1e-5, 1e-9, &format!("value of {what}"));
    near(
        &ours.2,
        &theirs.2,
        1e-5,
        1e-9,
        &format!("gradient of {what}"),
    );
}

#[test]
fn several_exponents_are_several_passes() {
    let gpu = gpu();
    let loss = WeightedSum::new(0.25)
        .plus(0.5, zoo::dice().plus_plus(2.0))
        .plus(2.0, zoo::tversky(0.2, 0.8).plus_plus(3.0).outer(0.5))
        .plus(1.0, zoo::focal(2.0))
        .plus(0.3, WeightedSum::new(1.0).plus(1.0, zoo::jaccard()));
    for shape in [[2, 3, 24], [2, 2, 17]] {
        Scene::new(&shape).check(&gpu, &loss, "a sum");
    }
}

#[test]
fn a_loss_of_ones_own_runs_on_the_same_sums() {
    fn kulczynski(s: &RegionStats) -> Result<Tensor> {
        let tp = (&s.tp + 1e-7)?;
        let precision = (&tp / (&tp + &s.fp)?)?;
        let recall = (&tp / (&tp + &s.fn_)?)?;
        (precision + recall)? * 0.5
    }
    struct PerHit;
    impl Loss for PerHit {
        fn request(&self, request: &mut Request) -> Result<()> {
            request.region(Modulation::Plain)?;
            request.region(Modulation::Power(2.0))?;
            request.pixel(term(request.channels()))
        }
        fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
            let hits = sums.region(Modulation::Plain)?.tp.sum_all()?;
            let misses = sums.region(Modulation::Power(2.0))?.fn_.sum_all()?;
            (sums.pixel(&term(sums.channels()))?.of_class.sum_all()? + misses)? / hits
        }
    }
    fn term(channels: usize) -> PixelTerm {
        PixelTerm {
            focus: vec![0.0; channels],
            other_focus: vec![0.0; channels],
            log_power: 1.0,
        }
    }
    let gpu = gpu();
    let scene = Scene::new(&[2, 3, 20]);
    scene.check(
        &gpu,
        &RegionLoss::new(kulczynski).plus_plus(2.0),
        "a closure",
    );
    scene.check(&gpu, &PerHit, "operations");
    let (logits, target) = scene.tensors(&gpu);
    let (host, host_target) = scene.tensors(&Device::Cpu);
    for modulation in [Modulation::Plain, Modulation::SquaredDifference] {
        let of = |logits: &Tensor, target: &Target| {
            let s = RegionStats::new(&logits.into(), target, modulation, Region::Item).unwrap();
            [s.tp, s.fp, s.fn_, s.volume, s.predicted, s.pixels]
                .map(|x| to_f64(&x))
                .concat()
        };
        near(
            &of(&logits, &target),
            &of(&host, &host_target),
            1e-6,
            0.0,
            "sums",
        );
    }
}

#[test]
fn what_autograd_finds_is_the_gradient() {
    let gpu = gpu();
    for name in ["unified-focal++:gamma=2", "dice", "cross-entropy"] {
        let scene = Scene::new(&[2, 3, 4, 8]);
        let (logits, target) = scene.tensors(&gpu);
        let var = Var::from_tensor(&logits).unwrap();
        let loss = spec(name);
        let value = loss.loss(&Prediction::logits(&var), &target).unwrap();
        assert_eq!(value.dtype(), DType::F32);
        // Whatever is made of the loss scales the gradient.
        let gradients = (value.clone() * 3.0).unwrap().backward().unwrap();
        let found = to_f64(gradients.get(&var).unwrap());
        let (exact, gradient) = loss.value_and_grad(&(&logits).into(), &target).unwrap();
        assert_eq!(to_f64(&value), to_f64(&exact));
        let tripled: Vec<f64> = to_f64(&gradient).iter().map(|g| 3.0 * g).collect();
        near(&found, &tripled, 1e-6, 0.0, name);
    }
    // One loss an item, each with a slope of its own.
    let scene = Scene::new(&[3, 2, 10]);
    let loss = zoo::dice().plus_plus(2.0).reduction(Reduction::None);
    let of = |device: &Device| {
        let (logits, target) = scene.tensors(device);
        let var = Var::from_tensor(&logits).unwrap();
        let value = loss.loss(&Prediction::logits(&var), &target).unwrap();
        let slopes = Tensor::new(&[1f32, -2.0, 0.5], device).unwrap();
        let gradients = (value * slopes).unwrap().sum_all().unwrap().backward();
        to_f64(gradients.unwrap().get(&var).unwrap())
    };
    near(&of(&gpu), &of(&Device::Cpu), 1e-5, 0.0, "an item each");
}

#[test]
fn views_and_odd_sizes() {
    let gpu = gpu();
    let scene = Scene::new(&[5, 3, 16]);
    let loss = spec("dice+ce++:gamma=2");
    for (start, len) in [(1, 2), (0, 5), (4, 1)] {
        for (from, pixels) in [(0, 16), (1, 12), (3, 7)] {
            let of = |device: &Device| {
                let (logits, _) = scene.tensors(device);
                let labels: Vec<u8> = (0..80).map(|at| (at * 7 % 3) as u8).collect();
                let labels = Tensor::from_vec(labels, (5, 16), device).unwrap();
                let logits = logits
                    .narrow(0, start, len)
                    .unwrap()
                    .narrow(2, from, pixels)
                    .unwrap();
                let labels = labels
                    .narrow(0, start, len)
                    .unwrap()
                    .narrow(1, from, pixels)
                    .unwrap();
                let (value, gradient) = loss
                    .value_and_grad(&(&logits).into(), &(&labels).into())
                    .unwrap();
                (to_f64(&value), to_f64(&gradient))
            };
            let (ours, theirs) = (of(&gpu), of(&Device::Cpu));
            near(&ours.0, &theirs.0, 1e-5, 0.0, "value of a view");
            near(&ours.1, &theirs.1, 1e-5, 0.0, "gradient of a view");
        }
    }
    // One item of a tensor whose items are an odd number of numbers long begins anywhere.
    for item in 0..3 {
        let of = |device: &Device| {
            let (logits, _) = Scene::new(&[3, 1, 7]).tensors(device);
            let labels = Tensor::from_vec(vec![0u8, 1, 1, 0, 1, 0, 1], (1, 7), device).unwrap();
            let logits = logits.narrow(0, item, 1).unwrap();
            let (value, gradient) = loss
                .value_and_grad(&(&logits).into(), &(&labels).into())
                .unwrap();
            (to_f64(&value), to_f64(&gradient))
        };
        let (ours, theirs) = (of(&gpu), of(&Device::Cpu));
        near(&ours.0, &theirs.0, 1e-5, 0.0, "value of an item");
        near(&ours.1, &theirs.1, 1e-5, 0.0, "gradient of an item");
    }
}

#[test]
fn many_blocks_and_the_same_bits_every_time() {
    let gpu = gpu();
    // More parts than a lane of the last block adds up alone, with a short one at the end; some of more pixels than a
    // thread sums in f32 would need a grid of its own.
    for (shape, name) in [
        (vec![1, 2, 61, 403], "dice++:gamma=2"),
        (vec![2, 4, 148, 100], "dice++:gamma=2"),
        (vec![1, 9, 150, 151], "dice+ce++:gamma=2"),
        (vec![3, 1, 90, 111], "dice+ce++:gamma=2"),
    ] {
        let scene = Scene::new(&shape);
        let loss = spec(name);
        scene.check(&gpu, loss.as_ref(), name);
        let (once, again) = (scene.on(&gpu, loss.as_ref()), scene.on(&gpu, loss.as_ref()));
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&once.0), bits(&again.0));
        assert_eq!(bits(&once.1), bits(&again.1));
    }
}

#[test]
fn the_ends_of_the_range() {
    let gpu = gpu();
    let losses = [
        "dice++:gamma=0.5",
        "unified-focal++:gamma=3",
        "focal-tversky",
        "exponential-log",
    ];
    for channels in [1, 2, 3, 10] {
        for size in [50f32, 120.0, 60_000.0] {
            // Right, wrong and undecided, each as sure as may be.
            let logits: Vec<f32> = (0..2 * channels * 12)
                .map(|at| [size, -size, 0.0, 0.3][(at * 5 + at / 12) % 4])
                .collect();
            let labels: Vec<u8> = (0..24).map(|at| (at % channels.max(2)) as u8).collect();
            for name in losses {
                let of = |device: &Device| {
                    let logits = Tensor::from_slice(&logits, (2, channels, 12), device).unwrap();
                    let labels = Tensor::from_slice(&labels, (2, 12), device).unwrap();
                    let (value, gradient) = spec(name)
                        .value_and_grad(&(&logits).into(), &(&labels).into())
                        .unwrap();
                    (to_f64(&value), to_f64(&gradient))
                };
                let (ours, theirs) = (of(&gpu), of(&Device::Cpu));
                let what = format!("{name} of ±{size}, {channels} channels");
                near(&ours.0, &theirs.0, 1e-5, 1e-9, &format!("value of {what}"));
                near(
                    &ours.1,
                    &theirs.1,
                    1e-5,
                    1e-9,
                    &format!("gradient of {what}"),
                );
            }
        }
    }
}

/// A gradient that is small everywhere keeps its digits: pixels that are right for certain, and one that is not.
#[test]
fn a_sure_network_has_a_gradient_with_all_its_digits() {
    let gpu = gpu();
    for channels in [1usize, 2, 3, 9] {
        let of = |device: &Device| {
            let logits: Vec<f32> = (0..channels * 8)
                .map(|at| {
                    let (class, pixel) = (at / 8, at % 8);
                    let own = if channels == 1 {
                        pixel % 2 == 1
                    } else {
                        pixel % channels == class
                    };
                    if own {
                        9.0 + pixel as f32
                    } else {
                        -9.0 - pixel as f32 / 2.0
                    }
                })
                .collect();
            let labels: Vec<u8> = (0..8).map(|at| (at % channels.max(2)) as u8).collect();
            let logits = Tensor::from_vec(logits, (1, channels, 8), device).unwrap();
            let labels = Tensor::from_vec(labels, (1, 8), device).unwrap();
            let (value, gradient) = spec("dice+ce++:gamma=2")
                .value_and_grad(&(&logits).into(), &(&labels).into())
                .unwrap();
            (to_f64(&value), to_f64(&gradient))
        };
        let (ours, theirs) = (of(&gpu), of(&Device::Cpu));
        near(&ours.0, &theirs.0, 1e-5, 0.0, "value");
        for (a, b) in ours.1.iter().zip(&theirs.1) {
            assert!(
                (a - b).abs() <= 2e-5 * b.abs(),
                "{channels} channels: {a:e} and {b:e}"
            );
        }
    }
}

#[test]
fn pixels_that_do_not_count_do_not_matter() {
    let gpu = gpu();
    for channels in [1, 2, 4, 9] {
        for pixels in [12, 13] {
            let labels: Vec<u8> = (0..2 * pixels)
                .map(|at| {
                    if at % 5 == 0 {
                        255
                    } else {
                        (at % channels.max(2)) as u8
                    }
                })
                .collect();
            let of = |poison: f32| {
                let logits: Vec<f32> = (0..2 * channels * pixels)
                    .map(|at| {
                        let (item, pixel) = (at / (channels * pixels), at % pixels);
                        if (item * pixels + pixel) % 5 == 0 {
                            poison
                        } else {
                            (at as f32).sin()
                        }
                    })
                    .collect();
                let logits = Tensor::from_vec(logits, (2, channels, pixels), &gpu).unwrap();
                let labels = Tensor::from_slice(&labels, (2, pixels), &gpu).unwrap();
                let (value, gradient) = spec("dice+ce++:gamma=2")
                    .value_and_grad(
                        &(&logits).into(),
                        &Target::labels(&labels).ignore_label(255),
                    )
                    .unwrap();
                (to_f64(&value), to_f64(&gradient))
            };
            let plain = of(0.0);
            assert!(plain.0[0].is_finite());
            for poison in [f32::NAN, f32::INFINITY, -1e30] {
                assert_eq!(of(poison), plain, "{poison} under {channels} channels");
            }
        }
    }
    // None counts at all.
    for name in [
        "dice",
        "cross-entropy",
        "unified-focal++:gamma=2",
        "generalised-dice",
    ] {
        let logits = Tensor::new(&[[[1f32, 2.0], [3.0, f32::NAN]]], &gpu).unwrap();
        let labels = Tensor::new(&[[255u8, 255]], &gpu).unwrap();
        let (value, gradient) = spec(name)
            .value_and_grad(
                &(&logits).into(),
                &Target::labels(&labels).ignore_label(255),
            )
            .unwrap();
        assert!(to_f64(&value)[0].is_finite(), "{name}");
        assert_eq!(to_f64(&gradient), [0.0; 4], "{name}");
    }
}

#[test]
fn no_pixels() {
    let gpu = gpu();
    for channels in [1, 3, 20] {
        let mut scene = Scene::new(&[2, channels, 0, 4]);
        for labels in [Some(DType::U8), None] {
            scene.labels = labels;
            scene.check(&gpu, spec("unified-focal++:gamma=2").as_ref(), "no pixels");
        }
    }
}

/// Reading back would have the device waited for, so what the CPU reports is NaN here.
#[test]
fn what_is_no_truth_makes_the_loss_nan() {
    let gpu = gpu();
    for channels in [1usize, 2, 3, 9] {
        // Nine do not fill whole loads. (Each combination is compiled, which takes its time without a GPU.)
        for pixels in if channels == 2 {
            vec![8usize, 9]
        } else {
            vec![8]
        } {
            let logits = Tensor::zeros((2, channels, pixels), DType::F32, &gpu).unwrap();
            let value = |target: &Target| {
                let loss = spec("dice+ce++:gamma=2");
                let (value, gradient) = loss.value_and_grad(&(&logits).into(), target).unwrap();
                let (value, gradient) = (to_f64(&value)[0], to_f64(&gradient));
                assert_eq!(value.is_nan(), gradient.iter().any(|g| g.is_nan()));
                value
            };
            let zeros = Tensor::zeros((2, pixels), DType::I64, &gpu).unwrap();
            assert!(value(&Target::labels(&zeros)).is_finite());
            for stray in [channels.max(2) as i64, -1, 255, 1 << 32] {
                for dtype in [DType::U8, DType::U32, DType::I64] {
                    let fits = (0..256).contains(&stray) && channels == 3;
                    if dtype != DType::I64 && !fits {
                        continue;
                    }
                    let mut labels = vec![0i64; 2 * pixels];
                    labels[2 * pixels - 1] = stray;
                    let labels = Tensor::from_vec(labels, (2, pixels), &Device::Cpu).unwrap();
                    let labels = labels.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
                    assert!(
                        value(&Target::labels(&labels)).is_nan(),
                        "{stray} as {dtype:?}"
                    );
                    assert!(value(&Target::labels(&labels).ignore_label(stray)).is_finite());
                }
            }
            for outside in [-0.5f32, 1.5, 255.0] {
                let mut y = vec![0f32; 2 * channels * pixels];
                y[pixels] = outside;
                let y = Tensor::from_vec(y, (2, channels, pixels), &gpu).unwrap();
                assert!(value(&Target::dense(&y)).is_nan(), "a truth of {outside}");
                assert!(value(&Target::dense(&y).smoothing(0.5)).is_nan());
            }
            for weight in [-1f32, f32::NAN, f32::INFINITY] {
                let mut weights = vec![1f32; 2 * pixels];
                weights[3] = weight;
                let weights = Tensor::from_vec(weights, (2, pixels), &gpu).unwrap();
                assert!(value(&Target::labels(&zeros).pixel_weights(&weights)).is_nan());
            }
        }
    }
}

#[test]
fn a_nan_that_counts_is_a_nan_in_the_loss() {
    let gpu = gpu();
    for channels in [1usize, 2, 3, 5, 9] {
        for at in [0, 5, 11] {
            let mut logits = vec![0.3f32; channels * 12];
            logits[at] = f32::NAN;
            let logits = Tensor::from_vec(logits, (1, channels, 12), &gpu).unwrap();
            let labels = Tensor::ones((1, 12), DType::U8, &gpu).unwrap();
            for name in ["dice", "cross-entropy", "unified-focal++:gamma=0.75"] {
                let value = spec(name)
                    .loss(&(&logits).into(), &(&labels).into())
                    .unwrap();
                assert!(
                    to_f64(&value)[0].is_nan(),
                    "{name}, {channels} channels, {at}"
                );
            }
        }
    }
}

#[test]
fn what_has_no_kernels_goes_the_composed_way() {
    let gpu = gpu();
    let mut scene = Scene::new(&[2, 3, 10]);
    scene.dtype = DType::F64;
    let loss = zoo::dice().plus_plus(2.0);
    let of = |device: &Device| {
        let (logits, target) = scene.tensors(device);
        let (value, gradient) = loss.value_and_grad(&(&logits).into(), &target).unwrap();
        (to_f64(&value), to_f64(&gradient))
    };
    let (ours, theirs) = (of(&gpu), of(&Device::Cpu));
    near(&ours.0, &theirs.0, 1e-12, 0.0, "f64");
    near(&ours.1, &theirs.1, 1e-12, 0.0, "f64");
}

#[test]
fn choices_that_do_not_fit_are_told_as_on_the_cpu() {
    let gpu = gpu();
    let mut scene = Scene::new(&[2, 3, 10]);
    scene.samples = true;
    let losses: Vec<Box<dyn Loss>> = vec![
        Box::new(zoo::dice().classes(Classes::Listed(vec![1, 3]))),
        Box::new(zoo::dice().class_weights([1.0, 2.0])),
        Box::new(zoo::dice().outer(0.0)),
        Box::new(zoo::dice().outer(Outer::MinusLog(-1.0))),
        Box::new(zoo::focal(-1.0)),
        Box::new(zoo::dice().region(Region::Batch)),
        Box::new(RegionLoss::new(Tversky::DICE).plus_plus(-1.0)),
        Box::new(zoo::generalised_dice(Weighting::Square).class_weights([1.0, 2.0, 3.0])),
    ];
    for loss in losses {
        let error = |device: &Device| {
            let (logits, target) = scene.tensors(device);
            let error = loss
                .loss(&(&logits).into(), &target)
                .unwrap_err()
                .to_string();
            String::from(error.lines().next().unwrap())
        };
        assert_eq!(error(&gpu), error(&Device::Cpu));
    }
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let space = prop_oneof![
        prop::collection::vec(1..=60usize, 1..=1),
        prop::collection::vec(1..=13usize, 2..=2),
        prop::collection::vec(1..=5usize, 3..=3),
    ];
    let labels = prop::sample::select(vec![Some(DType::U8), None]);
    let scale = prop::sample::select(vec![0.1, 1.0, 4.0, 20.0]);
    let flags = any::<[bool; 4]>();
    (
        1..=3usize,
        1..=3usize,
        space,
        labels,
        scale,
        flags,
        any::<u64>(),
    )
        .prop_map(
            |(items, channels, space, labels, scale, flags, seed)| Scene {
                shape: [vec![items, channels], space].concat(),
                dtype: DType::F32,
                multi_label: flags[0],
                labels,
                ignore: flags[1] && labels.is_some(),
                weights: flags[1],
                mask: false,
                samples: flags[2],
                smoothing: if flags[3] && labels.is_none() {
                    0.1
                } else {
                    0.0
                },
                scale,
                seed,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes(scene in any_scene()) {
        scene.check(&gpu(), spec("unified-focal++:gamma=2").as_ref(), "unified-focal++");
    }
}
