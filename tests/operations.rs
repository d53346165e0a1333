//! The network's operations against their references in f64, over random shapes.

use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;
use seg_unet::ops;

use crate::{case::flat, fused::number};

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// And the kernel's size, here and below.
    Conv(usize),
    ConvRelu(usize),
    ConvJoined(usize),
    InstanceNorm,
    ReluInstanceNorm,
    MaxPool,
    Up,
}

use Operation::{Conv, ConvJoined, ConvRelu, InstanceNorm, MaxPool, ReluInstanceNorm, Up};

const ALL: [Operation; 13] = [
    Conv(1),
    Conv(3),
    Conv(5),
    ConvRelu(1),
    ConvRelu(3),
    ConvRelu(5),
    ConvJoined(1),
    ConvJoined(3),
    ConvJoined(5),
    InstanceNorm,
    ReluInstanceNorm,
    MaxPool,
    Up,
];

/// The networks'.
const EPS: f64 = 1e-3;

impl Operation {
    fn apply(self, t: &[Tensor]) -> Result<Tensor> {
        match self {
            Conv(_) => ops::conv2d_same(&t[0], &t[1], &t[2]),
            ConvRelu(_) => ops::conv2d_same_relu(&t[0], &t[1], &t[2]),
            ConvJoined(_) => ops::conv2d_same_joined(&t[0], &t[1], &t[2], &t[3]),
            InstanceNorm => ops::instance_norm(&t[0], &t[1], &t[2], EPS),
            ReluInstanceNorm => ops::relu_instance_norm(&t[0], &t[1], &t[2], EPS),
            MaxPool => ops::max_pool2(&t[0]),
            Up => ops::up2(&t[0], &t[1], &t[2]),
        }
    }

    fn reference(self, t: &[Tensor]) -> Result<Tensor> {
        match self {
            Conv(_) => ops::conv2d_same_reference(&t[0], &t[1], &t[2]),
            ConvRelu(_) => ops::conv2d_same_relu_reference(&t[0], &t[1], &t[2]),
            ConvJoined(_) => ops::conv2d_same_joined_reference(&t[0], &t[1], &t[2], &t[3]),
            InstanceNorm => ops::instance_norm_reference(&t[0], &t[1], &t[2], EPS),
            ReluInstanceNorm => {
                ops::instance_norm_reference(&ops::relu_reference(&t[0])?, &t[1], &t[2], EPS)
            }
            MaxPool => ops::max_pool2_reference(&t[0]),
            Up => ops::up2_reference(&t[0], &t[1], &t[2]),
        }
    }

    /// Of numbers that are all positive, the sums of the terms whose signs may cancel in the operation.
    fn terms(self, t: &[Tensor]) -> Result<Tensor> {
        match self {
            InstanceNorm | ReluInstanceNorm => {
                let per_channel = |t: &Tensor| t.reshape((1, (), 1, 1));
                (t[0].broadcast_mul(&per_channel(&t[1])?)? / EPS.sqrt())?
                    .broadcast_add(&per_channel(&t[2])?)
            }
            _ => self.reference(t),
        }
    }
}

/// An operation's sizes and its numbers.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    operation: Operation,
    images: usize,
    /// Of the one image, or of the two that are joined.
    channels: [usize; 2],
    outputs: usize,
    height: usize,
    width: usize,
    seed: u64,
}

fn drawn(operation: Operation) -> impl Strategy<Value = Drawn> {
    let channels = (1..=70usize, 1..=70usize, 1..=70usize);
    (1..=3usize, channels, 1..=40usize, 1..=40usize, any::<u64>()).prop_map(
        move |(images, (first, second, outputs), height, width, seed)| Drawn {
            operation,
            images,
            channels: [first, second],
            outputs,
            height,
            width,
            seed,
        },
    )
}

