//! Interpolation: one kernel for resizing and for warping, and nearest neighbours for labels.
//!
//! Pixels are squares: the centre of pixel `i` of `n` lies at `(i + ½) / n` of the side, for images and labels alike, so
//! that a resized mask stays on its structure.

use serde::{Deserialize, Serialize};

use crate::raster::{Image, Labels};

/// How values between pixels are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Linear in each axis: the paper's text.
    #[default]
    Bilinear,
    /// Cubic convolution in each axis (Keys 1981, a = −½), in place of the authors' cubic B-spline: it interpolates
    /// too, and needs no prefilter over the whole image.
    Cubic,
}

impl Interpolation {
    /// The kernel is zero this far from its centre and beyond.
    pub(crate) fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Cubic => 2.0,
        }
    }

    /// The weight of a pixel `x` pixels away.
    pub(crate) fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Cubic if x < 2.0 => ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0,
            Self::Cubic => 0.0,
        }
    }
}

/// Resizes an image to height and width.
///
/// Making an image smaller widens the kernel by the same factor (anti-aliasing), so that a vessel thinner than the step
/// fades instead of being hit or missed by chance; the authors' pipeline does not. Beyond the border the kernel is cut
/// and its weights are scaled to a sum of 1. Cubic results are kept within the channel's range, as the authors keep them:
/// an overshoot is no grey value that was measured.
pub fn resize(image: &Image, [height, width]: [usize; 2], interpolation: Interpolation) -> Image {
    if (image.height, image.width) == (height, width) {
        return image.clone();
    }
    let columns = taps(image.width, width, interpolation);
    let rows = taps(image.height, height, interpolation);
    let mut data = Vec::with_capacity(image.channels * height * width);
    for plane in image.data.chunks_exact(image.height * image.width) {
        let (low, high) = plane
            .iter()
            .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let narrow: Vec<f64> = plane
            .chunks_exact(image.width)
            .flat_map(|row| {
                let at = |i: usize| f64::from(row[i]);
                columns.iter().map(move |taps| taps.sum(at))
            })
            .collect();
        for taps in &rows {
            data.extend(
                (0..width).map(|x| (taps.sum(|y| narrow[y * width + x]) as f32).clamp(low, high)),
            );
        }
    }
    Image {
        channels: image.channels,
        height,
        width,
        data,
    }
}

/// Resizes labels to height and width: each pixel takes the class of the pixel its centre falls into.
pub fn resize_labels(labels: &Labels, [height, width]: [usize; 2]) -> Labels {
    Labels {
        height,
        width,
        data: resize_nearest(&labels.data, [labels.height, labels.width], [height, width]),
    }
}

/// Resizes any values, one a pixel, from height and width to others: each pixel takes the value of the pixel its centre
/// falls into.
///
/// ```
/// use seg_train::resample::resize_nearest;
/// assert_eq!(resize_nearest(&[0.25, 0.75], [1, 2], [2, 3]), [0.25, 0.75, 0.75, 0.25, 0.75, 0.75]);
/// ```
///
/// # Panics
///
/// If there are fewer values than `from` says, as indexing does.
pub fn resize_nearest<T: Copy>(values: &[T], from: [usize; 2], to: [usize; 2]) -> Vec<T> {
    let nearest = |i: usize, from: usize, to: usize| (2 * i + 1) * from / (2 * to);
    let columns: Vec<usize> = (0..to[1]).map(|x| nearest(x, from[1], to[1])).collect();
    (0..to[0])
        .flat_map(|y| {
            let row = nearest(y, from[0], to[0]) * from[1];
            columns.iter().map(move |x| values[row + x])
        })
        .collect()
}

/// The pixels that make one pixel of the resized axis: the first of them, and their weights.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

impl Taps {
    fn sum(&self, value: impl Fn(usize) -> f64) -> f64 {
        self.weights
            .iter()
            .enumerate()
            .map(|(i, weight)| weight * value(self.first + i))
            .sum()
    }
}

