//! The softmax threshold (paper, Eq. 10) that a task asks for, chosen on the validation set.
//!
//! A screening wants every lesion found, a measurement nothing that is none. The paper shows that a network of a ++ loss
//! can be moved between the two by its threshold. It has to be moved on images that are not tested on: the T that suits
//! the test set best is no property of the network.

use std::fmt::{self, Display};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    batches::{Images, ahead},
    config::Experiment,
    data::Dataset,
    evaluate::foreground,
    inference::Inference,
    metrics::{Confusion, EmptyMask, ImageThresholds, Pixels, ThresholdSweep},
    open,
    run_folder::RunFolder,
};

/// The thresholds that are tried lie between this many parts of [0, 1]: 0.001, 0.002, …, 0.999.
pub const PARTS: usize = 1000;

/// What a threshold is chosen for; every figure is a mean over the validation images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A recall of at least this, with as much precision as that leaves.
    Recall(f64),
    /// A precision of at least this, with as much recall as that leaves.
    Precision(f64),
    /// The highest F-β of this β: 1 is Dice, more favours recall ([`Confusion::f_beta`]).
    FBeta(f64),
}

impl Target {
    /// What the target calls its figure.
    fn name(self) -> String {
        match self {
            Self::Recall(_) => "recall".into(),
            Self::Precision(_) => "precision".into(),
            Self::FBeta(beta) => format!("F-{beta}"),
        }
    }

    /// The figure of one image.
    fn figure(self, counts: &Confusion, empty: EmptyMask) -> Option<f64> {
        match self {
            Self::Recall(_) => counts.recall(empty),
            Self::Precision(_) => counts.precision(empty),
            Self::FBeta(beta) => counts.f_beta(beta, empty),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recall(least) | Self::Precision(least) => {
                write!(f, "a mean {} of at least {least}", self.name())
            }
            Self::FBeta(_) => write!(f, "the highest mean {}", self.name()),
        }
    }
}

/// A threshold and what it reached where it was chosen: `threshold.toml` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenThreshold {
    /// T: foreground is where p ≥ T.
    pub threshold: f64,
    /// The mean of the target's figure over the validation images at T.
    pub validation: f64,
    /// The validation images that have such a figure.
    pub images: usize,
    /// The data set whose validation set it was chosen on.
    pub chosen_on: String,
    /// The epoch whose weights it was chosen for. Those of another epoch have other probabilities.
    pub epoch: usize,
    /// What it was chosen for.
    pub target: Target,
}

impl ChosenThreshold {
    /// The file's name.
    pub const NAME: &str = "threshold.toml";

    /// Writes it to its run, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        folder.write(Self::NAME, toml::to_string(self)?.as_bytes())
    }

    /// Reads it from its run; none when none was chosen.
    ///
    /// # Errors
    ///
    /// When the file is no such one, or the run has gone on since and has other weights now.
    pub fn read(folder: &RunFolder) -> Result<Option<Self>> {
        let path = folder.file(Self::NAME);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            open::text(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let chosen: Self = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        if !(0.0..=1.0).contains(&chosen.threshold) {
            bail!(
                "{} has the threshold {}, expected a number from 0 to 1; choose one anew with seg-train threshold",
                path.display(),
                chosen.threshold
            );
        }
        let best = best_epoch(folder)?;
        if chosen.epoch != best {
            bail!(
                "{} was chosen for the weights of epoch {}, and the run's best are those of epoch {best} now; choose one anew with seg-train threshold, or give --threshold",
                path.display(),
                chosen.epoch
            );
        }
        Ok(Some(chosen))
    }
}

/// The epoch whose weights are a run's best; 0 before the first.
///
/// # Errors
///
/// When the log cannot be read.
pub fn best_epoch(folder: &RunFolder) -> Result<usize> {
    let log = folder.log()?;
    let best = log.iter().rfind(|line| line.best);
    Ok(best.map_or(0, |line| line.epoch))
}

