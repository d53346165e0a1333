//! The products of matrices that convolutions are, as launches: which kernel, how many blocks, how much memory.

use candle_core::Result;

use super::{
    kernels::{Arg, Kernels, Launch},
    room::{Room, View},
};
use crate::{Precision, kernels::maps::Size};

/// Threads of a block, but of a convolution.
const THREADS: usize = 128;
/// Columns of a tile of pixels.
const COLUMNS: usize = 16;
/// Rows of a tile whose gradient is summed.
const ROWS: usize = 8;
/// Blocks that fill a large GPU twice over; where there are fewer, tiles are smaller or sums are split. It is not the number
/// of the device at hand: the same sizes give the same sums on all of them.
const BLOCKS: usize = 264;
/// Channels of a tile of a weight's gradient, each way.
const SIDE: usize = 32;

/// The same of a way up.
const UP_SIDE: usize = 64;
/// Pixels of a block of a way up.
const PIXELS: usize = 128;

/// Rows of pixels, and outputs, of a block of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    outputs: usize,
}

impl Tile {
    /// Each with its kernel, its threads, and the chunks of channels that are in shared memory at a time; the largest first.
    const ALL: [(Self, &'static str, [usize; 2]); 6] = {
        const fn tile(rows: usize, outputs: usize) -> Tile {
            Tile { rows, outputs }
        }
        [
            (tile(16, 64), "conv3_256x64", [256, 2]),
            (tile(16, 32), "conv3_256x32", [256, 3]),
            (tile(8, 64), "conv3_128x64", [128, 2]),
            (tile(8, 32), "conv3_128x32", [128, 3]),
            (tile(4, 64), "conv3_64x64", [128, 3]),
            (tile(4, 32), "conv3_64x32", [128, 4]),
        ]
    };

    /// The largest whose blocks are enough, or the smallest: the larger, the less often the weights are read.
    fn of(size: Size, outputs: usize) -> Self {
        let wide = if outputs <= 32 { 32 } else { 64 };
        let tile = |rows| Self {
            rows,
            outputs: wide,
        };
        let blocks = |rows| size.n * tile(rows).tiles(size) * outputs.div_ceil(wide);
        let rows = [16, 8].into_iter().find(|&rows| blocks(rows) >= BLOCKS);
        tile(rows.unwrap_or(4))
    }

    fn tiles(self, size: Size) -> usize {
        size.h.div_ceil(self.rows) * size.w.div_ceil(COLUMNS)
    }

    /// The kernel, its threads and the chunks in shared memory.
    fn kernel(self) -> (&'static str, [usize; 2]) {
        let found = Self::ALL.into_iter().find(|(tile, ..)| *tile == self);
        let Some((_, kernel, shape)) = found else {
            unreachable!("every tile is made in `of`")
        };
        (kernel, shape)
    }

    /// Bytes of shared memory: some chunks of the tile's pixels with their border and of the nine taps' weights, or the
    /// whole result on its way out.
    fn shared(self, [threads, chunks]: [usize; 2], precision: Precision) -> usize {
        let chunks = chunks * ((self.rows + 2) * (COLUMNS + 2) + 9 * self.outputs) * 32;
        let result = COLUMNS * self.rows * (self.outputs + 8) * width(precision) + 8 * threads;
        chunks.max(result)
    }
}

/// Bytes of a map's number.
pub(super) fn width(precision: Precision) -> usize {
    match precision {
        Precision::Bf16 => 2,
        Precision::F32 | Precision::Tf32 => 4,
    }
}

/// The launches. All of them name their memory by maps and rooms that the caller holds.
pub(super) struct Products;

impl Products {
    /// Lets the kernels have the shared memory that they need.
    pub(super) fn allow_shared(kernels: &Kernels, precision: Precision) -> Result<()> {
        for (tile, kernel, shape) in Tile::ALL {
            kernels.allow_shared(kernel, tile.shared(shape, precision))?;
        }
        kernels.allow_shared("conv3_gradient", shared_of_gradient(precision))
    }

    /// Numbers of the moments of a convolution's tiles.
    pub(super) fn moments(size: Size, outputs: usize) -> usize {
        size.n * Tile::of(size, outputs).tiles(size) * 2 * outputs
    }

