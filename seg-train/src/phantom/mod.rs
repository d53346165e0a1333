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
//! **Several classes.** Structures can be told apart: bodies, blobs and vessels, each a class of its own with a colour of
//! its own, in an image of three channels. A later structure is drawn over an earlier one, so that
//! q_c = Σ_{k of class c} q_k Π_{j > k} (1 − q_j), and the image shows background + contrast · Σ_c colour_c q_c, from which
//! every q_c can be read. What is foreground at all keeps its probability, 1 − Π (1 − q of each).
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

mod colour;
mod field;
mod floor;
mod scene;
mod shape;

pub(crate) use colour::channels;
pub(crate) use field::normal;
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
    /// Classes, the background included: 2; 3 for vessels apart from bodies and blobs; 4 for each apart.
    #[serde(skip_serializing_if = "is_two")]
    pub classes: usize,
    /// The size of the structures, as a factor: below one for lesions so small that the foreground can be rare.
    #[serde(skip_serializing_if = "is_one")]
    pub scale: f64,
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_two(classes: &usize) -> bool {
    *classes == 2
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(scale: &f64) -> bool {
    *scale == 1.0
}

impl Default for PhantomConfig {
    /// Small enough to train on within minutes on two cores.
    fn default() -> Self {
        Self {
            train: 128,
            val: 16,
            test: 32,
            structures: 8,
            classes: 2,
            scale: 1.0,
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
        ensure!(
            (2..=4).contains(&self.classes),
            "the phantom's classes are {}; it has from 2 to 4, the background included",
            self.classes
        );
        ensure!(
            (0.01..=4.0).contains(&self.scale),
            "the phantom's scale is {}; it must be from 0.01 to 4",
            self.scale
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
    /// One channel, or three where there are more than two classes, 0..=255.
    pub image: Image,
    /// 0 is background; the classes of the foreground follow.
    pub labels: Labels,
    /// The true probability q of every class but the background a pixel, planar `[classes − 1, pixels]`.
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

/// Mean entropy of the truth over the pixels, in nats: the expected NLL of the model that knows q, which none can beat.
///
/// `q` is the probability of every class but the background, planar `[classes − 1, pixels]`; the background's is one
/// minus their sum.
///
/// ```
/// use seg_train::phantom::entropy;
/// assert_eq!(entropy(&[0.0, 1.0], 2), 0.0);
/// assert!((entropy(&[0.5], 2) - 2_f64.ln()).abs() < 1e-15);
/// let q = [0.25_f32, 0.0, 0.25, 1.0]; // two pixels of three classes: (½, ¼, ¼) and (0, 0, 1)
/// assert!((entropy(&q, 3) - 1.5 * 2_f64.ln() / 2.0).abs() < 1e-15);
/// ```
///
/// # Panics
///
/// With fewer than two classes.
pub fn entropy(q: &[f32], classes: usize) -> f64 {
    // q log q → 0 as q → 0, while log 0 is infinite.
    let part = |q: f64| if q > 0.0 { -q * q.ln() } else { 0.0 };
    let pixels = q.len() / (classes - 1);
    (0..pixels)
        .map(|i| {
            let classes = q[i..].iter().step_by(pixels).map(|&q| f64::from(q));
            let foreground: f64 = classes.clone().sum();
            classes.map(part).sum::<f64>() + part(1.0 - foreground)
        })
        .sum::<f64>()
        / pixels as f64
}

/// The probability that a pixel is no background: the sum of the planes of a truth `[classes − 1, pixels]`.
///
/// ```
/// let q = [0.25_f32, 0.0, 0.25, 1.0];
/// assert_eq!(seg_train::phantom::foreground(&q, 3), [0.5, 1.0]);
/// ```
///
/// # Panics
///
/// With fewer than two classes.
pub fn foreground(q: &[f32], classes: usize) -> Vec<f32> {
    let pixels = q.len() / (classes - 1);
    (0..pixels)
        .map(|i| q[i..].iter().step_by(pixels).sum())
        .collect()
}

/// The most probable class a pixel, for a truth `[classes − 1, pixels]`; a tie goes to the lowest class, so at q = ½ to
/// the background.
///
/// ```
/// let q = [0.3_f32, 0.1, 0.6, 0.3]; // (0.1, 0.3, 0.6) and (0.6, 0.1, 0.3)
/// assert_eq!(seg_train::phantom::most_probable(&q, 3), [2, 0]);
/// assert_eq!(seg_train::phantom::most_probable(&[0.5, 0.6], 2), [0, 1]);
/// ```
///
/// # Panics
///
/// With fewer than two classes.
pub fn most_probable(q: &[f32], classes: usize) -> Vec<u8> {
    let pixels = q.len() / (classes - 1);
    (0..pixels)
        .map(|i| {
            let classes = || q[i..].iter().step_by(pixels).map(|&q| f64::from(q));
            let background = 1.0 - classes().sum::<f64>();
            (1..)
                .zip(classes())
                .fold(
                    (0, background),
                    |best, (class, q)| {
                        if q > best.1 { (class, q) } else { best }
                    },
                )
                .0
        })
        .collect()
}

#[cfg(test)]
mod tests;
