//! How much excess NLL the image's noise leaves, at most, to the best estimator of q.

use super::{PhantomConfig, colour::unmix, scene::Scene};
use crate::metrics::{Pixels, scores::excess_nll};
use crate::raster::Image;
use anyhow::Result;
use serde::Serialize;

/// Indices from here on are no part of any data set.
const FIRST: usize = 1 << 32;

/// Pixels to fit on, and as many again to measure on: enough for every cell of the table that matters.
const PIXELS: usize = 1 << 17;

/// Cells of the table a feature.
const CELLS: usize = 64;

/// An excess NLL that some estimator of q reaches from the image alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NoiseFloor {
    /// Mean KL(q‖p) of that estimator over images it was not fitted to, in nats a pixel. The best estimator's is lower
    /// or equal: the floor lies between zero and this.
    pub excess_nll: f64,
    /// Images that it was measured on.
    pub images: usize,
}

/// Measures an upper bound on the floor.
///
/// The estimator is a table. It reads two numbers at a pixel, its grey value and the mean of the 5×5 pixels around it,
/// both above the image's median (most pixels are background), and answers the mean of q over all pixels that read
/// about the same in phantoms made for the purpose: the posterior mean, which minimises the expected KL among all
/// functions of these two readings. It is told q itself, where a network sees one drawn mask an image; but it knows no
/// shapes and no more than 25 pixels, so a network with a wider view can do better. A network that is still well above
/// it has not extracted what the image shows.
///
/// With more than two classes there is a table a class, read in the amounts of colour that the image is made of (the
/// channels unmixed), and the background has what the classes leave; where they leave less than nothing they are scaled
/// to a sum of one. It is an estimator like any other, so what it exceeds the entropy by is an upper bound too.
///
/// # Errors
///
/// If a side is below 16 or the settings make no image.
pub fn noise_floor(config: &PhantomConfig, size: [usize; 2], seed: u64) -> Result<NoiseFloor> {
    let images = (PIXELS / (size[0] * size[1])).max(4);
    let shown = config.classes - 1;
    let mut tables = vec![vec![(0.0, 0.0); CELLS * CELLS]; shown];
    for k in 0..images {
        let scene = Scene::new(config, size, seed, FIRST + k)?;
        let planes = cells(&scene.image(), config);
        let truths = scene.q.chunks_exact(size[0] * size[1]);
        for ((table, plane), q) in tables.iter_mut().zip(planes).zip(truths) {
            for (cell, &q) in plane.into_iter().zip(q) {
                table[cell].0 += f64::from(q);
                table[cell].1 += 1.0;
            }
        }
    }
    let mut sum = 0.0;
    for k in images..2 * images {
        let scene = Scene::new(config, size, seed, FIRST + k)?;
        let planes = cells(&scene.image(), config);
        let read: Vec<Vec<f64>> = tables
            .iter()
            .zip(planes)
            .map(|(table, plane)| plane.into_iter().map(|cell| answer(table, cell)).collect())
            .collect();
        let (p, channels) = match &read[..] {
            [foreground] => (foreground.clone(), 1),
            _ => (with_background(read), config.classes),
        };
        // The labels only say which pixels count: all of them.
        let labels = vec![0; size[0] * size[1]];
        sum += excess_nll(&Pixels::new(&p, channels, &labels)?, &scene.q)?;
    }
    Ok(NoiseFloor {
        excess_nll: sum / images as f64,
        images,
    })
}

/// The mean of q over what read like this.
fn answer(table: &[(f64, f64)], cell: usize) -> f64 {
    let (sum, n) = table[cell];
    // One pixel's worth of the plain reading keeps empty and rare cells sensible.
    (sum + reading(cell % CELLS).clamp(0.01, 0.99)) / (n + 1.0)
}

/// Planar probabilities of all classes from those of the foreground's.
fn with_background(mut classes: Vec<Vec<f64>>) -> Vec<f64> {
    let pixels = classes[0].len();
    let mut background = vec![0.0; pixels];
    for (i, background) in background.iter_mut().enumerate() {
        let sum: f64 = classes.iter().map(|plane| plane[i]).sum();
        let all = sum.max(1.0);
        for plane in &mut classes {
            plane[i] /= all;
        }
        *background = 1.0 - sum / all;
    }
    classes.insert(0, background);
    classes.concat()
}

/// The table's cell of every pixel, for each amount of colour.
fn cells(image: &Image, config: &PhantomConfig) -> Vec<Vec<usize>> {
    let planes: Vec<Vec<f64>> = image
        .data
        .chunks_exact(image.height * image.width)
        .map(|plane| plane.iter().map(|&v| f64::from(v)).collect())
        .collect();
    unmix(&planes)
        .iter()
        .map(|plane| plane_cells(plane, [image.height, image.width], config))
        .collect()
}

fn plane_cells(plane: &[f64], [height, width]: [usize; 2], config: &PhantomConfig) -> Vec<usize> {
    let mut sorted = plane.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    // In units of the contrast: what q would be if there were neither noise nor shading.
    let index = |v: f64| {
        let q = (v - median) / config.contrast.max(1.0);
        (((q + 0.4) / 1.8 * CELLS as f64).max(0.0) as usize).min(CELLS - 1)
    };
    let mut found = Vec::with_capacity(plane.len());
    for y in 0..height {
        for x in 0..width {
            let (mut sum, mut n) = (0.0, 0.0);
            for row in y.saturating_sub(2)..(y + 3).min(height) {
                for v in &plane[row * width + x.saturating_sub(2)..row * width + (x + 3).min(width)]
                {
                    sum += v;
                    n += 1.0;
                }
            }
            found.push(index(sum / n) * CELLS + index(plane[y * width + x]));
        }
    }
    found
}

/// The q in the middle of a cell, along one feature.
fn reading(cell: usize) -> f64 {
    (cell as f64 + 0.5) / CELLS as f64 * 1.8 - 0.4
}
