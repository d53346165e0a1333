//! Trained networks that are only looked through: how weights become probabilities.
//!
//! One network's softmax is the plain case. An ensemble's probability is the mean of its networks' (Lakshminarayanan et
//! al. 2017), and the logits of whatever comes out can be scaled ([`scaling`]).

pub mod scaling;

use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use seg_unet::{Precision, UNet};
use serde::{Deserialize, Serialize};

use self::scaling::logarithms;
pub use self::scaling::{Scale, Scaling};
#[cfg(feature = "cuda")]
use crate::cuda::infer::Engines;
use crate::{evaluate::probabilities, raster::Image};

/// How trained weights become probabilities. The default is the softmax of one network's logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Networks of an ensemble: so many are trained from weights of their own, and their probabilities averaged.
    pub members: usize,
    /// Samples of Monte Carlo dropout (Gal & Ghahramani 2016): the mean over so many passes, each with dropout as in
    /// training; 0: one pass without.
    pub samples: usize,
    /// What is fitted on the validation set after training.
    pub scaling: Scaling,
}

impl Default for InferenceConfig {
    fn default() -> Self {
        Self {
            members: 1,
            samples: 0,
            scaling: Scaling::None,
        }
    }
}

impl InferenceConfig {
    /// What is done, in words, and whether it is.
    pub(crate) fn words(&self) -> [(bool, String); 3] {
        let scaling = match self.scaling {
            Scaling::None => "",
            Scaling::Temperature => "temperature scaling",
            Scaling::Vector => "vector scaling",
        };
        [
            (self.members > 1, format!("ensemble of {}", self.members)),
            (
                self.samples > 0,
                format!("{} samples of dropout", self.samples),
            ),
            (!scaling.is_empty(), scaling.into()),
        ]
    }
}

/// Networks on a device, and what becomes of their logits.
///
/// ```
/// use candle_core::Device;
/// use seg_train::{inference::Inference, raster::Image};
/// use seg_unet::{Precision, UNet, UNetConfig};
/// let config = UNetConfig { in_channels: 1, width: 4, depth: 2, ..UNetConfig::default() };
/// let net = Inference::new(UNet::new(&config, 7, &Device::Cpu)?, Precision::F32, &Device::Cpu);
/// let image = Image { channels: 1, height: 8, width: 4, data: vec![0.0; 32] };
/// assert_eq!(net.predict(&image)?.len(), 2 * 32);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Inference {
    networks: Vec<Network>,
    scale: Option<Scale>,
}

impl Inference {
    /// Of one network whose weights lie on `device`. The precision is a GPU's: the CPU computes in f32, whatever the
    /// network was trained in.
    pub fn new(unet: UNet, precision: Precision, device: &Device) -> Self {
        Self {
            networks: vec![Network::new(unet, precision, device)],
            scale: None,
        }
    }

    /// Of an ensemble.
    ///
    /// # Errors
    ///
    /// When there is no network.
    pub fn ensemble(unets: Vec<UNet>, precision: Precision, device: &Device) -> Result<Self> {
        ensure!(
            !unets.is_empty(),
            "an ensemble of no networks has no probabilities; give at least one"
        );
        let networks = unets.into_iter();
        Ok(Self {
            networks: networks
                .map(|unet| Network::new(unet, precision, device))
                .collect(),
            scale: None,
        })
    }

    /// The same with scaled logits.
    #[must_use]
    pub fn scaled(self, scale: Scale) -> Self {
        Self {
            scale: Some(scale),
            ..self
        }
    }

    /// The network, of an ensemble its first.
    pub fn unet(&self) -> &UNet {
        &self.networks[0].unet
    }

    /// The class probabilities of one image, planar `[classes, pixels]`.
    ///
    /// # Errors
    ///
    /// When the image does not fit the network.
    pub fn predict(&self, image: &Image) -> Result<Vec<f32>> {
        match &self.scale {
            Some(scale) => Ok(scale.softmax(&self.scores(image)?)),
            None => self.unscaled(image),
        }
    }

    /// What a scaling scales, planar `[classes, pixels]`: one network's logits, or the logarithms of the mean
    /// probabilities of several, whose softmax these are.
    ///
    /// # Errors
    ///
    /// As [`predict`](Self::predict).
    pub fn scores(&self, image: &Image) -> Result<Vec<f32>> {
        match &self.networks[..] {
            [one] => Ok(one.logits(image)?.flatten_all()?.to_vec1()?),
            _ => Ok(logarithms(&self.unscaled(image)?)),
        }
    }

    fn unscaled(&self, image: &Image) -> Result<Vec<f32>> {
        let mut of_each = self
            .networks
            .iter()
            .map(|network| probabilities(&network.logits(image)?));
        let first = of_each.next().transpose()?.unwrap_or_default();
        if self.networks.len() == 1 {
            return Ok(first);
        }
        let mut sum: Vec<f64> = first.into_iter().map(f64::from).collect();
        for p in of_each {
            sum.iter_mut().zip(p?).for_each(|(sum, p)| *sum += f64::from(p));
        }
        let n = self.networks.len() as f64;
        Ok(sum.into_iter().map(|sum| (sum / n) as f32).collect())
    }
}

/// One network and the device that it is computed on.
struct Network {
    unet: UNet,
    device: Device,
    /// Buffers of the sizes so far; none on the CPU.
    #[cfg(feature = "cuda")]
    engines: Option<Mutex<Engines>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("unet", &self.unet)
            .finish_non_exhaustive()
    }
}

impl Network {
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn new(unet: UNet, precision: Precision, device: &Device) -> Self {
        Self {
            unet,
            device: device.clone(),
            #[cfg(feature = "cuda")]
            engines: device
                .is_cuda()
                .then(|| Mutex::new(Engines::new(precision))),
        }
    }

    /// The logits `[1, classes, H, W]` of one image.
    fn logits(&self, image: &Image) -> Result<Tensor> {
        let Image {
            channels,
            height,
            width,
            ref data,
        } = *image;
        #[cfg(feature = "cuda")]
        if let Some(engines) = &self.engines {
            let config = self.unet.config();
            anyhow::ensure!(
                channels == config.in_channels,
                "an image has {channels} channels; the network takes {}",
                config.in_channels
            );
            let mut engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
            let logits = engines.logits(&self.unet, data, [1, height, width])?;
            let shape = (1, config.classes, height, width);
            return Ok(Tensor::from_vec(logits, shape, &Device::Cpu)?);
        }
        let input = Tensor::from_slice(data, (1, channels, height, width), &self.device)?;
        Ok(self.unet.infer(&input)?)
    }
}
