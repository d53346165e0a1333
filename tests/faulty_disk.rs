//! A disk that goes wrong at one chosen operation of the program, for the tests of what is lost then.
//!
//! Every operation of a [`Disk`] is numbered from zero: making a folder, opening a file, each write, each sync, each
//! change of a name. The environment says what happens at which, so that a test can go through all of them:
//!
//! | variable | value |
//! |---|---|
//! | `SEG_TRAIN_FAULT` | `MODE:OPERATION:SEED`; the seed chooses where a write breaks off and what a power cut takes |
//! | `SEG_TRAIN_TRACE` | a file, which gets a line for each operation: its number, its name, its path |
//! | `SEG_TRAIN_KEEP` | a folder, which gets a copy of every checkpoint that was synced, named by its number |
//!
//! `full` fails the operation for want of space, and every later one that needs some; `short` lets a part of the write
//! through before; `broken` fails the operation with an input/output error, once; `read-only` fails it and all later ones;
//! `tear` ends the process there, as kill -9 would, a write being done in part; `power` is described in [`power`].

use std::{
    env,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex},
};

use seg_train::store::{Disk, Output};

mod power;

use power::Volatile;

/// The disk that the environment asks for; none where it asks for nothing.
pub(crate) fn from_environment() -> Option<Box<dyn Disk>> {
    let path = |name| env::var_os(name).map(PathBuf::from);
    let fault = env::var("SEG_TRAIN_FAULT")
        .ok()
        .map(|text| Fault::of(&text));
    let (trace, keep) = (path("SEG_TRAIN_TRACE"), path("SEG_TRAIN_KEEP"));
    if fault.is_none() && trace.is_none() && keep.is_none() {
        return None;
    }
    let seed = fault.map_or(0, |fault| fault.seed);
    Some(Box::new(FaultyDisk(Arc::new(Faults {
        fault,
        trace,
        keep,
        inner: Mutex::new(Inner {
            operations: 0,
            dice: Dice(seed),
            volatile: Volatile::default(),
        }),
    }))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Full,
    Short,
    Broken,
    ReadOnly,
    Tear,
    Power,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    mode: Mode,
    at: u64,
    seed: u64,
}

impl Fault {
    fn of(text: &str) -> Self {
        let [mode, at, seed] = text.split(':').collect::<Vec<_>>()[..] else {
            panic!("SEG_TRAIN_FAULT={text}; expected MODE:OPERATION:SEED");
        };
        let mode = match mode {
            "full" => Mode::Full,
            "short" => Mode::Short,
            "broken" => Mode::Broken,
            "read-only" => Mode::ReadOnly,
            "tear" => Mode::Tear,
            "power" => Mode::Power,
            _ => panic!("SEG_TRAIN_FAULT={text}; there is no mode {mode}"),
        };
        let number = |text: &str| text.parse().expect("SEG_TRAIN_FAULT has a number there");
        Self {
            mode,
            at: number(at),
            seed: number(seed),
        }
    }
}

/// What the program does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    CreateFolder,
    Create,
    Append,
    Write,
    Sync,
    Rename,
    Remove,
    SyncFolder,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::CreateFolder => "create-folder",
            Self::Create => "create",
            Self::Append => "append",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncFolder => "sync-folder",
        }
    }

    fn needs_room(self) -> bool {
        matches!(
            self,
            Self::CreateFolder | Self::Create | Self::Append | Self::Write
        )
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Done,
    Failed(i32),
    /// A write's first part is done; the rest is the next write.
    Short,
    /// The process ends with it; the power too.
    Last {
        power: bool,
    },
}

const INPUT_OUTPUT: i32 = 5;
const NO_SPACE: i32 = 28;
const READ_ONLY: i32 = 30;

/// A generator that needs no crate: SplitMix64.
#[derive(Clone, Copy, Debug)]
struct Dice(u64);

impl Dice {
    /// A number from 0 to below `end`, which is above 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

#[derive(Debug)]
struct Inner {
    operations: u64,
    dice: Dice,
    volatile: Volatile,
}

#[derive(Debug)]
struct Faults {
    fault: Option<Fault>,
    trace: Option<PathBuf>,
    keep: Option<PathBuf>,
    inner: Mutex<Inner>,
}

impl Faults {
    /// Numbers an operation, does it if that is its fate, and never returns if the process ends there.
    fn perform<T>(
        &self,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(&mut Volatile) -> io::Result<T>,
    ) -> io::Result<T> {
        self.judge(operation, path, |fate, inner| match fate {
            Fate::Failed(error) => Err(io::Error::from_raw_os_error(error)),
            // It may have reached the disk or not.
            Fate::Last { power } => {
                if inner.dice.coin() {
                    let _ = act(&mut inner.volatile);
                }
                inner.vanish(power)
            }
            Fate::Done | Fate::Short => act(&mut inner.volatile),
        })
    }

