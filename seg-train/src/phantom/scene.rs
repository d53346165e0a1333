//! A phantom before anything is drawn from it: its structures, and the probability they add up to.

use super::{
    PhantomConfig,
    colour::{channels, colour},
    field::{SmoothField, normal},
    shape::Shape,
};
use crate::raster::{Image, Labels};
use crate::rng::{Purpose, stream};
use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use statrs::function::erf::erfc;
use std::f64::consts::FRAC_1_SQRT_2;

/// What the streams of one phantom are for; they stand where other purposes have the epoch. Observers follow.
const STRUCTURES: u64 = 0;
const NOISE: u64 = 1;
const FIRST_OBSERVER: u64 = 2;

/// The grey value of the background, before its variation from image to image.
const BACKGROUND: f64 = 60.0;

/// Trials in a row for something that fits before going on without it.
const TRIALS: usize = 12;

/// Standard deviations that no drawing strays: farther out and in, a pixel is decided (odds of 1e-15).
const SURE: f64 = 8.0;

/// The least mean radius of a body in pixels: one pixel's area, about.
const LEAST_RADIUS: f64 = 0.6;

/// Bodies, blobs and vessels, in the order in which classes are given to them.
#[derive(Clone, Copy)]
enum Tissue {
    Body,
    Blob,
    Vessel,
}

impl Tissue {
    /// The class where so many classes are told apart: all one foreground, vessels and the rest, or each its own.
    fn class(self, classes: usize) -> usize {
        match (classes, self) {
            (2, _) | (_, Self::Body) | (3, Self::Blob) => 1,
            (3, Self::Vessel) | (_, Self::Blob) => 2,
            (_, Self::Vessel) => 3,
        }
    }
}

/// Something an observer draws as a whole.
struct Structure {
    /// The class that its pixels are given.
    class: usize,
    /// Signed distance of every pixel to the nominal boundary.
    distance: Vec<f64>,
    /// s, the blur of the boundary and the spread of its drawings.
    blur: f64,
    /// π, the share of observers who see it at all.
    seen: f64,
    /// How far along the boundary a drawing keeps to one side.
    length: f64,
}

/// The scene of one image.
pub struct Scene {
    size: [usize; 2],
    seed: u64,
    index: u64,
    noise: f64,
    structures: Vec<Structure>,
    /// The image without noise, planar.
    clean: Vec<f64>,
    /// The true probability of every class but the background a pixel, planar `[classes − 1, pixels]`.
    pub q: Vec<f32>,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene")
            .field("size", &self.size)
            .field("seed", &self.seed)
            .field("index", &self.index)
            .field("structures", &self.structures.len())
            .finish_non_exhaustive()
    }
}

impl Scene {
    /// Scene `index` of the data set that `seed` names.
    ///
    /// # Errors
    ///
    /// If a side is below 16 or the settings make no image.
    pub fn new(config: &PhantomConfig, size: [usize; 2], seed: u64, index: usize) -> Result<Self> {
        config.check(size)?;
        let index = index as u64;
        let mut rng = stream(seed, Purpose::Phantom, STRUCTURES, index);
        let (structures, foreground) = structures(config, size, &mut rng)?;
        let planes = match config.classes {
            2 => vec![foreground.clone()],
            classes => each_class(&structures, classes, foreground.len()),
        };
        let clean = clean(config, size, &planes, &foreground, &mut rng);
        let q = planes.into_iter().flatten().map(|q| q as f32).collect();
        Ok(Self {
            size,
            seed,
            index,
            noise: config.noise,
            structures,
            clean,
            q,
        })
    }

    /// The image: what the scene shows, and noise that does not depend on any mask.
    pub fn image(&self) -> Image {
        let mut rng = stream(self.seed, Purpose::Phantom, NOISE, self.index);
        let data = self
            .clean
            .iter()
            .map(|v| (v + self.noise * normal(&mut rng)).clamp(0.0, 255.0) as f32)
            .collect();
        Image {
            channels: self.clean.len() / (self.size[0] * self.size[1]),
            height: self.size[0],
            width: self.size[1],
            data,
        }
    }

