//! Files that nobody wished for: each is met by the program as a user calls it, and each gets its answer in one line,
//! soon and without filling the memory; what is only unusual works.

mod build;
mod page;
mod table;

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use image::ImageFormat;
use tempfile::TempDir;

use table::Expected;

/// What a run may take beyond one that meets a good file: 200 MB and 2 s of all processors.
const MEMORY_KIB: u64 = 200_000_000 / 1024;
const HUNDREDTHS: u64 = 200;

type Make = dyn Fn(&Path) -> Vec<String> + Send + Sync;

/// One file or folder, the command that meets it, and what is to come of it.
pub(crate) struct Row {
    name: String,
    /// Makes it in the row's own folder, and gives the command's arguments, in which `@` is that folder.
    make: Box<Make>,
    /// Which good file is its measure.
    like: Like,
    expected: Expected,
}

/// A good file, by the command that meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Like {
    Predicted,
    Trained,
    /// Trained by a configuration, on generated images.
    Configured,
}

/// What a run of the program took: its peak of memory in KiB and its time in hundredths of a second.
#[derive(Clone, Copy, Debug)]
struct Took {
    memory: u64,
    time: u64,
}

/// The most that any row took beyond a good file, and which row.
#[derive(Default)]
struct Beyond {
    memory: (u64, String),
    time: (u64, String),
}

impl Beyond {
    fn see(&mut self, took: Took, good: Took, name: &str) {
        for (most, took, good) in [
            (&mut self.memory, took.memory, good.memory),
            (&mut self.time, took.time, good.time),
        ] {
            if took.saturating_sub(good) > most.0 {
                *most = (took - good, name.into());
            }
        }
    }
}

struct Ended {
    code: Option<i32>,
    errors: String,
    /// None where the system does not tell.
    took: Option<Took>,
}

/// The least network, and few generated images where there are no others.
const TINY: &[&str] = &[
    "--loss",
    "dice",
    "--size",
    "16x16",
    "--set",
    "unet.width=2",
    "--set",
    "unet.depth=1",
    "--epochs",
    "1",
];

fn run(folder: &Path, arguments: &[String]) -> Ended {
    let told = folder.join("took");
    let output = Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"))
        .args(arguments)
        .current_dir(folder)
        .env("SEG_TRAIN_TOOK", &told)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let numbers = fs::read_to_string(&told).unwrap_or_default();
    let numbers: Vec<u64> = numbers
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let took = match numbers[..] {
        [memory, time] => Some(Took { memory, time }),
        _ => None,
    };
    Ended {
        code: output.status.code(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        took,
    }
}

/// `images/` and `masks/` of five good pairs.
fn good_pairs(folder: &Path) {
    let (image, mask) = (
        build::encoded(&build::ramp(), ImageFormat::Png),
        build::encoded(&build::half(), ImageFormat::Png),
    );
    for (name, bytes) in [("images", image), ("masks", mask)] {
        fs::create_dir_all(folder.join(name)).unwrap();
        for n in 0..5 {
            fs::write(folder.join(format!("{name}/{n}.png")), &bytes).unwrap();
        }
    }
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// What is wrong with how a row ended; none where all is as it should be.
fn fault(row: &Row, folder: &Path, ended: &Ended, good: Option<Took>) -> Option<String> {
    let errors = &ended.errors;
    let here = folder.display().to_string();
    let lines: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    if errors.contains("panicked") {
        return Some(format!("it panicked: {errors}"));
    }
    match &row.expected {
        Expected::Works => {
            if ended.code != Some(0) || !lines.is_empty() {
                return Some(format!(
                    "it is to work, but ended with {:?}: {errors}",
                    ended.code
                ));
            }
        }
        Expected::Refused(code, sentence) => {
            let said = lines
                .first()
                .map(|line| line.replace(&here, "@"))
                .unwrap_or_default();
            let is_last = errors.lines().last() == lines.first().copied();
            if ended.code != Some(*code) || lines.len() != 1 || !is_last || !said.contains(sentence)
            {
                return Some(format!(
                    "expected {code} and `{sentence}`, found {:?} and\n  {}",
                    ended.code,
                    errors.replace(&here, "@").trim_end()
                ));
            }
        }
    }
    let (took, good) = (ended.took?, good?);
    if took.memory > good.memory + MEMORY_KIB || took.time > good.time + HUNDREDTHS {
        return Some(format!("it took {took:?}, and a good file {good:?}"));
    }
    None
}

#[test]
fn every_hostile_file_gets_one_line_soon_and_every_unusual_one_works() {
    let home = TempDir::new().unwrap();
    let home = home.path().canonicalize().unwrap();
    let rows = table::rows(&home.join("good"));
    // The good files, which are also what rows borrow from.
    let good = home.join("good");
    good_pairs(&good.join("data"));
    let trained = run(
        &good,
        &[
            words(TINY),
            words(&["--data", "folder:data", "--out", "run"]),
        ]
        .concat(),
    );
    assert_eq!(trained.code, Some(0), "{}", trained.errors);
    let predicted = run(
        &good,
        &words(&["predict", "run", "data/images/1.png", "--out", "out"]),
    );
    assert_eq!(predicted.code, Some(0), "{}", predicted.errors);

    fs::write(good.join("c.toml"), table::CONFIGURATION).unwrap();
    let configured = run(
        &good,
        &words(&["--config", "c.toml", "--out", "configured"]),
    );
    assert_eq!(configured.code, Some(0), "{}", configured.errors);

    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let most = Mutex::new(Beyond::default());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = rows.get(at) else { break };
            let folder = home.join(at.to_string());
            fs::create_dir(&folder).unwrap();
            let here = folder.display().to_string();
            let arguments: Vec<String> = (row.make)(&folder)
                .iter()
                .map(|argument| argument.replace('@', &here))
                .collect();
            let ended = run(&folder, &arguments);
            let good = match row.like {
                Like::Predicted => predicted.took,
                Like::Trained => trained.took,
                Like::Configured => configured.took,
            };
            if let (Some(took), Some(good)) = (ended.took, good) {
                most.lock().unwrap().see(took, good, &row.name);
            }
            if let Some(fault) = fault(row, &folder, &ended, good) {
                let mut faults = faults.lock().unwrap();
                faults.push(format!("{}: {fault}", row.name));
            }
            fs::remove_dir_all(&folder).unwrap();
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(
        faults.is_empty(),
        "{} of {} rows:\n{}",
        faults.len(),
        rows.len(),
        faults.join("\n")
    );
    assert!(rows.len() >= 200, "{} rows", rows.len());
    let Beyond { memory, time } = most.into_inner().unwrap();
    let took = match predicted.took {
        Some(_) => format!(
            "beyond a good file at most {} MB ({}) and {} hundredths of a second ({})",
            memory.0 / 1000,
            memory.1,
            time.0,
            time.1
        ),
        None => "memory and time are not known here: there is no /proc".into(),
    };
    println!("{} hostile files: {took}", rows.len());
}
