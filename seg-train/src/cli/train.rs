//! Training, one loss or several, and going on with what was interrupted.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use dice_losses::LossSpec;
use rayon::prelude::*;
use seg_unet::InstructionSet;
use serde::Serialize;

use super::{Failure, ResumeArgs, TrainArgs, print, usage};
use crate::{
    config::{Experiment, is_cuda},
    data::Dataset,
    evaluate::{Evaluated, evaluate, fit_scaling, load, show},
    report::{compare, curves, examples},
    run_folder::{
        Lock, Record, RunFolder, Runs, first_free, refuse_taken, refuse_taken_by_several,
        tables::{write_reliability, write_rows, write_shift, write_thresholds},
    },
    say::say,
    shift::{self, ShiftLine},
    store,
    study::plan::{adopt, is_same},
    train::{End, train},
};

/// Set by Ctrl-C; the training loop looks at it after every step.
pub(super) static STOP: AtomicBool = AtomicBool::new(false);

/// Ends the step, then the run; a second Ctrl-C ends at once, which costs nothing but the epoch: no file is ever half
/// written.
pub(super) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; once more to stop at once");
    })
    .context("Ctrl-C cannot be listened for")
}

/// Trains what the arguments say.
pub(super) fn run(args: &TrainArgs) -> Result<(), Failure> {
    let layers = args.layers();
    let losses: Vec<Option<&str>> = match &args.loss[..] {
        [] => vec![None],
        named => named.iter().map(|loss| Some(loss.as_str())).collect(),
    };
    let mut experiments = losses
        .iter()
        .map(|loss| layers.resolve(*loss))
        .collect::<Result<Vec<Experiment>>>()
        .map_err(usage)?;
    let names: Vec<String> = losses
        .iter()
        .zip(&experiments)
        .map(|(loss, experiment)| file_name(loss.unwrap_or(&experiment.loss)))
        .collect();
    refuse_twins(&args.loss, &experiments).map_err(usage)?;
    // Before any data is read: a device that is not there is a slip of the command line.
    experiments[0].open_device().map_err(usage)?;
    InstructionSet::get().map_err(usage)?;
    if let Some(out) = &args.out {
        match &names[..] {
            [_] => refuse_taken(out),
            several => refuse_taken_by_several(out, several),
        }
        .map_err(usage)?;
    }

    let data = Dataset::of(&experiments[0])?;
    for experiment in &mut experiments {
        experiment.unet.in_channels = data.channels;
        experiment.unet.classes = data.classes;
        experiment.check_loss().map_err(usage)?;
    }
    let data = data.bind()?;
    decode_test_images(&data)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => first_free(&PathBuf::from("runs").join(default_name(
            &data,
            &names,
            experiments[0].seed,
        ))),
    };
    listen()?;
    if let [experiment] = &experiments[..] {
        let (folder, held) = begin(&out, experiment, &data)?;
        return single(&folder, experiment, &data, &held);
    }
    // All folders first, so that an interrupted comparison can be resumed as a whole.
    for (name, experiment) in names.iter().zip(&experiments) {
        let run = out.join(name);
        // Nothing was trained there, or the folder had been refused.
        store::remove(&run.join("run.toml"))?;
        begin(&run, experiment, &data)?;
    }
    write_json(
        &out.join(Runs::NAME),
        &Runs {
            runs: names.clone(),
        },
    )?;
    several(&out, &names, &data)
}

/// Goes on with a run, or with a comparison of several.
pub(super) fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let out = &args.run;
    let Some(Runs { runs }) = Runs::read(out)? else {
        let (folder, held) = take(out)?;
        let experiment = retold(&folder, args)?;
        let data = reopen(&folder, &experiment)?;
        listen()?;
        return single(&folder, &experiment, &data, &held);
    };
    let first = runs
        .first()
        .with_context(|| format!("{} lists no runs", out.join(Runs::NAME).display()))?;
    for run in &runs {
        let (folder, _held) = take(&out.join(run))?;
        retold(&folder, args)?;
    }
    let folder = RunFolder::open(&out.join(first))?;
    let data = reopen(&folder, &folder.experiment()?)?;
    listen()?;
    several(out, &runs, &data)
}

