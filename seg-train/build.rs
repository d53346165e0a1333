//! Tells the program the commit it was built from, so that every run and every report can say it.

use std::process::Command;

fn main() {
    // A commit made or checked out; sources changed since.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=configs");
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map_or("unknown".into(), |commit| {
        match git(&["status", "--porcelain", "--untracked-files=no", "--", ":/"]) {
            Some(changes) if changes.is_empty() => commit,
            _ => format!("{commit}, modified"),
        }
    });
    println!("cargo::rustc-env=SEG_TRAIN_COMMIT={commit}");
}

/// What Git answers; none without Git or outside a clone.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
