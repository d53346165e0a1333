//! Runs side by side on one machine: a process each, the cores shared out, and the rest goes on when one fails. On GPUs
//! they share processes (`together`).

mod together;

use std::{
    fs::{self, OpenOptions},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

pub use self::together::Lanes;
use super::plan::{Plan, PlannedRun, run_folder};
use crate::{config::is_cuda, inference::InferenceConfig, store};

/// The exit code of a process that found its run taken by another.
pub const LOCKED: u8 = 3;

/// What is said of such a run.
const HELD: &str = "another process works on it; wait for that, or end it";

/// The file that is written last when a run is done.
pub const DONE: &str = "summary.json";

/// Whether a run has been trained and evaluated.
pub fn is_done(out: &Path, run: &str) -> bool {
    run_folder(out, run).join(DONE).is_file()
}

/// Where a run's process says what it does.
pub fn log_file(out: &Path, run: &str) -> PathBuf {
    out.join("runs").join(format!("{run}.log"))
}

/// How the runs of a plan ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Runs that failed, with the last error of each.
    pub failed: Vec<(String, String)>,
    /// Whether it was asked to stop before the end.
    pub stopped: bool,
}

/// What a run costs relative to others: images times pixels times channels squared.
pub fn cost(run: &PlannedRun) -> f64 {
    let [train, val, test] = run.images.map(|n| n as f64);
    let e = &run.experiment;
    let [height, width] = e.preprocess.size.map(|n| n as f64);
    let epochs =
        e.recipe.epochs as f64 + e.recipe.fine_tune.as_ref().map_or(0.0, |f| f.epochs as f64);
    // What differs in its inference alone takes over another run's training.
    let trainings = match e.inference.members {
        1 if e.inference != InferenceConfig::default() => 0,
        members => members,
    };
    let passes = e.inference.members * e.inference.samples.max(1);
    let images = trainings as f64 * epochs * (train + val / 3.0) + passes as f64 * test;
    images * height * width * (e.unet.width as f64).powi(2)
}

/// A process that trains one run.
struct Job<'a> {
    run: &'a PlannedRun,
    child: Child,
    began: Instant,
}

/// Whether a plan's runs are made on GPUs.
pub fn is_on_gpus(plan: &Plan) -> bool {
    plan.runs.iter().any(|run| is_cuda(&run.experiment.device))
}

/// Makes all runs of a plan that are not done, `lanes.jobs` at a time; on GPUs, so many on each. What a run says goes to
/// `runs/NAME.log`.
///
/// # Errors
///
/// When a process cannot be started.
pub fn make_all(out: &Path, plan: &Plan, lanes: &Lanes, stop: &AtomicBool) -> Result<Outcome> {
    if is_on_gpus(plan) {
        let waiting = plan.runs.iter().filter(|run| !is_done(out, &run.name));
        return together::make(out, plan, waiting.collect(), lanes, stop);
    }
    make_alone(out, plan, lanes.jobs, stop)
}

/// A process a run, each with its share of the cores.
fn make_alone(out: &Path, plan: &Plan, jobs: usize, stop: &AtomicBool) -> Result<Outcome> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut waiting = plan.runs.iter().filter(|run| !is_done(out, &run.name));
    let mut running: Vec<Job<'_>> = Vec::new();
    let mut outcome = Outcome::default();
    let progress = Progress::new(out, plan);
    loop {
        while running.len() < jobs && !stop.load(Ordering::Relaxed) {
            let Some(run) = waiting.next() else { break };
            let mut log = OpenOptions::new();
            let log = log
                .create(true)
                .append(true)
                .open(log_file(out, &run.name))
                .with_context(|| {
                    format!("{} cannot be written", log_file(out, &run.name).display())
                })?;
            let child = Command::new(&program)
                .arg("work")
                .arg(out)
                .arg(&run.name)
                .arg("--tied")
                .env("RAYON_NUM_THREADS", (cores / jobs).max(1).to_string())
                .env("CANDLE_NUM_THREADS", "1")
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("{} cannot be started", program.display()))?;
            running.push(Job {
                run,
                child,
                began: Instant::now(),
            });
        }
        if running.is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        if stop.load(Ordering::Relaxed) {
            // A signal to this process alone does not reach the runs; the end of their input does.
            for job in &mut running {
                drop(job.child.stdin.take());
            }
        }
        let mut still = Vec::new();
        for mut job in running {
            match job.child.try_wait()? {
                None => still.push(job),
                Some(status) => {
                    let name = &job.run.name;
                    if status.success() && is_done(out, name) {
                        progress.done(name, job.began.elapsed());
                    } else if !stop.load(Ordering::Relaxed) {
                        let why = if status.code() == Some(i32::from(LOCKED)) {
                            HELD.into()
                        } else if let Some(why) = last_error(out, name) {
                            why
                        } else {
                            // Killed, or out of memory: it could not say so itself.
                            let why = format!("its process ended with {status}");
                            keep_error(out, name, &why)?;
                            why
                        };
                        progress.fails(&mut outcome, name, why);
                    }
                }
            }
        }
        running = still;
        progress.show(&running.iter().map(|job| job.run).collect::<Vec<_>>());
    }
    progress.finish();
    outcome.stopped = stop.load(Ordering::Relaxed);
    Ok(outcome)
}

