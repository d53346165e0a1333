//! `seg-train reproduce`, `sweep` and `collect`: grids of experiments.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use seg_unet::Precision;

use super::{
    Failure, print,
    train::{STOP, listen},
    usage, whole,
};
use crate::{
    config::Preset,
    data::{DataConfig, Dataset},
    open,
    report::table::align_left,
    run_folder::{Parts, RunFolder},
    study::{
        BEYOND, Grid, Plan, Sources, Wishes, beyond,
        devices::{Devices, count},
        estimate, grids,
        plan::{NamedGrids, run_folder},
        queue::{self, Lanes, duration, is_done},
        refuse_axes, report,
        slurm::{self, Scripts, Wants},
    },
};

/// What `reproduce` is told.
#[derive(Args, Debug)]
pub(super) struct ReproduceArgs {
    /// table3, table4, table5, figure1, figure2, figure3, figure4, or all of them
    what: String,
    /// Every table and figure small, on the built-in data set: minutes on two cores
    #[arg(long, conflicts_with_all = ["preset", "data_root", "data"])]
    quick: bool,
    #[command(flatten)]
    grid: GridArgs,
}

/// What `sweep` is told.
#[derive(Args, Debug)]
pub(super) struct SweepArgs {
    /// The grid, in TOML: title, data, losses, seeds, set, settings; the files of seg-train/configs show all of it. Or one of
    /// those built in: calibration, methods, shift, classes, nuclei, volumes, rare, gradients
    #[arg(value_name = "GRID")]
    file: PathBuf,
    #[command(flatten)]
    grid: GridArgs,
}

/// What `collect` is told.
#[derive(Args, Debug)]
pub(super) struct CollectArgs {
    /// Folder of the grid
    out: PathBuf,
}

/// What any grid can be told.
#[derive(Args, Debug)]
struct GridArgs {
    /// Where every experiment starts from: paper (as written), authors (their code's settings), cpu (reduced: 128x128, 16
    /// channels, fixed epochs) or phantom (small, for the built-in data set) [default: paper, or the grid's own]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Folder that holds data sets in folders named after them
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// One data set; may be repeated, and comes before --data-root
    #[arg(long, value_name = "KIND:PATH")]
    data: Vec<String>,
    /// Seed in the place of the grid's; may be repeated
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true)]
    seed: Vec<u64>,
    /// cpu, cuda or cuda:N; several GPUs, such as cuda:0,cuda:1, or cuda:all, share the runs
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Numbers that a GPU computes the networks in: f32, tf32 or bf16 [default: f32]
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// One key of every experiment, such as recipe.epochs=30; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder to write to; runs that are done there are not run again [default: runs/reproduce-PRESET or runs/FILE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs side by side, which share the cores; on each GPU, where there are any; with --slurm, in each task [default: 1 on
    /// the CPU and with --slurm, 4 on a GPU]
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    jobs: Option<usize>,
    /// List the runs with an estimate of their time, and run nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    slurm: SlurmArgs,
}

/// How a cluster is asked.
#[derive(Args, Debug)]
struct SlurmArgs {
    /// Submit the runs as one Slurm job array, and a job after it that makes the report; OUT must be on a shared folder
    #[arg(long)]
    slurm: bool,
    /// Print the scripts of --slurm, and submit nothing
    #[arg(long)]
    slurm_script_only: bool,
    /// Partition of the jobs
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// What a run needs besides cores, such as gpu:1
    #[arg(long, value_name = "GRES")]
    gres: Option<String>,
    /// Longest time of one run, as sbatch takes it
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Runs at a time, at most
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    array_limit: Option<usize>,
    /// Cores of one run
    #[arg(long, value_name = "N", value_parser = whole::<usize>, allow_negative_numbers = true)]
    cpus: Option<usize>,
    /// Any other option of sbatch, such as --sbatch=--account=lab; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
}

/// Remakes tables and figures of the paper.
pub(super) fn reproduce(args: &ReproduceArgs) -> Result<(), Failure> {
    let named = grids(&args.what).map_err(usage)?;
    let scale = match (args.quick, &args.grid.preset) {
        (true, _) => "quick".into(),
        (false, preset) => preset.clone().unwrap_or_else(|| "paper".into()),
    };
    let preset = if args.quick { "phantom" } else { &scale };
    let out = PathBuf::from("runs").join(format!("reproduce-{scale}"));
    let mut words = vec!["seg-train", "reproduce", &args.what];
    if args.quick {
        words.push("--quick");
    }
    let wishes = Wishes {
        what: args.what.clone(),
        command: command(&words, &args.grid),
        scale: Some(scale.clone()),
        preset: Some(preset.into()),
        ..Wishes::default()
    };
    study(named, wishes, &args.grid, out)
}

