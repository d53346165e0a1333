//! Image files of a folder, in the order a person would number them.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The name endings taken for images, whatever their case; other files in a folder are passed over.
pub const EXTENSIONS: &[&str] = &["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff"];

/// The image files of a folder in natural order (`1`, `2`, `10`); hidden files and other endings are passed over.
///
/// # Errors
/// The folder is missing or cannot be listed.
pub fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    entries(folder, |path| path.is_file() && has_image_extension(path))
}

/// The folders within a folder, in natural order; hidden ones are passed over.
pub(crate) fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    entries(folder, Path::is_dir)
}

fn entries(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        bail!("there is no folder {}", folder.display());
    }
    let unlisted = || format!("the folder {} cannot be listed", folder.display());
    let mut paths = Vec::new();
    for entry in folder.read_dir().with_context(unlisted)? {
        let path = entry.with_context(unlisted)?.path();
        // macOS leaves `._name.png` files beside the real ones.
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && keep(&path) {
            paths.push(path);
        }
    }
    paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(paths)
}

fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|found| {
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
        let names: Vec<_> = image_files(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["9.PNG", "10.png", "11.tif"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = image_files(Path::new("/no/such/place")).unwrap_err();
        assert_eq!(error.to_string(), "there is no folder /no/such/place");
    }
}
