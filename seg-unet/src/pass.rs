//! The network on the CPU as one computation: forward, and backward from the logits' gradient to every weight's.
//!
//! What Candle's graph would do for the same operations, without what it has to do in general: no tensor is laid out
//! anew between operations, none is kept but each convolution's result r = relu(z), of which the norm, the pool and the
//! join are made again where they are read, no gradient is filled with zeros to be added to, and all room is used again
//! in the next step.

use std::sync::Arc;

use crate::{
    UNetConfig,
    kernels::{
        buffers::{Buffers, Maps},
        conv::{Conv, Finish},
        conv_gradient::weight_gradient,
        few::{FEW, Few},
        filters::{Filters, Way},
        head::Head,
        maps::{Size, spans, to_blocks},
        norm::{Moments, Normed, backward as norm_backward},
        pool::max_pool2,
        simd::{Dispatch, InstructionSet},
        source::{Affine, Part, Source},
        up::Up,
    },
};

/// The network's weights, in their order, and what else a pass needs.
pub(crate) struct Plan<'a, R> {
    pub(crate) config: &'a UNetConfig,
    pub(crate) weights: Vec<&'a [R]>,
    pub(crate) isa: InstructionSet,
    pub(crate) buffers: &'a Arc<Buffers<R>>,
    /// Of the images.
    pub(crate) size: Size,
}

/// What a forward pass keeps.
#[derive(Debug)]
pub(crate) struct Trace<R: Dispatch> {
    encoder: Vec<Stage<R>>,
    /// The middle, then the decoder from coarse to fine.
    decoder: Vec<Stage<R>>,
}

/// A block of two convolutions, and what it reads besides a skip: of the encoder's the pooled maps of the level above
/// (none on the first), of the decoder's the raised ones of the level below.
#[derive(Debug)]
struct Stage<R: Dispatch> {
    input: Option<Maps<R>>,
    convs: [Rectified<R>; 2],
}

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

