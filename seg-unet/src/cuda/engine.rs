//! The network on a GPU as one computation, forward and back, in memory that is taken once.
//!
//! What the CPU's pass keeps is kept here too, each convolution's result r = relu(z), and besides it the normed maps that the
//! next convolution and its weight's gradient read. Every operation is a launch, none waits, allocates or copies from the
//! host: a step may be recorded as a CUDA graph.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{
    DType, Device, Error, Result, Storage, Tensor, Var,
    backend::BackendStorage as _,
    cuda_backend::{
        CudaDevice, CudaStorage, WrapErr as _,
        cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _},
    },
    op::BackpropOp,
};

use super::{
    layers::Builder,
    network::{Back, Network, PER_PRODUCT, Pair},
    operations::{Arriving, Operations, Planes, no_way_back},
    room::View,
};
use crate::{Precision, UNet, UNetConfig, kernels::maps::Size};

/// A network's computation for batches of one size, on one device.
///
/// The images are written to [`Engine::images_mut`], [`Engine::forward`] makes the logits of them, a loss writes its gradient
/// in the logits to [`Engine::slopes_mut`], and [`Engine::backward`] makes the gradient of every weight of it. The weights are
/// read from the network's variables each time. All is put into the device's stream, and nothing waits for it.
///
/// To be recorded as a CUDA graph, a step has to have run once, and the device's tracking by events
/// ([`CudaDevice::disable_event_tracking`]) has to be off before the network is made.
///
/// ```no_run
/// use candle_core::{Device, Result};
/// use seg_unet::{Precision, UNet, UNetConfig, cuda::Engine};
/// let device = Device::new_cuda_with_stream(0)?;
/// let net = UNet::new(&UNetConfig::default(), 7, &device)?;
/// let mut engine = Engine::new(&net, [1, 512, 512], Precision::Bf16, true)?;
/// engine.forward()?;
/// assert_eq!(engine.logits().len(), 2 * 512 * 512);
/// engine.backward()?;
/// assert_eq!(engine.gradients()?.len(), 7_766_018);
/// # Result::Ok(())
/// ```
pub struct Engine {
    device: CudaDevice,
    operations: Operations,
    config: UNetConfig,
    precision: Precision,
    size: Size,
    /// The weights stay where they are as long as these do.
    vars: Vec<(String, Var)>,
    ranges: Vec<Range<usize>>,
    images: CudaSlice<f32>,
    logits: CudaSlice<f32>,
    network: Network,
    back: Option<Back>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("size", &self.size)
            .field("precision", &self.precision)
            .field("training", &self.back.is_some())
            .finish_non_exhaustive()
    }
}

/// Where a variable's numbers are on the device.
fn pointer(name: &str, var: &Var, stream: &Arc<CudaStream>) -> Result<u64> {
    let (storage, layout) = var.storage_and_layout();
    match (&*storage, var.dtype()) {
        (Storage::Cuda(storage), DType::F32) => {
            let slice = storage
                .as_cuda_slice::<f32>()?
                .slice(layout.start_offset()..);
            let (at, _) = slice.device_ptr(stream);
            Ok(at)
        }
        (_, dtype) => Err(Error::Msg(format!(
            "U-Net: the weight {name} is {dtype:?} on {:?}; expected F32 on a CUDA device, which is what its kernels read",
            var.device().location()
        ))),
    }
}

/// The size of a batch, if the network takes such.
fn checked(config: &UNetConfig, [n, h, w]: [usize; 3]) -> Result<Size> {
    let multiple = config.size_multiple();
    if n > 0 && h > 0 && w > 0 && h % multiple == 0 && w % multiple == 0 {
        return Ok(Size { n, h, w });
    }
    Err(Error::Msg(format!(
        "U-Net: batches are {n} images of {h}×{w}; expected one image or more, of a height and a width that are multiples \
         of {multiple} (2^depth)"
    )))
}

