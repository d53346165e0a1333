//! One step over and over, for benchmarks.

use std::fmt;

use anyhow::{Result, ensure};
use candle_core::Device;
use dice_losses::Loss;
use seg_unet::{Precision, UNet, UNetConfig};

use super::step::Steps;
use crate::{
    optim::{Sgd, SgdConfig},
    preprocess::Prepared,
};

/// A training whose every step is of the same batch.
#[doc(hidden)]
pub struct Repeated {
    unet: UNet,
    sgd: Sgd,
    loss: Box<dyn Loss>,
    steps: Steps,
    images: Vec<Prepared>,
}

impl fmt::Debug for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeated")
            .field("unet", &self.unet)
            .field("images", &self.images.len())
            .finish_non_exhaustive()
    }
}

impl Repeated {
    /// The network of a seed on a CUDA device.
    ///
    /// # Errors
    ///
    /// If the device has no room.
    pub fn new(
        (config, seed): (&UNetConfig, u64),
        sgd: &SgdConfig,
        loss: Box<dyn Loss>,
        precision: Precision,
        images: Vec<Prepared>,
        device: &Device,
    ) -> Result<Self> {
        let unet = UNet::new(config, seed, device)?;
        let mut steps = Steps::new(device, precision, false)?;
        steps.set_lr(sgd.lr)?;
        Ok(Self {
            sgd: Sgd::new(sgd, unet.vars())?,
            unet,
            loss,
            steps,
            images,
        })
    }

    /// The losses of the next steps, each before its step. They take the way of a training's steps, copies and all.
    ///
    /// # Errors
    ///
    /// If a step cannot be made.
    pub fn losses(&mut self, count: usize) -> Result<Vec<f64>> {
        let pool = self.steps.pool();
        for _ in 0..count {
            let batch = pool.gather(&self.images)?;
            let loss = &*self.loss;
            self.steps.step(&self.unet, &mut self.sgd, loss, batch)?;
        }
        let lines = self.steps.read()?;
        Ok(lines.into_iter().map(|(_, line)| line.loss).collect())
    }

    /// Puts another step into the stream, on the images that lie on the device. [`Self::losses`] of three steps come
    /// before it.
    ///
    /// # Errors
    ///
    /// If no step has been recorded as a graph.
    pub fn step(&mut self) -> Result<()> {
        let recorded = self.steps.again(self.images.len())?;
        ensure!(recorded, "no step has been recorded as a graph");
        Ok(())
    }
}
