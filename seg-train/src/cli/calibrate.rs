//! `seg-train calibrate`: whether a run's probabilities may be believed, as a page.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{Failure, asked::Asked, print, train::write_json, usage};
use crate::{
    evaluate::{Evaluated, evaluate_each, load, show},
    metrics::CalibrationSummary,
    report::{
        calibration::{page::Calibrated, sureness::Sureness, worst::worst},
        table::align_left,
    },
    run_folder::{Parts, RunFolder, first_free, refuse_taken},
    store,
};

#[derive(Args, Debug)]
pub(super) struct CalibrateArgs {
    /// Folder of the run
    run: PathBuf,
    /// Another data set, whose test set is used; of the run's own kind, it is read as the run's own was
    #[arg(long, value_name = "KIND:PATH")]
    data: Option<String>,
    /// Folder to write to: new or empty [default: RUN/calibration, or the first free one after it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, cuda or cuda:N [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

pub(super) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    if let Some(out) = &args.out {
        refuse_taken(out).map_err(usage)?;
    }
    let Asked {
        folder,
        experiment,
        data,
        device,
    } = &Asked::of(&args.run, args.data.as_deref(), args.device.as_deref())?;
    let mut sureness = Vec::new();
    let evaluated = evaluate_each(folder, experiment, data, None, device, |seen, p| {
        sureness.extend(Sureness::of(&seen.id, p, data.classes, &seen.labels.data)?);
        Ok(())
    })?;
    let net = load(folder, experiment, device)?;
    let places: Vec<usize> = worst(&evaluated.rows)
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    let examples = show(&net, experiment, data, &places, None)?;
    let calibrated = Calibrated {
        run: args.run.display().to_string(),
        // Another data set's validation images are not those that the run may be scaled on.
        validation: Parts::read(folder)?.val.len(),
        experiment: experiment.clone(),
        summary: summary_of(&evaluated, folder)?,
        evaluated,
        sureness,
        examples,
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => first_free(&folder.path().join("calibration")),
    };
    store::create_folder(&out)?;
    let record = calibrated.record();
    write_json(&out.join("calibration.json"), &record)?;
    let write = |name: &str, text: String| store::write(&out.join(name), text.as_bytes());
    write("images.csv", calibrated.images_csv()?)?;
    write("reliability.csv", calibrated.reliability_csv()?)?;
    // Last: with it the page is whole.
    write("index.html", calibrated.page().html())?;
    let rows: Vec<Vec<String>> = record
        .findings
        .iter()
        .map(|finding| vec![finding.claim.clone(), finding.sentence.clone()])
        .collect();
    print(&format!(
        "{}\n{}\n",
        align_left(&rows),
        out.join("index.html").display()
    ));
    Ok(())
}

/// The calibration of an evaluation.
pub(super) fn summary_of(
    evaluated: &Evaluated,
    folder: &RunFolder,
) -> anyhow::Result<CalibrationSummary> {
    evaluated
        .report
        .summary
        .calibration
        .clone()
        .with_context(|| {
            format!(
                "the test set of {} has no image; give another one with --data",
                folder.path().display()
            )
        })
}
