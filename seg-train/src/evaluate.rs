//! A checkpoint on a test set: a row an image, means with intervals, and a few images to look at.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use seg_unet::UNet;
use serde::Serialize;

use crate::{
    batches::{Images, ahead},
    config::{Experiment, member_folder},
    data::Dataset,
    inference::{
        Inference, Scaling,
        scaling::{Fitted, Scored, fit},
    },
    metrics::{
        Confusion, Evaluation, ImageRow, ImageThresholds, Pixels, ReliabilityBin, Rule, Summary,
        Threshold, ThresholdSweep,
    },
    phantom::{self, entropy, most_probable},
    preprocess::Prepared,
    raster::Labels,
    report::{examples::Example, table::number},
    resample::resize_labels,
    run_folder::RunFolder,
    state::Best,
    threshold::best_epoch,
};

/// An evaluation counts at the thresholds between this many parts of [0, 1].
const SWEEP_PARTS: usize = 20;

/// What `summary.json` holds: the numbers and all that is needed to know what they are of.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The loss, every parameter of it.
    pub loss: String,
    /// The loss by name, and what was done besides ([`Experiment::method`]).
    pub method: String,
    /// The data set, as `--data` names it.
    pub data: String,
    /// The seed.
    pub seed: u64,
    /// Height and width the network saw.
    pub size: [usize; 2],
    /// Foreground is where its probability is at least this; none: the most probable class.
    pub threshold: Option<f64>,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch whose weights were evaluated: the one with the lowest validation loss.
    pub best_epoch: usize,
    /// Seconds of training, other members of an ensemble and what a fine-tuning went on from included.
    pub training_seconds: f64,
    /// The metrics.
    #[serde(flatten)]
    pub summary: Summary,
    /// Where the true probabilities are known: what they leave to any model.
    pub truth: Option<Truth>,
}

/// What the true probabilities leave to any model, where they are known; entropy and floor in nats a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// Mean entropy of the labels given the true probability: the expected NLL of a model that knows it.
    pub entropy: f64,
    /// Mean Dice of the true probabilities themselves, over images and classes of the foreground, each pixel of its most
    /// probable class: labels are drawn from them, so not even they hit every pixel.
    pub dice: f64,
    /// The excess NLL that the image's noise leaves to the best estimator is at most this.
    pub noise_floor: f64,
}

/// A test set measured.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Means and intervals.
    pub report: Report,
    /// A row an image.
    pub rows: Vec<ImageRow>,
    /// The rows with the lowest, lower-quartile, median and highest Dice.
    pub shown: Vec<usize>,
    /// The images of these rows.
    pub examples: Vec<Example>,
    /// With two classes: the counts of every image at T = 0.05, 0.10, …, 0.95, at its own size; else none.
    pub thresholds: Vec<ImageThresholds>,
    /// With two classes: the foreground's bins over the pixels of all images, at the network's size; else none.
    pub reliability: Vec<ReliabilityBin>,
}

/// Evaluates the best checkpoint of a run on the test set of `data`.
///
/// Overlaps are at each image's own size: the predicted mask is grown to it by nearest neighbour. Scores are at the
/// network's size, where the probabilities are.
///
/// # Errors
///
/// A missing or damaged checkpoint, unreadable images, and a threshold where there are more than two classes.
pub fn evaluate(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    threshold: Option<f64>,
    device: &Device,
) -> Result<Evaluated> {
    evaluate_each(folder, experiment, data, threshold, device, |_, _| Ok(()))
}

