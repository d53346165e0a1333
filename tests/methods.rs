//! Runs that are more than one training or more than a softmax: scaled, fine-tuned, of several networks, with dropout, and
//! measured under shifts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// Keys of a tiny training on the built-in data set.
const TINY: [&str; 7] = [
    "recipe.epochs=3",
    "preprocess.size=[32, 32]",
    "unet.width=4",
    "unet.depth=2",
    "data.phantom.train=8",
    "data.phantom.val=3",
    "data.phantom.test=4",
];

#[track_caller]
fn ends(folder: &Path, code: i32, arguments: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, errors) = (text(output.stdout), text(output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {said}{errors}"
    );
    (said, errors)
}

/// The arguments of a tiny training with some more.
fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let keys = TINY.iter().flat_map(|key| ["--set", key]);
    more.iter().copied().chain(keys).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The mean of a metric of a run.
fn mean(run: &Path, metric: &str) -> f64 {
    let summary: serde_json::Value =
        serde_json::from_slice(&bytes(&run.join("summary.json"))).unwrap();
    let lines = summary["lines"].as_array().unwrap();
    let line = lines.iter().find(|line| line["metric"] == metric).unwrap();
    line["mean"].as_f64().unwrap()
}

const GRID: &str = "title = 'Ways'
data = ['phantom']
seeds = [0]
columns = ['nll', 'ece', 'dice']
losses = [
  { loss = 'dice', name = 'plain' },
  { loss = 'dice', name = 'warm', set = { inference.scaling = 'temperature' } },
  { loss = 'dice', name = 'both', set = { inference.members = 2, inference.scaling = 'vector' } },
  { loss = 'dice', name = 'tuned', set = { recipe.fine_tune = { loss = 'ce', epochs = 2, lr = 0.01 } } },
  { loss = 'dice', name = 'dropped', set = { recipe.dropout = 0.3, inference.samples = 3 } },
  { loss = 'dice', name = 'smooth', set = { recipe.label_smoothing = 0.1 } },
  { loss = 'dice', name = 'watched', set = { recipe.calibration_term = { weight = 1.0 }, recipe.watch = true } },
]
[set]
metrics.shift = true
";

/// The folder of the run of a grid's only data set, loss and seed with a text in its `run.toml`.
fn run_with(out: &Path, text: &str) -> PathBuf {
    let runs = fs::read_dir(out.join("runs")).unwrap();
    let mut found = runs.map(|run| run.unwrap().path()).filter(|run| {
        fs::read_to_string(run.join("run.toml")).is_ok_and(|toml| toml.contains(text))
    });
    let run = found.next().unwrap_or_else(|| panic!("no run has {text}"));
    assert!(found.next().is_none(), "several runs have {text}");
    run
}

#[test]
fn each_way_is_a_row_of_a_grid_and_one_training_serves_those_that_share_it() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("ways.toml"), GRID).unwrap();
    let (_, errors) = ends(home.path(), 0, &tiny(&["sweep", "ways.toml"]));
    assert!(errors.contains("7 of 7 runs"), "{errors}");
    let out = home.path().join("runs/ways");
    let warm = run_with(&out, "scaling = \"temperature\"");
    let both = run_with(&out, "members = 2");
    let tuned = run_with(&out, "[recipe.fine_tune]");
    let plain = fs::read_dir(out.join("runs"))
        .unwrap()
        .map(|run| run.unwrap().path())
        .find(|run| {
            fs::read_to_string(run.join("run.toml")).is_ok_and(|toml| {
                let others = ["inference", "fine_tune", "dropout", "smoothing", "watch"];
                !others.iter().any(|other| toml.contains(other))
            })
        })
        .unwrap();

    // One training: that of the plain run.
    for shared in [&warm, &both] {
        for file in ["best.safetensors", "log.jsonl", "state.safetensors"] {
            assert_eq!(
                bytes(&plain.join(file)),
                bytes(&shared.join(file)),
                "{file}"
            );
        }
    }
    assert_eq!(
        bytes(&plain.join("best.safetensors")),
        bytes(&tuned.join("first/best.safetensors"))
    );
    // Another network each.
    assert_ne!(
        bytes(&both.join("best.safetensors")),
        bytes(&both.join("member-1/best.safetensors"))
    );
    assert_ne!(
        bytes(&tuned.join("best.safetensors")),
        bytes(&tuned.join("first/best.safetensors"))
    );

    // A temperature moves probabilities, and no pixel to another class.
    assert_eq!(
        mean(&plain, "dice").to_bits(),
        mean(&warm, "dice").to_bits()
    );
    assert_ne!(mean(&plain, "nll"), mean(&warm, "nll"));
    let fitted: toml::Table = String::from_utf8(bytes(&warm.join("scaling.toml")))
        .unwrap()
        .parse()
        .unwrap();
    let number = |key: &str| fitted[key].as_float().unwrap();
    assert!(number("nll_after") <= number("nll_before"));

    // Five corruptions at five strengths of four images, and the header.
    let shift = String::from_utf8(bytes(&warm.join("shift.csv"))).unwrap();
    assert_eq!(shift.lines().count(), 1 + 25 * 4);
    let watched = run_with(&out, "watch = true");
    let steps = String::from_utf8(bytes(&watched.join("steps.csv"))).unwrap();
    assert_eq!(steps.lines().count(), 1 + 3 * 8);

    let page = fs::read_to_string(out.join("report/index.html")).unwrap();
    for id in ["ways", "ways-shift-nll", "ways-gradients"] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    let table = fs::read_to_string(out.join("report/ways.md")).unwrap();
    for row in ["plain", "warm", "both", "tuned", "dropped", "smooth"] {
        assert!(table.contains(row), "{row} in {table}");
    }
    assert!(!table.contains("Jaccard"), "{table}");
}

