//! A run folder: everything one run leaves behind, under names that never change.

pub(crate) mod data_set;
mod lock;
mod parts;
pub mod tables;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use seg_unet::InstructionSet;
use serde::{Deserialize, Serialize};

pub use self::{
    lock::{Held, Lock},
    parts::Parts,
};
use crate::{
    config::{Experiment, FIRST, member_folder},
    open,
    state::STATE,
    store,
};

/// The folder of one run.
///
/// | file | what it holds |
/// |---|---|
/// | `run.toml` | the whole experiment, and under `[record]` what made it: versions, instruction set, GPU |
/// | `split.json` | which image was trained, validated and tested on ([`Parts`]) |
/// | `files.json` | length and checksum of every image and mask file ([`Files`]); none where images are generated |
/// | `log.jsonl` | a line an epoch ([`EpochLine`]) |
/// | `steps.csv` | a line a training step ([`StepLine`](crate::watch::StepLine)); with `recipe.watch` only |
/// | `best.safetensors` | the weights of the epoch with the lowest validation loss |
/// | `state.safetensors` | all that going on needs, as of the last completed epoch, or a step of the one that follows |
/// | `state.previous.safetensors` | the state before it, until the run has ended |
/// | `lock` | which process works on the run, while one does ([`Lock`]) |
/// | `metrics.csv` | a row a test image |
/// | `thresholds.csv` | the counts of each test image at T = 0.05, 0.10, …, 0.95 ([`ImageThresholds`]); two classes only |
/// | `reliability.csv` | the foreground's bins over the pixels of the test set ([`ReliabilityBin`]); two classes only |
/// | `shift.csv` | each test image's metrics under each shift, if the run asks for them ([`ShiftLine`]) |
/// | `curves.png`, `examples.png` | what the training and the predictions look like |
/// | `summary.json` | every metric's mean and interval over the test images; the last file written, so a run that has it is done |
/// | `scaling.toml` | the scaling that was fitted on the validation set, if the run has one ([`Fitted`]) |
/// | `first/`, `member-1/`, … | the training that fine-tuning went on from, the other networks of an ensemble: run folders |
/// | `threshold.toml` | the threshold that `seg-train threshold` chose, if it was asked ([`ChosenThreshold`]) |
///
/// The tables are read by [`tables`].
///
/// [`Files`]: crate::data::Files
/// [`ImageThresholds`]: crate::metrics::ImageThresholds
/// [`ReliabilityBin`]: crate::metrics::ReliabilityBin
/// [`ChosenThreshold`]: crate::threshold::ChosenThreshold
/// [`ShiftLine`]: crate::shift::ShiftLine
/// [`Fitted`]: crate::inference::scaling::Fitted
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// One line of `log.jsonl`. Two runs of one experiment differ in `seconds` and `images_per_second` only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochLine {
    /// The epoch, counted from one.
    pub epoch: usize,
    /// Mean training loss an image, over the augmented images as they were seen.
    pub loss: f64,
    /// Mean validation loss an image.
    pub val_loss: f64,
    /// Mean Dice an image of the validation set, at network resolution, by the most probable class.
    pub val_dice: f64,
    /// The learning rate this epoch was trained with.
    pub lr: f64,
    /// Whether this is the best epoch so far, whose weights `best.safetensors` then holds.
    pub best: bool,
    /// Steps that were left out, their loss being no number (`recipe.on_nan`).
    #[serde(default)]
    pub skipped: usize,
    /// Wall-clock seconds the epoch took, its validation included.
    pub seconds: f64,
    /// Training images a second.
    pub images_per_second: f64,
}

/// What made a run: written beside the experiment, and no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this program.
    pub seg_train: String,
    /// The commit that it was built from; `unknown` where it was built outside a clone.
    pub commit: String,
    /// Version of Candle, from the lock file.
    pub candle_core: String,
    /// The instruction set that the network was computed with ([`InstructionSet`]): the same seed gives the same bits on
    /// the same one only.
    pub instruction_set: String,
    /// Operating system and architecture.
    pub platform: String,
    /// The GPU that the network was computed on, and in what; none on the CPU.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// A GPU as a run's record has it: the same seed gives the same bits on the same one only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name.
    pub gpu: String,
    /// Its compute capability, such as `9.0`.
    pub compute_capability: String,
    /// The CUDA version of its driver.
    pub cuda_driver: String,
    /// The numbers of the network ([`Precision`](seg_unet::Precision)).
    pub precision: String,
}