/// What a convolution reads.
enum Input<'a, R> {
    Maps(Source<'a, R>),
    /// The network's images.
    Planes(Few<'a, R>),
}

/// Weight and bias tensors of a block; of its norms and convolutions.
const PER_LAYER: usize = 2;
const PER_BLOCK: usize = 4 * PER_LAYER;

impl<R: Dispatch> Plan<'_, R> {
    /// Where the weights of an encoder's block begin, or of the middle at level `depth`.
    fn encoder_at(level: usize) -> usize {
        level * PER_BLOCK
    }

    /// Where the weights of the way up to a level begin; those of its block follow.
    fn up_at(&self, level: usize) -> usize {
        let UNetConfig { depth, .. } = *self.config;
        Self::encoder_at(depth + 1) + (depth - 1 - level) * (PER_LAYER + PER_BLOCK)
    }

    fn head_at(&self) -> usize {
        self.weights.len() - PER_LAYER
    }

    fn level_size(&self, level: usize) -> Size {
        (0..level).fold(self.size, |size, _| size.halved())
    }

    fn take(&self, channels: usize, size: Size) -> Maps<R> {
        self.buffers.take(spans(&[channels]).len() * size.pixels())
    }

    /// An image of many channels in blocks.
    fn image_maps(&self, images: &[R]) -> Option<Maps<R>> {
        let channels = self.config.in_channels;
        (channels > FEW).then(|| {
            let mut maps = self.take(channels, self.size);
            to_blocks(self.isa, images, channels, self.size, &mut maps);
            maps
        })
    }

    fn image_input<'a>(&self, images: &'a [R], maps: Option<&'a Maps<R>>) -> Input<'a, R> {
        let (channels, size) = (self.config.in_channels, self.size);
        match maps {
            Some(maps) => Input::Maps(Source {
                size,
                parts: vec![Part {
                    maps,
                    channels,
                    affine: None,
                }],
            }),
            None => Input::Planes(Few {
                planes: images,
                channels,
                size,
            }),
        }
    }

    /// Logits `[N, K, H, W]` of images `[N, C, H, W]`, and what the way back needs if that is wanted.
    pub(crate) fn forward(&self, images: &[R], keep: bool) -> (Vec<R>, Option<Trace<R>>) {
        let UNetConfig { depth, classes, .. } = *self.config;
        let mut encoder: Vec<Stage<R>> = Vec::new();
        let mut decoder = Vec::new();
        let mut pooled = None;
        for level in 0..depth {
            let (channels, size) = (self.config.channels(level), self.level_size(level));
            let image_maps = if level == 0 {
                self.image_maps(images)
            } else {
                None
            };
            let input = match &pooled {
                None => self.image_input(images, image_maps.as_ref()),
                Some(maps) => self.pooled_input(maps, level),
            };
            let convs = self.block(Self::encoder_at(level), &input, channels, size);
            let mut next = self.take(channels, size.halved());
            max_pool2(self.isa, &convs[1].maps, &convs[1].affine, size, &mut next);
            encoder.push(Stage {
                input: if keep { pooled.take() } else { None },
                convs,
            });
            pooled = Some(next);
        }
        let (channels, size) = (self.config.channels(depth), self.level_size(depth));
        let maps = pooled.take();
        let convs = match &maps {
            Some(maps) => {
                let input = self.pooled_input(maps, depth);
                self.block(Self::encoder_at(depth), &input, channels, size)
            }
            None => unreachable!("a network has a level at least"),
        };
        decoder.push(Stage { input: maps, convs });
        for level in (0..depth).rev() {
            let (channels, size) = (self.config.channels(level), self.level_size(level));
            let below = &decoder[decoder.len() - 1].convs[1];
            let at = self.up_at(level);
            let mut raised = self.take(channels, size);
            let up = self.up(below, level);
            up.run(self.isa, self.weights[at + 1], &mut raised);
            if !keep {
                decoder.clear();
            }
            let input = Input::Maps(self.joined(&raised, &encoder[level].convs[1], size));
            let convs = self.block(at + PER_LAYER, &input, channels, size);
            decoder.push(Stage {
                input: Some(raised),
                convs,
            });
            if !keep {
                encoder.truncate(level);
            }
        }
        let mut logits = vec![R::default(); classes * self.size.pixels()];
        let at = self.head_at();
        let last = &decoder[decoder.len() - 1].convs[1];
        self.head(last)
            .run(self.isa, self.weights[at + 1], &mut logits);
        (logits, keep.then_some(Trace { encoder, decoder }))
    }

    fn pooled_input<'a>(&self, maps: &'a Maps<R>, level: usize) -> Input<'a, R> {
        Input::Maps(Source {
            size: self.level_size(level),
            parts: vec![Part {
                maps,
                channels: self.config.channels(level - 1),
                affine: None,
            }],
        })
    }

    /// The raised maps and the level's own: what a decoder's block reads.
    fn joined<'a>(&self, raised: &'a Maps<R>, skip: &'a Rectified<R>, size: Size) -> Source<'a, R> {
        let raised = Part {
            maps: raised,
            channels: skip.channels,
            affine: None,
        };
        Source {
            size,
            parts: vec![raised, skip.part()],
        }
    }

    /// The way up to `level`.
    fn up<'a>(&'a self, below: &'a Rectified<R>, level: usize) -> Up<'a, R> {
        Up {
            source: below.part(),
            size: below.size,
            weights: self.weights[self.up_at(level)],
            outputs: self.config.channels(level),
        }
    }

    fn head<'a>(&'a self, last: &'a Rectified<R>) -> Head<'a, R> {
        Head {
            source: last.part(),
            size: last.size,
            weights: self.weights[self.head_at()],
            classes: self.config.classes,
        }
    }

    fn block(
        &self,
        at: usize,
        input: &Input<'_, R>,
        channels: usize,
        size: Size,
    ) -> [Rectified<R>; 2] {
        let first = self.layer(at, input, channels, size);
        let second = self.layer(
            at + PER_BLOCK / 2,
            &Input::Maps(first.source()),
            channels,
            size,
        );
        [first, second]
    }

    /// Convolution and `ReLU`, and the moments for the norm.
    fn layer(&self, at: usize, input: &Input<'_, R>, channels: usize, size: Size) -> Rectified<R> {
        let [weight, bias, norm_weight, norm_bias] = [0, 1, 2, 3].map(|i| self.weights[at + i]);
        let mut maps = self.take(channels, size);
        let finish = Finish {
            bias: Some(bias),
            relu: true,
            moments: true,
        };
        let parts = match input {
            Input::Planes(few) => few.conv(self.isa, weight, finish, channels, &mut maps),
            Input::Maps(source) => Conv {
                source,
                filters: Filters {
                    weights: weight,
                    columns: source.channels().iter().sum(),
                },
                way: Way::Forward,
                outputs: &[channels],
                finish,
            }
            .run(self.isa, vec![&mut maps]),
        };
        let blocks = spans(&[channels]).len();
        let moments = Moments::of_parts(&parts, blocks, size.n, self.config.norm_eps);
        Rectified {
            affine: moments.affine(norm_weight, norm_bias),
            maps,
            channels,
            size,
            moments,
        }
    }

    /// Every weight's gradient, in their order, from that of the logits.
    pub(crate) fn backward(&self, images: &[R], trace: Trace<R>, gradient: &[R]) -> Vec<Vec<R>> {
        let Trace {
            mut encoder,
            mut decoder,
        } = trace;
        let UNetConfig { depth, .. } = *self.config;
        let mut gradients = Gradients {
            of: self.weights.iter().map(|_| Vec::new()).collect(),
        };
        let (channels, size) = (self.config.channels(0), self.size);
        let mut g = self.take(channels, size);
        {
            let last = &decoder[depth].convs[1];
            let head = self.head(last).backward(self.isa, gradient, &mut g);
            gradients.set(self.head_at(), [head.weights, head.bias]);
        }
        let mut skips = Vec::new();
        for level in 0..depth {
            let size = self.level_size(level);
            let at = self.up_at(level);
            let Some(Stage {
                input: Some(raised),
                convs,
            }) = decoder.pop()
            else {
                unreachable!("a stage of the decoder a level, each with raised maps")
            };
            let parts = {
                let joined = self.joined(&raised, &encoder[level].convs[1], size);
                self.block_back(
                    at + PER_LAYER,
                    Input::Maps(joined),
                    convs,
                    g,
                    None,
                    &mut gradients,
                )
            };
            let [of_raised, of_skip] = parts
                .try_into()
                .ok()
                .unwrap_or_else(|| unreachable!("a joined source has two parts"));
            skips.push(of_skip);
            let below = &decoder[decoder.len() - 1].convs[1];
            let up = self.up(below, level);
            let mut weights = vec![R::default(); self.weights[at].len()];
            let mut bias = vec![R::default(); self.weights[at + 1].len()];
            up.weight_gradient(self.isa, &of_raised, &mut weights, &mut bias);
            gradients.set(at, [weights, bias]);
            drop(raised);
            g = self.take(below.channels, below.size);
            up.input_gradient(self.isa, &of_raised, &mut g);
        }
        let Some(Stage {
            input: Some(pooled),
            convs,
        }) = decoder.pop()
        else {
            unreachable!("the middle has pooled maps")
        };
        let input = self.pooled_input(&pooled, depth);
        let mut parts = self.block_back(
            Self::encoder_at(depth),
            input,
            convs,
            g,
            None,
            &mut gradients,
        );
        for (level, skip) in (0..depth).rev().zip(skips.into_iter().rev()) {
            let pool_gradient = parts.pop();
            let Some(Stage {
                input: pooled,
                convs,
            }) = encoder.pop()
            else {
                unreachable!("a stage of the encoder a level")
            };
            let image_maps = if level == 0 {
                self.image_maps(images)
            } else {
                None
            };
            let input = match &pooled {
                None => self.image_input(images, image_maps.as_ref()),
                Some(maps) => self.pooled_input(maps, level),
            };
            let at = Self::encoder_at(level);
            parts = self.block_back(at, input, convs, skip, pool_gradient, &mut gradients);
        }
        gradients.of
    }

    /// From the gradient of a block's result, and of the maxima of its windows, to those of its weights and of what it
    /// read, by part: none for the images.
    fn block_back(
        &self,
        at: usize,
        input: Input<'_, R>,
        convs: [Rectified<R>; 2],
        gradient: Maps<R>,
        pooled: Option<Maps<R>>,
        gradients: &mut Gradients<R>,
    ) -> Vec<Maps<R>> {
        let [first, second] = convs;
        let source = Input::Maps(first.source());
        let second_at = at + PER_BLOCK / 2;
        let mut parts = self.layer_back(
            second_at, &source, second, gradient, pooled, true, gradients,
        );
        let Some(gradient) = parts.pop() else {
            unreachable!("a source of one part")
        };
        let wanted = at != Self::encoder_at(0);
        self.layer_back(at, &input, first, gradient, None, wanted, gradients)
    }

    #[allow(clippy::too_many_arguments)]
    fn layer_back(
        &self,
        at: usize,
        input: &Input<'_, R>,
        result: Rectified<R>,
        mut gradient: Maps<R>,
        pooled: Option<Maps<R>>,
        wanted: bool,
        gradients: &mut Gradients<R>,
    ) -> Vec<Maps<R>> {
        let of = norm_backward(self.isa, result.normed(), &mut gradient, pooled.as_deref());
        drop(pooled);
        let (channels, size) = (result.channels, result.size);
        drop(result);
        let filters = self.weights[at];
        let mut weights = vec![R::default(); filters.len()];
        let parts = match input {
            Input::Planes(few) => {
                few.weight_gradient(self.isa, &gradient, channels, &mut weights);
                Vec::new()
            }
            Input::Maps(source) => {
                weight_gradient(self.isa, source, &gradient, channels, &mut weights);
                let inputs = source.channels();
                let mut parts: Vec<_> = if wanted {
                    inputs.iter().map(|&c| self.take(c, size)).collect()
                } else {
                    Vec::new()
                };
                if wanted {
                    let maps = &gradient[..];
                    let of_result = Source {
                        size,
                        parts: vec![Part {
                            maps,
                            channels,
                            affine: None,
                        }],
                    };
                    Conv {
                        source: &of_result,
                        filters: Filters {
                            weights: filters,
                            columns: inputs.iter().sum(),
                        },
                        way: Way::Backward,
                        outputs: &inputs,
                        finish: Finish {
                            bias: None,
                            relu: false,
                            moments: false,
                        },
                    }
                    .run(
                        self.isa,
                        parts.iter_mut().map(|maps| &mut maps[..]).collect(),
                    );
                }
                parts
            }
        };
        gradients.set(at, [weights, of.conv_bias]);
        gradients.set(at + PER_LAYER, [of.weight, of.bias]);
        parts
    }
}

struct Gradients<R> {
    of: Vec<Vec<R>>,
}

impl<R> Gradients<R> {
    /// Those of a weight and its bias.
    fn set(&mut self, at: usize, [weight, bias]: [Vec<R>; 2]) {
        self.of[at] = weight;
        self.of[at + 1] = bias;
    }
}
