//! What a run has to say, to standard error; or, where several runs are made side by side in one process, each to its own
//! log.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

thread_local! {
    static LOG: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// From now on, what this thread says goes to the end of a file.
pub(crate) fn to_log(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    LOG.with_borrow_mut(|log| *log = Some(file));
    Ok(())
}

/// A line for the user.
pub(crate) fn say(line: &str) {
    LOG.with_borrow_mut(|log| match log {
        // A full disk ends the run where it writes what matters.
        Some(log) => drop(writeln!(log, "{line}")),
        None => eprintln!("{line}"),
    });
}

/// Whether somebody sees what this thread says as it is said.
pub(crate) fn is_terminal() -> bool {
    LOG.with_borrow(|log| log.is_none() && io::stderr().is_terminal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_log_and_adds_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        std::thread::scope(|scope| {
            for path in &paths {
                scope.spawn(move || {
                    to_log(path).unwrap();
                    assert!(!is_terminal());
                    say(&path.display().to_string());
                    to_log(path).unwrap();
                    say("more");
                });
            }
        });
        for path in &paths {
            let text = std::fs::read_to_string(path).unwrap();
            assert_eq!(text, format!("{}\nmore\n", path.display()));
        }
    }
}
