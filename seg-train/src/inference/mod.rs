//! Trained networks that are only looked through: how weights become probabilities.
//!
//! One network's softmax is the plain case. An ensemble's probability is the mean of its networks' (Lakshminarayanan et
//! al. 2017), that of Monte Carlo dropout the mean over passes with channels dropped (Gal & Ghahramani 2016), and the
//! logits of whatever comes out can be scaled ([`scaling`]).

pub mod scaling;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use seg_unet::{Precision, UNet};
use serde::{Deserialize, Serialize};

use self::scaling::logarithms;
pub use self::scaling::{Scale, Scaling};
#[cfg(feature = "cuda")]
use crate::cuda::infer::Engines;
use crate::{
    dropout::Dropout,
    evaluate::probabilities,
    raster::Image,
    rng::{Purpose, stream},
};

/// How trained weights become probabilities. The default is the softmax of one network's logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Networks of an ensemble: so many are trained from weights of their own, and their probabilities averaged.
    #[serde(skip_serializing_if = "is_one")]
    pub members: usize,
    /// Samples of Monte Carlo dropout (Gal & Ghahramani 2016): the mean over so many passes, each with dropout as in
    /// training; 0: one pass without.
    #[serde(skip_serializing_if = "is_default")]
    pub samples: usize,
    /// What is fitted on the validation set after training.
    #[serde(skip_serializing_if = "is_default")]
    pub scaling: Scaling,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(members: &usize) -> bool {
    *members == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    sampling: Option<Sampling>,
    scale: Option<Scale>,
}