#[test]
fn a_broken_off_ensemble_of_fine_tuned_networks_goes_on_to_the_same_bits() {
    let home = TempDir::new().unwrap();
    let run = home.path().join("run");
    let more = [
        "--loss",
        "dice++",
        "--out",
        "run",
        "--set",
        "inference.members=2",
        "--set",
        "recipe.fine_tune={ loss = \"ce\", epochs = 2, lr = 0.01 }",
    ];
    ends(home.path(), 0, &tiny(&more));
    let weights = [
        "best.safetensors",
        "first/best.safetensors",
        "member-1/best.safetensors",
        "member-1/first/best.safetensors",
    ];
    let end = |files: &[&str]| files.iter().map(|file| bytes(&run.join(file))).collect();
    let whole: Vec<Vec<u8>> = end(&weights);
    let numbers = bytes(&run.join("metrics.csv"));
    for (at, one) in whole.iter().enumerate() {
        assert!(!whole[..at].contains(one), "{} is another's", weights[at]);
    }

    // As if it had been ended in the second network's second training: nothing of the run's own, which comes last.
    for file in [
        "summary.json",
        "metrics.csv",
        "state.safetensors",
        "log.jsonl",
        "best.safetensors",
    ] {
        fs::remove_file(run.join(file)).unwrap();
        if file != "summary.json" && file != "metrics.csv" {
            fs::remove_file(run.join("member-1").join(file)).unwrap();
        }
    }
    ends(home.path(), 0, &["resume", "run"]);
    let again: Vec<Vec<u8>> = end(&weights);
    assert!(whole == again, "the weights differ");
    assert_eq!(numbers, bytes(&run.join("metrics.csv")));

    // An ensemble predicts with all of its networks.
    fs::remove_file(run.join("member-1/best.safetensors")).unwrap();
    let (_, error) = ends(home.path(), 1, &["eval", "run"]);
    assert!(
        error.contains("member-1 has lost its best.safetensors"),
        "{error}"
    );
}

#[test]
fn a_trained_run_is_scaled_into_a_run_of_its_own() {
    let home = TempDir::new().unwrap();
    ends(home.path(), 0, &tiny(&["--loss", "dice", "--out", "run"]));
    let before = bytes(&home.path().join("run/summary.json"));
    let (said, _) = ends(home.path(), 0, &["scale", "run"]);
    assert!(
        said.contains("T = ") && said.contains("fitted on 3 validation images"),
        "{said}"
    );
    let scaled = home.path().join("run-temperature");
    assert_eq!(
        bytes(&home.path().join("run/best.safetensors")),
        bytes(&scaled.join("best.safetensors"))
    );
    assert_eq!(before, bytes(&home.path().join("run/summary.json")));
    // Everything that looks through it uses the scaling: evaluated again, it comes to the same numbers.
    let numbers = bytes(&scaled.join("metrics.csv"));
    ends(home.path(), 0, &["eval", "run-temperature"]);
    assert_eq!(numbers, bytes(&scaled.join("metrics.csv")));
    assert_ne!(numbers, bytes(&home.path().join("run/metrics.csv")));

    let refused = |code, arguments: &[&str], sentence: &str| {
        let (_, error) = ends(home.path(), code, arguments);
        assert_eq!(error, format!("error: {sentence}\n"));
    };
    refused(
        2,
        &["scale", "run-temperature"],
        "run-temperature is scaled already (dice, temperature scaling); name the run that it was made from",
    );
    refused(
        2,
        &["scale", "run", "--method", "none"],
        "--method none scales nothing; name temperature or vector",
    );
    fs::remove_file(home.path().join("run/summary.json")).unwrap();
    refused(
        2,
        &["scale", "run"],
        "run is not done: it has no summary.json; bring it to its end first: seg-train resume run",
    );
    fs::remove_file(scaled.join("scaling.toml")).unwrap();
    refused(
        1,
        &["predict", "run-temperature", "x.png", "--out", "found"],
        "run-temperature/scaling.toml is not there, and the run scales its logits by it; fit it anew: seg-train resume run-temperature",
    );
}