/// Where a run's last failure stands; there is none while it runs, and after it has ended well.
fn error_file(out: &Path, run: &str) -> PathBuf {
    out.join("runs").join(format!("{run}.error"))
}

/// Keeps why a run failed, for the report.
///
/// # Errors
///
/// When the folder cannot be written to.
pub fn keep_error(out: &Path, run: &str, why: &str) -> Result<()> {
    store::write(&error_file(out, run), why.as_bytes())
}

/// Forgets an earlier failure: the run is tried again.
///
/// # Errors
///
/// When the folder cannot be written to.
pub fn forget_error(out: &Path, run: &str) -> Result<()> {
    store::remove(&error_file(out, run))
}

/// Why a run failed when it was last tried.
pub fn last_error(out: &Path, run: &str) -> Option<String> {
    fs::read_to_string(error_file(out, run)).ok()
}

/// Epochs that a run's log counts: its lines, without reading them.
fn epochs_done(out: &Path, run: &str) -> usize {
    fs::read_to_string(run_folder(out, run).join("log.jsonl"))
        .map_or(0, |text| text.lines().count())
}

/// How far the whole grid is: a bar on a terminal, a line a run anywhere else.
struct Progress<'a> {
    out: &'a Path,
    plan: &'a Plan,
    bar: Option<ProgressBar>,
    began: Instant,
    /// The share that was done before.
    before: f64,
}

impl<'a> Progress<'a> {
    fn new(out: &'a Path, plan: &'a Plan) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            bar.set_style(
                ProgressStyle::with_template("{msg}\n{bar:32} {percent:>3} %")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        let mut progress = Self {
            out,
            plan,
            bar,
            began: Instant::now(),
            before: 0.0,
        };
        progress.before = progress.share();
        let done = progress.count();
        if done > 0 {
            progress.say(&format!(
                "{done} of {} runs are done already",
                plan.runs.len()
            ));
        }
        progress
    }

    fn count(&self) -> usize {
        self.plan
            .runs
            .iter()
            .filter(|run| is_done(self.out, &run.name))
            .count()
    }

    /// The share of the work that is done, from 0 to 1.
    fn share(&self) -> f64 {
        let all: f64 = self.plan.runs.iter().map(cost).sum();
        let done: f64 = self
            .plan
            .runs
            .iter()
            .map(|run| cost(run) * self.share_of(run))
            .sum();
        if all > 0.0 { done / all } else { 1.0 }
    }

    fn share_of(&self, run: &PlannedRun) -> f64 {
        if is_done(self.out, &run.name) {
            return 1.0;
        }
        let epochs = run.experiment.recipe.epochs.max(1);
        (epochs_done(self.out, &run.name) as f64 / epochs as f64).min(0.99)
    }

    /// How long the rest takes, at the pace so far; nothing to say before anything was done.
    fn left(&self) -> String {
        let share = self.share();
        let made = share - self.before;
        if made < 0.01 {
            return String::new();
        }
        let left = self.began.elapsed().as_secs_f64() * (1.0 - share) / made;
        format!(", about {} left", duration(left))
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn done(&self, run: &str, took: Duration) {
        self.say(&format!(
            "{run}: done in {}; {} of {} runs{}",
            duration(took.as_secs_f64()),
            self.count(),
            self.plan.runs.len(),
            self.left()
        ));
    }

    /// Says that a run has failed, and keeps why.
    fn fails(&self, outcome: &mut Outcome, run: &str, why: String) {
        self.say(&format!("{run}: failed: {why}"));
        outcome.failed.push((run.to_owned(), why));
    }

    fn show(&self, running: &[&PlannedRun]) {
        let Some(bar) = &self.bar else { return };
        let now: Vec<String> = running
            .iter()
            .map(|run| {
                let epochs = epochs_done(self.out, &run.name);
                format!("{} (epoch {})", run.name, epochs + 1)
            })
            .collect();
        bar.set_position((1000.0 * self.share()) as u64);
        bar.set_message(format!(
            "{} of {} runs done{}; now {}",
            self.count(),
            self.plan.runs.len(),
            self.left(),
            now.join(", ")
        ));
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as a person says them: `40 s`, `12 min`, `3.5 h`.
pub fn duration(seconds: f64) -> String {
    if seconds < 99.5 {
        format!("{seconds:.0} s")
    } else if seconds < 99.5 * 60.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_kept_until_the_run_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("runs")).unwrap();
        forget_error(dir.path(), "a").unwrap();
        keep_error(dir.path(), "a", "the disk is full").unwrap();
        assert_eq!(last_error(dir.path(), "a").unwrap(), "the disk is full");
        forget_error(dir.path(), "a").unwrap();
        assert_eq!(last_error(dir.path(), "a"), None);
    }

    #[test]
    fn durations_are_said_in_the_unit_that_fits() {
        assert_eq!(duration(4.4), "4 s");
        assert_eq!(duration(100.0), "2 min");
        assert_eq!(duration(6000.0), "1.7 h");
    }
}