fn taps(from: usize, to: usize, interpolation: Interpolation) -> Vec<Taps> {
    let step = from as f64 / to as f64;
    let widening = step.max(1.0);
    let reach = interpolation.reach() * widening;
    (0..to)
        .map(|i| {
            // In the coordinate whose integers are pixel centres.
            let centre = (i as f64 + 0.5) * step - 0.5;
            let first = (centre - reach).ceil().max(0.0) as usize;
            let last = ((centre + reach).floor() as usize).min(from - 1);
            let mut weights: Vec<f64> = (first..=last)
                .map(|j| interpolation.weight((j as f64 - centre) / widening))
                .collect();
            // The nearest pixel always weighs, so the sum is no zero.
            let sum: f64 = weights.iter().sum();
            for weight in &mut weights {
                *weight /= sum;
            }
            Taps { first, weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> Image {
        let data = (0..height * width).map(|i| (i % width) as f32).collect();
        Image {
            channels: 1,
            height,
            width,
            data,
        }
    }

    #[test]
    fn the_same_size_keeps_the_bits() {
        let image = Image {
            channels: 2,
            height: 1,
            width: 2,
            data: vec![0.1, 0.7, -3.3, 1e-9],
        };
        for interpolation in [Interpolation::Bilinear, Interpolation::Cubic] {
            assert_eq!(resize(&image, [1, 2], interpolation), image);
        }
    }

    #[test]
    fn both_kernels_interpolate_and_sum_to_one() {
        for kernel in [Interpolation::Bilinear, Interpolation::Cubic] {
            assert_eq!(kernel.weight(0.0), 1.0);
            for x in [1.0, -1.0, 2.0, 3.0] {
                assert_eq!(kernel.weight(x), 0.0);
            }
            for shift in [0.1, 0.25, 0.5, 0.9] {
                let sum: f64 = (-3..=3).map(|i| kernel.weight(f64::from(i) - shift)).sum();
                assert!((sum - 1.0).abs() < 1e-12);
            }
        }
        assert_eq!(Interpolation::Cubic.weight(0.5), 9.0 / 16.0);
        assert_eq!(Interpolation::Cubic.weight(1.5), -1.0 / 16.0);
    }

    #[test]
    fn doubling_a_row_linearly_gives_quarters() {
        let image = Image {
            channels: 1,
            height: 1,
            width: 2,
            data: vec![0.0, 4.0],
        };
        assert_eq!(
            resize(&image, [1, 4], Interpolation::Bilinear).data,
            [0.0, 1.0, 3.0, 4.0]
        );
    }

    #[test]
    fn a_ramp_stays_a_ramp_away_from_the_border() {
        for interpolation in [Interpolation::Bilinear, Interpolation::Cubic] {
            // A widened kernel that is sampled unevenly (30 to 20) is near a ramp, not on it.
            for (from, to, error) in [(40, 20, 1e-5), (20, 40, 1e-5), (30, 20, 0.1)] {
                let resized = resize(&ramp(2, from), [2, to], interpolation);
                let step = from as f64 / to as f64;
                for i in 6..to - 6 {
                    let expected = (i as f64 + 0.5) * step - 0.5;
                    assert!(
                        (f64::from(resized.data[i]) - expected).abs() < error,
                        "{from} to {to}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_thin_line_fades_when_made_smaller_instead_of_vanishing() {
        for at in 0..16 {
            let mut image = Image {
                channels: 1,
                height: 1,
                width: 16,
                data: vec![0.0; 16],
            };
            image.data[at] = 1.0;
            let small = resize(&image, [1, 4], Interpolation::Bilinear);
            assert!(
                small.data.iter().sum::<f32>() > 0.15,
                "line at {at}: {:?}",
                small.data
            );
        }
    }

    #[test]
    fn constants_stay_exact_and_cubic_keeps_to_the_range() {
        let constant = Image {
            channels: 1,
            height: 7,
            width: 5,
            data: vec![0.1; 35],
        };
        let step = Image {
            channels: 1,
            height: 1,
            width: 6,
            data: vec![0., 0., 0., 9., 9., 9.],
        };
        for interpolation in [Interpolation::Bilinear, Interpolation::Cubic] {
            assert_eq!(resize(&constant, [3, 11], interpolation).data, [0.1; 33]);
            let resized = resize(&step, [1, 17], interpolation);
            assert!(resized.data.iter().all(|v| (0.0..=9.0).contains(v)));
        }
    }

    #[test]
    fn labels_keep_their_classes_and_come_back() {
        let labels = Labels {
            height: 2,
            width: 3,
            data: vec![0, 7, 255, 3, 254, 1],
        };
        let large = resize_labels(&labels, [4, 9]);
        assert_eq!(large.data[..9], [0, 0, 0, 7, 7, 7, 255, 255, 255]);
        assert_eq!(large.data[27..], [3, 3, 3, 254, 254, 254, 1, 1, 1]);
        assert_eq!(resize_labels(&large, [2, 3]), labels);
        assert_eq!(resize_labels(&labels, [1, 1]).data, [254]);
    }
}