    /// A 3 × 3 convolution: with bias, `ReLU` and moments, or, turned for the way back, without all of them. Returns the rows
    /// of a tile.
    pub(super) fn conv(
        kernels: &Kernels,
        size: Size,
        input: View,
        weights: &Room,
        finish: Option<(&Room, &Room)>,
        to: View,
    ) -> Result<usize> {
        let tile = Tile::of(size, to.channels);
        let (kernel, shape) = tile.kernel();
        let (bias, moments) = match finish {
            Some((bias, moments)) => (bias.arg(), moments.arg()),
            None => (Arg::NULL, Arg::NULL),
        };
        kernels.launch(
            kernel,
            Launch {
                grid: [tile.tiles(size), to.channels.div_ceil(tile.outputs), size.n],
                threads: [shape[0], 1],
                shared: tile.shared(shape, kernels.precision()),
            },
            &[
                input.arg(),
                input.pitch(),
                weights.arg(),
                bias,
                to.arg(),
                to.pitch(),
                moments,
                Arg::int(size.h),
                Arg::int(size.w),
                Arg::int(input.channels),
                Arg::int(to.channels),
                Arg::Int(i32::from(finish.is_some())),
            ],
        )?;
        Ok(tile.rows)
    }

    pub(super) fn conv_partial(
        precision: Precision,
        size: Size,
        inputs: usize,
        outputs: usize,
    ) -> usize {
        9 * inputs * outputs * conv_splits(precision, size, inputs, outputs)
    }

    /// The gradient in a convolution's kernel, of its input and of the gradient in z.
    pub(super) fn conv_weight_gradient(
        kernels: &Kernels,
        size: Size,
        [input, of_z]: [View; 2],
        partial: &Room,
        gradient: u64,
        [inputs, outputs]: [usize; 2],
        [first, first_padded]: [usize; 2],
    ) -> Result<()> {
        let splits = conv_splits(kernels.precision(), size, input.channels, of_z.channels);
        let tiles = [input.channels, of_z.channels].map(|channels| channels.div_ceil(SIDE));
        kernels.launch(
            "conv3_gradient",
            Launch {
                grid: [splits, tiles[0], tiles[1]],
                threads: [THREADS, 1],
                shared: shared_of_gradient(kernels.precision()),
            },
            &[
                input.arg(),
                input.pitch(),
                of_z.arg(),
                of_z.pitch(),
                partial.arg(),
                Arg::int(size.n),
                Arg::int(size.h),
                Arg::int(size.w),
                Arg::int(input.channels),
                Arg::int(of_z.channels),
            ],
        )?;
        kernels.launch(
            "conv3_gradient_sum",
            Launch::new([(9 * inputs * outputs).div_ceil(32), 1, 1], 256),
            &[
                partial.arg(),
                Arg::Pointer(gradient),
                Arg::int(splits),
                Arg::int(input.channels),
                Arg::int(of_z.channels),
                Arg::int(inputs),
                Arg::int(outputs),
                Arg::int(first),
                Arg::int(first_padded),
            ],
        )
    }

    pub(super) fn up_partial(
        precision: Precision,
        size: Size,
        inputs: usize,
        outputs: usize,
    ) -> usize {
        4 * inputs * outputs * up_splits(precision, size, inputs, outputs)
    }

    /// The 2 × 2 transposed convolution of maps of `size`, with bias.
    pub(super) fn up(
        kernels: &Kernels,
        size: Size,
        input: View,
        [weights, bias]: [&Room; 2],
        to: View,
    ) -> Result<()> {
        let (kernel, launch) =
            up_launch(["up2_forward_32", "up2_forward_64"], size, 4 * to.channels);
        kernels.launch(
            kernel,
            launch,
            &[
                input.arg(),
                input.pitch(),
                weights.arg(),
                bias.arg(),
                to.arg(),
                to.pitch(),
                Arg::int(size.n),
                Arg::int(size.h),
                Arg::int(size.w),
                Arg::int(input.channels),
                Arg::int(to.channels),
            ],
        )
    }

