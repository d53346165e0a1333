//! Where an experiment starts from.

use std::str::FromStr;

use anyhow::{Error, Result, bail};
use seg_unet::UNetConfig;

use super::{Experiment, Recipe};
use crate::{
    augment::Augment,
    data::{DataConfig, Layout},
    inference::InferenceConfig,
    metrics::MetricsConfig,
    preprocess::{Interpolation, Preprocess},
    schedule::{EarlyStoppingConfig, ReduceLrOnPlateauConfig},
};

/// A named starting point; every key of it can be overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Small enough for a laptop's coffee break: the paper's recipe on 64 × 64 pixels, with a narrow network and few
    /// epochs.
    Phantom,
    /// The paper's text: bilinear resizing, mirroring one of the augmentations with p = 0.15, pixels from outside the
    /// image ignored.
    Paper,
    /// The authors' code where it differs from their text: cubic resizing, mirroring with p = 0.5 an axis, pixels from
    /// outside the image of no class.
    Authors,
    /// The paper's recipe at a size that two processor cores train in minutes: 128 × 128 pixels, 16 channels, and a fixed
    /// number of epochs a data set, from its row in [`KINDS`](crate::data::KINDS). The learning rate falls after an eighth of them, at
    /// least two, without improvement.
    Cpu,
}

impl Preset {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("phantom", Self::Phantom),
        ("paper", Self::Paper),
        ("authors", Self::Authors),
        ("cpu", Self::Cpu),
    ];

    /// The experiment on a data set. The network's size is the data set's own; its loss is `dice++`, which training
    /// never uses unasked.
    pub fn experiment(self, data: DataConfig) -> Experiment {
        let row = data.kind.row();
        let is_phantom = matches!(row.layout, Layout::Generated);
        let paper = Experiment {
            loss: "dice++".into(),
            seed: 0,
            device: "cpu".into(),
            preprocess: Preprocess {
                size: row.size,
                interpolation: Interpolation::Bilinear,
            },
            augment: Augment::PAPER,
            unet: UNetConfig {
                in_channels: row.channels.unwrap_or(3),
                ..UNetConfig::default()
            },
            recipe: Recipe::default(),
            metrics: MetricsConfig::default(),
            inference: InferenceConfig::default(),
            data: DataConfig {
                // In full, so that run.toml says what the images were.
                phantom: is_phantom.then(|| data.phantom.clone().unwrap_or_default()),
                ..data
            },
        };
        match self {
            Self::Paper => paper,
            Self::Authors => Experiment {
                preprocess: Preprocess {
                    interpolation: Interpolation::Cubic,
                    ..paper.preprocess
                },
                augment: Augment::AUTHORS,
                ..paper
            },
            Self::Cpu => Experiment {
                preprocess: Preprocess {
                    size: [128, 128],
                    ..paper.preprocess
                },
                unet: UNetConfig {
                    width: 16,
                    ..paper.unet
                },
                recipe: Recipe {
                    epochs: row.cpu_epochs,
                    plateau: ReduceLrOnPlateauConfig {
                        patience: (row.cpu_epochs as u64 / 8).max(2),
                        ..ReduceLrOnPlateauConfig::default()
                    },
                    stopping: EarlyStoppingConfig {
                        // Never: every loss gets the same number of steps.
                        patience: row.cpu_epochs as u64,
                        ..EarlyStoppingConfig::default()
                    },
                    ..Recipe::default()
                },
                ..paper
            },
            Self::Phantom => Experiment {
                // The paper's deformations on a quarter of its usual side: lengths by 4, and the strength by 16, since
                // the displacement is the strength over the width of the smoothing.
                augment: Augment {
                    elastic_alpha: [0.0, 56.25],
                    elastic_sigma: [2.25, 3.25],
                    ..Augment::PAPER
                },
                unet: UNetConfig {
                    width: 8,
                    depth: 3,
                    ..paper.unet
                },
                recipe: Recipe {
                    epochs: 24,
                    plateau: ReduceLrOnPlateauConfig {
                        patience: 4,
                        ..ReduceLrOnPlateauConfig::default()
                    },
                    stopping: EarlyStoppingConfig {
                        patience: 8,
                        ..EarlyStoppingConfig::default()
                    },
                    ..Recipe::default()
                },
                ..paper
            },
        }
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(name, _)| *name == text) {
            Some((_, preset)) => Ok(*preset),
            None => bail!("unknown preset `{text}`; expected phantom, paper, authors or cpu"),
        }
    }
}
