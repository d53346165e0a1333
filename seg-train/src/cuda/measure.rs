//! How long a step and an inference take, for an estimate.

use std::time::Instant;

use anyhow::{Context as _, Result};
use seg_unet::UNet;

use super::{device::wait, step::Engine};
use crate::config::Experiment;

/// Timed steps; the fastest counts, since whatever else the machine does only adds.
const STEPS: usize = 5;

/// Seconds of a step and of an inference of one image each, on the experiment's device, the loss and the update left out.
pub(crate) fn step_and_inference(experiment: &Experiment) -> Result<[f64; 2]> {
    let device = experiment.open_device()?;
    let unet = UNet::new(&experiment.unet, 0, &device)?;
    let [height, width] = experiment.preprocess.size;
    let mut seconds = Vec::new();
    for training in [true, false] {
        let size = [1, height, width];
        let mut engine = Engine::new(&unet, size, experiment.recipe.precision, training)?;
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.memset_zeros(engine.images_mut())?;
        if training {
            stream.memset_zeros(engine.slopes_mut()?)?;
        }
        let mut fastest = f64::INFINITY;
        // One more: the first makes room.
        for _ in 0..=STEPS {
            let began = Instant::now();
            engine.forward()?;
            if training {
                engine.backward()?;
            }
            wait(&stream)?;
            fastest = fastest.min(began.elapsed().as_secs_f64());
        }
        seconds.push(fastest);
    }
    seconds.try_into().ok().context("two times")
}
