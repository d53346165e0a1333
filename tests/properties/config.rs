//! Text as the settings of an experiment, in every place where it is read: refused in a sentence, or written back as it
//! was read.

use std::{fmt::Display, fs};

use seg_train::config::{Experiment, Layers};
use toml::{Table, Value};

use super::assert_sentence;

/// The first byte says where the text stands: in a `run.toml`, in the file of `--config`, in `--set`, or in flags.
pub(crate) fn holds(bytes: &[u8]) {
    let Some((place, text)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    match place % 4 {
        0 => of_run_toml(&text),
        1 => of_config(&text),
        2 => of_set(&text),
        _ => of_flags(&text),
    }
}

fn of_run_toml(text: &str) {
    if is_quick(text) {
        judge(Experiment::from_toml(text));
    }
}

fn of_config(text: &str) {
    if !is_quick(text) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("mine.toml");
    fs::write(&path, text).expect("a temporary file");
    let layers = Layers {
        config: Some(path),
        ..Layers::default()
    };
    judge(layers.resolve(Some("dice++")));
}

/// A line an assignment.
fn of_set(text: &str) {
    if text.lines().all(is_quick) {
        let layers = Layers {
            set: text.lines().map(str::to_owned).collect(),
            ..Layers::default()
        };
        judge(layers.resolve(Some("dice++")));
    }
}

/// A line a flag; an empty one is a flag that was not given.
fn of_flags(text: &str) {
    let mut lines = text.split('\n');
    let mut next = || {
        let line = lines.next().filter(|line| !line.is_empty());
        line.map(str::to_owned)
    };
    let layers = Layers {
        preset: next(),
        data: next(),
        size: next(),
        device: next(),
        seed: next().and_then(|seed| seed.parse().ok()),
        epochs: next().and_then(|epochs| epochs.parse().ok()),
        batch: next().and_then(|batch| batch.parse().ok()),
        ..Layers::default()
    };
    let loss = next();
    let size = layers.size.as_deref().unwrap_or_default();
    let sides = size.split(|c: char| !c.is_ascii_digit());
    if sides
        .filter_map(|side| side.parse().ok())
        .all(is_quick_count)
    {
        judge(layers.resolve(loss.as_deref()));
    }
}

fn judge<E: Display>(experiment: Result<Experiment, E>) {
    match experiment {
        Err(error) => assert_sentence(&format!("{error:#}")),
        Ok(experiment) => {
            let text = experiment.to_toml().expect("a valid experiment is TOML");
            let again = Experiment::from_toml(&text);
            let again = again.unwrap_or_else(|error| panic!("{error:#}\n{text}"));
            assert_eq!(again, experiment, "{text}");
            assert_eq!(again.to_toml().ok().as_deref(), Some(text.as_str()));
        }
    }
}

/// Whether the text asks for no image that would take long to make: settings of the phantom are checked by making one.
/// What is no TOML, or too large to be made at all, is refused before.
fn is_quick(text: &str) -> bool {
    text.parse::<Table>()
        .is_ok_and(|table| table.iter().all(|(key, value)| is_quick_value(key, value)))
        || text.parse::<Table>().is_err()
}

fn is_quick_value(key: &str, value: &Value) -> bool {
    match value {
        Value::Table(table) => table.iter().all(|(key, value)| is_quick_value(key, value)),
        Value::Array(values) => values.iter().all(|value| is_quick_value(key, value)),
        Value::Integer(count) if ["size", "structures", "distractors"].contains(&key) => {
            is_quick_count(*count)
        }
        _ => true,
    }
}

/// A side or a number of things that is small, or larger than any that is taken.
fn is_quick_count(count: i64) -> bool {
    !(65..=1 << 26).contains(&count)
}
