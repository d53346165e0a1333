//! The network's operations, each forward and back as launches.

use candle_core::{Error, Result, cuda_backend::CudaDevice};

use super::{
    kernels::{Arg, Kernels, Launch},
    layers::{Conv, Down, Head, Inputs, Pointers, Scratch, Up, segment, segments},
    products::Products,
    room::{Room, View, padded},
    table::{LAYERS, Layer, Layers},
};
use crate::{Precision, kernels::maps::Size};

/// Threads of a block that goes over the elements of a map, or sums over its pixels.
const THREADS: usize = 256;
/// Blocks of an operation over elements at most: each thread then takes several.
const BLOCKS: usize = 4096;
/// Threads of a block that adds up columns: so many columns, by so many of their rows.
const SUMMING: [usize; 2] = [16, 64];

/// The operations of a device in one precision.
#[derive(Debug)]
pub(super) struct Operations {
    kernels: Kernels,
    /// Numbers that a thread takes at a time: 16 bytes.
    vector: usize,
    norm_eps: f32,
}

/// Planes `[N, C, H, W]` on the device: where they are, and how many channels they have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes {
    pub(super) at: u64,
    pub(super) channels: usize,
}

/// The gradient that arrives at what a convolution's norm gives: in the maps themselves, and from the pool behind them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving<'a> {
    pub(super) maps: View,
    pub(super) pooled: Option<(View, &'a Down)>,
}

impl Operations {
    pub(super) fn new(device: &CudaDevice, precision: Precision, norm_eps: f64) -> Result<Self> {
        let kernels = Kernels::new(device, precision)?;
        Products::allow_shared(&kernels, precision)?;
        let vector = match precision {
            Precision::Bf16 => 8,
            Precision::F32 | Precision::Tf32 => 4,
        };
        Ok(Self {
            kernels,
            vector,
            norm_eps: norm_eps as f32,
        })
    }

    /// A launch over a map's elements, those of each image by themselves.
    fn over(&self, pixels: usize, channels: usize, images: usize) -> Launch {
        let blocks = (pixels * channels / self.vector).div_ceil(THREADS);
        Launch::new([blocks.clamp(1, BLOCKS), images, 1], THREADS)
    }

    /// A launch that sums over the pixels of each image: segments, groups of channels, images.
    fn sums(&self, size: Size, wide: usize) -> Launch {
        let vectors = wide / self.vector;
        let groups = vectors.div_ceil(vectors.min(32));
        Launch::new([segments(size), groups, size.n], THREADS)
    }

    /// A launch of a thread a channel that adds up what blocks have summed.
    fn columns(columns: usize, images: usize) -> Launch {
        Launch {
            grid: [columns.div_ceil(SUMMING[0]), images, 1],
            threads: SUMMING,
            shared: 0,
        }
    }

    /// Adds up rows of groups of `wide` columns, of each of which `real` are kept.
    fn add_up(
        &self,
        partial: &Room,
        rows: usize,
        groups: usize,
        [wide, real]: [usize; 2],
        to: u64,
    ) -> Result<()> {
        self.kernels.launch(
            "column_sums",
            Self::columns(groups * wide, 1),
            &[
                partial.arg(),
                Arg::Pointer(to),
                Arg::int(rows),
                Arg::int(groups * wide),
                Arg::int(wide),
                Arg::int(real),
            ],
        )
    }

    /// The present values of some layers' kernels and biases, as the products want them.
    pub(super) fn pack(&self, layers: &[Layer]) -> Result<()> {
        for layers in layers.chunks(LAYERS) {
            let numbers = layers.iter().map(Layer::numbers).max();
            let blocks = numbers
                .unwrap_or_default()
                .div_ceil(THREADS)
                .clamp(1, THREADS);
            self.kernels.launch(
                "pack_weights",
                Launch::new([blocks, layers.len(), 1], THREADS),
                &[Arg::Layers(&Layers::new(layers))],
            )?;
        }
        Ok(())
    }

    pub(super) fn to_map(&self, size: Size, planes: Planes, map: View) -> Result<()> {
        self.kernels.launch(
            "planes_to_map",
            self.over(size.pixels(), map.channels, 1),
            &[
                Arg::Pointer(planes.at),
                map.arg(),
                map.pitch(),
                Arg::int(planes.channels),
                Arg::int(map.channels),
                Arg::long(size.area()),
                Arg::long(size.pixels()),
            ],
        )
    }

