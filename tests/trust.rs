//! Runs that are broken off in every way there is, and gone on with: each must end with the bits of a run that was not.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use image::{GrayImage, Luma};
use seg_train::checkpoint::Checkpoint;
use tempfile::TempDir;

mod damage;
mod data;
mod ends;
mod kills;
mod locks;
mod operations;
mod several;
mod signals;

use ends::End;

/// The first state of a run, and what takes its place.
const STATES: [&str; 2] = ["state.safetensors", "state.previous.safetensors"];

/// Longer than anything here takes on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder to work in, with a data set of eight small images, and what to train on it.
struct Home {
    dir: TempDir,
    arguments: Vec<String>,
}

/// How the program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    errors: String,
}

impl Home {
    /// The least run that has everything: states within epochs, pictures, intervals.
    fn tiny(more: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        squares(&dir.path().join("squares"), 8);
        let tiny = "--loss dice++ --data folder:squares --size 16x16 --set unet.width=2 --set unet.depth=1";
        let arguments = tiny.split(' ').chain(more.iter().copied());
        Self {
            arguments: arguments.map(String::from).collect(),
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Begins the run.
    fn train(&self, run: &str) -> Command {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.command(&[&arguments[..], &["--out", run]].concat())
    }

    /// What a user does after the run broke off: resumes it, or, where it had not begun, begins it again.
    fn go_on(&self, run: &str) -> Command {
        let begun = ["run.toml", "runs.json"].map(|name| self.path(run).join(name));
        if begun.iter().any(|file| file.exists()) {
            self.command(&["resume", run])
        } else {
            self.train(run)
        }
    }

    /// Where this run ends that nothing disturbs.
    fn unbroken(&self) -> End {
        ended(&mut self.train("unbroken")).succeeds("unbroken");
        self.end("unbroken")
    }

    fn end(&self, run: &str) -> End {
        End::of(&self.path(run))
    }

    /// Goes on with a run, which must come to this end; `context` tells what had happened to it.
    #[track_caller]
    fn goes_on_to(&self, run: &str, end: &End, context: &str) {
        ended(&mut self.go_on(run)).succeeds(context);
        self.end(run).must_be(end, context);
    }

    /// A run that was torn off while it wrote its fourth state: it has its third and its second.
    fn broken_off(&self, run: &str) {
        let trace = self.path("broken-off.trace");
        let end = ended(self.train(run).env("SEG_TRAIN_TRACE", &trace));
        end.succeeds("whole");
        fs::remove_dir_all(self.path(run)).unwrap();
        let trace = fs::read_to_string(trace).unwrap();
        let mut writes = trace
            .lines()
            .filter(|line| line.contains(" write ") && line.ends_with("/state.safetensors.part"));
        let (fourth, _) = writes.nth(3).unwrap().split_once(' ').unwrap();
        let fault = format!("tear:{fourth}:1");
        assert_ne!(
            ended(self.train(run).env("SEG_TRAIN_FAULT", fault)).code,
            Some(0)
        );
    }

    /// Starts the run and waits until it has trained its first epoch.
    fn started(&self, run: &str) -> Child {
        let child = self.train(run).spawn().unwrap();
        let log = self.path(run).join("log.jsonl");
        waits_for(|| fs::metadata(&log).is_ok_and(|file| file.len() > 0));
        child
    }
}

/// Copies a run's folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs a program to its end, which must come.
fn ended(command: &mut Command) -> Ended {
    end_of(command.spawn().unwrap())
}

fn end_of(mut child: Child) -> Ended {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        signal: output.status.signal(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ended {
    #[track_caller]
    fn succeeds(&self, context: &str) {
        assert_eq!(self.code, Some(0), "{context}: {self:?}");
        assert!(!self.errors.contains("error: "), "{context}: {self:?}");
    }

    /// It failed in order: this code, and one line that says why, the last. Gives that line without its `error: `.
    #[track_caller]
    fn error(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let said = self.errors.lines();
        let errors: Vec<&str> = said
            .filter_map(|line| line.strip_prefix("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(
            self.errors.trim_end().ends_with(errors[0]) && !self.errors.contains("panicked"),
            "{self:?}"
        );
        errors[0]
    }
}

/// Sends a signal to a program that is under way.
fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(sent.success());
}

/// Waits until something is so, which it must be at last.
#[track_caller]
fn waits_for(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "it never is");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What is wrong with a checkpoint; nothing if it loads.
fn loads(path: &Path) -> Result<(), String> {
    Checkpoint::read(path, 1 << 30)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}

/// `images/` and `masks/` of a bright square on dark ground, `count` of them.
fn squares(folder: &Path, count: u32) {
    for name in ["images", "masks"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for i in 0..count {
        let inside = |x: u32, y: u32| (3 + i % 3..11 + i % 3).contains(&x) && (5..12).contains(&y);
        let grey =
            |x, y| if inside(x, y) { 170 } else { 40 } + ((x * 7 + y * 13 + i * 5) % 41) as u8;
        let image = GrayImage::from_fn(18, 17, |x, y| Luma([grey(x, y)]));
        let mask = GrayImage::from_fn(18, 17, |x, y| Luma([u8::from(inside(x, y)) * 255]));
        image.save(folder.join(format!("images/{i}.png"))).unwrap();
        mask.save(folder.join(format!("masks/{i}.png"))).unwrap();
    }
}
