//! The network's operations and the whole network on the device, compared with the CPU's in f64.

use candle_core::{DType, Device, Device::Cpu, Result, Tensor, Var, backprop::GradStore};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use seg_unet::{
    Precision, UNet, UNetConfig,
    cuda::single::{self, Block, Traced},
    ops,
};

use crate::gpu;

const EPS: f64 = 1e-3;

/// How far a result may be from that of f64, relative to its length.
fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Tf32 => 1e-3,
        Precision::Bf16 => 1e-2,
    }
}

/// Numbers that are drawn for one precision.
struct Draw {
    rng: ChaCha8Rng,
    precision: Precision,
}

impl Draw {
    fn new(seed: u64, precision: Precision) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng, precision }
    }

    /// From −1 to 1 in f32; elsewhere multiples of `step`, which every precision holds: a product of numbers that are rounded
    /// could fall on the other side of a `ReLU`'s threshold, or another number could be the largest of a window.
    fn tensor(&mut self, dims: &[usize], step: f64) -> Tensor {
        let rng = &mut self.rng;
        let count = dims.iter().product::<usize>();
        let numbers: Vec<f64> = (0..count)
            .map(|_| {
                if self.precision == Precision::F32 {
                    return f64::from(rng.random_range(-1.0_f32..1.0));
                }
                let most = (1.0 / step) as i32;
                f64::from(rng.random_range(-most..=most)) * step
            })
            .collect();
        Tensor::from_vec(numbers, dims, &Cpu).unwrap()
    }

    fn size(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        self.rng.random_range(range)
    }
}

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Cpu).unwrap().to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected‖, and the absolute distance where nothing is expected.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (values(found), values(expected));
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let away = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    let length = norm(&mut expected.iter().copied());
    if length > 1e-6 { away / length } else { away }
}

/// The value of `f` and the gradients of Σ f · slope in f64.
fn reference(
    inputs: &[&Tensor],
    slopes: &[&Tensor],
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
) -> Traced {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(x).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let values = f(&tensors).unwrap();
    let mut sum = Tensor::zeros((), DType::F64, &Cpu).unwrap();
    for (value, slope) in values.iter().zip(slopes) {
        sum = (sum + (value * *slope).unwrap().sum_all().unwrap()).unwrap();
    }
    let mut store = sum.backward().unwrap();
    let gradients = vars.iter().map(|var| store.remove(var).unwrap()).collect();
    Traced { values, gradients }
}

fn assert_near(what: &str, found: &Traced, expected: &Traced, bound: f64) {
    let all = |traced: &Traced| [&traced.values[..], &traced.gradients].concat();
    let (found, expected) = (all(found), all(expected));
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let distance = distance(found, expected);
        assert!(
            distance < bound,
            "{what}, number {at} of {:?}: {distance:.2e}",
            found.dims()
        );
    }
}

fn on(device: &Device, tensors: &[&Tensor]) -> Vec<Tensor> {
    let to = |x: &&Tensor| x.to_dtype(DType::F32).unwrap().to_device(device).unwrap();
    tensors.iter().map(to).collect()
}

