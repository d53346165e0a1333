//! Data sets: from files to raw images and labels.
//!
//! [`DataConfig`] names a data set; [`Dataset::open`] finds its files, checks all that can be checked without decoding
//! (every image has its masks, every mask its image, sizes agree) and draws the split; [`Dataset::load`] decodes one
//! image. The table of data sets is [`KINDS`].

mod config;
mod files;
mod kinds;
mod layout;
mod listing;
mod mask;
mod nuclei;
mod outline;
mod read;
mod split;
mod stain;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tiff;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;

use crate::{
    config::Experiment,
    phantom::{self, NoiseFloor, PhantomConfig},
    raster::{Image, Labels},
};

pub use config::DataConfig;
pub use files::Files;
pub use kinds::{KINDS, Kind, Row};
pub use layout::{Layout, MasksPerImage, Pairs, Presence};
pub(crate) use listing::check_name;
pub use listing::{EXTENSIONS, Links, image_files};
pub use mask::{MaskValues, THRESHOLD};
pub use nuclei::{BOUNDARY_SIDE, NucleusLabels, boundary_width};
pub(crate) use read::image_of;
pub use read::read_image;
pub use split::{Counts, Part, Split};
pub use stain::{DARK, Stain};

use layout::Item;
use read::{Decoded, Header};

/// One image with its labels, at its own size.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name in tables and pictures.
    pub id: String,
    /// Raw values, 0..=255.
    pub image: Image,
    /// A class number a pixel.
    pub labels: Labels,
    /// The true probability of every class but the background a pixel, planar `[classes − 1, pixels]`, where it is known
    /// (the phantom).
    pub truth: Option<Vec<f32>>,
}

/// A data set that was found complete, and its split.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The name of its kind.
    pub name: String,
    /// Channels of every image.
    pub channels: usize,
    /// Number of classes, the background included.
    pub classes: usize,
    /// What is trained, validated and tested on.
    pub split: Split,
    source: Source,
}

/// Where samples come from.
#[derive(Clone, Debug)]
enum Source {
    Files {
        /// The folder of the data set.
        root: PathBuf,
        items: Vec<Item>,
        values: MaskValues,
        nuclei: NucleusLabels,
        max_pixels: u64,
        /// What the files were when a run began.
        known: Option<Files>,
    },
    Phantom {
        config: PhantomConfig,
        size: [usize; 2],
        seed: u64,
    },
}

impl Dataset {
    /// Finds a data set's files, checks them and draws the split from the seed.
    ///
    /// Where one stain is asked for, every image is decoded once to know its own, on all threads: seconds for dsb2018. The
    /// split is drawn of what is left, 80/20 twice; the published sizes are those of all images.
    ///
    /// # Errors
    /// A folder, an image or a mask is missing, is ambiguous or has the wrong size; there are too few images to divide;
    /// options do not fit the kind. The sentence names the file and what was expected.
    pub fn open(config: &DataConfig, seed: u64) -> Result<Self> {
        config.check()?;
        let row = config.kind.row();
        if matches!(row.layout, Layout::Generated) {
            return Self::phantom(config.phantom.clone().unwrap_or_default(), row, seed);
        }
        if !config.path.is_dir() {
            anyhow::bail!(
                "there is no folder {}; {} is read from {}",
                config.path.display(),
                row.name,
                row.expects
            );
        }
        let mut items = layout::find_items(row, config)?;
        if let Some(stain) = config.stain {
            items = stain::only(stain, items, config)?;
        }
        let headers = check_headers(&items, config.max_pixels)?;
        let channels = row
            .channels
            .or(config.channels)
            .unwrap_or(headers[0].channels);
        let members: Vec<_> = items.iter().map(|item| member(item, config)).collect();
        let split = split::draw(&members, row.published, seed)
            .with_context(|| format!("{} cannot be split", config.path.display()))?;
        let source = Source::Files {
            root: config.path.clone(),
            items,
            values: config.mask,
            nuclei: config.labels,
            max_pixels: config.max_pixels,
            known: None,
        };
        Ok(Self {
            name: row.name.into(),
            channels,
            classes: config.classes.max(config.labels.classes()),
            split,
            source,
        })
    }

    /// The built-in data set, its images at their usual size.
    fn phantom(config: PhantomConfig, row: &Row, seed: u64) -> Result<Self> {
        let PhantomConfig {
            train, val, test, ..
        } = config;
        if [train, val, test].contains(&0) {
            anyhow::bail!(
                "data.phantom has train = {train}, val = {val} and test = {test}; expected at least 1 of each"
            );
        }
        let split = Split {
            train: (0..train).collect(),
            val: (train..train + val).collect(),
            test: (train + val..train + val + test).collect(),
        };
        let (channels, classes) = (phantom::channels(config.classes), config.classes);
        let source = Source::Phantom {
            config,
            size: row.size,
            seed,
        };
        Ok(Self {
            name: row.name.into(),
            channels,
            classes,
            split,
            source,
        })
    }

    /// The same images, all of them for testing: another data set than the one a network was trained on leaves it nothing
    /// to train or to choose weights by.
    ///
    /// ```
    /// use seg_train::data::{DataConfig, Dataset};
    /// let all = Dataset::open(&DataConfig::default(), 1)?.all_for_testing();
    /// assert_eq!(all.split.test.len(), all.len());
    /// assert!(all.split.train.is_empty() && all.split.val.is_empty());
    /// # anyhow::Ok(())
    /// ```
    #[must_use]
    pub fn all_for_testing(mut self) -> Self {
        self.split = Split {
            test: (0..self.len()).collect(),
            ..Split::default()
        };
        self
    }

