//! `seg-train eval`: a run's best checkpoint again, at another threshold or on another data set.

use super::{
    EvalArgs, Failure, print,
    train::{heading, open, write_evaluation},
    usage,
};
use crate::{config::open_device, evaluate::evaluate, report::compare, run_folder::RunFolder};

pub(super) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let folder = RunFolder::open(&args.run)?;
    let mut experiment = folder.experiment()?;
    let own = (experiment.data.clone(), args.threshold);
    if let Some(data) = &args.data {
        experiment.data = data.parse().map_err(usage)?;
    }
    let device =
        open_device(args.device.as_deref().unwrap_or(&experiment.device)).map_err(usage)?;
    let data = open(&experiment)?;
    if (data.channels, data.classes) != (experiment.unet.in_channels, experiment.unet.classes) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "{} has {} channels and {} classes, the network of {} takes {} and {}; train one on it",
            experiment.data,
            data.channels,
            data.classes,
            folder.path().display(),
            experiment.unet.in_channels,
            experiment.unet.classes
        )));
    }
    let evaluated = evaluate(&folder, &experiment, &data, args.threshold, &device)?;
    // The run's own summary stays what it was: other questions are answered in folders of their own.
    let mut out = folder.path().to_path_buf();
    if own != (experiment.data.clone(), None) {
        let threshold = args
            .threshold
            .map_or(String::new(), |t| format!("-threshold-{t}"));
        out.push(format!("eval-{}{threshold}", data.name));
        std::fs::create_dir_all(&out).map_err(anyhow::Error::from)?;
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
