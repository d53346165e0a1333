//! The paper's augmentations: mirroring, brightness, scale, rotation, elastic deformation.
//!
//! They act on prepared samples (after the z-score) and in training only. Scale, rotation and elastic deformation are
//! one warp: the image is interpolated once, labels take the nearest pixel's class, a true probability is interpolated
//! linearly.
//!
//! Every parameter is drawn for every sample, used or not, each from 64 bits of the stream. So switching one
//! augmentation off, or changing its probability, leaves what the others do as it was.

mod elastic;
mod warp;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    preprocess::{Interpolation, Prepared},
    raster::{IGNORE, NO_CLASS},
};

/// The label of pixels that a warp brings in from outside the image. Their value is 0, the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// [`IGNORE`]: nobody labelled them, so no loss counts them.
    #[default]
    Ignore,
    /// [`NO_CLASS`]: the authors' pipeline, whose one-hot target is zero in every channel there. Cross-entropy passes
    /// over such a pixel; a region loss counts it as a false positive of every class.
    NoClass,
}

impl Outside {
    fn label(self) -> u8 {
        match self {
            Self::Ignore => IGNORE,
            Self::NoClass => NO_CLASS,
        }
    }
}

/// Probabilities and ranges. The default is [`Augment::PAPER`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Probability of mirroring, for each axis by itself.
    pub mirror: f64,
    /// Probability of multiplying each channel by a factor of its own.
    pub brightness: f64,
    /// The factor's range. It acts on z-scores: it changes a channel's contrast about the image's mean.
    pub brightness_factor: [f64; 2],
    /// Probability of a change of scale.
    pub scale: f64,
    /// The range of the sampling step (above 1 shows structures smaller). As in batchgenerators, which the authors' code
    /// runs on, half of the draws lie below 1 and half above, where the range has both.
    pub scale_step: [f64; 2],
    /// Probability of a rotation about the image's centre.
    pub rotation: f64,
    /// The largest angle, in degrees, either way.
    pub rotation_degrees: f64,
    /// Probability of an elastic deformation: a field of uniform(−1, 1) noise for each axis, smoothed by a Gaussian, times
    /// a strength, in pixels.
    pub elastic: f64,
    /// The range of the strength α. Smoothing leaves the noise a deviation of about 0.16 / σ, so α = 450, σ = 11 moves
    /// pixels by 7 or so, whatever the size of the image.
    pub elastic_alpha: [f64; 2],
    /// The range of the Gaussian's σ in pixels.
    pub elastic_sigma: [f64; 2],
    /// How a warped image is interpolated.
    pub interpolation: Interpolation,
    /// What pixels from outside the image are labelled.
    pub outside: Outside,
}

impl Augment {
    /// The paper's text: each with probability 0.15.
    pub const PAPER: Self = Self {
        mirror: 0.15,
        brightness: 0.15,
        brightness_factor: [0.5, 2.0],
        scale: 0.15,
        scale_step: [0.85, 1.25],
        rotation: 0.15,
        rotation_degrees: 15.0,
        elastic: 0.15,
        elastic_alpha: [0.0, 900.0],
        elastic_sigma: [9.0, 13.0],
        interpolation: Interpolation::Bilinear,
        outside: Outside::Ignore,
    };

    /// The authors' code: mirroring with probability 0.5, cubic interpolation, and no class outside the image.
    pub const AUTHORS: Self = Self {
        mirror: 0.5,
        interpolation: Interpolation::Cubic,
        outside: Outside::NoClass,
        ..Self::PAPER
    };

    /// No augmentation.
    pub const NONE: Self = Self {
        mirror: 0.0,
        brightness: 0.0,
        scale: 0.0,
        rotation: 0.0,
        elastic: 0.0,
        ..Self::PAPER
    };