/// The counts of images of a data set, by their numbers, at many thresholds, each at the image's own size: what
/// [`evaluate`](crate::evaluate::evaluate) with each of these thresholds would count.
///
/// # Errors
///
/// Unreadable images, or an output that holds no probabilities.
pub fn sweep(
    net: &Inference,
    experiment: &Experiment,
    data: &Dataset,
    part: &[usize],
    thresholds: &ThresholdSweep,
) -> Result<Vec<ImageThresholds>> {
    let images = Images::new(data, &experiment.preprocess);
    std::thread::scope(|scope| {
        ahead(scope, part.iter(), |&index| images.both(index))
            .map(|pair| {
                let (sample, prepared) = pair?;
                let p = net.predict(&prepared.image)?;
                // For its errors: a NaN is below every threshold and would pass for background.
                Pixels::new(&p, data.classes, &prepared.labels.data)
                    .with_context(|| format!("image {}", sample.id))?;
                let size = [prepared.labels.height, prepared.labels.width];
                thresholds.image(
                    &sample.id,
                    &foreground(&p, data.classes),
                    size,
                    &sample.labels,
                )
            })
            .collect()
    })
}

/// The mean of a figure over images at a threshold, and how many images have it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    threshold: f64,
    value: f64,
    images: usize,
}

/// Chooses a threshold from the counts of the validation images, which all have the same thresholds. Gives T, the mean
/// figure there, and the number of images in that mean.
///
/// - [`Target::Recall`]: the highest T whose mean recall reaches the target. Recall falls with T, so this leaves the most
///   precision.
/// - [`Target::Precision`]: precision mostly rises with T, but not at every step, and at the upper end it falls where the
///   last predicted pixels are wrong or an image has none left. From the lowest T of the highest mean precision downwards,
///   the last T before the mean is first below the target: a chance peak at a low T is not taken, and of the T that hold
///   the target this one leaves the most recall.
/// - [`Target::FBeta`]: the T of the highest mean; of several side by side the middle one (the lower of two), since the
///   edge of such a plateau is where the next images may fall off; of several plateaus the lowest.
///
/// Under [`EmptyMask::Skip`] a mean is over the images that have the figure at that T: at a high one, the precision of
/// those in which something is still predicted.
///
/// # Errors
///
/// One sentence with the best that can be reached, and where, when no threshold reaches the target; and when no image has
/// the figure.
pub fn choose(
    images: &[ImageThresholds],
    target: Target,
    empty: EmptyMask,
) -> Result<(f64, f64, usize)> {
    let means = means(images, target, empty);
    let highest = means
        .iter()
        .map(|mean| mean.value)
        .fold(f64::NEG_INFINITY, f64::max);
    let Some(first) = means.iter().position(|mean| mean.value == highest) else {
        bail!(
            "not one of the {} validation images has a {}; choose with another target, or set metrics.empty to another policy than skip",
            images.len(),
            target.name()
        );
    };
    let chosen = match target {
        Target::Recall(least) => means.iter().rfind(|mean| mean.value >= least),
        Target::Precision(least) => means[..=first]
            .iter()
            .rev()
            .take_while(|mean| mean.value >= least)
            .last(),
        Target::FBeta(_) => {
            let plateau = means[first..]
                .iter()
                .take_while(|mean| mean.value == highest)
                .count();
            means.get(first + (plateau - 1) / 2)
        }
    };
    let Some(chosen) = chosen else {
        bail!(
            "no threshold from {} to {} gives {target} on the {} validation images: the highest is {highest:.4}, at {}; ask for less, or train a network that does better",
            means[0].threshold,
            means[means.len() - 1].threshold,
            images.len(),
            means[first].threshold
        );
    };
    Ok((chosen.threshold, chosen.value, chosen.images))
}