#[test]
fn blocks_are_those_of_the_cpu() {
    let device = gpu();
    for precision in Precision::ALL {
        for case in 0..gpu_cases(10) {
            let mut draw = Draw::new(case, precision);
            let pool = case % 3 == 0;
            let even = |size: usize| if pool { 2 * size.div_ceil(2) } else { size };
            let n = draw.size(1..=3);
            let [h, w] = [draw.size(1..=20), draw.size(1..=36)].map(even);
            let channels: Vec<usize> = (0..=case % 2).map(|_| draw.size(1..=40)).collect();
            let outputs = draw.size(1..=70);
            let all: usize = channels.iter().sum();
            let inputs: Vec<Tensor> = channels
                .iter()
                .map(|&c| draw.tensor(&[n, c, h, w], 1.0))
                .collect();
            // A constant would be exactly 0 behind the norm of one pixel, and its gradient rounding alone.
            if h * w < 4 {
                continue;
            }
            let weights = [
                draw.tensor(&[outputs, all, 3, 3], 0.5),
                draw.tensor(&[outputs], 0.5),
                draw.tensor(&[outputs], 0.25),
                draw.tensor(&[outputs], 0.25),
            ];
            let mut slopes = vec![draw.tensor(&[n, outputs, h, w], 0.125)];
            if pool {
                slopes.push(draw.tensor(&[n, outputs, h / 2, w / 2], 0.125));
            }
            let everything: Vec<&Tensor> = inputs.iter().chain(&weights).collect();
            let slopes: Vec<&Tensor> = slopes.iter().collect();
            let expected = reference(&everything, &slopes, |t| {
                let (inputs, weights) = t.split_at(channels.len());
                let [weight, bias, norm_weight, norm_bias] = weights else {
                    unreachable!()
                };
                let z = match inputs {
                    [x] => ops::conv2d_same(x, weight, bias)?,
                    [x, joined] => ops::conv2d_same_joined(x, joined, weight, bias)?,
                    _ => unreachable!(),
                };
                let y = ops::relu_instance_norm(&z, norm_weight, norm_bias, EPS)?;
                Ok(if pool {
                    vec![y.clone(), ops::max_pool2(&y)?]
                } else {
                    vec![y]
                })
            });
            let inputs = on(&device, &inputs.iter().collect::<Vec<_>>());
            let weights = on(&device, &weights.each_ref());
            let [weight, bias, norm_weight, norm_bias] = &weights[..] else {
                unreachable!()
            };
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            let weights = [weight, bias, norm_weight, norm_bias];
            let block = Block::new(&inputs, weights, EPS, pool, precision).unwrap();
            let slopes = on(&device, &slopes);
            let slopes: Vec<&Tensor> = slopes.iter().collect();
            let found = block.trace(&slopes).unwrap();
            let what = format!("{precision} block {case} of {n}×{channels:?}×{h}×{w} to {outputs}");
            assert_near(&what, &found, &expected, bound(precision));
            let again = block.trace(&slopes).unwrap();
            for (a, b) in found.gradients.iter().zip(&again.gradients) {
                assert_eq!(values(a), values(b), "{what}: the same bits");
            }
        }
    }
}

#[test]
fn ways_up_and_heads_are_those_of_the_cpu() {
    let device = gpu();
    for precision in Precision::ALL {
        for case in 0..gpu_cases(6) {
            let mut draw = Draw::new(100 + case, precision);
            let (n, h, w) = (draw.size(1..=3), draw.size(1..=11), draw.size(1..=19));
            let (inputs, outputs) = (draw.size(1..=70), draw.size(1..=40));
            let x = draw.tensor(&[n, inputs, h, w], 0.25);
            let (weight, bias) = (
                draw.tensor(&[inputs, outputs, 2, 2], 0.25),
                draw.tensor(&[outputs], 0.25),
            );
            let slope = draw.tensor(&[n, outputs, 2 * h, 2 * w], 0.125);
            let expected = reference(&[&x, &weight, &bias], &[&slope], |t| {
                Ok(vec![ops::up2(&t[0], &t[1], &t[2])?])
            });
            let t = on(&device, &[&x, &weight, &bias, &slope]);
            let found = single::up(&t[0], [&t[1], &t[2]], &t[3], precision).unwrap();
            let what = format!("{precision} way up {case} of {n}×{inputs}×{h}×{w} to {outputs}");
            assert_near(&what, &found, &expected, bound(precision));

            let classes = [1, 2, 3, 5, 9][case as usize % 5];
            let (weight, bias) = (
                draw.tensor(&[classes, inputs, 1, 1], 0.25),
                draw.tensor(&[classes], 0.25),
            );
            let slope = draw.tensor(&[n, classes, h, w], 0.125);
            let expected = reference(&[&x, &weight, &bias], &[&slope], |t| {
                Ok(vec![ops::conv2d_same(&t[0], &t[1], &t[2])?])
            });
            let t = on(&device, &[&x, &weight, &bias, &slope]);
            let found = single::head(&t[0], [&t[1], &t[2]], &t[3], precision).unwrap();
            let what = format!("{precision} head {case} of {n}×{inputs}×{h}×{w} to {classes}");
            assert_near(&what, &found, &expected, bound(precision));
        }
    }
}

