//! What holds for any bytes: a function for each fuzz target of `tests/fuzz`, which the workspace's tests call too.

pub(crate) mod bytes;
pub(crate) mod checkpoint;
pub(crate) mod config;
pub(crate) mod image;
pub(crate) mod loss_spec;
pub(crate) mod statistics;

/// An error is one sentence on one line, whatever the input brought along.
#[track_caller]
fn assert_sentence(error: &str) {
    assert!(
        !error.trim().is_empty() && !error.contains(char::is_control),
        "no sentence on one line: {error:?}"
    );
}

/// An error about a file names it. The program puts it on one line, whatever a file or its decoder brought along.
#[track_caller]
fn assert_names(error: &str, path: &std::path::Path) {
    let path = path.display().to_string();
    assert!(error.contains(&path), "{path} is not named: {error}");
}
