//! Two processes and one run.

use super::{Home, end_of, ended, send};

#[test]
fn a_run_that_a_process_works_on_is_nobody_elses_until_that_process_is_gone() {
    let home = Home::tiny(&["--batch", "2", "--epochs", "20"]);
    let unbroken = home.unbroken();
    let mut child = home.started("run");
    send(&child, "-STOP");
    let process = format!("process {}", child.id());
    let second = ended(&mut home.command(&["resume", "run"]));
    let error = second.error(3);
    assert!(
        error.starts_with(&format!("run is being worked on by {process}"))
            && error.ends_with("; wait for that, or end it"),
        "{error}"
    );
    let same = ended(&mut home.train("run"));
    assert_eq!(
        same.error(2),
        "run holds a run already; name another folder with --out, or go on with it: seg-train resume run"
    );

    // The file that names the dead one stays, and holds nobody up.
    child.kill().unwrap();
    end_of(child);
    let resumed = ended(&mut home.command(&["resume", "run"]));
    resumed.succeeds("run");
    let first = resumed.errors.lines().next().unwrap();
    assert!(
        first.starts_with(&format!("run was left by {process}"))
            && first.ends_with(", which has ended without a word"),
        "{first}"
    );
    home.end("run")
        .must_be(&unbroken, "after the other was killed");
}

#[test]
fn of_two_runs_begun_at_once_in_one_folder_one_goes_on_and_the_other_is_told() {
    let home = Home::tiny(&["--batch", "2", "--epochs", "20"]);
    let unbroken = home.unbroken();
    for round in 0..5 {
        let run = format!("both-{round}");
        let children = [home.train(&run), home.train(&run)].map(|mut run| run.spawn().unwrap());
        let [one, other] = children.map(end_of);
        let (first, second) = if one.code == Some(0) {
            (one, other)
        } else {
            (other, one)
        };
        first.succeeds(&run);
        // The later one finds the lock, which may not say yet whose it is, or the run.
        let code = second.code.filter(|code| [2, 3].contains(code));
        let error = second.error(code.unwrap_or(3));
        assert!(
            error.contains(&format!("{run} is being worked on by "))
                || error.contains(&format!("{run} holds a run already")),
            "{error}"
        );
        home.end(&run).must_be(&unbroken, &run);
    }
}