    pub(super) fn to_planes(&self, size: Size, map: View, planes: Planes) -> Result<()> {
        self.kernels.launch(
            "map_to_planes",
            self.over(size.pixels(), planes.channels * self.vector, 1),
            &[
                map.arg(),
                map.pitch(),
                Arg::Pointer(planes.at),
                Arg::int(planes.channels),
                Arg::long(size.area()),
                Arg::long(size.pixels()),
            ],
        )
    }

    /// A convolution and its moments; [`Operations::norm`] is yet to come.
    pub(super) fn conv(&self, conv: &Conv, input: View, moments: &Room) -> Result<()> {
        let rows = Products::conv(
            &self.kernels,
            conv.size,
            input,
            &conv.forward,
            Some((&conv.bias, moments)),
            conv.rectified.view(),
        )?;
        let [_, _, weight, bias] = conv.weights;
        self.kernels.launch(
            "norm_moments",
            Self::columns(conv.wide(), conv.size.n),
            &[
                moments.arg(),
                Arg::Pointer(weight),
                Arg::Pointer(bias),
                conv.stats.arg(),
                conv.affine.arg(),
                Arg::int(conv.size.h),
                Arg::int(conv.size.w),
                Arg::int(rows),
                Arg::int(conv.outputs),
                Arg::int(conv.wide()),
                Arg::Float(self.norm_eps),
            ],
        )
    }

    /// The norm of a convolution's result.
    pub(super) fn norm(&self, conv: &Conv, to: View) -> Result<()> {
        self.kernels.launch(
            "norm_apply",
            self.over(conv.size.area(), conv.wide(), conv.size.n),
            &[
                conv.rectified.view().arg(),
                conv.affine.arg(),
                to.arg(),
                to.pitch(),
                Arg::long(conv.size.area()),
                Arg::int(conv.wide()),
            ],
        )
    }

    /// The norm of a level's second convolution, to its part of the joined maps, and the maxima.
    pub(super) fn norm_and_pool(&self, conv: &Conv, down: &Down) -> Result<()> {
        let wide = conv.wide();
        let skip = down.joined.part(wide, wide);
        self.kernels.launch(
            "norm_apply_pool",
            self.over(conv.size.area() / 4, wide, conv.size.n),
            &[
                conv.rectified.view().arg(),
                conv.affine.arg(),
                skip.arg(),
                skip.pitch(),
                down.pooled.view().arg(),
                down.positions.arg(),
                Arg::int(conv.size.h),
                Arg::int(conv.size.w),
                Arg::int(wide),
            ],
        )
    }

    /// Back through norm and `ReLU`: the gradients of the norm's weights and of the convolution's bias, and that in z, which
    /// stays in `scratch`.
    pub(super) fn norm_back(
        &self,
        conv: &Conv,
        from: Arriving<'_>,
        scratch: &Scratch,
        gradients: Pointers,
    ) -> Result<()> {
        let (size, wide) = (conv.size, conv.wide());
        let (pooled, positions) = match from.pooled {
            Some((pooled, down)) => (pooled.arg(), down.positions.arg()),
            None => (Arg::NULL, Arg::NULL),
        };
        let [_, of_bias, of_norm_weight, of_norm_bias] = gradients;
        let arriving = [from.maps.arg(), from.maps.pitch(), pooled, positions];
        let shape = [
            Arg::int(size.w),
            Arg::long(size.area()),
            Arg::int(wide),
            Arg::int(segment(size)),
        ];
        let rectified = conv.rectified.view().arg();
        let sums = [rectified, conv.stats.arg(), scratch.partial.arg()];
        self.kernels.launch(
            "norm_sums",
            self.sums(size, wide),
            &[&arriving[..], &sums, &shape].concat(),
        )?;
        self.kernels.launch(
            "norm_slopes",
            Self::columns(wide, 1),
            &[
                scratch.partial.arg(),
                conv.stats.arg(),
                Arg::Pointer(conv.weights[2]),
                Arg::Pointer(of_norm_weight),
                Arg::Pointer(of_norm_bias),
                scratch.slopes.arg(),
                Arg::int(size.n),
                Arg::int(segments(size)),
                Arg::long(size.area()),
                Arg::int(conv.outputs),
                Arg::int(wide),
            ],
        )?;
        let of_z = scratch.of_z.as_map(wide);
        let gradient = [
            rectified,
            scratch.slopes.arg(),
            of_z.arg(),
            scratch.biases.arg(),
        ];
        self.kernels.launch(
            "norm_gradient",
            self.sums(size, wide),
            &[&arriving[..], &gradient, &shape].concat(),
        )?;
        let rows = size.n * segments(size);
        self.add_up(&scratch.biases, rows, 1, [wide, conv.outputs], of_bias)
    }

