//! The training loop, to be read from top to bottom; `gpu` is its part on a CUDA device.

#[cfg(feature = "cuda")]
mod gpu;

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow, bail};
use candle_core::{Device, Tensor};
use dice_losses::{Loss, Prediction};
use rand::seq::SliceRandom as _;
use seg_unet::UNet;

use crate::{
    augment::augment,
    batches::{Batch, Images, ahead},
    config::{Experiment, FIRST, OnNan},
    data::Dataset,
    dropout::{Dropout, Masked},
    evaluate::{best_weights, probabilities},
    metrics::{Confusion, EmptyMask, Pixels},
    optim::{Sgd, norm},
    progress::{Progress, shown},
    rng::{Purpose, stream},
    run_folder::{EpochLine, RunFolder},
    say::say,
    smoothing::smooth,
    state::{Begun, Best, Found, PREVIOUS, Position, State},
    store,
    watch::{Squares, StepLine, Watch, smallest},
};

/// How a training run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// After the last epoch, or because the validation loss had stopped falling.
    Finished,
    /// It was asked to stop; everything up to this step or epoch is saved.
    Stopped(String),
}

/// A number that is none: what it is, and what led to it. The same run comes to it again from any of its states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diverged(String);

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Diverged {}

/// Trains until the epochs are used up, the validation loss no longer falls, or `stop` is set. Where the recipe goes on
/// from another training, that is done, in the folder [`FIRST`] of this one.
///
/// A folder with a state goes on from there, and ends with the bits of a run that was never interrupted: all randomness
/// is keyed by epoch and sample, and the state holds weights, momentum and counters exactly.
///
/// # Errors
///
/// Unreadable data and a full disk, with the state that is saved; [`Diverged`], which leaves the last good state.
pub fn train(
    experiment: &Experiment,
    data: &Dataset,
    folder: &RunFolder,
    stop: &AtomicBool,
) -> Result<End> {
    let stage = &experiment.last_stage();
    let images = Images::new(data, &stage.preprocess);
    let mut run = Run::open(stage, data, &images, folder)?;
    let end = run.go_on(stop);
    run.progress.finish();
    // The steps up to a number that is none are those to look at.
    let watched = run.watch.as_mut().map_or(Ok(()), Watch::flush);
    let end = end.and_then(|end| watched.map(|()| end));
    end.map_err(|error| match error.downcast_ref::<Diverged>() {
        Some(_) => error,
        None => anyhow!(
            "{error:#}; the run is saved up to {}: when that is mended, go on with: seg-train resume {}",
            run.saved,
            folder.path().display()
        ),
    })
}

/// A run between its states.
struct Run<'a> {
    experiment: &'a Experiment,
    data: &'a Dataset,
    images: &'a Images<'a>,
    folder: &'a RunFolder,
    device: Device,
    loss: Box<dyn Loss>,
    unet: UNet,
    sgd: Sgd,
    /// None where no channel is dropped.
    dropout: Option<Dropout>,
    /// None where nobody asked for it.
    watch: Option<Watch>,
    /// The steps on a CUDA device; none on the CPU.
    #[cfg(feature = "cuda")]
    gpu: Option<crate::cuda::step::Steps>,
    position: Position,
    /// Where the last state stands.
    saved: Position,
    progress: Progress,
}

impl<'a> Run<'a> {
    /// Where the folder's last state stands, or at the beginning.
    fn open(
        experiment: &'a Experiment,
        data: &'a Dataset,
        images: &'a Images<'a>,
        folder: &'a RunFolder,
    ) -> Result<Self> {
        let recipe = &experiment.recipe;
        let device = experiment.open_device()?;
        let unet = UNet::new(&experiment.unet, experiment.training_seed(), &device)?;
        let mut sgd = Sgd::new(&recipe.sgd, unet.vars())?;
        let mut position = Position::start(recipe);
        store::remove_parts(folder.path())?;
        if let Some(Found { state, passed_over }) = State::last(folder, experiment, &device)? {
            if let Some(why) = passed_over {
                say(&format!(
                    "warning: {why}; going on from the state before it, of {}",
                    state.position
                ));
            }
            position = state.position;
            check_best(&position, folder, experiment)?;
            unet.set_tensors(&state.weights)?;
            sgd.set_velocity(&state.velocity)?;
            folder.cut_log(position.epoch)?;
        } else {
            folder.refuse_log_without_state()?;
            if recipe.fine_tune.is_some() {
                let first = RunFolder::open(&folder.file(FIRST))?;
                let weights = best_weights(&first, experiment, &device)?.tensors();
                unet.set_tensors(&weights.into_iter().collect())?;
            }
            State::write(folder, experiment, &position, &unet, &sgd)?;
        }
        #[cfg(feature = "cuda")]
        let gpu = Self::steps_on_gpu(recipe, &device)?;
        let dropout = (recipe.dropout > 0.0).then(|| Dropout::new(&unet, recipe.dropout));
        let watch = recipe.watch.then(|| Watch::open(folder, &position));
        let images_behind = position.epoch * data.split.train.len() + position.begun.images;
        Ok(Self {
            experiment,
            data,
            images,
            folder,
            device,
            #[cfg(feature = "cuda")]
            gpu,
            loss: experiment.loss_spec()?.build(),
            unet,
            sgd,
            dropout: dropout.transpose()?,
            watch: watch.transpose()?,
            saved: position.clone(),
            position,
            progress: Progress::new(recipe.epochs, data.split.train.len(), images_behind),
        })
    }

