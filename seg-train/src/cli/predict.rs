//! `seg-train predict`: masks and maps for images without labels.

use super::{Failure, PredictArgs, print, usage};
use crate::{
    config::open_device,
    data::Links,
    evaluate::{check_threshold, load},
    predict::{inputs, make_folder, refuse_overwriting, segment},
    run_folder::RunFolder,
    threshold::ChosenThreshold,
};

pub(super) fn run(args: &PredictArgs) -> Result<(), Failure> {
    let folder = RunFolder::open(&args.run)?;
    let mut experiment = folder.experiment()?;
    if let Some(max_pixels) = args.max_pixels {
        experiment.data.max_pixels = max_pixels;
        experiment.data.check().map_err(usage)?;
    }
    let classes = experiment.unet.classes;
    check_threshold(args.threshold, classes).map_err(usage)?;
    let device =
        open_device(args.device.as_deref().unwrap_or(&experiment.device)).map_err(usage)?;
    let (threshold, why) = decide(&folder, args.threshold, classes)?;
    let net = load(&folder, &experiment, &device)?;
    let links = if experiment.data.follow_links {
        Links::Anywhere
    } else {
        Links::Inside
    };
    let files = inputs(&args.inputs, &links)?;
    refuse_overwriting(&files, &args.out, classes).map_err(usage)?;
    make_folder(&args.out)?;
    print(&format!("foreground is {why}\n"));
    let mut failed = 0;
    for file in &files {
        match segment(&net, &experiment, file, &args.out, threshold) {
            Ok(found) => print(&format!(
                "{}  {}x{}  {:.2} % foreground\n",
                file.display(),
                found.size[0],
                found.size[1],
                100.0 * found.share
            )),
            Err(error) if files.len() == 1 => return Err(error.into()),
            // The rest of a folder is worth having: the exit code tells that one was bad.
            Err(error) => {
                failed += 1;
                eprintln!("error: {}", super::one_line(&format!("{error:#}")));
            }
        }
    }
    print(&format!("{}\n", args.out.display()));
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(anyhow::anyhow!(
            "{failed} of {} images could not be segmented",
            files.len()
        ))),
    }
}

/// The threshold, and what it is and where it comes from, in words.
fn decide(
    folder: &RunFolder,
    given: Option<f64>,
    classes: usize,
) -> anyhow::Result<(Option<f64>, String)> {
    if classes > 2 {
        return Ok((
            None,
            "every class but 0; a pixel has the most probable".into(),
        ));
    }
    if let Some(t) = given {
        return Ok((given, format!("p ≥ {t}, by --threshold")));
    }
    Ok(match ChosenThreshold::read(folder)? {
        Some(chosen) => (
            Some(chosen.threshold),
            format!(
                "p ≥ {}, by {}: chosen for {} on the validation set",
                chosen.threshold,
                folder.file(ChosenThreshold::NAME).display(),
                chosen.target
            ),
        ),
        None => (
            Some(0.5),
            "p ≥ 0.5, since the run has no threshold.toml and --threshold is not given".into(),
        ),
    })
}