    /// The gradient in a convolution's kernel, of the gradient in z that is in `scratch`.
    pub(super) fn conv_weight_gradient(
        &self,
        conv: &Conv,
        input: View,
        scratch: &Scratch,
        gradient: u64,
    ) -> Result<()> {
        let of_z = scratch.of_z.as_map(conv.wide());
        let Inputs {
            real,
            first,
            first_padded,
            ..
        } = conv.inputs;
        Products::conv_weight_gradient(
            &self.kernels,
            conv.size,
            [input, of_z],
            &scratch.partial,
            gradient,
            [real, conv.outputs],
            [first, first_padded],
        )
    }

    /// The gradient in what a convolution read, of the same.
    pub(super) fn conv_input_gradient(
        &self,
        conv: &Conv,
        of_input: View,
        scratch: &Scratch,
    ) -> Result<()> {
        let Some(weights) = &conv.backward else {
            return Err(no_way_back());
        };
        let of_z = scratch.of_z.as_map(conv.wide());
        Products::conv(&self.kernels, conv.size, of_z, weights, None, of_input).map(drop)
    }

    /// The way up.
    pub(super) fn up(&self, up: &Up, input: View, to: View) -> Result<()> {
        Products::up(&self.kernels, up.size, input, [&up.forward, &up.bias], to)
    }

    /// Back through a way up.
    pub(super) fn up_back(
        &self,
        up: &Up,
        input: View,
        from: View,
        of_input: View,
        scratch: &Scratch,
        gradients: [u64; 2],
    ) -> Result<()> {
        let Some(weights) = &up.backward else {
            return Err(no_way_back());
        };
        let size = up.size.doubled();
        self.kernels.launch(
            "map_sums",
            self.sums(size, from.channels),
            &[
                from.arg(),
                from.pitch(),
                scratch.biases.arg(),
                Arg::long(size.area()),
                Arg::int(from.channels),
                Arg::int(segment(size)),
            ],
        )?;
        let rows = size.n * segments(size);
        let columns = [from.channels, up.outputs];
        self.add_up(&scratch.biases, rows, 1, columns, gradients[1])?;
        Products::up_weight_gradient(
            &self.kernels,
            up.size,
            [input, from],
            &scratch.partial,
            gradients[0],
            [up.inputs, up.outputs],
        )?;
        Products::up_input_gradient(&self.kernels, up.size, from, weights, of_input)
    }

    /// Logits of what a convolution's norm gives, which is not made.
    pub(super) fn head(&self, head: Head, last: &Conv, logits: u64) -> Result<()> {
        let threads = 128;
        let blocks = head.size.area().div_ceil(threads);
        self.kernels.launch(
            "head_forward",
            Launch::new([blocks, head.size.n, 1], threads),
            &[
                last.rectified.view().arg(),
                last.affine.arg(),
                Arg::Pointer(head.weights[0]),
                Arg::Pointer(head.weights[1]),
                Arg::Pointer(logits),
                Arg::long(head.size.area()),
                Arg::int(head.inputs),
                Arg::int(padded(head.inputs)),
                Arg::int(head.classes),
            ],
        )
    }

    /// Back through the head, from the gradient in the logits.
    pub(super) fn head_back(
        &self,
        head: Head,
        last: &Conv,
        of_logits: u64,
        of_input: View,
        scratch: &Scratch,
        gradients: [u64; 2],
    ) -> Result<()> {
        let Head {
            size,
            inputs,
            classes,
            ..
        } = head;
        let wide = padded(inputs);
        self.kernels.launch(
            "head_sums",
            self.sums(size, wide),
            &[
                Arg::Pointer(of_logits),
                last.rectified.view().arg(),
                last.affine.arg(),
                scratch.partial.arg(),
                scratch.biases.arg(),
                Arg::long(size.area()),
                Arg::int(wide),
                Arg::int(classes),
                Arg::int(segment(size)),
            ],
        )?;
        let rows = size.n * segments(size);
        self.add_up(
            &scratch.partial,
            rows,
            classes,
            [wide, inputs],
            gradients[0],
        )?;
        self.add_up(&scratch.biases, rows, 1, [classes; 2], gradients[1])?;
        self.kernels.launch(
            "head_gradient",
            self.over(size.area(), wide, size.n),
            &[
                Arg::Pointer(of_logits),
                Arg::Pointer(head.weights[0]),
                of_input.arg(),
                Arg::long(size.area()),
                Arg::int(inputs),
                Arg::int(wide),
                Arg::int(classes),
            ],
        )
    }
}

pub(super) fn no_way_back() -> Error {
    Error::Msg(
        "U-Net: this computation was made without a way back; make it with training = true".into(),
    )
}