    fn judge<T>(
        &self,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(Fate, &mut Inner) -> T,
    ) -> T {
        let mut inner = self.inner.lock().expect("no operation panics");
        let number = inner.operations;
        inner.operations += 1;
        if let Some(trace) = &self.trace {
            let line = format!("{number} {} {}\n", operation.name(), path.display());
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(trace)
                .expect("the trace can be written");
            file.write_all(line.as_bytes())
                .expect("the trace can be written");
        }
        act(self.fate(number, operation), &mut inner)
    }

    fn fate(&self, number: u64, operation: Operation) -> Fate {
        let Some(Fault { mode, at, .. }) = self.fault else {
            return Fate::Done;
        };
        let (here, later) = (number == at, number > at);
        match mode {
            Mode::Short if here && operation == Operation::Write => Fate::Short,
            Mode::Full | Mode::Short if here || later && operation.needs_room() => {
                Fate::Failed(NO_SPACE)
            }
            Mode::Broken if here => Fate::Failed(INPUT_OUTPUT),
            Mode::ReadOnly if here || later => Fate::Failed(READ_ONLY),
            Mode::Tear if here => Fate::Last { power: false },
            Mode::Power if here => Fate::Last { power: true },
            _ => Fate::Done,
        }
    }

    /// Copies a checkpoint that is complete and synced to where the test finds it.
    fn keep(&self, number: u64, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(keep) = self.keep.as_ref().filter(|_| name.contains("safetensors")) {
            fs::copy(path, keep.join(format!("{number:05} {name}"))).expect("a copy can be kept");
        }
    }
}

impl Inner {
    fn vanish(&mut self, power: bool) -> ! {
        if power {
            self.volatile.cut(&mut self.dice);
        }
        // Nothing is unwound, flushed or cleaned up.
        process::abort()
    }
}

/// The machine's disk, as far as the faults let it through. Nothing is really synced: no power is really cut.
#[derive(Debug)]
struct FaultyDisk(Arc<Faults>);

impl FaultyDisk {
    fn output(&self, path: &Path, file: File) -> Box<dyn Output> {
        Box::new(FaultyFile {
            faults: self.0.clone(),
            path: path.into(),
            file,
        })
    }
}

impl Disk for FaultyDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.perform(Operation::CreateFolder, path, |volatile| {
            volatile.create_folder(path);
            fs::create_dir_all(path)
        })
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.0.perform(Operation::Create, path, |volatile| {
            volatile.open(path);
            let file = File::create(path)?;
            volatile.truncate(path);
            Ok(self.output(path, file))
        })
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.0.perform(Operation::Append, path, |volatile| {
            volatile.open(path);
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            Ok(self.output(path, file))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.perform(Operation::Rename, to, |volatile| {
            volatile.rename(from, to);
            fs::rename(from, to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.perform(Operation::Remove, path, |volatile| {
            if path.exists() {
                volatile.remove(path);
            }
            fs::remove_file(path)
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.perform(Operation::SyncFolder, path, |volatile| {
            volatile.sync_folder(path);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct FaultyFile {
    faults: Arc<Faults>,
    path: PathBuf,
    file: File,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let faults = self.faults.clone();
        let (path, file) = (self.path.clone(), &mut self.file);
        faults.judge(Operation::Write, &path, |fate, inner| {
            let count = match fate {
                Fate::Failed(error) => return Err(io::Error::from_raw_os_error(error)),
                Fate::Done => bytes.len(),
                Fate::Short => inner.dice.below(bytes.len()),
                Fate::Last { .. } => inner.dice.below(bytes.len() + 1),
            };
            file.write_all(&bytes[..count])?;
            inner.volatile.write(&path, &bytes[..count]);
            match fate {
                Fate::Last { power } => inner.vanish(power),
                // Of nothing written `write_all` would make an error of its own.
                Fate::Short if count == 0 => Err(io::Error::from_raw_os_error(NO_SPACE)),
                _ => Ok(count),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        let path = self.path.clone();
        self.faults.perform(Operation::Sync, &path, |volatile| {
            volatile.sync(&path);
            Ok(())
        })?;
        let number = self
            .faults
            .inner
            .lock()
            .expect("no operation panics")
            .operations
            - 1;
        self.faults.keep(number, &path);
        Ok(())
    }
}