/// The same, and in the same pass something else with every image and its probabilities, planar `[classes, pixels]`.
///
/// # Errors
///
/// Those of [`evaluate`], and what `each` refuses.
pub fn evaluate_each(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    threshold: Option<f64>,
    device: &Device,
    mut each: impl FnMut(&Prepared, &[f32]) -> Result<()>,
) -> Result<Evaluated> {
    check_threshold(threshold, data.classes)?;
    let net = load(folder, experiment, device)?;
    let images = Images::new(data, &experiment.preprocess);
    let mut evaluation = Evaluation::new(experiment.metrics.clone());
    let (mut entropies, mut dices) = (Vec::new(), Vec::new());
    let (sweep, mut thresholds) = (ThresholdSweep::even(SWEEP_PARTS), Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        for pair in ahead(scope, data.split.test.iter(), |&index| images.both(index)) {
            let (sample, prepared) = pair?;
            let p = net.predict(&prepared.image)?;
            each(&prepared, &p)?;
            let labels = &prepared.labels;
            let pixels = Pixels::new(&p, data.classes, &labels.data)?;
            let mask = Labels {
                data: classes(&p, data.classes, threshold),
                ..*labels
            };
            let mask = resize_labels(&mask, [sample.labels.height, sample.labels.width]);
            let size = [labels.height, labels.width];
            evaluation.add(
                &sample.id,
                [&mask, &sample.labels],
                &pixels,
                size,
                prepared.truth.as_deref(),
            )?;
            if data.classes == 2 {
                let p = foreground(&p, 2);
                thresholds.push(sweep.image(&sample.id, &p, size, &sample.labels)?);
            }
            if let Some(q) = prepared.truth.as_deref() {
                entropies.push(entropy(q, data.classes));
                let best = most_probable(q, data.classes);
                for class in 1..data.classes {
                    let counts = Confusion::of_labels(&best, &prepared.labels.data, class as u8)?;
                    dices.extend(counts.dice(experiment.metrics.empty));
                }
            }
        }
        Ok(())
    })?;
    let log = folder.log()?;
    let report = Report {
        loss: experiment.loss.clone(),
        method: experiment.method()?,
        data: experiment.data.to_string(),
        seed: experiment.seed,
        size: experiment.preprocess.size,
        threshold,
        epochs: log.len(),
        best_epoch: log
            .iter()
            .rfind(|line| line.best)
            .map_or(0, |line| line.epoch),
        training_seconds: folder.training_seconds()?,
        summary: evaluation.summary(),
        truth: data.noise_floor()?.map(|floor| Truth {
            entropy: mean(&entropies),
            dice: mean(&dices),
            noise_floor: floor.excess_nll,
        }),
    };
    let rows = evaluation.rows().to_vec();
    let shown = spread_by_dice(&rows);
    let mut examples = show(&net, experiment, data, &shown, threshold)?;
    for (example, row) in examples
        .iter_mut()
        .zip(shown.iter().map(|&place| &rows[place]))
    {
        let text = |value: Option<f64>| number(value.unwrap_or(f64::NAN));
        let (dice, nll) = (text(row.dice), text(row.nll));
        example.caption = format!("{}   Dice {dice}   NLL {nll}", example.caption);
    }
    let reliability = match evaluation.bins() {
        [foreground] => foreground.reliability(),
        _ => Vec::new(),
    };
    Ok(Evaluated {
        report,
        rows,
        shown,
        examples,
        thresholds,
        reliability,
    })
}

