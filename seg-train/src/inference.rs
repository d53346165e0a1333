//! A trained network that is only looked through.

use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use candle_core::{Device, Tensor};
use seg_unet::{Precision, UNet};

#[cfg(feature = "cuda")]
use crate::cuda::infer::Engines;
use crate::{evaluate::probabilities, raster::Image};

/// A network and the device that it is computed on.
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
pub struct Inference {
    unet: UNet,
    device: Device,
    /// Buffers of the sizes so far; none on the CPU.
    #[cfg(feature = "cuda")]
    engines: Option<Mutex<Engines>>,
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference")
            .field("unet", &self.unet)
            .finish_non_exhaustive()
    }
}

impl Inference {
    /// Of a network whose weights lie on `device`. The precision is a GPU's: the CPU computes in f32, whatever the network
    /// was trained in.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn new(unet: UNet, precision: Precision, device: &Device) -> Self {
        Self {
            unet,
            device: device.clone(),
            #[cfg(feature = "cuda")]
            engines: device
                .is_cuda()
                .then(|| Mutex::new(Engines::new(precision))),
        }
    }

    /// The network.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The class probabilities of one image, planar `[classes, pixels]`.
    ///
    /// # Errors
    ///
    /// When the image does not fit the network.
    pub fn predict(&self, image: &Image) -> Result<Vec<f32>> {
        probabilities(&self.logits(image)?)
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
