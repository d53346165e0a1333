//! A tensor in the kernels' layout.

use candle_core::{Result, Shape};

use crate::kernels::{
    lanes::Block,
    maps::{Size, from_blocks, spans, to_blocks},
    simd::{Dispatch, InstructionSet},
    source::{Part, Source},
};

/// Images, height and width of `[N, C, H, W]`; and C.
pub(super) fn size(shape: &Shape) -> Result<(Size, usize)> {
    let (n, channels, h, w) = shape.dims4()?;
    Ok((Size { n, h, w }, channels))
}

/// A tensor `[N, C, H, W]` in blocks of sixteen channels.
pub(super) struct Blocked<R> {
    pub(super) blocks: Vec<Block<R>>,
    channels: usize,
    size: Size,
}

impl<R: Dispatch> Blocked<R> {
    pub(super) fn zeros(channels: usize, size: Size) -> Self {
        Self {
            blocks: vec![Block::default(); spans(&[channels]).len() * size.pixels()],
            channels,
            size,
        }
    }

    pub(super) fn new(isa: InstructionSet, elements: &[R], channels: usize, size: Size) -> Self {
        let mut new = Self::zeros(channels, size);
        to_blocks(isa, elements, channels, size, &mut new.blocks);
        new
    }

    pub(super) fn elements(&self, isa: InstructionSet) -> Vec<R> {
        let mut elements = vec![R::default(); self.channels * self.size.pixels()];
        from_blocks(isa, &self.blocks, self.channels, self.size, &mut elements);
        elements
    }
}

/// Tensors of one size, to be read as one that joins them along the channels.
pub(super) fn joined<R>(tensors: &[Blocked<R>], size: Size) -> Source<'_, R> {
    let parts = tensors.iter().map(|tensor| Part {
        maps: &tensor.blocks,
        channels: tensor.channels,
        affine: None,
    });
    Source {
        size,
        parts: parts.collect(),
    }
}
