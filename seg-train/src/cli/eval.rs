//! `seg-train eval`: a run's best checkpoint again, at another threshold or on another data set.

use super::{
    EvalArgs, Failure, print,
    train::{heading, write_evaluation},
    usage,
};
use crate::{
    config::{Experiment, open_device},
    data::{DataConfig, Dataset},
    evaluate::{check_threshold, evaluate},
    report::compare,
    run_folder::{Lock, RunFolder, first_free},
    store,
};

pub(super) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let folder = RunFolder::open(&args.run)?;
    let mut experiment = folder.experiment()?;
    check_threshold(args.threshold, experiment.unet.classes).map_err(usage)?;
    let own = experiment.data.clone();
    if let Some(data) = &args.data {
        experiment.data = another(&own, data).map_err(usage)?;
    }
    let is_own = experiment.data == own;
    let device =
        open_device(args.device.as_deref().unwrap_or(&experiment.device)).map_err(usage)?;
    // The run's own summary stays what it was: other questions are answered in folders of their own.
    let is_the_runs = is_own && args.threshold.is_none();
    let _held = is_the_runs.then(|| Lock::take(folder.path())).transpose()?;
    let data = if is_own {
        folder.data_set(&experiment)?
    } else {
        Dataset::of(&experiment)?
    };
    check_fits(&folder, &experiment, &data)?;
    let evaluated = evaluate(&folder, &experiment, &data, args.threshold, &device)?;
    let mut out = folder.path().to_path_buf();
    if !is_the_runs {
        let threshold = args
            .threshold
            .map_or(String::new(), |t| format!("-threshold-{t}"));
        out = first_free(&out.join(format!("eval-{}{threshold}", data.name)));
        store::create_folder(&out)?;
    }
    write_evaluation(&evaluated, &out)?;
    print(&format!(
        "{}\n{}{}\n",
        heading(&evaluated),
        compare::one(&evaluated.report),
        out.display()
    ));
    Ok(())
}

/// Refuses a data set that the network of a run cannot be shown.
pub(super) fn check_fits(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
) -> anyhow::Result<()> {
    if (data.channels, data.classes) != (experiment.unet.in_channels, experiment.unet.classes) {
        anyhow::bail!(
            "{} has {} channels and {} classes, the network of {} takes {} and {}; train one on it",
            experiment.data,
            data.channels,
            data.classes,
            folder.path().display(),
            experiment.unet.in_channels,
            experiment.unet.classes
        );
    }
    Ok(())
}

/// The data set of `--data`. One of the run's own kind is read as the run's own was: classes, masks and all.
pub(super) fn another(own: &DataConfig, text: &str) -> anyhow::Result<DataConfig> {
    let named = text.parse::<DataConfig>()?.absolute()?;
    if named.kind.row().name == own.kind.row().name {
        let path = named.path;
        return Ok(DataConfig {
            path,
            ..own.clone()
        });
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_data_set_of_the_runs_kind_is_read_as_the_runs_own() {
        let own = DataConfig {
            classes: 4,
            channels: Some(1),
            mask_suffix: "_seg".into(),
            ..("folder:/one".parse().unwrap())
        };
        let expected = DataConfig {
            path: "/two".into(),
            ..own.clone()
        };
        assert_eq!(another(&own, "folder:/two").unwrap(), expected);
        assert_eq!(another(&own, "folder:/one").unwrap(), own);
        assert_eq!(
            another(&own, "drive:/d").unwrap(),
            "drive:/d".parse().unwrap()
        );
    }
}
