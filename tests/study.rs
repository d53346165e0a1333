//! Grids of experiments as a user runs them: killed, repeated, failing, without their data.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use image::{GrayImage, Luma};
use tempfile::TempDir;

/// Four runs of a second or two.
const GRID: &str = "title = 'Small'
data = ['phantom', 'drive']
losses = ['dice', {loss = 'dice++', name = 'DSC++ <γ = 2>'}]
seeds = [0, 1]
[set]
recipe.epochs = 4
preprocess.size = [32, 32]
unet.width = 4
unet.depth = 2
data.phantom.train = 16
data.phantom.val = 4
data.phantom.test = 6
[[claim]]
metric = 'nll'
loss = 'dice++'
than = 'dice'
is = 'lower'
section = 'III-A'
";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seg-train-under-test"));
    command.args(arguments).current_dir(folder);
    command
}

#[track_caller]
fn ends(folder: &Path, code: i32, arguments: &[&str]) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, errors) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}{errors}");
    (said, errors)
}

/// A folder with a grid in it.
fn home(grid: &str) -> TempDir {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("grid.toml"), grid).unwrap();
    home
}

/// Every file of a report, the table of times taken out.
fn report(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(out.join("report")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = fs::read(&path).unwrap();
        match name.as_str() {
            "index.html" => {
                let text = String::from_utf8(bytes).unwrap();
                let (before, times) = text.split_once("id=\"times\"").unwrap();
                bytes =
                    format!("{before}{}", times.split_once("</figure>").unwrap().1).into_bytes();
            }
            "report.md" | "tables.md" => {
                let text = String::from_utf8(bytes).unwrap();
                let (before, times) = text.split_once("Training time").unwrap();
                bytes = format!("{before}{}", times.split_once("\n## ").unwrap().1).into_bytes();
            }
            _ if name.starts_with("times.") => continue,
            _ => {}
        }
        files.insert(name, bytes);
    }
    files
}

#[track_caller]
fn assert_same(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>) {
    assert!(one.keys().eq(other.keys()));
    for (name, bytes) in one {
        assert!(*bytes == other[name], "{name} differs");
    }
}

#[test]
fn a_grid_is_run_once_and_its_report_says_what_holds_and_what_is_not_there() {
    let home = home(GRID);
    let (said, errors) = ends(home.path(), 0, &["sweep", "grid.toml", "--jobs", "2"]);
    assert!(
        errors.contains("not run: drive (name it with --data drive:PATH, or its parent with --data-root; from drive.grand-challenge.org"),
        "{errors}"
    );
    assert!(errors.contains("4 of 4 runs"), "{errors}");
    assert!(said.contains("grid   NLL (proper)"), "{said}");
    let out = home.path().join("runs/grid");
    let before = report(&out);
    let page = String::from_utf8_lossy(&before["index.html"]).into_owned();
    for part in [
        "DSC++ &lt;γ = 2&gt;",
        "has a lower NLL (proper) than dice",
        "not run",
        "drive.grand-challenge.org",
        "reduced, 4 epochs, 2 seeds",
        "seg-train sweep grid.toml",
        "32 × 32 pixels, width 4, depth 2, at most 4 epochs",
    ] {
        assert!(page.contains(part), "`{part}` is not in the page");
    }
    let values = String::from_utf8_lossy(&before["grid-values.csv"]).into_owned();
    // Six images of each of two seeds, and images of two seeds are not the same ones.
    assert!(values.contains("phantom,dice,,dice,12,"), "{values}");
    for table in ["grid", "grid-claims", "grid-tests", "claims", "runs-done"] {
        for form in ["csv", "md", "tex"] {
            assert!(
                before.contains_key(&format!("{table}.{form}")),
                "{table}.{form}"
            );
        }
    }

    // Once more: nothing is trained again, and the same report comes out.
    let logs = |out: &Path| -> Vec<_> {
        let runs = fs::read_dir(out.join("runs"))
            .unwrap()
            .map(|run| run.unwrap().path());
        runs.filter(|run| run.is_dir())
            .map(|run| {
                fs::metadata(run.join("log.jsonl"))
                    .unwrap()
                    .modified()
                    .unwrap()
            })
            .collect()
    };
    let trained = logs(&out);
    assert_eq!(trained.len(), 4);
    let (_, errors) = ends(home.path(), 0, &["sweep", "grid.toml"]);
    assert!(errors.contains("4 of 4 runs are done already"), "{errors}");
    assert_eq!(logs(&out), trained);
    assert_same(&before, &report(&out));
    ends(home.path(), 0, &["collect", "runs/grid"]);
    assert_same(&before, &report(&out));
}