/// Runs a user's grid.
pub(super) fn sweep(args: &SweepArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let text = match args.file.to_str().and_then(beyond) {
        Some(text) if !args.file.is_file() => text.to_owned(),
        _ => open::text(&args.file).map_err(|error| {
            usage(format!(
                "the grid {shown} cannot be read: {error}; besides files there are {}",
                BEYOND.map(|(name, ..)| name).join(", ")
            ))
        })?,
    };
    let grid = Grid::parse(&text).map_err(|error| usage(error.context(shown.to_string())))?;
    let name = args
        .file
        .file_stem()
        .map_or("grid".into(), |stem| stem.to_string_lossy().into_owned());
    let out = PathBuf::from("runs").join(&name);
    let wishes = Wishes {
        what: name.clone(),
        command: command(
            &["seg-train", "sweep", &slurm::quoted(&shown.to_string())],
            &args.grid,
        ),
        scale: args.grid.preset.clone(),
        preset: args.grid.preset.clone(),
        ..Wishes::default()
    };
    study(vec![(name, grid)], wishes, &args.grid, out)
}

fn study(
    named: NamedGrids,
    wishes: Wishes,
    args: &GridArgs,
    default_out: PathBuf,
) -> Result<(), Failure> {
    if args.jobs == Some(0) || args.slurm.array_limit == Some(0) || args.slurm.cpus == Some(0) {
        return Err(usage("--jobs, --array-limit and --cpus are counted from 1"));
    }
    if let Some(preset) = &wishes.preset {
        preset.parse::<Preset>().map_err(usage)?;
    }
    refuse_axes("--set", &args.set).map_err(usage)?;
    let mut seeds = args.seed.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if seeds.len() < args.seed.len() {
        return Err(usage("--seed names one seed twice; name each once"));
    }
    for data in &args.data {
        let kind = data.parse::<DataConfig>().map_err(usage)?.kind.to_string();
        if !named.iter().any(|(_, grid)| grid.data.contains(&kind)) {
            return Err(usage(format!(
                "--data {data}: the grid has no data set {kind}"
            )));
        }
    }
    let devices = Devices::of(args.device.as_deref()).map_err(usage)?;
    let for_slurm = args.slurm.slurm || args.slurm.slurm_script_only;
    if for_slurm {
        devices.refuse_numbers().map_err(usage)?;
    }
    let wishes = Wishes {
        sources: Sources {
            root: args.data_root.clone(),
            named: args.data.clone(),
        },
        device: devices.in_experiment(),
        precision: args.precision,
        set: args.set.clone(),
        seeds: args.seed.clone(),
        ..wishes
    };
    let plan = Plan::of(named, &wishes).map_err(usage)?;
    let out = std::path::absolute(args.out.clone().unwrap_or(default_out))
        .map_err(|error| usage(format!("the folder of --out has no absolute path: {error}")))?;
    if args.dry_run {
        return dry_run(&plan, &out);
    }
    if args.slurm.slurm_script_only {
        return print_scripts(&plan, &out, args);
    }
    refuse_foreign(&out).map_err(usage)?;
    refuse_changed(&plan, &out)?;
    tell_missing(&plan);
    if plan.runs.is_empty() {
        return Err(usage(
            "none of the data sets is there, so there is nothing to run; name some with --data-root or --data, or see the whole report with --quick",
        ));
    }
    plan.write(&out)?;
    if args.slurm.slurm {
        return submit(&plan, &out, args);
    }
    let lanes = lanes(&plan, &out, &devices, args)?;
    listen()?;
    let outcome = queue::make_all(&out, &plan, &lanes, &STOP)?;
    if outcome.stopped {
        return Err(Failure::Stopped(
            "stopped; the same command once more goes on".into(),
        ));
    }
    gather(&out, &plan)
}

/// Runs side by side on a GPU where nothing else is said: with a batch of one image a training leaves most of it idle.
const JOBS_ON_A_GPU: usize = 4;