/// A run's folder and the right to change it.
fn take(path: &Path) -> Result<(RunFolder, Lock)> {
    let folder = RunFolder::open(path)?;
    let held = Lock::take(path)?;
    if let Some(process) = held.left_by() {
        say(&format!(
            "{} was left by {process}, which has ended without a word",
            path.display()
        ));
    }
    Ok((folder, held))
}

/// The experiment of a run, with what is said anew of how it goes on; none of that decides a number it has come to.
fn retold(folder: &RunFolder, args: &ResumeArgs) -> Result<Experiment> {
    let mut experiment = folder.experiment()?;
    let recipe = &mut experiment.recipe;
    recipe.save_every = args.going_on.save_every.unwrap_or(recipe.save_every);
    recipe.on_nan = args.going_on.on_nan.unwrap_or(recipe.on_nan);
    if args.going_on.save_every.is_some() || args.going_on.on_nan.is_some() {
        folder.rewrite_experiment(&experiment)?;
    }
    Ok(experiment)
}

/// Brings a run of a grid to its end from wherever it is: not begun, broken off before its `run.toml` was there or after
/// it, or trained and not evaluated.
pub(super) fn bring_to_end(
    path: &Path,
    experiment: &Experiment,
    held: &Lock,
) -> Result<(), Failure> {
    let (folder, data) = if path.join("run.toml").is_file() {
        let folder = RunFolder::open(path)?;
        if !is_same(&folder.experiment()?, experiment) {
            return Err(Failure::Failed(anyhow::anyhow!(
                "{} holds another experiment than the one that was planned; move it away, and the run is made anew",
                path.display()
            )));
        }
        let data = reopen(&folder, experiment)?;
        (folder, data)
    } else {
        let data = Dataset::of(experiment)?.bind()?;
        decode_test_images(&data)?;
        (begin_holding(path, experiment, &data, held)?, data)
    };
    train_and_evaluate(&folder, experiment, &data, path, path.parent(), held)?;
    Ok(())
}

/// A new run folder with all that is known before the first epoch.
fn begin(
    path: &Path,
    experiment: &Experiment,
    data: &Dataset,
) -> Result<(RunFolder, Lock), Failure> {
    refuse_taken(path).map_err(usage)?;
    let held = Lock::take(path)?;
    // Another process may have begun and ended here meanwhile.
    refuse_taken(path).map_err(usage)?;
    let folder = begin_holding(path, experiment, data, &held)?;
    Ok((folder, held))
}

pub(super) fn begin_holding(
    path: &Path,
    experiment: &Experiment,
    data: &Dataset,
    held: &Lock,
) -> Result<RunFolder> {
    let folder = RunFolder::create(path, held)?;
    folder.write_data_set(data)?;
    // Last: with it the folder is a run's.
    folder.write_experiment(experiment)?;
    Ok(folder)
}

/// The data set of a run that began earlier, divided as it was then.
fn reopen(folder: &RunFolder, experiment: &Experiment) -> Result<Dataset> {
    if is_cuda(&experiment.device) {
        if let Some(warning) = other_gpu(folder, experiment)? {
            say(&warning);
        }
    } else if let Some(warning) = other_instructions(folder, &InstructionSet::get()?.to_string())? {
        say(&warning);
    }
    let data = folder.data_set(experiment)?;
    decode_test_images(&data)?;
    Ok(data)
}

/// What is to be said of a run that began with another instruction set than the one it goes on with.
fn other_instructions(folder: &RunFolder, here: &str) -> Result<Option<String>> {
    Ok(folder
        .instruction_set()?
        .filter(|began| began != here)
        .map(|began| {
            format!(
                "warning: {} began with the instruction set {began} and goes on with {here}; its numbers will differ in \
                 the last digits from those of a run on one machine (SEG_UNET_SIMD={began} keeps them, where the \
                 processor has it)",
                folder.path().display()
            )
        }))
}