    fn go_on(&mut self, stop: &AtomicBool) -> Result<End> {
        while self.position.epoch < self.experiment.recipe.epochs && !self.position.finished {
            #[cfg(feature = "cuda")]
            if self.gpu.is_some() {
                self.launch_steps(stop)?;
            } else {
                self.steps(stop)?;
            }
            #[cfg(not(feature = "cuda"))]
            self.steps(stop)?;
            let asked = || stop.load(Ordering::Relaxed);
            let steps = self
                .data
                .split
                .train
                .len()
                .div_ceil(self.experiment.recipe.batch);
            if asked() && self.position.begun.steps < steps {
                self.save()?;
                return Ok(End::Stopped(self.saved.to_string()));
            }
            self.close_epoch()?;
            if asked() {
                return Ok(End::Stopped(self.saved.to_string()));
            }
        }
        // There is nothing left to go back for.
        store::remove(&self.folder.file(PREVIOUS))?;
        Ok(End::Finished)
    }

    /// The steps of an epoch that are left, or those of them until `stop` is set.
    fn steps(&mut self, stop: &AtomicBool) -> Result<()> {
        let (images, device) = (self.images, self.device.clone());
        let (seed, recipe) = (self.experiment.training_seed(), &self.experiment.recipe);
        let (settings, classes) = (&self.experiment.augment, self.experiment.unet.classes);
        let (epoch, before) = (self.position.epoch + 1, self.position.begun);
        let started = Instant::now();
        self.sgd.set_lr(self.position.lr);

        let order = self.order(epoch);
        thread::scope(|scope| -> Result<()> {
            let chunks = order.chunks(recipe.batch).skip(before.steps);
            let batches = ahead(scope, chunks, |chunk| {
                let augmented = chunk.iter().map(|&index| {
                    let mut rng = stream(seed, Purpose::Augment, epoch as u64, index as u64);
                    Ok(augment(&images.get(index)?, settings, &mut rng))
                });
                let batch =
                    Batch::gather(&augmented.collect::<Result<Vec<_>>>()?, classes, &device)?;
                smooth(batch, recipe.label_smoothing, classes)
            });
            for batch in batches {
                self.step(&batch?)?;
                self.position.begun.seconds = before.seconds + started.elapsed().as_secs_f64();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let every = recipe.save_every;
                if every > 0 && self.position.begun.steps.is_multiple_of(every) {
                    self.save()?;
                }
            }
            Ok(())
        })
    }

