//! Corrupted images: what a network meets when the microscope, the light or the archive is another one than it was
//! trained with.
//!
//! Five corruptions at five strengths each, after the idea of Hendrycks & Dietterich, "Benchmarking neural network
//! robustness to common corruptions and perturbations" (2019); the constants are ours. Theirs are made for photographs
//! of 224 pixels; here a phantom of 64 pixels and a slide of 1000 are to suffer alike, and what only shifts or scales all
//! values would be undone by the z-score that every image goes through
//! ([`preprocess`](crate::preprocess)). So
//!
//! | corruption | what is done | strengths 1 to 5 |
//! |---|---|---|
//! | `brightness` | a light from one side: adds a ramp across the image, from ½ to 1½ times the amount, clipped at 255 | 15, 30, 50, 75, 100 grey values |
//! | `contrast` | a veil from one side: the distance to the channel's mean shrinks, by nothing at one end of the image and by this share at the other | 0.3, 0.5, 0.7, 0.85, 0.95 |
//! | `blur` | a Gaussian of this standard deviation | 0.4, 0.7, 1.0, 1.5, 2.0 pixels at a shorter side of 64 and below, in proportion above |
//! | `noise` | normal noise in every channel, in grains of a 128th of the shorter side, at least a pixel | 6, 12, 20, 30, 45 grey values of standard deviation |
//! | `jpeg` | saved as a JPEG of this quality and read again | 40, 25, 18, 12, 7 |
//!
//! Grains keep the noise from being averaged away where a large image is made small for the network. A JPEG's blocks
//! have 8 pixels at any size, so large images suffer less from it.

use std::{f64::consts::TAU, fmt, io::Cursor, str::FromStr};

use anyhow::{Context, Error, Result, anyhow, bail};
use image::{ExtendedColorType, ImageFormat, ImageReader, codecs::jpeg::JpegEncoder};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    phantom::normal,
    raster::Image,
    rng::{Purpose, stream},
};

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// Uneven light, and over-exposure where there is no room above.
    Brightness,
    /// A veil that takes the contrast from one side of the image.
    Contrast,
    /// Out of focus.
    Blur,
    /// A camera's noise.
    Noise,
    /// Compression.
    Jpeg,
}

/// Strengths are 1 to this.
pub const STRONGEST: u8 = 5;

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Brightness,
        Self::Contrast,
        Self::Blur,
        Self::Noise,
        Self::Jpeg,
    ];

    /// Its name in `name:strength`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Blur => "blur",
            Self::Noise => "noise",
            Self::Jpeg => "jpeg",
        }
    }

    /// The amounts of strengths 1 to 5, in the unit of the [table](self).
    pub fn amounts(self) -> [f64; STRONGEST as usize] {
        match self {
            Self::Brightness => [15.0, 30.0, 50.0, 75.0, 100.0],
            Self::Contrast => [0.3, 0.5, 0.7, 0.85, 0.95],
            Self::Blur => [0.4, 0.7, 1.0, 1.5, 2.0],
            Self::Noise => [6.0, 12.0, 20.0, 30.0, 45.0],
            Self::Jpeg => [40.0, 25.0, 18.0, 12.0, 7.0],
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Corruption {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                anyhow!("there is no corruption `{name}`; known are {names}")
            })
    }
}

/// A corruption and its strength, written `blur:3`.
///
/// ```
/// use seg_train::corrupt::{Corruption, Damage};
/// let damage: Damage = "blur:3".parse()?;
/// assert_eq!(damage, Damage { corruption: Corruption::Blur, strength: 3 });
/// assert_eq!(damage.to_string(), "blur:3");
/// assert_eq!(Damage::all().count(), 25);
/// assert_eq!(
///     "blur:6".parse::<Damage>().unwrap_err().to_string(),
///     "the strength of blur is 6; expected a whole number from 1 to 5"
/// );
/// # anyhow::Ok(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Damage {
    /// What is done.
    pub corruption: Corruption,
    /// From 1, slight, to 5.
    pub strength: u8,
}

impl Damage {
    /// Every corruption at every strength, the slight ones of each first.
    pub fn all() -> impl Iterator<Item = Self> {
        Corruption::ALL.into_iter().flat_map(|corruption| {
            (1..=STRONGEST).map(move |strength| Self {
                corruption,
                strength,
            })
        })
    }

    /// The damaged image ([`corrupt`]).
    ///
    /// # Errors
    /// Those of [`corrupt`].
    pub fn of(self, image: &Image, seed: u64, index: u64) -> Result<Image> {
        corrupt(image, self.corruption, self.strength, seed, index)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.corruption, self.strength)
    }
}

