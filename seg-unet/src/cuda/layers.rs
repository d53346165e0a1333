//! The layers of a network and their memory on the device.

use std::sync::Arc;

use candle_core::{Result, cuda_backend::cudarc::driver::CudaStream};

use super::{
    products::{Products, width},
    room::{Map, Room, padded},
    table::Layer,
};
use crate::{Precision, kernels::maps::Size};

/// Where the numbers of a layer's variables are, or their gradients: weight and bias of the product, and of the norm.
pub(super) type Pointers = [u64; 4];

/// Channels that a layer reads: of one map, or of two that are joined, each padded by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    pub(super) real: usize,
    pub(super) padded: usize,
    /// Of the first map.
    pub(super) first: usize,
    pub(super) first_padded: usize,
}

impl Inputs {
    pub(super) fn of(channels: &[usize]) -> Self {
        Self {
            real: channels.iter().sum(),
            padded: channels.iter().map(|&channels| padded(channels)).sum(),
            first: channels[0],
            first_padded: padded(channels[0]),
        }
    }
}

/// A convolution, `ReLU` and norm.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) size: Size,
    pub(super) inputs: Inputs,
    pub(super) outputs: usize,
    pub(super) weights: Pointers,
    /// The kernel and the bias as the products want them; turned, with inputs and outputs exchanged, for the way back.
    pub(super) forward: Room,
    pub(super) backward: Option<Room>,
    pub(super) bias: Room,
    /// r = relu(z).
    pub(super) rectified: Map,
    /// Mean and 1/√(σ² + ε) of each image's channels.
    pub(super) stats: Room,
    /// Scale and shift of the same.
    pub(super) affine: Room,
}

impl Conv {
    /// Outputs with those that are zeros.
    pub(super) fn wide(&self) -> usize {
        padded(self.outputs)
    }

    pub(super) fn layer(&self) -> Layer {
        let [weight, bias, ..] = self.weights;
        let Inputs {
            real,
            padded,
            first,
            first_padded,
        } = self.inputs;
        Layer {
            weight,
            bias,
            forward: self.forward.at(),
            backward: self.backward.as_ref().map_or(0, Room::at),
            padded_bias: self.bias.at(),
            inputs: padded as i32,
            outputs: self.wide() as i32,
            first: first as i32,
            first_padded: first_padded as i32,
            real_inputs: real as i32,
            real_outputs: self.outputs as i32,
            taps: 9,
            unused: 0,
        }
    }
}

/// The way up to a level.
#[derive(Debug)]
pub(super) struct Up {
    /// Of what it reads.
    pub(super) size: Size,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) weights: [u64; 2],
    pub(super) forward: Room,
    pub(super) backward: Option<Room>,
    pub(super) bias: Room,
}

impl Up {
    pub(super) fn layer(&self) -> Layer {
        let [weight, bias] = self.weights;
        let inputs = padded(self.inputs);
        Layer {
            weight,
            bias,
            forward: self.forward.at(),
            backward: self.backward.as_ref().map_or(0, Room::at),
            padded_bias: self.bias.at(),
            inputs: inputs as i32,
            outputs: padded(self.outputs) as i32,
            first: self.inputs as i32,
            first_padded: inputs as i32,
            real_inputs: self.inputs as i32,
            real_outputs: self.outputs as i32,
            taps: 4,
            unused: 0,
        }
    }
}

/// From a level to the coarser one, and what the level keeps for the way up.
#[derive(Debug)]
pub(super) struct Down {
    /// The raised maps and the level's own, which are normed.
    pub(super) joined: Map,
    /// The maxima of the level's own.
    pub(super) pooled: Map,
    /// Where they were.
    pub(super) positions: Room,
}

/// The convolution to the classes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) size: Size,
    pub(super) inputs: usize,
    pub(super) classes: usize,
    pub(super) weights: [u64; 2],
}

/// What an operation needs on the way back and nobody after it.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Gradient in z of the convolution at hand.
    pub(super) of_z: Map,
    /// Sums over segments of pixels, or over splits of a product.
    pub(super) partial: Room,
    /// Sums over segments, of a bias.
    pub(super) biases: Room,
    /// Four numbers of each image's channels.
    pub(super) slopes: Room,
}

/// Pixels whose sum a block makes: enough blocks for a large GPU, and work enough for each.
pub(super) fn segment(size: Size) -> usize {
    size.area().div_ceil(256).max(64)
}

