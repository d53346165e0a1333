//! `seg-train predict`: masks and maps for images without labels.

use super::{Failure, PredictArgs, print, usage};
use crate::{
    config::open_device,
    evaluate::{check_threshold, load},
    predict::{inputs, make_folder, refuse_overwriting, segment},
    run_folder::RunFolder,
};

pub(super) fn run(args: &PredictArgs) -> Result<(), Failure> {
    let folder = RunFolder::open(&args.run)?;
    let experiment = folder.experiment()?;
    let classes = experiment.unet.classes;
    check_threshold(args.threshold, classes).map_err(usage)?;
    let device =
        open_device(args.device.as_deref().unwrap_or(&experiment.device)).map_err(usage)?;
    let unet = load(&folder, &experiment, &device)?;
    let files = inputs(&args.inputs)?;
    refuse_overwriting(&files, &args.out, classes).map_err(usage)?;
    make_folder(&args.out)?;
    let mut failed = 0;
    for file in &files {
        match segment(&unet, &experiment, &device, file, &args.out, args.threshold) {
            Ok(found) => print(&format!(
                "{}  {}x{}  {:.2} % foreground\n",
                file.display(),
                found.size[0],
                found.size[1],
                100.0 * found.share
            )),
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
