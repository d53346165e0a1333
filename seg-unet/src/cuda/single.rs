//! The engine's operations by themselves, on tensors `[N, C, H, W]`: for tests, and to be timed.

use std::sync::Arc;

use candle_core::{
    Device, Error, Result, Storage, Tensor,
    cuda_backend::{
        CudaDevice, CudaStorage, WrapErr as _,
        cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _},
    },
    op::BackpropOp,
};

use super::{
    layers::{Builder, Conv, Down, Head, Inputs, Scratch, Up},
    operations::{Arriving, Operations, Planes},
    room::{Map, Room, View, padded},
};
use crate::{Precision, kernels::maps::Size};

/// A tensor's numbers on the device, held.
#[derive(Debug)]
struct Numbers {
    at: u64,
    channels: usize,
    tensor: Tensor,
}

/// Where the operations run.
#[derive(Debug)]
struct Place {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    operations: Operations,
    precision: Precision,
}

impl Place {
    fn new(device: &Device, precision: Precision, eps: f64) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        Ok(Self {
            stream: device.cuda_stream(),
            operations: Operations::new(&device, precision, eps)?,
            device,
            precision,
        })
    }

    fn build(&self) -> Builder<'_> {
        Builder {
            stream: &self.stream,
            precision: self.precision,
            training: true,
        }
    }

    /// The numbers of an f32 tensor on the device.
    fn numbers(&self, tensor: &Tensor) -> Result<Numbers> {
        let tensor = tensor.contiguous()?;
        let at = {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Msg("a tensor is not on the CUDA device".into()));
            };
            let numbers = storage
                .as_cuda_slice::<f32>()?
                .slice(layout.start_offset()..);
            let (at, _) = numbers.device_ptr(&self.stream);
            at
        };
        let channels = tensor.dims().get(1).copied().unwrap_or_default();
        Ok(Numbers {
            at,
            channels,
            tensor,
        })
    }

    fn read(&self, size: Size, tensor: &Tensor, map: View) -> Result<()> {
        let Numbers {
            at,
            channels,
            tensor: _held,
        } = self.numbers(tensor)?;
        self.operations.to_map(size, Planes { at, channels }, map)
    }

    /// A tensor that `write` fills by its place.
    fn made(&self, dims: &[usize], write: impl FnOnce(u64) -> Result<()>) -> Result<Tensor> {
        let numbers: CudaSlice<f32> = self.stream.alloc_zeros(dims.iter().product()).w()?;
        let (at, _) = numbers.device_ptr(&self.stream);
        write(at)?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(numbers, self.device.clone()));
        Ok(Tensor::from_storage(
            storage,
            dims,
            BackpropOp::none(),
            false,
        ))
    }

    fn planes(&self, size: Size, map: View, channels: usize) -> Result<Tensor> {
        let Size { n, h, w } = size;
        self.made(&[n, channels, h, w], |at| {
            self.operations
                .to_planes(size, map, Planes { at, channels })
        })
    }
}

fn size(x: &Tensor) -> Result<Size> {
    let (n, _, h, w) = x.dims4()?;
    Ok(Size { n, h, w })
}

/// Convolution of one map or of two that are joined, `ReLU`, instance norm, and a 2 × 2 maximum behind it if asked for.
#[derive(Debug)]
pub struct Block {
    place: Place,
    inputs: Vec<usize>,
    weights: Vec<Numbers>,
    conv: Conv,
    input: Map,
    normed: Map,
    down: Option<Down>,
    of_input: Map,
    arriving: Map,
    of_pooled: Map,
    moments: Room,
    scratch: Scratch,
    /// The gradient in the convolution's weight.
    of_weight: Room,
}

/// A block's or a way up's value, and the gradients in its inputs and weights.
#[derive(Debug)]
pub struct Traced {
    /// What it gives; behind it the maxima, if there are any.
    pub values: Vec<Tensor>,
    /// In each input, then in weight and bias, and of a block in those of the norm.
    pub gradients: Vec<Tensor>,
}

