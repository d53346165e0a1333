//! Kill -9 at random instants.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Ended, Home, end_of, ended};

const EPOCHS: usize = 4;

/// SIGKILL.
const KILLED: i32 = 9;

/// As many runs as `SEG_TRAIN_KILLS` says, each killed at least once on its way, a third of them while they go on, too.
#[test]
fn a_run_killed_at_any_instant_goes_on_to_the_same_bits() {
    let wanted = env::var("SEG_TRAIN_KILLS").map_or(10, |text| text.parse().unwrap());
    let home = Home::tiny(&[
        "--batch",
        "2",
        "--epochs",
        &EPOCHS.to_string(),
        "--save-every",
        "1",
    ]);
    let started = Instant::now();
    let unbroken = home.unbroken();
    // The second is as long as the others will be: all files of the program are in memory now.
    let again = Instant::now();
    ended(&mut home.train("again")).succeeds("again");
    home.end("again").must_be(&unbroken, "the same once more");
    let whole = again.elapsed().min(started.elapsed());

    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut killed = |command: &mut Command| {
        let instant = whole.mul_f64(random.random_range(0.0..1.0));
        kill_after(command, instant).signal == Some(KILLED)
    };
    let (mut runs, mut attempts, mut kills) = (0, 0, 0);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    while runs < wanted {
        attempts += 1;
        assert!(attempts < 20 * (wanted + 1), "hardly a kill meets the run");
        let run = format!("{attempts}");
        if !killed(&mut home.train(&run)) {
            continue;
        }
        let mut deaths = 1;
        *places.entry(place(&home.path(&run))).or_default() += 1;
        while runs % 3 == 2 && deaths < 3 && killed(&mut home.go_on(&run)) {
            deaths += 1;
            *places.entry(place(&home.path(&run))).or_default() += 1;
        }
        home.goes_on_to(&run, &unbroken, &format!("killed {deaths} times"));
        fs::remove_dir_all(home.path(&run)).unwrap();
        kills += deaths;
        runs += 1;
    }
    println!(
        "{runs} runs of {:.2} s killed {kills} times ({places:?}; {} instants came after the end): {runs} ends bit-identical",
        whole.as_secs_f64(),
        attempts - runs
    );
}

fn kill_after(command: &mut Command, instant: Duration) -> Ended {
    let mut child = command.spawn().unwrap();
    thread::sleep(instant);
    child.kill().unwrap();
    end_of(child)
}

/// How far the run had come.
fn place(run: &Path) -> &'static str {
    if !run.join("run.toml").exists() {
        return "before it began";
    }
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    if log.lines().count() < EPOCHS {
        "in training"
    } else if run.join("summary.json").exists() {
        "after its last file"
    } else {
        "in evaluation"
    }
}
