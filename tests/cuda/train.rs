//! Training on a GPU: the CPU's losses, its promises, and several runs at once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::AtomicBool,
};

use seg_train::{
    config::{Experiment, Layers, OnNan},
    data::Dataset,
    run_folder::{EpochLine, Lock, RunFolder},
    train::{Diverged, End, train},
};
use tempfile::TempDir;

/// Ten steps an epoch, a validation of four images.
const SMALL: [&str; 9] = [
    "recipe.epochs=5",
    "recipe.sgd.lr=0.01",
    "preprocess.size=[32, 32]",
    "unet.width=4",
    "unet.depth=2",
    "data.phantom.train=10",
    "data.phantom.val=4",
    "data.phantom.test=3",
    "recipe.batch=1",
];

fn experiment(device: &str, more: &[&str]) -> Experiment {
    let layers = Layers {
        device: Some(device.into()),
        set: SMALL.iter().chain(more).map(ToString::to_string).collect(),
        ..Layers::default()
    };
    let mut experiment = layers.resolve(Some("dice++")).unwrap();
    let data = Dataset::of(&experiment).unwrap();
    experiment.unet.in_channels = data.channels;
    experiment.unet.classes = data.classes;
    experiment
}

/// A run of an experiment and its folder.
struct Run {
    home: TempDir,
    experiment: Experiment,
}

impl Run {
    fn new(experiment: Experiment) -> Self {
        let home = TempDir::new().unwrap();
        Self { home, experiment }
    }

    fn folder(&self) -> RunFolder {
        let path = self.home.path().join("run");
        let held = Lock::take(&path).unwrap();
        RunFolder::open(&path).unwrap_or_else(|_| {
            let folder = RunFolder::create(&path, &held).unwrap();
            folder.write_experiment(&self.experiment).unwrap();
            folder
        })
    }

    fn go_on(&self, stop: bool) -> anyhow_free::Result {
        let data = Dataset::of(&self.experiment).unwrap();
        let stop = AtomicBool::new(stop);
        train(&self.experiment, &data, &self.folder(), &stop).map_err(|error| {
            let diverged = error.downcast_ref::<Diverged>().map(ToString::to_string);
            diverged.unwrap_or_else(|| panic!("{error:#}"))
        })
    }

    /// Trained to the end.
    fn trained(experiment: Experiment) -> Self {
        let run = Self::new(experiment);
        assert_eq!(run.go_on(false), Ok(End::Finished));
        run
    }

    fn log(&self) -> Vec<EpochLine> {
        self.folder().log().unwrap()
    }

    /// The numbers of the log, without times.
    fn numbers(&self) -> Vec<[f64; 4]> {
        let numbers = |line: EpochLine| [line.loss, line.val_loss, line.val_dice, line.lr];
        self.log().into_iter().map(numbers).collect()
    }

    /// The best weights and the state, which holds the weights, the velocities and the position; times are at its end.
    fn weights(&self) -> Vec<u8> {
        fs::read(self.folder().file("best.safetensors")).unwrap()
    }
}

mod anyhow_free {
    /// How a run ended, or why it diverged.
    pub(super) type Result = std::result::Result<super::End, String>;
}

/// Asserts that a run's losses follow the CPU's: those of the first epoch by `first`, all by `most`, relative. A rounding
/// grows with the steps, for a pixel at a threshold of a `ReLU` goes one way or the other.
#[track_caller]
fn assert_follows(gpu: &Run, cpu: &Run, first: f64, most: f64) {
    assert_eq!(gpu.log().len(), cpu.log().len());
    for (gpu, cpu) in gpu.log().into_iter().zip(cpu.log()) {
        let bound = if cpu.epoch == 1 { first } else { most };
        for (gpu, cpu) in [(gpu.loss, cpu.loss), (gpu.val_loss, cpu.val_loss)] {
            let far = ((gpu - cpu) / cpu).abs();
            assert!(far < bound, "{gpu} is {far} away from {cpu}");
        }
    }
}

