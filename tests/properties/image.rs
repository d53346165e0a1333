//! Bytes as an image file and as a mask: refused in a sentence that names the file, or pixels and labels in their range.

use std::{fs, io::Cursor, ops::RangeInclusive, path::Path};

use image::ImageReader;
use seg_train::{
    data::{DataConfig, Dataset, MaskValues, read_image},
    raster::IGNORE,
};
use tempfile::TempDir;

use super::assert_names;

thread_local! {
    static FOLDER: TempDir = data_set();
}

/// A folder of three images with their masks, of which the second is to be replaced.
fn data_set() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for part in ["images", "masks"] {
        fs::create_dir(folder.path().join(part)).expect("a temporary folder");
        for name in ["a.png", "b.png", "c.png"] {
            fs::write(folder.path().join(part).join(name), PIXEL).expect("a temporary file");
        }
    }
    folder
}

/// A black pixel as a GIF.
const PIXEL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xFF\xFF\xFF,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// The bytes are one mask of a data set and the image it belongs to, so that their sizes agree.
pub(crate) fn holds(bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.path();
        for part in ["images", "masks"] {
            fs::write(folder.join(part).join("b.png"), bytes).expect("a temporary file");
        }
        if is_quick(bytes) {
            is_an_image(&folder.join("images/b.png"), range_of(bytes));
        }
        is_a_mask(folder, is_quick(bytes));
    });
}

/// Whether the pixels that the file says it has are soon decoded.
fn is_quick(bytes: &[u8]) -> bool {
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .ok()
        .and_then(|reader| reader.into_dimensions().ok())
        .is_none_or(|(width, height)| u64::from(width) * u64::from(height) <= 1 << 16)
}

/// What values may be: 0 to 255, but a TIFF may hold floats, of which any number is taken.
fn range_of(bytes: &[u8]) -> RangeInclusive<f32> {
    if bytes.starts_with(b"II") || bytes.starts_with(b"MM") {
        f32::MIN..=f32::MAX
    } else {
        0.0..=255.0
    }
}

fn is_an_image(path: &Path, range: RangeInclusive<f32>) {
    let sizes = [1, 3].map(|channels| match read_image(path, channels) {
        Ok(image) => {
            assert_eq!(image.channels, channels);
            assert!(image.height > 0 && image.width > 0);
            assert_eq!(image.data.len(), channels * image.height * image.width);
            let stray = image.data.iter().find(|value| !range.contains(*value));
            assert_eq!(stray, None, "values are within {range:?}");
            Some((image.height, image.width))
        }
        Err(error) => {
            assert_names(&format!("{error:#}"), path);
            None
        }
    });
    assert_eq!(sizes[0], sizes[1], "grey and colours are read alike");
}

fn is_a_mask(folder: &Path, is_quick: bool) {
    for (mask, classes) in [(MaskValues::Binary, 2), (MaskValues::Classes, 5)] {
        let config = DataConfig {
            kind: "folder".parse().expect("the kind of a folder"),
            path: folder.into(),
            mask,
            classes,
            ..DataConfig::default()
        };
        let sample = match Dataset::open(&config, 0) {
            Ok(dataset) if is_quick => dataset.load(1),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match sample {
            Ok(sample) => {
                let (image, labels) = (sample.image, sample.labels);
                assert_eq!((labels.height, labels.width), (image.height, image.width));
                assert_eq!(labels.data.len(), labels.height * labels.width);
                let is_label = |label: &u8| {
                    let is_class = usize::from(*label) < classes;
                    is_class || (mask == MaskValues::Classes && *label == IGNORE)
                };
                assert_eq!(labels.data.iter().find(|label| !is_label(label)), None);
            }
            Err(error) => assert_names(&format!("{error:#}"), Path::new("b.png")),
        }
    }
}
