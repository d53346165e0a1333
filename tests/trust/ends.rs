//! What two runs of one experiment must have in common: everything but times.

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::SafeTensors;
use serde_json::Value;

/// Fields that hold times, or what is made of them.
const TIMES: [&str; 3] = ["seconds", "images_per_second", "training_seconds"];

/// The files of a run's folder by name, without their times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End(BTreeMap<String, Vec<u8>>);

impl End {
    /// Those of a run.
    pub(super) fn of(run: &Path) -> Self {
        let files = files(run).into_iter();
        Self(
            files
                .map(|(name, bytes)| (name.clone(), timeless(&name, bytes)))
                .collect(),
        )
    }

    /// Asserts that the runs ended alike; `context` tells which.
    #[track_caller]
    pub(super) fn must_be(&self, expected: &Self, context: &str) {
        let names = |end: &Self| end.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{context}");
        for (name, bytes) in &self.0 {
            assert!(*bytes == expected.0[name], "{context}: {name} differs");
        }
    }
}

/// All files of a folder and of those in it, but the locks, which say which process worked there last.
pub(super) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let below = files(&path).into_iter();
            found.extend(below.map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else if name != "lock" {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

/// A file's content without its times.
fn timeless(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => json(&bytes),
        Some("jsonl") => bytes.split(|&byte| byte == b'\n').flat_map(line).collect(),
        Some("safetensors") => checkpoint(&bytes),
        _ => bytes,
    }
}

fn line(text: &[u8]) -> Vec<u8> {
    let mut line = if text.is_empty() {
        Vec::new()
    } else {
        json(text)
    };
    line.push(b'\n');
    line
}

fn json(text: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(text).unwrap();
    forget(&mut value, &TIMES);
    serde_json::to_vec(&value).unwrap()
}

/// The tensors, and the note without times and without the checksum, which is over these too.
pub(super) fn checkpoint(bytes: &[u8]) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut content = Vec::new();
    let notes: BTreeMap<_, _> = header.metadata().iter().flatten().collect();
    for (key, note) in notes {
        let mut note: Value = serde_json::from_str(note).unwrap();
        forget(&mut note, &TIMES);
        forget(&mut note, &["checksum"]);
        content.extend(format!("{key}: {note}\n").bytes());
    }
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut tensors = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, tensor) in tensors {
        content.extend(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()).bytes());
        content.extend(tensor.data());
    }
    content
}

/// Removes these fields wherever they stand.
fn forget(value: &mut Value, fields: &[&str]) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !fields.contains(&&**key));
            object.values_mut().for_each(|value| forget(value, fields));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| forget(value, fields)),
        _ => {}
    }
}
