//! Where the data sets of a grid lie: named on the command line, or found below one folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::data::{DataConfig, Dataset, Layout, Row};

/// What the command line says of data sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `--data-root`: data sets lie below it, in folders named after them.
    pub root: Option<PathBuf>,
    /// `--data KIND:PATH`, before whatever lies below the root.
    pub named: Vec<String>,
}

/// A data set that a grid names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The data set, as the grid names it.
    pub data: String,
    /// Why it cannot be used.
    pub why: String,
    /// Where it can be had.
    pub source: String,
    /// On what terms.
    pub terms: String,
}

impl Sources {
    /// The data set that a grid's entry means, found complete; else why not.
    ///
    /// # Errors
    ///
    /// An entry that names no kind of data set, or a folder that cannot be listed.
    pub fn find(&self, entry: &str) -> Result<std::result::Result<DataConfig, Missing>> {
        if entry.contains(':') || entry == "phantom" {
            let config = entry.parse::<DataConfig>()?.absolute()?;
            return Ok(
                opened(config.clone()).map_err(|why| missing(entry, config.kind.row(), &why))
            );
        }
        let row = format!("{entry}:.").parse::<DataConfig>()?.kind.row();
        for named in &self.named {
            let config = named.parse::<DataConfig>()?.absolute()?;
            if std::ptr::eq(config.kind.row(), row) {
                return Ok(opened(config).map_err(|why| missing(entry, row, &why)));
            }
        }
        let Some(root) = &self.root else {
            let why = format!("name it with --data {entry}:PATH, or its parent with --data-root");
            return Ok(Err(missing(entry, row, &why)));
        };
        let mut reasons = Vec::new();
        let mut found: Option<(usize, DataConfig)> = None;
        for folder in like(root, entry)? {
            let config = DataConfig {
                path: folder,
                ..format!("{entry}:.").parse()?
            };
            match opened(config.clone()) {
                Ok(config) => {
                    let images = Dataset::open(&config, 0)?.len();
                    // Of two releases of one set, the fuller.
                    if found.as_ref().is_none_or(|(most, _)| images > *most) {
                        found = Some((images, config));
                    }
                }
                Err(why) => reasons.push(why),
            }
        }
        Ok(found.map(|(_, config)| config).ok_or_else(|| {
            let why = reasons.first().cloned().unwrap_or_else(|| {
                format!(
                    "there is no folder named like {entry} in {}",
                    root.display()
                )
            });
            missing(entry, row, &why)
        }))
    }
}

fn missing(entry: &str, row: &Row, why: &str) -> Missing {
    Missing {
        data: entry.into(),
        why: why.into(),
        source: row.source.into(),
        terms: row.terms.into(),
    }
}

/// The same with its path absolute, if all its files are there; else the sentence that says what is not.
fn opened(config: DataConfig) -> std::result::Result<DataConfig, String> {
    let open = || -> Result<DataConfig> {
        let config = config.absolute()?;
        if !matches!(config.kind.row().layout, Layout::Generated) {
            Dataset::open(&config, 0)?;
        }
        Ok(config)
    };
    open().map_err(|error| format!("{error:#}"))
}

/// The folders in `root` that are named like a kind, in order: `CVC-ClinicDB_PNG` is named like `cvc-clinicdb`.
fn like(root: &Path, kind: &str) -> Result<Vec<PathBuf>> {
    let letters = |name: &str| -> String {
        name.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let entries = fs::read_dir(root).with_context(|| {
        format!(
            "the folder {} of --data-root cannot be read",
            root.display()
        )
    })?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("{} cannot be read", root.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && letters(&name).starts_with(&letters(kind)) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, RgbImage};

    fn pairs(folder: &Path, count: usize) {
        for part in ["Original", "Ground Truth"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        for i in 1..=count {
            RgbImage::new(8, 8)
                .save(folder.join(format!("Original/{i}.png")))
                .unwrap();
            GrayImage::new(8, 8)
                .save(folder.join(format!("Ground Truth/{i}.png")))
                .unwrap();
        }
    }

    #[test]
    fn a_data_set_is_found_by_its_folders_name_and_the_fuller_release_is_taken() {
        let root = tempfile::tempdir().unwrap();
        pairs(&root.path().join("CVC-ClinicDB_A"), 3);
        pairs(&root.path().join("CVC-ClinicDB_B"), 5);
        fs::create_dir(root.path().join("CVC-ClinicDB_C")).unwrap();
        let sources = Sources {
            root: Some(root.path().into()),
            named: Vec::new(),
        };
        let found = sources.find("cvc-clinicdb").unwrap().unwrap();
        assert_eq!(found.path, root.path().join("CVC-ClinicDB_B"));
        let named = Sources {
            named: vec![format!(
                "cvc-clinicdb:{}",
                root.path().join("CVC-ClinicDB_A").display()
            )],
            ..sources
        };
        let found = named.find("cvc-clinicdb").unwrap().unwrap();
        assert_eq!(found.path, root.path().join("CVC-ClinicDB_A"));
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_can_be_had() {
        let root = tempfile::tempdir().unwrap();
        let sources = Sources {
            root: Some(root.path().into()),
            named: Vec::new(),
        };
        let missing = sources.find("drive").unwrap().unwrap_err();
        assert_eq!(
            missing.why,
            format!(
                "there is no folder named like drive in {}",
                root.path().display()
            )
        );
        assert_eq!(missing.source, "drive.grand-challenge.org");
        assert!(missing.terms.contains("not to be passed on"));
        // There, but not as it should be: the sentence of the loader.
        fs::create_dir(root.path().join("DRIVE")).unwrap();
        let missing = sources.find("drive").unwrap().unwrap_err();
        assert!(missing.why.contains("training/images"), "{}", missing.why);
        let missing = Sources::default().find("drive").unwrap().unwrap_err();
        assert_eq!(
            missing.why,
            "name it with --data drive:PATH, or its parent with --data-root"
        );
        assert!(Sources::default().find("phantom").unwrap().is_ok());
        assert!(Sources::default().find("moon").is_err());
    }
}
