//! What a power cut takes.
//!
//! A disk holds for certain what was synced, and nothing more. The bytes of a file are certain up to the last sync of that
//! file; what was written after it is there, or only a part of it, or zeros or another file's bytes stand in its place, or it
//! is missing. A name (a file made, renamed or removed, a folder made) is certain from the next sync of its folder on; until
//! then it is as it was or as it is, and each change apart from every other, whatever their order was; a file renamed may
//! also stand under both names. That is more than any file system in use takes: they keep at least the order of names. What
//! survives here therefore relies on nothing but syncs.
//!
//! The files are the real ones, as they would be without a cut. What the syncs made certain is kept in memory beside, and at
//! the cut the files are changed to one of the states that may be left, drawn from the seed.

use std::{
    collections::BTreeMap,
    fs, mem,
    path::{Path, PathBuf, absolute},
};

use super::Dice;

/// What would be lost.
#[derive(Debug, Default)]
pub(super) struct Volatile {
    files: Vec<Contents>,
    /// What a name stands for.
    names: BTreeMap<PathBuf, Entry>,
    /// What it stands for after a cut, as far as that is certain.
    certain: BTreeMap<PathBuf, Entry>,
    /// The changes of names that are not, oldest first.
    pending: Vec<Change>,
}

#[derive(Debug)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Nothing,
    /// By its number.
    File(usize),
    Folder,
}

/// A change of names in one folder. A cut leaves the first so many of them.
#[derive(Debug)]
struct Change {
    folder: PathBuf,
    steps: Vec<(PathBuf, Entry)>,
}

impl Volatile {
    pub(super) fn create_folder(&mut self, path: &Path) {
        let path = full(path);
        let missing: Vec<PathBuf> = path
            .ancestors()
            .take_while(|path| !path.is_dir())
            .map(PathBuf::from)
            .collect();
        for folder in missing.into_iter().rev() {
            self.change(vec![(folder, Entry::Folder)]);
        }
    }

    /// A file is about to be opened, and made if there is none.
    pub(super) fn open(&mut self, path: &Path) {
        let path = full(path);
        if self.entry(&path) == Entry::Nothing {
            let file = self.file(Vec::new());
            self.change(vec![(path, file)]);
        }
    }

    pub(super) fn truncate(&mut self, path: &Path) {
        self.contents(path).now.clear();
    }

    pub(super) fn write(&mut self, path: &Path, bytes: &[u8]) {
        self.contents(path).now.extend_from_slice(bytes);
    }

    pub(super) fn sync(&mut self, path: &Path) {
        let contents = self.contents(path);
        contents.synced.clone_from(&contents.now);
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let (from, to) = (full(from), full(to));
        let moved = self.entry(&from);
        self.entry(&to);
        self.change(vec![(to, moved), (from, Entry::Nothing)]);
    }

    pub(super) fn remove(&mut self, path: &Path) {
        let path = full(path);
        self.entry(&path);
        self.change(vec![(path, Entry::Nothing)]);
    }

    pub(super) fn sync_folder(&mut self, path: &Path) {
        let path = full(path);
        for change in mem::take(&mut self.pending) {
            if change.folder == path {
                self.certain.extend(change.steps);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Changes the real files to what a cut may leave of them.
    pub(super) fn cut(&mut self, dice: &mut Dice) {
        let mut left = mem::take(&mut self.certain);
        for Change { steps, .. } in mem::take(&mut self.pending) {
            let kept = dice.below(steps.len() + 1);
            left.extend(steps.into_iter().take(kept));
        }
        let contents: Vec<Vec<u8>> = self.files.iter().map(|file| file.after_cut(dice)).collect();
        let mut gone: Vec<&PathBuf> = Vec::new();
        for (path, now) in &self.names {
            // A name that was never certain was none before.
            let entry = left.get(path).copied().unwrap_or(Entry::Nothing);
            if gone.iter().any(|folder| path.starts_with(folder)) {
                continue;
            }
            let done = match (entry, now) {
                (Entry::Folder, _) | (Entry::Nothing, Entry::Nothing) => Ok(()),
                (Entry::Nothing, Entry::Folder) => {
                    gone.push(path);
                    fs::remove_dir_all(path)
                }
                (Entry::Nothing, Entry::File(_)) => fs::remove_file(path),
                (Entry::File(file), _) => fs::write(path, &contents[file]),
            };
            done.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// What a name stands for; one that was not met before is as certain as what it stands for.
    fn entry(&mut self, path: &Path) -> Entry {
        if let Some(entry) = self.names.get(path) {
            return *entry;
        }
        let entry = match fs::read(path) {
            Ok(bytes) => self.file(bytes),
            Err(_) => Entry::Nothing,
        };
        self.names.insert(path.into(), entry);
        self.certain.insert(path.into(), entry);
        entry
    }

    fn file(&mut self, bytes: Vec<u8>) -> Entry {
        self.files.push(Contents {
            now: bytes.clone(),
            synced: bytes,
        });
        Entry::File(self.files.len() - 1)
    }

    fn contents(&mut self, path: &Path) -> &mut Contents {
        match self.entry(&full(path)) {
            Entry::File(file) => &mut self.files[file],
            other => panic!("{} is {other:?}, no file", path.display()),
        }
    }

    fn change(&mut self, steps: Vec<(PathBuf, Entry)>) {
        let folder = steps[0].0.parent().expect("a name is in a folder").into();
        self.names.extend(steps.iter().cloned());
        self.pending.push(Change { folder, steps });
    }
}

impl Contents {
    fn after_cut(&self, dice: &mut Dice) -> Vec<u8> {
        if self.now == self.synced {
            return self.synced.clone();
        }
        let certain = if self.now.starts_with(&self.synced) {
            self.synced.len()
        } else {
            // It was emptied and written anew.
            0
        };
        let mut left = self.now.clone();
        let from = certain + dice.below(left.len() - certain + 1);
        match dice.below(5) {
            0 => return self.synced.clone(),
            1 => left.truncate(from),
            2 => left[from..].fill(0),
            3 => {
                let to = from + dice.below(left.len() - from + 1);
                left[from..to].fill_with(|| dice.below(256) as u8);
            }
            _ => {}
        }
        left
    }
}

/// One path for one name.
fn full(path: &Path) -> PathBuf {
    absolute(path).expect("the working folder is there")
}
