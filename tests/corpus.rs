//! The kept corpus of every fuzz target, without a fuzzer: what once was a finding, and what walks every path that
//! fuzzing has found.

use std::{fs, path::Path};

use crate::properties;

/// Runs every file of a target's corpus.
fn holds_for(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let result = std::panic::catch_unwind(|| property(&bytes));
        assert!(
            result.is_ok(),
            "the property of {target} does not hold for {}",
            file.display()
        );
    }
    println!("{target}: {} files", files.len());
}

macro_rules! targets {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            holds_for(stringify!($name), properties::$name::holds);
        }
    )*};
}

targets!(checkpoint, config, image, loss_spec, statistics);