impl FromStr for Damage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((name, strength)) = text.split_once(':') else {
            bail!("`{text}` is no corruption with its strength; write it like blur:3");
        };
        let corruption: Corruption = name.parse()?;
        let strength = strength
            .parse()
            .ok()
            .filter(|strength| (1..=STRONGEST).contains(strength))
            .ok_or_else(|| no_strength(corruption, strength))?;
        Ok(Self {
            corruption,
            strength,
        })
    }
}

impl TryFrom<String> for Damage {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Damage> for String {
    fn from(damage: Damage) -> Self {
        damage.to_string()
    }
}

fn no_strength(corruption: Corruption, found: impl fmt::Display) -> Error {
    anyhow!(
        "the strength of {corruption} is {found}; expected a whole number from 1 to {STRONGEST}"
    )
}

/// Damages an image of values 0..=255 at its own size; what comes back keeps to that range.
///
/// What is drawn (the noise, the side that the light or the veil comes from) depends on `seed`, the corruption and
/// `index`, the image's number in its data set, and not on the strength: the same noise grows louder. Truth and labels
/// stay those of the clean image.
///
/// # Errors
/// The strength is not from 1 to 5, the image has not one or three channels of one size, or a side is too long for a
/// JPEG (65535).
///
/// ```
/// use seg_train::{corrupt::{Corruption, corrupt}, raster::Image};
/// let edge = (0..64 * 64).map(|i| if i % 64 < 32 { 0.0 } else { 200.0 }).collect();
/// let edge = Image { channels: 1, height: 64, width: 64, data: edge };
/// let soft = corrupt(&edge, Corruption::Blur, 5, 7, 0)?;
/// assert!(soft.data[31] > 50.0 && soft.data[32] < 150.0);
/// assert_eq!(soft, corrupt(&edge, Corruption::Blur, 5, 7, 0)?);
/// # anyhow::Ok(())
/// ```
pub fn corrupt(
    image: &Image,
    corruption: Corruption,
    strength: u8,
    seed: u64,
    index: u64,
) -> Result<Image> {
    let amounts = corruption.amounts();
    let place = usize::from(strength).checked_sub(1);
    let Some(&amount) = place.and_then(|place| amounts.get(place)) else {
        return Err(no_strength(corruption, strength));
    };
    let (channels, pixels) = (image.channels, image.height * image.width);
    if ![1, 3].contains(&channels) || pixels == 0 || image.data.len() != channels * pixels {
        bail!(
            "an image of {channels} channels and {}x{} pixels (width x height) with {} values cannot be corrupted; \
             expected 1 or 3 channels of at least one pixel, each with a value a pixel",
            image.width,
            image.height,
            image.data.len()
        );
    }
    let mut rng = stream(seed, Purpose::Corrupt, corruption as u64, index);
    let data = match corruption {
        Corruption::Brightness => {
            let ramp = ramp(image, TAU * rng.random::<f64>());
            map(image, |value, i, _| value + amount * (0.5 + ramp[i]))
        }
        Corruption::Contrast => {
            let ramp = ramp(image, TAU * rng.random::<f64>());
            map(image, |value, i, mean| {
                mean + (value - mean) * (1.0 - amount * ramp[i])
            })
        }
        Corruption::Blur => blur(image, amount * shorter(image).max(64) as f64 / 64.0),
        Corruption::Noise => noise(image, amount, &mut rng),
        Corruption::Jpeg => jpeg(image, amount as u8)?,
    };
    Ok(Image { data, ..*image })
}

fn shorter(image: &Image) -> usize {
    image.height.min(image.width)
}

/// A number as a grey value.
fn grey(value: f64) -> f32 {
    value.clamp(0.0, 255.0) as f32
}

/// Every value by itself: from it, its pixel and its channel's mean.
fn map(image: &Image, change: impl Fn(f64, usize, f64) -> f64) -> Vec<f32> {
    let pixels = image.height * image.width;
    let mut data = Vec::with_capacity(image.data.len());
    for plane in image.data.chunks_exact(pixels) {
        let mean = plane.iter().map(|&v| f64::from(v)).sum::<f64>() / pixels as f64;
        data.extend(
            plane
                .iter()
                .enumerate()
                .map(|(i, &value)| grey(change(f64::from(value), i, mean))),
        );
    }
    data
}

/// A number a pixel that climbs evenly in one direction, from 0 in one corner of the image to 1 in the opposite one.
fn ramp(image: &Image, angle: f64) -> Vec<f64> {
    let (sin, cos) = angle.sin_cos();
    // From the centre in units of half the image; the farthest corner is at |sin| + |cos|.
    let from_centre = |i: usize, side: usize| (2 * i + 1) as f64 / side as f64 - 1.0;
    let most = sin.abs() + cos.abs();
    (0..image.height * image.width)
        .map(|i| {
            let y = from_centre(i / image.width, image.height);
            let x = from_centre(i % image.width, image.width);
            0.5 + 0.5 * (sin * y + cos * x) / most
        })
        .collect()
}

/// Convolution with a Gaussian, cut at three and a half deviations and at the image's border, where the rest of the
/// weights is scaled to a sum of one.
fn blur(image: &Image, deviation: f64) -> Vec<f32> {
    let Image { height, width, .. } = *image;
    let reach = (3.5 * deviation).ceil() as usize;
    let weights: Vec<f64> = (0..=reach)
        .map(|d| (-0.5 * (d as f64 / deviation).powi(2)).exp())
        .collect();
    let mut data = Vec::with_capacity(image.data.len());
    for plane in image.data.chunks_exact(height * width) {
        let plane: Vec<f64> = plane.iter().map(|&v| f64::from(v)).collect();
        let down = along_columns(&plane, [height, width], &weights);
        let across = along_columns(
            &transposed(&down, [height, width]),
            [width, height],
            &weights,
        );
        data.extend(transposed(&across, [width, height]).into_iter().map(grey));
    }
    data
}

/// Every row becomes the weighted mean of the rows about it; rows are independent, so threads change no bit.
fn along_columns(plane: &[f64], [height, width]: [usize; 2], weights: &[f64]) -> Vec<f64> {
    let reach = weights.len() - 1;
    let mut result = vec![0.0; plane.len()];
    result
        .par_chunks_exact_mut(width)
        .enumerate()
        .for_each(|(y, row)| {
            let mut sum = 0.0;
            for near in y.saturating_sub(reach)..(y + reach + 1).min(height) {
                let weight = weights[near.abs_diff(y)];
                sum += weight;
                for (value, from) in row.iter_mut().zip(&plane[near * width..]) {
                    *value += weight * from;
                }
            }
            for value in row {
                *value /= sum;
            }
        });
    result
}

fn transposed(plane: &[f64], [height, width]: [usize; 2]) -> Vec<f64> {
    (0..width)
        .flat_map(|x| (0..height).map(move |y| plane[y * width + x]))
        .collect()
}

/// Grains, each of them one normal number a channel.
fn noise(image: &Image, deviation: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let Image { height, width, .. } = *image;
    let grain = (shorter(image) / 128).max(1);
    let columns = width.div_ceil(grain);
    let mut data = Vec::with_capacity(image.data.len());
    for plane in image.data.chunks_exact(height * width) {
        let grains: Vec<f64> = (0..height.div_ceil(grain) * columns)
            .map(|_| normal(rng))
            .collect();
        data.extend(plane.iter().enumerate().map(|(i, &value)| {
            let at = i / width / grain * columns + i % width / grain;
            grey(f64::from(value) + deviation * grains[at])
        }));
    }
    data
}

/// Saved with whole grey values as a JPEG, and read again.
fn jpeg(image: &Image, quality: u8) -> Result<Vec<f32>> {
    let Image {
        channels,
        height,
        width,
        ..
    } = *image;
    let pixels = height * width;
    let side = |side: usize| {
        u16::try_from(side).with_context(|| {
            format!("an image of {width}x{height} pixels (width x height) is no JPEG; its sides are 65535 at most")
        })
    };
    let (high, wide) = (side(height)?, side(width)?);
    let interleaved: Vec<u8> = (0..pixels)
        .flat_map(|i| (0..channels).map(move |c| c * pixels + i))
        .map(|at| image.data[at].round().clamp(0.0, 255.0) as u8)
        .collect();
    let colour = match channels {
        1 => ExtendedColorType::L8,
        _ => ExtendedColorType::Rgb8,
    };
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .encode(&interleaved, wide.into(), high.into(), colour)
        .context("the image cannot be saved as a JPEG")?;
    let read = ImageReader::with_format(Cursor::new(&file), ImageFormat::Jpeg)
        .decode()
        .context("the JPEG just made cannot be read")?;
    crate::data::image_of(read, channels).map(|image| image.data)
}

#[cfg(test)]
mod tests;
