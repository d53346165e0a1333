//! How sure a network is of one image, and how often it is right there.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::decide::Estimate;
use crate::metrics::{Bins, Pixels, Top};

/// The most probable class over the counted pixels of one image: its mean probability, and the share where it is right.
/// Equal where the network is as sure as it is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sureness {
    /// The image's name.
    pub id: String,
    /// Mean probability of the most probable class.
    pub confidence: f64,
    /// Share of the pixels that have that class.
    pub accuracy: f64,
}

impl Sureness {
    /// Of one image: probabilities planar `[classes, pixels]` beside the labels; `None` where no pixel counts.
    ///
    /// # Errors
    ///
    /// When the lengths do not fit, or a value is no probability.
    ///
    /// ```
    /// use seg_train::report::calibration::sureness::Sureness;
    /// // p of the background, then of the foreground: the second pixel's 0.75 is wrong.
    /// let image = Sureness::of("a", &[0.25, 0.25, 0.75, 0.75], 2, &[1, 0])?.unwrap();
    /// assert_eq!((image.confidence, image.accuracy, image.gap()), (0.75, 0.5, 0.25));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn of(id: &str, p: &[f32], classes: usize, labels: &[u8]) -> Result<Option<Self>> {
        let bins = Bins::top_label(&Pixels::new(p, classes, labels)?, 1, Top::Closed);
        let bin = bins.iter().next().flatten();
        Ok(bin.map(|bin| Self {
            id: id.into(),
            confidence: bin.confidence,
            accuracy: bin.accuracy,
        }))
    }

    /// Confidence minus accuracy: above zero is over-confident.
    pub fn gap(&self) -> f64 {
        self.confidence - self.accuracy
    }
}

/// The mean gap over images with its interval; `None` without images.
pub fn mean_gap(images: &[Sureness]) -> Option<Estimate> {
    Estimate::of(&images.iter().map(Sureness::gap).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::IGNORE;

    #[test]
    fn an_image_without_counted_pixels_is_not_counted() {
        assert_eq!(Sureness::of("a", &[0.5; 4], 2, &[IGNORE; 2]).unwrap(), None);
        assert_eq!(mean_gap(&[]), None);
    }

    #[test]
    fn the_gap_of_a_set_is_the_mean_over_its_images() {
        let image = |confidence, accuracy| Sureness {
            id: String::new(),
            confidence,
            accuracy,
        };
        let gap = mean_gap(&[image(0.75, 0.5), image(0.5, 0.75)]).unwrap();
        assert_eq!(gap.mean, 0.0);
        assert!(gap.interval.unwrap()[1] > 0.0);
    }
}
