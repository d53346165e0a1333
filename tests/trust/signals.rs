//! Ctrl-C, and what Slurm and systemd send: the run stops after the step, and saves it.

use std::{fs, thread, time::Duration};

use safetensors::SafeTensors;
use serde_json::Value;

use super::{Home, STATES, end_of, send};

#[test]
fn a_run_that_is_asked_to_stop_saves_the_step_and_goes_on_to_the_same_bits() {
    let home = Home::tiny(&[
        "--batch",
        "1",
        "--epochs",
        "40",
        "--set",
        "recipe.stopping.patience=40",
    ]);
    let unbroken = home.unbroken();
    for signal in ["-INT", "-TERM"] {
        let mut within_epochs = 0;
        for attempt in 0..20 {
            let run = format!("stopped{signal}-{attempt}");
            let child = home.started(&run);
            // From the end of an epoch, when the run has said so, into the steps of the next.
            thread::sleep(Duration::from_millis(attempt));
            send(&child, signal);
            let end = end_of(child);
            assert_eq!(end.code, Some(130), "{end:?}");
            let place = saved(&home, &run);
            let note = format!("stopped after {place}; go on with: seg-train resume {run}");
            assert_eq!(end.errors.lines().last(), Some(&*note), "{end:?}");
            home.goes_on_to(&run, &unbroken, &format!("{signal}, {place}"));
            within_epochs += usize::from(place.starts_with("step"));
            if within_epochs == 2 {
                break;
            }
        }
        assert_eq!(within_epochs, 2, "{signal} never came within an epoch");
    }
}

/// What the state of a run says of where it stands.
fn saved(home: &Home, run: &str) -> String {
    let bytes = fs::read(home.path(run).join(STATES[0])).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let note = header.metadata().as_ref().unwrap().values().next().unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    let (epoch, steps) = (
        &note["position"]["epoch"],
        &note["position"]["begun"]["steps"],
    );
    match steps.as_u64().unwrap() {
        0 => format!("epoch {epoch}"),
        steps => format!("step {steps} of epoch {}", epoch.as_u64().unwrap() + 1),
    }
}
