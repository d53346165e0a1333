//! Which data set, and how its files are read.

use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{Context, Error, Result, bail};
use serde::{Deserialize, Serialize};

use super::{kinds::Kind, mask::MaskValues, nuclei::NucleusLabels, stain::Stain};
use crate::phantom::PhantomConfig;

/// A data set, how its files are read, and the options of `folder`.
///
/// On the command line it is written `KIND:PATH`, and the built-in one `phantom`.
///
/// ```
/// use seg_train::data::DataConfig;
/// let config: DataConfig = "dsb2018:/data/bowl".parse()?;
/// assert_eq!(config.kind.row().published.unwrap().train, 428);
/// assert_eq!(config.to_string(), "dsb2018:/data/bowl");
/// assert_eq!("phantom".parse::<DataConfig>()?, DataConfig::default());
/// # anyhow::Ok(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The data set, by its name in [`KINDS`](super::KINDS).
    pub kind: Kind,
    /// The folder it was unpacked to; empty for the phantom.
    pub path: PathBuf,
    /// `folder` only: 1 or 3 channels. Default: as the first image has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// `folder` only: what the values of a mask mean.
    pub mask: MaskValues,
    /// `folder` only: the number of classes, the background included.
    pub classes: usize,
    /// `folder` only: what a mask's stem has after its image's, such as `_mask`.
    pub mask_suffix: String,
    /// `folder` only: what ends the patient's part of a name, such as `_` in `P07_slice3`; a patient's images fall
    /// into one part of the split. Default: each image is a patient of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient_until: Option<String>,
    /// The most pixels that an image or a mask may have: a small file can claim to be an image that fills all memory.
    pub max_pixels: u64,
    /// Whether a link among the files may lead out of the data set's folder.
    pub follow_links: bool,
    /// `dsb2018` only: the images of one stain. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stain: Option<Stain>,
    /// `dsb2018` only: two classes, or the boundary of a nucleus as a third.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: NucleusLabels,
    /// `phantom` only: what its images look like. Default: [`PhantomConfig::default`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phantom: Option<PhantomConfig>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The default of [`DataConfig::max_pixels`], 2²⁵: the largest image of the data sets known here has 30.4 million.
const MAX_PIXELS: u64 = 1 << 25;

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            path: PathBuf::new(),
            channels: None,
            mask: MaskValues::Binary,
            classes: 2,
            mask_suffix: String::new(),
            patient_until: None,
            max_pixels: MAX_PIXELS,
            follow_links: false,
            stain: None,
            labels: NucleusLabels::Union,
            phantom: None,
        }
    }
}

impl DataConfig {
    /// The same with its path absolute: what is written down is read from other folders too.
    ///
    /// # Errors
    /// The working directory is gone.
    pub fn absolute(self) -> Result<Self> {
        if self.path.as_os_str().is_empty() {
            return Ok(self);
        }
        let path = std::path::absolute(&self.path)
            .with_context(|| format!("{} has no absolute path", self.path.display()))?;
        Ok(Self { path, ..self })
    }

    /// Checks what can be checked without looking at files.
    pub(crate) fn check(&self) -> Result<()> {
        let Self {
            kind,
            channels,
            mask,
            classes,
            max_pixels,
            ..
        } = self;
        if let Some(phantom) = &self.phantom {
            if kind.row().name != "phantom" {
                let path = match self.path.display().to_string() {
                    path if path.is_empty() => "PATH".into(),
                    path => path,
                };
                bail!(
                    "data.kind is {kind}, but data.phantom says what the built-in images look like; \
                     name the data set with --data {kind}:{path}, and leave data.phantom out"
                );
            }
            // Before anything is compared: NaN is unequal to itself.
            phantom.check(kind.row().size)?;
        }
        let plain = Self {
            kind: *kind,
            path: self.path.clone(),
            phantom: self.phantom.clone(),
            stain: self.stain,
            labels: self.labels,
            max_pixels: self.max_pixels,
            follow_links: self.follow_links,
            ..Self::default()
        };
        if (self.stain, self.labels) != (None, NucleusLabels::Union) && kind.row().name != "dsb2018"
        {
            bail!("stain and labels are options of the data set dsb2018, not of {kind}");
        }
        if kind.row().name != "folder" && *self != plain {
            bail!(
                "channels, mask, classes, mask_suffix and patient_until are options of the data set folder, not of {kind}"
            );
        }
        super::read::check_max_pixels(*max_pixels)?;
        if let Some(n) = channels.filter(|n| ![1, 3].contains(n)) {
            bail!("channels = {n}: images are read with 1 or 3 channels");
        }
        super::mask::check_classes(*classes)?;
        if *mask == MaskValues::Binary && *classes != 2 {
            bail!("classes = {classes}: a binary mask has 2; set mask = \"classes\" for more");
        }
        Ok(())
    }
}

impl FromStr for DataConfig {
    type Err = Error;

    /// Parses `KIND:PATH`, or `phantom`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once(':').unwrap_or((text, ""));
        let kind: Kind = name.parse()?;
        match (name == "phantom", path.is_empty()) {
            (true, false) => {
                bail!("the phantom is built in and takes no path: write phantom, not {text}")
            }
            (false, true) => {
                bail!("the data set {name} needs the folder it was unpacked to: {name}:PATH")
            }
            _ => Ok(Self {
                kind,
                path: path.into(),
                ..Self::default()
            }),
        }
    }
}