#[test]
fn fifty_steps_follow_the_cpus_losses() {
    let cpu = Run::trained(experiment("cpu", &[]));
    for (precision, first, most) in [
        ("f32", 1e-5, 1e-3),
        ("tf32", 1e-3, 5e-2),
        ("bf16", 1e-2, 1e-1),
    ] {
        let set = format!("recipe.precision={precision}");
        let gpu = Run::trained(experiment("cuda", &[&set]));
        assert_follows(&gpu, &cpu, first, most);
    }
}

#[test]
fn batches_with_a_rest_clipped_gradients_and_pixels_of_no_class_follow_the_cpus_losses() {
    for more in [
        &["recipe.batch=4"][..],
        &["recipe.sgd.clip_norm=0.01"],
        &["recipe.on_nan=skip", "recipe.sgd.nesterov=false"],
        &["augment.outside=no-class", "recipe.batch=3"],
    ] {
        let more = [more, &["recipe.epochs=2"]].concat();
        let [cpu, gpu] = ["cpu", "cuda"].map(|device| Run::trained(experiment(device, &more)));
        assert_follows(&gpu, &cpu, 1e-5, 1e-3);
    }
}

#[test]
fn a_run_stopped_at_any_step_goes_on_to_the_same_bits() {
    let more = [
        "recipe.batch=4",
        "recipe.epochs=2",
        "recipe.sgd.clip_norm=0.5",
    ];
    let whole = Run::trained(experiment("cuda", &more));
    let cut = Run::new(experiment("cuda", &more));
    let mut stops = 0;
    while let End::Stopped(_) = cut.go_on(true).unwrap() {
        stops += 1;
        assert!(stops < 20);
    }
    assert!(stops >= 6, "{stops}");
    assert_eq!(whole.numbers(), cut.numbers());
    assert!(whole.weights() == cut.weights());
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_where_it_ends_on_the_cpu() {
    let more = ["recipe.sgd.lr=1e30"];
    let said = ["cpu", "cuda"].map(|device| {
        let run = Run::new(experiment(device, &more));
        let said = run.go_on(false).unwrap_err();
        // What is kept is the beginning.
        assert!(said.contains("keeps the state of the beginning"), "{said}");
        said
    });
    // Which loss, of which step and image.
    let place = |said: &str| said.split(" at learning rate").next().unwrap().to_owned();
    assert_eq!(place(&said[0]), place(&said[1]));
}

#[test]
fn steps_of_no_number_are_left_out() {
    let mut experiment = experiment("cuda", &[]);
    experiment.loss = "dice+ce:ce_weight=1e300".into();
    experiment.recipe.on_nan = OnNan::Skip;
    let said = Run::new(experiment).go_on(false).unwrap_err();
    assert!(
        said.starts_with(
            "all 10 steps of epoch 1 were left out, none having a number for its loss; "
        ),
        "{said}"
    );
}

const GRID: &str = "title = 'Small'
data = ['phantom']
losses = ['dice', 'dice++']
seeds = [0, 1]
[set]
recipe.epochs = 3
preprocess.size = [32, 32]
unet.width = 4
unet.depth = 2
data.phantom.train = 6
data.phantom.val = 2
data.phantom.test = 3
";

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::seg_train();
    command.args(arguments).current_dir(folder);
    command
}

#[track_caller]
fn ends(code: i32, command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(status.code(), Some(code), "{}{}", said[0], said[1]);
    said.concat()
}

/// The folders of a grid's runs.
fn runs(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out.join("runs")).unwrap();
    let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    runs.retain(|path| path.is_dir());
    runs.sort();
    runs
}

/// The best weights of a grid's runs, by the name of the run.
fn best(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |run: &Path| run.file_name().unwrap().to_str().unwrap().to_owned();
    runs(out)
        .iter()
        .map(|run| (name(run), fs::read(run.join("best.safetensors")).unwrap()))
        .collect()
}

