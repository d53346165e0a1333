//! A network that is only looked through, on the GPU.

use std::collections::{HashMap, hash_map::Entry};

use anyhow::Result;
use seg_unet::{Precision, UNet};

use super::{device::wait, step::Engine};

/// Sizes whose memory is kept: of training's full and last batches, and of single images.
const SIZES: usize = 4;

/// Buffers and launches by size of the images.
#[derive(Default)]
pub(crate) struct Engines {
    precision: Precision,
    by_size: HashMap<[usize; 3], Engine>,
}

impl Engines {
    pub(crate) fn new(precision: Precision) -> Self {
        Self {
            precision,
            by_size: HashMap::new(),
        }
    }

    /// The logits `[N, classes, H, W]` of images `[N, C, H, W]`, `size` being N, H, W. All calls are of one network.
    pub(crate) fn logits(
        &mut self,
        unet: &UNet,
        images: &[f32],
        size: [usize; 3],
    ) -> Result<Vec<f32>> {
        if self.by_size.len() >= SIZES && !self.by_size.contains_key(&size) {
            self.by_size.clear();
        }
        let engine = match self.by_size.entry(size) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(Engine::new(unet, size, self.precision, false)?),
        };
        let stream = engine.logits().stream().clone();
        stream.memcpy_htod(images, engine.images_mut())?;
        engine.forward()?;
        let logits = stream.clone_dtoh(engine.logits())?;
        wait(&stream)?;
        Ok(logits)
    }
}