impl Block {
    /// Of inputs `[N, C, H, W]` and the weights of [`UNet`](crate::UNet)'s names `conv1.weight`, `conv1.bias`,
    /// `norm1.weight` and `norm1.bias`, all f32 on the device.
    ///
    /// # Errors
    /// If the device has no room or the kernels are not compiled.
    pub fn new(
        inputs: &[&Tensor],
        weights: [&Tensor; 4],
        eps: f64,
        pool: bool,
        precision: Precision,
    ) -> Result<Self> {
        let place = Place::new(inputs[0].device(), precision, eps)?;
        let channels = inputs
            .iter()
            .map(|x| x.dim(1))
            .collect::<Result<Vec<_>>>()?;
        let weights = weights.map(|weight| place.numbers(weight));
        let weights = weights.into_iter().collect::<Result<Vec<_>>>()?;
        let (size, outputs) = (size(inputs[0])?, weights[0].tensor.dim(0)?);
        let build = place.build();
        let pointers = [0, 1, 2, 3].map(|k: usize| weights[k].at);
        let conv = build.conv(size, Inputs::of(&channels), outputs, pointers, true)?;
        let (wide, all) = (conv.wide(), conv.inputs.padded);
        let head = Head {
            size,
            inputs: 0,
            classes: 0,
            weights: [0; 2],
        };
        let block = Self {
            input: build.map(size, all)?,
            normed: build.map(size, wide)?,
            down: pool.then(|| build.down(size, outputs)).transpose()?,
            of_input: build.map(size, all)?,
            arriving: build.map(size, wide)?,
            of_pooled: build.map(size.halved(), wide)?,
            moments: build.moments(std::iter::once(&conv))?,
            of_weight: Room::floats(&place.stream, weights[0].tensor.elem_count())?,
            scratch: build.scratch(&[&conv], &[], head)?,
            inputs: channels,
            weights,
            conv,
            place,
        };
        let mut first = 0;
        for (x, &channels) in inputs.iter().zip(&block.inputs) {
            let part = block.input.part(first, padded(channels));
            block.place.read(size, x, part)?;
            first += padded(channels);
        }
        block.place.operations.pack(&[block.conv.layer()])?;
        Ok(block)
    }

    /// The convolution with `ReLU` and moments alone.
    ///
    /// # Errors
    /// If a kernel cannot be launched.
    pub fn convolution(&self) -> Result<()> {
        self.place
            .operations
            .conv(&self.conv, self.input.view(), &self.moments)
    }

    /// The gradient in the convolution's weight, of whatever the one in z is at the moment.
    ///
    /// # Errors
    /// If a kernel cannot be launched.
    pub fn weight_gradient(&self) -> Result<()> {
        let (input, to) = (self.input.view(), self.of_weight.at());
        let operations = &self.place.operations;
        operations.conv_weight_gradient(&self.conv, input, &self.scratch, to)
    }

    /// The gradient in the convolution's input, of the same.
    ///
    /// # Errors
    /// If a kernel cannot be launched.
    pub fn input_gradient(&self) -> Result<()> {
        let operations = &self.place.operations;
        operations.conv_input_gradient(&self.conv, self.of_input.view(), &self.scratch)
    }

    /// Values, and the gradients of Σ value · slope over the values and their slopes.
    ///
    /// # Errors
    /// If a kernel cannot be launched.
    pub fn trace(&self, slopes: &[&Tensor]) -> Result<Traced> {
        let Self { place, conv, .. } = self;
        let (operations, size, wide) = (&place.operations, conv.size, conv.wide());
        self.convolution()?;
        let values = match &self.down {
            None => {
                operations.norm(conv, self.normed.view())?;
                vec![place.planes(size, self.normed.view(), conv.outputs)?]
            }
            Some(down) => {
                operations.norm_and_pool(conv, down)?;
                let (skip, pooled) = (down.joined.part(wide, wide), down.pooled.view());
                vec![
                    place.planes(size, skip, conv.outputs)?,
                    place.planes(size.halved(), pooled, conv.outputs)?,
                ]
            }
        };
        place.read(size, slopes[0], self.arriving.view())?;
        let pooled = match (&self.down, slopes) {
            (Some(down), [_, slope]) => {
                place.read(size.halved(), slope, self.of_pooled.view())?;
                Some((self.of_pooled.view(), down))
            }
            _ => None,
        };
        let from = Arriving {
            maps: self.arriving.view(),
            pooled,
        };
        let of_weights: Vec<CudaSlice<f32>> = self
            .weights
            .iter()
            .map(|weight| place.stream.alloc_zeros(weight.tensor.elem_count()).w())
            .collect::<Result<_>>()?;
        let at = [0, 1, 2, 3].map(|k: usize| of_weights[k].device_ptr(&place.stream).0);
        operations.norm_back(conv, from, &self.scratch, at)?;
        operations.conv_weight_gradient(conv, self.input.view(), &self.scratch, at[0])?;
        self.input_gradient()?;
        let mut gradients = Vec::new();
        let mut first = 0;
        for &channels in &self.inputs {
            let part = self.of_input.part(first, padded(channels));
            gradients.push(place.planes(size, part, channels)?);
            first += padded(channels);
        }
        for (numbers, weight) in of_weights.into_iter().zip(&self.weights) {
            let storage = CudaStorage::wrap_cuda_slice(numbers, place.device.clone());
            gradients.push(Tensor::from_storage(
                Storage::Cuda(storage),
                weight.tensor.shape(),
                BackpropOp::none(),
                false,
            ));
        }
        Ok(Traced { values, gradients })
    }
}