impl Gpu {
    /// The GPU of an experiment; none where that is on the CPU.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(clippy::unnecessary_wraps, unused_variables)
    )]
    fn of(experiment: &Experiment) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if let Some(found) = crate::cuda::device::describe(&experiment.device)? {
            return Ok(Some(Self {
                gpu: found.name,
                compute_capability: found.compute_capability,
                cuda_driver: found.driver,
                precision: experiment.recipe.precision.to_string(),
            }));
        }
        Ok(None)
    }
}

impl Record {
    /// The record of this program on this machine.
    ///
    /// # Errors
    ///
    /// When the environment asks for an instruction set that there is none of, or the experiment for a GPU.
    pub fn of(experiment: &Experiment) -> Result<Self> {
        Ok(Self {
            seg_train: env!("CARGO_PKG_VERSION").into(),
            commit: env!("SEG_TRAIN_COMMIT").into(),
            candle_core: locked_version("candle-core").into(),
            instruction_set: InstructionSet::get()?.to_string(),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            gpu: Gpu::of(experiment)?,
        })
    }
}

/// The version of a dependency in the workspace's lock file: Cargo tells a program its own version only.
fn locked_version(name: &str) -> &'static str {
    let mut lines = include_str!("../../Cargo.lock").lines();
    let header = format!("name = \"{name}\"");
    lines.find(|line| *line == header);
    lines
        .next()
        .and_then(|line| line.strip_prefix("version = \""))
        .map_or("unknown", |version| version.trim_end_matches('"'))
}

impl RunFolder {
    /// Makes a run's folder of one whose lock is held, which is where it was made if it was not there.
    ///
    /// # Errors
    ///
    /// A folder that already holds something is refused: a run never writes over another one.
    pub fn create(path: &Path, _held: &Lock) -> Result<Self> {
        refuse_taken(path)?;
        Ok(Self { path: path.into() })
    }

