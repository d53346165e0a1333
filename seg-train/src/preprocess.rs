//! From a raw sample to the network's input: the whole image resized, then one z-score.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    data::Sample,
    raster::{Image, Labels},
    resample::{resize, resize_labels},
};

pub use crate::resample::Interpolation;

/// Size and interpolation of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Height and width.
    pub size: [usize; 2],
    /// How images are resized: bilinear in the paper's text, cubic in the authors' code. Labels always take the nearest.
    pub interpolation: Interpolation,
}

impl Default for Preprocess {
    /// 256 × 256, bilinear.
    fn default() -> Self {
        Self {
            size: [256, 256],
            interpolation: Interpolation::Bilinear,
        }
    }
}

/// A sample at the network's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Its name in tables and pictures.
    pub id: String,
    /// Mean 0 and deviation 1 over all channels and pixels together.
    pub image: Image,
    /// A class number a pixel.
    pub labels: Labels,
    /// The true probability of every class but the background a pixel, planar `[classes − 1, pixels]`, where it is known.
    pub truth: Option<Vec<f32>>,
}

/// Resizes a sample (labels by nearest neighbour, the true probabilities linearly) and normalises its image.
///
/// A sample that has the size already is not resampled.
///
/// # Errors
/// The size is zero, or the sample's parts disagree about its own size.
pub fn prepare(sample: &Sample, preprocess: &Preprocess) -> Result<Prepared> {
    let Sample {
        id,
        image,
        labels,
        truth,
    } = sample;
    let pixels = image.height * image.width;
    let agree = image.data.len() == image.channels * pixels
        && (labels.height, labels.width) == (image.height, image.width)
        && labels.data.len() == pixels
        && pixels > 0
        && truth
            .as_ref()
            .is_none_or(|truth| !truth.is_empty() && truth.len() % pixels == 0);
    if !agree || image.data.is_empty() {
        bail!(
            "the sample {id} is not whole: image, labels and truth must have one size of at least one pixel"
        );
    }
    let image = prepare_image(image, preprocess)?;
    let truth = truth.as_ref().map(|truth| {
        let planes = Image {
            channels: truth.len() / pixels,
            height: labels.height,
            width: labels.width,
            data: truth.clone(),
        };
        resize(&planes, preprocess.size, Interpolation::Bilinear).data
    });
    Ok(Prepared {
        id: id.clone(),
        image,
        labels: resize_labels(labels, preprocess.size),
        truth,
    })
}

/// Resizes and normalises an image that has no labels.
///
/// # Errors
/// The size is zero.
pub fn prepare_image(image: &Image, preprocess: &Preprocess) -> Result<Image> {
    let [height, width] = preprocess.size;
    if height == 0 || width == 0 {
        bail!("size = [{height}, {width}]: height and width are at least 1");
    }
    let mut image = resize(image, preprocess.size, preprocess.interpolation);
    z_score(&mut image.data);
    Ok(image)
}

/// Below this deviation, in grey values of 0..=255, an image is constant: what varies is the rounding of its mean, and
/// dividing by it would make noise of unit size out of nothing. One step of 16 bits in one pixel of a 512 x 512 image
/// is 8e-6.
const CONSTANT: f64 = 1e-6;

