//! A network's layers and the maps between them, in memory that is taken once.

use std::ops::Range;

use candle_core::{
    Result,
    cuda_backend::{
        CudaDevice,
        cudarc::driver::{CudaSlice, DevicePtr as _},
    },
};

use super::{
    layers::{Builder, Conv, Down, Head, Inputs, Scratch, Up},
    room::{Map, Room, View, padded},
    table::Layer,
};
use crate::{UNetConfig, kernels::maps::Size};

/// Variables of a product: weight and bias.
pub(super) const PER_PRODUCT: usize = 2;
/// Those of a convolution and its norm.
pub(super) const PER_CONV: usize = 2 * PER_PRODUCT;

/// The layers and the maps between them.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) packed: Vec<Layer>,
    pub(super) input: Map,
    /// Fine to coarse, the middle last.
    pub(super) encoder: Vec<Pair>,
    pub(super) down: Vec<Down>,
    /// Fine to coarse.
    pub(super) decoder: Vec<Pair>,
    pub(super) up: Vec<Up>,
    pub(super) head: Head,
    /// Moments of the tiles of a convolution.
    pub(super) moments: Room,
}

/// A level's two convolutions.
#[derive(Debug)]
pub(super) struct Pair {
    /// Where the variables of each begin.
    pub(super) at: [usize; 2],
    pub(super) convs: [Conv; 2],
    /// What the second reads.
    pub(super) between: Map,
    /// What comes after the second, where it is no part of the joined maps and not read by the head.
    pub(super) behind: Option<Map>,
}

/// What the way back needs besides.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) slopes: CudaSlice<f32>,
    pub(super) gradients: CudaSlice<f32>,
    /// Of each variable.
    pub(super) at: Vec<u64>,
    /// Gradient in what a pair gives, in what its second convolution reads, and in the maxima that the first one reads.
    pub(super) behind: Map,
    pub(super) between: Map,
    pub(super) pooled: Map,
    /// In the joined maps of each level: the half of the skip waits for the encoder.
    pub(super) joined: Vec<Map>,
    pub(super) scratch: Scratch,
}

/// Gives out the variables' places in their order.
struct Places<'a> {
    pointers: &'a [u64],
    next: usize,
}

impl Places<'_> {
    fn take<const COUNT: usize>(&mut self) -> (usize, [u64; COUNT]) {
        let at = self.next;
        self.next += COUNT;
        (at, std::array::from_fn(|k| self.pointers[at + k]))
    }
}

fn pair(
    build: &Builder<'_>,
    places: &mut Places<'_>,
    size: Size,
    inputs: Inputs,
    outputs: usize,
    [behind, goes_back]: [bool; 2],
) -> Result<Pair> {
    let (first, weights) = places.take::<PER_CONV>();
    let one = build.conv(size, inputs, outputs, weights, goes_back)?;
    let (second, weights) = places.take::<PER_CONV>();
    let two = build.conv(size, Inputs::of(&[outputs]), outputs, weights, true)?;
    Ok(Pair {
        at: [first, second],
        convs: [one, two],
        between: build.map(size, padded(outputs))?,
        behind: behind
            .then(|| build.map(size, padded(outputs)))
            .transpose()?,
    })
}

