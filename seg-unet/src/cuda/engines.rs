//! The engines of a network that nobody uses at the moment.

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor};

use super::Engine;
use crate::UNet;

/// Engines at rest are kept up to this many: training and validation, with a last batch of another size each.
const KEPT: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Engines(Mutex<Vec<Engine>>);

impl Engines {
    /// One for these images, which is the caller's until it is put back.
    pub(crate) fn take(&self, net: &UNet, images: &Tensor, training: bool) -> Result<Engine> {
        let (n, _, h, w) = images.dims4()?;
        let size = [n, h, w];
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = resting
            .iter()
            .position(|engine| engine.fits(size, net.precision(), training));
        match found {
            Some(at) => Ok(resting.remove(at)),
            None => Engine::new(net, size, net.precision(), training),
        }
    }

    /// The one that rested longest makes room.
    pub(crate) fn put(&self, engine: Engine) {
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if resting.len() == KEPT {
            resting.remove(0);
        }
        resting.push(engine);
    }
}
