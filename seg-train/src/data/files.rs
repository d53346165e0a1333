//! What the files of a data set were when a run began, so that a changed one is found when it is read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::open;

/// The length and the checksum of every image and mask file of a data set, by its path below the data set's folder.
///
/// In JSON it is `{"images/0.png": [1234, "0123abcd"], …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Files(BTreeMap<String, Fingerprint>);

/// Length and CRC-32 of a file's bytes as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u64, String)", into = "(u64, String)")]
struct Fingerprint {
    length: u64,
    checksum: u32,
}

impl Files {
    /// Reads every one of these files once; the first error in their order, whatever thread met it.
    pub(super) fn read(root: &Path, paths: &[&Path]) -> Result<Self> {
        let read = |path: &&Path| {
            let found = open::regular(path)
                .and_then(|mut file| Fingerprint::read(&mut file))
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Ok((key(root, path), found))
        };
        let found: Vec<Result<_>> = paths.par_iter().map(read).collect();
        found.into_iter().collect::<Result<_>>().map(Self)
    }

    /// The first path that both have and whose files differ.
    pub fn first_other(&self, other: &Self) -> Option<&str> {
        let differs = |(path, file): &(&String, &Fingerprint)| {
            other.0.get(*path).is_some_and(|other| other != *file)
        };
        self.0.iter().find(differs).map(|(path, _)| path.as_str())
    }

    /// The bytes of a file that is what it was.
    pub(super) fn bytes(&self, root: &Path, path: &Path) -> Result<Vec<u8>> {
        let key = key(root, path);
        let shown = path.display();
        let Some(&then) = self.0.get(&key) else {
            bail!(
                "{shown} was not there when the run began; take it away again, or start a new run"
            );
        };
        let mut file = open::regular(path).map_err(|error| unreadable(path, &error))?;
        let mut bytes = Vec::new();
        let length = file.metadata().map(|file| file.len());
        let now = match length {
            // Of a length that is another in any case the checksum alone is wanted: the file may be vast.
            Ok(length) if length != then.length => Fingerprint::read(&mut file),
            _ => file
                .by_ref()
                .take(then.length)
                .read_to_end(&mut bytes)
                .map(|_| Fingerprint::of(&bytes)),
        }
        .map_err(|error| unreadable(path, &error))?;
        if now != then {
            bail!(
                "{shown} has changed since the run began (then {} bytes with checksum {:08x}, now {} bytes with \
                 checksum {:08x}); put the file back as it was, or start a new run",
                then.length,
                then.checksum,
                now.length,
                now.checksum
            );
        }
        Ok(bytes)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "it was there when the run began: put it back",
        _ => "it could be read when the run began",
    };
    anyhow!("{} cannot be read: {error}; {remedy}", path.display())
}

/// A path below the data set's folder, the same on every system.
fn key(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

impl Fingerprint {
    fn of(bytes: &[u8]) -> Self {
        Self {
            length: bytes.len() as u64,
            checksum: crc32fast::hash(bytes),
        }
    }

    /// Of what is left of a file, however much that is.
    fn read(file: &mut File) -> io::Result<Self> {
        let mut hasher = crc32fast::Hasher::new();
        let (mut buffer, mut length) = (vec![0; 1 << 16], 0);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    length += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            length,
            checksum: hasher.finalize(),
        })
    }
}

impl From<Fingerprint> for (u64, String) {
    fn from(file: Fingerprint) -> Self {
        (file.length, format!("{:08x}", file.checksum))
    }
}

impl TryFrom<(u64, String)> for Fingerprint {
    type Error = String;

