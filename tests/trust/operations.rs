//! A fault at every operation of the disk in a run.

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    panic::catch_unwind,
    path::Path,
    process::Command,
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

    /// The faults of a test run; with `SEG_TRAIN_FAULTS=all` every kind at every operation.
    fn faults(&self) -> Vec<Fault> {
        let all = env::var("SEG_TRAIN_FAULTS").is_ok_and(|value| value == "all");
        let mut faults = Vec::new();
        for (at, operation) in self.operations.iter().enumerate() {
            let is_write = operation.name == "write";
            let mut add = |mode, seeds: u64| {
                // Other operations, other seeds.
                faults.extend((0..seeds).map(|n| Fault {
                    mode,
                    at,
                    seed: 1000 * n + at as u64,
                }));
            };
            if all {
                for mode in ["full", "broken", "read-only"] {
                    add(mode, 1);
                }
                add("short", if is_write { 3 } else { 0 });
                add("tear", 3);
                add("power", 10);
            } else {
                add(
                    if is_write {
                        "short"
                    } else {
                        ["full", "broken", "read-only"][at % 3]
                    },
                    1,
                );
                add("tear", 1);
                add("power", 1);
            }
        }
        faults
    }
}

#[test]
fn a_fault_at_any_operation_loses_nothing_that_was_saved() {
    let home = Home::tiny(&["--batch", "2", "--epochs", "2", "--save-every", "2"]);
    let reference = Reference::of(&home);
    let counts = Counts::default();
    let faults = reference.faults();
    faults.par_iter().enumerate().for_each(|(number, fault)| {
        let run = format!("run-{number}");
        // All that fails is printed, not the first alone.
        let _ = catch_unwind(|| one(&home, &reference, &run, *fault, &counts));
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
        faults.len()
    );
    assert_eq!(ends.into_inner(), faults.len());
    // Most faults come when there are two.
    assert!(states.into_inner() > faults.len());
}

/// A run with a fault, looked at, and gone on with.
fn one(home: &Home, reference: &Reference, run: &str, fault: Fault, counts: &Counts) {
    let context = format!("SEG_TRAIN_FAULT={fault}");
    let kept = home.path(&format!("kept-{run}"));
    fs::create_dir(&kept).unwrap();
    let faulty = |command: &mut Command| {
        ended(
            command
                .env("SEG_TRAIN_FAULT", fault.to_string())
                .env("SEG_TRAIN_KEEP", &kept),
        )
    };
    let end = faulty(&mut home.train(run));
    let count = match fault.mode {
        "tear" => &counts.torn,
        "power" => &counts.power,
        _ => &counts.failing,
    };
    count.fetch_add(1, Ordering::Relaxed);
    if matches!(fault.mode, "tear" | "power") {
        assert_eq!(end.signal, Some(GONE), "{context}: {end:?}");
        assert!(!end.errors.contains("error: "), "{context}: {end:?}");
    } else {
        says_what_to_do(&end, run, &reference.operations[fault.at], &context);
    }
    let written = checkpoints(&kept);
    for name in STATES.into_iter().chain(["best.safetensors"]) {
        let path = home.path(run).join(name);
        if path.exists() {
            loads(&path).unwrap_or_else(|error| panic!("{context}: {error}"));
            let found = fs::read(&path).unwrap();
            assert!(
                written.contains(&found),
                "{context}: {name} was never completely written"
            );
            assert!(
                reference.checkpoints.contains(&checkpoint(&found)),
                "{context}: {name} is none of the unbroken run's"
            );
            counts
                .states
                .fetch_add(usize::from(name != "best.safetensors"), Ordering::Relaxed);
        }
    }
    home.goes_on_to(run, &reference.end, &context);
    counts.ends.fetch_add(1, Ordering::Relaxed);
    fs::remove_dir_all(home.path(run)).unwrap();
    fs::remove_dir_all(kept).unwrap();
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