impl Engine {
    /// Takes the memory for batches of `[n, h, w]`; without `training` there is no way back.
    ///
    /// # Errors
    /// If the weights are not f32 on a CUDA device, the size is no multiple of 2^depth, the kernels are not compiled, or the
    /// device has no room.
    pub fn new(net: &UNet, size: [usize; 3], precision: Precision, training: bool) -> Result<Self> {
        let config = *net.config();
        let size = checked(&config, size)?;
        let vars = net.vars().to_vec();
        let (_, first) = &vars[0];
        let Device::Cuda(device) = first.device() else {
            return Err(Error::Msg(format!(
                "U-Net: the weights are on {:?}; expected a CUDA device, which this computation is for",
                first.device().location()
            )));
        };
        let device = device.clone();
        let stream = &device.cuda_stream();
        let pointers = vars
            .iter()
            .map(|(name, var)| pointer(name, var, stream))
            .collect::<Result<Vec<_>>>()?;
        let build = Builder {
            stream,
            precision,
            training,
        };
        let network = Network::new(&build, &config, size, &pointers)?;
        let mut ranges = Vec::new();
        let mut end = 0;
        for (_, var) in &vars {
            ranges.push(end..end + var.elem_count());
            end += var.elem_count();
        }
        let back = training.then(|| Back::new(&device, &build, &network, &ranges));
        Ok(Self {
            back: back.transpose()?,
            images: device.alloc_zeros::<f32>(size.pixels() * config.in_channels)?,
            logits: device.alloc_zeros::<f32>(size.pixels() * config.classes)?,
            operations: Operations::new(&device, precision, config.norm_eps)?,
            device,
            config,
            precision,
            size,
            vars,
            ranges,
            network,
        })
    }

    /// The images `[N, in_channels, H, W]`, to be written before [`Engine::forward`].
    pub fn images_mut(&mut self) -> &mut CudaSlice<f32> {
        &mut self.images
    }

    /// The logits `[N, classes, H, W]` of the last [`Engine::forward`].
    pub fn logits(&self) -> &CudaSlice<f32> {
        &self.logits
    }

    /// The loss's gradient in the logits, to be written before [`Engine::backward`].
    ///
    /// # Errors
    /// If the engine was not made for training.
    pub fn slopes_mut(&mut self) -> Result<&mut CudaSlice<f32>> {
        Ok(self.logits_and_slopes()?.1)
    }

    /// Both at once, for a loss to read the one and write the other.
    ///
    /// # Errors
    /// If the engine was not made for training.
    pub fn logits_and_slopes(&mut self) -> Result<(&CudaSlice<f32>, &mut CudaSlice<f32>)> {
        match &mut self.back {
            Some(back) => Ok((&self.logits, &mut back.slopes)),
            None => Err(no_way_back()),
        }
    }

    /// The gradients of all weights, one after the other, of the last [`Engine::backward`].
    ///
    /// # Errors
    /// If the engine was not made for training.
    pub fn gradients(&self) -> Result<&CudaSlice<f32>> {
        Ok(&self.back()?.gradients)
    }

    /// Where each variable's gradient is among them, in the order of [`UNet::vars`].
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Where it computes.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Whether it is that of such batches and numbers.
    pub fn fits(&self, [n, h, w]: [usize; 3], precision: Precision, training: bool) -> bool {
        self.size == Size { n, h, w }
            && self.precision == precision
            && self.back.is_some() == training
    }

    fn back(&self) -> Result<&Back> {
        self.back.as_ref().ok_or_else(no_way_back)
    }

    /// Logits of the images.
    ///
    /// # Errors
    /// If a kernel cannot be launched.
    pub fn forward(&mut self) -> Result<()> {
        let (operations, network) = (&self.operations, &self.network);
        operations.pack(&network.packed)?;
        let (at, _) = self.images.device_ptr(self.images.stream());
        let channels = self.config.in_channels;
        operations.to_map(self.size, Planes { at, channels }, network.input.view())?;
        for (level, pair) in network.encoder.iter().enumerate() {
            self.pair_forward(pair, network.encoder_input(level))?;
            if let Some(down) = network.down.get(level) {
                let [_, second] = &pair.convs;
                operations.norm_and_pool(second, down)?;
            }
        }
        for (level, pair) in network.decoder.iter().enumerate().rev() {
            let [_, second] = &pair.convs;
            let joined = &network.down[level].joined;
            let raised = joined.part(0, second.wide());
            operations.up(&network.up[level], network.below(level), raised)?;
            self.pair_forward(pair, joined.view())?;
        }
        let (logits, _) = self.logits.device_ptr(self.logits.stream());
        operations.head(network.head, network.last(), logits)
    }

    /// Two convolutions, and the norm behind the second where it has maps of its own.
    fn pair_forward(&self, pair: &Pair, input: View) -> Result<()> {
        let (operations, moments) = (&self.operations, &self.network.moments);
        let ([first, second], between) = (&pair.convs, pair.between.view());
        operations.conv(first, input, moments)?;
        operations.norm(first, between)?;
        operations.conv(second, between, moments)?;
        match &pair.behind {
            Some(behind) => operations.norm(second, behind.view()),
            None => Ok(()),
        }
    }

