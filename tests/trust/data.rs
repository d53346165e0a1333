//! Data that change or vanish under a run, and a folder that may not be written to.

use std::fs;

use super::{Home, STATES, end_of, ended, ends::files, send, waits_for};

const SHORT: [&str; 6] = ["--batch", "2", "--epochs", "6", "--save-every", "2"];

#[test]
fn data_that_vanish_while_a_run_trains_end_it_in_order_and_back_again_it_goes_on() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    let (squares, away) = (home.path("squares"), home.path("away"));
    // As soon as it has begun, and after the first epoch, when the images it trains on are in memory.
    for file in [STATES[0], "log.jsonl"] {
        let run = format!("without-{file}");
        let path = home.path(&run).join(file);
        let child = home.train(&run).spawn().unwrap();
        waits_for(|| fs::metadata(&path).is_ok_and(|file| file.len() > 0));
        send(&child, "-STOP");
        fs::rename(&squares, &away).unwrap();
        send(&child, "-CONT");
        let end = end_of(child);
        let error = end.error(1);
        assert!(error.contains("squares/"), "{error}");
        assert!(
            error.ends_with(&format!("go on with: seg-train resume {run}")),
            "{error}"
        );

        let gone = ended(&mut home.go_on(&run));
        assert!(gone.error(1).contains("squares"), "{gone:?}");
        fs::rename(&away, &squares).unwrap();
        home.goes_on_to(&run, &unbroken, file);
    }
}

#[test]
fn an_image_that_is_gone_or_another_one_stops_the_going_on_until_it_is_back() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    home.broken_off("run");
    for file in ["images/3.png", "masks/5.png"] {
        let path = home.path("squares").join(file);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let gone = ended(&mut home.go_on("run"));
        assert!(gone.error(1).contains("squares"), "{gone:?}");

        let mut other = image::open(path.with_file_name("1.png"))
            .unwrap()
            .to_luma8();
        other.get_pixel_mut(2, 2).0[0] ^= 255;
        other.save(&path).unwrap();
        let changed = ended(&mut home.go_on("run"));
        let error = changed.error(1);
        assert!(
            error.contains(&format!("squares/{file} has changed since the run began"))
                && error.contains("; put the file back as it was, or start a new run"),
            "{error}"
        );
        fs::write(&path, whole).unwrap();
    }
    home.goes_on_to("run", &unbroken, "with all images back");
}

#[test]
fn a_folder_that_may_not_be_written_to_is_named_and_left_as_it_is() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    home.broken_off("run");
    let before = files(&home.path("run"));
    for mut command in [home.train("new"), home.go_on("run")] {
        let refused = ended(command.env("SEG_TRAIN_FAULT", "read-only:0:0"));
        let error = refused.error(1);
        assert!(
            error.contains(
                "(Read-only file system (os error 30)); give this program leave to write there"
            ),
            "{error}"
        );
    }
    assert!(files(&home.path("run")) == before, "a refused resume");
    for run in ["run", "new"] {
        home.goes_on_to(run, &unbroken, run);
    }
}