/// The GPUs that runs are made on, and how many at a time on each. GPUs that are not there are found before a run begins.
fn lanes(plan: &Plan, out: &Path, devices: &Devices, args: &GridArgs) -> Result<Lanes, Failure> {
    if !queue::is_on_gpus(plan) {
        return Ok(Lanes {
            gpus: vec![None],
            jobs: args.jobs.unwrap_or(1),
        });
    }
    let shown = args.device.as_deref().unwrap_or("cuda");
    let is_left = plan.runs.iter().any(|run| !is_done(out, &run.name));
    if is_left {
        count(shown).map_err(usage)?;
    }
    Ok(Lanes {
        gpus: if is_left {
            devices.lanes(|| count(shown)).map_err(usage)?
        } else {
            vec![None]
        },
        jobs: args.jobs.unwrap_or(JOBS_ON_A_GPU),
    })
}

/// Makes the report of a grid from what is there.
pub(super) fn collect(args: &CollectArgs) -> Result<(), Failure> {
    let out = std::path::absolute(&args.out).map_err(anyhow::Error::from)?;
    let plan = Plan::read(&out)?;
    gather(&out, &plan)
}

/// Writes the report and says what it holds; runs that are not done make it a failure.
fn gather(out: &Path, plan: &Plan) -> Result<(), Failure> {
    let summary = report::write(out, plan)?;
    print(&summary.text);
    print(&format!("{}\n", summary.page.display()));
    match summary.undone {
        0 => Ok(()),
        undone => Err(Failure::Failed(anyhow::anyhow!(
            "{undone} of {} runs are not done; the report says which and why, and the same command runs them again",
            plan.runs.len()
        ))),
    }
}

/// The command as far as it decides numbers: how many runs at a time, on which machines and into which folder does not.
fn command(first: &[&str], args: &GridArgs) -> Vec<String> {
    let mut words: Vec<String> = first.iter().map(ToString::to_string).collect();
    let mut say = |option: &str, values: &[String]| {
        for value in values {
            words.extend([option.into(), slurm::quoted(value)]);
        }
    };
    let shown = |path: &PathBuf| path.display().to_string();
    // As a shell takes them.
    let seeds: Vec<String> = args.seed.iter().map(ToString::to_string).collect();
    say("--preset", args.preset.as_slice());
    say("--data-root", args.data_root.as_ref().map(shown).as_slice());
    say("--data", &args.data);
    say("--seed", &seeds);
    let precision: Option<String> = args.precision.map(|precision| precision.to_string());
    say("--device", args.device.as_slice());
    say("--precision", precision.as_slice());
    say("--set", &args.set);
    words
}

/// Refuses results of runs on a data set that has other images today, or the same in other parts of the split.
fn refuse_changed(plan: &Plan, out: &Path) -> anyhow::Result<()> {
    let mut today: BTreeMap<(String, u64), Parts> = BTreeMap::new();
    for run in plan.runs.iter().filter(|run| is_done(out, &run.name)) {
        let data = &run.experiment.data;
        let key = (toml::to_string(data)?, run.experiment.seed);
        if !today.contains_key(&key) {
            let parts = Parts::of(&Dataset::open(data, run.experiment.seed)?);
            today.insert(key.clone(), parts);
        }
        let folder = RunFolder::open(&run_folder(out, &run.name))?;
        Parts::read(&folder)?
            .refuse_other(&today[&key], &data.to_string())
            .with_context(|| folder.path().display().to_string())?;
    }
    Ok(())
}

/// Refuses a folder that holds something else than a grid.
fn refuse_foreign(out: &Path) -> anyhow::Result<()> {
    let of_a_grid = |name: &OsStr| {
        let known = ["plan.json", "plan.json.part", "runs", "report", "slurm"];
        known.iter().any(|known| name == *known)
    };
    let holds_else = std::fs::read_dir(out).is_ok_and(|entries| {
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| !of_a_grid(&name))
    });
    if holds_else && !out.join("plan.json").is_file() {
        anyhow::bail!(
            "{} holds something else than a grid of experiments; name another folder with --out",
            out.display()
        );
    }
    Ok(())
}

fn tell_missing(plan: &Plan) {
    for missing in &plan.missing {
        eprintln!(
            "not run: {} ({}; from {}; terms: {})",
            missing.data, missing.why, missing.source, missing.terms
        );
    }
}

