//! The network: which operations, in which order, on which weights.

use std::{collections::HashMap, marker::PhantomData, path::Path};

use candle_core::{DType, Device, Error, Result, Tensor, Var, backprop::GradStore};

#[cfg(feature = "cuda")]
use crate::cuda::Engines;
use crate::{
    Precision, UNetConfig,
    init::glorot_uniform,
    kernels::{
        maps::Size,
        simd::{Dispatch, InstructionSet},
    },
    ops::{self, conv2d_same, conv2d_same_joined, max_pool2, relu_instance_norm, up2},
    pass::{Plan, Trace},
    weights::{self, Stored},
};

/// A U-Net and its weights.
///
/// The weights' names, in order: `enc0` … `enc{depth-1}` (fine to coarse), `mid`, then from coarse to fine `up{i}` and
/// `dec{i}` of the same level, and `head`. A block (`enc`, `mid`, `dec`) holds `conv1`, `norm1`, `conv2`, `norm2`; each
/// has a `.weight` and a `.bias`. Shapes are `PyTorch`'s: `[out, in, k, k]`, but `[in, out, 2, 2]` for `up{i}`.
///
/// ```
/// use candle_core::Device::Cpu;
/// use seg_unet::{UNet, UNetConfig};
/// let net = UNet::new(&UNetConfig::default(), 7, &Cpu)?;
/// let (name, first) = &net.vars()[0];
/// assert_eq!((name.as_str(), first.dims()), ("enc0.conv1.weight", &[32, 3, 3, 3][..]));
/// assert_eq!(net.vars().iter().map(|(_, v)| v.elem_count()).sum::<usize>(), 7_766_018);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct UNet {
    config: UNetConfig,
    dtype: DType,
    precision: Precision,
    #[cfg(feature = "cuda")]
    engines: Engines,
    vars: Vec<(String, Var)>,
    /// Fine to coarse.
    encoder: Vec<Block>,
    middle: Block,
    /// Coarse to fine.
    decoder: Vec<(Layer, Block)>,
    head: Layer,
}

/// Weight and bias of one operation; they share their storage with the variables.
#[derive(Debug)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
}

/// Twice: convolution, `ReLU`, instance norm.
#[derive(Debug)]
struct Block {
    convs: [Layer; 2],
    norms: [Layer; 2],
}

/// A forward pass that can go back once: [`UNet::pass`].
#[derive(Debug)]
pub struct Pass<'a> {
    net: &'a UNet,
    images: Tensor,
    logits: Tensor,
    kept: Kept,
}

/// What a pass keeps for the way back.
#[derive(Debug)]
enum Kept {
    F32(Trace<f32>),
    F64(Trace<f64>),
    /// The logits' own graph.
    Graph,
    #[cfg(feature = "cuda")]
    Engine(Box<crate::cuda::Engine>),
}