    /// The same data set with generated images of this height and width; images from files have the size they have.
    #[must_use]
    pub fn at_size(mut self, new: [usize; 2]) -> Self {
        if let Source::Phantom { size, .. } = &mut self.source {
            *size = new;
        }
        self
    }

    /// The data set of an experiment, at the size its network sees where images are generated.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn of(experiment: &Experiment) -> Result<Self> {
        Ok(Self::open(&experiment.data, experiment.seed)?.at_size(experiment.preprocess.size))
    }

    /// Whether there are no files, and images are made when they are asked for.
    pub fn is_generated(&self) -> bool {
        matches!(self.source, Source::Phantom { .. })
    }

    /// What the files of the data set are, each read once; none where images are generated.
    ///
    /// # Errors
    /// A file cannot be read; the sentence names it.
    pub fn files(&self) -> Result<Option<Files>> {
        match &self.source {
            Source::Files { root, items, .. } => {
                let paths: Vec<&Path> = items.iter().flat_map(Item::paths).collect();
                Files::read(root, &paths).map(Some)
            }
            Source::Phantom { .. } => Ok(None),
        }
    }

    /// The same data set, whose files must be what they were when a run began: [`Dataset::load`] refuses one that has
    /// changed since, by the very bytes that it decodes.
    #[must_use]
    pub fn bound_to(mut self, files: Files) -> Self {
        if let Source::Files { known, .. } = &mut self.source {
            *known = Some(files);
        }
        self
    }

    /// The same data set, bound to what its files are now.
    ///
    /// # Errors
    /// A file cannot be read; the sentence names it.
    pub fn bind(self) -> Result<Self> {
        Ok(match self.files()? {
            Some(files) => self.bound_to(files),
            None => self,
        })
    }

    /// What the data set is bound to.
    pub fn bound(&self) -> Option<&Files> {
        match &self.source {
            Source::Files { known, .. } => known.as_ref(),
            Source::Phantom { .. } => None,
        }
    }

    /// Where images are generated, the excess NLL over the true probabilities that their noise leaves to the best
    /// estimator, at most.
    ///
    /// # Errors
    /// The settings make no image.
    pub fn noise_floor(&self) -> Result<Option<NoiseFloor>> {
        match &self.source {
            Source::Phantom { config, size, seed } => {
                phantom::noise_floor(config, *size, *seed).map(Some)
            }
            Source::Files { .. } => Ok(None),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Files { items, .. } => items.len(),
            Source::Phantom { config, .. } => config.train + config.val + config.test,
        }
    }

    /// Whether there are no images; [`Dataset::open`] refuses such a data set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of image `i`; empty where there is no such image.
    pub fn id(&self, i: usize) -> String {
        match &self.source {
            Source::Phantom { .. } => phantom::id(i),
            Source::Files { items, .. } => items
                .get(i)
                .map_or_else(String::new, |item| item.id.clone()),
        }
    }

    /// Decodes image `i` and its masks.
    ///
    /// # Errors
    /// There is no image `i`, or a file cannot be decoded or is not the one that the data set is bound to; the sentence
    /// names the file.
    pub fn load(&self, i: usize) -> Result<Sample> {
        match &self.source {
            Source::Phantom { config, size, seed } => {
                let phantom::Phantom {
                    id,
                    image,
                    labels,
                    truth,
                } = phantom::sample(config, *size, *seed, i)?;
                Ok(Sample {
                    id,
                    image,
                    labels,
                    truth: Some(truth),
                })
            }
            Source::Files {
                root,
                items,
                values,
                nuclei,
                max_pixels,
                known,
            } => {
                let item = items.get(i).with_context(|| {
                    format!("there is no image {i}: the data set has {}", items.len())
                })?;
                let decode = |path: &Path| -> Result<Decoded> {
                    match known {
                        Some(known) => {
                            read::decode_bytes(path, known.bytes(root, path)?, *max_pixels)
                        }
                        None => read::decode(path, *max_pixels),
                    }
                };
                let image = read::image_of(decode(&item.image)?.pixels, self.channels)?;
                let header = Header {
                    height: image.height,
                    width: image.width,
                    channels: self.channels,
                };
                let labels = mask::read_labels(
                    (&item.image, header),
                    &item.masks,
                    (*values, *nuclei, self.classes),
                    decode,
                )?;
                Ok(Sample {
                    id: item.id.clone(),
                    image,
                    labels,
                    truth: None,
                })
            }
        }
    }
}

/// Every header, read in parallel; the first error in the order of the items, whatever thread met it.
fn check_headers(items: &[Item], max_pixels: u64) -> Result<Vec<Header>> {
    let check = |item: &Item| {
        let header = read::read_header(&item.image, max_pixels)?;
        for path in &item.masks {
            let mask = read::read_header(path, max_pixels)?;
            mask::same_size((&item.image, header), (path, mask))?;
        }
        Ok(header)
    };
    let checked: Vec<Result<Header>> = items.par_iter().map(check).collect();
    checked.into_iter().collect()
}

fn member(item: &Item, config: &DataConfig) -> split::Member {
    let patient = match &config.patient_until {
        Some(end) => item.id.split(end.as_str()).next().unwrap_or(&item.id),
        None => (config.kind.row().patient)(&item.id),
    };
    split::Member {
        patient: patient.into(),
        part: item.part,
    }
}
