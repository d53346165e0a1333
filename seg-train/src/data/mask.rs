//! Mask files to labels.
//!
//! A binary mask's foreground is what is brighter than 127 in its brightest channel, alpha aside. "Above 0" would be
//! wrong for JPEG masks, for CVC-ClinicDB's grey plateaus and for palettes whose black is (4, 2, 4); luma would lose a
//! mask painted in pure red or blue. Several masks of one image are one foreground: their union, or nuclei with boundaries
//! ([`NucleusLabels`]).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::DynamicImage;
use serde::{Deserialize, Serialize};

use super::{
    nuclei::{self, NucleusLabels},
    read::{Decoded, Header},
};
use crate::raster::{IGNORE, Labels, NO_CLASS};

/// The largest grey value that is background in a binary mask.
pub const THRESHOLD: u8 = 127;

/// The largest grey value that black may have become in a JPEG, an eighth of the range: its compression rings around
/// edges and moves values by up to some ten levels.
const JPEG_NOISE: u8 = 31;

/// What the values of a mask file mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskValues {
    /// Dark is background, bright (above [`THRESHOLD`]) is foreground.
    #[default]
    Binary,
    /// Each value is a class number, and 255 a pixel to ignore.
    Classes,
}

/// The masks of an image, decoded one after the other, as labels `0..classes`, and [`IGNORE`] where a mask of class numbers says 255.
pub(crate) fn read_labels(
    image: (&Path, Header),
    masks: &[PathBuf],
    (values, kind, classes): (MaskValues, NucleusLabels, usize),
    decode: impl Fn(&Path) -> Result<Decoded>,
) -> Result<Labels> {
    let (_, Header { height, width, .. }) = image;
    let mut labels = Labels {
        height,
        width,
        data: vec![0; height * width],
    };
    for path in masks {
        let Decoded {
            pixels: mask,
            is_jpeg,
        } = decode(path)?;
        let (height, width) = (mask.height() as usize, mask.width() as usize);
        same_size(
            image,
            (
                path,
                Header {
                    height,
                    width,
                    channels: 1,
                },
            ),
        )?;
        match values {
            MaskValues::Binary => {
                let levels = brightest(mask);
                refuse_dark(&levels, if is_jpeg { JPEG_NOISE } else { 0 }, path)?;
                match kind {
                    NucleusLabels::Union => unite(&mut labels.data, &levels),
                    NucleusLabels::Boundary => {
                        nuclei::draw(&mut labels, |i| levels[i] > THRESHOLD);
                    }
                }
            }
            MaskValues::Classes => labels.data = class_numbers(mask, classes, path)?,
        }
    }
    Ok(labels)
}

/// A mask has its image's size.
pub(crate) fn same_size(image: (&Path, Header), mask: (&Path, Header)) -> Result<()> {
    let ((image, i), (mask, m)) = (image, mask);
    if (i.height, i.width) != (m.height, m.width) {
        bail!(
            "the mask {} has {}x{} pixels, but its image {} has {}x{} (width x height)",
            mask.display(),
            m.width,
            m.height,
            image.display(),
            i.width,
            i.height
        );
    }
    Ok(())
}

/// Whether class numbers `0..classes` leave room for the two labels that are none.
pub(crate) fn check_classes(classes: usize) -> Result<()> {
    if !(2..=usize::from(NO_CLASS)).contains(&classes) {
        bail!("classes = {classes}: a mask holds 2 to {NO_CLASS} classes, the background included");
    }
    Ok(())
}

/// Refuses a mask that is all background but not all black.
///
/// {0, 1, 2} or {0, 100} is a mask by another convention: read as it stands, all of it would silently be background. One
/// bright pixel settles that it is not. `noise` is the largest value that still is black: 0 but for a JPEG, whose empty
/// mask is nearly black, and where class numbers would not have survived in any case.
fn refuse_dark(levels: &[u8], noise: u8, path: &Path) -> Result<()> {
    let highest = levels.iter().fold(0, |highest, &level| level.max(highest));
    if highest > noise && highest <= THRESHOLD {
        bail!(
            "the mask {} holds no value above {highest}, and foreground is what is above {THRESHOLD}; \
             scale it to 0 and 255, or read class numbers with data.mask = \"classes\"",
            path.display()
        );
    }
    Ok(())
}

fn unite(labels: &mut [u8], levels: &[u8]) {
    for (label, &level) in labels.iter_mut().zip(levels) {
        *label |= u8::from(level > THRESHOLD);
    }
}

/// The brightest channel of each pixel, as 8 bits; alpha does not count. 16 bits are rounded up, so that the class
/// numbers of a 16-bit mask do not all become 0.
fn brightest(mask: DynamicImage) -> Vec<u8> {
    match mask {
        DynamicImage::ImageLuma8(grey) => grey.into_raw(),
        other => other
            .into_rgb16()
            .pixels()
            .map(|p| p.0[0].max(p.0[1]).max(p.0[2]).div_ceil(257) as u8)
            .collect(),
    }
}

fn class_numbers(mask: DynamicImage, classes: usize, path: &Path) -> Result<Vec<u8>> {
    let values: Vec<u16> = match mask {
        DynamicImage::ImageLuma8(grey) => grey.into_raw().into_iter().map(u16::from).collect(),
        DynamicImage::ImageLuma16(grey) => grey.into_raw(),
        other => grey_values(other, path)?,
    };
    let number = |value: u16| match u8::try_from(value) {
        Ok(number) if usize::from(number) < classes || number == IGNORE => Ok(number),
        _ => bail!(
            "the mask {} holds the value {value}, but {classes} classes are numbered 0 to {} ({IGNORE} is ignored)",
            path.display(),
            classes - 1
        ),
    };
    values.into_iter().map(number).collect()
}

/// Equal channels are a grey value; a colour is no class number, and a palette's indices are not kept by the decoder.
fn grey_values(mask: DynamicImage, path: &Path) -> Result<Vec<u16>> {
    let grey = |p: &image::Rgb<u8>| {
        let [r, g, b] = p.0;
        if r == g && g == b {
            return Ok(u16::from(r));
        }
        bail!(
            "the mask {} has colours (here {r}, {g}, {b}); class numbers are read from grey values",
            path.display()
        )
    };
    mask.into_rgb8().pixels().map(grey).collect()
}