    /// The gradient in what a way up read.
    pub(super) fn up_input_gradient(
        kernels: &Kernels,
        size: Size,
        of_raised: View,
        weights: &Room,
        of_input: View,
    ) -> Result<()> {
        let names = ["up2_input_gradient_32", "up2_input_gradient_64"];
        let (kernel, launch) = up_launch(names, size, of_input.channels);
        kernels.launch(
            kernel,
            launch,
            &[
                of_raised.arg(),
                of_raised.pitch(),
                weights.arg(),
                of_input.arg(),
                of_input.pitch(),
                Arg::int(size.n),
                Arg::int(size.h),
                Arg::int(size.w),
                Arg::int(of_input.channels),
                Arg::int(of_raised.channels),
            ],
        )
    }

    /// The gradient in a way up's kernel, of its input and of the gradient in what it gave.
    pub(super) fn up_weight_gradient(
        kernels: &Kernels,
        size: Size,
        [input, of_raised]: [View; 2],
        partial: &Room,
        gradient: u64,
        [inputs, outputs]: [usize; 2],
    ) -> Result<()> {
        let wide = [input.channels, of_raised.channels];
        let splits = up_splits(kernels.precision(), size, wide[0], wide[1]);
        kernels.launch(
            "up2_weight_gradient",
            Launch {
                grid: [
                    splits,
                    wide[0].div_ceil(UP_SIDE),
                    (4 * wide[1]).div_ceil(UP_SIDE),
                ],
                threads: [THREADS, 1],
                shared: 48 << 10,
            },
            &[
                input.arg(),
                input.pitch(),
                of_raised.arg(),
                of_raised.pitch(),
                partial.arg(),
                Arg::int(size.n),
                Arg::int(size.h),
                Arg::int(size.w),
                Arg::int(wide[0]),
                Arg::int(wide[1]),
            ],
        )?;
        kernels.launch(
            "up2_weight_gradient_sum",
            Launch::new([(4 * inputs * outputs).div_ceil(32), 1, 1], 256),
            &[
                partial.arg(),
                Arg::Pointer(gradient),
                Arg::int(splits),
                Arg::int(wide[0]),
                Arg::int(wide[1]),
                Arg::int(inputs),
                Arg::int(outputs),
            ],
        )
    }
}

/// The kernel and blocks of a way up for so many columns of the product, of the narrow and the wide kernel.
fn up_launch(names: [&'static str; 2], size: Size, columns: usize) -> (&'static str, Launch) {
    let (kernel, wide) = if columns <= 32 {
        (names[0], 32)
    } else {
        (names[1], 64)
    };
    // Four stages of two chunks of 32 bytes of each pixel and column.
    let shared = 4 * 2 * (PIXELS + wide) * 32;
    let launch = Launch {
        grid: [size.pixels().div_ceil(PIXELS), columns.div_ceil(wide), 1],
        threads: [THREADS, 1],
        shared,
    };
    (kernel, launch)
}

/// Into how many parts the pixels of a way up are split whose products are summed.
fn up_splits(precision: Precision, size: Size, inputs: usize, outputs: usize) -> usize {
    let groups = size.pixels().div_ceil(128 / width(precision));
    let tiles = inputs.div_ceil(UP_SIDE) * (4 * outputs).div_ceil(UP_SIDE);
    BLOCKS.div_ceil(tiles).min(groups)
}

/// Bytes of shared memory of the gradient in a convolution's kernel: two patches of the input with their border, and of the
/// gradient in z.
fn shared_of_gradient(precision: Precision) -> usize {
    2 * ((ROWS + 2) * (COLUMNS + 2) + ROWS * COLUMNS) * SIDE * width(precision)
}

/// Into how many parts the pixels are split whose products are summed: enough for the blocks to fill a GPU.
fn conv_splits(precision: Precision, size: Size, inputs: usize, outputs: usize) -> usize {
    let patches = size.n * size.h.div_ceil(ROWS) * size.w.div_ceil(COLUMNS);
    let tiles = inputs.div_ceil(SIDE) * outputs.div_ceil(SIDE);
    // In half the shared memory a multiprocessor holds three blocks instead of two.
    let blocks = match precision {
        Precision::Bf16 => BLOCKS / 2 * 3,
        Precision::F32 | Precision::Tf32 => BLOCKS,
    };
    blocks.div_ceil(tiles).min(patches)
}
