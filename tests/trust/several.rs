//! Several losses under one command.

use std::fs;

use rayon::prelude::*;

use super::{Home, ended};

#[test]
fn a_comparison_that_was_torn_off_anywhere_goes_on_as_a_whole() {
    let home = Home::tiny(&["--loss", "ce", "--batch", "2", "--epochs", "1"]);
    let trace = home.path("trace");
    ended(home.train("unbroken").env("SEG_TRAIN_TRACE", &trace)).succeeds("unbroken");
    let unbroken = home.end("unbroken");
    let operations = fs::read_to_string(trace).unwrap().lines().count();
    // Every third has each kind of operation among it, in both runs and before them.
    (0..operations).into_par_iter().step_by(3).for_each(|at| {
        let run = format!("torn-{at}");
        let fault = format!("tear:{at}:{at}");
        let end = ended(home.train(&run).env("SEG_TRAIN_FAULT", &fault));
        assert_eq!(end.code, None, "{fault}: {end:?}");
        home.goes_on_to(&run, &unbroken, &fault);
    });
}
