//! Several runs in one process, one process a GPU: a GPU works for the processes that share it one after the other, and
//! for the streams of one process at once.
//!
//! The process reads the names of its runs from its standard input, a line each, and says on its standard output how each
//! has ended: `done NAME`, `failed NAME`, `locked NAME` or `stopped NAME`. An empty line tells it that no more will come;
//! the end of its input, that whoever started it is gone.

use std::{
    collections::VecDeque,
    env,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{HELD, Outcome, Progress, keep_error, last_error};
use crate::study::{
    devices::visible,
    plan::{Plan, PlannedRun},
};

/// How often it is looked at whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// What a process says.
enum Event {
    Line(String),
    Gone,
}

/// A process that makes several runs, and those it is making.
struct Worker<'a> {
    gpu: Option<usize>,
    child: Child,
    /// None once it has been told that no more will come, and is to be left alone until it ends.
    input: Option<ChildStdin>,
    told: bool,
    running: Vec<(&'a PlannedRun, Instant)>,
}

/// The GPUs, a lane each, and how many runs at a time each makes.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// The number of a GPU; none: the process sees what this one does.
    pub gpus: Vec<Option<usize>>,
    /// Runs side by side on each.
    pub jobs: usize,
}

/// Makes the runs that wait, `lanes.jobs` at a time in each process.
pub(super) fn make<'a>(
    out: &Path,
    plan: &'a Plan,
    mut waiting: VecDeque<&'a PlannedRun>,
    lanes: &Lanes,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let progress = Progress::new(out, plan);
    let (sender, events) = channel();
    let mut outcome = Outcome::default();
    // A number for each process, those that have ended too.
    let mut workers: Vec<Option<Worker<'a>>> = Vec::new();
    for &gpu in &lanes.gpus {
        if workers.len() * lanes.jobs < waiting.len() {
            workers.push(Some(start(out, gpu, lanes, workers.len(), &sender)?));
        }
    }
    while workers.iter().any(Option::is_some) {
        for worker in workers.iter_mut().flatten() {
            if stop.load(Ordering::Relaxed) {
                // A signal to this process alone does not reach the runs; the end of their input does.
                drop(worker.input.take());
            }
            worker.feed(&mut waiting, lanes.jobs);
        }
        let Ok((number, event)) = events.recv_timeout(TICK) else {
            continue;
        };
        let Some(worker) = &mut workers[number] else {
            continue;
        };
        let stopped = stop.load(Ordering::Relaxed);
        match event {
            Event::Line(line) => {
                let (end, name) = line.split_once(' ').unwrap_or_default();
                let at = worker.running.iter().position(|(run, _)| run.name == name);
                if let Some((run, began)) = at.map(|at| worker.running.remove(at)) {
                    match end {
                        "done" => progress.done(&run.name, began.elapsed()),
                        _ if stopped => {}
                        "locked" => progress.fails(&mut outcome, &run.name, HELD.into()),
                        _ => {
                            let why = last_error(out, &run.name);
                            let why = why.unwrap_or_else(|| "its log says why".into());
                            progress.fails(&mut outcome, &run.name, why);
                        }
                    }
                }
            }
            Event::Gone => {
                let status = worker.child.wait()?;
                let (gpu, running) = (worker.gpu, std::mem::take(&mut worker.running));
                workers[number] = None;
                for (run, _) in running {
                    if !stopped {
                        // Killed, or out of memory: it could not say so itself.
                        let why = format!("its process ended with {status}");
                        keep_error(out, &run.name, &why)?;
                        progress.fails(&mut outcome, &run.name, why);
                    }
                }
                if !waiting.is_empty() && !stopped {
                    let number = workers.len();
                    workers.push(Some(start(out, gpu, lanes, number, &sender)?));
                }
            }
        }
        let running = workers.iter().flatten().flat_map(|worker| &worker.running);
        progress.show(&running.map(|(run, _)| *run).collect::<Vec<_>>());
    }
    progress.finish();
    outcome.stopped = stop.load(Ordering::Relaxed);
    Ok(outcome)
}

impl<'a> Worker<'a> {
    /// Gives it runs up to its number of jobs, and tells it when there are no more.
    fn feed(&mut self, waiting: &mut VecDeque<&'a PlannedRun>, jobs: usize) {
        let Some(input) = &mut self.input else { return };
        while self.running.len() < jobs
            && let Some(run) = waiting.pop_front()
        {
            // One that is gone cannot read it: its end is told by another way.
            let _ = writeln!(input, "{}", run.name).and_then(|()| input.flush());
            self.running.push((run, Instant::now()));
        }
        if waiting.is_empty() && !self.told {
            let _ = writeln!(input).and_then(|()| input.flush());
            self.told = true;
        }
    }
}

/// Starts a process for one GPU, which reads names until it is told that no more will come.
fn start<'a>(
    out: &Path,
    gpu: Option<usize>,
    lanes: &Lanes,
    number: usize,
    events: &Sender<(usize, Event)>,
) -> Result<Worker<'a>> {
    const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
    let program = env::current_exe().context("this program's own path is not known")?;
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let name = gpu.map_or("cuda".into(), |gpu| format!("cuda-{gpu}"));
    // What the runs say is in their own logs; this is for what no run can say, such as a panic's place.
    let path = out.join("runs").join(format!("{name}.log"));
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("{} cannot be written", path.display()))?;
    let mut command = Command::new(&program);
    command
        .arg("work")
        .arg(out)
        .args(["--from-input", "--jobs", &lanes.jobs.to_string()])
        .env(
            "RAYON_NUM_THREADS",
            (cores / lanes.gpus.len()).max(1).to_string(),
        )
        .env("CANDLE_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    if let Some(gpu) = gpu {
        command.env(VISIBLE, visible(env::var(VISIBLE).ok().as_deref(), gpu));
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let events = events.clone();
    thread::spawn(move || {
        for line in output.into_iter().flat_map(|o| BufReader::new(o).lines()) {
            let Ok(line) = line else { break };
            let _ = events.send((number, Event::Line(line)));
        }
        let _ = events.send((number, Event::Gone));
    });
    Ok(Worker {
        gpu,
        child,
        input,
        told: false,
        running: Vec::new(),
    })
}