    /// The training images in this epoch's order.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.data.split.train.clone();
        let mut rng = stream(
            self.experiment.training_seed(),
            Purpose::Order,
            epoch as u64,
            0,
        );
        order.shuffle(&mut rng);
        order
    }

    fn step(&mut self, batch: &Batch) -> Result<()> {
        let masked = self.drop_channels()?;
        let Self { unet, sgd, .. } = self;
        let pass = unet.pass(&batch.images)?;
        let prediction = Prediction::logits(pass.logits());
        let (value, gradient) = self.loss.value_and_grad(&prediction, &batch.target)?;
        let (mut value, mut gradient) = (f64::from(value.to_scalar::<f32>()?), gradient);
        let recipe = &self.experiment.recipe;
        if let Some(term) = &recipe.calibration_term
            && value.is_finite()
        {
            let loss = (value, &gradient);
            (value, gradient) = term.add_to(loss, pass.logits(), &batch.labels)?;
        }
        let mut line = StepLine::next(&self.position, value);
        if !value.is_finite() {
            let largest = largest(pass.logits())?;
            if let Some(masked) = masked {
                masked.restore(unet)?;
            }
            self.watched(line);
            return self.no_number("loss", value, &batch.ids, Some(largest));
        }
        let mut squares = None;
        if self.watch.is_some() {
            line.logits_gradient = Some(norm(&[&gradient])?);
            let denominators = self.loss.denominators(&prediction, &batch.target)?;
            line.smallest_denominator = smallest(&denominators);
            squares = Some(Squares::of(unet.vars().len()));
        }
        let mut watch = |at: usize, gradient: &Tensor| match &mut squares {
            Some(squares) => squares.add(at, gradient),
            None => Ok(()),
        };
        if sgd.clips() || recipe.on_nan == OnNan::Skip || masked.is_some() {
            // All of them before the first variable changes.
            let mut gradients = vec![None; unet.vars().len()];
            pass.backward_each(&gradient, |at, gradient| -> Result<()> {
                let gradient = match masked.as_ref().and_then(|masked| masked.scale(at)) {
                    Some(factors) => (gradient * factors)?,
                    None => gradient,
                };
                watch(at, &gradient)?;
                gradients[at] = Some(gradient);
                Ok(())
            })?;
            if let Some(masked) = masked {
                masked.restore(unet)?;
            }
            let gradients: Vec<&Tensor> = gradients.iter().flatten().collect();
            let length = norm(&gradients)?;
            if !length.is_finite() {
                line.weights_gradient = Some(length);
                self.watched(line);
                return self.no_number("norm of the gradient", length, &batch.ids, None);
            }
            sgd.step_each(&gradients)?;
        } else {
            pass.backward_each(&gradient, |at, gradient| {
                watch(at, &gradient)?;
                sgd.update(at, &gradient)
            })?;
        }
        line.weights_gradient = squares.as_ref().map(Squares::norm);
        self.watched(line);
        self.taken(value, batch.len());
        Ok(())
    }

    /// Drops the channels of the next step, if there is dropout. The mask is keyed by epoch and step: a run that goes on
    /// from any of its states draws the same.
    fn drop_channels(&self) -> Result<Option<Masked>> {
        let Some(dropout) = &self.dropout else {
            return Ok(None);
        };
        let Position { epoch, begun, .. } = &self.position;
        let (epoch, step) = (*epoch as u64 + 1, begun.steps as u64 + 1);
        let mut rng = stream(self.experiment.seed, Purpose::Dropout, epoch, step);
        dropout.mask(&self.unet, &mut rng).map(Some)
    }

    /// Notes a step for `steps.csv`, if that is kept.
    fn watched(&mut self, line: StepLine) {
        if let Some(watch) = &mut self.watch {
            watch.add(line);
        }
    }

    /// Counts a step that was taken, of so many images and this loss.
    fn taken(&mut self, loss: f64, images: usize) {
        let begun = &mut self.position.begun;
        begun.steps += 1;
        begun.images += images;
        begun.loss += loss * images as f64;
        let (epoch, mean) = (self.position.epoch + 1, begun.loss / begun.images as f64);
        self.progress.step(epoch, images, mean, self.position.lr);
    }

    /// What is done about a number of a step that is none: the step is left out, or the run ends.
    fn no_number(
        &mut self,
        what: &str,
        value: f64,
        ids: &[String],
        largest_logit: Option<f64>,
    ) -> Result<()> {
        let (weights, velocity) = self.norms()?;
        let place = self.place(what, value, ids);
        // Weights that are no numbers themselves would leave out every step to come.
        if self.experiment.recipe.on_nan == OnNan::Skip && weights.is_finite() {
            self.leave_out(&place);
            return Ok(());
        }
        let logits = largest_logit.map_or(String::new(), |largest| {
            format!(", logits up to {largest:.3e}")
        });
        bail!(Diverged(format!(
            "{place} at learning rate {}, with weights of norm {weights:.3e} and velocities of norm {velocity:.3e}{logits}; {}",
            shown(self.position.lr),
            self.advice(weights.is_finite())
        )))
    }

    /// Where a number was none.
    fn place(&self, what: &str, value: f64, ids: &[String]) -> String {
        format!(
            "the {what} is {value} in epoch {}, step {} ({})",
            self.position.epoch + 1,
            self.position.begun.steps + 1,
            images(ids)
        )
    }

    /// Counts a step that was left out.
    fn leave_out(&mut self, place: &str) {
        self.position.begun.steps += 1;
        self.position.begun.skipped += 1;
        self.progress.say(&format!("{place}; the step is left out"));
    }

    /// What to do about numbers that are none.
    fn advice(&self, weights_are_finite: bool) -> String {
        let lower = shown(self.position.lr / 10.0);
        let folder = self.folder.path().display();
        let kept = format!("{folder} keeps the state of {}", self.saved);
        let again = format!(
            "train again with a lower rate (--set recipe.sgd.lr={lower}) or with clipped gradients (--clip-norm 1)"
        );
        if weights_are_finite {
            format!(
                "{kept}; {again}, or leave such steps out: seg-train resume {folder} --on-nan skip"
            )
        } else {
            format!("an earlier step was too large; {kept}; {again}")
        }
    }

    /// The norms of all weights and of all velocities.
    fn norms(&self) -> Result<(f64, f64)> {
        let of = |tensors: Vec<(String, Tensor)>| {
            norm(&tensors.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())
        };
        Ok((of(self.unet.tensors())?, of(self.sgd.velocity()?)?))
    }

    /// Validates, keeps the weights if they are the best so far, and writes the epoch's line and the state.
    fn close_epoch(&mut self) -> Result<()> {
        let (epoch, started) = (self.position.epoch + 1, Instant::now());
        let Begun {
            steps,
            skipped,
            images,
            loss,
            seconds,
        } = self.position.begun;
        if images == 0 {
            bail!(Diverged(format!(
                "all {steps} steps of epoch {epoch} were left out, none having a number for its loss; {}",
                self.advice(false)
            )));
        }
        let validation = self.validate(epoch)?;
        let position = &mut self.position;
        let val_loss = validation.loss();
        let best = position.best.is_none_or(|(_, lowest)| val_loss < lowest);
        if best {
            position.best = Some((epoch, val_loss));
            Best { epoch }.write(self.folder, &self.unet)?;
        }
        let line = EpochLine {
            epoch,
            loss: loss / images as f64,
            val_loss,
            val_dice: validation.dice(),
            lr: position.lr,
            best,
            skipped,
            seconds: seconds + started.elapsed().as_secs_f64(),
            images_per_second: images as f64 / seconds,
        };
        self.folder.append_log(&line)?;
        self.progress.epoch(&line);

        position.lr = position.plateau.step(val_loss, position.lr);
        position.finished = position.stopping.step(val_loss);
        position.epoch = epoch;
        position.begun = Begun::default();
        // Last: whatever a crash leaves half done before this line is done again.
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        // First: a step that the state knows is never missing from the file.
        if let Some(watch) = &mut self.watch {
            watch.flush()?;
        }
        let Self {
            folder,
            experiment,
            position,
            unet,
            sgd,
            ..
        } = self;
        if let Err(error) = State::write(folder, experiment, position, unet, sgd) {
            if self.norms()?.0.is_finite() {
                return Err(error);
            }
            bail!(Diverged(format!(
                "the weights are no numbers after {}; {}",
                self.position,
                self.advice(false)
            )));
        }
        self.saved = self.position.clone();
        Ok(())
    }

    /// The mean loss and Dice an image over the validation set, which is never augmented. The loss is that of the hard
    /// labels, without dropout; a calibration term is part of it.
    fn validate(&mut self, epoch: usize) -> Result<Validation> {
        #[cfg(feature = "cuda")]
        if self.gpu.is_some() {
            return self.validate_on_gpu(epoch);
        }
        let (images, classes) = (self.images, self.experiment.unet.classes);
        let mut validation = Validation::default();
        thread::scope(|scope| -> Result<()> {
            let chunks = self.data.split.val.chunks(self.experiment.recipe.batch);
            let batches = ahead(scope, chunks, |chunk| {
                let prepared = chunk.iter().map(|&index| images.get(index));
                let prepared = prepared.collect::<Result<Vec<_>>>()?;
                Batch::gather(&prepared, classes, &self.device)
            });
            for batch in batches {
                let batch = batch?;
                let logits = self.unet.infer(&batch.images)?;
                let mut measured = Measured::of(self.loss.as_ref(), &batch, &logits)?;
                if let Some(term) = &self.experiment.recipe.calibration_term
                    && measured.loss.is_finite()
                {
                    measured.loss += term.weight * term.value(&logits, &batch.labels)?;
                }
                self.check_validation(epoch, &batch.ids, &measured)?;
                validation.add(batch.len(), &measured);
            }
            Ok(())
        })?;
        Ok(validation)
    }

    /// Ends the run where a validation loss is no number.
    fn check_validation(&self, epoch: usize, ids: &[String], measured: &Measured) -> Result<()> {
        let &Measured {
            loss,
            largest_logit,
            ..
        } = measured;
        if loss.is_finite() {
            return Ok(());
        }
        let (weights, _) = self.norms()?;
        bail!(Diverged(format!(
            "the validation loss is {loss} in epoch {epoch} ({}) at learning rate {}, with weights of norm {weights:.3e} and logits up to {largest_logit:.3e}; {}",
            images(ids),
            shown(self.position.lr),
            self.advice(false)
        )));
    }
}