/// Numbers in (−1, 1) that f32 holds. Of many magnitudes: sums of products of evenly spaced ones would be exact in f64,
/// in whatever order.
fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> Tensor {
    let numbers: Vec<f64> = (0..shape.iter().product())
        .map(|_| f64::from((rng.random::<f32>() * 2.0 - 1.0) * rng.random::<f32>()))
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// An operation's value, and each input's gradient.
type Results = Vec<Vec<f64>>;

fn results(
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    upstream: &Tensor,
    dtype: DType,
) -> Results {
    let of_dtype = |t: &Tensor| t.to_dtype(dtype).unwrap();
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(&of_dtype(t)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = operation(&tensors).unwrap();
    let weighted = (&y * of_dtype(upstream)).unwrap().sum_all().unwrap();
    let gradients = weighted.backward().unwrap();
    let of = |t: &Tensor| flat(&t.to_dtype(DType::F64).unwrap()).unwrap();
    let gradients = vars.iter().map(|var| of(gradients.get(var).unwrap()));
    [of(&y)].into_iter().chain(gradients).collect()
}

impl Drawn {
    fn inputs(&self, rng: &mut ChaCha8Rng) -> Vec<Tensor> {
        let (n, h, w, o) = (self.images, self.height, self.width, self.outputs);
        let [i, j] = self.channels;
        let shapes = match self.operation {
            Conv(k) | ConvRelu(k) => vec![vec![n, i, h, w], vec![o, i, k, k], vec![o]],
            ConvJoined(k) => vec![
                vec![n, i, h, w],
                vec![n, j, h, w],
                vec![o, i + j, k, k],
                vec![o],
            ],
            InstanceNorm | ReluInstanceNorm => vec![vec![n, i, h, w], vec![i], vec![i]],
            MaxPool => vec![vec![n, i, 2 * h.div_ceil(2), 2 * w.div_ceil(2)]],
            Up => vec![vec![n, i, h, w], vec![i, o, 2, 2], vec![o]],
        };
        shapes.iter().map(|shape| random(shape, rng)).collect()
    }

    /// Inputs, the result's gradient, and what both would be were nothing to cancel.
    fn tensors(&self) -> (Vec<Tensor>, Tensor, Results) {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        let inputs = self.inputs(rng);
        let positive: Vec<Tensor> = inputs.iter().map(|t| t.abs().unwrap()).collect();
        let terms = self.operation.terms(&positive).unwrap();
        let mut upstream = random(terms.dims(), rng);
        if let ConvRelu(_) = self.operation {
            // A sum that is 0 but for its terms' rounding may fall on either side of the ReLU's threshold.
            let sums = ops::conv2d_same_reference(&inputs[0], &inputs[1], &inputs[2]).unwrap();
            let clear = sums.abs().unwrap().gt(&(&terms * 1e-5).unwrap()).unwrap();
            upstream = (upstream * clear.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let terms = results(
            |t| self.operation.terms(t),
            &positive,
            &upstream.abs().unwrap(),
            DType::F64,
        );
        (inputs, upstream, terms)
    }

    /// How far value and gradients are from the reference in f64, of f32 and of f64: not too far.
    fn assert_near(&self) -> [Vec<f64>; 2] {
        let (inputs, upstream, terms) = self.tensors();
        let reference = |t: &[Tensor]| self.operation.reference(t);
        let exact = results(reference, &inputs, &upstream, DType::F64);
        BOUNDS.map(|(dtype, bound)| {
            let ours = results(|t| self.operation.apply(t), &inputs, &upstream, dtype);
            assert_eq!((ours.len(), ours.len()), (exact.len(), terms.len()));
            let pairs = ours.iter().zip(&exact).zip(&terms);
            let distances = pairs.map(|((ours, exact), terms)| distance(ours, exact, terms));
            for (i, distance) in distances.clone().enumerate() {
                let what = match i {
                    0 => "value".into(),
                    i => format!("gradient of input {}", i - 1),
                };
                assert!(
                    distance <= bound,
                    "{self:?}, {dtype:?}: {what} off by {distance:e} of the norm"
                );
            }
            distances.collect()
        })
    }
}

/// How far an operation may be from its reference.
const BOUNDS: [(DType, f64); 2] = [(DType::F32, 1e-5), (DType::F64, 1e-12)];

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// In L2 norm, as a share of that of `exact`.
fn distance(ours: &[f64], exact: &[f64], terms: &[f64]) -> f64 {
    /// Where the terms cancel to less than this (a few numbers by chance, or the gradient of a norm over two pixels),
    /// what is left is their rounding, and a share of the terms is what counts.
    const CANCELLED: f64 = 0.01;
    assert_eq!((ours.len(), ours.len()), (exact.len(), terms.len()));
    let difference: Vec<f64> = ours.iter().zip(exact).map(|(a, b)| a - b).collect();
    let difference = norm(&difference);
    // Both may be 0. (A NaN is none that any bound allows.)
    if difference == 0.0 {
        return 0.0;
    }
    difference / norm(exact).max(CANCELLED * norm(terms))
}

/// More channels than a task takes at once, both ways round; one row, one column, one pixel; narrower than a vector.
fn fixed(operation: Operation) -> impl Iterator<Item = Drawn> {
    let sizes = [
        (1, [130, 10], 40, 17, 19),
        (2, [100, 60], 96, 8, 9),
        (1, [17, 33], 130, 5, 6),
        (1, [3, 16], 5, 1, 40),
        (1, [16, 3], 33, 40, 1),
        (3, [1, 1], 1, 1, 1),
        (2, [8, 9], 16, 33, 15),
    ];
    sizes
        .into_iter()
        .zip(0..)
        .map(
            move |((images, channels, outputs, height, width), seed)| Drawn {
                operation,
                images,
                channels,
                outputs,
                height,
                width,
                seed,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number("PROPTEST_CASES", 100), failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn value_and_gradients_are_those_of_f64(drawn in prop::sample::select(&ALL).prop_flat_map(drawn)) {
        drawn.assert_near();
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads(drawn in prop::sample::select(&ALL).prop_flat_map(drawn)) {
        let (inputs, upstream, _) = drawn.tensors();
        for dtype in [DType::F32, DType::F64] {
            let with = |threads| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let results = pool.install(|| results(|t| drawn.operation.apply(t), &inputs, &upstream, dtype));
                results.concat().into_iter().map(f64::to_bits).collect::<Vec<_>>()
            };
            let one = with(1);
            prop_assert_eq!(&one, &with(2));
            prop_assert_eq!(&one, &with(7));
        }
    }
}

/// `cargo test --workspace --test all -- operations::how_far --nocapture` prints the largest distances.
#[test]
fn how_far_each_operation_is_from_f64_at_the_kernels_corners() {
    println!("| operation | value, f32 | gradients, f32 | value, f64 | gradients, f64 |");
    println!("|---|---|---|---|---|");
    for operation in ALL {
        let mut most = [[0_f64; 2]; 2];
        for drawn in fixed(operation) {
            for (most, distances) in most.iter_mut().zip(drawn.assert_near()) {
                for (i, distance) in distances.into_iter().enumerate() {
                    let most = &mut most[i.min(1)];
                    *most = most.max(distance);
                }
            }
        }
        let [[value, gradients], [value_double, gradients_double]] = most;
        println!(
            "| {operation:?} | {value:.0e} | {gradients:.0e} | {value_double:.0e} | {gradients_double:.0e} |"
        );
    }
}
