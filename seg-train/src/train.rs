//! The training loop, to be read from top to bottom.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};
use dice_losses::{Loss, Prediction};
use rand::seq::SliceRandom as _;
use seg_unet::UNet;

use crate::{
    augment::augment,
    batches::{Batch, Images, ahead},
    config::Experiment,
    data::Dataset,
    evaluate::probabilities,
    metrics::{Confusion, EmptyMask, Pixels},
    optim::Sgd,
    progress::{Progress, shown},
    rng::{Purpose, stream},
    run_folder::{EpochLine, RunFolder},
    state::{Position, State},
};

/// How a training run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After the last epoch, or because the validation loss had stopped falling.
    Finished,
    /// It was asked to stop; everything up to the last completed epoch is saved.
    Stopped,
}

/// Trains until the epochs are used up, the validation loss no longer falls, or `stop` is set.
///
/// A folder with a state goes on from there, and ends with the bits of a run that was never interrupted: all randomness
/// is keyed by epoch and sample, and the state holds weights, momentum and counters exactly.
///
/// # Errors
///
/// Unreadable data, a full disk, and a loss that is no longer a number; the folder keeps the last completed epoch.
pub fn train(
    experiment: &Experiment,
    data: &Dataset,
    folder: &RunFolder,
    stop: &AtomicBool,
) -> Result<End> {
    let Experiment { seed, recipe, .. } = experiment;
    let device = experiment.open_device()?;
    let loss = experiment.loss_spec()?.build();
    let unet = UNet::new(&experiment.unet, *seed, &device)?;
    let mut sgd = Sgd::new(&recipe.sgd, unet.vars())?;
    let mut position = Position::start(recipe);
    if folder.file("state.safetensors").is_file() {
        let state = State::read(folder, &device)?;
        unet.set_tensors(&state.weights)?;
        sgd.set_velocity(&state.velocity)?;
        position = state.position;
        folder.cut_log(position.epoch)?;
    } else {
        folder.cut_log(0)?;
        State::write(folder, &position, &unet, &sgd)?;
    }

    let images = Images::new(data, &experiment.preprocess);
    let mut progress = Progress::new(recipe.epochs, data.split.train.len(), position.epoch);

    while position.epoch < recipe.epochs && !position.finished {
        let epoch = position.epoch + 1;
        let started = Instant::now();
        sgd.set_lr(position.lr);

        let mut order = data.split.train.clone();
        order.shuffle(&mut stream(*seed, Purpose::Order, epoch as u64, 0));
        let mut total = 0.0;
        let mut seen = 0;
        thread::scope(|scope| -> Result<()> {
            let batches = ahead(scope, order.chunks(recipe.batch), |chunk| {
                let augmented = chunk.iter().map(|&index| {
                    let mut rng = stream(*seed, Purpose::Augment, epoch as u64, index as u64);
                    Ok(augment(&images.get(index)?, &experiment.augment, &mut rng))
                });
                Batch::gather(
                    &augmented.collect::<Result<Vec<_>>>()?,
                    experiment.unet.classes,
                    &device,
                )
            });
            for (step, batch) in batches.enumerate() {
                let batch = batch?;
                let pass = unet.pass(&batch.images)?;
                let (value, gradient) =
                    loss.value_and_grad(&Prediction::logits(pass.logits()), &batch.target)?;
                let value = f64::from(value.to_scalar::<f32>()?);
                if !value.is_finite() {
                    bail!(diverged(
                        "loss",
                        value,
                        epoch,
                        Some(step + 1),
                        &batch.ids,
                        position.lr
                    ));
                }
                pass.backward_each(&gradient, |at, gradient| sgd.update(at, &gradient))?;

                total += value * batch.len() as f64;
                seen += batch.len();
                progress.step(epoch, batch.len(), total / seen as f64, position.lr);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        })
        .inspect_err(|_| progress.finish())?;
        if stop.load(Ordering::Relaxed) {
            progress.finish();
            return Ok(End::Stopped);
        }
        let images_per_second = seen as f64 / started.elapsed().as_secs_f64();

        let validation = validate(experiment, data, &images, &unet, &*loss, epoch, position.lr)
            .inspect_err(|_| progress.finish())?;
        let best = position
            .best
            .is_none_or(|(_, lowest)| validation.loss < lowest);
        if best {
            position.best = Some((epoch, validation.loss));
            unet.save(folder.file("best.safetensors"))?;
        }
        let line = EpochLine {
            epoch,
            loss: total / seen as f64,
            val_loss: validation.loss,
            val_dice: validation.dice,
            lr: position.lr,
            best,
            seconds: started.elapsed().as_secs_f64(),
            images_per_second,
        };
        folder.append_log(&line)?;
        progress.epoch(&line);

        position.lr = position.plateau.step(validation.loss, position.lr);
        position.finished = position.stopping.step(validation.loss);
        position.epoch = epoch;
        // Last: whatever a crash leaves half done before this line is done again.
        State::write(folder, &position, &unet, &sgd)?;
    }
    progress.finish();
    Ok(End::Finished)
}

struct Validation {
    loss: f64,
    dice: f64,
}

/// The mean loss and Dice an image over the validation set, which is never augmented.
fn validate(
    experiment: &Experiment,
    data: &Dataset,
    images: &Images<'_>,
    unet: &UNet,
    loss: &dyn Loss,
    epoch: usize,
    lr: f64,
) -> Result<Validation> {
    let device = experiment.open_device()?;
    let (mut total, mut seen) = (0.0, 0_usize);
    let mut dices = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let batches = ahead(
            scope,
            data.split.val.chunks(experiment.recipe.batch),
            |chunk| {
                let prepared = chunk.iter().map(|&index| images.get(index));
                Batch::gather(
                    &prepared.collect::<Result<Vec<_>>>()?,
                    experiment.unet.classes,
                    &device,
                )
            },
        );
        for batch in batches {
            let batch = batch?;
            let logits = unet.infer(&batch.images)?;
            let value = f64::from(
                loss.loss(&Prediction::logits(&logits), &batch.target)?
                    .to_scalar::<f32>()?,
            );
            if !value.is_finite() {
                bail!(diverged(
                    "validation loss",
                    value,
                    epoch,
                    None,
                    &batch.ids,
                    lr
                ));
            }
            let (p, classes) = (probabilities(&logits)?, experiment.unet.classes);
            let pixels = batch.labels.len() / batch.len();
            for (p, labels) in p
                .chunks_exact(classes * pixels)
                .zip(batch.labels.chunks_exact(pixels))
            {
                let counts = Confusion::of_argmax(&Pixels::new(p, classes, labels)?).split_off(1);
                // An image without a counted pixel has no Dice.
                dices.extend(
                    counts
                        .iter()
                        .filter_map(|class| class.dice(EmptyMask::Agreement)),
                );
            }
            total += value * batch.len() as f64;
            seen += batch.len();
        }
        Ok(())
    })?;
    Ok(Validation {
        loss: total / seen as f64,
        dice: dices.iter().sum::<f64>() / dices.len().max(1) as f64,
    })
}

fn diverged(
    what: &str,
    value: f64,
    epoch: usize,
    step: Option<usize>,
    ids: &[String],
    lr: f64,
) -> String {
    let step = step.map_or(String::new(), |step| format!(", step {step}"));
    format!(
        "the {what} is {value} in epoch {epoch}{step} (image {}) at learning rate {}; train again with a lower one: --set recipe.sgd.lr={}",
        ids.join(", "),
        shown(lr),
        shown(lr / 10.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_no_number_is_told_with_its_circumstances() {
        assert_eq!(
            diverged("loss", f64::NAN, 3, Some(12), &["phantom-7".into()], 0.1),
            "the loss is NaN in epoch 3, step 12 (image phantom-7) at learning rate 0.1; train again with a lower one: --set recipe.sgd.lr=0.01"
        );
    }
}
