//! The two kinds of microscopy in dsb2018, told apart by how light their ground is.
//!
//! What a network learns on nuclei that shine on a dark ground is tried out of distribution on nuclei that are stained
//! dark on a light one, and the other way round.

use std::{fmt, path::Path};

use anyhow::{Result, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{DataConfig, layout::Item, read};
use crate::raster::Image;

/// The largest median luminance (Rec. 709, 0..=255) of a dark ground.
///
/// A quarter of the range. In stage 1 of dsb2018 the medians of 546 images are 0 to 44 and those of 124 are 94 and more,
/// so that any bound between parts them alike. By their masks, nuclei are darker than the rest of the image in these 124
/// and brighter in 545 of the 546; the one exception (7b38c917…) is a fluorescence image whose only mask is a stray
/// stroke.
pub const DARK: f32 = 64.0;

/// How nuclei were made visible.
///
/// ```
/// use seg_train::{data::Stain, raster::Image};
/// let ground = |level| Image { channels: 1, height: 1, width: 3, data: vec![level, level, 128.0] };
/// assert_eq!(Stain::of(&ground(10.0)), Stain::Fluorescence);
/// assert_eq!(Stain::of(&ground(200.0)), Stain::Other);
/// assert_eq!(Stain::Other.opposite(), Stain::Fluorescence);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stain {
    /// Fluorescence: bright nuclei on a dark ground, 546 of the 670 images of stage 1.
    Fluorescence,
    /// Histology and bright field: dark nuclei on a light ground, the other 124.
    Other,
}

impl Stain {
    /// The stain of an image of one channel (luminance, 0..=255): fluorescence where its median is at most [`DARK`]. The
    /// median is the ground's as long as nuclei cover less than half of the image; of an even number of pixels it is the
    /// upper one.
    ///
    /// # Panics
    /// Where there is no pixel.
    pub fn of(luminance: &Image) -> Self {
        let mut values = luminance.data.clone();
        let middle = values.len() / 2;
        let (_, median, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
        if *median <= DARK {
            Self::Fluorescence
        } else {
            Self::Other
        }
    }

    /// The other of the two.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Fluorescence => Self::Other,
            Self::Other => Self::Fluorescence,
        }
    }

    /// The stain of a file.
    fn of_file(path: &Path, max_pixels: u64) -> Result<Self> {
        read::read_image(path, 1, max_pixels).map(|image| Self::of(&image))
    }
}

impl fmt::Display for Stain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fluorescence => "fluorescence",
            Self::Other => "other",
        })
    }
}

/// The images of one stain, in their order, at least one. Every image is decoded, in parallel, and none is kept in memory; the first
/// error is that of the first image, whatever thread met it.
pub(super) fn only(stain: Stain, items: Vec<Item>, config: &DataConfig) -> Result<Vec<Item>> {
    let DataConfig {
        path, max_pixels, ..
    } = config;
    let stains: Vec<Result<Stain>> = items
        .par_iter()
        .map(|item| Stain::of_file(&item.image, *max_pixels))
        .collect();
    let (mut kept, count) = (Vec::new(), items.len());
    for (item, found) in items.into_iter().zip(stains) {
        if found? == stain {
            kept.push(item);
        }
    }
    if kept.is_empty() {
        bail!(
            "data.stain is {stain}, but none of the {count} images of {} is; they all are {}: leave data.stain out",
            path.display(),
            stain.opposite()
        );
    }
    Ok(kept)
}
