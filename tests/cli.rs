//! The program as a user calls it: arguments in; tables, files, one error line and an exit code out.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use image::{GrayImage, Luma, Rgb, RgbImage};
use seg_train::{
    metrics::{EmptyMask, ThresholdSweep},
    report::document::rounded,
    run_folder::tables,
};
use tempfile::TempDir;

/// Runs the program in a folder.
fn seg_train(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Runs the program, which must succeed, and gives what it printed.
#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = seg_train(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail with this code and one error line that has all these parts, the last it says.
#[track_caller]
fn fails(folder: &Path, code: i32, arguments: &[&str], parts: &[&str]) {
    let output = seg_train(folder, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    let said: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(said.len(), 1, "{arguments:?}: {errors}");
    assert_eq!(errors.lines().last(), Some(said[0]), "{errors}");
    // Nothing has begun when the arguments make no sense, so there is nothing else to say.
    assert!(code == 1 || errors.lines().count() == 1, "{errors}");
    assert!(
        !errors.contains("panicked") && !errors.contains("backtrace"),
        "{errors}"
    );
    for part in parts {
        assert!(said[0].contains(part), "`{part}` is not in: {}", said[0]);
    }
}

/// The least run that is a run: seconds, not minutes. The epochs are each test's own.
const TINY: &[&str] = &[
    "--size",
    "16x16",
    "--set",
    "unet.width=2",
    "--set",
    "unet.depth=2",
    "--set",
    "data.phantom.train=6",
    "--set",
    "data.phantom.val=2",
    "--set",
    "data.phantom.test=3",
];

fn with<'a>(tiny: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [tiny, more].concat()
}

/// `images/` and `masks/` of a bright square on dark ground, `count` of them.
fn squares(folder: &Path, count: u32) {
    for name in ["images", "masks"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for i in 0..count {
        let inside = |x: u32, y: u32| (4 + i % 3..14 + i % 3).contains(&x) && (5..15).contains(&y);
        let image = RgbImage::from_fn(24, 20, |x, y| {
            let noise = ((x * 7 + y * 13 + i * 5) % 11) as u8;
            Rgb([if inside(x, y) { 200 } else { 40 } + noise, 90 + noise, 60])
        });
        let mask = GrayImage::from_fn(24, 20, |x, y| Luma([if inside(x, y) { 255 } else { 0 }]));
        image.save(folder.join(format!("images/{i}.png"))).unwrap();
        mask.save(folder.join(format!("masks/{i}.png"))).unwrap();
    }
}

#[test]
fn a_run_prints_its_table_and_leaves_everything_in_its_folder() {
    let home = TempDir::new().unwrap();
    let said = succeeds(
        home.path(),
        &with(
            TINY,
            &[
                "--loss",
                "focal-tversky++",
                "--out",
                "run",
                "--seed",
                "3",
                "--epochs",
                "2",
            ],
        ),
    );
    for metric in [
        "Dice",
        "Jaccard",
        "precision",
        "recall",
        "NLL",
        "Brier",
        "ECE",
        "excess NLL",
    ] {
        assert!(
            said.to_lowercase().contains(&metric.to_lowercase()),
            "no {metric} in\n{said}"
        );
    }
    assert_eq!(said.lines().last(), Some("run"));
    let run = home.path().join("run");
    for file in [
        "run.toml",
        "log.jsonl",
        "best.safetensors",
        "state.safetensors",
        "metrics.csv",
        "thresholds.csv",
        "reliability.csv",
        "summary.json",
        "curves.png",
        "examples.png",
    ] {
        assert!(
            run.join(file).metadata().is_ok_and(|file| file.len() > 0),
            "{file}"
        );
    }
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["loss"].as_f64().unwrap().is_finite());
    }
    let rows = fs::read_to_string(run.join("metrics.csv")).unwrap();
    assert_eq!(
        rows.lines().count(),
        1 + 3,
        "a header and a row a test image"
    );
    the_tables_agree(&run);
    let config: toml::Table = fs::read_to_string(run.join("run.toml"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(config["seed"].as_integer(), Some(3));
    assert_eq!(config["unet"]["width"].as_integer(), Some(2));
    for picture in ["curves.png", "examples.png"] {
        assert!(image::open(run.join(picture)).unwrap().width() > 200);
    }
}

/// The counts at ½ make the overlaps of `metrics.csv`, the bins hold every pixel, and `summary.json` came last.
fn the_tables_agree(run: &Path) {
    let rows = tables::read_rows(&run.join("metrics.csv")).unwrap();
    let images = tables::read_thresholds(&run.join("thresholds.csv")).unwrap();
    assert_eq!(images.len(), rows.len());
    for (row, image) in rows.iter().zip(&images) {
        let thresholds: Vec<f64> = image.counts.iter().map(|(t, _)| *t).collect();
        assert_eq!(thresholds, ThresholdSweep::even(20).thresholds());
        let (_, half) = image.counts[9];
        let empty = EmptyMask::default();
        assert_eq!(
            (&image.id, half.dice(empty), half.recall(empty)),
            (&row.id, row.dice, row.recall)
        );
    }
    let bins = tables::read_reliability(&run.join("reliability.csv")).unwrap();
    assert_eq!(bins.len(), 15);
    assert_eq!(bins.iter().map(|bin| bin.pixels).sum::<u64>(), 3 * 16 * 16);
    let written = |file: &str| run.join(file).metadata().unwrap().modified().unwrap();
    for file in fs::read_dir(run).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        // The lock is given back after all.
        assert!(
            name == "lock" || written(&name) <= written("summary.json"),
            "{name}"
        );
    }
}

#[test]
fn equal_seeds_give_equal_bits_and_a_resumed_run_those_of_an_unbroken_one() {
    let home = TempDir::new().unwrap();
    let bits = |run: &str| fs::read(home.path().join(run).join("best.safetensors")).unwrap();
    let train = |out: &str, seed: &str, epochs: &str| {
        let arguments = [
            "--loss", "dice++", "--out", out, "--seed", seed, "--epochs", epochs,
        ];
        succeeds(home.path(), &with(TINY, &arguments));
    };
    train("a", "0", "2");
    train("b", "0", "2");
    assert_eq!(bits("a"), bits("b"));
    train("c", "1", "2");
    assert_ne!(bits("a"), bits("c"));

    // A run of one epoch whose configuration is then given a second one stands for a run that was cut off.
    train("d", "0", "1");
    let config = home.path().join("d/run.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("epochs = 1"));
    fs::write(&config, text.replace("epochs = 1", "epochs = 2")).unwrap();
    succeeds(home.path(), &["resume", "d"]);
    assert_eq!(bits("a"), bits("d"));
    let state = |run: &str| fs::read(home.path().join(run).join("state.safetensors")).unwrap();
    assert_eq!(state("a"), state("d"), "weights, momentum and counters");
    let metrics =
        |run: &str| fs::read_to_string(home.path().join(run).join("metrics.csv")).unwrap();
    assert_eq!(metrics("a"), metrics("d"));
}

/// Ctrl-C in the middle of a run: the program says how to go on, and going on ends with the bits of an unbroken run.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let home = TempDir::new().unwrap();
    let arguments = |out| with(TINY, &["--loss", "dice++", "--epochs", "40", "--out", out]);
    succeeds(home.path(), &arguments("whole"));
    let child = Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"))
        .args(arguments("cut"))
        .current_dir(home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line of the log: it has begun, and is far from done.
    let log = home.path().join("cut/log.jsonl");
    while !fs::metadata(&log).is_ok_and(|file| file.len() > 0) {
        thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("seg-train resume cut"), "{said}");
    let epochs = fs::read_to_string(&log).unwrap().lines().count();
    assert!(epochs < 40, "it was over before it could be interrupted");
    succeeds(home.path(), &["resume", "cut"]);
    for file in ["best.safetensors", "state.safetensors", "metrics.csv"] {
        let bits = |run: &str| fs::read(home.path().join(run).join(file)).unwrap();
        assert_eq!(bits("whole"), bits("cut"), "{file}");
    }
}

#[test]
fn a_run_that_has_lost_its_state_keeps_its_log() {
    let home = TempDir::new().unwrap();
    let arguments = ["--loss", "dice++", "--out", "run", "--epochs", "2"];
    succeeds(home.path(), &with(TINY, &arguments));
    let run = home.path().join("run");
    let log = fs::read(run.join("log.jsonl")).unwrap();
    fs::remove_file(run.join("state.safetensors")).unwrap();
    fails(
        home.path(),
        1,
        &["resume", "run"],
        &[
            "run has a log of 2 epochs and no state.safetensors to go on from; restore that file, or train the run anew \
           with another --out",
        ],
    );
    assert_eq!(fs::read(run.join("log.jsonl")).unwrap(), log);
}

#[test]
fn a_state_of_another_experiment_is_refused_with_what_differs() {
    let home = TempDir::new().unwrap();
    let arguments = ["--loss", "dice++", "--out", "run", "--epochs", "1"];
    succeeds(home.path(), &with(TINY, &arguments));
    let config = home.path().join("run/run.toml");
    let text = fs::read_to_string(&config).unwrap();
    for (then, now, said) in [
        (
            "\nlr = 0.1\n",
            "\nlr = 0.2\n",
            "recipe.sgd.lr was 0.1 and is 0.2",
        ),
        ("width = 2", "width = 4", "unet.width was 2 and is 4"),
        ("seed = 0", "seed = 1", "seed was 0 and is 1"),
    ] {
        assert!(text.contains(then), "{then} in {text}");
        fs::write(&config, text.replace(then, now)).unwrap();
        let sentence = format!(
            "run/state.safetensors: it was written for another experiment: {said}; put run.toml back as it was, or train \
             another run"
        );
        fails(home.path(), 1, &["resume", "run"], &[&sentence]);
    }
    fs::write(&config, &text).unwrap();
    succeeds(home.path(), &["resume", "run"]);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_or_is_left_out_as_asked() {
    let home = TempDir::new().unwrap();
    let wild = [
        "--loss",
        "dice++",
        "--epochs",
        "2",
        "--set",
        "recipe.sgd.lr=1e30",
    ];
    let train = |out, more: &[&'static str]| with(TINY, &with(&with(&wild, more), &["--out", out]));
    fails(
        home.path(),
        1,
        &train("stop", &[]),
        &[
            "the loss is NaN in epoch 1, step 2 (image phantom-",
            ") at learning rate ",
            ", with weights of norm ",
            " and velocities of norm ",
            ", logits up to NaN; stop keeps the state of the beginning; train again with a lower rate (--set \
             recipe.sgd.lr=",
            ") or with clipped gradients (--clip-norm 1), or leave such steps out: seg-train resume stop --on-nan skip",
        ],
    );
    // All weights are vast: what is left out saves nothing, and validation says so.
    let output = seg_train(home.path(), &["resume", "stop", "--on-nan", "skip"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("; the step is left out\n"), "{said}");
    assert!(
        said.contains("error: the validation loss is NaN in epoch 1"),
        "{said}"
    );
    let config = fs::read_to_string(home.path().join("stop/run.toml")).unwrap();
    assert!(config.contains("on_nan = \"skip\""), "{config}");
    // A gradient of the length 1e-30 is one that this rate suits.
    succeeds(home.path(), &train("clipped", &["--clip-norm", "1e-30"]));
}

#[test]
fn a_data_set_that_has_changed_is_neither_evaluated_nor_gone_on_with() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("squares");
    squares(&path, 8);
    let arguments = [
        "--loss",
        "dice++",
        "--data",
        "folder:squares",
        "--size",
        "16x24",
        "--epochs",
        "1",
        "--set",
        "unet.width=2",
        "--set",
        "unet.depth=2",
        "--out",
        "run",
    ];
    succeeds(home.path(), &arguments);
    let metrics = || fs::read(home.path().join("run/metrics.csv")).unwrap();
    let before = metrics();
    squares(&path, 14);
    for command in [
        &["eval", "run"][..],
        &["resume", "run"],
        &["threshold", "run", "--f-beta", "1"],
    ] {
        fails(
            home.path(),
            1,
            command,
            &["has changed since the run began", "restore the folder"],
        );
    }
    assert_eq!(metrics(), before);
}

#[test]
fn several_losses_are_trained_and_compared() {
    let home = TempDir::new().unwrap();
    let said = succeeds(
        home.path(),
        &with(
            TINY,
            &[
                "--loss",
                "focal-tversky",
                "--loss",
                "focal-tversky++",
                "--out",
                "both",
                "--epochs",
                "1",
            ],
        ),
    );
    assert!(said.contains("focal-tversky++"));
    for file in [
        "comparison.json",
        "comparison.md",
        "focal-tversky/summary.json",
        "focal-tversky++/summary.json",
    ] {
        assert!(home.path().join("both").join(file).is_file(), "{file}");
    }
    let comparison: serde_json::Value = serde_json::from_str(
        &fs::read_to_string(home.path().join("both/comparison.json")).unwrap(),
    )
    .unwrap();
    assert!(comparison.to_string().contains("excess"));
}

/// A file of JSON, and a page beside it.
fn numbers_and_page(folder: &Path, name: &str) -> (serde_json::Value, String) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (
        serde_json::from_str(&read(name)).unwrap(),
        read("index.html"),
    )
}

/// A number of JSON and its interval as a page shows them, the brackets below the number.
fn as_shown(number: &serde_json::Value, interval: &serde_json::Value) -> String {
    let ends = interval
        .as_array()
        .map(|ends| [0, 1].map(|at| ends[at].as_f64().unwrap()));
    let text = rounded(number.as_f64().unwrap(), ends);
    match text.split_once(" (") {
        Some((above, below)) => {
            format!("<td class=\"right\">{above}<span class=\"below\"> ({below}</span></td>")
        }
        None => format!("<td class=\"right\">{text}</td>"),
    }
}

#[test]
fn pages_of_one_run_and_of_several_show_the_numbers_that_lie_beside_them() {
    let home = TempDir::new().unwrap();
    let train = "--loss dice --loss ce --epochs 2 --out both".split(' ');
    succeeds(home.path(), &with(TINY, &train.collect::<Vec<_>>()));

    let said = succeeds(home.path(), &["calibrate", "both/dice"]);
    assert_eq!(
        said.lines().last(),
        Some("both/dice/calibration/index.html")
    );
    let folder = home.path().join("both/dice/calibration");
    let (numbers, page) = numbers_and_page(&folder, "calibration.json");
    let findings = numbers["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 5, "{findings:?}");
    for finding in findings {
        let sentence = finding["sentence"].as_str().unwrap();
        assert!(said.contains(sentence), "{said}");
        assert!(
            page.contains(&sentence.replace('\'', "&#39;")),
            "{sentence}"
        );
        let deviation = &finding["deviation"];
        if !deviation.is_null() {
            let shown = as_shown(&deviation["mean"], &deviation["interval"]);
            assert!(page.contains(&shown), "{shown}");
        }
    }
    let calibration = &numbers["calibration"];
    for number in [
        &calibration["nll"],
        &calibration["brier"]["resolution"],
        &calibration["views"][0]["equal_width"]["ece"],
        &calibration["views"][0]["equal_mass"]["mce"],
        &calibration["truth"]["absolute"],
    ] {
        let shown = as_shown(number, &serde_json::Value::Null);
        assert!(page.contains(&shown), "{shown}");
    }
    for id in [
        "findings",
        "promises",
        "reliability",
        "histogram",
        "thresholds",
        "scores",
        "errors",
        "worst",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    let lines = |file: &str| {
        fs::read_to_string(folder.join(file))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(
        (lines("images.csv"), lines("reliability.csv")),
        (1 + 3, 1 + 4 * 15)
    );
    // Nothing is written over.
    let again = succeeds(home.path(), &["calibrate", "both/dice"]);
    assert_eq!(
        again.lines().last(),
        Some("both/dice/calibration-2/index.html")
    );
    let second = fs::read_to_string(home.path().join("both/dice/calibration-2/index.html"));
    assert!(second.unwrap() == page, "the same run gives the same page");

    let said = succeeds(home.path(), &["compare", "both", "--out", "beside"]);
    assert_eq!(said.lines().last(), Some("beside/index.html"));
    let (numbers, page) = numbers_and_page(&home.path().join("beside"), "compare.json");
    assert_eq!(numbers["against"], "dice");
    let comparisons = numbers["comparisons"].as_array().unwrap();
    // After two epochs a network may predict no foreground at all, which has no surface; the page says so.
    let surface = page.contains("no image has the figure for both: HD95 of ce.");
    assert_eq!(
        comparisons.len(),
        10 - usize::from(surface),
        "{comparisons:?}"
    );
    for one in comparisons {
        let shown = as_shown(&one["difference"], &one["interval"]);
        assert!(page.contains(&shown), "{shown} of {one}");
        let difference = one["mean"].as_f64().unwrap() - one["mean_against"].as_f64().unwrap();
        assert!(
            (difference - one["difference"].as_f64().unwrap()).abs() < 1e-12,
            "{one}"
        );
        // Three images decide nothing.
        assert_eq!(one["side"], "undecided");
    }
    assert!(
        said.starts_with("ce against dice: undecided in Dice, NLL, "),
        "{said}"
    );
    let csv = fs::read_to_string(home.path().join("beside/differences.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + comparisons.len());
    assert!(
        fs::read_to_string(home.path().join("beside/tables.md"))
            .unwrap()
            .contains("What it costs")
    );

    let turned = ["compare", "both", "--against", "ce", "--out", "turned"];
    assert!(succeeds(home.path(), &turned).starts_with("dice against ce: "));
}

#[test]
fn what_cannot_be_compared_is_told_from_the_first_image_that_differs() {
    let home = TempDir::new().unwrap();
    for (loss, seed, out) in [
        ("dice", "0", "dice-0"),
        ("ce", "1", "ce"),
        ("dice", "1", "dice-1"),
    ] {
        let train = [
            "--loss", loss, "--seed", seed, "--epochs", "1", "--out", out,
        ];
        succeeds(home.path(), &with(TINY, &train));
    }
    fails(
        home.path(),
        1,
        &["compare", "dice-0", "ce"],
        &[
            "dice-0 was tested on the image phantom-",
            " of seed 0 and ce was not; compare runs of one data set",
        ],
    );
    let usage: [(&[&str], &str); 4] = [
        (
            &["compare", "ce", "ce"],
            "ce and ce are one experiment with one seed, 1; name one of them",
        ),
        (
            &["compare", "dice-0", "dice-1"],
            "there is nothing to compare: dice is one method with 2 seeds",
        ),
        (
            &["compare", "ce", "dice-1", "--against", "x"],
            "--against x is none of the methods, which are ce, dice-1;",
        ),
        (
            &["compare", "ce", "dice-1", "--out", "ce"],
            "ce holds a run already",
        ),
    ];
    for (arguments, part) in usage {
        fails(home.path(), 2, arguments, &[part]);
    }
    fails(
        home.path(),
        1,
        &["calibrate", "nowhere"],
        &["nowhere is no run folder"],
    );
    fails(
        home.path(),
        2,
        &["calibrate", "ce", "--out", "dice-0"],
        &["dice-0 holds a run already"],
    );
}

#[test]
fn predict_writes_masks_and_probabilities_for_files_and_folders_of_any_size() {
    let home = TempDir::new().unwrap();
    succeeds(
        home.path(),
        &with(TINY, &["--loss", "dice++", "--out", "run", "--epochs", "1"]),
    );
    let unseen = home.path().join("unseen");
    fs::create_dir(&unseen).unwrap();
    GrayImage::from_fn(33, 21, |x, y| Luma([(x * 5 + y) as u8]))
        .save(unseen.join("odd size.png"))
        .unwrap();
    RgbImage::from_fn(16, 40, |x, y| Rgb([x as u8, y as u8, 7]))
        .save(unseen.join("colour.jpg"))
        .unwrap();
    succeeds(
        home.path(),
        &[
            "predict",
            "run",
            "unseen",
            "--out",
            "found",
            "--threshold",
            "0.3",
        ],
    );
    for (name, size) in [("odd size", (33, 21)), ("colour", (16, 40))] {
        let open = |what: &str| {
            image::open(home.path().join(format!("found/{name}_{what}.png")))
                .unwrap()
                .to_luma8()
        };
        let (mask, probability) = (open("mask"), open("probability"));
        assert_eq!(mask.dimensions(), size);
        assert_eq!(probability.dimensions(), size);
        for (mask, p) in mask.pixels().zip(probability.pixels()) {
            // Half a grey step is what 8 bits cannot tell.
            let p = f64::from(p.0[0]) / 255.0;
            assert!(
                (p - 0.3).abs() < 0.5 / 255.0 + 1e-9 || (p >= 0.3) == (mask.0[0] == 255),
                "{name}: {p}"
            );
        }
    }
    // A bad file is named, the others are done all the same.
    fs::write(unseen.join("torn.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    let output = seg_train(home.path(), &["predict", "run", "unseen", "--out", "again"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("torn.png"));
    assert!(home.path().join("again/colour_mask.png").is_file());
}

#[test]
fn a_threshold_is_chosen_on_the_validation_set_and_used_by_predict() {
    let home = TempDir::new().unwrap();
    let arguments = ["--loss", "dice++", "--out", "run", "--epochs", "2"];
    succeeds(home.path(), &with(TINY, &arguments));
    let unseen = home.path().join("unseen.png");
    GrayImage::from_fn(33, 21, |x, y| Luma([(x * 5 + y) as u8]))
        .save(&unseen)
        .unwrap();
    let predict = |out: &str, more: &[&str]| {
        succeeds(
            home.path(),
            &with(&["predict", "run", "unseen.png", "--out", out], more),
        )
    };
    let said = predict("at-one-half", &[]);
    assert_eq!(
        said.lines().next(),
        Some(
            "foreground is p ≥ 0.5, since the run has no threshold.toml and --threshold is not given"
        )
    );

    // Two epochs reach a precision of no use; every network has some recall.
    let said = succeeds(home.path(), &["threshold", "run", "--target-recall", "0.3"]);
    let file = home.path().join("run/threshold.toml");
    let chosen: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    let t = chosen["threshold"].as_float().unwrap();
    assert!(chosen["validation"].as_float().unwrap() >= 0.3);
    assert_eq!(chosen["images"].as_integer(), Some(2));
    assert_eq!(chosen["target"]["recall"].as_float(), Some(0.3));
    assert!(
        said.starts_with(&format!(
            "T = {t}, for a mean recall of at least 0.3 on 2 validation images ({:.4}); predict will use it\n",
            chosen["validation"].as_float().unwrap()
        )),
        "{said}"
    );
    assert_eq!(said.lines().last(), Some("run/threshold.toml"));
    for (set, images) in [("validation", "2"), ("test", "3")] {
        let rows: Vec<&str> = said.lines().filter(|line| line.starts_with(set)).collect();
        assert_eq!(rows.len(), 2, "{said}");
        assert!(rows.iter().all(|row| row.ends_with(images)), "{said}");
    }
    // The table's recall at T on the test set is that of an evaluation at T.
    succeeds(home.path(), &["eval", "run", "--threshold", &t.to_string()]);
    let summary = home
        .path()
        .join(format!("run/eval-phantom-threshold-{t}/summary.json"));
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap();
    let lines = summary["lines"].as_array().unwrap();
    let recall = lines
        .iter()
        .find(|line| line["metric"] == "recall")
        .unwrap();
    let at_t = said
        .lines()
        .find(|line| {
            line.starts_with("test") && line.split_whitespace().nth(1) == Some(&t.to_string())
        })
        .unwrap();
    let shown: f64 = at_t.split_whitespace().nth(2).unwrap().parse().unwrap();
    let expected = recall["mean"].as_f64().unwrap();
    assert!((shown - expected).abs() < 1e-4, "{shown} and {expected}");

    let said = predict("as-chosen", &[]);
    assert_eq!(
        said.lines().next(),
        Some(&*format!(
            "foreground is p ≥ {t}, by run/threshold.toml: chosen for a mean recall of at least 0.3 on the validation set"
        ))
    );
    predict("as-given", &["--threshold", &t.to_string()]);
    let mask = |out: &str| fs::read(home.path().join(out).join("unseen_mask.png")).unwrap();
    assert_eq!(mask("as-chosen"), mask("as-given"));
    let said = predict("given", &["--threshold", "0.001"]);
    assert_eq!(
        said.lines().next(),
        Some("foreground is p ≥ 0.001, by --threshold")
    );
    assert_ne!(mask("as-chosen"), mask("given"));
}

#[test]
fn a_target_out_of_reach_is_refused_with_what_can_be_reached() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("grey");
    for name in ["images", "masks"] {
        fs::create_dir_all(path.join(name)).unwrap();
    }
    // Equal images whose masks have no pixel in common: what is right on one is wrong on all others.
    for i in 0..20 {
        let mask = GrayImage::from_fn(20, 16, |x, _| Luma([if x == i { 255 } else { 0 }]));
        let image = GrayImage::from_pixel(20, 16, Luma([90]));
        image.save(path.join(format!("images/{i}.png"))).unwrap();
        mask.save(path.join(format!("masks/{i}.png"))).unwrap();
    }
    let arguments = [
        "--loss",
        "dice++",
        "--data",
        "folder:grey",
        "--size",
        "16x24",
        "--epochs",
        "1",
        "--set",
        "unet.width=2",
        "--set",
        "unet.depth=2",
        "--out",
        "run",
    ];
    succeeds(home.path(), &arguments);
    fails(
        home.path(),
        1,
        &["threshold", "run", "--target-precision", "0.9"],
        &[
            "no threshold from 0.001 to 0.999 gives a mean precision of at least 0.9 on the ",
            " validation images: the highest is 0.",
            "; ask for less",
        ],
    );
    assert!(!home.path().join("run/threshold.toml").exists());
}

#[test]
fn a_folder_of_pairs_trains_and_is_evaluated_again() {
    let home = TempDir::new().unwrap();
    squares(&home.path().join("squares"), 10);
    let arguments = [
        "--loss",
        "combo++",
        "--data",
        "folder:squares",
        "--preset",
        "paper",
        "--size",
        "16x24",
        "--epochs",
        "1",
        "--batch",
        "2",
        "--set",
        "unet.width=2",
        "--set",
        "unet.depth=2",
        "--out",
        "run",
    ];
    succeeds(home.path(), &arguments);
    let said = succeeds(home.path(), &["eval", "run", "--threshold", "0.9"]);
    assert!(said.contains("0.9"), "{said}");
    // The evaluation that came with the training is not written over by one at another threshold.
    let summary = fs::read_to_string(home.path().join("run/summary.json")).unwrap();
    assert!(!summary.contains("\"threshold\": 0.9"), "{summary}");
}

#[test]
fn the_tables_name_every_loss_and_data_set() {
    let home = TempDir::new().unwrap();
    let losses = succeeds(home.path(), &["losses"]);
    for row in dice_losses::zoo::ZOO {
        assert!(losses.contains(row.name), "{}", row.name);
    }
    let data = succeeds(home.path(), &["data"]);
    for kind in [
        "phantom",
        "drive",
        "chase-db1",
        "bus2017",
        "busi",
        "dsb2018",
        "isic2018",
        "cvc-clinicdb",
        "kvasir-seg",
        "folder",
    ] {
        assert!(data.contains(kind), "{kind}");
    }
    assert!(data.contains("drive.grand-challenge.org") && data.contains("not to be passed on"));
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let home = TempDir::new().unwrap();
    let bad = |arguments: &[&str], parts: &[&str]| fails(home.path(), 2, arguments, parts);
    bad(
        &["--loss", "dise"],
        &["unknown loss `dise`", "known losses: dice"],
    );
    bad(
        &["--loss", "ce++"],
        &["no false-positive or false-negative terms"],
    );
    bad(
        &["--loss", "dice++:gamma=-1"],
        &["`gamma` of `dice++` must be above 0 and at most 1000000, found `-1`"],
    );
    bad(
        &["--loss", "dice", "--data", "drives:/x"],
        &["drives", "drive"],
    );
    bad(&["--loss", "dice", "--size", "64"], &["64"]);
    bad(&["--loss", "dice", "--size", "60x64"], &["multiples of 8"]);
    bad(
        &["--loss", "dice", "--set", "unet.widht=8"],
        &["widht", "width"],
    );
    bad(
        &["--loss", "dice", "--set", "unet.width=wide"],
        &["unet.width"],
    );
    bad(&["--loss", "dice", "--device", "gpu"], &["cpu, cuda"]);
    bad(
        &["--loss", "dice", "--preset", "papers"],
        &["unknown preset `papers`"],
    );
    bad(&["--loss", "dice", "--epoch", "3"], &["--epochs"]);
    bad(&["--loss", "dice", "--loss", "dice"], &["named twice"]);
    bad(&["predict", "run"], &["--out"]);
    for targets in [
        &[][..],
        &["--target-recall", "0.9", "--f-beta", "1"],
        &["--target-precision", "0.9", "--target-recall", "0.9"],
    ] {
        let arguments = with(&["threshold", "run"], targets);
        bad(&arguments, &["--target-recall <R>"]);
    }
    bad(
        &["threshold", "run", "--f-beta", "0"],
        &["expected a number from 0.001 to 1000"],
    );
    assert!(
        fs::read_dir(home.path()).unwrap().next().is_none(),
        "bad usage leaves nothing"
    );
}

#[test]
fn bad_data_is_one_line_that_names_the_file_and_exit_code_1() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("pairs");
    let bad = |parts: &[&str]| {
        let arguments = with(
            &[
                "--preset",
                "paper",
                "--size",
                "16x16",
                "--set",
                "unet.width=2",
                "--set",
                "unet.depth=2",
            ],
            &[
                "--loss",
                "dice",
                "--data",
                "folder:pairs",
                "--epochs",
                "1",
                "--out",
                "run",
            ],
        );
        fails(home.path(), 1, &arguments, parts);
        let _ = fs::remove_dir_all(home.path().join("run"));
    };
    bad(&["pairs"]); // no such folder
    squares(&path, 6);
    fs::remove_file(path.join("masks/3.png")).unwrap();
    bad(&["3.png", "mask"]);
    squares(&path, 6);
    GrayImage::new(23, 20)
        .save(path.join("masks/3.png"))
        .unwrap();
    bad(&["3.png", "23", "24"]);
    squares(&path, 6);
    let whole = fs::read(path.join("images/2.png")).unwrap();
    fs::write(path.join("images/2.png"), &whole[..whole.len() / 2]).unwrap();
    bad(&["2.png"]);
}

#[test]
fn a_checkpoint_that_is_none_is_refused_by_name() {
    let home = TempDir::new().unwrap();
    succeeds(
        home.path(),
        &with(TINY, &["--loss", "dice++", "--out", "run", "--epochs", "1"]),
    );
    let best = home.path().join("run/best.safetensors");
    let whole = fs::read(&best).unwrap();
    let mut poisoned = whole.clone();
    let last = poisoned.len() - 4;
    poisoned[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&best, &poisoned).unwrap();
    fails(
        home.path(),
        1,
        &["eval", "run"],
        &["best.safetensors: it is damaged (its checksum is "],
    );
    fs::write(&best, &whole[..whole.len() / 2]).unwrap();
    fails(home.path(), 1, &["eval", "run"], &["best.safetensors"]);
    fs::remove_file(&best).unwrap();
    fails(home.path(), 1, &["eval", "run"], &["best.safetensors"]);
    fails(home.path(), 1, &["eval", "nowhere"], &["nowhere"]);
    // A folder that holds a run is not written over.
    fails(
        home.path(),
        2,
        &with(TINY, &["--loss", "dice", "--out", "run"]),
        &["run", "resume"],
    );
}
