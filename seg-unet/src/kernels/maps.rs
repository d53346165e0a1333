//! Feature maps as the kernels hold them: sixteen channels of a pixel side by side.
//!
//! Tensors are `[N, C, H, W]`, maps `[C/16, N, H, W]` of [`Block`]s, with zeros where the last block has no channel. A
//! vector register then holds one pixel's channels whatever the image's width, no sum of products needs a shuffle, and
//! any run of whole blocks of channels is one slice.

use rayon::prelude::*;

use super::{
    lanes::{Block, LANES, Lanes, Real},
    simd::{Dispatch, InstructionSet, Kernel},
};

/// How many images, and their height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
}

impl Size {
    /// Pixels of one image.
    pub(crate) fn area(self) -> usize {
        self.h * self.w
    }

    /// Pixels of all images.
    pub(crate) fn pixels(self) -> usize {
        self.n * self.area()
    }

    pub(crate) fn halved(self) -> Self {
        Self {
            h: self.h / 2,
            w: self.w / 2,
            ..self
        }
    }

    pub(crate) fn doubled(self) -> Self {
        Self {
            h: self.h * 2,
            w: self.w * 2,
            ..self
        }
    }
}

/// Up to sixteen channels that share a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// The blocks of tensors that are joined along the channels: each tensor begins a new block.
pub(crate) fn spans(channels: &[usize]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut start = 0;
    for &channels in channels {
        spans.extend((0..channels).step_by(LANES).map(|i| Span {
            first: start + i,
            count: LANES.min(channels - i),
        }));
        start += channels;
    }
    spans
}

/// Blocks `[C/16, N, H, W]` of a tensor's elements `[N, C, H, W]`.
pub(crate) fn to_blocks<R: Dispatch>(
    isa: InstructionSet,
    tensor: &[R],
    channels: usize,
    size: Size,
    maps: &mut [Block<R>],
) {
    let (area, blocks) = (size.area(), spans(&[channels]));
    maps.par_chunks_mut(area).enumerate().for_each(|(i, maps)| {
        let (block, image) = (blocks[i / size.n], i % size.n);
        let planes = &tensor[(image * channels + block.first) * area..][..block.count * area];
        R::dispatch(isa, ToBlocks { planes, maps });
    });
}

/// The elements `[N, C, H, W]` of blocks `[C/16, N, H, W]`.
pub(crate) fn from_blocks<R: Dispatch>(
    isa: InstructionSet,
    maps: &[Block<R>],
    channels: usize,
    size: Size,
    tensor: &mut [R],
) {
    let area = size.area();
    tensor
        .par_chunks_mut(channels * area)
        .enumerate()
        .flat_map(|(image, planes)| {
            let blocks = planes.par_chunks_mut(LANES * area).enumerate();
            blocks.map(move |(block, planes)| (block * size.n + image, planes))
        })
        .for_each(|(i, planes)| {
            let maps = &maps[i * area..][..area];
            R::dispatch(isa, FromBlocks { maps, planes });
        });
}

struct ToBlocks<'a, R> {
    planes: &'a [R],
    maps: &'a mut [Block<R>],
}

impl<R: Real> Kernel<R> for ToBlocks<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let area = self.maps.len();
        for (i, maps) in self.maps.chunks_mut(LANES).enumerate() {
            let mut rows = [L::zero(); LANES];
            for (row, plane) in rows.iter_mut().zip(self.planes.chunks_exact(area)) {
                *row = load_up_to(&plane[i * LANES..]);
            }
            L::transpose(&mut rows);
            for (map, row) in maps.iter_mut().zip(rows) {
                row.store(map);
            }
        }
    }
}

struct FromBlocks<'a, R> {
    maps: &'a [Block<R>],
    planes: &'a mut [R],
}

impl<R: Real> Kernel<R> for FromBlocks<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let area = self.maps.len();
        for (i, maps) in self.maps.chunks(LANES).enumerate() {
            let mut rows = [L::zero(); LANES];
            for (row, map) in rows.iter_mut().zip(maps) {
                *row = L::load(map);
            }
            L::transpose(&mut rows);
            for (plane, row) in self.planes.chunks_exact_mut(area).zip(rows) {
                store_up_to(row, &mut plane[i * LANES..]);
            }
        }
    }
}

/// The first sixteen numbers, or as many as there are and zeros.
#[inline(always)]
pub(crate) fn load_up_to<L: Lanes>(numbers: &[L::Real]) -> L {
    let mut block = Block::default();
    if let Some(numbers) = numbers.first_chunk::<LANES>() {
        block.0 = *numbers;
    } else {
        block.0[..numbers.len()].copy_from_slice(numbers);
    }
    L::load(&block)
}

/// As many of the numbers as there is room for.
#[inline(always)]
pub(crate) fn store_up_to<L: Lanes>(lanes: L, numbers: &mut [L::Real]) {
    let block = lanes.to_block();
    if let Some(numbers) = numbers.first_chunk_mut::<LANES>() {
        *numbers = block.0;
    } else {
        let count = numbers.len();
        numbers.copy_from_slice(&block.0[..count]);
    }
}