    /// The folder of an earlier run.
    ///
    /// # Errors
    ///
    /// When there is no `run.toml` in it, because it compares several runs or is something else.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(Runs { runs }) = Runs::read(path)? {
            let runs = runs.iter().map(|run| path.join(run).display().to_string());
            bail!(
                "{} compares several runs; name one of them: {}",
                path.display(),
                runs.collect::<Vec<_>>().join(", ")
            );
        }
        if !path.join("run.toml").is_file() {
            bail!(
                "{} is no run folder: it has no run.toml; name a folder that a training run made",
                path.display()
            );
        }
        Ok(Self { path: path.into() })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file whole or not at all: into a sibling first, synced, then renamed, so that a crash leaves the old one.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        store::write(&self.file(name), bytes)
    }

    /// Writes `run.toml`: the experiment in full, then the record.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write_experiment(&self, experiment: &Experiment) -> Result<()> {
        let mut text = experiment.to_toml()?;
        text.push_str("\n[record]\n");
        text.push_str(&toml::to_string(&Record::of(experiment)?)?);
        self.write("run.toml", text.as_bytes())
    }

    /// Writes another experiment to `run.toml`, and leaves the record as it is.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn rewrite_experiment(&self, experiment: &Experiment) -> Result<()> {
        let mut text = experiment.to_toml()?;
        text.push_str("\n[record]\n");
        text.push_str(&toml::to_string(&self.record()?)?);
        self.write("run.toml", text.as_bytes())
    }

    /// Reads the experiment back from `run.toml`.
    ///
    /// # Errors
    ///
    /// When the file is missing or not a complete experiment.
    pub fn experiment(&self) -> Result<Experiment> {
        Experiment::read(&self.file("run.toml"))
    }

    /// The instruction set that the run began with; none where `run.toml` does not say, and where it was made on a GPU.
    ///
    /// # Errors
    ///
    /// When the file is missing or no TOML.
    pub fn instruction_set(&self) -> Result<Option<String>> {
        let mut record = self.record()?;
        let is_cpus = !record.contains_key("gpu");
        Ok(record.remove("instruction_set").filter(|_| is_cpus))
    }

    /// The GPU that the run began on; none where `run.toml` does not say.
    ///
    /// # Errors
    ///
    /// When the file is missing or no TOML.
    pub fn gpu(&self) -> Result<Option<String>> {
        Ok(self.record()?.remove("gpu"))
    }

    /// What made the run, as `run.toml` has it under `[record]` ([`Record`]): key by key, since another version of the
    /// program may have written others.
    ///
    /// # Errors
    ///
    /// When the file is missing or no TOML.
    pub fn record(&self) -> Result<BTreeMap<String, String>> {
        let path = self.file("run.toml");
        let table: toml::Table = open::text(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?
            .parse()
            .with_context(|| format!("{}", path.display()))?;
        let record = table.get("record").and_then(|record| record.as_table());
        Ok(record
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect())
    }

    /// Adds a line to `log.jsonl`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written to.
    pub fn append_log(&self, line: &EpochLine) -> Result<()> {
        let path = self.file("log.jsonl");
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        store::append(&path, text.as_bytes())
    }

    /// The lines of `log.jsonl`, oldest first; none when there is no such file yet.
    ///
    /// What a crash left of a last line is left out, whatever it is.
    ///
    /// # Errors
    ///
    /// When a line is not one that [`append_log`](Self::append_log) writes, and one that is follows.
    pub fn log(&self) -> Result<Vec<EpochLine>> {
        let path = self.file("log.jsonl");
        let bytes = match open::record(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let lines: Vec<Result<EpochLine, _>> = bytes
            .split(|&byte| byte == b'\n')
            .map(serde_json::from_slice)
            .collect();
        let last = lines.iter().rposition(Result::is_ok);
        lines
            .into_iter()
            .take(last.map_or(0, |last| last + 1))
            .enumerate()
            .map(|(i, line)| line.with_context(|| format!("{}, line {}", path.display(), i + 1)))
            .collect()
    }

    /// Seconds of all training that the run needed: its own, and that of the runs in its folder.
    ///
    /// # Errors
    ///
    /// When a log cannot be read.
    pub fn training_seconds(&self) -> Result<f64> {
        let mut seconds: f64 = self.log()?.iter().map(|line| line.seconds).sum();
        let parts = std::iter::once(FIRST.to_owned())
            .chain((1..).map(member_folder))
            .map(|name| self.file(&name));
        // Members are numbered without a gap.
        for (place, part) in parts.enumerate() {
            if part.join("run.toml").is_file() {
                seconds += Self::open(&part)?.training_seconds()?;
            } else if place > 0 {
                break;
            }
        }
        Ok(seconds)
    }

    /// Refuses a log whose state is gone: to begin anew would be to lose it.
    ///
    /// # Errors
    ///
    /// When the log has a line.
    pub fn refuse_log_without_state(&self) -> Result<()> {
        let epochs = self.log()?.len();
        if epochs > 0 {
            bail!(
                "{} has a log of {epochs} epochs and no {STATE} to go on from; restore that file, or train the run anew with another --out",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Cuts `log.jsonl` back to the first `epochs` epochs: a crash may leave a line of an epoch whose state was never
    /// written, and that epoch is trained again.
    ///
    /// # Errors
    ///
    /// When the log cannot be read or written, or lacks one of these epochs.
    pub fn cut_log(&self, epochs: usize) -> Result<()> {
        let mut log = self.log()?;
        if log.len() < epochs {
            bail!(
                "{} has {} of the {epochs} epochs that {STATE} has seen; the folder is damaged",
                self.file("log.jsonl").display(),
                log.len()
            );
        }
        log.truncate(epochs);
        let mut text = String::new();
        for line in &log {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        self.write("log.jsonl", text.as_bytes())
    }
}

/// The list of runs in a folder that compares several: `runs.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// Their folders, in the order in which the losses were named.
    pub runs: Vec<String>,
}

impl Runs {
    /// The file's name.
    pub const NAME: &str = "runs.json";

    /// The list in a folder; none where the folder compares nothing.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            open::text(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let runs = serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        Ok(Some(runs))
    }
}

/// What is left in the folder of a run that was ended while it began: before there is a `run.toml` there is no run.
const UNBEGUN: [&str; 6] = [
    lock::LOCK,
    "split.json",
    "split.json.part",
    data_set::FILES,
    "files.json.part",
    "run.toml.part",
];

/// Refuses a folder that holds something already.
///
/// # Errors
///
/// One sentence that says what to do instead.
pub fn refuse_taken(path: &Path) -> Result<()> {
    let shown = path.display();
    if path.is_file() {
        bail!("{shown} is a file; name another folder with --out");
    }
    if path.join("run.toml").is_file() || path.join(Runs::NAME).is_file() {
        bail!(
            "{shown} holds a run already; name another folder with --out, or go on with it: seg-train resume {shown}"
        );
    }
    if !holds_only(path, |name| UNBEGUN.iter().any(|left| name == *left)) {
        bail!("{shown} is not empty; name another folder with --out");
    }
    Ok(())
}

/// Refuses a folder for several runs, by these names, that holds something already. Runs of which none was trained,
/// because the program was ended before all had begun, are nothing yet.
///
/// # Errors
///
/// Those of [`refuse_taken`].
pub fn refuse_taken_by_several(path: &Path, runs: &[String]) -> Result<()> {
    let untrained = |run: &Path| {
        holds_only(run, |name| {
            name == "run.toml" || UNBEGUN.iter().any(|left| name == *left)
        })
    };
    let has_begun = path.join(Runs::NAME).is_file();
    let holds_untrained = holds_only(path, |name| {
        name == "runs.json.part"
            || runs
                .iter()
                .any(|run| name == run.as_str() && untrained(&path.join(run)))
    });
    if path.is_dir() && !has_begun && holds_untrained {
        return Ok(());
    }
    refuse_taken(path)
}

/// Whether all names in a folder are such; there is none where there is no folder.
fn holds_only(path: &Path, such: impl Fn(&OsStr) -> bool) -> bool {
    fs::read_dir(path).map_or(true, |entries| {
        entries.flatten().all(|entry| such(&entry.file_name()))
    })
}

/// The first of `base`, `base-2`, `base-3`, … that is not there yet: where a run goes that was given no `--out`.
pub fn first_free(base: &Path) -> PathBuf {
    let mut path = base.to_path_buf();
    let mut number = 1;
    while path.exists() {
        number += 1;
        let mut name = base.as_os_str().to_owned();
        name.push(format!("-{number}"));
        path = PathBuf::from(name);
    }
    path
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A run folder that nothing else works on.
    pub(crate) fn folder(path: &Path) -> RunFolder {
        RunFolder::create(path, &Lock::take(path).unwrap()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn line(epoch: usize) -> EpochLine {
        EpochLine {
            epoch,
            loss: 0.1 + 0.2,
            val_loss: 1.0 / 3.0,
            val_dice: 0.75,
            lr: 0.1,
            best: true,
            skipped: 0,
            seconds: 1.5,
            images_per_second: 20.0,
        }
    }

    #[test]
    fn the_log_reads_back_to_the_last_bit_and_can_be_cut() {
        let dir = tempfile::tempdir().unwrap();
        let folder = testing::folder(&dir.path().join("run"));
        assert_eq!(folder.log().unwrap(), []);
        for epoch in 1..=3 {
            folder.append_log(&line(epoch)).unwrap();
        }
        assert_eq!(folder.log().unwrap(), [line(1), line(2), line(3)]);
        folder.cut_log(2).unwrap();
        assert_eq!(folder.log().unwrap(), [line(1), line(2)]);
        let error = folder.cut_log(5).unwrap_err().to_string();
        assert!(error.ends_with(
            "log.jsonl has 2 of the 5 epochs that state.safetensors has seen; the folder is damaged"
        ));
    }

    #[test]
    fn what_a_crash_left_of_a_line_is_left_out_and_damage_before_others_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = testing::folder(dir.path());
        folder.append_log(&line(1)).unwrap();
        let path = folder.file("log.jsonl");
        let whole = fs::read(&path).unwrap();
        for torn in [&b"{\"epoch\":2,\"lo"[..], b"\xff\0\n\n{}\n", b"\0\0\0"] {
            fs::write(&path, [&whole, torn].concat()).unwrap();
            assert_eq!(folder.log().unwrap(), [line(1)]);
            let followed = [torn, b"\n", &whole].concat();
            fs::write(&path, followed).unwrap();
            let error = folder.log().unwrap_err().to_string();
            assert_eq!(error, format!("{}, line 1", path.display()));
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        assert_eq!(
            refuse_taken(dir.path()).unwrap_err().to_string(),
            format!("{shown} is not empty; name another folder with --out")
        );
        fs::write(dir.path().join("run.toml"), "").unwrap();
        assert_eq!(
            refuse_taken(dir.path()).unwrap_err().to_string(),
            format!(
                "{shown} holds a run already; name another folder with --out, or go on with it: seg-train resume {shown}"
            )
        );
    }

    #[test]
    fn several_runs_of_which_none_was_trained_are_nothing_yet() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display();
        let names = ["ce".to_owned(), "dice".to_owned()];
        let refused = || refuse_taken_by_several(dir.path(), &names).map_err(|e| e.to_string());
        assert_eq!(refused(), Ok(()));
        for name in ["ce", "dice"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("run.toml"), "").unwrap();
        }
        fs::write(dir.path().join("ce/lock"), "").unwrap();
        assert_eq!(refused(), Ok(()));
        let taken = Err(format!(
            "{shown} is not empty; name another folder with --out"
        ));
        fs::write(dir.path().join("ce").join(STATE), "").unwrap();
        assert_eq!(refused(), taken);
        fs::remove_file(dir.path().join("ce").join(STATE)).unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        assert_eq!(refused(), taken);
        fs::write(dir.path().join(Runs::NAME), "").unwrap();
        assert_eq!(
            refused(),
            Err(format!(
                "{shown} holds a run already; name another folder with --out, or go on with it: seg-train resume {shown}"
            ))
        );
    }

    #[test]
    fn a_folder_without_run_toml_is_no_run_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            RunFolder::open(dir.path()).unwrap_err().to_string(),
            format!(
                "{} is no run folder: it has no run.toml; name a folder that a training run made",
                dir.path().display()
            )
        );
    }

    #[test]
    fn a_folder_of_several_runs_names_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(Runs::NAME),
            "{\"runs\": [\"ce\", \"dice\"]}",
        )
        .unwrap();
        let shown = dir.path().display();
        assert_eq!(
            RunFolder::open(dir.path()).unwrap_err().to_string(),
            format!("{shown} compares several runs; name one of them: {shown}/ce, {shown}/dice")
        );
    }

    #[test]
    fn the_first_free_name_counts_up() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("phantom-dice++-0");
        assert_eq!(first_free(&base), base);
        fs::create_dir(&base).unwrap();
        assert_eq!(first_free(&base), dir.path().join("phantom-dice++-0-2"));
    }

    #[test]
    fn the_record_knows_the_locked_candle() {
        let experiment = Preset::Phantom.experiment("phantom".parse().unwrap());
        let record = Record::of(&experiment).unwrap();
        assert_eq!(record.candle_core, "0.11.1");
        // On the CPU it has no key of a GPU's.
        let text = toml::to_string(&record).unwrap();
        assert!(
            !text.contains("gpu") && text.contains("instruction_set"),
            "{text}"
        );
    }

    #[test]
    fn a_run_on_a_gpu_says_which_and_no_instruction_set_is_asked_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder {
            path: dir.path().into(),
        };
        let experiment = Preset::Phantom.experiment("phantom".parse().unwrap());
        let mut record = Record::of(&experiment).unwrap();
        record.gpu = Some(Gpu {
            gpu: "NVIDIA H100".into(),
            compute_capability: "9.0".into(),
            cuda_driver: "13.0".into(),
            precision: "bf16".into(),
        });
        let text =
            experiment.to_toml().unwrap() + "[record]\n" + &toml::to_string(&record).unwrap();
        folder.write("run.toml", text.as_bytes()).unwrap();
        assert_eq!(folder.gpu().unwrap().unwrap(), "NVIDIA H100");
        assert_eq!(folder.instruction_set().unwrap(), None);
        let kept = folder.record().unwrap();
        assert_eq!(
            ["compute_capability", "cuda_driver", "precision"].map(|key| &kept[key][..]),
            ["9.0", "13.0", "bf16"]
        );
    }
}
