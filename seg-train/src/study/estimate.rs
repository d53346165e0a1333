//! How long runs will take: a few steps of each network are timed, on this machine.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;
use candle_core::{DType, Tensor};
use dice_losses::{Prediction, Target};
use seg_unet::UNet;

use super::plan::PlannedRun;
use crate::config::Experiment;

/// Seconds an image.
#[derive(Clone, Copy, Debug)]
struct Speed {
    step: f64,
    infer: f64,
}

/// Timed steps; the fastest counts, since whatever else the machine does only adds.
const STEPS: usize = 2;

/// Seconds that each run takes at most with all cores of this machine, decoding of images left out. Early stopping makes
/// it less.
///
/// # Errors
///
/// When a network cannot be made.
pub fn seconds(runs: &[PlannedRun]) -> Result<Vec<f64>> {
    let mut speeds = BTreeMap::new();
    runs.iter()
        .map(|run| {
            let e = &run.experiment;
            let key = format!(
                "{:?} {:?} {} {}",
                e.unet, e.preprocess.size, e.device, e.recipe.precision
            );
            if !speeds.contains_key(&key) {
                speeds.insert(key.clone(), measure(e)?);
            }
            let Speed { step, infer } = speeds[&key];
            let [train, val, test] = run.images.map(|n| n as f64);
            Ok(e.recipe.epochs as f64 * (train * step + val * infer) + test * infer)
        })
        .collect()
}

/// Times a step and an inference of the experiment's network on an empty image.
fn measure(experiment: &Experiment) -> Result<Speed> {
    #[cfg(feature = "cuda")]
    if crate::config::is_cuda(&experiment.device) {
        let [step, infer] = crate::cuda::measure::step_and_inference(experiment)?;
        return Ok(Speed { step, infer });
    }
    let device = experiment.open_device()?;
    let unet = UNet::new(&experiment.unet, 0, &device)?;
    let loss = experiment.loss_spec()?.build();
    let [height, width] = experiment.preprocess.size;
    let images = Tensor::zeros(
        (1, experiment.unet.in_channels, height, width),
        DType::F32,
        &device,
    )?;
    let target = Target::labels(&Tensor::zeros((1, height, width), DType::U8, &device)?);
    let mut fastest = Speed {
        step: f64::INFINITY,
        infer: f64::INFINITY,
    };
    // One more: the first makes room.
    for _ in 0..=STEPS {
        let began = Instant::now();
        let pass = unet.pass(&images)?;
        let (_, gradient) = loss.value_and_grad(&Prediction::logits(pass.logits()), &target)?;
        pass.backward_each(&gradient, |_, _| candle_core::Result::Ok(()))?;
        device.synchronize()?;
        fastest.step = fastest.step.min(began.elapsed().as_secs_f64());
        let began = Instant::now();
        unet.infer(&images)?;
        device.synchronize()?;
        fastest.infer = fastest.infer.min(began.elapsed().as_secs_f64());
    }
    Ok(fastest)
}