    /// Checks that probabilities and ranges make sense.
    ///
    /// # Errors
    /// A probability is not within 0..=1, or a range is empty or beyond what has a meaning; the sentence names it.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, p) in [
            ("mirror", self.mirror),
            ("brightness", self.brightness),
            ("scale", self.scale),
            ("rotation", self.rotation),
            ("elastic", self.elastic),
        ] {
            anyhow::ensure!(
                (0.0..=1.0).contains(&p),
                "{name} = {p}: a probability lies within 0 and 1"
            );
        }
        for (name, range @ [low, high], [least, most]) in [
            ("brightness_factor", self.brightness_factor, [0.0, 1e3]),
            ("scale_step", self.scale_step, [0.01, 100.0]),
            ("elastic_alpha", self.elastic_alpha, [0.0, 1e6]),
            ("elastic_sigma", self.elastic_sigma, [0.1, 1e3]),
        ] {
            anyhow::ensure!(
                least <= low && low <= high && high <= most,
                "{name} = {range:?}: a range is [low, high] with {least} <= low <= high <= {most}"
            );
        }
        let degrees = self.rotation_degrees;
        anyhow::ensure!(
            (0.0..=180.0).contains(&degrees),
            "rotation_degrees = {degrees}: the largest angle lies within 0 and 180"
        );
        Ok(())
    }
}

impl Default for Augment {
    fn default() -> Self {
        Self::PAPER
    }
}

/// Augments a prepared sample with what it draws from the stream: `12 + channels` numbers of 64 bits.
///
/// The stream of `rng::stream(seed, Purpose::Augment, epoch, sample)` makes a sample's augmentation in an epoch
/// independent of threads and of where a run was resumed. If nothing is drawn to act, the sample keeps its bits.
pub fn augment(prepared: &Prepared, config: &Augment, rng: &mut ChaCha8Rng) -> Prepared {
    let drawn = Drawn::new(config, prepared.image.channels, rng);
    let mut result = warp::warp(
        prepared,
        &drawn.motion,
        config.interpolation,
        config.outside.label(),
    );
    let pixels = result.image.height * result.image.width;
    for (plane, factor) in result
        .image
        .data
        .chunks_exact_mut(pixels)
        .zip(drawn.factors)
    {
        // 1 keeps every bit.
        for value in plane {
            *value *= factor;
        }
    }
    result
}

/// Where each pixel of the result comes from.
#[derive(Clone, Debug, PartialEq)]
struct Motion {
    /// Mirror top and bottom; left and right.
    mirror: [Chance; 2],
    /// The sampling step.
    step: f64,
    /// Radians.
    angle: f64,
    elastic: Option<Elastic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chance {
    Idle,
    Acts,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Elastic {
    alpha: f64,
    sigma: f64,
    /// The seed of the two fields, whose noise has a stream of its own, so that it is drawn only where it is used.
    seed: u64,
}

/// The parameters of one augmentation.
struct Drawn {
    motion: Motion,
    /// A factor a channel.
    factors: Vec<f32>,
}

impl Drawn {
    /// Draws in a fixed order and number; a change here changes every run's augmentation.
    fn new(config: &Augment, channels: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut unit = || rng.random::<f64>();
        let chance = |p: f64, u: f64| if u < p { Chance::Acts } else { Chance::Idle };
        let between = |[low, high]: [f64; 2], u: f64| low + (high - low) * u;
        let used = |chance: Chance, value: f64, idle: f64| match chance {
            Chance::Acts => value,
            Chance::Idle => idle,
        };

        let mirror = [chance(config.mirror, unit()), chance(config.mirror, unit())];
        let brightens = chance(config.brightness, unit());
        let scales = chance(config.scale, unit());
        let (side, u) = (unit(), unit());
        let step = match config.scale_step {
            [low, high] if low < 1.0 && high > 1.0 && side < 0.5 => between([low, 1.0], u),
            [low, high] if low < 1.0 && high > 1.0 => between([1.0, high], u),
            range => between(range, u),
        };
        let turns = chance(config.rotation, unit());
        let degrees = between([-config.rotation_degrees, config.rotation_degrees], unit());
        let deforms = chance(config.elastic, unit());
        let alpha = between(config.elastic_alpha, unit());
        let sigma = between(config.elastic_sigma, unit());
        let factors = (0..channels)
            .map(|_| used(brightens, between(config.brightness_factor, unit()), 1.0) as f32)
            .collect();
        let seed = rng.random();
        let motion = Motion {
            mirror,
            step: used(scales, step, 1.0),
            angle: used(turns, degrees.to_radians(), 0.0),
            elastic: (deforms == Chance::Acts).then_some(Elastic { alpha, sigma, seed }),
        };
        Self { motion, factors }
    }
}

#[cfg(test)]
mod tests;