/// What a validation comes to.
#[derive(Default)]
struct Validation {
    /// The sum of the images' losses.
    loss: f64,
    images: usize,
    dices: Vec<f64>,
}

impl Validation {
    /// Adds a batch of so many images.
    fn add(&mut self, images: usize, measured: &Measured) {
        self.loss += measured.loss * images as f64;
        self.images += images;
        self.dices.extend(&measured.dices);
    }

    /// The mean loss an image.
    fn loss(&self) -> f64 {
        self.loss / self.images as f64
    }

    /// The mean Dice an image, of those that have one.
    fn dice(&self) -> f64 {
        self.dices.iter().sum::<f64>() / self.dices.len().max(1) as f64
    }
}

/// One batch of the validation set.
struct Measured {
    loss: f64,
    /// An image without a counted pixel has none.
    dices: Vec<f64>,
    /// Looked for where the loss is no number, else 0.
    largest_logit: f64,
}

impl Measured {
    fn of(loss: &dyn Loss, batch: &Batch, logits: &Tensor) -> Result<Self> {
        let value = loss.loss(&Prediction::logits(logits), &batch.target)?;
        let value = f64::from(value.to_scalar::<f32>()?);
        let mut measured = Self {
            loss: value,
            dices: Vec::new(),
            largest_logit: 0.0,
        };
        if !value.is_finite() {
            measured.largest_logit = largest(logits)?;
            return Ok(measured);
        }
        let (p, classes) = (probabilities(logits)?, logits.dim(1)?);
        let pixels = batch.labels.len() / batch.len();
        for (p, labels) in p
            .chunks_exact(classes * pixels)
            .zip(batch.labels.chunks_exact(pixels))
        {
            let counts = Confusion::of_argmax(&Pixels::new(p, classes, labels)?).split_off(1);
            let dices = counts
                .iter()
                .filter_map(|class| class.dice(EmptyMask::Agreement));
            measured.dices.extend(dices);
        }
        Ok(measured)
    }
}

