//! States that the disk has damaged.

use std::{fs, ops::Range, path::Path};

use rayon::prelude::*;

use super::{Home, STATES, copy, ended};

const SHORT: [&str; 6] = ["--batch", "2", "--epochs", "4", "--save-every", "2"];

/// What a disk can make of a file.
type Damage = (String, Box<dyn Fn(&Path) + Sync + Send>);

/// A bit flipped in each part of a checkpoint, and pieces of one.
fn damages(whole: &[u8]) -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for (part, at) in parts(whole).into_iter().flat_map(|(part, bytes)| {
        [
            bytes.start,
            usize::midpoint(bytes.start, bytes.end),
            bytes.end - 1,
        ]
        .map(|at| (part, at))
    }) {
        damages.push((
            format!("a bit of byte {at}, {part}"),
            Box::new(move |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[at] ^= 1 << (at % 8);
                fs::write(path, bytes).unwrap();
            }),
        ));
    }
    for left in [0, 5, 8, whole.len() / 2, whole.len() - 1] {
        damages.push((
            format!("cut to {left} bytes"),
            Box::new(move |path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..left]).unwrap();
            }),
        ));
    }
    damages.push((
        "grown".into(),
        Box::new(|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, [&bytes[..], b"more"].concat()).unwrap();
        }),
    ));
    damages.push((
        "zeros".into(),
        Box::new(|path| fs::write(path, vec![0; fs::read(path).unwrap().len()]).unwrap()),
    ));
    damages
}

/// The parts of a safetensors file, and of its header.
fn parts(whole: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let text = String::from_utf8_lossy(&whole[..header]);
    let find = |what: &str| {
        let at = whole
            .windows(what.len())
            .position(|part| part == what.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{what} is not in {text}"));
        at..at + what.len()
    };
    vec![
        ("the header's length", 0..8),
        ("the name of the metadata", find("__metadata__")),
        ("the key of the note", find("seg-train")),
        ("the checksum's name", find("checksum")),
        ("the note", find("position")),
        ("the name of a tensor", find("velocity.")),
        ("the type of a tensor", find("F32")),
        ("the header", 8..header),
        ("the tensors", header..whole.len()),
    ]
}

#[test]
fn a_damaged_state_is_passed_over_for_the_one_before_it() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    home.broken_off("run");
    let state = fs::read(home.path("run").join(STATES[0])).unwrap();
    damages(&state)
        .par_iter()
        .enumerate()
        .for_each(|(number, (context, damage))| {
            let run = format!("{number}");
            copy(&home.path("run"), &home.path(&run));
            damage(&home.path(&run).join(STATES[0]));
            let resumed = ended(&mut home.go_on(&run));
            resumed.succeeds(context);
            let warning = format!("warning: {run}/{}", STATES[0]);
            let said = resumed
                .errors
                .lines()
                .find(|line| line.starts_with(&warning));
            assert!(
                said.is_some_and(|said| said.contains("; going on from the state before it, of ")),
                "{context}: {resumed:?}"
            );
            home.end(&run).must_be(&unbroken, context);
        });
}

#[test]
fn of_two_states_either_is_enough_and_without_both_nothing_is_guessed() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    home.broken_off("run");
    for name in STATES {
        let run = format!("without-{name}");
        copy(&home.path("run"), &home.path(&run));
        fs::remove_file(home.path(&run).join(name)).unwrap();
        home.goes_on_to(&run, &unbroken, &run);
    }

    for name in STATES {
        let path = home.path("run").join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    }
    let states = || STATES.map(|name| fs::read(home.path("run").join(name)).unwrap());
    let before = states();
    let refused = ended(&mut home.go_on("run"));
    let error = refused.error(1);
    assert!(
        STATES
            .iter()
            .all(|name| error.contains(&format!("run/{name}: it is damaged"))),
        "{error}"
    );
    assert!(
        error.ends_with("train the run anew with another --out"),
        "{error}"
    );
    assert!(states() == before);
}

/// The disk has damaged the last state, and the going on is torn off, or without power, at each of its first operations.
#[test]
fn going_on_from_the_state_before_the_last_may_break_off_too() {
    let home = Home::tiny(&SHORT);
    let unbroken = home.unbroken();
    home.broken_off("run");
    let path = home.path("run").join(STATES[0]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    (0..48).into_par_iter().for_each(|number| {
        let run = format!("again-{number}");
        copy(&home.path("run"), &home.path(&run));
        let fault = format!("{}:{}:{number}", ["tear", "power"][number % 2], number / 2);
        let end = ended(home.go_on(&run).env("SEG_TRAIN_FAULT", &fault));
        assert_eq!(end.code, None, "{fault}: {end:?}");
        home.goes_on_to(&run, &unbroken, &fault);
    });
}