impl fmt::Display for DataConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.as_os_str().is_empty() {
            return self.kind.fmt(f);
        }
        write!(f, "{}:{}", self.kind, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::KINDS;

    #[track_caller]
    fn assert_refused(text: &str, sentence: &str) {
        assert_eq!(
            text.parse::<DataConfig>().unwrap_err().to_string(),
            sentence
        );
    }

    #[test]
    fn every_kind_parses_with_a_path_and_displays_back() {
        for row in &KINDS[1..] {
            let text = format!("{}:/some/where:else", row.name);
            let config: DataConfig = text.parse().unwrap();
            assert_eq!(config.path, PathBuf::from("/some/where:else"));
            assert_eq!(config.to_string(), text);
            assert_refused(
                row.name,
                &format!(
                    "the data set {0} needs the folder it was unpacked to: {0}:PATH",
                    row.name
                ),
            );
        }
        assert_eq!(DataConfig::default().to_string(), "phantom");
        assert_refused(
            "phantom:/x",
            "the phantom is built in and takes no path: write phantom, not phantom:/x",
        );
    }

    #[test]
    fn toml_comes_back_and_unknown_keys_and_kinds_are_refused() {
        let config = DataConfig {
            mask: MaskValues::Classes,
            classes: 4,
            channels: Some(1),
            ..("folder:/a b".parse().unwrap())
        };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(
            toml::from_str::<DataConfig>(&text).unwrap(),
            config,
            "{text}"
        );
        let error = toml::from_str::<DataConfig>("kind = \"drvie\"").unwrap_err();
        assert!(
            error
                .message()
                .starts_with("there is no data set `drvie`; known are phantom"),
            "{error}"
        );
        let error = toml::from_str::<DataConfig>("paht = \"x\"").unwrap_err();
        assert!(
            error
                .message()
                .starts_with("unknown field `paht`, expected one of `kind`, `path`"),
            "{error}"
        );
    }

    #[test]
    fn the_options_of_dsb2018_come_back_and_are_left_out_unless_set() {
        let plain: DataConfig = "dsb2018:/x".parse().unwrap();
        let text = toml::to_string(&plain).unwrap();
        assert!(
            !text.contains("stain") && !text.contains("labels"),
            "{text}"
        );
        let config = DataConfig {
            stain: Some(Stain::Other),
            labels: NucleusLabels::Boundary,
            ..plain
        };
        let text = toml::to_string(&config).unwrap();
        for line in ["stain = \"other\"", "labels = \"boundary\""] {
            assert!(text.contains(line), "{text}");
        }
        let back: DataConfig = toml::from_str(&text).unwrap();
        assert!(back.check().is_ok());
        assert_eq!(back, config);
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let folder: DataConfig = "folder:/x".parse().unwrap();
        for (config, sentence) in [
            (
                DataConfig {
                    classes: 3,
                    ..folder.clone()
                },
                "classes = 3: a binary mask has 2; set mask = \"classes\" for more",
            ),
            (
                DataConfig {
                    mask: MaskValues::Classes,
                    classes: 255,
                    ..folder.clone()
                },
                "classes = 255: a mask holds 2 to 254 classes, the background included",
            ),
            (
                DataConfig {
                    channels: Some(2),
                    ..folder.clone()
                },
                "channels = 2: images are read with 1 or 3 channels",
            ),
            (
                DataConfig {
                    kind: "drive".parse().unwrap(),
                    channels: Some(1),
                    ..folder.clone()
                },
                "channels, mask, classes, mask_suffix and patient_until are options of the data set folder, not of drive",
            ),
            (
                DataConfig {
                    stain: Some(Stain::Other),
                    ..folder.clone()
                },
                "stain and labels are options of the data set dsb2018, not of folder",
            ),
            (
                DataConfig {
                    labels: NucleusLabels::Boundary,
                    ..DataConfig::default()
                },
                "stain and labels are options of the data set dsb2018, not of phantom",
            ),
            (
                DataConfig {
                    phantom: Some(PhantomConfig::default()),
                    ..folder.clone()
                },
                "data.kind is folder, but data.phantom says what the built-in images look like; \
                 name the data set with --data folder:/x, and leave data.phantom out",
            ),
            (
                DataConfig {
                    path: PathBuf::new(),
                    phantom: Some(PhantomConfig::default()),
                    ..folder.clone()
                },
                "data.kind is folder, but data.phantom says what the built-in images look like; \
                 name the data set with --data folder:PATH, and leave data.phantom out",
            ),
            (
                DataConfig {
                    phantom: Some(PhantomConfig {
                        noise: f64::NAN,
                        ..PhantomConfig::default()
                    }),
                    ..DataConfig::default()
                },
                "the phantom's noise is NaN; it must be from 0 to 255",
            ),
        ] {
            assert_eq!(config.check().unwrap_err().to_string(), sentence);
        }
        assert!(folder.check().is_ok());
    }
}
