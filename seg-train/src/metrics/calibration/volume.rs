//! Whether the probabilities add up to as much foreground as there is.

use super::Exact;
use serde::{Deserialize, Serialize};

/// Expected against true volume, in pixels of any class but the background.
///
/// The sum of the probabilities is the volume that the model expects. A calibrated model's is right on average, while that
/// of a thresholded mask need not be; the sign says which way it errs (Popordanoska et al. 2021).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Σ p of the foreground.
    pub expected: f64,
    /// Foreground pixels of the truth.
    pub truth: u64,
    /// (expected − truth) / truth of all images as one lot; `None` without foreground.
    pub bias: Option<f64>,
    /// Images that have foreground, which the means are over.
    pub images: u64,
    /// The mean over these images of their own bias; `None` without any.
    pub mean: Option<f64>,
    /// The mean of its absolute value, in which too much here does not make up for too little there.
    pub mean_absolute: Option<f64>,
}

/// The sums of one image or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeSums {
    pub(crate) expected: Exact,
    pub(crate) truth: u64,
    images: u64,
    signed: Exact,
    absolute: Exact,
}

impl VolumeSums {
    /// Adds a pixel of an image.
    pub(crate) fn pixel(&mut self, p: f64, is_foreground: bool) {
        self.expected.add(p);
        self.truth += u64::from(is_foreground);
    }

    /// (expected − truth) / truth.
    pub(crate) fn bias(&self) -> Option<f64> {
        let truth = self.truth as f64;
        (self.truth > 0).then(|| (self.expected.value() - truth) / truth)
    }

    /// Adds the pixels of an image, whose bias enters the means.
    pub(crate) fn image(&mut self, pixels: &Self) {
        self.expected += pixels.expected;
        self.truth += pixels.truth;
        if let Some(bias) = pixels.bias() {
            self.images += 1;
            self.signed.add(bias);
            self.absolute.add(bias.abs());
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.expected += other.expected;
        self.truth += other.truth;
        self.images += other.images;
        self.signed += other.signed;
        self.absolute += other.absolute;
    }

    pub(crate) fn summary(&self) -> Volume {
        let mean = |sum: Exact| (self.images > 0).then(|| sum.value() / self.images as f64);
        Volume {
            expected: self.expected.value(),
            truth: self.truth,
            bias: self.bias(),
            images: self.images,
            mean: mean(self.signed),
            mean_absolute: mean(self.absolute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pixels: &[(f64, bool)]) -> VolumeSums {
        let mut sums = VolumeSums::default();
        for &(p, y) in pixels {
            sums.pixel(p, y);
        }
        sums
    }

    #[test]
    fn too_much_here_makes_up_for_too_little_there_in_the_signed_bias_alone() {
        let images = [
            image(&[(0.75, true), (0.75, false)]), // half too much
            image(&[(0.25, true), (0.5, true), (0.25, false)]), // half too little
            image(&[(0.5, false)]),                // no foreground, so no bias of its own
        ];
        let mut sums = VolumeSums::default();
        for image in &images {
            sums.image(image);
        }
        let expected = Volume {
            expected: 3.0,
            truth: 3,
            bias: Some(0.0),
            images: 2,
            mean: Some(0.0),
            mean_absolute: Some(0.5),
        };
        assert_eq!(sums.summary(), expected);
        let (mut left, mut right) = (VolumeSums::default(), VolumeSums::default());
        left.image(&images[2]);
        images[..2].iter().for_each(|image| right.image(image));
        left.merge(&right);
        assert_eq!(left.summary(), expected);
        assert_eq!(images[2].bias(), None);
        assert_eq!(VolumeSums::default().summary(), Volume::default());
    }
}