impl Inference {
    /// Of one network whose weights lie on `device`. The precision is a GPU's: the CPU computes in f32, whatever the
    /// network was trained in.
    pub fn new(unet: UNet, precision: Precision, device: &Device) -> Self {
        Self {
            networks: vec![Network::new(unet, precision, device)],
            sampling: None,
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
            sampling: None,
            scale: None,
        })
    }

    /// The same by Monte Carlo dropout: the mean of so many passes, each with channels dropped as in training. The masks
    /// are drawn from the seed and are the same for every image, so that an image's probabilities do not hang on those that
    /// came before it.
    ///
    /// # Errors
    ///
    /// For no samples, a rate outside `[0, 1)`, or a network that is not on the CPU.
    pub fn sampled(self, samples: usize, rate: f64, seed: u64) -> Result<Self> {
        ensure!(
            samples > 0,
            "Monte Carlo dropout without a sample has no probabilities; take at least one"
        );
        let sampling = Sampling {
            samples,
            dropout: Dropout::new(self.unet(), rate)?,
            seed,
            turn: Mutex::new(()),
        };
        Ok(Self {
            sampling: Some(sampling),
            ..self
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
    /// probabilities of several passes, whose softmax these are.
    ///
    /// # Errors
    ///
    /// As [`predict`](Self::predict).
    pub fn scores(&self, image: &Image) -> Result<Vec<f32>> {
        match &self.networks[..] {
            [one] if self.sampling.is_none() => Ok(one.logits(image)?.flatten_all()?.to_vec1()?),
            _ => Ok(logarithms(&self.unscaled(image)?)),
        }
    }

    fn unscaled(&self, image: &Image) -> Result<Vec<f32>> {
        if let ([one], None) = (&self.networks[..], &self.sampling) {
            return probabilities(&one.logits(image)?);
        }
        let mut mean = Mean::default();
        for network in &self.networks {
            match &self.sampling {
                None => mean.add(&probabilities(&network.logits(image)?)?),
                Some(sampling) => sampling.add_to(&mut mean, network, image)?,
            }
        }
        Ok(mean.value())
    }
}

/// A mean of maps.
#[derive(Debug, Default)]
struct Mean {
    sum: Vec<f64>,
    maps: usize,
}

impl Mean {
    fn add(&mut self, p: &[f32]) {
        self.sum.resize(p.len(), 0.0);
        self.sum
            .iter_mut()
            .zip(p)
            .for_each(|(sum, &p)| *sum += f64::from(p));
        self.maps += 1;
    }

    fn value(self) -> Vec<f32> {
        let n = self.maps as f64;
        self.sum.into_iter().map(|sum| (sum / n) as f32).collect()
    }
}

/// Passes with dropout.
#[derive(Debug)]
struct Sampling {
    samples: usize,
    dropout: Dropout,
    seed: u64,
    /// A pass changes the network's weights while it lasts.
    turn: Mutex<()>,
}

impl Sampling {
    fn add_to(&self, mean: &mut Mean, network: &Network, image: &Image) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in 0..self.samples {
            // No epoch of training has this number.
            let mut rng = stream(self.seed, Purpose::Dropout, u64::MAX, sample as u64);
            let masked = self.dropout.mask(&network.unet, &mut rng)?;
            let logits = network.logits(image);
            masked.restore(&network.unet)?;
            mean.add(&probabilities(&logits?)?);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use seg_unet::UNetConfig;

    use super::*;

    const SMALL: UNetConfig = UNetConfig {
        in_channels: 1,
        classes: 3,
        width: 4,
        depth: 2,
        norm_eps: 1e-3,
    };

    fn unet(seed: u64) -> UNet {
        UNet::new(&SMALL, seed, &Device::Cpu).unwrap()
    }

    fn net(seed: u64) -> Inference {
        Inference::new(unet(seed), Precision::F32, &Device::Cpu)
    }

    fn image() -> Image {
        Image {
            channels: 1,
            height: 8,
            width: 4,
            data: (0..32_u8).map(|i| f32::from(i % 7) - 3.0).collect(),
        }
    }

    #[test]
    fn an_ensembles_probability_is_the_mean_of_its_networks() {
        let both = Inference::ensemble(vec![unet(1), unet(2)], Precision::F32, &Device::Cpu);
        let both = both.unwrap().predict(&image()).unwrap();
        let [one, two] = [1, 2].map(|seed| net(seed).predict(&image()).unwrap());
        for ((both, one), two) in both.iter().zip(&one).zip(&two) {
            assert!((both - f32::midpoint(*one, *two)).abs() < 1e-6);
        }
        assert_ne!(one, two);
        assert_eq!(
            Inference::ensemble(Vec::new(), Precision::F32, &Device::Cpu)
                .unwrap_err()
                .to_string(),
            "an ensemble of no networks has no probabilities; give at least one"
        );
    }

    #[test]
    fn samples_of_dropout_differ_repeat_and_leave_the_weights_alone() {
        let plain = net(5).predict(&image()).unwrap();
        let sampled = |samples, seed| {
            let net = net(5).sampled(samples, 0.4, seed).unwrap();
            let first = net.predict(&image()).unwrap();
            assert_eq!(first, net.predict(&image()).unwrap());
            first
        };
        let (four, other) = (sampled(4, 0), sampled(4, 1));
        assert_ne!(four, plain);
        assert_ne!(four, other);
        // Of rate 0 every sample is the pass without.
        let none = net(5).sampled(3, 0.0, 0).unwrap();
        for (found, plain) in none.predict(&image()).unwrap().iter().zip(&plain) {
            assert!((found - plain).abs() < 1e-6);
        }
        // A mean of several is the mean of each.
        let three = sampled(3, 0);
        let last = four
            .iter()
            .zip(&three)
            .map(|(four, three)| 4.0 * four - 3.0 * three);
        assert!(last.into_iter().all(|p| (-1e-5..=1.0 + 1e-5).contains(&p)));
    }

    #[test]
    fn the_softmax_of_the_scores_is_the_prediction_before_scaling() {
        let ones = Scale {
            a: vec![1.0; 3],
            b: vec![0.0; 3],
        };
        let kinds = [
            net(1),
            Inference::ensemble(vec![unet(1), unet(2)], Precision::F32, &Device::Cpu).unwrap(),
            net(1).sampled(2, 0.5, 7).unwrap(),
        ];
        for net in kinds {
            let p = net.predict(&image()).unwrap();
            let scaled = net.scaled(ones.clone()).predict(&image()).unwrap();
            for (p, scaled) in p.iter().zip(&scaled) {
                assert!((p - scaled).abs() < 1e-5);
            }
        }
    }
}
