//! Image files of a folder, in the order a person would number them.

use std::{
    cmp::Ordering,
    ffi::OsStr,
    fs::{self, DirEntry},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::DataConfig;

/// The name endings taken for images, whatever their case; other files in a folder are passed over.
pub const EXTENSIONS: &[&str] = &["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff"];

/// Where links among the files of a folder may lead: a data set that was unpacked must not have any file of the machine
/// read as its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// Into the listed folder.
    Inside,
    /// Into the listed folder, or into this one: a data set's.
    InsideOf(PathBuf),
    /// Anywhere.
    Anywhere,
}

impl Links {
    /// As a data set's options say.
    pub(crate) fn of_data(config: &DataConfig) -> Self {
        if config.follow_links {
            Self::Anywhere
        } else {
            Self::InsideOf(config.path.clone())
        }
    }

    /// Whether a file that a link led to may be read.
    fn allow(&self, target: &Path, folder: &Path) -> bool {
        let holds = |folder: &Path| {
            folder
                .canonicalize()
                .is_ok_and(|folder| target.starts_with(folder))
        };
        match self {
            Self::Anywhere => true,
            Self::Inside => holds(folder),
            Self::InsideOf(root) => holds(folder) || holds(root),
        }
    }
}

/// The image files of a folder in natural order (`1`, `2`, `10`); hidden files and other endings are passed over.
///
/// # Errors
/// The folder is missing or cannot be listed; a name cannot be printed; a link leads nowhere, or out of where it may lead.
pub fn image_files(folder: &Path, links: &Links) -> Result<Vec<PathBuf>> {
    entries(folder, |entry, path| {
        if !has_image_extension(path) {
            return Ok(false);
        }
        let kind = entry.file_type()?;
        if !kind.is_symlink() {
            return Ok(kind.is_file());
        }
        let Some(target) = follow(path)? else {
            return Ok(false);
        };
        if !links.allow(&target, folder) {
            bail!(
                "{} is a link to {}, which is outside of {}; copy the file into the folder, or set data.follow_links = \
                 true if it is to be trusted",
                path.display(),
                printable(&target),
                match links {
                    Links::InsideOf(root) => root.display(),
                    _ => folder.display(),
                }
            );
        }
        Ok(true)
    })
}

/// The folders within a folder, and links to folders, in natural order; hidden ones are passed over.
pub(crate) fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    entries(folder, |entry, path| {
        let kind = entry.file_type()?;
        if !kind.is_symlink() {
            return Ok(kind.is_dir());
        }
        Ok(follow(path)?.is_none())
    })
}

/// The file that a link leads to; none where it leads to a folder.
fn follow(link: &Path) -> Result<Option<PathBuf>> {
    match link.canonicalize() {
        Ok(target) if target.is_dir() => Ok(None),
        Ok(target) => Ok(Some(target)),
        Err(error) => {
            let target = fs::read_link(link)?;
            bail!(
                "{} is a link to {}, which cannot be followed ({error}); put a file there, or remove the link",
                link.display(),
                printable(&target)
            );
        }
    }
}

/// The entries to keep, which are asked about by name before anything is asked of the disk.
fn entries(folder: &Path, keep: impl Fn(&DirEntry, &Path) -> Result<bool>) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        bail!("there is no folder {}", folder.display());
    }
    let unlisted = || format!("the folder {} cannot be listed", folder.display());
    let mut paths = Vec::new();
    for entry in folder.read_dir().with_context(unlisted)? {
        let entry = entry.with_context(unlisted)?;
        // macOS leaves `._name.png` files beside the real ones.
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        if !is_hidden && keep(&entry, &path)? {
            check_name(&path)?;
            paths.push(path);
        }
    }
    paths.sort_by(|a, b| natural_order(name(a), name(b)));
    Ok(paths)
}

/// The last part of a path; names that were checked are text.
fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// Refuses a name that a table or a terminal could not show: two of them could look alike, or like something else.
pub(crate) fn check_name(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let fault = match name.to_str() {
        None => "is no UTF-8",
        Some(text) if text.contains(char::is_control) => "holds a control character",
        Some(_) => return Ok(()),
    };
    // With quotation marks, and what cannot be printed escaped.
    #[expect(clippy::unnecessary_debug_formatting)]
    let (name, folder) = (format!("{name:?}"), path.parent().unwrap_or(path));
    bail!(
        "the name {name} in {} {fault}; rename the file",
        folder.display()
    )
}

/// A path on one line.
fn printable(path: &Path) -> String {
    let escape = |c: char| match c {
        c if c.is_control() => c.escape_default().collect(),
        c => String::from(c),
    };
    path.to_string_lossy().chars().map(escape).collect()
}

fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|found: &OsStr| {
        EXTENSIONS
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// Compares runs of digits by their number and all else by its characters; equal numbers (`1`, `01`) by their text.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (run_a, run_b) = (digits(rest_a), digits(rest_b));
        let order = if run_a.is_empty() || run_b.is_empty() {
            let (first_a, first_b) = (rest_a.chars().next(), rest_b.chars().next());
            if first_a.is_none() && first_b.is_none() {
                return a.cmp(b);
            }
            rest_a = &rest_a[first_a.map_or(0, char::len_utf8)..];
            rest_b = &rest_b[first_b.map_or(0, char::len_utf8)..];
            first_a.cmp(&first_b)
        } else {
            rest_a = &rest_a[run_a.len()..];
            rest_b = &rest_b[run_b.len()..];
            // Without leading zeros the longer run is the larger number, of whatever length.
            let (a, b) = (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The run of digits a text begins with.
fn digits(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_ordered_as_numbers() {
        let mut names = [
            "10",
            "b2",
            "1",
            "2",
            "b10",
            "a",
            "01",
            "b1x3",
            "b1x20",
            "",
            "é2",
            "99999999999999999999999",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "",
                "01",
                "1",
                "2",
                "10",
                "99999999999999999999999",
                "a",
                "b1x3",
                "b1x20",
                "b2",
                "b10",
                "é2"
            ]
        );
    }

    #[test]
    fn only_image_files_are_listed_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "10.png",
            "9.PNG",
            "._9.png",
            "Thumbs.db",
            "notes.txt",
            "11.tif",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("12.png")).unwrap();
        let names: Vec<_> = image_files(folder.path(), &Links::Inside)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["9.PNG", "10.png", "11.tif"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = image_files(Path::new("/no/such/place"), &Links::Inside).unwrap_err();
        assert_eq!(error.to_string(), "there is no folder /no/such/place");
    }
}