/// The mean figure at every threshold where an image has one, ascending.
fn means(images: &[ImageThresholds], target: Target, empty: EmptyMask) -> Vec<Mean> {
    let thresholds = images.first().map_or(&[][..], |image| &image.counts);
    let at = |place: usize| {
        let counts = images
            .iter()
            .filter_map(move |image| image.counts.get(place));
        counts
            .filter_map(|(_, counts)| target.figure(counts, empty))
            .collect::<Vec<f64>>()
    };
    thresholds
        .iter()
        .enumerate()
        .filter_map(|(place, &(threshold, _))| {
            let values = at(place);
            (!values.is_empty()).then(|| Mean {
                threshold,
                value: values.iter().sum::<f64>() / values.len() as f64,
                images: values.len(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::run_folder::EpochLine;

    /// One image of 1000 true pixels and as many others, whose figure at 0.1, 0.2, … is given in thousandths.
    fn image(counts: impl Fn(u64) -> Confusion, thousandths: &[u64]) -> Vec<ImageThresholds> {
        let place = |i: usize| (i + 1) as f64 / 10.0;
        vec![ImageThresholds {
            id: "a".into(),
            counts: thousandths
                .iter()
                .enumerate()
                .map(|(i, &k)| (place(i), counts(k)))
                .collect(),
        }]
    }

    fn recalls(thousandths: &[u64]) -> Vec<ImageThresholds> {
        let counts = |tp| Confusion {
            tp,
            fn_: 1000 - tp,
            ..Confusion::default()
        };
        image(counts, thousandths)
    }

    fn precisions(thousandths: &[u64]) -> Vec<ImageThresholds> {
        let counts = |tp| Confusion {
            tp,
            fp: 1000 - tp,
            ..Confusion::default()
        };
        image(counts, thousandths)
    }

    fn chosen(images: &[ImageThresholds], target: Target) -> f64 {
        choose(images, target, EmptyMask::default()).unwrap().0
    }

    #[test]
    fn a_recall_is_reached_by_the_highest_threshold_that_does() {
        let images = recalls(&[990, 970, 950, 949, 200]);
        assert_eq!(chosen(&images, Target::Recall(0.95)), 0.3);
        assert_eq!(chosen(&images, Target::Recall(0.96)), 0.2);
        assert_eq!(
            choose(&images, Target::Recall(0.1), EmptyMask::default()).unwrap(),
            (0.5, 0.2, 1)
        );
    }

    #[test]
    fn a_precision_is_held_from_the_chosen_threshold_up_to_the_highest_precision() {
        let images = precisions(&[910, 600, 900, 920, 905, 960, 950, 400]);
        // The 0.1 is a chance peak; from 0.3 to the top at 0.6 all hold 0.9.
        assert_eq!(chosen(&images, Target::Precision(0.9)), 0.3);
        assert_eq!(chosen(&images, Target::Precision(0.91)), 0.6);
        assert_eq!(chosen(&images, Target::Precision(0.5)), 0.1);
        assert_eq!(
            chosen(&precisions(&[700, 900, 900]), Target::Precision(0.9)),
            0.2
        );
    }

    #[test]
    fn of_equally_good_thresholds_the_middle_one_is_taken() {
        let f = |thousandths: &[u64]| chosen(&precisions(thousandths), Target::FBeta(1.0));
        assert_eq!(f(&[100, 300, 300, 300, 200]), 0.3);
        assert_eq!(f(&[100, 300, 300, 300, 300]), 0.3);
        assert_eq!(f(&[300, 100, 300, 300, 300]), 0.1);
        assert_eq!(f(&[100, 200, 400]), 0.3);
    }

    #[test]
    fn images_weigh_alike_whatever_their_size_and_the_policy_decides_which_count() {
        let of = |tp, fn_| ImageThresholds {
            id: String::new(),
            counts: vec![(
                0.5,
                Confusion {
                    tp,
                    fn_,
                    fp: 0,
                    tn: 9,
                },
            )],
        };
        let images = [of(1, 0), of(0, 1000), of(0, 0)];
        let choose = |empty| choose(&images, Target::Recall(0.1), empty).unwrap();
        assert_eq!(choose(EmptyMask::Skip), (0.5, 0.5, 2));
        assert_eq!(choose(EmptyMask::Agreement), (0.5, 2.0 / 3.0, 3));
    }

    #[test]
    fn what_cannot_be_reached_is_said_with_the_best_that_can() {
        let error = |images: &[ImageThresholds], target| {
            let refused = choose(images, target, EmptyMask::Skip).unwrap_err();
            refused.to_string()
        };
        assert_eq!(
            error(&recalls(&[930, 800, 10]), Target::Recall(0.95)),
            "no threshold from 0.1 to 0.3 gives a mean recall of at least 0.95 on the 1 validation images: the highest is 0.9300, at 0.1; ask for less, or train a network that does better"
        );
        assert_eq!(
            error(&precisions(&[100, 800, 10]), Target::Precision(0.9)),
            "no threshold from 0.1 to 0.3 gives a mean precision of at least 0.9 on the 1 validation images: the highest is 0.8000, at 0.2; ask for less, or train a network that does better"
        );
        let nothing = image(
            |_| Confusion {
                tn: 5,
                ..Confusion::default()
            },
            &[1, 1],
        );
        assert_eq!(
            error(&nothing, Target::Recall(0.5)),
            "not one of the 1 validation images has a recall; choose with another target, or set metrics.empty to another policy than skip"
        );
    }

    fn run() -> (tempfile::TempDir, RunFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = crate::run_folder::testing::folder(dir.path());
        let experiment = Preset::Paper.experiment("folder:/d".parse().unwrap());
        folder.write_experiment(&experiment).unwrap();
        (dir, folder)
    }

    fn log(folder: &RunFolder, epoch: usize, best: bool) {
        let line = EpochLine {
            skipped: 0,
            epoch,
            loss: 0.5,
            val_loss: 0.5,
            val_dice: 0.5,
            lr: 0.1,
            best,
            seconds: 1.0,
            images_per_second: 1.0,
        };
        folder.append_log(&line).unwrap();
    }

    #[test]
    fn a_threshold_comes_back_from_its_run_until_the_run_has_better_weights() {
        let (_dir, folder) = run();
        assert_eq!(ChosenThreshold::read(&folder).unwrap(), None);
        log(&folder, 1, true);
        log(&folder, 2, false);
        let chosen = ChosenThreshold {
            threshold: 0.123,
            validation: 1.0 / 3.0,
            images: 7,
            chosen_on: "folder:/d".into(),
            epoch: 1,
            target: Target::FBeta(2.0),
        };
        chosen.write(&folder).unwrap();
        assert_eq!(ChosenThreshold::read(&folder).unwrap(), Some(chosen));
        log(&folder, 3, true);
        assert_eq!(
            ChosenThreshold::read(&folder).unwrap_err().to_string(),
            format!(
                "{} was chosen for the weights of epoch 1, and the run's best are those of epoch 3 now; choose one anew with seg-train threshold, or give --threshold",
                folder.file(ChosenThreshold::NAME).display()
            )
        );
    }

    #[test]
    fn a_stored_threshold_that_is_none_is_refused() {
        let (_dir, folder) = run();
        let chosen = ChosenThreshold {
            threshold: 1.5,
            validation: 0.9,
            images: 7,
            chosen_on: "folder:/d".into(),
            epoch: 0,
            target: Target::Recall(0.9),
        };
        chosen.write(&folder).unwrap();
        assert_eq!(
            ChosenThreshold::read(&folder).unwrap_err().to_string(),
            format!(
                "{} has the threshold 1.5, expected a number from 0 to 1; choose one anew with seg-train threshold",
                folder.file(ChosenThreshold::NAME).display()
            )
        );
    }
}
