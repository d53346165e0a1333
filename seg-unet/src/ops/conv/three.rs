//! 3 × 3 convolution by the kernels, forward and back, of one image or of some that are joined along the channels.

use candle_core::{Result, Tensor};

use super::blocked::{Blocked, joined, size};
use crate::kernels::{
    conv::{Conv, Finish},
    conv_gradient::weight_gradient,
    few::{FEW, Few},
    filters::{Filters, TAPS, Way},
    maps::Size,
    simd::{Dispatch, InstructionSet},
};
use crate::ops::storage::{channel_sums, cpu_elements};

/// Elements and channels of one of the images.
pub(super) type Image<'a, R> = (&'a [R], usize);

/// What is convolved.
enum Input<'a, R> {
    Joined(Vec<Blocked<R>>),
    Few(Few<'a, R>),
}

impl<'a, R: Dispatch> Input<'a, R> {
    fn new(isa: InstructionSet, images: &[Image<'a, R>], size: Size) -> Self {
        match *images {
            [(planes, channels)] if channels <= FEW => Self::Few(Few {
                planes,
                channels,
                size,
            }),
            _ => {
                let blocked = |&(elements, channels)| Blocked::new(isa, elements, channels, size);
                Self::Joined(images.iter().map(blocked).collect())
            }
        }
    }
}

fn channels<R>(images: &[Image<'_, R>]) -> Vec<usize> {
    images.iter().map(|&(_, channels)| channels).collect()
}

pub(super) fn forward<R: Dispatch>(
    images: &[Image<'_, R>],
    size: Size,
    weight: &[R],
    bias: &[R],
    relu: bool,
) -> Result<Vec<R>> {
    let isa = InstructionSet::get()?;
    let outputs = bias.len();
    let finish = Finish {
        bias: Some(bias),
        relu,
        moments: false,
    };
    let mut y = Blocked::zeros(outputs, size);
    match Input::new(isa, images, size) {
        Input::Few(few) => few.conv(isa, weight, finish, outputs, &mut y.blocks),
        Input::Joined(images) => Conv {
            source: &joined(&images, size),
            filters: Filters {
                weights: weight,
                columns: weight.len() / (outputs * TAPS),
            },
            way: Way::Forward,
            outputs: &[outputs],
            finish,
        }
        .run(isa, vec![&mut y.blocks]),
    };
    Ok(y.elements(isa))
}

/// ∂weight of a result whose gradient is `gy`.
fn of_weight<R: Dispatch>(
    isa: InstructionSet,
    images: &[Image<'_, R>],
    size: Size,
    gy: &Blocked<R>,
    outputs: usize,
) -> Vec<R> {
    let inputs: usize = channels(images).iter().sum();
    let mut weight = vec![R::default(); outputs * inputs * TAPS];
    match Input::new(isa, images, size) {
        Input::Few(few) => few.weight_gradient(isa, &gy.blocks, outputs, &mut weight),
        Input::Joined(images) => {
            let images = joined(&images, size);
            weight_gradient(isa, &images, &gy.blocks, outputs, &mut weight);
        }
    }
    weight
}

/// ∂image of each of the images, of so many channels.
fn of_images<R: Dispatch>(
    isa: InstructionSet,
    channels: &[usize],
    size: Size,
    weight: &[R],
    gy: Blocked<R>,
) -> Vec<Vec<R>> {
    let mut images: Vec<_> = channels
        .iter()
        .map(|&channels| Blocked::zeros(channels, size))
        .collect();
    Conv {
        source: &joined(&[gy], size),
        filters: Filters {
            weights: weight,
            columns: channels.iter().sum(),
        },
        way: Way::Backward,
        outputs: channels,
        finish: Finish {
            bias: None,
            relu: false,
            moments: false,
        },
    }
    .run(
        isa,
        images
            .iter_mut()
            .map(|image| &mut image.blocks[..])
            .collect(),
    );
    images.iter().map(|image| image.elements(isa)).collect()
}

/// Gradients with respect to the images that want one, the weight and the bias.
pub(super) struct Gradients<R> {
    pub(super) images: Vec<Option<Tensor>>,
    pub(super) weight: Vec<R>,
    pub(super) bias: Vec<R>,
}

pub(super) fn backward<R: Dispatch>(
    images: &[&Tensor],
    weight: &[R],
    outputs: usize,
    gy: &[R],
) -> Result<Gradients<R>> {
    let isa = InstructionSet::get()?;
    let (size, _) = size(images[0].shape())?;
    let stored: Vec<_> = images.iter().map(|x| x.storage_and_layout()).collect();
    let elements = stored
        .iter()
        .map(|(storage, layout)| Ok((cpu_elements::<R>(storage, layout)?, layout.dims()[1])))
        .collect::<Result<Vec<_>>>()?;
    let bias = channel_sums(gy, outputs, size.area());
    let gy = Blocked::new(isa, gy, outputs, size);
    Ok(Gradients {
        weight: of_weight(isa, &elements, size, &gy, outputs),
        images: if images.iter().any(|x| x.track_op()) {
            of_images(isa, &channels(&elements), size, weight, gy)
                .into_iter()
                .zip(images)
                .map(|(gx, x)| {
                    x.track_op()
                        .then(|| Tensor::from_vec(gx, x.shape(), x.device()))
                        .transpose()
                })
                .collect::<Result<_>>()?
        } else {
            vec![None; images.len()]
        },
        bias,
    })
}
