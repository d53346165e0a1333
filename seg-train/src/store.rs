//! How files come into being: whole, or not at all.
//!
//! Everything that the trainer leaves behind is written here. A file goes to a sibling first, which is synced, and then
//! takes the file's name, after which its folder is synced: whatever happens meanwhile, the name stands for the old file
//! or for the new one. What is synced in which order is then all there is to know about a power cut.
//!
//! The few operations that this takes are a [`Disk`], so that a test can put one in the place of the machine's that fails,
//! or forgets what was not synced ([`install`]).

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};

/// What the trainer does to a disk, operation by operation.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder and those above it.
    ///
    /// # Errors
    ///
    /// Those of [`fs::create_dir_all`].
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Opens a file that is empty, whatever it was before.
    ///
    /// # Errors
    ///
    /// Those of [`File::create`].
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;

    /// Opens a file at its end.
    ///
    /// # Errors
    ///
    /// Those of [`OpenOptions::open`].
    fn append(&self, path: &Path) -> io::Result<Box<dyn Output>>;

    /// Gives a file another name, that of a file which is gone then.
    ///
    /// # Errors
    ///
    /// Those of [`fs::rename`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// Those of [`fs::remove_file`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns when the names in a folder are where a power cut cannot take them.
    ///
    /// # Errors
    ///
    /// When the disk reports one.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// A file being written.
pub trait Output: Write {
    /// Returns when what was written is where a power cut cannot take it.
    ///
    /// # Errors
    ///
    /// When the disk reports one.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's.
#[derive(Clone, Copy, Debug)]
struct Machine;

#[expect(
    clippy::disallowed_methods,
    reason = "this is what stands in their place"
)]
impl Disk for Machine {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Windows opens no folder as a file; its file systems keep names in a journal of their own.
        if cfg!(windows) {
            return Ok(());
        }
        match File::open(path).and_then(|folder| folder.sync_all()) {
            // Some network file systems sync no folders: there is no more that could be done.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            synced => synced,
        }
    }
}

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

static DISK: OnceLock<Box<dyn Disk>> = OnceLock::new();

/// Puts a disk in the place of the machine's, for the rest of the process: before anything was written.
///
/// # Errors
///
/// When the process has written already.
pub fn install(disk: Box<dyn Disk>) -> Result<()> {
    DISK.set(disk)
        .map_err(|_| anyhow!("the process has a disk already; install one before it writes"))
}

fn disk() -> &'static dyn Disk {
    &**DISK.get_or_init(|| Box::new(Machine))
}

/// Writes a file whole or not at all.
///
/// # Errors
///
/// When the disk refuses; the file is then what it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let sibling = write_sibling(path, bytes)?;
    replace(path, &sibling)
}

/// Writes a file that cannot be made again, and keeps the one that it takes the place of under the name `previous`.
///
/// The new file is read back and compared with what was written before it takes its name.
///
/// # Errors
///
/// When the disk refuses, or gives back something else than it took; there is a whole file under one of the two names
/// then, if there was one before.
pub fn write_keeping(path: &Path, bytes: &[u8], previous: &Path) -> Result<()> {
    let sibling = write_sibling(path, bytes)?;
    let back = fs::read(&sibling).with_context(|| format!("{} cannot be read", sibling.display()));
    let kept = back.and_then(|back| {
        ensure!(
            back == bytes,
            "{} was read back with other bytes than were written; the disk is failing, go on elsewhere",
            sibling.display()
        );
        if path.is_file() {
            disk()
                .rename(path, previous)
                .map_err(|error| refused(previous, &error))?;
        }
        Ok(())
    });
    if kept.is_err() {
        let _ = disk().remove(&sibling); // a second failure adds nothing to the first
    }
    kept?;
    replace(path, &sibling)
}

/// Adds to the end of a file, and returns when a power cut cannot take it.
///
/// # Errors
///
/// When the disk refuses; a part of it may have been written then.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let is_new = !path.exists();
    disk()
        .append(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync()))
        .and_then(|()| {
            if is_new {
                disk().sync_folder(parent(path))
            } else {
                Ok(())
            }
        })
        .map_err(|error| refused(path, &error))
}

