//! The training loop where the weights are on a CUDA device.
//!
//! Nothing waits for a step: what came of the steps is read when it is shown or saved. The numbers are summed in the order
//! of the steps, and a step of no number is found in its place, so that what is said and saved is what it would be if each
//! step were waited for.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};

use super::{Measured, Run, Validation};
use crate::{
    augment::augment,
    batches::{Batch, ahead_on},
    config::{OnNan, Recipe},
    cuda::{ledger::End, step::Steps},
    rng::{Purpose, stream},
};

/// On a terminal the loss is read and shown about this often: to read it is to wait for the GPU.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// Threads that prepare images: the GPU is faster than one.
fn threads() -> usize {
    rayon::current_num_threads()
}

impl Run<'_> {
    /// The steps on a CUDA device; none on another.
    pub(super) fn steps_on_gpu(recipe: &Recipe, device: &Device) -> Result<Option<Steps>> {
        let skips = recipe.on_nan == OnNan::Skip;
        device
            .is_cuda()
            .then(|| Steps::new(device, recipe.precision, skips))
            .transpose()
    }

    fn gpu(&mut self) -> Result<&mut Steps> {
        self.gpu
            .as_mut()
            .ok_or_else(|| anyhow!("the run is on no CUDA device"))
    }

    /// As [`steps`](Run::steps): those of an epoch that are left, or those until `stop` is set.
    pub(super) fn launch_steps(&mut self, stop: &AtomicBool) -> Result<()> {
        let images = self.images;
        let (seed, recipe) = (self.experiment.training_seed(), &self.experiment.recipe);
        let settings = &self.experiment.augment;
        let (epoch, before) = (self.position.epoch + 1, self.position.begun);
        let started = Instant::now();
        let lr = self.position.lr;
        self.sgd.set_lr(lr);
        let gpu = self.gpu()?;
        gpu.set_lr(lr)?;
        let pool = gpu.pool();

        let order = self.order(epoch);
        thread::scope(|scope| -> Result<()> {
            let chunks = order.chunks(recipe.batch).skip(before.steps);
            let batches = ahead_on(threads(), scope, chunks, move |chunk| {
                let augmented = chunk.iter().map(|&index| {
                    let mut rng = stream(seed, Purpose::Augment, epoch as u64, index as u64);
                    Ok(augment(&images.get(index)?, settings, &mut rng))
                });
                pool.gather(&augmented.collect::<Result<Vec<_>>>()?)
            });
            let mut shown = Instant::now();
            for batch in batches {
                let Self {
                    gpu: Some(gpu),
                    unet,
                    sgd,
                    loss,
                    ..
                } = self
                else {
                    break;
                };
                gpu.step(unet, sgd, loss.as_ref(), batch?)?;
                let (pending, is_full) = (gpu.pending(), gpu.is_full());
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (every, steps) = (recipe.save_every, self.position.begun.steps + pending);
                if every > 0 && steps.is_multiple_of(every) {
                    self.read_steps()?;
                    self.position.begun.seconds = before.seconds + started.elapsed().as_secs_f64();
                    self.save()?;
                } else if is_full || self.progress.is_shown() && shown.elapsed() >= SHOWN_EVERY {
                    self.read_steps()?;
                    shown = Instant::now();
                }
            }
            self.read_steps()?;
            self.position.begun.seconds = before.seconds + started.elapsed().as_secs_f64();
            Ok(())
        })
    }

    /// Counts the steps since the last call, as they came. The first of no number ends the run, its weights and velocities
    /// being those before it, or is left out.
    fn read_steps(&mut self) -> Result<()> {
        let steps = self.gpu()?.read()?;
        let is_taken = |(_, line): &(_, crate::cuda::ledger::Line)| line.end == End::Taken;
        // Weights that are no numbers leave out every step after the one that made them so; before a step that was taken
        // they were numbers.
        let after_taken = steps.iter().rposition(is_taken).map_or(0, |last| last + 1);
        for (i, (pending, line)) in steps.into_iter().enumerate() {
            let (what, value) = match line.end {
                End::Taken => {
                    self.taken(line.loss, pending.ids.len());
                    continue;
                }
                End::NoLoss => ("loss", line.loss),
                End::NoNorm => ("norm of the gradient", line.norm),
                // The one that ended the run stands before it.
                End::Halted => continue,
            };
            if i < after_taken {
                let place = self.place(what, value, &pending.ids);
                self.leave_out(&place);
            } else {
                self.no_number(what, value, &pending.ids, None)?;
            }
        }
        Ok(())
    }

    /// As [`validate`](Run::validate), the network on the GPU and the rest on the processor's threads, while the GPU goes
    /// on.
    pub(super) fn validate_on_gpu(&mut self, epoch: usize) -> Result<Validation> {
        let (images, classes) = (self.images, self.experiment.unet.classes);
        let chunks = self.data.split.val.chunks(self.experiment.recipe.batch);
        let mut validation = Validation::default();
        thread::scope(|scope| -> Result<()> {
            let batches = ahead_on(threads(), scope, chunks, move |chunk| {
                let prepared = chunk.iter().map(|&index| images.get(index));
                let prepared = prepared.collect::<Result<Vec<_>>>()?;
                Batch::gather(&prepared, classes, &Device::Cpu)
            });
            let mut measuring = VecDeque::new();
            let loss = &*self.loss;
            let Some(gpu) = &mut self.gpu else {
                return Ok(());
            };
            let mut measured = Vec::new();
            let mut take = |handle: thread::ScopedJoinHandle<'_, Result<(Batch, Measured)>>| {
                let ended = handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                ended.map(|(batch, each)| measured.push((batch.ids, each)))
            };
            for batch in batches {
                let batch = batch?;
                let (n, _, height, width) = batch.images.dims4()?;
                let pixels = batch.images.flatten_all()?.to_vec1::<f32>()?;
                let logits = gpu
                    .engines
                    .logits(&self.unet, &pixels, [n, height, width])?;
                let logits = Tensor::from_vec(logits, (n, classes, height, width), &Device::Cpu)?;
                if measuring.len() >= threads()
                    && let Some(first) = measuring.pop_front()
                {
                    take(first)?;
                }
                measuring.push_back(scope.spawn(move || {
                    let measured = Measured::of(loss, &batch, &logits)?;
                    Ok((batch, measured))
                }));
            }
            for handle in measuring {
                take(handle)?;
            }
            for (ids, each) in &measured {
                self.check_validation(epoch, ids, each)?;
                validation.add(ids.len(), each);
            }
            Ok(())
        })?;
        Ok(validation)
    }
}
