//! One warp for everything that moves pixels.

use super::{Chance, Motion, elastic};
use crate::{
    preprocess::{Interpolation, Prepared},
    raster::Image,
};

/// Moves image, labels and truth together.
///
/// The result's pixel at offset `u` from the centre shows the source at `step · R(angle) · (u + d(u))`, with `d` the elastic
/// displacement, and mirrored last. Where nothing acts, bits are kept.
pub(super) fn warp(
    source: &Prepared,
    motion: &Motion,
    interpolation: Interpolation,
    outside: u8,
) -> Prepared {
    let mut result = source.clone();
    let Image { height, width, .. } = source.image;
    let moves = motion.step != 1.0 || motion.angle != 0.0 || motion.elastic.is_some();
    if moves {
        let pixels = height * width;
        for (i, place) in places(motion, height, width).enumerate() {
            // The weights of a place serve every channel.
            let taps = Taps::new(place, interpolation);
            for (plane, moved) in source
                .image
                .data
                .chunks_exact(pixels)
                .zip(result.image.data.chunks_exact_mut(pixels))
            {
                moved[i] = taps.sum(plane, height, width);
            }
            let pixel = nearest(place, height, width);
            result.labels.data[i] = pixel.map_or(outside, |at| source.labels.data[at]);
            if let (Some(truth), Some(moved)) = (&source.truth, &mut result.truth) {
                for (plane, moved) in truth
                    .chunks_exact(pixels)
                    .zip(moved.chunks_exact_mut(pixels))
                {
                    moved[i] = pixel.map_or(0.0, |_| probability_at(plane, place, height, width));
                }
            }
        }
    }
    mirror(&mut result.image.data, height, width, motion.mirror);
    mirror(&mut result.labels.data, height, width, motion.mirror);
    if let Some(truth) = &mut result.truth {
        mirror(truth, height, width, motion.mirror);
    }
    result
}

/// A place in the source, in the coordinate whose integers are pixel centres.
#[derive(Clone, Copy)]
struct Place {
    y: f64,
    x: f64,
}

/// Where each pixel of the result comes from, row after row.
fn places(motion: &Motion, height: usize, width: usize) -> impl Iterator<Item = Place> {
    let fields = motion
        .elastic
        .map(|elastic| elastic::fields(elastic, height, width));
    let centre = [height, width].map(|side| (side as f64 - 1.0) / 2.0);
    let (sin, cos) = motion.angle.sin_cos();
    let step = motion.step;
    (0..height * width).map(move |i| {
        let displaced = |axis: usize| {
            fields
                .as_ref()
                .map_or(0.0, |fields| f64::from(fields[axis][i]))
        };
        let v = (i / width) as f64 - centre[0] + displaced(0);
        let u = (i % width) as f64 - centre[1] + displaced(1);
        Place {
            y: centre[0] + step * (cos * v - sin * u),
            x: centre[1] + step * (sin * v + cos * u),
        }
    })
}

/// The weights of the pixels about a place: those of the rows and those of the columns.
struct Taps {
    first: [i64; 2],
    /// Four of each for the cubic kernel, two for the linear one.
    count: usize,
    weights: [[f64; 4]; 2],
}

impl Taps {
    fn new(Place { y, x }: Place, interpolation: Interpolation) -> Self {
        let reach = interpolation.reach() as i64;
        let count = 2 * reach as usize;
        let first = [y, x].map(|at| at.floor() as i64 - reach + 1);
        let mut weights = [[0.0; 4]; 2];
        for (axis, at) in [y, x].into_iter().enumerate() {
            for (pixel, weight) in (first[axis]..).zip(&mut weights[axis][..count]) {
                *weight = interpolation.weight(pixel as f64 - at);
            }
        }
        Self {
            first,
            count,
            weights,
        }
    }

    /// The weighted sum in one channel, which is 0 beyond its border.
    fn sum(&self, plane: &[f32], height: usize, width: usize) -> f32 {
        let mut sum = 0.0;
        for (row, weight) in (self.first[0]..).zip(&self.weights[0][..self.count]) {
            let Some(row) = within(row, height) else {
                continue;
            };
            let mut along = 0.0;
            for (column, weight) in (self.first[1]..).zip(&self.weights[1][..self.count]) {
                if let Some(column) = within(column, width) {
                    along += weight * f64::from(plane[row * width + column]);
                }
            }
            sum += weight * along;
        }
        sum as f32
    }
}

/// Linear, with the border's value beyond the centres of its pixels: a probability does not fade towards the border.
fn probability_at(truth: &[f32], Place { y, x }: Place, height: usize, width: usize) -> f32 {
    let y = y.clamp(0.0, height as f64 - 1.0);
    let x = x.clamp(0.0, width as f64 - 1.0);
    Taps::new(Place { y, x }, Interpolation::Bilinear).sum(truth, height, width)
}

/// The pixel a place falls into.
fn nearest(Place { y, x }: Place, height: usize, width: usize) -> Option<usize> {
    let row = within((y + 0.5).floor() as i64, height)?;
    let column = within((x + 0.5).floor() as i64, width)?;
    Some(row * width + column)
}

fn within(i: i64, side: usize) -> Option<usize> {
    usize::try_from(i).ok().filter(|&i| i < side)
}

fn mirror<T>(data: &mut [T], height: usize, width: usize, [vertical, horizontal]: [Chance; 2]) {
    for plane in data.chunks_exact_mut(height * width) {
        if vertical == Chance::Acts {
            for y in 0..height / 2 {
                let (upper, lower) = plane.split_at_mut((height - 1 - y) * width);
                upper[y * width..(y + 1) * width].swap_with_slice(&mut lower[..width]);
            }
        }
        if horizontal == Chance::Acts {
            plane.chunks_exact_mut(width).for_each(<[T]>::reverse);
        }
    }
}