/// Refuses a threshold where there is more to decide than foreground or not.
///
/// # Errors
///
/// More than two classes.
pub fn check_threshold(threshold: Option<f64>, classes: usize) -> Result<()> {
    if threshold.is_some() && classes > 2 {
        bail!(
            "--threshold decides between two classes and the network has {classes}; leave it out, and the most probable class is taken"
        );
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Some images of the test set with what the network makes of them.
///
/// # Errors
///
/// When an image cannot be read.
pub fn show(
    net: &Inference,
    experiment: &Experiment,
    data: &Dataset,
    shown: &[usize],
    threshold: Option<f64>,
) -> Result<Vec<Example>> {
    let images = Images::new(data, &experiment.preprocess);
    let example = |&place: &usize| {
        let prepared = images.get(data.split.test[place])?;
        let p = net.predict(&prepared.image)?;
        Ok(Example {
            caption: prepared.id,
            probability: foreground(&p, data.classes),
            image: prepared.image,
            labels: prepared.labels,
            truth: prepared
                .truth
                .map(|q| phantom::foreground(&q, data.classes)),
            threshold: threshold.unwrap_or(0.5) as f32,
        })
    };
    shown.iter().map(example).collect()
}

/// What a run predicts with: the weights of its best epoch, those of its ensemble's other members, and the scaling that was
/// fitted for them.
///
/// # Errors
///
/// When there are none yet, or they are damaged.
pub fn load(folder: &RunFolder, experiment: &Experiment, device: &Device) -> Result<Inference> {
    let net = load_unscaled(folder, experiment, device)?;
    match experiment.inference.scaling {
        Scaling::None => Ok(net),
        method => Ok(net.scaled(Fitted::read(folder, method, experiment.unet.classes)?.scale)),
    }
}

/// The same before any scaling.
fn load_unscaled(
    folder: &RunFolder,
    experiment: &Experiment,
    device: &Device,
) -> Result<Inference> {
    let mut unets = vec![best_weights(folder, experiment, device)?];
    for member in 1..experiment.inference.members {
        let member = RunFolder::open(&folder.file(&member_folder(member)))?;
        unets.push(best_weights(&member, experiment, device)?);
    }
    let net = Inference::ensemble(unets, experiment.recipe.precision, device)?;
    match experiment.inference.samples {
        0 => Ok(net),
        samples => net.sampled(samples, experiment.recipe.dropout, experiment.seed),
    }
}

/// Fits a run's scaling to its validation set and writes it to the folder, where the run has one.
///
/// The logits of the whole validation set are held at once: 4 bytes a pixel and class.
///
/// # Errors
///
/// Those of [`load`] and of [`fit`].
pub fn fit_scaling(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    device: &Device,
) -> Result<Option<Fitted>> {
    let method = experiment.inference.scaling;
    if method == Scaling::None {
        return Ok(None);
    }
    let net = load_unscaled(folder, experiment, device)?;
    let images = Images::new(data, &experiment.preprocess);
    let scored = std::thread::scope(|scope| -> Result<Vec<Scored>> {
        ahead(scope, data.split.val.iter(), |&index| images.get(index))
            .map(|prepared| {
                let prepared = prepared?;
                Ok(Scored {
                    logits: net.scores(&prepared.image)?,
                    labels: prepared.labels.data,
                })
            })
            .collect()
    })?;
    let (scale, nll_before, nll_after) = fit(method, data.classes, &scored)?;
    let fitted = Fitted {
        method,
        scale,
        nll_before,
        nll_after,
        images: scored.len(),
        fitted_on: experiment.data.to_string(),
        epoch: best_epoch(folder)?,
    };
    fitted.write(folder)?;
    Ok(Some(fitted))
}

/// The network with the weights of the best epoch of one training.
///
/// # Errors
///
/// When there are none yet, or they are damaged.
pub fn best_weights(folder: &RunFolder, experiment: &Experiment, device: &Device) -> Result<UNet> {
    let path = folder.file(Best::NAME);
    if !path.is_file() {
        let shown = folder.path().display();
        match folder.log()?.len() {
            0 => bail!(
                "{shown} has no best.safetensors yet: not one epoch was completed; go on with seg-train resume {shown}"
            ),
            epochs => bail!(
                "{shown} has lost its best.safetensors, which was there after {epochs} epochs; restore the file, or train the run anew with another --out"
            ),
        }
    }
    let (file, _) = Best::read(folder, &experiment.unet)?;
    Ok(UNet::load_bytes(
        &experiment.unet,
        &path.display().to_string(),
        file.bytes(),
        device,
    )?)
}

/// Softmax over dimension 1 of logits `[N, C, H, W]`, as a plain array of the same order.
///
/// # Errors
///
/// When the logits cannot be brought to the processor.
pub fn probabilities(logits: &Tensor) -> Result<Vec<f32>> {
    let (n, classes, height, width) = logits.dims4()?;
    let z = logits
        .detach()
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let plane = height * width;
    let mut p = vec![0.0_f32; z.len()];
    for item in 0..n {
        for pixel in 0..plane {
            let at = |class: usize| (item * classes + class) * plane + pixel;
            let value = |class: usize| f64::from(z[at(class)]);
            // The largest logit becomes 0, so no exponential overflows.
            let largest = (0..classes).map(value).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..classes)
                .map(|class| (value(class) - largest).exp())
                .sum();
            for class in 0..classes {
                p[at(class)] = ((value(class) - largest).exp() / sum) as f32;
            }
        }
    }
    Ok(p)
}

/// A class a pixel: the most probable, or with a threshold 1 where p of class 1 is at least that.
pub fn classes(p: &[f32], classes: usize, threshold: Option<f64>) -> Vec<u8> {
    let plane = p.len() / classes;
    (0..plane)
        .map(|pixel| {
            let at = |class: usize| p[class * plane + pixel];
            match threshold {
                Some(t) => {
                    let rule = Threshold {
                        at: t,
                        rule: Rule::AtLeast,
                    };
                    u8::from(rule.foreground(f64::from(at(1))))
                }
                None => (1..classes).fold(
                    0,
                    |best, class| if at(class) > at(best) { class } else { best },
                ) as u8,
            }
        })
        .collect()
}

/// The probability of any class but the background, from planar `[classes, pixels]`.
pub fn foreground(p: &[f32], classes: usize) -> Vec<f32> {
    let plane = p.len() / classes;
    match classes {
        2 => p[plane..].to_vec(),
        _ => p[..plane]
            .iter()
            .map(|background| 1.0 - background)
            .collect(),
    }
}

/// The rows with the lowest, lower-quartile, median and highest Dice, so that pictures do not flatter.
fn spread_by_dice(rows: &[ImageRow]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let dice = |row: usize| rows[row].dice.unwrap_or(f64::INFINITY);
    order.sort_by(|&a, &b| dice(a).total_cmp(&dice(b)));
    let Some(last) = rows.len().checked_sub(1) else {
        return Vec::new();
    };
    let mut chosen: Vec<usize> = [0, last / 4, last / 2, last]
        .into_iter()
        .map(|rank| order[rank])
        .collect();
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_for_three_classes_is_refused() {
        check_threshold(Some(0.5), 2).unwrap();
        check_threshold(None, 3).unwrap();
        assert_eq!(
            check_threshold(Some(0.5), 3).unwrap_err().to_string(),
            "--threshold decides between two classes and the network has 3; leave it out, and the most probable class is taken"
        );
    }

    #[test]
    fn softmax_survives_large_logits() {
        // [1, 2, 1, 2]: a tie at the first pixel, certainty at the second.
        let logits =
            Tensor::new(&[[[[500.0_f32, -300.0]], [[500.0, 300.0]]]], &Device::Cpu).unwrap();
        assert_eq!(probabilities(&logits).unwrap(), [0.5, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn a_tie_is_background_by_argmax_and_foreground_at_one_half() {
        let p = [0.5, 0.4, 0.5, 0.6];
        assert_eq!(classes(&p, 2, None), [0, 1]);
        assert_eq!(classes(&p, 2, Some(0.5)), [1, 1]);
        assert_eq!(classes(&p, 2, Some(0.7)), [0, 0]);
    }

    #[test]
    fn the_foreground_is_everything_but_the_background() {
        assert_eq!(foreground(&[0.25, 0.75], 2), [0.75]);
        assert_eq!(foreground(&[0.25, 0.5, 0.25], 3), [0.75]);
    }

    #[test]
    fn examples_are_spread_from_the_lowest_dice_to_the_highest() {
        let row = |dice| ImageRow {
            dice: Some(dice),
            ..ImageRow::default()
        };
        let rows: Vec<ImageRow> = [0.9, 0.1, 0.5, 0.3, 0.7].map(row).into();
        assert_eq!(spread_by_dice(&rows), [1, 3, 2, 0]);
        assert_eq!(spread_by_dice(&rows[..1]), [0]);
        assert!(spread_by_dice(&[]).is_empty());
    }
}