/// What is to be said of a run that began on another GPU than the one it goes on with.
fn other_gpu(folder: &RunFolder, experiment: &Experiment) -> Result<Option<String>> {
    let here = Record::of(experiment)?.gpu.map(|gpu| gpu.gpu);
    Ok(folder
        .gpu()?
        .zip(here)
        .filter(|(began, here)| began != here)
        .map(|(began, here)| {
            format!(
                "warning: {} began on {began} and goes on on {here}; its numbers will differ in the last digits from those \
                 of a run on one GPU",
                folder.path().display()
            )
        }))
}

/// Decodes every test image and forgets it: nothing else looks at them before the last epoch, and a damaged one would be
/// found after days of training. The error is the first in their order, whatever thread met it.
pub(super) fn decode_test_images(data: &Dataset) -> Result<()> {
    let decoded: Vec<Result<()>> = data
        .split
        .test
        .par_iter()
        .map(|&i| data.load(i).map(drop))
        .collect();
    decoded.into_iter().collect()
}

pub(super) fn single(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    held: &Lock,
) -> Result<(), Failure> {
    let evaluated = train_and_evaluate(folder, experiment, data, folder.path(), None, held)?;
    print(&format!(
        "\n{}\n{}{}\n",
        heading(&evaluated),
        compare::one(&evaluated.report),
        folder.path().display()
    ));
    Ok(())
}

fn several(out: &Path, names: &[String], data: &Dataset) -> Result<(), Failure> {
    let mut runs = Vec::new();
    for name in names {
        let (folder, held) = take(&out.join(name))?;
        let experiment = folder.experiment()?;
        eprintln!("{}", experiment.loss);
        let evaluated = train_and_evaluate(&folder, &experiment, data, out, None, &held)?;
        print(&format!(
            "\n{}\n{}{}\n",
            heading(&evaluated),
            compare::one(&evaluated.report),
            folder.path().display()
        ));
        runs.push((name.clone(), evaluated));
    }
    let comparison = compare::Comparison::of(&runs)?;
    write_json(&out.join("comparison.json"), &comparison)?;
    store::write(&out.join("comparison.md"), comparison.markdown().as_bytes())?;
    picture_comparison(out, &runs, data)?;
    print(&format!("\n{}{}\n", comparison.text(), out.display()));
    Ok(())
}

/// Writes `comparison.png`: every network on the images that the first run shows.
fn picture_comparison(out: &Path, runs: &[(String, Evaluated)], data: &Dataset) -> Result<()> {
    let Some((_, first)) = runs.first() else {
        return Ok(());
    };
    let mut columns = Vec::new();
    for (name, _) in runs {
        let folder = RunFolder::open(&out.join(name))?;
        let experiment = folder.experiment()?;
        let device = experiment.open_device()?;
        let net = load(&folder, &experiment, &device)?;
        columns.push((
            name.clone(),
            show(&net, &experiment, data, &first.shown, None)?,
        ));
    }
    let title = format!("Predicted probabilities on {}", data.name);
    examples::save_comparison(&columns, &title, &out.join("comparison.png"))
}

/// Trains to the end, then writes everything a finished run has. `whole` is the folder to resume, `beside` that of the
/// runs of a grid, which may hold the same training; the lock is asked for because nobody may do this without it.
fn train_and_evaluate(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    whole: &Path,
    beside: Option<&Path>,
    _held: &Lock,
) -> Result<Evaluated, Failure> {
    train_parts(folder, experiment, data, whole, beside)?;
    adopt(folder, experiment, beside)?;
    let end = train(experiment, data, folder, &STOP);
    let drawn = draw_curves(folder, experiment, data);
    if let End::Stopped(position) = end? {
        return Err(stopped(&position, whole));
    }
    let evaluated = drawn
        .and_then(|()| {
            let device = experiment.open_device()?;
            fit_scaling(folder, experiment, data, &device)?;
            if experiment.metrics.shift {
                let net = load(folder, experiment, &device)?;
                write_shift(
                    &shift::measure(&net, experiment, data)?,
                    &folder.file(ShiftLine::NAME),
                )?;
            }
            evaluate(folder, experiment, data, None, &device)
        })
        .and_then(|evaluated| {
            write_evaluation(&evaluated, folder.path())?;
            Ok(evaluated)
        });
    Ok(evaluated.map_err(|error| {
        anyhow::anyhow!(
            "{error:#}; the training is done and saved: when that is mended, go on with: seg-train resume {}",
            whole.display()
        )
    })?)
}