#[test]
fn a_grid_that_is_killed_again_and_again_ends_with_the_same_report() {
    let home = home(GRID);
    ends(
        home.path(),
        0,
        &["sweep", "grid.toml", "--out", "whole", "--jobs", "2"],
    );
    let mut killed = 0;
    for wait in [400, 700, 1100, 500, 1600, 900] {
        let mut child = command(
            home.path(),
            &["sweep", "grid.toml", "--out", "broken", "--jobs", "2"],
        )
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        thread::sleep(Duration::from_millis(wait));
        // The group: the program and the processes of its runs.
        let group = format!("-{}", child.id());
        let kill = Command::new("kill")
            .args(["-9", "--", &group])
            .status()
            .unwrap();
        killed += usize::from(kill.success());
        child.wait().unwrap();
    }
    assert!(killed > 0, "every attempt had ended before it was killed");
    ends(home.path(), 0, &["sweep", "grid.toml", "--out", "broken"]);
    assert_same(
        &report(&home.path().join("whole")),
        &report(&home.path().join("broken")),
    );
}

#[test]
fn the_runs_end_when_the_program_that_started_them_is_killed_alone() {
    let home = home(&GRID.replace("epochs = 4", "epochs = 400"));
    let mut child = command(home.path(), &["sweep", "grid.toml", "--out", "out"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let run = |out: &Path| -> Option<std::path::PathBuf> {
        let mut entries = fs::read_dir(out.join("runs"))
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        entries.find(|path| path.join("log.jsonl").is_file())
    };
    let out = home.path().join("out");
    for _ in 0..600 {
        if run(&out).is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let run = run(&out).expect("no run has begun");
    child.kill().unwrap();
    child.wait().unwrap();
    let log = run.with_extension("log");
    for _ in 0..600 {
        if fs::read_to_string(&log).is_ok_and(|text| text.contains("go on with")) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "the run goes on: {}",
        fs::read_to_string(&log).unwrap_or_default()
    );
}

#[test]
fn a_run_that_fails_is_reported_and_the_others_go_on() {
    let grid = format!("{GRID}[settings.sane]\n[settings.wild]\nrecipe.sgd.lr = 1e30\n")
        .replace("seeds = [0, 1]", "seeds = [0]");
    let home = home(&grid);
    let (_, errors) = ends(home.path(), 1, &["sweep", "grid.toml", "--out", "out"]);
    assert!(
        errors.contains(": failed: the loss is NaN in epoch 1"),
        "{errors}"
    );
    assert_eq!(
        errors.lines().last().unwrap(),
        "error: 2 of 4 runs are not done; the report says which and why, and the same command runs them again"
    );
    let page = fs::read_to_string(home.path().join("out/report/index.html")).unwrap();
    assert!(page.contains("failed: the loss is NaN in epoch 1"));
    assert!(page.contains("dice, sane") && page.contains("dice, wild"));
}

#[test]
fn what_killed_a_run_stands_in_the_report() {
    let home = home(
        &GRID
            .replace("epochs = 4", "epochs = 400")
            .replace("seeds = [0, 1]", "seeds = [0]"),
    );
    let mut child = command(home.path(), &["sweep", "grid.toml", "--out", "out"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The processes of the runs, as whatever runs out of memory would end them: both, one after the other.
    let parent = child.id().to_string();
    for _ in 0..2000 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        Command::new("pkill")
            .args(["-9", "-P", &parent])
            .status()
            .unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("failed: its process ended with signal: 9 (SIGKILL)"),
        "{errors}"
    );
    let page = fs::read_to_string(home.path().join("out/report/index.html")).unwrap();
    assert!(page.contains("failed: its process ended with signal: 9 (SIGKILL)"));
}

#[test]
fn two_programs_never_train_one_run() {
    let home = home(&GRID.replace("seeds = [0, 1]", "seeds = [0]"));
    let out = home.path().join("runs/grid/runs");
    fs::create_dir_all(&out).unwrap();
    let (said, _) = ends(home.path(), 0, &["sweep", "grid.toml", "--dry-run"]);
    let name = said
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    fs::create_dir(out.join(name)).unwrap();
    let held = fs::File::create(out.join(name).join("lock")).unwrap();
    held.lock().unwrap();
    let (_, errors) = ends(home.path(), 1, &["sweep", "grid.toml"]);
    assert!(
        errors.contains(&format!(
            "{name}: failed: another process works on it; wait for that, or end it"
        )),
        "{errors}"
    );
    assert_eq!(fs::read_dir(out.join(name)).unwrap().count(), 1);
    drop(held);
    ends(home.path(), 0, &["sweep", "grid.toml"]);
}

/// `images/` and `masks/` of a square of class 1 and a stripe of class 2, or of 255 alone.
fn scans(folder: &Path, count: u32, classes: bool) {
    for part in ["images", "masks"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    for i in 0..count {
        let class = |x: u32, y: u32| match (x, y) {
            (4..12, _) if (5..12).contains(&(y + i % 3)) => 1,
            (20.., _) => 2,
            _ => 0_u8,
        };
        let image = GrayImage::from_fn(32, 32, |x, y| {
            Luma([60 + 70 * class(x, y) + ((x * 7 + y * 5 + i) % 13) as u8])
        });
        let mask = GrayImage::from_fn(32, 32, |x, y| {
            Luma([if classes {
                class(x, y)
            } else {
                255 * u8::from(class(x, y) == 1)
            }])
        });
        image.save(folder.join(format!("images/{i}.png"))).unwrap();
        mask.save(folder.join(format!("masks/{i}.png"))).unwrap();
    }
}

const OWN: &str = "title = 'Own'
data = ['folder:own data']
losses = ['dice', 'dice++']
[set]
recipe.epochs = 2
preprocess.size = [32, 32]
unet.width = 4
unet.depth = 2
";

#[test]
fn a_data_set_of_ones_own_has_every_figure_and_changed_data_never_meet_old_results() {
    let home = home(&format!("show = 'thresholds'\n{OWN}"));
    let data = home.path().join("own data");
    scans(&data, 10, false);
    ends(home.path(), 0, &["sweep", "grid.toml", "--out", "out"]);
    let before = report(&home.path().join("out"));
    let page = String::from_utf8_lossy(&before["index.html"]).into_owned();
    assert!(page.contains("Softmax thresholds on folder:own data"));
    assert!(
        before.keys().any(|name| name.ends_with("thresholds.csv")),
        "{:?}",
        before.keys()
    );

    // Another grid in the same folder: nothing of the first report is left beside its own.
    fs::write(home.path().join("table.toml"), OWN).unwrap();
    ends(home.path(), 0, &["sweep", "table.toml", "--out", "out"]);
    let after = report(&home.path().join("out"));
    assert!(after.contains_key("table.csv"));
    assert!(
        !after.keys().any(|name| name.ends_with("thresholds.csv")),
        "{:?}",
        after.keys()
    );

    // Without the data the tables can still be made, and a figure says why it is not drawn.
    ends(home.path(), 0, &["sweep", "grid.toml", "--out", "out"]);
    fs::rename(&data, home.path().join("elsewhere")).unwrap();
    ends(home.path(), 0, &["collect", "out"]);
    let page = fs::read_to_string(home.path().join("out/report/index.html")).unwrap();
    assert!(page.contains("Not drawn: folder:own data: there is no folder"));
    assert!(page.contains("Softmax thresholds on folder:own data"));

    // One more image: another split, and the results are of another test set.
    fs::rename(home.path().join("elsewhere"), &data).unwrap();
    scans(&data, 11, false);
    let (_, errors) = ends(home.path(), 1, &["sweep", "grid.toml", "--out", "out"]);
    let last = errors.lines().last().unwrap();
    assert!(last.contains("has changed since the run began"), "{errors}");
}

#[test]
fn a_grid_may_have_three_classes() {
    let home = home(&format!("{OWN}data.mask = 'classes'\ndata.classes = 3\n"));
    scans(&home.path().join("own data"), 10, true);
    ends(home.path(), 0, &["sweep", "grid.toml"]);
    let values = fs::read_to_string(home.path().join("runs/grid/report/grid-values.csv")).unwrap();
    assert!(
        values.contains("folder:own data,dice++,,dice,2,"),
        "{values}"
    );
}

#[test]
fn what_is_asked_for_can_be_listed_and_written_as_slurm_scripts_without_a_run() {
    let home = home(GRID);
    let (said, _) = ends(home.path(), 0, &["sweep", "grid.toml", "--dry-run"]);
    assert!(said.contains("phantom-dice++2-1-"), "{said}");
    assert!(
        said.contains("4 runs, ") && said.ends_with("nothing was run\n"),
        "{said}"
    );
    let (said, _) = ends(
        home.path(),
        0,
        &[
            "sweep",
            "grid.toml",
            "--slurm-script-only",
            "--array-limit",
            "2",
            "--gres",
            "gpu:1",
        ],
    );
    for part in [
        "#SBATCH --array=0-3%2\n",
        "#SBATCH --gres=gpu:1\n",
        "collect",
        "/runs/grid \"${runs[$SLURM_ARRAY_TASK_ID]}\"",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!home.path().join("runs").exists());
    let (said, _) = ends(
        home.path(),
        0,
        &["reproduce", "all", "--quick", "--dry-run"],
    );
    assert!(said.contains("13 runs, about "), "{said}");
}

#[test]
fn bad_usage_gets_one_line() {
    let home = home("title = 't'\ndata = ['drive']\nlosses = ['dice']\ncolour = 1\n");
    for (arguments, expected) in [
        (
            &["reproduce", "table6"][..],
            "error: unknown table or figure `table6`; expected all, table3, table4, table5, figure1, figure2, figure3, figure4",
        ),
        (
            &["reproduce", "table3"],
            "error: none of the data sets is there, so there is nothing to run; name some with --data-root or --data, or see the whole report with --quick",
        ),
        (
            &["sweep", "nothing.toml"],
            "error: the grid nothing.toml cannot be read: No such file or directory (os error 2)",
        ),
        (
            &["sweep", "grid.toml"],
            "error: grid.toml: unknown field `colour`",
        ),
        (
            &["reproduce", "all", "--quick", "--set", "loss=ce"],
            "error: --set sets loss, which is an axis of the grid; name it under losses, seeds or data",
        ),
        (
            &["reproduce", "all", "--quick", "--seed", "1", "--seed", "1"],
            "error: --seed names one seed twice; name each once",
        ),
        (
            &["reproduce", "table3", "--data", "busi:/b"],
            "error: --data busi:/b: the grid has no data set busi",
        ),
        (
            &["reproduce", "all", "--quick", "--jobs", "0"],
            "error: --jobs, --array-limit and --cpus are counted from 1",
        ),
        (
            &["reproduce", "all", "--data-root", "nowhere"],
            "error: the grid table3: the folder nowhere of --data-root cannot be read",
        ),
        (
            &["reproduce", "all", "--preset", "tiny", "--data-root", "."],
            "error: unknown preset `tiny`; expected phantom, paper, authors or cpu",
        ),
    ] {
        let (_, errors) = ends(home.path(), 2, arguments);
        let last = errors.lines().last().unwrap();
        assert!(last.starts_with(expected), "{arguments:?}: {errors}");
    }
    let (_, errors) = ends(home.path(), 1, &["collect", "."]);
    assert!(
        errors.contains("holds no grid of experiments: it has no plan.json"),
        "{errors}"
    );
}
