//! `seg-train threshold`: the threshold that a run's validation set asks for.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{Failure, print, usage};
use crate::{
    config::open_device,
    evaluate::load,
    metrics::{Confusion, EmptyMask, ImageThresholds, ThresholdSweep},
    report::table::{align, number},
    run_folder::RunFolder,
    stats::MeanInterval,
    threshold::{ChosenThreshold, PARTS, Target, best_epoch, choose, sweep},
};

#[derive(Args, Debug)]
pub(super) struct ThresholdArgs {
    /// Folder of the run
    run: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    /// cpu, cuda or cuda:N [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// The highest threshold whose mean recall is at least this
    #[arg(long, value_name = "R", value_parser = share, allow_negative_numbers = true)]
    target_recall: Option<f64>,
    /// The lowest threshold from which on the mean precision is at least this, up to where it is highest
    #[arg(long, value_name = "P", value_parser = share, allow_negative_numbers = true)]
    target_precision: Option<f64>,
    /// The threshold of the highest mean F-score with this weight of recall: 1 is Dice
    #[arg(long, value_name = "B", value_parser = beta, allow_negative_numbers = true)]
    f_beta: Option<f64>,
}

impl TargetArgs {
    /// The one that is given; clap sees to it that one is.
    fn target(&self) -> Option<Target> {
        let recall = self.target_recall.map(Target::Recall);
        let precision = self.target_precision.map(Target::Precision);
        recall.or(precision).or(self.f_beta.map(Target::FBeta))
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|share| *share > 0.0 && *share <= 1.0)
        .ok_or_else(|| "expected a number above 0, at most 1".into())
}

fn beta(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    // Beyond that β² has no digits left for the other term.
    number
        .filter(|beta| (1e-3..=1e3).contains(beta))
        .ok_or_else(|| "expected a number from 0.001 to 1000".into())
}

pub(super) fn run(args: &ThresholdArgs) -> Result<(), Failure> {
    let Some(target) = args.target.target() else {
        return Err(usage(
            "give one of --target-recall, --target-precision and --f-beta",
        ));
    };
    let folder = RunFolder::open(&args.run)?;
    let experiment = folder.experiment()?;
    let classes = experiment.unet.classes;
    if classes != 2 {
        return Err(usage(format!(
            "a threshold decides between two classes and the network of {} has {classes}; its masks are of the most probable class",
            folder.path().display()
        )));
    }
    let device =
        open_device(args.device.as_deref().unwrap_or(&experiment.device)).map_err(usage)?;
    let data = folder.data_set(&experiment)?;
    let net = load(&folder, &experiment, &device)?;

    let empty = experiment.metrics.empty;
    let validation = sweep(
        &net,
        &experiment,
        &data,
        &data.split.val,
        &ThresholdSweep::even(PARTS),
    )?;
    let (threshold, value, images) = choose(&validation, target, empty)?;
    let mut shown = vec![0.5, threshold];
    shown.sort_by(f64::total_cmp);
    shown.dedup();
    let test = sweep(
        &net,
        &experiment,
        &data,
        &data.split.test,
        &ThresholdSweep::new(shown.clone())?,
    )?;

    let mut rows = vec![header()];
    for (set, images) in [("validation", &validation), ("test", &test)] {
        for &at in &shown {
            rows.push(row(set, images, at, empty)?);
        }
    }
    let chosen = ChosenThreshold {
        threshold,
        validation: value,
        images,
        chosen_on: experiment.data.to_string(),
        epoch: best_epoch(&folder)?,
        target,
    };
    chosen.write(&folder)?;
    print(&format!(
        "T = {threshold}, for {target} on {} validation images ({}); predict will use it\n\n{}{}\n",
        data.split.val.len(),
        number(value),
        align(&rows),
        folder.file(ChosenThreshold::NAME).display()
    ));
    Ok(())
}

/// What a column shows of an image's counts.
type Column = (&'static str, fn(&Confusion, EmptyMask) -> Option<f64>);

const COLUMNS: [Column; 3] = [
    ("recall", Confusion::recall),
    ("precision", Confusion::precision),
    ("Dice", Confusion::dice),
];

fn header() -> Vec<String> {
    let columns = COLUMNS
        .iter()
        .flat_map(|(name, _)| [*name, "95 % interval"]);
    let columns = ["set", "T"].into_iter().chain(columns).chain(["images"]);
    columns.map(String::from).collect()
}

fn row(
    set: &str,
    images: &[ImageThresholds],
    at: f64,
    empty: EmptyMask,
) -> anyhow::Result<Vec<String>> {
    let counts: Vec<Confusion> = images
        .iter()
        .map(|image| {
            let found = image.counts.iter().find(|(t, _)| *t == at);
            found
                .map(|&(_, counts)| counts)
                .ok_or_else(|| anyhow!("image {} was not counted at {at}", image.id))
        })
        .collect::<Result<_, _>>()?;
    let mut row = vec![set.to_owned(), at.to_string()];
    for (_, figure) in COLUMNS {
        let values: Vec<f64> = counts.iter().filter_map(|c| figure(c, empty)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64; // NaN is shown as none
        row.push(number(mean));
        row.push(MeanInterval::of(&values, 0.95).map_or_else(
            || "-".into(),
            |i| format!("{} to {}", number(i.t[0]), number(i.t[1])),
        ));
    }
    row.push(images.len().to_string());
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_share_and_beta_a_weight() {
        for text in ["0", "-0.5", "1.01", "NaN", "all"] {
            assert_eq!(
                share(text).unwrap_err(),
                "expected a number above 0, at most 1"
            );
        }
        assert_eq!(share("1").unwrap(), 1.0);
        for text in ["0", "-2", "inf", "NaN", "1e9"] {
            assert_eq!(
                beta(text).unwrap_err(),
                "expected a number from 0.001 to 1000"
            );
        }
        assert_eq!(beta("2").unwrap(), 2.0);
    }

    #[test]
    fn a_row_shows_means_over_the_images_that_have_a_value() {
        let image = |tp, fp, fn_| ImageThresholds {
            id: "a".into(),
            counts: vec![(0.5, Confusion { tp, fp, fn_, tn: 4 })],
        };
        let images = [image(1, 1, 0), image(1, 0, 1), image(0, 1, 0)];
        let found = row("test", &images, 0.5, EmptyMask::Skip).unwrap();
        assert_eq!(found[..3], ["test", "0.5", "0.7500"]);
        assert_eq!((&found[4][..], &found[6][..]), ("0.5000", "0.4444"));
        assert_eq!(found[8], "3");
        assert_eq!(found.len(), header().len());
    }
}
