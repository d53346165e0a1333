//! A training step and an inference of the paper's network: what `unet.rs` and `compare/step.rs` measure.

use std::{collections::HashMap, path::Path};

use anyhow::Result;
use candle_core::{DType, Device, Tensor, backprop::GradStore, safetensors};
use dice_losses::{Loss as _, LossSpec, Prediction, Target};
use seg_train::{
    evaluate::probabilities,
    optim::{Sgd, SgdConfig},
};
use seg_unet::{UNet, UNetConfig};

use crate::Input;

/// The paper's network for a grey image and two classes.
const CONFIG: UNetConfig = UNetConfig {
    in_channels: 1,
    classes: 2,
    width: 32,
    depth: 4,
    norm_eps: 1e-3,
};

/// The paper's optimiser, at a rate at which hundreds of steps on one image stay finite.
const SGD: SgdConfig = SgdConfig {
    clip_norm: None,
    lr: 0.01,
    momentum: 0.9,
    nesterov: true,
};

/// The network with its optimiser, and an image with its labels.
#[derive(Debug)]
pub struct Step {
    net: UNet,
    sgd: Sgd,
    loss: LossSpec,
    image: Tensor,
    labels: Tensor,
}

/// What a training step computes before it changes a weight.
#[derive(Debug)]
pub struct Computed {
    /// `[1, 2, H, W]`.
    pub logits: Tensor,
    /// The loss, a scalar.
    pub value: Tensor,
    /// Of each weight.
    pub gradients: GradStore,
}

impl Step {
    /// The network of a seed; the image shows its labels through noise.
    ///
    /// # Errors
    ///
    /// If the device has no room.
    pub fn new(size: usize, seed: u64) -> Result<Self> {
        Self::batch(size, 1, seed)
    }

    /// The same with several images.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn batch(size: usize, images: usize, seed: u64) -> Result<Self> {
        let net = UNet::new(&CONFIG, seed, &Device::Cpu)?;
        // One channel's logits are such an image.
        let Input { logits, labels, .. } = Input::draw(&[images, 1, size, size])?;
        Ok(Self {
            sgd: Sgd::new(&SGD, net.vars())?,
            net,
            loss: "dice++:gamma=2".parse()?,
            image: logits,
            labels,
        })
    }

    /// The images `[N, 1, H, W]` and their labels `[N, H, W]`.
    pub fn data(&self) -> (&Tensor, &Tensor) {
        (&self.image, &self.labels)
    }

    /// The settings of network and optimiser.
    pub const fn settings() -> (UNetConfig, SgdConfig) {
        (CONFIG, SGD)
    }

    /// Forward, loss, backward.
    ///
    /// # Errors
    ///
    /// If the image does not fit the network.
    pub fn compute(&self) -> Result<Computed> {
        let pass = self.net.pass(&self.image)?;
        let logits = pass.logits().clone();
        let target = Target::labels(&self.labels);
        let (value, gradient) = self
            .loss
            .build()
            .value_and_grad(&Prediction::logits(&logits), &target)?;
        Ok(Computed {
            logits,
            value,
            gradients: pass.backward(&gradient)?,
        })
    }

    /// Forward, loss, backward, step.
    ///
    /// # Errors
    ///
    /// As [`Self::compute`].
    pub fn train(&mut self) -> Result<()> {
        let Self { net, sgd, .. } = self;
        let pass = net.pass(&self.image)?;
        let target = Target::labels(&self.labels);
        let logits = Prediction::logits(pass.logits());
        let (_, gradient) = self.loss.build().value_and_grad(&logits, &target)?;
        pass.backward_each(&gradient, |at, gradient| sgd.update(at, &gradient))
    }

    /// The logits, without what backward would need.
    ///
    /// # Errors
    ///
    /// If the image does not fit the network.
    pub fn logits(&self) -> Result<Tensor> {
        self.net.infer(&self.image).map_err(Into::into)
    }

    /// The probabilities.
    ///
    /// # Errors
    ///
    /// As [`Self::logits`].
    pub fn infer(&self) -> Result<Vec<f32>> {
        probabilities(&self.logits()?)
    }

    /// Writes what another implementation needs to do the same: `weights.safetensors`, and in `input.safetensors` the
    /// image, its labels and the settings of network and optimiser.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.net.save(folder.join("weights.safetensors"))?;
        let scalar = |value: f64| Tensor::new(value, &Device::Cpu);
        let input = HashMap::from([
            ("image", self.image.clone()),
            ("labels", self.labels.clone()),
            ("norm_eps", scalar(CONFIG.norm_eps)?),
            ("lr", scalar(SGD.lr)?),
            ("momentum", scalar(SGD.momentum)?),
        ]);
        Ok(safetensors::save(&input, folder.join("input.safetensors"))?)
    }

    /// Writes what the network computes: `loss` (f64), `logits` of the training step, `inferred` logits of the
    /// inference, and each weight's gradient by the weight's name.
    ///
    /// # Errors
    ///
    /// As [`Self::compute`], or if the file can't be written.
    pub fn save_computed(&self, file: &Path) -> Result<()> {
        let Computed {
            logits,
            value,
            gradients,
        } = self.compute()?;
        let mut tensors = HashMap::from([
            ("loss", value.to_dtype(DType::F64)?),
            ("logits", logits),
            ("inferred", self.logits()?),
        ]);
        for (name, var) in self.net.vars() {
            if let Some(gradient) = gradients.get(var) {
                tensors.insert(name, gradient.detach().contiguous()?);
            }
        }
        Ok(safetensors::save(&tensors, file)?)
    }
}