/// Trains what the run's own training needs beside or before it, each in a folder of its own within the run's. One that
/// was broken off goes on.
fn train_parts(
    folder: &RunFolder,
    experiment: &Experiment,
    data: &Dataset,
    whole: &Path,
    beside: Option<&Path>,
) -> Result<(), Failure> {
    for (name, part) in experiment.parts() {
        let path = folder.file(&name);
        let held = Lock::take(&path)?;
        let inner = if path.join("run.toml").is_file() {
            RunFolder::open(&path)?
        } else {
            begin_holding(&path, &part, data, &held)?
        };
        train_parts(&inner, &part, data, whole, beside)?;
        adopt(&inner, &part, beside)?;
        say(&format!("{}: {}", path.display(), part.method()?));
        if let End::Stopped(position) = train(&part, data, &inner, &STOP)? {
            return Err(stopped(&format!("{position} of {name}"), whole));
        }
    }
    Ok(())
}

/// How a run ends that was asked to stop.
fn stopped(position: &str, whole: &Path) -> Failure {
    Failure::Stopped(format!(
        "stopped after {position}; go on with: seg-train resume {}",
        whole.display()
    ))
}

fn draw_curves(folder: &RunFolder, experiment: &Experiment, data: &Dataset) -> Result<()> {
    let log = folder.log()?;
    if log.is_empty() {
        return Ok(());
    }
    let title = title(&experiment.loss, &data.name)?;
    curves::save(&log, &title, &folder.file("curves.png"))
}

/// Writes `metrics.csv`, with two classes `thresholds.csv` and `reliability.csv`, then `examples.png` and `summary.json`.
pub(super) fn write_evaluation(evaluated: &Evaluated, folder: &Path) -> Result<()> {
    write_rows(&evaluated.rows, &folder.join("metrics.csv"))?;
    if !evaluated.thresholds.is_empty() {
        write_thresholds(&evaluated.thresholds, &folder.join("thresholds.csv"))?;
        write_reliability(&evaluated.reliability, &folder.join("reliability.csv"))?;
    }
    let title = title(
        &evaluated.report.loss,
        evaluated.report.data.split(':').next().unwrap_or_default(),
    )?;
    examples::save(&evaluated.examples, &title, &folder.join("examples.png"))?;
    // The last file of all: who finds it takes the run for done and everything else for written.
    write_json(&folder.join("summary.json"), &evaluated.report)
}

/// The title of a picture: the loss by its name and γ, since all its parameters would not fit.
fn title(loss: &str, data: &str) -> Result<String> {
    let spec: LossSpec = loss.parse()?;
    let gamma = spec
        .gamma()
        .map_or(String::new(), |gamma| format!(", γ = {gamma}"));
    Ok(format!("{}{gamma} on {data}", spec.name()))
}

/// What the numbers below it are of.
pub(super) fn heading(evaluated: &Evaluated) -> String {
    let report = &evaluated.report;
    let decision = report
        .threshold
        .map_or_else(|| "the most probable class".into(), |t| format!("p ≥ {t}"));
    format!(
        "{}\n{}, {} test images; weights of epoch {} of {}; foreground is {decision}\n",
        report.loss,
        from_here(&report.data),
        evaluated.rows.len(),
        report.best_epoch,
        report.epochs
    )
}

/// A data set with its path as one would write it here: below the working directory, from there.
fn from_here(data: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match data.split_once(':') {
        Some((kind, path)) => {
            let path = Path::new(path);
            format!(
                "{kind}:{}",
                path.strip_prefix(here).unwrap_or(path).display()
            )
        }
        None => data.into(),
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    store::write(path, text.as_bytes())
}

/// Refuses one loss under two names; `experiments` hold the losses in full.
fn refuse_twins(losses: &[String], experiments: &[Experiment]) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, experiment) in losses.iter().zip(experiments) {
        match seen.insert(&experiment.loss, name) {
            None => {}
            Some(other) if other == name => {
                bail!("--loss {name} is named twice; a loss is compared with other losses")
            }
            Some(other) => bail!(
                "--loss {other} and --loss {name} are the same, {}; a loss is compared with other losses",
                experiment.loss
            ),
        }
    }
    Ok(())
}