pub(super) fn segments(size: Size) -> usize {
    size.area().div_ceil(segment(size))
}

/// Takes the memory of layers.
pub(super) struct Builder<'a> {
    pub(super) stream: &'a Arc<CudaStream>,
    pub(super) precision: Precision,
    pub(super) training: bool,
}

impl Builder<'_> {
    /// A map of channels that are padded already.
    pub(super) fn map(&self, size: Size, channels: usize) -> Result<Map> {
        Map::new(self.stream, size, channels, width(self.precision))
    }

    fn packed(&self, count: usize) -> Result<Room> {
        Room::new(self.stream, count * width(self.precision))
    }

    /// A convolution, from which a gradient goes back to its input if asked for.
    pub(super) fn conv(
        &self,
        size: Size,
        inputs: Inputs,
        outputs: usize,
        weights: Pointers,
        goes_back: bool,
    ) -> Result<Conv> {
        let wide = padded(outputs);
        let count = 9 * inputs.padded * wide;
        let backward = self.training && goes_back;
        Ok(Conv {
            size,
            inputs,
            outputs,
            weights,
            forward: self.packed(count)?,
            backward: backward.then(|| self.packed(count)).transpose()?,
            bias: Room::floats(self.stream, wide)?,
            rectified: self.map(size, wide)?,
            stats: Room::floats(self.stream, 2 * size.n * wide)?,
            affine: Room::floats(self.stream, 2 * size.n * wide)?,
        })
    }

    pub(super) fn up(
        &self,
        size: Size,
        inputs: usize,
        outputs: usize,
        weights: [u64; 2],
    ) -> Result<Up> {
        let count = 4 * padded(inputs) * padded(outputs);
        Ok(Up {
            size,
            inputs,
            outputs,
            weights,
            forward: self.packed(count)?,
            backward: self.training.then(|| self.packed(count)).transpose()?,
            bias: Room::floats(self.stream, padded(outputs))?,
        })
    }

    /// Below a level of this size and so many channels.
    pub(super) fn down(&self, size: Size, channels: usize) -> Result<Down> {
        let (wide, below) = (padded(channels), size.halved());
        Ok(Down {
            joined: self.map(size, 2 * wide)?,
            pooled: self.map(below, wide)?,
            positions: Room::new(self.stream, below.pixels() * wide)?,
        })
    }

    /// Moments of the tiles of any of some convolutions.
    pub(super) fn moments<'c>(&self, convs: impl Iterator<Item = &'c Conv>) -> Result<Room> {
        let most = convs
            .map(|conv| Products::moments(conv.size, conv.wide()))
            .max();
        Room::floats(self.stream, most.unwrap_or_default())
    }

    /// Enough for any of the layers.
    pub(super) fn scratch(&self, convs: &[&Conv], ups: &[&Up], head: Head) -> Result<Scratch> {
        let most = |of: &dyn Fn(&Conv) -> usize| {
            convs.iter().map(|conv| of(conv)).max().unwrap_or_default()
        };
        let most_up =
            |of: &dyn Fn(&Up) -> usize| ups.iter().map(|up| of(up)).max().unwrap_or_default();
        let sums = |size: Size, columns: usize| size.n * segments(size) * columns;
        let of_z = most(&|conv| conv.size.pixels() * conv.wide());
        let partial = [
            most(&|conv| sums(conv.size, 2 * conv.wide())),
            most(&|conv| {
                Products::conv_partial(self.precision, conv.size, conv.inputs.padded, conv.wide())
            }),
            most_up(&|up| {
                Products::up_partial(
                    self.precision,
                    up.size,
                    padded(up.inputs),
                    padded(up.outputs),
                )
            }),
            sums(head.size, head.classes * padded(head.inputs)),
        ];
        let biases = [
            most(&|conv| sums(conv.size, conv.wide())),
            most_up(&|up| sums(up.size.doubled(), padded(up.outputs))),
            sums(head.size, head.classes),
        ];
        let most_of = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or_default();
        Ok(Scratch {
            of_z: self.map(
                Size {
                    n: 1,
                    h: 1,
                    w: of_z,
                },
                1,
            )?,
            partial: Room::floats(self.stream, most_of(&partial))?,
            biases: Room::floats(self.stream, most_of(&biases))?,
            slopes: Room::floats(self.stream, most(&|conv| 4 * conv.size.n * conv.wide()))?,
        })
    }
}
