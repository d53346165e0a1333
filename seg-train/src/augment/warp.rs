//! One warp for everything that moves pixels.

use super::{Chance, Motion, elastic};
use crate::{
    preprocess::{Interpolation, Prepared},
    raster::{Image, Labels},
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
        let places = places(motion, height, width);
        result.image.data = source
            .image
            .data
            .chunks_exact(height * width)
            .flat_map(|plane| {
                let plane = Plane {
                    data: plane,
                    height,
                    width,
                };
                places
                    .iter()
                    .map(move |&place| plane.at(place, interpolation))
            })
            .collect();
        result.labels.data = places
            .iter()
            .map(|&place| label_at(&source.labels, place, outside))
            .collect();
        result.truth = source.truth.as_ref().map(|truth| {
            let plane = Plane {
                data: truth,
                height,
                width,
            };
            places
                .iter()
                .map(|&place| plane.probability_at(place))
                .collect()
        });
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

/// Where each pixel of the result comes from.
fn places(motion: &Motion, height: usize, width: usize) -> Vec<Place> {
    let fields = motion
        .elastic
        .map(|elastic| elastic::fields(elastic, height, width));
    let centre = [height, width].map(|side| (side as f64 - 1.0) / 2.0);
    let (sin, cos) = motion.angle.sin_cos();
    (0..height * width)
        .map(|i| {
            let displaced = |axis: usize| {
                fields
                    .as_ref()
                    .map_or(0.0, |fields| f64::from(fields[axis][i]))
            };
            let v = (i / width) as f64 - centre[0] + displaced(0);
            let u = (i % width) as f64 - centre[1] + displaced(1);
            Place {
                y: centre[0] + motion.step * (cos * v - sin * u),
                x: centre[1] + motion.step * (sin * v + cos * u),
            }
        })
        .collect()
}

/// One channel; beyond the border it is 0.
#[derive(Clone, Copy)]
struct Plane<'a> {
    data: &'a [f32],
    height: usize,
    width: usize,
}

impl Plane<'_> {
    fn at(self, Place { y, x }: Place, interpolation: Interpolation) -> f32 {
        let reach = interpolation.reach() as i64;
        let (top, left) = (y.floor() as i64 - reach + 1, x.floor() as i64 - reach + 1);
        let mut sum = 0.0;
        for row in top..top + 2 * reach {
            let Some(row_at) = within(row, self.height) else {
                continue;
            };
            let mut along = 0.0;
            for column in left..left + 2 * reach {
                if let Some(at) = within(column, self.width) {
                    let value = f64::from(self.data[row_at * self.width + at]);
                    along += interpolation.weight(column as f64 - x) * value;
                }
            }
            sum += interpolation.weight(row as f64 - y) * along;
        }
        sum as f32
    }

    /// Linear, with the border's value beyond the centres of its pixels, and 0 outside the image.
    fn probability_at(self, place: Place) -> f32 {
        if nearest(place, self.height, self.width).is_none() {
            return 0.0;
        }
        let y = place.y.clamp(0.0, self.height as f64 - 1.0);
        let x = place.x.clamp(0.0, self.width as f64 - 1.0);
        self.at(Place { y, x }, Interpolation::Bilinear)
    }
}

fn label_at(labels: &Labels, place: Place, outside: u8) -> u8 {
    nearest(place, labels.height, labels.width).map_or(outside, |at| labels.data[at])
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