/// A specification as the name of a folder on any system: `tversky++:alpha=0.3` is `tversky++-alpha=0.3`.
fn file_name(loss: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-=._".contains(c);
    loss.trim()
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect()
}

fn default_name(data: &Dataset, losses: &[String], seed: u64) -> String {
    let losses = match losses {
        [loss] => loss.clone(),
        several => format!("{}-losses", several.len()),
    };
    format!("{}-{losses}-{seed}", data.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_becomes_a_folder_name() {
        assert_eq!(
            file_name("tversky++:gamma=2,alpha=0.3"),
            "tversky++-gamma=2-alpha=0.3"
        );
    }

    fn twins(losses: &[&str]) -> String {
        let losses: Vec<String> = losses.iter().map(ToString::to_string).collect();
        let layers = TrainArgs::default().layers();
        let experiments: Vec<Experiment> = losses
            .iter()
            .map(|loss| layers.resolve(Some(loss)).unwrap())
            .collect();
        refuse_twins(&losses, &experiments).unwrap_err().to_string()
    }

    #[test]
    fn a_loss_named_twice_is_refused() {
        assert_eq!(
            twins(&["ce", "dice", "ce"]),
            "--loss ce is named twice; a loss is compared with other losses"
        );
    }

    #[test]
    fn one_loss_under_two_names_is_refused() {
        let error = twins(&["dice", "dsc"]);
        assert!(
            error.starts_with("--loss dice and --loss dsc are the same, dice:")
                && error.ends_with("; a loss is compared with other losses"),
            "{error}"
        );
    }

    #[test]
    fn a_run_that_began_with_other_instructions_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let folder = crate::run_folder::testing::folder(dir.path());
        let layers = TrainArgs::default().layers();
        let experiment = layers.resolve(Some("dice")).unwrap();
        folder.write_experiment(&experiment).unwrap();
        let here = InstructionSet::get().unwrap().to_string();
        assert_eq!(folder.instruction_set().unwrap(), Some(here.clone()));
        assert_eq!(other_instructions(&folder, &here).unwrap(), None);
        assert_eq!(
            other_instructions(&folder, "other").unwrap().unwrap(),
            format!(
                "warning: {} began with the instruction set {here} and goes on with other; its numbers will differ in the last digits from those of a run on one machine (SEG_UNET_SIMD={here} keeps them, where the processor has it)",
                dir.path().display()
            )
        );
        // A run.toml that does not say is none to warn of.
        folder
            .write("run.toml", experiment.to_toml().unwrap().as_bytes())
            .unwrap();
        assert_eq!(other_instructions(&folder, "other").unwrap(), None);
    }

    #[test]
    fn a_loss_for_other_classes_is_refused_before_anything_is_trained() {
        let layers = TrainArgs::default().layers();
        let mut experiment = layers.resolve(Some("dice:classes=3")).unwrap();
        let error = format!("{:#}", experiment.check_loss().unwrap_err());
        assert!(
            error.starts_with("--loss dice:")
                && error.contains(" does not fit the 2 classes of phantom: "),
            "{error}"
        );
        experiment.unet.classes = 4;
        experiment.check_loss().unwrap();
    }

    #[test]
    fn the_first_damaged_test_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["images", "masks"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            for i in 0..12 {
                let image =
                    image::GrayImage::from_fn(16, 16, |x, y| image::Luma([(x * y + i) as u8]));
                image
                    .save(dir.path().join(format!("{folder}/{i}.png")))
                    .unwrap();
            }
        }
        let config = format!("folder:{}", dir.path().display()).parse().unwrap();
        let data = Dataset::open(&config, 0).unwrap();
        decode_test_images(&data).unwrap();
        for &i in &data.split.test {
            let path = dir.path().join(format!("images/{}.png", data.id(i)));
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        }
        let error = format!("{:#}", decode_test_images(&data).unwrap_err());
        let first = format!("images/{}.png", data.id(data.split.test[0]));
        assert!(error.contains(&first), "{error}");
    }
}