impl Network {
    pub(super) fn new(
        build: &Builder<'_>,
        config: &UNetConfig,
        size: Size,
        pointers: &[u64],
    ) -> Result<Self> {
        let depth = config.depth;
        let level = |level| (0..level).fold(size, |size: Size, _| size.halved());
        let channels = |level| config.channels(level);
        let mut places = Places { pointers, next: 0 };
        let mut encoder = Vec::new();
        for at in 0..=depth {
            let inputs = if at == 0 {
                config.in_channels
            } else {
                channels(at - 1)
            };
            let (inputs, ends) = (Inputs::of(&[inputs]), [at == depth, at > 0]);
            encoder.push(pair(
                build,
                &mut places,
                level(at),
                inputs,
                channels(at),
                ends,
            )?);
        }
        let (mut decoder, mut up) = (Vec::new(), Vec::new());
        for at in (0..depth).rev() {
            let (_, weights) = places.take::<PER_PRODUCT>();
            up.push(build.up(level(at + 1), channels(at + 1), channels(at), weights)?);
            let (joined, ends) = (Inputs::of(&[channels(at); 2]), [at > 0, true]);
            decoder.push(pair(
                build,
                &mut places,
                level(at),
                joined,
                channels(at),
                ends,
            )?);
        }
        decoder.reverse();
        up.reverse();
        let (_, weights) = places.take::<PER_PRODUCT>();
        let down = (0..depth).map(|at| build.down(level(at), channels(at)));
        let convs = || encoder.iter().chain(&decoder).flat_map(|pair| &pair.convs);
        Ok(Self {
            packed: convs()
                .map(Conv::layer)
                .chain(up.iter().map(Up::layer))
                .collect(),
            input: build.map(size, padded(config.in_channels))?,
            down: down.collect::<Result<_>>()?,
            head: Head {
                size,
                inputs: channels(0),
                classes: config.classes,
                weights,
            },
            moments: build.moments(convs())?,
            encoder,
            decoder,
            up,
        })
    }

    fn convs(&self) -> Vec<&Conv> {
        let pairs = self.encoder.iter().chain(&self.decoder);
        pairs.flat_map(|pair| &pair.convs).collect()
    }

    /// What an encoder's level reads.
    pub(super) fn encoder_input(&self, level: usize) -> View {
        match level {
            0 => self.input.view(),
            level => self.down[level - 1].pooled.view(),
        }
    }

    /// What the way up to a level reads: what stands behind the decoder's level below, or behind the middle.
    pub(super) fn below(&self, level: usize) -> View {
        let pair = self.decoder.get(level + 1).or(self.encoder.last());
        let Some(Pair {
            behind: Some(behind),
            ..
        }) = pair
        else {
            unreachable!("the middle and every decoder but the finest have maps behind them")
        };
        behind.view()
    }

    /// What the head reads.
    pub(super) fn last(&self) -> &Conv {
        let [_, last] = &self.decoder[0].convs;
        last
    }
}

impl Back {
    pub(super) fn new(
        device: &CudaDevice,
        build: &Builder<'_>,
        network: &Network,
        ranges: &[Range<usize>],
    ) -> Result<Self> {
        let convs = network.convs();
        let count = ranges.last().map_or(0, |last| last.end);
        let gradients = device.alloc_zeros::<f32>(count)?;
        let (start, _) = gradients.device_ptr(build.stream);
        let of = |range: &Range<usize>| start + (range.start * size_of::<f32>()) as u64;
        // Of any level: those of few channels have more padding.
        let numbers = |conv: &&Conv| conv.size.pixels() * conv.wide();
        let most = convs.iter().map(numbers).max().unwrap_or_default();
        let room = || {
            build.map(
                Size {
                    n: 1,
                    h: 1,
                    w: most,
                },
                1,
            )
        };
        let joined = |pair: &Pair| {
            let [first, _] = &pair.convs;
            build.map(first.size, first.inputs.padded)
        };
        let head = network.head;
        Ok(Self {
            slopes: device.alloc_zeros::<f32>(head.size.pixels() * head.classes)?,
            at: ranges.iter().map(of).collect(),
            gradients,
            behind: room()?,
            between: room()?,
            pooled: room()?,
            joined: network.decoder.iter().map(joined).collect::<Result<_>>()?,
            scratch: build.scratch(&convs, &network.up.iter().collect::<Vec<_>>(), head)?,
        })
    }

    /// Where the gradients of variables that stand together are.
    pub(super) fn of<const COUNT: usize>(&self, at: usize) -> [u64; COUNT] {
        std::array::from_fn(|k| self.at[at + k])
    }
}