/// A network of the same weights on the CPU in f64.
fn wide(net: &UNet) -> UNet {
    let wide = UNet::with_dtype(net.config(), 0, DType::F64, &Cpu).unwrap();
    let tensors = net.tensors().into_iter().map(|(name, t)| {
        let t = t.to_device(&Cpu).unwrap().to_dtype(DType::F64).unwrap();
        (name, t)
    });
    wide.set_tensors(&tensors.collect()).unwrap();
    wide
}

/// A rounding may carry a number over the threshold of a `ReLU` or a pool somewhere in a network, which changes a gradient by
/// more than the rounding: so the bounds of the gradients, all of them taken as one, are wide, and each operation's own,
/// above, are narrow.
#[test]
fn a_network_is_that_of_the_cpu() {
    let device = gpu();
    let with = |in_channels, classes, width, depth| UNetConfig {
        in_channels,
        classes,
        width,
        depth,
        ..UNetConfig::default()
    };
    let cases = [
        (with(1, 2, 8, 2), [1, 16, 20]),
        (with(3, 1, 20, 1), [2, 6, 10]),
        (with(5, 3, 4, 3), [2, 32, 48]),
    ];
    for (config, [n, h, w]) in cases {
        let mut net = UNet::new(&config, 3, &device).unwrap();
        let wide = wide(&net);
        for (precision, of_logits, of_gradients) in [
            (Precision::F32, 1e-5, 1e-4),
            (Precision::Tf32, 1e-2, 0.3),
            (Precision::Bf16, 6e-2, 0.7),
        ] {
            net.set_precision(precision);
            let mut draw = Draw::new(7, Precision::F32);
            let x = draw.tensor(&[n, config.in_channels, h, w], 1.0);
            // A disc that the first class lacks and the others have too much of.
            let disc = |i: usize| {
                let (plane, y, x) = (i / (h * w), i / w % h, i % w);
                let near = (2 * y).abs_diff(h).pow(2) + (2 * x).abs_diff(w).pow(2) < h * h;
                let sign = if plane % config.classes == 0 {
                    -1.0
                } else {
                    1.0
                };
                if near { sign } else { -0.25 * sign }
            };
            let shape = (n, config.classes, h, w);
            let g: Vec<f64> = (0..n * config.classes * h * w).map(disc).collect();
            let g = Tensor::from_vec(g, shape, &Cpu).unwrap();
            let expected = wide.pass(&x).unwrap();
            let there = on(&device, &[&x, &g]);
            let pass = net.pass(&there[0]).unwrap();
            let what = format!("{precision} {config:?}");
            let logits = distance(pass.logits(), expected.logits());
            let inferred = net.infer(&there[0]).unwrap();
            assert_eq!(values(&inferred), values(pass.logits()), "{what}: infer");
            let gradients = pass.backward(&there[1]).unwrap();
            let expected = expected.backward(&g).unwrap();
            let all = |store: &GradStore, net: &UNet| {
                let each = net
                    .vars()
                    .iter()
                    .flat_map(|(_, var)| values(store.get(var).unwrap()));
                Tensor::from_iter(each, &Cpu).unwrap()
            };
            let away = distance(&all(&gradients, &net), &all(&expected, &wide));
            println!("{what}: logits {logits:.1e}, gradients {away:.1e} from f64");
            assert!(logits < of_logits, "{what}: logits {logits:.2e}");
            assert!(away < of_gradients, "{what}: gradients {away:.2e}");
        }
    }
}

/// How many random cases: more where they cost nothing.
fn gpu_cases(of_software: u64) -> u64 {
    if crate::is_software() {
        of_software
    } else {
        8 * of_software
    }
}
