//! The convolution's kernels against the reference, with every instruction set.

use candle_core::{Tensor, Var};

use super::{
    conv::{Conv, Finish},
    conv_gradient::weight_gradient,
    filters::{Filters, Way},
    lanes::Block,
    maps::{Size, from_blocks, spans, to_blocks},
    simd::{Dispatch, InstructionSet, each_instruction_set},
    source::{Part, Source},
};
use crate::ops::{conv2d_same_reference, testing::random};

/// Batch, the input channels of each joined tensor, output channels, height and width.
type Shape = (usize, &'static [usize], usize, usize, usize);

fn numbers<R: Dispatch>(t: &Tensor) -> Vec<R> {
    let t = t.to_dtype(R::DTYPE).unwrap().flatten_all().unwrap();
    t.to_vec1().unwrap()
}

fn blocks<R: Dispatch>(isa: InstructionSet, t: &Tensor) -> Vec<Block<R>> {
    let (n, c, h, w) = t.dims4().unwrap();
    let size = Size { n, h, w };
    let mut maps = vec![Block::default(); spans(&[c]).len() * size.pixels()];
    to_blocks(isa, &numbers::<R>(t), c, size, &mut maps);
    maps
}

/// The distance of maps from a tensor, relative to its norm.
fn distance<R: Dispatch>(isa: InstructionSet, maps: &[Block<R>], expected: &Tensor) -> f64 {
    let (n, c, h, w) = expected.dims4().unwrap();
    let mut found = vec![R::default(); expected.elem_count()];
    from_blocks(isa, maps, c, Size { n, h, w }, &mut found);
    relative(&found, expected)
}

fn relative<R: Dispatch>(found: &[R], expected: &Tensor) -> f64 {
    let expected = numbers::<f64>(expected);
    assert_eq!(found.len(), expected.len());
    let square: f64 = expected.iter().map(|x| x * x).sum();
    let pairs = found.iter().zip(&expected);
    let difference: f64 = pairs.map(|(f, e)| (f.to_f64() - e).powi(2)).sum();
    (difference / square.max(1e-300)).sqrt()
}

fn source<'a, R>(size: Size, maps: &'a [Vec<Block<R>>], channels: &[usize]) -> Source<'a, R> {
    let parts = maps.iter().zip(channels).map(|(maps, &channels)| Part {
        maps,
        channels,
        affine: None,
    });
    Source {
        size,
        parts: parts.collect(),
    }
}