#[test]
fn runs_side_by_side_on_one_gpu_and_on_several_have_the_bits_of_one_alone() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("grid.toml"), GRID).unwrap();
    let make = |out: &str, device: &str, jobs: &str| {
        let arguments = [
            "sweep",
            "grid.toml",
            "--device",
            device,
            "--jobs",
            jobs,
            "--out",
            out,
        ];
        let mut command = program(home.path(), &arguments);
        // Two GPUs where they are in software.
        command.env("SOFT_CUDA_DEVICES", "2");
        let said = ends(0, &mut command);
        assert!(said.contains("4 of 4 runs"), "{said}");
        let out = home.path().join(out);
        for run in runs(&out) {
            // Each run has a log of its own, a line an epoch.
            let log = fs::read_to_string(run.with_extension("").with_file_name(format!(
                "{}.log",
                run.file_name().unwrap().to_str().unwrap()
            )))
            .unwrap();
            assert_eq!(log.lines().count(), 3, "{log}");
            let text = fs::read_to_string(run.join("run.toml")).unwrap();
            for key in [
                "gpu = ",
                "compute_capability = ",
                "cuda_driver = ",
                "precision = \"f32\"",
            ] {
                assert!(text.contains(key), "{key} is not in {text}");
            }
        }
        best(&out)
    };
    let alone = make("alone", "cuda", "1");
    assert_eq!(alone.len(), 4);
    assert!(alone == make("beside", "cuda", "3"));
    assert!(alone == make("spread", "cuda:all", "1"));
}

#[test]
fn a_step_that_is_replayed_or_done_late_has_the_bits_of_one_that_is_launched() {
    let home = TempDir::new().unwrap();
    let arguments = |out| {
        let mut all: Vec<&str> = SMALL.iter().flat_map(|set| ["--set", set]).collect();
        all.extend([
            "--loss", "dice++", "--device", "cuda", "--batch", "4", "--out", out,
        ]);
        all
    };
    // In software, "late" does what is in a stream as late as it may: a buffer that is used again too early shows.
    for (out, graph, late) in [
        ("replayed", "on", "0"),
        ("launched", "off", "0"),
        ("late", "on", "1"),
    ] {
        let mut command = program(home.path(), &arguments(out));
        command.env("SOFT_CUDA_ASYNC", late);
        ends(0, command.env("SEG_TRAIN_CUDA_GRAPH", graph));
    }
    let read = |out: &str, file: &str| fs::read(home.path().join(out).join(file)).unwrap();
    for file in ["best.safetensors", "metrics.csv", "thresholds.csv"] {
        for other in ["launched", "late"] {
            assert!(
                read("replayed", file) == read(other, file),
                "{other}: {file}"
            );
        }
    }
    // The best weights again, on the GPU and on the CPU.
    for device in ["cuda", "cpu"] {
        let arguments = ["eval", "replayed", "--device", device, "--threshold", "0.5"];
        ends(0, &mut program(home.path(), &arguments));
    }
}

#[test]
fn a_run_that_fails_takes_none_of_those_beside_it_with_it() {
    let home = TempDir::new().unwrap();
    let grid = GRID.replace("'dice++'", "'dice+ce:ce_weight=1e300'");
    fs::write(home.path().join("grid.toml"), grid).unwrap();
    let arguments = ["sweep", "grid.toml", "--device", "cuda", "--out", "out"];
    let said = ends(1, &mut program(home.path(), &arguments));
    assert!(said.contains("2 of 4 runs are not done"), "{said}");
    assert_eq!(said.matches(": failed: the loss is ").count(), 2, "{said}");
    assert_eq!(said.matches(": done in ").count(), 2, "{said}");
}

#[test]
fn a_precision_is_a_gpus_and_a_gpu_that_is_not_there_is_counted() {
    let home = TempDir::new().unwrap();
    let refused = |arguments: &[&str]| {
        let all = [&["--loss", "ce", "--out", "out"], arguments].concat();
        let mut command = program(home.path(), &all);
        ends(2, command.env("SOFT_CUDA_DEVICES", "1"))
    };
    let said = refused(&["--precision", "bf16"]);
    assert_eq!(
        said,
        "error: recipe.precision is bf16 and the device is cpu, which computes in f32; train with --device cuda, or leave --precision out\n"
    );
    let said = refused(&["--precision", "fp8"]);
    assert!(
        said.contains("unknown precision `fp8`; expected f32, tf32 or bf16"),
        "{said}"
    );
    let said = refused(&["--device", "cuda:99"]);
    assert!(
        said.starts_with("error: device `cuda:99` cannot be opened: there ")
            && said.ends_with("; use one of these\n"),
        "{said}"
    );
}
