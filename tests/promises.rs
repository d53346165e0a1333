//! Every test that `docs/reliability.md` names is there.

use std::{fs, path::Path};

/// The names in backticks that lead somewhere, `trust::kills::a_run_…`, each with its last part.
fn named(text: &str) -> Vec<(&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| Some((name, name.rsplit_once("::")?.1)))
        .filter(|(name, _)| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || "_:0123456789".contains(c))
        })
        .collect()
}

/// The text of all Rust files in a folder and below.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap();
    let texts = entries.map(|entry| {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() && !path.ends_with("corpus") => sources(&path),
            Some(extension) if extension == "rs" => fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        }
    });
    texts.collect()
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let promises = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let code: String = ["tests", "seg-train/src", "seg-unet/src", "dice-losses/src"]
        .iter()
        .map(|folder| sources(&root.join(folder)))
        .collect();
    let names = named(&promises);
    assert!(names.len() > 20, "{names:?}");
    for (name, test) in names {
        assert!(
            code.contains(&format!("#[test]\n    fn {test}()"))
                || code.contains(&format!("#[test]\nfn {test}()")),
            "{name} is no test"
        );
    }
}
