//! A fault at every operation of the disk in a run.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    panic::catch_unwind,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::prelude::*;

use super::{
    Ended, Home, STATES, ended,
    ends::{End, checkpoint},
    loads,
};

/// SIGABRT: how the process under test ends itself.
const GONE: i32 = 6;

/// What goes wrong, at which operation.
#[derive(Clone, Copy, Debug)]
struct Fault {
    mode: &'static str,
    at: usize,
    seed: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.mode, self.at, self.seed)
    }
}

/// An operation of the run that nothing disturbs.
struct Operation {
    name: String,
    /// Below the run's folder; empty for the folder itself.
    file: String,
}

/// The run that nothing disturbs.
struct Reference {
    end: End,
    operations: Vec<Operation>,
    /// Every checkpoint that it wrote, without times.
    checkpoints: BTreeSet<Vec<u8>>,
}

#[derive(Default)]
struct Counts {
    failing: AtomicUsize,
    torn: AtomicUsize,
    power: AtomicUsize,
    ends: AtomicUsize,
    states: AtomicUsize,
}

impl Reference {
    fn of(home: &Home) -> Self {
        let (trace, kept) = (home.path("trace"), home.path("kept"));
        fs::create_dir(&kept).unwrap();
        let mut command = home.train("reference");
        let watched = command
            .env("SEG_TRAIN_TRACE", &trace)
            .env("SEG_TRAIN_KEEP", &kept);
        ended(watched).succeeds("unbroken");
        let trace = fs::read_to_string(trace).unwrap();
        let operations = trace.lines().map(|line| {
            let mut words = line.splitn(3, ' ').skip(1);
            let (name, path) = (words.next().unwrap(), words.next().unwrap());
            let file = path.strip_prefix("reference/").unwrap_or_default();
            Operation {
                name: name.into(),
                file: file.trim_end_matches(".part").into(),
            }
        });
        Self {
            end: home.end("reference"),
            operations: operations.collect(),
            checkpoints: checkpoints(&kept)
                .iter()
                .map(|bytes| checkpoint(bytes))
                .collect(),
        }
    }

    /// How many states a run has; each must load, be among the checkpoints that it has completely written, and be one of
    /// this run's too. So must the best weights.
    fn states_of(&self, run: &Path, written: &[Vec<u8>], context: &str) -> usize {
        let paths = STATES.map(|name| run.join(name));
        for path in paths.iter().chain([&run.join("best.safetensors")]) {
            let Ok(found) = fs::read(path) else {
                continue;
            };
            loads(path).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(
                written.contains(&found),
                "{context}: {} was never completely written",
                path.display()
            );
            assert!(
                self.checkpoints.contains(&checkpoint(&found)),
                "{context}: {} is none of the unbroken run's",
                path.display()
            );
        }
        paths.iter().filter(|path| path.exists()).count()
    }

    /// What the runs of the test meet, each time they go on; with `SEG_TRAIN_FAULTS=all` every fault at every operation.
    fn cases(&self) -> Vec<Vec<Fault>> {
        let all = env::var("SEG_TRAIN_FAULTS").is_ok_and(|value| value == "all");
        let mut cases = Vec::new();
        for (at, operation) in self.operations.iter().enumerate() {
            let is_write = operation.name == "write";
            let mut add = |mode, seeds: u64| {
                // Other operations, other seeds.
                let seeds = (0..seeds).map(|n| 1000 * n + at as u64);
                cases.extend(seeds.map(|seed| vec![Fault { mode, at, seed }]));
            };
            let failing = ["full", "broken", "read-only"];
            if all {
                for mode in failing {
                    add(mode, 1);
                }
                add("short", if is_write { 3 } else { 0 });
                add("tear", 3);
                add("power", 10);
            } else {
                add(if is_write { "short" } else { failing[at % 3] }, 1);
                add("tear", 1);
                add("power", 1);
            }
        }
        // Some power cuts come while the run goes on after the first.
        for case in cases.iter_mut().filter(|case| case[0].mode == "power") {
            let Fault { mode, at, seed } = case[0];
            if seed % 3 == 0 {
                let at = (7 * at + 5) % self.operations.len();
                case.push(Fault { mode, at, seed });
            }
        }
        cases
    }
}

impl Counts {
    fn of(&self, mode: &str) -> &AtomicUsize {
        match mode {
            "tear" => &self.torn,
            "power" => &self.power,
            _ => &self.failing,
        }
    }
}

#[test]
fn a_fault_at_any_operation_loses_nothing_that_was_saved() {
    let home = Home::tiny(&["--batch", "2", "--epochs", "2", "--save-every", "2"]);
    let reference = Reference::of(&home);
    let counts = Counts::default();
    let cases = reference.cases();
    cases.par_iter().enumerate().for_each(|(number, case)| {
        let run = format!("run-{number}");
        // All that fails is printed, not the first alone.
        let _ = catch_unwind(|| one(&home, &reference, &run, case, &counts));
    });
    let Counts {
        failing,
        torn,
        power,
        ends,
        states,
    } = counts;
    println!(
        "{} operations, {failing:?} failing, {torn:?} torn, {power:?} power cuts: {} runs, {ends:?} ends bit-identical, \
         {states:?} loadable states, all completely written",
        reference.operations.len(),
        cases.len()
    );
    assert_eq!(ends.into_inner(), cases.len());
    // Most faults come when there are two.
    assert!(states.into_inner() > cases.len());
}

/// A run that meets faults, looked at after each, and gone on with to its end.
fn one(home: &Home, reference: &Reference, run: &str, faults: &[Fault], counts: &Counts) {
    let context = faults
        .iter()
        .map(|fault| format!("SEG_TRAIN_FAULT={fault} "));
    let context: String = context.collect();
    let mut written = Vec::new();
    for (turn, fault) in faults.iter().enumerate() {
        let kept = home.path(&format!("{run}-kept-{turn}"));
        fs::create_dir(&kept).unwrap();
        let mut command = home.go_on(run);
        command
            .env("SEG_TRAIN_FAULT", fault.to_string())
            .env("SEG_TRAIN_KEEP", &kept);
        let end = ended(&mut command);
        if turn > 0 && end.code == Some(0) {
            // It needed fewer operations than that.
            break;
        }
        if ["tear", "power"].contains(&fault.mode) {
            assert_eq!(end.signal, Some(GONE), "{context}: {end:?}");
            assert!(!end.errors.contains("error: "), "{context}: {end:?}");
        } else {
            says_what_to_do(&end, run, &reference.operations[fault.at], &context);
        }
        counts.of(fault.mode).fetch_add(1, Ordering::Relaxed);
        written.extend(checkpoints(&kept));
        let states = reference.states_of(&home.path(run), &written, &context);
        counts.states.fetch_add(states, Ordering::Relaxed);
    }
    home.goes_on_to(run, &reference.end, &context);
    counts.ends.fetch_add(1, Ordering::Relaxed);
    fs::remove_dir_all(home.path(run)).unwrap();
}

/// The run stopped in order, and its one error line names the file and the remedy.
fn says_what_to_do(end: &Ended, run: &str, operation: &Operation, context: &str) {
    let error = end.error(1);
    let file = format!("{run}/{}", operation.file);
    assert!(
        error.contains(file.trim_end_matches('/')),
        "{context}: {error}"
    );
    let remedies = [
        "free some space on its disk",
        "give this program leave to write there",
        "look after the disk",
    ];
    assert!(
        remedies.iter().any(|remedy| error.contains(remedy)),
        "{context}: {error}"
    );
}

/// The files of a folder of checkpoints.
fn checkpoints(folder: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect()
}