impl Pass<'_> {
    /// `[N, classes, H, W]`, outside any graph on the CPU and on a CUDA device.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// The gradient of every weight, by its variable, of a loss whose gradient in the logits is given.
    ///
    /// # Errors
    /// If the gradient has another shape or dtype than the logits.
    pub fn backward(self, gradient: &Tensor) -> Result<GradStore> {
        let (net, mut store) = (self.net, GradStore::default());
        self.backward_each(gradient, |at, gradient| {
            let (_, var) = &net.vars[at];
            store.insert(var, gradient);
            Ok::<_, Error>(())
        })?;
        Ok(store)
    }

    /// As [`Pass::backward`], but each gradient is given to `take` as soon as it is there, with its weight's place in
    /// [`UNet::vars`]. `take` may change that weight, which nothing needs any more, and with the gradients gone one
    /// after the other, they take no room of their own.
    ///
    /// `take` is called on one of Rayon's threads, and must not wait for another thread.
    ///
    /// ```
    /// use candle_core::{DType, Device::Cpu, Error, Tensor};
    /// use seg_unet::{UNet, UNetConfig};
    /// let config = UNetConfig { in_channels: 1, width: 4, depth: 2, ..UNetConfig::default() };
    /// let net = UNet::new(&config, 7, &Cpu)?;
    /// let pass = net.pass(&Tensor::ones((1, 1, 16, 24), DType::F32, &Cpu)?)?;
    /// let gradient = pass.logits().ones_like()?;
    /// // The plainest descent.
    /// pass.backward_each(&gradient, |at, gradient| {
    ///     let (_, var) = &net.vars()[at];
    ///     var.set(&(var.as_tensor() - (gradient * 0.1)?)?)
    /// })?;
    /// let (name, bias) = &net.vars()[net.vars().len() - 1];
    /// assert_eq!(name, "head.bias");
    /// assert!((bias.to_vec1::<f32>()?[0] + 0.1 * 16.0 * 24.0).abs() < 1e-3);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pass::backward`], and those of `take`, which end it: the gradients that follow are then missing.
    pub fn backward_each<E: From<Error> + Send>(
        self,
        gradient: &Tensor,
        mut take: impl FnMut(usize, Tensor) -> std::result::Result<(), E> + Send,
    ) -> std::result::Result<(), E> {
        let Self {
            net,
            images,
            logits,
            kept,
        } = self;
        if (gradient.dims(), gradient.dtype()) != (logits.dims(), logits.dtype()) {
            let message = format!(
                "U-Net: the gradient is {:?} of {:?}; expected that of the logits, {:?} of {:?}",
                gradient.dims(),
                gradient.dtype(),
                logits.dims(),
                logits.dtype()
            );
            return Err(Error::Msg(message).into());
        }
        let gradient = gradient.contiguous()?.detach();
        match kept {
            Kept::F32(trace) => net.go_back(&images, trace, &gradient, take),
            Kept::F64(trace) => net.go_back(&images, trace, &gradient, take),
            Kept::Graph => {
                // The derivative of Σ logits · g in the weights is the loss's, since g is its derivative in the logits.
                let mut store = (logits * gradient)?.sum_all()?.backward()?;
                for (at, (_, var)) in net.vars.iter().enumerate() {
                    if let Some(gradient) = store.remove(var) {
                        take(at, gradient)?;
                    }
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Kept::Engine(mut engine) => {
                let gradients = engine.gradients_of(&gradient)?;
                net.engines.put(*engine);
                gradients
                    .into_iter()
                    .enumerate()
                    .try_for_each(|(at, gradient)| take(at, gradient))
            }
        }
    }
}

impl Block {
    /// Of one tensor, or of two that are joined along the channels.
    fn forward(&self, x: &Tensor, joined: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let [conv1, conv2] = &self.convs;
        let [norm1, norm2] = &self.norms;
        let y = match joined {
            None => conv2d_same(x, &conv1.weight, &conv1.bias)?,
            Some(other) => conv2d_same_joined(x, other, &conv1.weight, &conv1.bias)?,
        };
        let x = relu_instance_norm(&y, &norm1.weight, &norm1.bias, eps)?;
        let y = conv2d_same(&x, &conv2.weight, &conv2.bias)?;
        relu_instance_norm(&y, &norm2.weight, &norm2.bias, eps)
    }
}

/// Makes the weights one after the other; a kernel's place in the order is part of its random key.
struct Builder<'a> {
    seed: u64,
    dtype: DType,
    device: &'a Device,
    vars: Vec<(String, Var)>,
}

