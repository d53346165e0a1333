//! `seg-train work`: runs of a grid, one or several side by side, brought to their end from wherever they are.

use std::{
    any::Any,
    io::{BufRead as _, Read as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering, mpsc},
    thread,
};

use anyhow::anyhow;
use clap::Args;

use super::{
    Failure, one_line, print,
    train::{STOP, bring_to_end, listen},
    usage, whole,
};
use crate::{
    config::Experiment,
    run_folder::Lock,
    say::{say, to_log},
    study::{
        plan::{experiment_file, run_folder},
        queue::{forget_error, is_done, keep_error, log_file},
    },
};

/// What `work` is told.
#[derive(Args, Debug)]
pub(super) struct WorkArgs {
    /// Folder of the grid
    out: PathBuf,
    /// Names of the runs
    #[arg(value_name = "RUN", required_unless_present = "from_input")]
    runs: Vec<String>,
    /// Runs side by side, in this process
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole::<usize>, allow_negative_numbers = true)]
    jobs: usize,
    /// Stop when standard input ends: when whoever started this is gone
    #[arg(long)]
    tied: bool,
    /// Read the runs' names from standard input up to an empty line, then as --tied; say how each has ended
    #[arg(long, conflicts_with_all = ["runs", "tied"])]
    from_input: bool,
}

/// Brings runs of a grid to their end.
pub(super) fn work(args: &WorkArgs) -> Result<(), Failure> {
    let out = std::path::absolute(&args.out).map_err(anyhow::Error::from)?;
    if args.jobs == 0 {
        return Err(usage("--jobs is counted from 1"));
    }
    if let [run] = &args.runs[..] {
        refuse_unplanned(&out, run)?;
        listen()?;
        if args.tied {
            thread::spawn(|| {
                // Nothing is ever written to it: it ends when the other side does.
                let _ = std::io::stdin().read(&mut [0]);
                STOP.store(true, Ordering::Relaxed);
            });
        }
        return one(&out, run);
    }
    for run in &args.runs {
        refuse_unplanned(&out, run)?;
    }
    listen()?;
    let (sender, names) = mpsc::channel();
    if args.from_input {
        thread::spawn(move || read_names(sender));
    } else {
        for run in &args.runs {
            let _ = sender.send(run.clone());
        }
        drop(sender);
    }
    let tell = |end: &str, run: &str| {
        if args.from_input {
            print(&format!("{end} {run}\n"));
        } else {
            say(&format!("{run}: {end}"));
        }
    };
    let ends = side_by_side(&out, args.jobs, names, &tell);
    let count = |end: &str| ends.iter().filter(|&&found| found == end).count();
    match (count(FAILED), count(LOCKED)) {
        _ if STOP.load(Ordering::Relaxed) => Err(Failure::Stopped(
            "stopped; the same command once more goes on".into(),
        )),
        (0, 0) => Ok(()),
        (0, locked) => Err(Failure::Locked(anyhow!(
            "another process works on {locked} of {} runs; wait for that, or end it",
            ends.len()
        ))),
        (failed, _) => Err(Failure::Failed(anyhow!(
            "{failed} of {} runs failed; {}/runs/NAME.log says why",
            ends.len(),
            out.display()
        ))),
    }
}

const DONE: &str = "done";
const FAILED: &str = "failed";
const LOCKED: &str = "locked";
const STOPPED: &str = "stopped";

/// Hands on what standard input names, and stops the runs when it ends.
fn read_names(sender: mpsc::Sender<String>) {
    let mut sender = Some(sender);
    for line in std::io::stdin().lock().lines() {
        match line {
            Ok(name) if !name.is_empty() => {
                if let Some(sender) = &sender {
                    let _ = sender.send(name);
                }
            }
            // No more will come.
            Ok(_) => sender = None,
            Err(_) => break,
        }
    }
    STOP.store(true, Ordering::Relaxed);
}

/// Makes runs on `jobs` threads; how each has ended. What a run says goes to its own log.
fn side_by_side(
    out: &Path,
    jobs: usize,
    names: mpsc::Receiver<String>,
    tell: &(dyn Fn(&str, &str) + Sync),
) -> Vec<&'static str> {
    let names = Mutex::new(names);
    let ends = Mutex::new(Vec::new());
    let next = || {
        let names = names.lock().unwrap_or_else(PoisonError::into_inner);
        names.recv().ok()
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(run) = next() {
                    let (end, goes_on) = if STOP.load(Ordering::Relaxed) {
                        (STOPPED, true)
                    } else {
                        one_of_several(out, &run)
                    };
                    tell(end, &run);
                    ends.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(end);
                    if !goes_on {
                        break;
                    }
                }
            });
        }
    });
    ends.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one run on this thread, whatever becomes of it: how it has ended, and whether another can be made.
fn one_of_several(out: &Path, run: &str) -> (&'static str, bool) {
    if let Err(error) = to_log(&log_file(out, run)) {
        let why = format!(
            "{} cannot be written: {error}",
            log_file(out, run).display()
        );
        let _ = keep_error(out, run, &why);
        return (FAILED, true);
    }
    let made = catch_unwind(AssertUnwindSafe(|| {
        refuse_unplanned(out, run)?;
        one(out, run)
    }));
    let why = match made {
        Ok(Ok(())) => return (DONE, true),
        Ok(Err(Failure::Stopped(note))) => {
            say(&note);
            return (STOPPED, true);
        }
        Ok(Err(Failure::Locked(error))) => {
            say(&format!("error: {}", one_line(&format!("{error:#}"))));
            return (LOCKED, true);
        }
        // Kept already.
        Ok(Err(Failure::Failed(error))) => one_line(&format!("{error:#}")),
        Ok(Err(Failure::Usage(why))) => {
            let _ = keep_error(out, run, &one_line(&why));
            why
        }
        Err(panic) => {
            let why = one_line(&format!("it panicked: {}", words(panic.as_ref())));
            let _ = keep_error(out, run, &why);
            why
        }
    };
    say(&format!("error: {why}"));
    (FAILED, is_alive(out, run))
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

/// Whether a failed run's device still works: an access out of bounds ends all that a process does on a GPU, and whoever
/// started this one starts another for the runs that are left.
fn is_alive(out: &Path, run: &str) -> bool {
    let works = || -> anyhow::Result<()> {
        let experiment = Experiment::read(&experiment_file(out, run))?;
        if crate::config::is_cuda(&experiment.device) {
            experiment.open_device()?.synchronize()?;
        }
        Ok(())
    };
    works().is_ok()
}

/// Refuses a run that the grid does not have.
fn refuse_unplanned(out: &Path, run: &str) -> Result<(), Failure> {
    if experiment_file(out, run).is_file() {
        return Ok(());
    }
    Err(usage(format!(
        "{} plans no run named {run}; `seg-train collect` lists the runs of a grid in its report",
        out.display()
    )))
}

/// Brings one run to its end, and keeps why where it fails.
fn one(out: &Path, run: &str) -> Result<(), Failure> {
    let experiment = Experiment::read(&experiment_file(out, run))?;
    let held = Lock::take(&run_folder(out, run))?;
    if is_done(out, run) {
        return Ok(());
    }
    forget_error(out, run)?;
    let end = bring_to_end(&run_folder(out, run), &experiment, &held);
    if let Err(Failure::Failed(error)) = &end {
        keep_error(out, run, &one_line(&format!("{error:#}")))?;
    }
    end
}
