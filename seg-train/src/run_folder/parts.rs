//! `split.json`: which images a run was trained, validated and tested on, by name.
//!
//! The split is drawn from the images that are there. With images added or taken away it comes out otherwise, and a run
//! that went on, or was evaluated again, would be tested on images it was trained on.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::RunFolder;
use crate::{data::Dataset, open};

const NAME: &str = "split.json";

/// The names of the images of each part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Trained on.
    pub train: Vec<String>,
    /// Validated on.
    pub val: Vec<String>,
    /// Tested on.
    pub test: Vec<String>,
}

impl Parts {
    /// Today's parts of a data set.
    pub fn of(data: &Dataset) -> Self {
        let names = |part: &[usize]| part.iter().map(|&i| data.id(i)).collect();
        Self {
            train: names(&data.split.train),
            val: names(&data.split.val),
            test: names(&data.split.test),
        }
    }

    /// Writes them to a run folder.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        folder.write(NAME, &serde_json::to_vec(self)?)
    }

    /// Reads them back.
    ///
    /// # Errors
    ///
    /// When the file is missing or damaged.
    pub fn read(folder: &RunFolder) -> Result<Self> {
        let path = folder.file(NAME);
        let text =
            open::record(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
    }

    /// Refuses a data set that is divided otherwise today; `data` is its name for the message.
    ///
    /// # Errors
    ///
    /// One sentence that counts the images that differ and names the first.
    pub fn refuse_other(&self, today: &Self, data: &str) -> Result<()> {
        let (then, now) = (self.by_name(), today.by_name());
        let names = then
            .keys()
            .chain(now.keys().filter(|name| !then.contains_key(*name)));
        let differing: Vec<&&str> = names
            .filter(|name| then.get(*name) != now.get(*name))
            .collect();
        let Some(first) = differing.first() else {
            return Ok(());
        };
        let part =
            |parts: &BTreeMap<&str, &'static str>| parts.get(**first).copied().unwrap_or("none");
        bail!(
            "{data} has changed since the run began: {} images are in another part of the split, the first `{first}` (then {}, now {}); restore the folder as it was, or put new images into a folder of their own and evaluate that with --data",
            differing.len(),
            part(&then),
            part(&now)
        )
    }

    fn by_name(&self) -> BTreeMap<&str, &'static str> {
        [
            ("training", &self.train),
            ("validation", &self.val),
            ("test", &self.test),
        ]
        .into_iter()
        .flat_map(|(part, names)| names.iter().map(move |name| (name.as_str(), part)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(train: &[&str], val: &[&str], test: &[&str]) -> Parts {
        let names = |part: &[&str]| part.iter().map(ToString::to_string).collect();
        Parts {
            train: names(train),
            val: names(val),
            test: names(test),
        }
    }

    #[test]
    fn they_come_back_from_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = crate::run_folder::testing::folder(dir.path());
        let data = Dataset::open(&"phantom".parse().unwrap(), 0).unwrap();
        let parts = Parts::of(&data);
        assert_eq!(
            (parts.train.len(), parts.val[0].as_str()),
            (128, "phantom-128")
        );
        parts.write(&folder).unwrap();
        assert_eq!(Parts::read(&folder).unwrap(), parts);
        parts.refuse_other(&Parts::of(&data), "phantom").unwrap();
    }

    #[test]
    fn another_split_is_refused_with_the_first_image_that_moved() {
        let then = parts(&["a", "b"], &["c"], &["d"]);
        let now = parts(&["a", "d"], &["c", "e"], &["b"]);
        assert_eq!(
            then.refuse_other(&now, "folder:/x")
                .unwrap_err()
                .to_string(),
            "folder:/x has changed since the run began: 3 images are in another part of the split, the first `b` (then training, now test); restore the folder as it was, or put new images into a folder of their own and evaluate that with --data"
        );
    }
}