impl Builder<'_> {
    fn layer(&mut self, name: &str, weight: &Tensor, bias: &Tensor) -> Result<Layer> {
        let (weight, bias) = (Var::from_tensor(weight)?, Var::from_tensor(bias)?);
        let layer = Layer {
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
        };
        self.vars.push((format!("{name}.weight"), weight));
        self.vars.push((format!("{name}.bias"), bias));
        Ok(layer)
    }

    /// A kernel `[a, b, k, k]` and a zero bias of `outputs`.
    fn kernel(
        &mut self,
        name: &str,
        (a, b, k): (usize, usize, usize),
        outputs: usize,
    ) -> Result<Layer> {
        let index = self.vars.len() as u64;
        let weight = glorot_uniform((a, b, k, k), self.seed, index, self.dtype, self.device)?;
        self.layer(
            name,
            &weight,
            &Tensor::zeros(outputs, self.dtype, self.device)?,
        )
    }

    fn norm(&mut self, name: &str, channels: usize) -> Result<Layer> {
        let ones = Tensor::ones(channels, self.dtype, self.device)?;
        self.layer(name, &ones, &ones.zeros_like()?)
    }

    fn block(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Block> {
        let conv1 = self.kernel(&format!("{name}.conv1"), (outputs, inputs, 3), outputs)?;
        let norm1 = self.norm(&format!("{name}.norm1"), outputs)?;
        let conv2 = self.kernel(&format!("{name}.conv2"), (outputs, outputs, 3), outputs)?;
        let norm2 = self.norm(&format!("{name}.norm2"), outputs)?;
        Ok(Block {
            convs: [conv1, conv2],
            norms: [norm1, norm2],
        })
    }
}

impl UNet {
    /// A network of f32 weights: kernels Glorot uniform from the seed, biases 0, norm weights 1.
    ///
    /// # Errors
    /// If the configuration is out of range.
    pub fn new(config: &UNetConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::with_dtype(config, seed, DType::F32, device)
    }

