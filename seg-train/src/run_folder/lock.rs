//! One process at a time works on a run.
//!
//! The lock is the system's, on a file of the run's folder: it goes with its process, however that ends, so a file that
//! was left behind holds nobody up. What stands in the file is for people: who holds it, or who has died holding it.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    path::Path,
};

use anyhow::{Context, Result};

use crate::{say::say, store};

/// The lock's file.
pub(super) const LOCK: &str = "lock";

/// The right to change a run; it ends with its value.
#[derive(Debug)]
pub struct Lock {
    file: File,
    left_by: Option<String>,
}

/// Another process works on the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held(String);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Held {}

impl Lock {
    /// Takes the lock of a run's folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Held`] if another process has it; a folder that cannot be written to.
    pub fn take(folder: &Path) -> Result<Self> {
        store::create_folder(folder)?;
        let path = folder.join(LOCK);
        let cannot = || format!("{} cannot be locked", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| store::refused(&path, &error))?;
        let mut holder = String::new();
        let taken = file.try_lock();
        // What it says is of use, and its lack no harm.
        let _ = file.read_to_string(&mut holder);
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = if holder.is_empty() {
                    "another process"
                } else {
                    &holder
                };
                return Err(Held(format!(
                    "{} is being worked on by {holder}; wait for that, or end it",
                    folder.display()
                ))
                .into());
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                say(&format!(
                    "warning: the file system of {} has no locks; see to it that no other process works there",
                    folder.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        // A full disk that takes no name takes no lock away.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = file.write_all(this_process().as_bytes());
        Ok(Self {
            file,
            left_by: (!holder.is_empty()).then_some(holder),
        })
    }

    /// The process that ended while it had the lock: killed, out of memory, or with the machine.
    pub fn left_by(&self) -> Option<&str> {
        self.left_by.as_deref()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nobody is left to name.
        let _ = self.file.set_len(0);
    }
}

fn this_process() -> String {
    let process = format!("process {}", std::process::id());
    // On a cluster the folder is there on every machine, and the number means something on one.
    match fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let held = Lock::take(&run).unwrap();
        assert_eq!(held.left_by(), None);
        let error = Lock::take(&run).unwrap_err();
        assert!(error.is::<Held>());
        assert_eq!(
            error.to_string(),
            format!(
                "{} is being worked on by {}; wait for that, or end it",
                run.display(),
                this_process()
            )
        );
        drop(Lock::take(&dir.path().join("other")).unwrap());
        drop(held);
        // The file is still there: it is the lock that counts.
        assert!(run.join(LOCK).is_file());
        assert_eq!(Lock::take(&run).unwrap().left_by(), None);
    }

    #[test]
    fn a_lock_left_by_a_process_that_is_gone_is_taken_over_and_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "process 7 on elsewhere").unwrap();
        let held = Lock::take(dir.path()).unwrap();
        assert_eq!(held.left_by(), Some("process 7 on elsewhere"));
    }
}
