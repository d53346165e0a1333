//! The shapes of a phantom, each by the signed distance to its boundary (negative inside), in pixels.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::{PI, TAU};

/// A shape; points are (row, column).
pub(super) enum Shape {
    /// An ellipse whose outline bulges a little.
    Body {
        centre: [f64; 2],
        radii: [f64; 2],
        angle: f64,
        bulge: f64,
        lobes: f64,
        phase: f64,
    },
    /// A curved tube: points of its centre line and the half width at each.
    Vessel { line: Vec<([f64; 2], f64)> },
}

impl Shape {
    /// A body of mean radius `radius` with its centre in the image.
    pub(super) fn body(size: [usize; 2], radius: f64, rng: &mut ChaCha8Rng) -> Self {
        let stretch = rng.random_range(1.0..1.5_f64).sqrt();
        Self::Body {
            centre: size.map(|side| rng.random_range(0.1..0.9) * side as f64),
            radii: [radius * stretch, radius / stretch],
            angle: rng.random_range(0.0..PI),
            bulge: rng.random_range(0.0..0.15),
            lobes: f64::from(rng.random_range(2..5)),
            phase: rng.random_range(0.0..TAU),
        }
    }

    /// A vessel from one border of the image to another place, tapering to half width `thin`, or as far as the share
    /// `reach` of the curve's parameter.
    pub(super) fn vessel(
        size: [usize; 2],
        [thick, thin]: [f64; 2],
        reach: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let [height, width] = size.map(|side| side as f64);
        let along = rng.random_range(0.1..0.9);
        let start = match rng.random_range(0..4) {
            0 => [0.0, along * width],
            1 => [height, along * width],
            2 => [along * height, 0.0],
            _ => [along * height, width],
        };
        let mut inside = || {
            [
                rng.random_range(0.1..0.9) * height,
                rng.random_range(0.1..0.9) * width,
            ]
        };
        let (bend, end) = (inside(), inside());
        // Steps of about three pixels: well below the radius of the curve.
        let steps = (height.max(width) / 3.0).ceil().max(12.0);
        let line = (0..=steps as usize)
            .map(|k| {
                let t = k as f64 / steps;
                let place = reach * t;
                let [a, b, c] = [
                    (1.0 - place) * (1.0 - place),
                    2.0 * place * (1.0 - place),
                    place * place,
                ];
                (
                    [0, 1].map(|i| a * start[i] + b * bend[i] + c * end[i]),
                    thick + (thin - thick) * t,
                )
            })
            .collect();
        Self::Vessel { line }
    }

    /// Signed distance of a point to the boundary.
    pub(super) fn distance(&self, at: [f64; 2]) -> f64 {
        match self {
            Self::Body {
                centre,
                radii,
                angle,
                bulge,
                lobes,
                phase,
            } => {
                let (y, x) = (at[0] - centre[0], at[1] - centre[1]);
                let (sin, cos) = angle.sin_cos();
                let (u, v) = (cos * x + sin * y, cos * y - sin * x);
                let small = radii[0].min(radii[1]);
                // First order: (k − 1) over the gradient of k, exact on the boundary; at the centre, where k has no
                // gradient, the distance to the nearest point.
                let k = (u / radii[0]).hypot(v / radii[1]);
                let slope = (u / radii[0].powi(2)).hypot(v / radii[1].powi(2));
                let d = if slope > 1e-9 {
                    (k * (k - 1.0) / slope).max(-small)
                } else {
                    -small
                };
                d - bulge * small * (lobes * v.atan2(u) + phase).cos() * k.min(1.0)
            }
            Self::Vessel { line } => line
                .windows(2)
                .map(|pair| {
                    let ((a, wide), (b, narrow)) = (pair[0], pair[1]);
                    let (along, to) = ([b[0] - a[0], b[1] - a[1]], [at[0] - a[0], at[1] - a[1]]);
                    let squared = along[0] * along[0] + along[1] * along[1];
                    // Two equal points make no segment: the first one serves.
                    let t = if squared > 0.0 {
                        ((to[0] * along[0] + to[1] * along[1]) / squared).clamp(0.0, 1.0)
                    } else {
                        0.0
                    };
                    let (y, x) = (to[0] - t * along[0], to[1] - t * along[1]);
                    (y * y + x * x).sqrt() - (wide + (narrow - wide) * t)
                })
                .fold(f64::INFINITY, f64::min),
        }
    }
}
