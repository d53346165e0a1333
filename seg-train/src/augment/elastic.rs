//! Displacement fields: uniform noise smoothed by a Gaussian (Simard et al. 2003, in batchgenerators' form).

use rand::Rng;

use super::Elastic;
use crate::rng::{Purpose, stream};

/// Where the Gaussian is cut, in σ: beyond it lies 0.006 % of its weight.
const CUT: f64 = 4.0;

/// Displacements of every pixel in pixels, down and right, each `[height, width]`.
pub(super) fn fields(elastic: Elastic, height: usize, width: usize) -> [Vec<f32>; 2] {
    let Elastic { alpha, sigma, seed } = elastic;
    let mut noise = stream(seed, Purpose::Augment, 0, 0);
    let kernel = gaussian(sigma);
    [(), ()].map(|()| {
        let raw: Vec<f32> = (0..height * width)
            .map(|_| 2.0 * noise.random::<f32>() - 1.0)
            .collect();
        let mut field = smooth_rows(&smooth_columns(&raw, width, &kernel), width, &kernel);
        for value in &mut field {
            *value *= alpha as f32;
        }
        field
    })
}

/// One half of the kernel, the centre first; the whole sums to 1.
fn gaussian(sigma: f64) -> Vec<f32> {
    let half: Vec<f64> = (0..=(CUT * sigma).round() as usize)
        .map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp())
        .collect();
    let sum = 2.0 * half.iter().sum::<f64>() - half[0];
    half.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Smooths down each column; beyond the border the noise is 0, so that displacements are smaller near it.
fn smooth_columns(field: &[f32], width: usize, kernel: &[f32]) -> Vec<f32> {
    let mut smooth = vec![0.0; field.len()];
    // Whole rows are added, weighted: the compiler makes vectors of the inner loop, and no order of sums changes.
    for (y, out) in smooth.chunks_exact_mut(width).enumerate() {
        for (source, row) in field.chunks_exact(width).enumerate() {
            if let Some(&weight) = kernel.get(y.abs_diff(source)) {
                add(out, row, weight);
            }
        }
    }
    smooth
}

/// Smooths along each row, with the same border.
fn smooth_rows(field: &[f32], width: usize, kernel: &[f32]) -> Vec<f32> {
    let mut smooth = vec![0.0; field.len()];
    for (out, row) in smooth
        .chunks_exact_mut(width)
        .zip(field.chunks_exact(width))
    {
        add(out, row, kernel[0]);
        for (shift, &weight) in kernel.iter().enumerate().take(width).skip(1) {
            add(&mut out[shift..], &row[..width - shift], weight);
            add(&mut out[..width - shift], &row[shift..], weight);
        }
    }
    smooth
}

fn add(out: &mut [f32], row: &[f32], weight: f32) {
    for (sum, value) in out.iter_mut().zip(row) {
        *sum += weight * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_becomes_the_gaussian_in_both_axes() {
        let (height, width, sigma) = (41, 51, 3.0);
        let mut point = vec![0.0; height * width];
        point[20 * width + 25] = 1.0;
        let kernel = gaussian(sigma);
        assert_eq!(kernel.len(), 13);
        let field = smooth_rows(&smooth_columns(&point, width, &kernel), width, &kernel);
        assert!((field.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        for (y, x) in [(20, 25), (22, 25), (20, 20), (26, 31), (8, 25), (7, 25)] {
            let r2 = (y as f64 - 20.0).powi(2) + (x as f64 - 25.0).powi(2);
            let cut = y == 7;
            let expected = if cut {
                0.0
            } else {
                (-r2 / 18.0).exp() / (18.0 * std::f64::consts::PI)
            };
            assert!(
                (f64::from(field[y * width + x]) - expected).abs() < 5e-6,
                "{y} {x}"
            );
        }
    }

    #[test]
    fn displacements_have_the_strength_the_noise_leaves() {
        // Uniform(−1, 1) has variance 1/3, and the Gaussian leaves 1 / (4πσ²) of it, away from the border.
        let (side, alpha, sigma) = (400, 450.0, 9.0);
        let expected = alpha * (1.0 / (3.0 * 4.0 * std::f64::consts::PI)).sqrt() / sigma;
        for field in fields(
            Elastic {
                alpha,
                sigma,
                seed: 3,
            },
            side,
            side,
        ) {
            let inner: Vec<f64> = (0..side * side)
                .filter(|i| (40..360).contains(&(i / side)) && (40..360).contains(&(i % side)))
                .map(|i| f64::from(field[i]))
                .collect();
            let mean_square = inner.iter().map(|v| v * v).sum::<f64>() / inner.len() as f64;
            let ratio = mean_square.sqrt() / expected;
            assert!((0.8..1.25).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn the_seed_decides_and_the_two_axes_differ() {
        let at = |seed| {
            fields(
                Elastic {
                    alpha: 100.0,
                    sigma: 2.0,
                    seed,
                },
                9,
                5,
            )
        };
        assert_eq!(at(1), at(1));
        assert_ne!(at(1), at(2));
        let [down, right] = at(1);
        assert_ne!(down, right);
    }
}