struct Case {
    shape: Shape,
    x: Var,
    weights: Var,
    bias: Var,
    y: Tensor,
    gradient: Tensor,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let (n, parts, outputs, h, w) = shape;
        let inputs = parts.iter().sum();
        let var = |dims: &[usize], seed| Var::from_tensor(&random(dims, seed)).unwrap();
        let (x, bias) = (var(&[n, inputs, h, w], 1), var(&[outputs], 3));
        let weights = var(&[outputs, inputs, 3, 3], 2);
        let y = conv2d_same_reference(&x, &weights, &bias).unwrap();
        let gradient = random(&[n, outputs, h, w], 4);
        Self {
            shape,
            x,
            weights,
            bias,
            y,
            gradient,
        }
    }

    fn inputs<R: Dispatch>(&self, isa: InstructionSet) -> Vec<Vec<Block<R>>> {
        self.parts(&self.x).iter().map(|x| blocks(isa, x)).collect()
    }

    /// A tensor of the inputs' channels, as the tensors that were joined.
    fn parts(&self, t: &Tensor) -> Vec<Tensor> {
        let (_, channels, ..) = self.shape;
        let mut start = 0;
        let cut = channels.iter().map(|&count| {
            let part = t.narrow(1, start, count).unwrap().contiguous().unwrap();
            start += count;
            part
        });
        cut.collect()
    }

    fn forward<R: Dispatch>(&self, isa: InstructionSet, tolerance: f64) {
        let (n, channels, outputs, h, w) = self.shape;
        let size = Size { n, h, w };
        let maps = self.inputs::<R>(isa);
        let (weights, bias) = (numbers::<R>(&self.weights), numbers::<R>(&self.bias));
        let mut y = vec![Block::default(); spans(&[outputs]).len() * size.pixels()];
        let moments = Conv {
            source: &source(size, &maps, channels),
            filters: Filters {
                weights: &weights,
                columns: channels.iter().sum(),
            },
            way: Way::Forward,
            outputs: &[outputs],
            finish: Finish {
                bias: Some(&bias),
                relu: false,
                moments: true,
            },
        }
        .run(isa, vec![&mut y]);
        let distance = distance(isa, &y, &self.y);
        assert!(distance < tolerance, "{isa} {:?}: {distance}", self.shape);
        let total = |i: usize| -> f64 {
            let sums = moments.iter().flat_map(|part| &part.sums);
            sums.flat_map(|sums| sums[i]).sum()
        };
        let y = numbers::<f64>(&self.y);
        let (sum, square): (f64, f64) = (y.iter().sum(), y.iter().map(|y| y * y).sum());
        let norm = (square * y.len() as f64).sqrt();
        assert!((total(0) - sum).abs() <= tolerance * norm, "{isa}");
        assert!((total(1) - square).abs() <= tolerance * square, "{isa}");
    }

    fn backward<R: Dispatch>(&self, isa: InstructionSet, tolerance: f64) {
        let (n, channels, outputs, h, w) = self.shape;
        let size = Size { n, h, w };
        let expected = (&self.y * &self.gradient).unwrap().sum_all().unwrap();
        let expected = expected.backward().unwrap();
        let (maps, weights) = (self.inputs::<R>(isa), numbers::<R>(&self.weights));
        let gradient = [blocks::<R>(isa, &self.gradient)];
        let room = |&c: &usize| vec![Block::default(); spans(&[c]).len() * size.pixels()];
        let mut of_inputs: Vec<Vec<Block<R>>> = channels.iter().map(room).collect();
        Conv {
            source: &source(size, &gradient, &[outputs]),
            filters: Filters {
                weights: &weights,
                columns: channels.iter().sum(),
            },
            way: Way::Backward,
            outputs: channels,
            finish: Finish::default(),
        }
        .run(
            isa,
            of_inputs.iter_mut().map(|maps| &mut maps[..]).collect(),
        );
        let of_x = self.parts(expected.get(&self.x).unwrap());
        for (found, expected) in of_inputs.iter().zip(&of_x) {
            let distance = distance(isa, found, expected);
            assert!(distance < tolerance, "{isa} {:?}: {distance}", self.shape);
        }
        let mut of_weights = vec![R::default(); weights.len()];
        let read = source(size, &maps, channels);
        weight_gradient(isa, &read, &gradient[0], outputs, &mut of_weights);
        let distance = relative(&of_weights, expected.get(&self.weights).unwrap());
        assert!(distance < tolerance, "{isa} {:?}: {distance}", self.shape);
    }
}

#[test]
fn a_convolution_is_that_of_the_reference() {
    let shapes: [Shape; 9] = [
        (1, &[1], 1, 1, 1),
        (2, &[3], 5, 4, 7),
        (1, &[16], 32, 16, 16),
        (1, &[32], 32, 33, 31),
        (1, &[20, 33], 40, 18, 50),
        (2, &[64], 48, 8, 8),
        (3, &[130], 17, 20, 17),
        (1, &[64], 160, 5, 6),
        (2, &[160], 96, 16, 16),
    ];
    for shape in shapes {
        let case = Case::new(shape);
        case.forward::<f64>(InstructionSet::Portable, 1e-12);
        case.backward::<f64>(InstructionSet::Portable, 1e-12);
        for isa in each_instruction_set() {
            case.forward::<f32>(isa, 5e-6);
            case.backward::<f32>(isa, 5e-6);
        }
    }
}
