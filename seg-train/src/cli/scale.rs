//! `seg-train scale`: a trained run with its logits scaled, as a run of its own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{
    Failure, print,
    train::{begin_holding, listen, single},
    usage,
};
use crate::{
    config::Experiment,
    data::Dataset,
    inference::{Scaling, scaling::Fitted},
    run_folder::{Lock, RunFolder, first_free, refuse_taken},
    state::{Best, STATE},
    study::queue::DONE,
};

#[derive(Args, Debug)]
pub(super) struct ScaleArgs {
    /// Folder of the run
    run: PathBuf,
    /// What is fitted on the validation set
    #[arg(long, value_name = "METHOD", default_value = "temperature")]
    method: Scaling,
    /// Folder of the new run: new or empty [default: RUN-METHOD]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ScaleArgs) -> Result<(), Failure> {
    let folder = RunFolder::open(&args.run)?;
    let shown = folder.path().display();
    let mut experiment = folder.experiment()?;
    let word = match args.method {
        Scaling::None => {
            return Err(usage(
                "--method none scales nothing; name temperature or vector",
            ));
        }
        Scaling::Temperature => "temperature",
        Scaling::Vector => "vector",
    };
    if experiment.inference.scaling != Scaling::None {
        return Err(usage(format!(
            "{shown} is scaled already ({}); name the run that it was made from",
            experiment.method()?
        )));
    }
    if !folder.file(DONE).is_file() {
        return Err(usage(format!(
            "{shown} is not done: it has no {DONE}; bring it to its end first: seg-train resume {shown}"
        )));
    }
    experiment.inference.scaling = args.method;
    let out = args.out.clone().unwrap_or_else(|| {
        let mut name = folder.path().as_os_str().to_owned();
        name.push(format!("-{word}"));
        first_free(Path::new(&name))
    });
    refuse_taken(&out).map_err(usage)?;
    let data = folder.data_set(&experiment)?;
    let held = Lock::take(&out)?;
    let scaled = begin_holding(&out, &experiment, &data, &held)?;
    copy(&folder, &scaled, &experiment, &data)?;
    listen()?;
    single(&scaled, &experiment, &data, &held)?;
    let fitted = Fitted::read(&scaled, args.method, experiment.unet.classes)?;
    let temperature = match args.method {
        Scaling::Temperature => format!("T = {:.4}, ", 1.0 / fitted.scale.a[0]),
        _ => String::new(),
    };
    print(&format!(
        "{temperature}fitted on {} validation images: their NLL was {:.5} and is {:.5}\n",
        fitted.images, fitted.nll_before, fitted.nll_after
    ));
    Ok(())
}

/// Copies what was trained, the trainings that it was made of included.
fn copy(
    from: &RunFolder,
    to: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
) -> anyhow::Result<()> {
    for (name, part) in experiment.parts() {
        let path = to.file(&name);
        let held = Lock::take(&path)?;
        let part_to = begin_holding(&path, &part, data, &held)?;
        copy(&RunFolder::open(&from.file(&name))?, &part_to, &part, data)?;
    }
    // The state last, as training writes it.
    for file in [Best::NAME, "log.jsonl", STATE] {
        let path = from.file(file);
        let bytes =
            std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        to.write(file, &bytes)?;
    }
    Ok(())
}