    fn try_from((length, checksum): (u64, String)) -> Result<Self, String> {
        match u32::from_str_radix(&checksum, 16) {
            Ok(checksum) => Ok(Self { length, checksum }),
            Err(_) => Err(format!(
                "the checksum `{checksum}` is no number of 8 hexadecimal digits"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{Dataset, testing};

    /// `images/` and `masks/` of four pairs, opened.
    fn four_pairs() -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..4_u8 {
            let at = |kind: &str| folder.path().join(format!("{kind}/{n}.png"));
            testing::save(&testing::colours(6, 4, n), &at("images"));
            testing::save(&testing::dot(6, 4, (0, n.into())), &at("masks"));
        }
        let config = format!("folder:{}", folder.path().display());
        let dataset = Dataset::open(&config.parse().unwrap(), 1).unwrap();
        (folder, dataset)
    }

    #[test]
    fn the_table_of_files_comes_back_from_json_and_names_them_below_the_folder() {
        let (folder, dataset) = four_pairs();
        let files = dataset.files().unwrap().unwrap();
        let text = serde_json::to_string(&files).unwrap();
        assert_eq!(serde_json::from_str::<Files>(&text).unwrap(), files);
        let path = folder.path().join("images/0.png");
        fs::write(&path, b"123456789").unwrap();
        let files = dataset.files().unwrap().unwrap();
        // The check value of CRC-32.
        let text = serde_json::to_string(&files).unwrap();
        assert!(
            text.starts_with(r#"{"images/0.png":[9,"cbf43926"],"images/1.png":["#),
            "{text}"
        );
        assert_eq!(text.matches(".png").count(), 8);
    }

    #[test]
    fn generated_images_have_no_files() {
        let phantom = Dataset::open(&"phantom".parse().unwrap(), 1).unwrap();
        assert_eq!(phantom.files().unwrap(), None);
    }

    #[test]
    fn a_checksum_that_is_none_is_refused() {
        let error = serde_json::from_str::<Files>(r#"{"a.png": [1, "xyz"]}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the checksum `xyz` is no number of 8 hexadecimal digits at line 1 column 21"
        );
    }

    #[test]
    fn unchanged_files_are_read_as_ever() {
        let (_folder, dataset) = four_pairs();
        let files = dataset.files().unwrap().unwrap();
        let bound = dataset.clone().bound_to(files);
        for i in 0..4 {
            assert_eq!(bound.load(i).unwrap(), dataset.load(i).unwrap());
        }
    }

    #[test]
    fn a_file_that_changed_is_named_with_what_it_was() {
        let (folder, dataset) = four_pairs();
        let files = dataset.files().unwrap().unwrap();
        let bound = dataset.bound_to(files);
        let refusal = |i| format!("{:#}", bound.load(i).unwrap_err());
        let describe = |path: &Path| {
            let now = Fingerprint::of(&fs::read(path).unwrap());
            format!("{} bytes with checksum {:08x}", now.length, now.checksum)
        };

        // One bit, so that only the checksum tells.
        let image = folder.path().join("images/2.png");
        let then = describe(&image);
        let mut bytes = fs::read(&image).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&image, &bytes).unwrap();
        let sentence = |path: &Path, then: &str, now: &str| {
            format!(
                "{} has changed since the run began (then {then}, now {now}); put the file back as it was, or start a \
                 new run",
                path.display()
            )
        };
        assert_eq!(refusal(2), sentence(&image, &then, &describe(&image)));

        // What it is now is never decoded: it may be no image.
        let mask = folder.path().join("masks/1.png");
        let then = describe(&mask);
        for now in [&b"no image"[..], &[0; 5000], b""] {
            fs::write(&mask, now).unwrap();
            assert_eq!(refusal(1), sentence(&mask, &then, &describe(&mask)));
        }
        fs::remove_file(&mask).unwrap();
        assert_eq!(
            refusal(1),
            format!(
                "{} cannot be read: No such file or directory (os error 2); it was there when the run began: put it \
                 back",
                mask.display()
            )
        );
        bound.load(0).unwrap();
    }

    #[test]
    fn a_file_that_was_not_there_is_named() {
        let (folder, dataset) = four_pairs();
        let bound = dataset.bound_to(Files(BTreeMap::new()));
        assert_eq!(
            bound.load(3).unwrap_err().to_string(),
            format!(
                "{} was not there when the run began; take it away again, or start a new run",
                folder.path().join("images/3.png").display()
            )
        );
    }

    #[test]
    fn the_first_file_that_cannot_be_read_is_named() {
        let (folder, dataset) = four_pairs();
        for name in ["masks/3.png", "masks/1.png"] {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        assert_eq!(
            format!("{:#}", dataset.files().unwrap_err()),
            format!(
                "{} cannot be read: No such file or directory (os error 2)",
                folder.path().join("masks/1.png").display()
            )
        );
    }
}