/// The way up: value, and gradients of Σ value · slope.
///
/// # Errors
/// If the device has no room or a kernel cannot be launched.
pub fn up(
    x: &Tensor,
    weights: [&Tensor; 2],
    slope: &Tensor,
    precision: Precision,
) -> Result<Traced> {
    let place = Place::new(x.device(), precision, 1.0)?;
    let [weight, bias] = weights;
    let numbers = [place.numbers(weight)?, place.numbers(bias)?];
    let (size, inputs, outputs) = (size(x)?, x.dim(1)?, weight.dim(1)?);
    let build = place.build();
    let up: Up = build.up(size, inputs, outputs, [numbers[0].at, numbers[1].at])?;
    let input = build.map(size, padded(inputs))?;
    let of_input = build.map(size, padded(inputs))?;
    let maps = |channels| build.map(size.doubled(), channels);
    let (raised, of_raised) = (maps(padded(outputs))?, maps(padded(outputs))?);
    let head = Head {
        size,
        inputs: 0,
        classes: 0,
        weights: [0; 2],
    };
    let scratch = build.scratch(&[], &[&up], head)?;
    place.read(size, x, input.view())?;
    place.operations.pack(&[up.layer()])?;
    place.operations.up(&up, input.view(), raised.view())?;
    let value = place.planes(size.doubled(), raised.view(), outputs)?;
    place.read(size.doubled(), slope, of_raised.view())?;
    let mut of_bias = None;
    let of_weight = place.made(weight.dims(), |weight_at| {
        let made = place.made(bias.dims(), |bias_at| {
            place.operations.up_back(
                &up,
                input.view(),
                of_raised.view(),
                of_input.view(),
                &scratch,
                [weight_at, bias_at],
            )
        });
        of_bias = Some(made?);
        Ok(())
    })?;
    let of_x = place.planes(size, of_input.view(), inputs)?;
    let gradients = [Some(of_x), Some(of_weight), of_bias]
        .into_iter()
        .flatten()
        .collect();
    Ok(Traced {
        values: vec![value],
        gradients,
    })
}

/// The convolution to the classes, of maps that are not normed (scale 1, shift 0).
///
/// # Errors
/// If the device has no room or a kernel cannot be launched.
pub fn head(
    x: &Tensor,
    weights: [&Tensor; 2],
    slope: &Tensor,
    precision: Precision,
) -> Result<Traced> {
    let place = Place::new(x.device(), precision, 1.0)?;
    let [weight, bias] = weights;
    let numbers = [place.numbers(weight)?, place.numbers(bias)?];
    let (size, inputs, classes) = (size(x)?, x.dim(1)?, weight.dim(0)?);
    let build = place.build();
    let mut last = build.conv(size, Inputs::of(&[1]), inputs, [0; 4], false)?;
    let wide = last.wide();
    let one_image = [vec![1.0_f32; wide], vec![0.0; wide]].concat();
    let affine = place.stream.clone_htod(&one_image.repeat(size.n)).w()?;
    last.affine = Room::of(affine, &place.stream);
    let head = Head {
        size,
        inputs,
        classes,
        weights: [numbers[0].at, numbers[1].at],
    };
    let scratch = build.scratch(&[&last], &[], head)?;
    place.read(size, x, last.rectified.view())?;
    let Size { n, h, w } = size;
    let value = place.made(&[n, classes, h, w], |at| {
        place.operations.head(head, &last, at)
    })?;
    let of_input = build.map(size, wide)?;
    let slope = place.numbers(slope)?;
    let mut of_bias = None;
    let of_weight = place.made(weight.dims(), |weight_at| {
        let made = place.made(bias.dims(), |bias_at| {
            place.operations.head_back(
                head,
                &last,
                slope.at,
                of_input.view(),
                &scratch,
                [weight_at, bias_at],
            )
        });
        of_bias = Some(made?);
        Ok(())
    })?;
    let of_x = place.planes(size, of_input.view(), inputs)?;
    let gradients = [Some(of_x), Some(of_weight), of_bias]
        .into_iter()
        .flatten()
        .collect();
    Ok(Traced {
        values: vec![value],
        gradients,
    })
}