/// Gives a file the name of another, which is gone then.
///
/// # Errors
///
/// When the disk refuses.
pub fn take_place(path: &Path, of: &Path) -> Result<()> {
    disk()
        .rename(path, of)
        .and_then(|()| disk().sync_folder(parent(of)))
        .map_err(|error| refused(of, &error))
}

/// Removes what is left in a folder of files that were never written whole.
///
/// # Errors
///
/// When the disk refuses.
pub fn remove_parts(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(()); // what is not there holds none
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == PART) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it; one that is there already is as good.
///
/// # Errors
///
/// When the disk refuses.
pub fn create_folder(path: &Path) -> Result<()> {
    let refused = |error: io::Error| {
        anyhow!(
            "the folder {} cannot be made ({error}); {}",
            path.display(),
            advice(&error)
        )
    };
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.is_dir())
        .collect();
    disk().create_folder(path).map_err(refused)?;
    // A folder's own name stands in the one above it.
    for folder in missing {
        disk().sync_folder(parent(folder)).map_err(refused)?;
    }
    Ok(())
}

/// Removes a file; one that is not there is as good.
///
/// # Errors
///
/// When the disk refuses.
pub fn remove(path: &Path) -> Result<()> {
    match disk().remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(anyhow!(
            "{} cannot be removed ({error}); {}",
            path.display(),
            advice(&error)
        )),
        _ => Ok(()),
    }
}

/// What the name of a file ends in until it is whole.
const PART: &str = "part";

/// Where a file is written before it takes its name.
fn sibling(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(PART);
    name.into()
}

fn write_sibling(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let sibling = sibling(path);
    disk()
        .create(&sibling)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync()))
        .map_err(|error| {
            let _ = disk().remove(&sibling); // on a full disk it is in the way
            refused(path, &error)
        })?;
    Ok(sibling)
}

fn replace(path: &Path, sibling: &Path) -> Result<()> {
    disk()
        .rename(sibling, path)
        .inspect_err(|_| {
            let _ = disk().remove(sibling);
        })
        .and_then(|()| disk().sync_folder(parent(path)))
        .map_err(|error| refused(path, &error))
}

/// The folder that a name stands in.
fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The sentence for a file that the disk does not take.
pub(crate) fn refused(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!(
        "{} cannot be written ({error}); {}",
        path.display(),
        advice(error)
    )
}

/// What to do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space on its disk"
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "give this program leave to write there"
        }
        ErrorKind::NotFound => "put its folder back",
        _ => "look after the disk",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        append(&path, b" and three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two and three");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn the_file_before_is_kept_under_its_other_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, previous) = (dir.path().join("state"), dir.path().join("state.previous"));
        write_keeping(&path, b"one", &previous).unwrap();
        assert!(!previous.exists());
        for (new, old) in [(b"two", b"one"), (b"six", b"two")] {
            write_keeping(&path, new, &previous).unwrap();
            assert_eq!(fs::read(&path).unwrap(), new);
            assert_eq!(fs::read(&previous).unwrap(), old);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        take_place(&previous, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!previous.exists());
    }

    #[test]
    fn what_was_never_whole_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "a.part", "b.toml", "part", "b.toml.part"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_parts(dir.path()).unwrap();
        remove_parts(&dir.path().join("gone")).unwrap();
        let mut left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "b.toml", "part"]);
    }

    #[test]
    fn what_the_disk_refuses_is_said_with_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/a");
        let refused = |error: ErrorKind| super::refused(Path::new("a"), &error.into()).to_string();
        assert_eq!(
            write(&path, b"").unwrap_err().to_string(),
            format!(
                "{} cannot be written (No such file or directory (os error 2)); put its folder back",
                path.display()
            )
        );
        assert_eq!(
            refused(ErrorKind::StorageFull),
            "a cannot be written (no storage space); free some space on its disk"
        );
        assert_eq!(
            refused(ErrorKind::ReadOnlyFilesystem),
            "a cannot be written (read-only filesystem or storage medium); give this program leave to write there"
        );
        fs::write(dir.path().join("file"), "").unwrap();
        let below = dir.path().join("file/folder");
        assert_eq!(
            create_folder(&below).unwrap_err().to_string(),
            format!(
                "the folder {} cannot be made (Not a directory (os error 20)); look after the disk",
                below.display()
            )
        );
    }
}