    /// Gradients of all weights.
    ///
    /// # Errors
    /// If a kernel cannot be launched, or the engine was not made for training.
    pub fn backward(&mut self) -> Result<()> {
        let (operations, network, back) = (&self.operations, &self.network, self.back()?);
        let last = network.last();
        let (slopes, _) = back.slopes.device_ptr(back.slopes.stream());
        operations.head_back(
            network.head,
            last,
            slopes,
            back.behind.as_map(last.wide()),
            &back.scratch,
            back.of(self.vars.len() - PER_PRODUCT),
        )?;
        for (level, pair) in network.decoder.iter().enumerate() {
            let [first, second] = &pair.convs;
            let (joined, of_joined) = (&network.down[level].joined, &back.joined[level]);
            let from = Arriving {
                maps: back.behind.as_map(second.wide()),
                pooled: None,
            };
            self.pair_back(pair, joined.view(), from, Some(of_joined.view()))?;
            let below = network.below(level);
            operations.up_back(
                &network.up[level],
                below,
                of_joined.part(0, first.wide()),
                back.behind.as_map(below.channels),
                &back.scratch,
                // Its variables stand before those of the pair.
                back.of(pair.at[0] - PER_PRODUCT),
            )?;
        }
        for (level, pair) in network.encoder.iter().enumerate().rev() {
            let [first, second] = &pair.convs;
            let wide = second.wide();
            let from = match network.down.get(level) {
                None => Arriving {
                    maps: back.behind.as_map(wide),
                    pooled: None,
                },
                Some(down) => Arriving {
                    maps: back.joined[level].part(wide, wide),
                    pooled: Some((back.pooled.as_map(wide), down)),
                },
            };
            let of_input = (level > 0).then(|| back.pooled.as_map(first.inputs.padded));
            self.pair_back(pair, network.encoder_input(level), from, of_input)?;
        }
        Ok(())
    }

    /// Back through two convolutions, to what the first one read.
    fn pair_back(
        &self,
        pair: &Pair,
        input: View,
        from: Arriving<'_>,
        of_input: Option<View>,
    ) -> Result<()> {
        let (operations, back) = (&self.operations, self.back()?);
        let scratch = &back.scratch;
        let ([first, second], between) = (&pair.convs, pair.between.view());
        let [of_first, of_second] = pair.at.map(|at| back.of(at));
        let of_between = back.between.as_map(between.channels);
        operations.norm_back(second, from, scratch, of_second)?;
        operations.conv_weight_gradient(second, between, scratch, of_second[0])?;
        operations.conv_input_gradient(second, of_between, scratch)?;
        let from = Arriving {
            maps: of_between,
            pooled: None,
        };
        operations.norm_back(first, from, scratch, of_first)?;
        operations.conv_weight_gradient(first, input, scratch, of_first[0])?;
        match of_input {
            Some(of_input) => operations.conv_input_gradient(first, of_input, scratch),
            None => Ok(()),
        }
    }

    /// Logits of a batch, as a tensor of their own.
    pub(crate) fn logits_of(&mut self, images: &Tensor) -> Result<Tensor> {
        copy(images, &mut self.images)?;
        self.forward()?;
        let Size { n, h, w } = self.size;
        self.tensor(&self.logits, &[n, self.config.classes, h, w])
    }

    /// Each weight's gradient, in their order, of a loss whose gradient in the logits is given.
    pub(crate) fn gradients_of(&mut self, slopes: &Tensor) -> Result<Vec<Tensor>> {
        copy(slopes, self.slopes_mut()?)?;
        self.backward()?;
        let gradients = self.gradients()?;
        let all = self.tensor(gradients, &[gradients.len()])?;
        let each = self.ranges.iter().zip(&self.vars);
        each.map(|(range, (_, var))| {
            all.narrow(0, range.start, range.len())?
                .reshape(var.shape())
        })
        .collect()
    }

    fn tensor(&self, from: &CudaSlice<f32>, dims: &[usize]) -> Result<Tensor> {
        let copy = self.device.cuda_stream().clone_dtod(from).w()?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(copy, self.device.clone()));
        Ok(Tensor::from_storage(
            storage,
            dims,
            BackpropOp::none(),
            false,
        ))
    }
}

/// The numbers of a contiguous f32 tensor on the device to a room of its size.
fn copy(from: &Tensor, to: &mut CudaSlice<f32>) -> Result<()> {
    let (storage, layout) = from.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Msg(
            "U-Net: a tensor is not on the CUDA device of the weights".into(),
        ));
    };
    let first = layout.start_offset();
    let from = storage
        .as_cuda_slice::<f32>()?
        .slice(first..first + to.len());
    storage.device().memcpy_dtod(&from, to)
}
