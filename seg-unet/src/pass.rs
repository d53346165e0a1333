//! The network on the CPU as one computation: forward, and backward from the logits' gradient to every weight's.
//!
//! What Candle's graph would do for the same operations, without what it has to do in general: no tensor is laid out
//! anew between operations, none is kept but each convolution's result r = relu(z), of which the norm, the pool and the
//! way up are made again where they are read, no gradient is filled with zeros to be added to, and the maps' room is used
//! again in the next step.

use std::{marker::PhantomData, ops::Deref};

use candle_core::{Layout, Storage, Var};

use crate::{
    UNetConfig,
    kernels::{
        buffers::Maps,
        conv::{Conv, Finish, PartialMoments},
        conv_gradient::weight_gradient,
        few::{FEW, Few},
        filters::{Filters, Way},
        head::Head,
        lanes::Block,
        maps::{Size, spans, to_blocks},
        norm::{Moments, Normed, backward as norm_backward},
        pool::max_pool2,
        simd::{Dispatch, InstructionSet},
        source::{Affine, Part, Source},
        up::Up,
    },
    ops::cpu_elements,
    profile::operation,
};

/// The network's weights, in their order, and what else a pass needs.
pub(crate) struct Plan<'a, R> {
    pub(crate) config: &'a UNetConfig,
    pub(crate) vars: &'a [(String, Var)],
    pub(crate) isa: InstructionSet,
    /// Of the images.
    pub(crate) size: Size,
    pub(crate) of: PhantomData<R>,
}

/// Who takes the gradient of the weight at a place in their order, as soon as nothing else needs the weight.
pub(crate) type Sink<'a, R, E> = &'a mut (dyn FnMut(usize, Vec<R>) -> Result<(), E> + Send);

/// A weight's numbers; while this guard of their storage lives, nobody can write them.
struct Weight<'a, G, R> {
    guard: G,
    layout: &'a Layout,
    of: PhantomData<R>,
}

impl<G: Deref<Target = Storage>, R: Dispatch> Deref for Weight<'_, G, R> {
    type Target = [R];

    fn deref(&self) -> &[R] {
        cpu_elements(&self.guard, self.layout).expect("the weights are the CPU's, of one dtype")
    }
}

/// What a forward pass keeps: the results of all convolutions.
#[derive(Debug)]
pub(crate) struct Trace<R: Dispatch> {
    /// Fine to coarse; the middle is the last.
    encoder: Vec<Pair<R>>,
    /// Coarse to fine.
    decoder: Vec<Pair<R>>,
}

/// The results of a level's two convolutions.
type Pair<R> = [Rectified<R>; 2];

/// r = relu(z) of a convolution, and the norm that is yet to be applied.
#[derive(Debug)]
struct Rectified<R: Dispatch> {
    maps: Maps<R>,
    channels: usize,
    size: Size,
    moments: Moments<R>,
    affine: Affine<R>,
}

impl<R: Dispatch> Rectified<R> {
    fn part(&self) -> Part<'_, R> {
        Part {
            maps: &self.maps,
            channels: self.channels,
            affine: Some(&self.affine),
        }
    }

    fn source(&self) -> Source<'_, R> {
        Source {
            size: self.size,
            parts: vec![self.part()],
        }
    }

    fn normed(&self) -> Normed<'_, R> {
        Normed {
            maps: &self.maps,
            channels: self.channels,
            size: self.size,
            moments: &self.moments,
            affine: &self.affine,
        }
    }
}

/// A result that others need still, or that goes when it has been read.
enum Held<'a, R: Dispatch> {
    Kept(&'a Rectified<R>),
    Spare(Rectified<R>),
}

impl<R: Dispatch> Deref for Held<'_, R> {
    type Target = Rectified<R>;

    fn deref(&self) -> &Rectified<R> {
        match self {
            Self::Kept(result) => result,
            Self::Spare(result) => result,
        }
    }
}

/// What the encoder reads.
enum Input<'a, R: Dispatch> {
    /// Maps of some channels.
    Maps(Maps<R>, usize),
    /// The network's images, of few channels.
    Planes(Few<'a, R>),
}