    /// As [`UNet::new`], with weights of `dtype`: f32 or f64. The f32 weights are the f64 ones rounded.
    ///
    /// # Errors
    /// If the configuration is out of range, or for another dtype.
    pub fn with_dtype(
        config: &UNetConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::Msg(format!(
                "U-Net: weights of {dtype:?}; expected F32 or F64"
            )));
        }
        let &UNetConfig {
            in_channels,
            classes,
            depth,
            ..
        } = config;
        let mut build = Builder {
            seed,
            dtype,
            device,
            vars: Vec::new(),
        };
        let mut encoder = Vec::new();
        let mut inputs = in_channels;
        for level in 0..depth {
            encoder.push(build.block(&format!("enc{level}"), inputs, config.channels(level))?);
            inputs = config.channels(level);
        }
        let middle = build.block("mid", inputs, config.channels(depth))?;
        let mut decoder = Vec::new();
        for level in (0..depth).rev() {
            let (fine, coarse) = (config.channels(level), config.channels(level + 1));
            let up = build.kernel(&format!("up{level}"), (coarse, fine, 2), fine)?;
            decoder.push((up, build.block(&format!("dec{level}"), 2 * fine, fine)?));
        }
        let head = build.kernel("head", (classes, config.channels(0), 1), classes)?;
        Ok(Self {
            config: *config,
            dtype,
            precision: Precision::default(),
            #[cfg(feature = "cuda")]
            engines: Engines::default(),
            vars: build.vars,
            encoder,
            middle,
            decoder,
            head,
        })
    }

    /// Logits `[N, classes, H, W]` of images `[N, in_channels, H, W]`.
    ///
    /// # Errors
    /// If the images have other channels, another dtype, or a size that is no multiple of 2^depth.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.check(images)?;
        let eps = self.config.norm_eps;
        let mut x = images.clone();
        let mut skips = Vec::new();
        for block in &self.encoder {
            let skip = block.forward(&x, None, eps)?;
            x = max_pool2(&skip)?;
            skips.push(skip);
        }
        x = self.middle.forward(&x, None, eps)?;
        for ((up, block), skip) in self.decoder.iter().zip(skips.iter().rev()) {
            let raised = up2(&x, &up.weight, &up.bias)?;
            x = block.forward(&raised, Some(skip), eps)?;
        }
        conv2d_same(&x, &self.head.weight, &self.head.bias)
    }

    /// As [`UNet::forward`], with room for the way back: logits, and later [`Pass::backward`].
    ///
    /// On the CPU and on a CUDA device it is some times as fast as [`UNet::forward`] and Candle's `backward`, and takes
    /// less memory, since it needs no graph: the trainer's way.
    ///
    /// ```
    /// use candle_core::{DType, Device::Cpu, Tensor};
    /// use seg_unet::{UNet, UNetConfig};
    /// let config = UNetConfig { in_channels: 1, width: 4, depth: 2, ..UNetConfig::default() };
    /// let net = UNet::new(&config, 7, &Cpu)?;
    /// let pass = net.pass(&Tensor::ones((1, 1, 16, 24), DType::F32, &Cpu)?)?;
    /// // Of the mean of all logits; a loss has `value_and_grad` for this.
    /// let n = pass.logits().elem_count() as f64;
    /// let gradient = pass.logits().ones_like()?.affine(1.0 / n, 0.0)?;
    /// let gradients = pass.backward(&gradient)?;
    /// for (name, var) in net.vars() {
    ///     assert_eq!(gradients.get(var).unwrap().dims(), var.dims(), "{name}");
    /// }
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// It computes on Rayon's threads. While one thread does, no other may write this network's weights: the two could
    /// wait for each other.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    #[allow(clippy::redundant_closure_for_method_calls)] // the method is of one lifetime, not of every
    pub fn pass(&self, images: &Tensor) -> Result<Pass<'_>> {
        self.check(images)?;
        let images = images.contiguous()?.detach();
        let (logits, kept) = match self.dtype {
            #[cfg(feature = "cuda")]
            DType::F32 if images.device().is_cuda() => {
                let mut engine = self.engines.take(self, &images, true)?;
                (engine.logits_of(&images)?, Kept::Engine(Box::new(engine)))
            }
            _ if !images.device().is_cpu() => (self.forward(&images)?, Kept::Graph),
            DType::F64 => {
                let (logits, trace) = self.with_plan(&images, |plan, x| plan.forward(x))?;
                (self.logits(logits, &images)?, Kept::F64(trace))
            }
            _ => {
                let (logits, trace) = self.with_plan(&images, |plan, x| plan.forward(x))?;
                (self.logits(logits, &images)?, Kept::F32(trace))
            }
        };
        Ok(Pass {
            net: self,
            images,
            logits,
            kept,
        })
    }

    /// Logits outside any graph: as [`UNet::forward`], with nothing kept for a way back.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    #[allow(clippy::redundant_closure_for_method_calls)] // as in `pass`
    pub fn infer(&self, images: &Tensor) -> Result<Tensor> {
        self.check(images)?;
        let images = images.contiguous()?.detach();
        match self.dtype {
            #[cfg(feature = "cuda")]
            DType::F32 if images.device().is_cuda() => {
                let mut engine = self.engines.take(self, &images, false)?;
                let logits = engine.logits_of(&images)?;
                self.engines.put(engine);
                Ok(logits)
            }
            _ if !images.device().is_cpu() => Ok(self.forward(&images)?.detach()),
            DType::F64 => self.logits(
                self.with_plan::<f64, _>(&images, |plan, x| plan.infer(x))?,
                &images,
            ),
            _ => self.logits(
                self.with_plan::<f32, _>(&images, |plan, x| plan.infer(x))?,
                &images,
            ),
        }
    }

    fn logits<R: Dispatch>(&self, logits: Vec<R>, images: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = images.dims4()?;
        Tensor::from_vec(logits, (n, self.config.classes, h, w), images.device())
    }

    /// Calls `f` on Rayon's threads with the weights and the images' numbers.
    fn with_plan<R: Dispatch, T: Send>(
        &self,
        images: &Tensor,
        f: impl FnOnce(&Plan<'_, R>, &[R]) -> T + Send,
    ) -> Result<T> {
        let (n, _, h, w) = images.dims4()?;
        let plan = Plan {
            config: &self.config,
            vars: &self.vars,
            isa: InstructionSet::get()?,
            size: Size { n, h, w },
            of: PhantomData,
        };
        R::arena().expect(plan.size, plan.blocks_at_once());
        let (storage, layout) = images.storage_and_layout();
        let images = ops::cpu_elements(&storage, layout)?;
        // In one go on the pool's threads: no wake-up between operations.
        Ok(rayon::scope(|_| f(&plan, images)))
    }

    fn go_back<R: Dispatch, E: From<Error> + Send>(
        &self,
        images: &Tensor,
        trace: Trace<R>,
        gradient: &Tensor,
        mut take: impl FnMut(usize, Tensor) -> std::result::Result<(), E> + Send,
    ) -> std::result::Result<(), E> {
        let (storage, layout) = gradient.storage_and_layout();
        let gradient = ops::cpu_elements(&storage, layout)?;
        let mut sink = |at: usize, gradient: Vec<R>| {
            let (_, var) = &self.vars[at];
            take(at, Tensor::from_vec(gradient, var.shape(), var.device())?)
        };
        self.with_plan(images, |plan, images| {
            plan.backward(images, trace, gradient, &mut sink)
        })?
    }

    fn check(&self, images: &Tensor) -> Result<()> {
        let (channels, multiple) = (self.config.in_channels, self.config.size_multiple());
        let found = images.dims();
        let message = match *found {
            [n, c, h, w] if n > 0 && c == channels && h > 0 && w > 0 => {
                let (_, first) = &self.vars[0];
                if !images.device().same_device(first.device()) {
                    format!(
                        "images are on {:?}; expected {:?}, where the weights are",
                        images.device().location(),
                        first.device().location()
                    )
                } else if images.dtype() != self.dtype {
                    format!(
                        "images are {:?}; expected {:?}, the weights' type",
                        images.dtype(),
                        self.dtype
                    )
                } else if h % multiple != 0 || w % multiple != 0 {
                    format!(
                        "images are {h}×{w}; expected a height and a width that are multiples of {multiple} \
                         (2^depth), such as {}×{}: resize them or choose a smaller depth",
                        h.next_multiple_of(multiple),
                        w.next_multiple_of(multiple)
                    )
                } else {
                    return Ok(());
                }
            }
            _ => format!(
                "images have shape {found:?}; expected [N, {channels}, H, W], none of them 0"
            ),
        };
        Err(Error::Msg(format!("U-Net: {message}")))
    }

    /// What the network is made of.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The type of the weights: f32 or f64.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The numbers that [`UNet::pass`] and [`UNet::infer`] compute in on a CUDA device.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets [`UNet::precision`]; on the CPU it changes nothing.
    ///
    /// ```
    /// use candle_core::Device::Cpu;
    /// use seg_unet::{Precision, UNet, UNetConfig};
    /// let mut net = UNet::new(&UNetConfig { width: 4, depth: 1, ..UNetConfig::default() }, 7, &Cpu)?;
    /// net.set_precision(Precision::Bf16);
    /// assert_eq!(net.precision(), Precision::Bf16);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Names and weights, always in the same order.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// Names and present values, outside any graph. They are the weights themselves, not copies: copy what has to
    /// outlive the next step.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect()
    }

    /// Sets all weights; if any does not fit, none is changed.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, of another shape or dtype, or holds NaN or an infinity.
    pub fn set_tensors(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        weights::check("the given tensors", &self.vars, tensors)?;
        self.assign(tensors)
    }

    /// Sets the weights from tensors that have been checked.
    fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in &self.vars {
            if let Some(tensor) = tensors.get(name) {
                var.set(&tensor.to_device(var.device())?)?;
            }
        }
        Ok(())
    }

    /// Writes the weights as safetensors, replacing the file only when all is written.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        weights::save(path.as_ref(), self.tensors())
    }

    /// Reads the weights of a network of this configuration, in the file's own type, f32 or f64.
    ///
    /// # Errors
    /// If the configuration is out of range, the file cannot be read, or a tensor is missing, unknown, of another shape
    /// or dtype, or holds NaN or an infinity.
    pub fn load(config: &UNetConfig, path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        config.validate()?;
        let bytes = weights::read(path, config)?;
        Self::load_bytes(config, &path.display().to_string(), &bytes, device)
    }

    /// As [`UNet::load`], of a file's bytes; `source` is what begins the sentence of an error.
    ///
    /// ```
    /// use candle_core::Device::Cpu;
    /// use seg_unet::{UNet, UNetConfig};
    /// let error = UNet::load_bytes(&UNetConfig::default(), "net", b"junk", &Cpu).unwrap_err();
    /// assert!(error.to_string().starts_with("net: found 4 bytes that are not whole safetensors"), "{error}");
    /// ```
    ///
    /// # Errors
    /// As [`UNet::load`].
    pub fn load_bytes(
        config: &UNetConfig,
        source: &str,
        bytes: &[u8],
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let stored = Stored::parse(source, bytes)?;
        let net = Self::with_dtype(config, 0, stored.dtype(), device)?;
        net.assign(&stored.tensors(&net.vars, device)?)?;
        Ok(net)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device::Cpu;

    use super::*;
    use crate::ops::testing::random;

    const SMALL: UNetConfig = UNetConfig {
        in_channels: 2,
        classes: 3,
        width: 4,
        depth: 2,
        norm_eps: 1e-3,
    };

    #[test]
    fn names_and_shapes_are_in_order() {
        let net = UNet::new(&UNetConfig { depth: 1, ..SMALL }, 1, &Cpu).unwrap();
        let weights: Vec<_> = net
            .vars()
            .iter()
            .filter(|(name, _)| name.ends_with("weight"))
            .map(|(name, var)| (name.as_str(), var.dims().to_vec()))
            .collect();
        let expected = [
            ("enc0.conv1.weight", vec![4, 2, 3, 3]),
            ("enc0.norm1.weight", vec![4]),
            ("enc0.conv2.weight", vec![4, 4, 3, 3]),
            ("enc0.norm2.weight", vec![4]),
            ("mid.conv1.weight", vec![8, 4, 3, 3]),
            ("mid.norm1.weight", vec![8]),
            ("mid.conv2.weight", vec![8, 8, 3, 3]),
            ("mid.norm2.weight", vec![8]),
            ("up0.weight", vec![8, 4, 2, 2]),
            ("dec0.conv1.weight", vec![4, 8, 3, 3]),
            ("dec0.norm1.weight", vec![4]),
            ("dec0.conv2.weight", vec![4, 4, 3, 3]),
            ("dec0.norm2.weight", vec![4]),
            ("head.weight", vec![3, 4, 1, 1]),
        ];
        assert_eq!(weights, expected);
        assert_eq!(net.vars().len(), 2 * expected.len());
    }

    #[test]
    fn every_weight_gets_the_gradient_that_central_differences_give() {
        let net = UNet::with_dtype(&SMALL, 3, DType::F64, &Cpu).unwrap();
        let x = random(&[2, 2, 8, 12], 1);
        let loss = || net.forward(&x).unwrap().sqr().unwrap().mean_all().unwrap();
        let grads = loss().backward().unwrap();
        for (name, var) in net.vars() {
            let gradient = grads
                .get(var)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap();
            assert!(gradient.iter().all(|g| g.is_finite()), "{name}");
            let at = var.as_tensor().copy().unwrap();
            // Along one random direction: a whole tensor at the price of one number.
            let direction = random(var.dims(), 5);
            let moved = |by: f64| {
                var.set(&(&at + (&direction * by).unwrap()).unwrap())
                    .unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let step = 1e-6;
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            var.set(&at).unwrap();
            let direction = direction.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            assert!(
                (slope - difference).abs() < 1e-6,
                "{name}: {slope} and {difference}"
            );
        }
    }

    #[test]
    fn equal_seeds_give_equal_bits_and_other_seeds_do_not() {
        let x = random(&[1, 2, 8, 8], 1).to_dtype(DType::F32).unwrap();
        let logits = |seed| {
            let net = UNet::new(&SMALL, seed, &Cpu).unwrap();
            net.forward(&x)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(logits(1), logits(1));
        assert_ne!(logits(1), logits(2));
    }

    #[test]
    fn a_batch_gives_what_its_images_give_one_by_one() {
        // The wide one has more tiles than channels in a batch, and fewer in an image.
        for (config, size) in [
            (SMALL, [8, 16]),
            (UNetConfig { width: 48, ..SMALL }, [32, 48]),
        ] {
            let net = UNet::new(&config, 1, &Cpu).unwrap();
            let [h, w] = size;
            let x = random(&[3, 2, h, w], 1).to_dtype(DType::F32).unwrap();
            let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let image = |i: usize| x.narrow(0, i, 1).unwrap();
            let graphs: Vec<f32> = (0..3)
                .flat_map(|i| values(net.forward(&image(i)).unwrap()))
                .collect();
            assert_eq!(values(net.forward(&x).unwrap()), graphs);
            let passes: Vec<f32> = (0..3)
                .flat_map(|i| values(net.infer(&image(i)).unwrap()))
                .collect();
            assert_eq!(values(net.infer(&x).unwrap()), passes);
        }
    }

    /// The number of threads is fixed when a process starts, so this test starts itself.
    #[test]
    fn no_bit_depends_on_the_number_of_threads() {
        const CHILD: &str = "SEG_UNET_PRINTS_GRADIENTS";
        if std::env::var_os(CHILD).is_some() {
            let config = UNetConfig {
                width: 20,
                depth: 3,
                ..SMALL
            };
            let net = UNet::new(&config, 1, &Cpu).unwrap();
            let x = random(&[2, 2, 96, 64], 1).to_dtype(DType::F32).unwrap();
            let graph = net.forward(&x).unwrap().sqr().unwrap();
            let graph = graph.sum_all().unwrap().backward().unwrap();
            let pass = net.pass(&x).unwrap();
            let gradient = (pass.logits() * 2.0).unwrap();
            let pass = pass.backward(&gradient).unwrap();
            for (name, var) in net.vars() {
                for gradients in [&graph, &pass] {
                    let gradient = gradients.get(var).unwrap().flatten_all().unwrap();
                    let gradient = gradient.to_vec1::<f32>().unwrap();
                    let bits: Vec<u32> = gradient.into_iter().map(f32::to_bits).collect();
                    println!("gradient {name} {bits:?}");
                }
            }
            return;
        }
        let gradients = |threads: &str| -> Vec<String> {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "unet::tests::no_bit_depends_on_the_number_of_threads",
                    "--nocapture",
                ])
                .env(CHILD, "1")
                .env("RAYON_NUM_THREADS", threads)
                .env("CANDLE_NUM_THREADS", threads)
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            output
                .lines()
                .filter(|line| line.starts_with("gradient "))
                .map(Into::into)
                .collect()
        };
        let one = gradients("1");
        assert_eq!(one.len(), 128);
        for threads in ["2", "5"] {
            assert!(
                gradients(threads) == one,
                "{threads} threads give other bits than one"
            );
        }
    }

    #[test]
    fn images_that_do_not_fit_are_refused_with_what_would() {
        let net = UNet::new(&SMALL, 1, &Cpu).unwrap();
        let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Cpu).unwrap();
        for (images, sentence) in [
            (
                t(&[1, 2, 10, 16]),
                "U-Net: images are 10×16; expected a height and a width that are multiples of 4 (2^depth), \
                 such as 12×16: resize them or choose a smaller depth",
            ),
            (
                t(&[1, 3, 8, 8]),
                "U-Net: images have shape [1, 3, 8, 8]; expected [N, 2, H, W], none of them 0",
            ),
            (
                t(&[2, 8, 8]),
                "U-Net: images have shape [2, 8, 8]; expected [N, 2, H, W], none of them 0",
            ),
            (
                t(&[0, 2, 8, 8]),
                "U-Net: images have shape [0, 2, 8, 8]; expected [N, 2, H, W], none of them 0",
            ),
            (
                t(&[1, 2, 8, 8]).to_dtype(DType::F64).unwrap(),
                "U-Net: images are F64; expected F32, the weights' type",
            ),
        ] {
            assert_eq!(net.forward(&images).unwrap_err().to_string(), sentence);
        }
        let error = UNet::with_dtype(&SMALL, 1, DType::F16, &Cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "U-Net: weights of F16; expected F32 or F64"
        );
    }
}