    /// The mask that one observer draws. Observers are independent; number 0 draws the data set's mask.
    pub fn mask(&self, observer: u64) -> Labels {
        let mut rng = stream(
            self.seed,
            Purpose::Phantom,
            FIRST_OBSERVER + observer,
            self.index,
        );
        let mut data = vec![0; self.size[0] * self.size[1]];
        for structure in &self.structures {
            // Both are drawn in any case, so that one structure's luck does not shift the next one's.
            let seen = rng.random::<f64>() < structure.seen;
            let hand = SmoothField::draw(structure.length, &mut rng);
            if seen {
                for ((label, d), at) in data
                    .iter_mut()
                    .zip(&structure.distance)
                    .zip(pixels(self.size))
                {
                    let sure = SURE * structure.blur;
                    if *d <= -sure || (*d < sure && d + structure.blur * hand.at(at) <= 0.0) {
                        *label = structure.class as u8;
                    }
                }
            }
        }
        Labels {
            height: self.size[0],
            width: self.size[1],
            data,
        }
    }
}

/// The centres of all pixels, row after row.
fn pixels([height, width]: [usize; 2]) -> impl Iterator<Item = [f64; 2]> {
    (0..height).flat_map(move |y| (0..width).map(move |x| [y as f64 + 0.5, x as f64 + 0.5]))
}

/// Standard normal distribution function.
fn phi(x: f64) -> f64 {
    match x {
        _ if x <= -SURE => 0.0,
        _ if x >= SURE => 1.0,
        _ => 0.5 * erfc(-x * FRAC_1_SQRT_2),
    }
}