/// Weight and bias, of a convolution or a norm.
const PER_LAYER: usize = 2;
/// Those of a convolution and its norm.
const PER_CONV: usize = 2 * PER_LAYER;
const PER_PAIR: usize = 2 * PER_CONV;

impl<R: Dispatch> Plan<'_, R> {
    /// Where the weights of an encoder's level begin; the middle's is `depth`.
    fn encoder_at(level: usize) -> usize {
        level * PER_PAIR
    }

    /// Where the weights of the way up to a level begin.
    fn up_at(&self, level: usize) -> usize {
        let UNetConfig { depth, .. } = *self.config;
        Self::encoder_at(depth + 1) + (depth - 1 - level) * (PER_LAYER + PER_PAIR)
    }

    /// Where the weights of a decoder's level begin: they follow those of the way up.
    fn decoder_at(&self, level: usize) -> usize {
        self.up_at(level) + PER_LAYER
    }

    fn head_at(&self) -> usize {
        self.vars.len() - PER_LAYER
    }

    /// The weight at a place in their order.
    fn weight(&self, at: usize) -> impl Deref<Target = [R]> {
        let (_, var) = &self.vars[at];
        let (guard, layout) = var.storage_and_layout();
        let of = PhantomData;
        Weight { guard, layout, of }
    }

    /// A convolution of 3 × 3 for the profile: name, operations and bytes.
    fn describe(&self, at: usize, level: usize) -> (String, f64, f64) {
        let (name, weights) = &self.vars[at];
        let pixels = self.level_size(level).pixels() as f64;
        let &[outputs, inputs, ..] = weights.dims() else {
            unreachable!("a kernel has four dimensions")
        };
        let numbers = weights.elem_count() as f64 + pixels * (inputs + outputs) as f64;
        let name = name.trim_end_matches(".weight").to_owned();
        let flops = 2.0 * pixels * weights.elem_count() as f64;
        (name, flops, numbers * size_of::<R>() as f64)
    }

    /// A way up for the profile.
    fn describe_up(&self, level: usize) -> (String, f64, f64) {
        let (inputs, outputs) = (self.config.channels(level + 1), self.config.channels(level));
        let pixels = self.level_size(level + 1).pixels() as f64;
        let weights = (4 * inputs * outputs) as f64;
        let numbers = weights + pixels * (inputs + 4 * outputs) as f64;
        let bytes = numbers * size_of::<R>() as f64;
        (format!("up{level}"), 2.0 * pixels * weights, bytes)
    }

    fn zeros_like(&self, at: usize) -> Vec<R> {
        let (_, var) = &self.vars[at];
        vec![R::default(); var.elem_count()]
    }

    fn level_size(&self, level: usize) -> Size {
        (0..level).fold(self.size, |size, _| size.halved())
    }

    fn take(&self, channels: usize, level: usize) -> Maps<R> {
        let pixels = self.level_size(level).pixels();
        R::arena().take(spans(&[channels]).len() * pixels)
    }

    /// Logits `[N, K, H, W]` of images `[N, C, H, W]`, and what the way back needs.
    pub(crate) fn forward(&self, images: &[R]) -> (Vec<R>, Trace<R>) {
        let UNetConfig { depth, .. } = *self.config;
        let mut encoder: Vec<Pair<R>> = Vec::new();
        for level in 0..=depth {
            let above = encoder.last().map(|[_, second]| second);
            encoder.push(self.encode(images, level, above));
        }
        let mut decoder: Vec<Pair<R>> = Vec::new();
        for level in (0..depth).rev() {
            let [_, below] = decoder.last().unwrap_or(&encoder[depth]);
            let [_, skip] = &encoder[level];
            decoder.push(self.decode(level, Held::Kept(below), Held::Kept(skip)));
        }
        let [_, last] = decoder.last().unwrap_or(&encoder[depth]);
        (self.logits(last), Trace { encoder, decoder })
    }

    /// Logits alone: all else is dropped as soon as nobody needs it.
    pub(crate) fn infer(&self, images: &[R]) -> Vec<R> {
        let UNetConfig { depth, .. } = *self.config;
        let mut skips: Vec<Rectified<R>> = Vec::new();
        for level in 0..depth {
            let [_, second] = self.encode(images, level, skips.last());
            skips.push(second);
        }
        let [_, mut last] = self.encode(images, depth, skips.last());
        for (level, skip) in skips.into_iter().enumerate().rev() {
            [_, last] = self.decode(level, Held::Spare(last), Held::Spare(skip));
        }
        self.logits(&last)
    }

    fn encode(&self, images: &[R], level: usize, above: Option<&Rectified<R>>) -> Pair<R> {
        let at = Self::encoder_at(level);
        let first = match self.encoder_input(images, level, above) {
            Input::Planes(few) => self.layer(at, level, |weights, finish, channels, maps| {
                few.conv(self.isa, weights, finish, channels, maps)
            }),
            Input::Maps(maps, channels) => {
                self.conv(at, level, &self.source(&maps, channels, level))
            }
        };
        let second = self.conv(at + PER_CONV, level, &first.source());
        [first, second]
    }

    fn decode(&self, level: usize, below: Held<'_, R>, skip: Held<'_, R>) -> Pair<R> {
        let at = self.decoder_at(level);
        let raised = self.raised(&below, level);
        drop(below);
        let first = self.conv(at, level, &Self::joined(&raised, &skip));
        drop((raised, skip));
        let second = self.conv(at + PER_CONV, level, &first.source());
        [first, second]
    }

    fn logits(&self, last: &Rectified<R>) -> Vec<R> {
        let mut logits = vec![R::default(); self.config.classes * self.size.pixels()];
        let (weights, bias) = (self.weight(self.head_at()), self.weight(self.head_at() + 1));
        let head = self.head(last, &weights);
        operation(
            "forward",
            || self.describe(self.head_at(), 0),
            || head.run(self.isa, &bias, &mut logits),
        );
        logits
    }

    /// What the encoder reads on a level: the images, or the maxima of the level above.
    fn encoder_input<'a>(
        &self,
        images: &'a [R],
        level: usize,
        above: Option<&Rectified<R>>,
    ) -> Input<'a, R> {
        let channels = self.config.in_channels;
        match above {
            Some(above) => {
                let mut maps = self.take(above.channels, level);
                let pixels = (above.channels * above.size.pixels()) as f64;
                operation(
                    "forward",
                    || {
                        let bytes = 1.25 * pixels * size_of::<R>() as f64;
                        (format!("enc{}.pool", level - 1), 2.75 * pixels, bytes)
                    },
                    || max_pool2(self.isa, &above.maps, &above.affine, above.size, &mut maps),
                );
                Input::Maps(maps, above.channels)
            }
            None if channels <= FEW => Input::Planes(Few {
                planes: images,
                channels,
                size: self.size,
            }),
            None => {
                let mut maps = self.take(channels, level);
                to_blocks(self.isa, images, channels, self.size, &mut maps);
                Input::Maps(maps, channels)
            }
        }
    }

    fn source<'a>(&self, maps: &'a Maps<R>, channels: usize, level: usize) -> Source<'a, R> {
        Source {
            size: self.level_size(level),
            parts: vec![Part {
                maps,
                channels,
                affine: None,
            }],
        }
    }

    /// The maps below, raised to a level.
    fn raised(&self, below: &Rectified<R>, level: usize) -> Maps<R> {
        let mut raised = self.take(self.config.channels(level), level);
        let at = self.up_at(level);
        let (weights, bias) = (self.weight(at), self.weight(at + 1));
        let up = self.up(below, &weights, level);
        operation(
            "forward",
            || self.describe_up(level),
            || up.run(self.isa, &bias, &mut raised),
        );
        raised
    }

    /// The raised maps and the level's own: what the decoder reads.
    fn joined<'a>(raised: &'a Maps<R>, skip: &'a Rectified<R>) -> Source<'a, R> {
        let raised = Part {
            maps: raised,
            channels: skip.channels,
            affine: None,
        };
        Source {
            size: skip.size,
            parts: vec![raised, skip.part()],
        }
    }

    /// The way up to a level.
    fn up<'a>(&self, below: &'a Rectified<R>, weights: &'a [R], level: usize) -> Up<'a, R> {
        Up {
            source: below.part(),
            size: below.size,
            weights,
            outputs: self.config.channels(level),
        }
    }

    fn head<'a>(&self, last: &'a Rectified<R>, weights: &'a [R]) -> Head<'a, R> {
        Head {
            source: last.part(),
            size: last.size,
            weights,
            classes: self.config.classes,
        }
    }

    /// Convolution of maps, and all else of a layer.
    fn conv(&self, at: usize, level: usize, source: &Source<'_, R>) -> Rectified<R> {
        self.layer(at, level, |weights, finish, channels, maps| {
            Conv {
                source,
                filters: Filters {
                    weights,
                    columns: source.channels().iter().sum(),
                },
                way: Way::Forward,
                outputs: &[channels],
                finish,
            }
            .run(self.isa, vec![maps])
        })
    }

    /// A convolution, `ReLU`, and the moments for the norm.
    fn layer(
        &self,
        at: usize,
        level: usize,
        conv: impl FnOnce(&[R], Finish<'_, R>, usize, &mut [Block<R>]) -> Vec<PartialMoments>,
    ) -> Rectified<R> {
        let [weights, bias, norm_weight, norm_bias] = [0, 1, 2, 3].map(|i| self.weight(at + i));
        let (channels, size) = (self.config.channels(level), self.level_size(level));
        let mut maps = self.take(channels, level);
        let finish = Finish {
            bias: Some(&bias),
            relu: true,
            moments: true,
        };
        let parts = operation(
            "forward",
            || self.describe(at, level),
            || conv(&weights, finish, channels, &mut maps),
        );
        let blocks = spans(&[channels]).len();
        let moments = Moments::of_parts(&parts, blocks, size, self.config.norm_eps);
        Rectified {
            affine: moments.affine(&norm_weight, &norm_bias),
            maps,
            channels,
            size,
            moments,
        }
    }

    /// Every weight's gradient, from that of the logits, to whoever takes them.
    pub(crate) fn backward<E>(
        &self,
        images: &[R],
        trace: Trace<R>,
        gradient: &[R],
        sink: Sink<'_, R, E>,
    ) -> Result<(), E> {
        let Trace {
            mut encoder,
            mut decoder,
        } = trace;
        let UNetConfig { depth, .. } = *self.config;
        let mut of_last = self.take(self.config.channels(0), 0);
        if let Some([_, last]) = decoder.last() {
            let at = self.head_at();
            let head = self.weight(at);
            let layer = self.head(last, &head);
            let of = operation(
                "backward",
                || {
                    let (name, flops, bytes) = self.describe(at, 0);
                    (name, 2.0 * flops, 2.0 * bytes)
                },
                || layer.backward(self.isa, gradient, &mut of_last),
            );
            drop(head);
            sink(at, of.weights)?;
            sink(at + 1, of.bias)?;
        }
        // Fine to coarse through the decoder, then back through the encoder.
        let mut of_skips = Vec::new();
        for level in 0..depth {
            let Some(pair) = decoder.pop() else { break };
            let at = self.decoder_at(level);
            let of_first = self.second_back(at, level, pair, of_last, None, sink)?;
            let [_, below] = decoder.last().unwrap_or(&encoder[depth]);
            let [_, skip] = &encoder[level];
            let raised = self.raised(below, level);
            let of_weights =
                self.weight_gradient(at, level, &Self::joined(&raised, skip), &of_first);
            drop(raised);
            let inputs = [skip.channels, skip.channels];
            let [of_raised, of_skip] = self.input_gradients(at, level, inputs, &of_first);
            drop(of_first);
            of_skips.push(of_skip);
            sink(at, of_weights)?;
            let at = self.up_at(level);
            let (mut of_weights, mut of_bias) = (self.zeros_like(at), self.zeros_like(at + 1));
            of_last = self.take(below.channels, level + 1);
            {
                let weights = self.weight(at);
                let up = self.up(below, &weights, level);
                operation(
                    "weight gradient",
                    || self.describe_up(level),
                    || up.weight_gradient(self.isa, &of_raised, &mut of_weights, &mut of_bias),
                );
                operation(
                    "input gradient",
                    || self.describe_up(level),
                    || up.input_gradient(self.isa, &of_raised, &mut of_last),
                );
            }
            sink(at, of_weights)?;
            sink(at + 1, of_bias)?;
        }
        let mut of_maxima = None;
        for level in (0..=depth).rev() {
            let Some(pair) = encoder.pop() else { break };
            let at = Self::encoder_at(level);
            let of_first = self.second_back(at, level, pair, of_last, of_maxima, sink)?;
            let above = encoder.last().map(|[_, second]| second);
            let of_weights = match self.encoder_input(images, level, above) {
                Input::Planes(few) => {
                    let mut weights = self.zeros_like(at);
                    let channels = self.config.channels(level);
                    operation(
                        "weight gradient",
                        || self.describe(at, level),
                        || few.weight_gradient(self.isa, &of_first, channels, &mut weights),
                    );
                    weights
                }
                Input::Maps(maps, channels) => {
                    self.weight_gradient(at, level, &self.source(&maps, channels, level), &of_first)
                }
            };
            let (Some(above), Some(of_skip)) = (above, of_skips.pop()) else {
                return sink(at, of_weights); // the images need no gradient
            };
            let [of_input] = self.input_gradients(at, level, [above.channels], &of_first);
            sink(at, of_weights)?;
            of_maxima = Some(of_input);
            of_last = of_skip;
        }
        Ok(())
    }

    /// From the gradient of a pair's result, and of its windows' maxima, to that of the first convolution's result
    /// before the `ReLU`; all weights' gradients on the way, but that of the first convolution's kernel.
    fn second_back<E>(
        &self,
        at: usize,
        level: usize,
        [first, second]: Pair<R>,
        gradient: Maps<R>,
        maxima: Option<Maps<R>>,
        sink: Sink<'_, R, E>,
    ) -> Result<Maps<R>, E> {
        let second_at = at + PER_CONV;
        let of_second = self.norm_back(second_at, &second, gradient, maxima.as_ref(), sink)?;
        drop((second, maxima));
        let of_weights = self.weight_gradient(second_at, level, &first.source(), &of_second);
        let [of_first] = self.input_gradients(second_at, level, [first.channels], &of_second);
        drop(of_second);
        sink(second_at, of_weights)?;
        self.norm_back(at, &first, of_first, None, sink)
    }

    /// From the gradient of a norm's result to that of the convolution's before the `ReLU`, in the same room.
    fn norm_back<E>(
        &self,
        at: usize,
        result: &Rectified<R>,
        mut gradient: Maps<R>,
        maxima: Option<&Maps<R>>,
        sink: Sink<'_, R, E>,
    ) -> Result<Maps<R>, E> {
        let maxima = maxima.map(|maxima| &maxima[..]);
        let normed = result.normed();
        let of = operation(
            "norm backward",
            || {
                // Two passes: the sums first, over the maps and the gradient, which the second writes.
                let numbers = (result.channels * result.size.pixels()) as f64;
                let (name, _) = &self.vars[at + PER_LAYER];
                let passes = if maxima.is_some() { 6.25 } else { 5.0 };
                let bytes = passes * numbers * size_of::<R>() as f64;
                (
                    name.trim_end_matches(".weight").to_owned(),
                    9.0 * numbers,
                    bytes,
                )
            },
            || norm_backward(self.isa, normed, &mut gradient, maxima),
        );
        sink(at + 1, of.conv_bias)?;
        sink(at + PER_LAYER, of.weight)?;
        sink(at + PER_LAYER + 1, of.bias)?;
        Ok(gradient)
    }

    fn weight_gradient(
        &self,
        at: usize,
        level: usize,
        source: &Source<'_, R>,
        gradient: &[Block<R>],
    ) -> Vec<R> {
        let mut weights = self.zeros_like(at);
        let (_, bias) = &self.vars[at + 1];
        let outputs = bias.elem_count();
        operation(
            "weight gradient",
            || self.describe(at, level),
            || weight_gradient(self.isa, source, gradient, outputs, &mut weights),
        );
        weights
    }

    /// From the gradient of a convolution's result to those of the maps it read.
    fn input_gradients<const N: usize>(
        &self,
        at: usize,
        level: usize,
        inputs: [usize; N],
        gradient: &Maps<R>,
    ) -> [Maps<R>; N] {
        let mut of_inputs = inputs.map(|channels| self.take(channels, level));
        let source = self.source(gradient, self.config.channels(level), level);
        let filters = self.weight(at);
        let conv = Conv {
            source: &source,
            filters: Filters {
                weights: &filters,
                columns: inputs.iter().sum(),
            },
            way: Way::Backward,
            outputs: &inputs,
            finish: Finish::default(),
        };
        let results = of_inputs.iter_mut().map(|maps| &mut maps[..]).collect();
        operation(
            "input gradient",
            || self.describe(at, level),
            || conv.run(self.isa, results),
        );
        of_inputs
    }

    /// How many blocks may be in use at once: what all convolutions leave and some gradients of the finest level, and as
    /// much again for what lies between and for the products' operands. No promise, and no harm if it is too much.
    pub(crate) fn blocks_at_once(&self) -> usize {
        let level = |level: usize| {
            let blocks = spans(&[self.config.channels(level)]).len();
            blocks * self.level_size(level).pixels()
        };
        let kept: usize = (0..self.config.depth).map(|i| 4 * level(i)).sum();
        2 * (kept + 2 * level(self.config.depth) + 4 * level(0))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device::Cpu, Tensor, WithDType};

    use super::*;
    use crate::{UNet, kernels::simd::each_instruction_set, ops::testing::random};

    const SMALL: UNetConfig = UNetConfig {
        in_channels: 1,
        classes: 2,
        width: 4,
        depth: 1,
        norm_eps: 1e-3,
    };

    fn values(t: &Tensor) -> Vec<f64> {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    }

    /// Relative to the norm of `b`.
    fn distance(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
        difference / norm(&mut b.iter().copied()).max(1e-300)
    }

    /// Few and many channels, images that fill no vector, more tiles than channels and fewer.
    fn cases() -> [(UNetConfig, [usize; 3]); 4] {
        let with = |in_channels, classes, width, depth| UNetConfig {
            in_channels,
            classes,
            width,
            depth,
            ..SMALL
        };
        [
            (SMALL, [1, 6, 10]),
            (with(3, 1, 20, 2), [2, 20, 12]),
            (with(9, 3, 8, 3), [2, 16, 48]),
            (with(3, 2, 32, 3), [1, 64, 64]),
        ]
    }

    #[test]
    fn a_pass_is_the_graph_of_the_operations() {
        for (config, [n, h, w]) in cases() {
            let net = UNet::with_dtype(&config, 3, DType::F64, &Cpu).unwrap();
            let x = random(&[n, config.in_channels, h, w], 1);
            let logits = net.forward(&x).unwrap();
            let g = random(logits.dims(), 2);
            let graph = (&logits * &g).unwrap().sum_all().unwrap();
            let graph = graph.backward().unwrap();
            let pass = net.pass(&x).unwrap();
            assert!(distance(&values(pass.logits()), &values(&logits)) < 1e-11);
            let inferred = net.infer(&x).unwrap();
            assert_eq!(values(&inferred), values(pass.logits()));
            let gradients = pass.backward(&g).unwrap();
            for (name, var) in net.vars() {
                let [found, expected] = [&gradients, &graph].map(|g| values(g.get(var).unwrap()));
                // The norm makes the gradient of a convolution's bias a sum of what cancels.
                let nothing = found.iter().all(|x| x.abs() < 1e-9);
                let distance = distance(&found, &expected);
                assert!(distance < 1e-9 || nothing, "{name}: {distance}");
            }
        }
    }

    fn of_set<R: Dispatch + WithDType>(
        net: &UNet,
        isa: InstructionSet,
        x: &[R],
        size: Size,
        g: &[R],
    ) -> Vec<Vec<f64>> {
        let plan = Plan::<R> {
            config: net.config(),
            vars: net.vars(),
            isa,
            size,
            of: PhantomData,
        };
        let numbers = |x: Vec<R>| -> Vec<f64> { x.into_iter().map(R::to_f64).collect() };
        let (logits, trace) = plan.forward(x);
        let mut all = vec![Vec::new(); net.vars().len()];
        all.push(numbers(logits));
        plan.backward(x, trace, g, &mut |at, gradient| {
            all[at] = numbers(gradient);
            Ok::<_, candle_core::Error>(())
        })
        .unwrap();
        all
    }

    /// A numbers' rounding may carry it over a threshold of a `ReLU` or a pool, which changes a gradient by more than
    /// the rounding; so the gradients' bound is wide, and each operation's own is narrow (see `tests`).
    #[test]
    fn a_pass_of_every_instruction_set_is_near_that_of_f64() {
        for (config, [n, h, w]) in cases() {
            let net = UNet::new(&config, 3, &Cpu).unwrap();
            let wide = UNet::with_dtype(&config, 3, DType::F64, &Cpu).unwrap();
            let tensors = net.tensors().into_iter();
            let tensors = tensors.map(|(name, t)| (name, t.to_dtype(DType::F64).unwrap()));
            wide.set_tensors(&tensors.collect()).unwrap();
            let size = Size { n, h, w };
            let draw = |channels, seed| -> Vec<f32> {
                let numbers = values(&random(&[n, channels, h, w], seed));
                numbers.into_iter().map(|x| x as f32).collect()
            };
            let (x, g) = (draw(config.in_channels, 1), draw(config.classes, 2));
            let [x64, g64] = [&x, &g].map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let expected = of_set(&wide, InstructionSet::Portable, &x64, size, &g64);
            for isa in each_instruction_set() {
                let found = of_set(&net, isa, &x, size, &g);
                for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let name = net.vars().get(at).map_or("logits", |(name, _)| name);
                    let bound = if name == "logits" { 1e-5 } else { 2e-2 };
                    let nothing = found.iter().all(|x| x.abs() < 1e-3);
                    let distance = distance(found, expected);
                    assert!(distance < bound || nothing, "{isa} {name}: {distance}");
                }
            }
        }
    }

    #[test]
    fn a_gradient_that_does_not_fit_the_logits_is_refused() {
        let net = UNet::new(&SMALL, 3, &Cpu).unwrap();
        let x = Tensor::zeros((1, 1, 4, 4), DType::F32, &Cpu).unwrap();
        let refused = |dims: [usize; 4], dtype| {
            let gradient = Tensor::zeros(&dims, dtype, &Cpu).unwrap();
            let error = net.pass(&x).unwrap().backward(&gradient).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            refused([1, 1, 4, 4], DType::F32),
            "U-Net: the gradient is [1, 1, 4, 4] of F32; expected that of the logits, [1, 2, 4, 4] of F32"
        );
        assert_eq!(
            refused([1, 2, 4, 4], DType::F64),
            "U-Net: the gradient is [1, 2, 4, 4] of F64; expected that of the logits, [1, 2, 4, 4] of F32"
        );
    }

    #[test]
    fn who_takes_gradients_may_change_their_weights_or_stop() {
        let net = UNet::new(&SMALL, 3, &Cpu).unwrap();
        let x = random(&[1, 1, 8, 8], 1).to_dtype(DType::F32).unwrap();
        let gradient = net.infer(&x).unwrap().ones_like().unwrap();
        let expected = net.pass(&x).unwrap().backward(&gradient).unwrap();
        let mut order = Vec::new();
        net.pass(&x)
            .unwrap()
            .backward_each(&gradient, |at, gradient| {
                let (_, var) = &net.vars()[at];
                assert_eq!(values(&gradient), values(expected.get(var).unwrap()));
                order.push(at);
                // Nothing that is still to come reads it.
                var.set(&var.zeros_like()?)
            })
            .unwrap();
        order.sort_unstable();
        assert!(order.into_iter().eq(0..net.vars().len()), "each once");
        let mut taken = 0;
        let stopped = net.pass(&x).unwrap().backward_each(&gradient, |_, _| {
            taken += 1;
            candle_core::bail!("enough")
        });
        assert!(stopped.unwrap_err().to_string().starts_with("enough"));
        assert_eq!(taken, 1);
    }
}