/// Refuses to go on where the best weights so far are gone: no epoch to come may be as good.
fn check_best(position: &Position, folder: &RunFolder, experiment: &Experiment) -> Result<()> {
    let Some((best, _)) = position.best else {
        return Ok(());
    };
    let path = folder.file(Best::NAME);
    let remedy = "restore the file, or train the run anew with another --out";
    match Best::read(folder, &experiment.unet) {
        // A later epoch's are there where its state was not written any more; it will come again.
        Ok((_, Some(Best { epoch }))) if epoch >= best => Ok(()),
        Ok((_, found)) => bail!(
            "{} holds the weights of {}, and the best so far are those of epoch {best}; {remedy}",
            path.display(),
            found.map_or("another program".into(), |Best { epoch }| format!(
                "epoch {epoch}"
            ))
        ),
        Err(error) => bail!("{error:#}; {remedy}"),
    }
}

/// The images of a batch, by name.
fn images(ids: &[String]) -> String {
    match ids {
        [id] => format!("image {id}"),
        ids => format!("images {}", ids.join(", ")),
    }
}

/// The largest magnitude; NaN where there is one.
fn largest(logits: &Tensor) -> Result<f64> {
    let values = logits.flatten_all()?.to_vec1::<f32>()?;
    Ok(values
        .into_iter()
        .map(f64::from)
        .fold(0.0, |largest, value| {
            if value.is_nan() || value.abs() > largest {
                value.abs()
            } else {
                largest
            }
        }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use image::{GrayImage, Luma};

    use super::*;
    use crate::{
        calibration_term::CalibrationTerm,
        config::{Preset, Recipe},
        run_folder::testing,
    };

    /// Six images of 16 × 16, by their grey value and whether a pixel is foreground.
    fn data_set(
        folder: &Path,
        grey: impl Fn(u32, u32) -> u8,
        foreground: impl Fn(u32, u32) -> bool,
    ) -> Dataset {
        for part in ["images", "masks"] {
            std::fs::create_dir(folder.join(part)).unwrap();
        }
        for i in 0..6 {
            let image = GrayImage::from_fn(16, 16, |x, y| Luma([grey(x, y)]));
            let mask = GrayImage::from_fn(16, 16, |x, y| Luma([255 * u8::from(foreground(x, y))]));
            image.save(folder.join(format!("images/{i}.png"))).unwrap();
            mask.save(folder.join(format!("masks/{i}.png"))).unwrap();
        }
        Dataset::open(&format!("folder:{}", folder.display()).parse().unwrap(), 0).unwrap()
    }

    fn tiny(loss: &str) -> Experiment {
        let mut experiment = Preset::Paper.experiment("folder:/d".parse().unwrap());
        experiment.loss = loss.into();
        experiment.preprocess.size = [16, 16];
        experiment.unet.in_channels = 1;
        experiment.unet.classes = 2;
        experiment.unet.width = 2;
        experiment.unet.depth = 1;
        experiment.recipe.epochs = 2;
        experiment
    }

    #[test]
    fn constant_images_and_masks_of_one_class_train_on_under_every_loss() {
        let ramp = |x: u32, y: u32| (13 * x + 3 * y) as u8;
        let left = |x: u32, _: u32| x < 7;
        let homes = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let data = [
            data_set(homes[0].path(), |_, _| 77, left),
            data_set(homes[1].path(), ramp, |_, _| false),
            data_set(homes[2].path(), ramp, |_, _| true),
        ];
        let names: Vec<String> = dice_losses::zoo::ZOO
            .iter()
            .flat_map(|row| [row.name.to_owned(), format!("{}++", row.name)])
            .filter(|name| name.parse::<dice_losses::LossSpec>().is_ok())
            .collect();
        assert!(names.len() > 30, "{names:?}");
        for loss in names {
            for (what, data) in ["constant", "background", "foreground"].iter().zip(&data) {
                let run = tempfile::tempdir().unwrap();
                let folder = testing::folder(run.path());
                let end = train(&tiny(&loss), data, &folder, &AtomicBool::new(false));
                assert_eq!(end.unwrap(), End::Finished, "{loss}, {what}");
                let log = folder.log().unwrap();
                assert!(log.iter().all(|line| line.skipped == 0), "{loss}, {what}");
            }
        }
    }

    /// A loss that is no number at one of its calls.
    struct Odd {
        loss: Box<dyn Loss>,
        calls: std::sync::atomic::AtomicUsize,
        at: usize,
    }

    impl Loss for Odd {
        fn request(
            &self,
            request: &mut dice_losses::Request,
        ) -> dice_losses::candle_core::Result<()> {
            self.loss.request(request)
        }

        fn of_sums(&self, sums: &dice_losses::Sums) -> dice_losses::candle_core::Result<Tensor> {
            self.loss.of_sums(sums)
        }

        fn value_and_grad(
            &self,
            prediction: &Prediction,
            target: &dice_losses::Target,
        ) -> dice_losses::candle_core::Result<(Tensor, Tensor)> {
            let (value, gradient) = self.loss.value_and_grad(prediction, target)?;
            let is_odd = self.calls.fetch_add(1, Ordering::Relaxed) == self.at;
            Ok((if is_odd { (value * f64::NAN)? } else { value }, gradient))
        }
    }

    /// Trains with a loss that is NaN at the step of this number, over all epochs.
    fn with_an_odd_step(
        experiment: &Experiment,
        data: &Dataset,
        folder: &RunFolder,
        odd: usize,
    ) -> Result<End> {
        let images = Images::new(data, &experiment.preprocess);
        let mut run = Run::open(experiment, data, &images, folder)?;
        run.loss = Box::new(Odd {
            loss: experiment.loss_spec()?.build(),
            calls: 0.into(),
            at: odd,
        });
        run.go_on(&AtomicBool::new(false))
    }

    #[test]
    fn a_step_whose_loss_is_no_number_is_left_out_or_ends_the_run() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let mut experiment = tiny("dice++");
        let steps = data.split.train.len();
        let odd = steps + 1; // the second of the second epoch

        let run = tempfile::tempdir().unwrap();
        let folder = testing::folder(run.path());
        let error = with_an_odd_step(&experiment, &data, &folder, odd).unwrap_err();
        let said = error.downcast_ref::<Diverged>().unwrap().to_string();
        let begins = "the loss is NaN in epoch 2, step 2 (image ";
        let shown = run.path().display();
        let ends = format!(
            "; {shown} keeps the state of epoch 1; train again with a lower rate (--set recipe.sgd.lr=0.01) or with \
             clipped gradients (--clip-norm 1), or leave such steps out: seg-train resume {shown} --on-nan skip"
        );
        assert!(said.starts_with(begins) && said.ends_with(&ends), "{said}");
        let kept = State::last(&folder, &experiment, &Device::Cpu).unwrap();
        assert_eq!(kept.unwrap().state.position.to_string(), "epoch 1");

        experiment.recipe.on_nan = OnNan::Skip;
        // From the kept state on: its second step is the second of the second epoch.
        let end = with_an_odd_step(&experiment, &data, &folder, 1).unwrap();
        assert_eq!(end, End::Finished);
        let skipped = |folder: &RunFolder| {
            folder
                .log()
                .unwrap()
                .iter()
                .map(|l| l.skipped)
                .collect::<Vec<_>>()
        };
        assert_eq!(skipped(&folder), [0, 1]);
        let unbroken = tempfile::tempdir().unwrap();
        let unbroken = testing::folder(unbroken.path());
        with_an_odd_step(&experiment, &data, &unbroken, odd).unwrap();
        assert_eq!(skipped(&unbroken), [0, 1]);
        let bits = |folder: &RunFolder| std::fs::read(folder.file(Best::NAME)).unwrap();
        assert_eq!(bits(&folder), bits(&unbroken));
        let without = testing::folder(&run.path().join("without"));
        train(&experiment, &data, &without, &AtomicBool::new(false)).unwrap();
        assert_ne!(
            folder.log().unwrap()[1].val_loss,
            without.log().unwrap()[1].val_loss
        );
    }

    #[test]
    fn an_epoch_of_steps_left_out_ends_the_run() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let run = tempfile::tempdir().unwrap();
        let folder = testing::folder(run.path());
        let mut experiment = tiny("dice+ce:ce_weight=1e300");
        experiment.recipe.on_nan = OnNan::Skip;
        let error = train(&experiment, &data, &folder, &AtomicBool::new(false)).unwrap_err();
        let steps = data.split.train.len();
        let begins = format!(
            "all {steps} steps of epoch 1 were left out, none having a number for its loss; "
        );
        assert!(error.to_string().starts_with(&begins), "{error}");
    }

    /// All that can be done in training for better calibration, and the record of the steps.
    fn with_every_method(experiment: &mut Experiment) {
        experiment.recipe.label_smoothing = 0.1;
        experiment.recipe.calibration_term = Some(TERM);
        experiment.recipe.dropout = 0.3;
        experiment.recipe.watch = true;
    }

    const TERM: CalibrationTerm = CalibrationTerm {
        weight: 0.5,
        bins: 15,
    };

    #[test]
    fn a_run_stopped_at_any_step_goes_on_to_the_same_bits() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let mut experiment = tiny("dice++");
        // Four training images: two steps an epoch; a gradient of all is needed at once.
        experiment.recipe.batch = 2;
        experiment.recipe.sgd.clip_norm = Some(0.5);
        stopped_and_unbroken_come_to_one_end(&experiment, &data);
        with_every_method(&mut experiment);
        stopped_and_unbroken_come_to_one_end(&experiment, &data);
        experiment.recipe.sgd.clip_norm = None;
        stopped_and_unbroken_come_to_one_end(&experiment, &data);
    }

    fn stopped_and_unbroken_come_to_one_end(experiment: &Experiment, data: &Dataset) {
        let end = |run: &Path| {
            let files = ["best.safetensors", crate::state::STATE];
            files.map(|name| std::fs::read(run.join(name)).unwrap())
        };
        let whole = tempfile::tempdir().unwrap();
        let unbroken = testing::folder(whole.path());
        train(experiment, data, &unbroken, &AtomicBool::new(false)).unwrap();
        let cut = tempfile::tempdir().unwrap();
        let folder = testing::folder(cut.path());
        let mut stops = Vec::new();
        while let End::Stopped(at) =
            // Set from the beginning: each call makes one step, and closes its epoch if that was the last.
            train(experiment, data, &folder, &AtomicBool::new(true)).unwrap()
        {
            stops.push(at);
            assert!(stops.len() < 9, "{stops:?}");
        }
        assert_eq!(
            stops,
            [
                "step 1 of epoch 1",
                "epoch 1",
                "step 1 of epoch 2",
                "epoch 2"
            ]
        );
        assert_eq!(end(whole.path()), end(cut.path()));
        assert_eq!(lines(&unbroken), lines(&folder));
        let steps = |folder: &RunFolder| std::fs::read(folder.file(StepLine::NAME)).ok();
        assert_eq!(steps(&unbroken).is_some(), experiment.recipe.watch);
        assert_eq!(steps(&unbroken), steps(&folder));
    }

    /// The log without its times.
    fn lines(folder: &RunFolder) -> Vec<EpochLine> {
        let log = folder.log().unwrap();
        log.into_iter()
            .map(|line| EpochLine {
                seconds: 0.0,
                images_per_second: 0.0,
                ..line
            })
            .collect()
    }

    #[test]
    fn each_method_trains_to_other_weights_and_a_watched_run_to_the_same() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let trained = |change: &dyn Fn(&mut Recipe)| {
            let mut experiment = tiny("dice++");
            change(&mut experiment.recipe);
            let run = tempfile::tempdir().unwrap();
            let folder = testing::folder(run.path());
            let end = train(&experiment, &data, &folder, &AtomicBool::new(false));
            assert_eq!(end.unwrap(), End::Finished);
            let log = lines(&folder);
            assert!(log.iter().all(|l| l.skipped == 0 && l.val_loss.is_finite()));
            (std::fs::read(folder.file(Best::NAME)).unwrap(), log)
        };
        let plain = trained(&|_| ());
        assert_eq!(trained(&|recipe| recipe.watch = true), plain);
        let methods: [&dyn Fn(&mut Recipe); 3] = [
            &|recipe| recipe.label_smoothing = 0.1,
            &|recipe| recipe.calibration_term = Some(TERM),
            &|recipe| recipe.dropout = 0.3,
        ];
        for method in methods {
            let first = trained(method);
            assert_ne!(first.0, plain.0);
            assert_eq!(trained(method), first);
            let watched = trained(&|recipe| {
                method(recipe);
                recipe.watch = true;
            });
            assert_eq!(watched, first);
        }
    }

    #[test]
    fn the_validation_loss_is_of_hard_labels_without_dropout_and_has_the_calibration_term() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let validated = |change: &dyn Fn(&mut Recipe)| {
            let mut experiment = tiny("dice++");
            change(&mut experiment.recipe);
            let run = tempfile::tempdir().unwrap();
            let folder = testing::folder(run.path());
            let images = Images::new(&data, &experiment.preprocess);
            let mut run = Run::open(&experiment, &data, &images, &folder).unwrap();
            run.validate(1).unwrap().loss()
        };
        let plain = validated(&|_| ());
        let softly = validated(&|recipe| {
            recipe.label_smoothing = 0.3;
            recipe.dropout = 0.5;
        });
        assert_eq!(softly, plain);

        let experiment = tiny("dice++");
        let unet = UNet::new(&experiment.unet, experiment.seed, &Device::Cpu).unwrap();
        let images = Images::new(&data, &experiment.preprocess);
        let terms: Vec<f64> = data
            .split
            .val
            .iter()
            .map(|&index| {
                let batch = Batch::gather(&[images.get(index).unwrap()], 2, &Device::Cpu).unwrap();
                let logits = unet.infer(&batch.images).unwrap();
                TERM.value(&logits, &batch.labels).unwrap()
            })
            .collect();
        let term = terms.iter().sum::<f64>() / terms.len() as f64;
        assert!(
            term > 0.01,
            "a network that is not trained is not calibrated"
        );
        let found = validated(&|recipe| recipe.calibration_term = Some(TERM));
        assert!((found - (plain + TERM.weight * term)).abs() < 1e-12);
    }

    /// A run at its beginning and its first images as a batch.
    fn with_a_batch(experiment: &Experiment, check: impl FnOnce(&mut Run, &Batch)) {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let run = tempfile::tempdir().unwrap();
        let folder = testing::folder(run.path());
        let images = Images::new(&data, &experiment.preprocess);
        let prepared: Vec<_> = (0..2).map(|i| images.get(i).unwrap()).collect();
        let batch = Batch::gather(&prepared, 2, &Device::Cpu).unwrap();
        let mut run = Run::open(experiment, &data, &images, &folder).unwrap();
        check(&mut run, &batch);
    }

    #[test]
    fn what_is_watched_is_the_gradient_of_the_step_and_what_the_loss_divides_by() {
        for clip_norm in [None, Some(1e-3)] {
            let mut experiment = tiny("dice+ce++:gamma=2,smooth=0");
            experiment.recipe.watch = true;
            experiment.recipe.sgd.clip_norm = clip_norm;
            with_a_batch(&experiment, |run, batch| {
                let pass = run.unet.pass(&batch.images).unwrap();
                let p = probabilities(pass.logits()).unwrap();
                let (value, gradient) = run
                    .loss
                    .value_and_grad(&Prediction::logits(pass.logits()), &batch.target)
                    .unwrap();
                let of_logits = norm(&[&gradient]).unwrap();
                let store = pass.backward(&gradient).unwrap();
                let all: Vec<&Tensor> = run
                    .unet
                    .vars()
                    .iter()
                    .map(|(_, var)| store.get(var).unwrap())
                    .collect();
                let of_weights = norm(&all).unwrap();
                run.step(batch).unwrap();
                run.watch.as_mut().unwrap().flush().unwrap();
                let steps = StepLine::read(&run.folder.file(StepLine::NAME)).unwrap();
                let [found] = &steps[..] else {
                    panic!("{steps:?}")
                };
                let loss = f64::from(value.to_scalar::<f32>().unwrap());
                assert_eq!(
                    (found.epoch, found.step, found.loss, found.lr),
                    (1, 1, loss, 0.1)
                );
                assert_eq!(found.logits_gradient, Some(of_logits));
                assert_eq!(found.weights_gradient, Some(of_weights));

                // TP + ½ FP + ½ FN of each image and class, the errors squared.
                let mut expected = f64::INFINITY;
                for (p, labels) in p.chunks(2 * 256).zip(batch.labels.chunks(256)) {
                    for (class, p) in p.chunks(256).enumerate() {
                        let each = p.iter().zip(labels).map(|(&p, &label)| {
                            let p = f64::from(p);
                            if usize::from(label) == class {
                                p + 0.5 * (1.0 - p).powi(2)
                            } else {
                                0.5 * p.powi(2)
                            }
                        });
                        expected = expected.min(each.sum());
                    }
                }
                let smallest = found.smallest_denominator.unwrap();
                assert!((smallest / expected - 1.0).abs() < 1e-5);
            });
        }
        let mut experiment = tiny("ce");
        experiment.recipe.watch = true;
        with_a_batch(&experiment, |run, batch| {
            run.step(batch).unwrap();
            run.watch.as_mut().unwrap().flush().unwrap();
            let steps = StepLine::read(&run.folder.file(StepLine::NAME)).unwrap();
            assert_eq!(steps[0].smallest_denominator, None);
        });
    }

    #[test]
    fn a_step_that_is_left_out_leaves_no_channel_dropped() {
        let mut experiment = tiny("dice++");
        with_every_method(&mut experiment);
        experiment.recipe.on_nan = OnNan::Skip;
        with_a_batch(&experiment, |run, batch| {
            let bits = |run: &Run| {
                let tensors = run.unet.tensors();
                let values = tensors
                    .iter()
                    .map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                values.collect::<Vec<_>>()
            };
            let before = bits(run);
            run.loss = Box::new(Odd {
                loss: experiment.loss_spec().unwrap().build(),
                calls: 0.into(),
                at: 0,
            });
            run.step(batch).unwrap();
            assert_eq!(run.position.begun.skipped, 1);
            assert_eq!(bits(run), before);
            run.step(batch).unwrap();
            assert_ne!(bits(run), before);
            run.watch.as_mut().unwrap().flush().unwrap();
            let steps = StepLine::read(&run.folder.file(StepLine::NAME)).unwrap();
            let [left_out, taken] = &steps[..] else {
                panic!("{steps:?}")
            };
            assert!(left_out.loss.is_nan() && left_out.weights_gradient.is_none());
            assert!(taken.step == 2 && taken.weights_gradient.unwrap() > 0.0);
        });
    }

    #[test]
    fn the_step_that_ended_a_run_is_in_the_record() {
        let home = tempfile::tempdir().unwrap();
        let data = data_set(home.path(), |x, y| (x * y) as u8, |x, y| x > y);
        let run = tempfile::tempdir().unwrap();
        let folder = testing::folder(run.path());
        let mut experiment = tiny("dice+ce:ce_weight=1e300");
        experiment.recipe.watch = true;
        let error = train(&experiment, &data, &folder, &AtomicBool::new(false)).unwrap_err();
        assert!(error.is::<Diverged>(), "{error}");
        let steps = StepLine::read(&folder.file(StepLine::NAME)).unwrap();
        let [step] = &steps[..] else {
            panic!("{steps:?}")
        };
        assert!((step.epoch, step.step) == (1, 1) && !step.loss.is_finite());
    }
}