/// A number between two, every ratio as likely.
fn log_uniform([low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> f64 {
    low * (high / low).powf(rng.random::<f64>())
}

impl Structure {
    /// The structure number `k`, its lengths `scale` times those of an image whose shorter side is 64.
    fn propose(
        k: usize,
        config: &PhantomConfig,
        size: [usize; 2],
        scale: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let faint = k > 1 && rng.random::<f64>() < config.faint;
        let seen = if faint {
            rng.random_range(0.25..0.75)
        } else {
            1.0
        };
        let mut soft = [
            config.blur[0],
            config.blur[1] * scale.max(0.25 * config.scale),
        ];
        if config.scale < 1.0 {
            soft[1] = soft[1].max(soft[0]);
        }
        let (tissue, shape, blur) = match (k, rng.random_range(0..5)) {
            // A sharp body first: it shows what q = 1 looks like in this image, where it is not below a pixel.
            (0, _) => {
                let radius = (scale * rng.random_range(5.0..8.0)).max(LEAST_RADIUS);
                (Tissue::Body, Shape::body(size, radius, rng), config.blur[0])
            }
            // Thin to one pixel: half a pixel to either side of the centre line.
            (1, _) | (_, 0) => {
                let thick = 0.5 + scale * rng.random_range(0.0..1.0);
                (
                    Tissue::Vessel,
                    Shape::vessel(size, [thick, 0.5], config.scale.min(1.0), rng),
                    log_uniform([0.25, 0.6], rng),
                )
            }
            (_, 1 | 2) => {
                let radius = (scale * rng.random_range(1.5..3.0)).max(0.8);
                (
                    Tissue::Blob,
                    Shape::body(size, radius, rng),
                    log_uniform([0.3, 0.4 * radius], rng),
                )
            }
            _ => {
                let radius = (scale * rng.random_range(4.0..9.0)).max(LEAST_RADIUS);
                (
                    Tissue::Body,
                    Shape::body(size, radius, rng),
                    log_uniform(soft, rng),
                )
            }
        };
        // s·g must climb slower than the distance itself, or the drawn curve would fold: a slope of s/ℓ ≤ ¼.
        Self {
            class: tissue.class(config.classes),
            distance: pixels(size).map(|at| shape.distance(at)).collect(),
            blur,
            seen,
            length: (4.0 * blur).max(6.0 * scale),
        }
    }

    /// q of this structure alone, a pixel.
    fn probability(&self) -> impl Iterator<Item = f64> {
        self.distance
            .iter()
            .map(|d| self.seen * phi(-d / self.blur))
    }
}

/// Structures until there are enough of them and of foreground, and the q of them all together.
///
/// # Errors
///
/// If the least foreground cannot be reached without passing the most.
fn structures(
    config: &PhantomConfig,
    size: [usize; 2],
    rng: &mut ChaCha8Rng,
) -> Result<(Vec<Structure>, Vec<f64>)> {
    let scale = size[0].min(size[1]) as f64 / 64.0 * config.scale;
    let [least, most] = config.foreground;
    let (mut found, mut q): (Vec<Structure>, _) = (Vec::new(), vec![0.0; size[0] * size[1]]);
    let mean = |q: &[f64]| q.iter().sum::<f64>() / q.len() as f64;
    let mut misses = 0;
    // Past the wanted number only while the foreground is still too little.
    while (found.len() < config.structures.max(1) || mean(&q) < least) && misses < TRIALS {
        let structure = Structure::propose(found.len(), config, size, scale, rng);
        let joined: Vec<f64> = q
            .iter()
            .zip(structure.probability())
            .map(|(q, own)| 1.0 - (1.0 - q) * (1.0 - own))
            .collect();
        if mean(&joined) <= most {
            q = joined;
            found.push(structure);
            misses = 0;
        } else {
            misses += 1;
        }
    }
    // Digits enough to tell what was reached from what was asked for.
    let digits = 2 + (-least.log10()).ceil().max(1.0) as usize;
    ensure!(
        mean(&q) >= least,
        "the phantom's structures reach a foreground of {:.digits$} at {}×{} pixels without passing {most}, but {least} is the least asked for; widen the range, or set data.phantom.scale to another size of the structures (now {})",
        mean(&q),
        size[0],
        size[1],
        config.scale
    );
    Ok((found, q))
}

/// The probability of every class but the background, where later structures are drawn over earlier ones: what is
/// drawn at a pixel is the last structure that holds it, q_c = Σ_{k of class c} q_k Π_{j > k} (1 − q_j).
fn each_class(structures: &[Structure], classes: usize, pixels: usize) -> Vec<Vec<f64>> {
    let mut planes = vec![vec![0.0; pixels]; classes - 1];
    for structure in structures {
        for (i, own) in structure.probability().enumerate() {
            for plane in &mut planes {
                plane[i] *= 1.0 - own;
            }
            planes[structure.class - 1][i] += own;
        }
    }
    planes
}

/// The image of the classes' planes without noise, planar: background, contrast, dark bodies, shading.
fn clean(
    config: &PhantomConfig,
    size: [usize; 2],
    planes: &[Vec<f64>],
    foreground: &[f64],
    rng: &mut ChaCha8Rng,
) -> Vec<f64> {
    let scale = size[0].min(size[1]) as f64 / 64.0;
    let level = BACKGROUND + rng.random_range(-10.0..10.0);
    let shading = SmoothField::draw(24.0 * scale, rng);
    let slow: Vec<f64> = pixels(size).map(|at| shading.at(at)).collect();
    let mut values = Vec::with_capacity(channels(config.classes) * slow.len());
    for channel in 0..channels(config.classes) {
        values.extend(slow.iter().enumerate().map(|(i, slow)| {
            let shown: f64 = (1..)
                .zip(planes)
                .map(|(class, q)| colour(config.classes, class)[channel] * q[i])
                .sum();
            level + config.contrast * shown + config.shading * slow
        }));
    }
    for _ in 0..config.distractors {
        for _ in 0..TRIALS {
            let body = Shape::body(size, scale * rng.random_range(3.0..7.0), rng);
            let (depth, blur) = (
                rng.random_range(0.1..0.3),
                scale * rng.random_range(0.3..2.0),
            );
            let dark: Vec<f64> = pixels(size)
                .map(|at| phi(-body.distance(at) / blur))
                .collect();
            // Only where nothing else is: elsewhere it would darken a structure, and q would no longer be visible.
            if dark.iter().zip(foreground).all(|(dark, q)| dark * q < 0.01) {
                for plane in values.chunks_exact_mut(dark.len()) {
                    plane
                        .iter_mut()
                        .zip(&dark)
                        .for_each(|(v, dark)| *v -= depth * config.contrast * dark);
                }
                break;
            }
        }
    }
    values
}