/// Lists the runs with an estimate of their time.
fn dry_run(plan: &Plan, out: &Path) -> Result<(), Failure> {
    let seconds = estimate::seconds(&plan.runs)?;
    let mut rows = vec![
        ["run", "train/val/test", "epochs", "about", ""]
            .map(String::from)
            .to_vec(),
    ];
    let mut left = 0.0;
    for (run, seconds) in plan.runs.iter().zip(&seconds) {
        let done = is_done(out, &run.name);
        if !done {
            left += seconds;
        }
        rows.push(vec![
            run.name.clone(),
            run.images.map(|n| n.to_string()).join("/"),
            run.experiment.recipe.epochs.to_string(),
            duration(*seconds),
            if done { "done" } else { "" }.into(),
        ]);
    }
    print(&align_left(&rows));
    tell_missing(plan);
    print(&format!(
        "{} runs, about {} left to do on this machine (steps timed here, decoding and augmentation left out; early stopping makes it less); nothing was run\n",
        plan.runs.len(),
        duration(left)
    ));
    Ok(())
}

/// The scripts of a submission of all runs that are not done.
fn scripts(plan: &Plan, out: &Path, grid: &GridArgs) -> anyhow::Result<(PathBuf, Scripts)> {
    let args = &grid.slurm;
    let program = std::env::current_exe()?;
    let folder = slurm::next_folder(out);
    let runs: Vec<&str> = plan
        .runs
        .iter()
        .map(|run| &run.name[..])
        .filter(|run| !is_done(out, run))
        .collect();
    if runs.is_empty() {
        anyhow::bail!(
            "all {} runs are done; make the report with: seg-train collect {}",
            plan.runs.len(),
            out.display()
        );
    }
    let wants = Wants {
        partition: args.partition.clone(),
        gres: args.gres.clone(),
        time: args.time.clone(),
        array_limit: args.array_limit,
        cpus: args.cpus,
        side_by_side: grid.jobs.unwrap_or(1),
        options: args.sbatch.clone(),
    };
    let scripts = Scripts::of(&program, out, &folder, &runs, &wants)?;
    Ok((folder, scripts))
}

fn print_scripts(plan: &Plan, out: &Path, args: &GridArgs) -> Result<(), Failure> {
    let (folder, scripts) = scripts(plan, out, args)?;
    print(&format!(
        "# {0}/array.sh\n{1}\n# {0}/collect.sh, submitted with --dependency=afterany of the array\n{2}",
        folder.display(),
        scripts.array,
        scripts.collect
    ));
    Ok(())
}

fn submit(plan: &Plan, out: &Path, args: &GridArgs) -> Result<(), Failure> {
    let (folder, scripts) = scripts(plan, out, args)?;
    let submitted = slurm::submit(&folder, &scripts)?;
    print(&format!(
        "submitted job array {} and after it job {}, which writes {}\nwhat the jobs say: {}\n",
        submitted.array,
        submitted.collect,
        out.join("report").join("index.html").display(),
        submitted.folder.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::GRIDS;

    #[test]
    fn every_grid_of_the_paper_makes_experiments_at_every_scale() {
        for (name, _) in GRIDS {
            for scale in ["quick", "cpu", "paper", "authors"] {
                for (_, grid) in grids(name).unwrap() {
                    let scaled = grid.at_scale(scale);
                    assert!(!scaled.losses.is_empty(), "{name} at {scale}");
                    assert!(scaled.seeds.contains(&0), "{name} at {scale}");
                }
            }
        }
        assert_eq!(grids("all").unwrap().len(), GRIDS.len());
        assert_eq!(
            grids("table6").unwrap_err().to_string(),
            "unknown table or figure `table6`; expected all, table3, table4, table5, figure1, figure2, figure3, figure4"
        );
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        refuse_foreign(dir.path()).unwrap();
        refuse_foreign(&dir.path().join("new")).unwrap();
        std::fs::create_dir(dir.path().join("runs")).unwrap();
        refuse_foreign(dir.path()).unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert_eq!(
            refuse_foreign(dir.path()).unwrap_err().to_string(),
            format!(
                "{} holds something else than a grid of experiments; name another folder with --out",
                dir.path().display()
            )
        );
    }
}
