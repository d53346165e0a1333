//! The built-in data set: images whose true foreground probability is known at every pixel.
//!
//! A real mask is one observer's drawing of a boundary that the image leaves open, and a model can only be measured
//! against that drawing. Here the probability `q` that an observer calls a pixel foreground is known, the image shows
//! it, and the mask is drawn from it. So calibration is measured against the truth: the NLL that no model can beat is
//! the entropy of `q` ([`entropy`]), and what a model's NLL exceeds it by, in expectation, is KL(q‖p)
//! ([`excess_nll`](crate::metrics::scores::excess_nll)).
//!
//! **What the image shows.** Round bodies, small blobs and curved vessels that taper to one pixel. Each has a nominal
//! boundary, at signed distance d, and a blur s of its own, from sharp to several pixels: it is foreground with
//! probability q = π Φ(−d/s), where π is below one for faint structures, which some observers leave out altogether.
//! Structures are drawn independently, so where they meet q = 1 − Π (1 − q of each). The image is
//!
//! ```text
//! background + contrast · q − dark bodies that are nothing + slow shading + noise
//! ```
//!
//! so that blur and faintness are visible, and equal to the doubt that they cause.
//!
//! **How a mask is drawn.** An observer includes a structure with probability π and then draws one smooth curve,
//! d + s·g = 0, where g is a smooth random field, standard normal at every pixel: P(d + s·g ≤ 0) = Φ(−d/s). The mask's
//! marginal is exactly q, yet it has no salt and pepper: neighbouring pixels are decided together, as by a hand.
//!
//! **Noise.** q can be read from the image up to its noise, so even the best model keeps some excess NLL. How much, at
//! most: [`noise_floor`].
//!
//! Lengths in pixels hold for an image whose shorter side is 64 and grow with that side, but for the sharpest
//! boundaries and the finest vessels, which are one pixel wide at any size.

mod field;
mod floor;
mod scene;
mod shape;

pub use floor::{NoiseFloor, noise_floor};
pub use scene::Scene;

use crate::raster::{Image, Labels};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What phantoms look like and how many there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PhantomConfig {
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub val: usize,
    /// Test images.
    pub test: usize,
    /// The most structures in an image; the first is always a sharp body, which shows the full contrast.
    pub structures: usize,
    /// Mean of q over an image, least and most: the class imbalance.
    pub foreground: [f64; 2],
    /// Blur s of the bodies in pixels: the sharpest, at any size, and the softest, at a side of 64.
    pub blur: [f64; 2],
    /// Share of the structures that are faint.
    pub faint: f64,
    /// Dark bodies that are background.
    pub distractors: usize,
    /// What q = 1 adds to the background's grey value.
    pub contrast: f64,
    /// Standard deviation of the pixel noise, in grey values.
    pub noise: f64,
    /// Standard deviation of the slow shading, in grey values.
    pub shading: f64,
}

impl Default for PhantomConfig {
    /// Small enough to train on within minutes on two cores.
    fn default() -> Self {
        Self {
            train: 128,
            val: 16,
            test: 32,
            structures: 8,
            foreground: [0.05, 0.15],
            blur: [0.4, 4.0],
            faint: 0.3,
            distractors: 3,
            contrast: 120.0,
            noise: 6.0,
            shading: 3.0,
        }
    }
}

impl PhantomConfig {
    /// Refuses settings that make no image.
    pub(crate) fn check(&self, size: [usize; 2]) -> Result<()> {
        ensure!(
            size.iter().all(|&side| side >= 16),
            "a phantom of {}×{} pixels is too small; use 16×16 or more",
            size[0],
            size[1]
        );
        let [least, most] = self.foreground;
        ensure!(
            0.0 < least && least < most && most <= 0.5,
            "the phantom's foreground is [{least}, {most}]; give two rising shares above 0 and up to 0.5"
        );
        let [sharp, soft] = self.blur;
        ensure!(
            0.0 < sharp && sharp <= soft && soft.is_finite(),
            "the phantom's blur is [{sharp}, {soft}]; give two rising lengths above 0"
        );
        for (name, value, most) in [
            ("faint", self.faint, 1.0),
            ("contrast", self.contrast, 255.0),
            ("noise", self.noise, 255.0),
            ("shading", self.shading, 255.0),
        ] {
            ensure!(
                (0.0..=most).contains(&value),
                "the phantom's {name} is {value}; it must be from 0 to {most}"
            );
        }
        Ok(())
    }
}

/// One image of the data set, its mask, and the probability the mask was drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Phantom {
    /// `phantom-` and the index.
    pub id: String,
    /// One channel, 0..=255.
    pub image: Image,
    /// 1 is foreground.
    pub labels: Labels,
    /// The true foreground probability q a pixel.
    pub truth: Vec<f32>,
}

/// Image `index` of the data set that `seed` names, `size` being height and width.
///
/// The same arguments give the same bits. Scene, noise and mask have random streams of their own.
///
/// # Errors
///
/// If a side is below 16 or the settings make no image.
///
/// ```
/// use seg_train::phantom::{self, PhantomConfig};
/// let config = PhantomConfig::default();
/// let one = phantom::sample(&config, [64, 64], 7, 0)?;
/// assert_eq!((one.image.channels, one.truth.len()), (1, 64 * 64));
/// let foreground = one.truth.iter().sum::<f32>() / (64.0 * 64.0);
/// assert!((0.05..0.15).contains(&foreground));
/// assert_eq!(one, phantom::sample(&config, [64, 64], 7, 0)?);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn sample(
    config: &PhantomConfig,
    size: [usize; 2],
    seed: u64,
    index: usize,
) -> Result<Phantom> {
    let scene = Scene::new(config, size, seed, index)?;
    let (image, labels) = (scene.image(), scene.mask(0));
    Ok(Phantom {
        id: id(index),
        image,
        labels,
        truth: scene.q,
    })
}

/// The name of image `index`.
pub(crate) fn id(index: usize) -> String {
    format!("phantom-{index}")
}

/// Mean entropy of `q` over the pixels, in nats: the expected NLL of the model that knows q, which none can beat.
///
/// ```
/// assert_eq!(seg_train::phantom::entropy(&[0.0, 1.0]), 0.0);
/// assert!((seg_train::phantom::entropy(&[0.5]) - 2_f64.ln()).abs() < 1e-15);
/// ```
pub fn entropy(q: &[f32]) -> f64 {
    // q log q → 0 as q → 0, while log 0 is infinite.
    let part = |q: f64| if q > 0.0 { -q * q.ln() } else { 0.0 };
    q.iter()
        .map(|&q| part(f64::from(q)) + part(1.0 - f64::from(q)))
        .sum::<f64>()
        / q.len() as f64
}

#[cfg(test)]
mod tests;