/// `(x − mean) / deviation`, one mean and one deviation (of the population) for all values; a constant becomes zero.
fn z_score(values: &mut [f32]) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / count;
    let deviation = variance.sqrt();
    let scale = if deviation > CONSTANT {
        1.0 / deviation
    } else {
        0.0
    };
    for value in values {
        *value = ((f64::from(*value) - mean) * scale) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(
        channels: usize,
        height: usize,
        width: usize,
        value: impl Fn(usize) -> f32,
    ) -> Sample {
        let pixels = height * width;
        Sample {
            id: "s".into(),
            image: Image {
                channels,
                height,
                width,
                data: (0..channels * pixels).map(value).collect(),
            },
            labels: Labels {
                height,
                width,
                data: (0..pixels).map(|i| u8::from(i % 3 == 0)).collect(),
            },
            truth: Some((0..pixels).map(|i| i as f32 / pixels as f32).collect()),
        }
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        (
            mean,
            values
                .iter()
                .map(|&v| (f64::from(v) - mean).powi(2))
                .sum::<f64>()
                / count,
        )
    }

    #[test]
    fn one_mean_and_one_deviation_serve_all_channels() {
        let sample = sample(3, 20, 30, |i| {
            (i * 7919 % 256) as f32 + if i < 600 { 100.0 } else { 0.0 }
        });
        let preprocess = Preprocess {
            size: [16, 16],
            ..Preprocess::default()
        };
        let image = prepare(&sample, &preprocess).unwrap().image;
        assert_eq!((image.channels, image.height, image.width), (3, 16, 16));
        let (mean, variance) = moments(&image.data);
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6);
        assert!(
            moments(&image.data[..256]).0 > 0.5,
            "the brighter channel stays brighter"
        );
    }

    #[test]
    fn a_constant_image_becomes_zero() {
        for value in [0.0, 0.1, 255.0] {
            for size in [[5, 7], [3, 4]] {
                let preprocess = Preprocess {
                    size,
                    ..Preprocess::default()
                };
                let image = prepare(&sample(3, 5, 7, |_| value), &preprocess)
                    .unwrap()
                    .image;
                assert!(image.data.iter().all(|&v| v == 0.0), "{value}");
            }
        }
    }

    #[test]
    fn one_faint_step_is_not_taken_for_a_constant() {
        let sample = sample(1, 64, 64, |i| if i == 5 { 7.0 + 1.0 / 257.0 } else { 7.0 });
        let preprocess = Preprocess {
            size: [64, 64],
            ..Preprocess::default()
        };
        let (_, variance) = moments(&prepare(&sample, &preprocess).unwrap().image.data);
        assert!((variance - 1.0).abs() < 1e-4, "{variance}");
    }

    #[test]
    fn labels_and_truth_are_kept_at_the_same_size_and_resized_otherwise() {
        let sample = sample(1, 4, 6, |i| i as f32);
        let same = prepare(
            &sample,
            &Preprocess {
                size: [4, 6],
                ..Preprocess::default()
            },
        )
        .unwrap();
        assert_eq!((&same.labels, &same.truth), (&sample.labels, &sample.truth));
        let other = prepare(
            &sample,
            &Preprocess {
                size: [8, 3],
                ..Preprocess::default()
            },
        )
        .unwrap();
        assert_eq!(
            (
                other.labels.height,
                other.labels.width,
                other.labels.data.len()
            ),
            (8, 3, 24)
        );
        assert_eq!(other.truth.unwrap().len(), 24);
    }

    #[test]
    fn every_plane_of_the_truth_is_resized_by_itself() {
        let mut sample = sample(1, 4, 6, |i| i as f32);
        let first = sample.truth.clone().unwrap();
        let second: Vec<f32> = first.iter().map(|q| 1.0 - q).collect();
        let preprocess = Preprocess {
            size: [8, 3],
            ..Preprocess::default()
        };
        let alone = |truth: &[f32]| {
            let one = Sample {
                truth: Some(truth.to_vec()),
                ..sample.clone()
            };
            prepare(&one, &preprocess).unwrap().truth.unwrap()
        };
        let expected = [alone(&first), alone(&second)].concat();
        sample.truth = Some([first, second].concat());
        assert_eq!(prepare(&sample, &preprocess).unwrap().truth, Some(expected));
    }

    #[test]
    fn a_sample_that_is_not_whole_is_refused() {
        let preprocess = Preprocess::default();
        let mut odd = sample(1, 4, 6, |i| i as f32);
        let zero = prepare(
            &odd,
            &Preprocess {
                size: [0, 8],
                ..preprocess
            },
        )
        .unwrap_err();
        assert_eq!(
            zero.to_string(),
            "size = [0, 8]: height and width are at least 1"
        );
        odd.labels = Labels {
            height: 6,
            width: 4,
            data: vec![0; 24],
        };
        assert_eq!(
            prepare(&odd, &preprocess).unwrap_err().to_string(),
            "the sample s is not whole: image, labels and truth must have one size of at least one pixel"
        );
    }
}
