//! The counts of one image at many softmax thresholds (paper, Eq. 10) from one look at its pixels.

use super::Confusion;
use crate::{
    raster::{IGNORE, Labels, NO_CLASS},
    resample::resize_nearest,
};
use anyhow::{Result, bail};

/// Thresholds T, ascending; foreground is where p ≥ T (Eq. 10).
///
/// ```
/// use seg_train::{metrics::ThresholdSweep, raster::Labels};
/// let sweep = ThresholdSweep::new(vec![0.25, 0.75])?;
/// let truth = Labels { height: 1, width: 3, data: vec![1, 0, 1] };
/// let counts = sweep.counts(&[0.25, 0.5, 0.75], [1, 3], &truth)?;
/// assert_eq!((counts[0].tp, counts[0].fp, counts[0].fn_), (2, 1, 0));
/// assert_eq!((counts[1].tp, counts[1].fp, counts[1].fn_), (1, 0, 1));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ThresholdSweep {
    thresholds: Vec<f64>,
}

/// The counts of one image, each with its threshold, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageThresholds {
    /// The image's name.
    pub id: String,
    /// Threshold and counts, at the image's own size.
    pub counts: Vec<(f64, Confusion)>,
}

impl ThresholdSweep {
    /// These thresholds.
    ///
    /// # Errors
    ///
    /// If they do not ascend, or one is outside `[0, 1]`.
    pub fn new(thresholds: Vec<f64>) -> Result<Self> {
        if let Some(t) = thresholds.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            bail!("a threshold is a number from 0 to 1, got {t}");
        }
        let mut pairs = thresholds.iter().zip(thresholds.iter().skip(1));
        if let Some((one, next)) = pairs.find(|(one, next)| one >= next) {
            bail!("thresholds must ascend, got {one} before {next}; sort them and name each once");
        }
        Ok(Self { thresholds })
    }

    /// The inner edges of `parts` equal parts of `[0, 1]`: 1/parts, 2/parts, …, 1 − 1/parts.
    ///
    /// ```
    /// use seg_train::metrics::ThresholdSweep;
    /// assert_eq!(ThresholdSweep::even(4).thresholds(), [0.25, 0.5, 0.75]);
    /// ```
    pub fn even(parts: usize) -> Self {
        let edge = |k| k as f64 / parts as f64;
        Self {
            thresholds: (1..parts).map(edge).collect(),
        }
    }

    /// The thresholds.
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds
    }

    /// The counts of one image at every threshold: `p` is its foreground probability at some height and width, `truth`
    /// its labels at its own.
    ///
    /// The probabilities are grown to the image by nearest neighbour, which is the same as growing each mask: the nearest
    /// pixel is the nearest, whatever is asked of its value. So the image is looked at once: every pixel is counted where
    /// the thresholds that it reaches end, and the counts of each threshold are sums over those beyond it. Pixels
    /// labelled [`IGNORE`] or [`NO_CLASS`] are not counted; any other label but 1 is background.
    ///
    /// # Errors
    ///
    /// If there are not as many probabilities as the size says, or the labels have no pixel.
    pub fn counts(&self, p: &[f32], size: [usize; 2], truth: &Labels) -> Result<Vec<Confusion>> {
        if p.len() != size[0] * size[1] || p.is_empty() {
            bail!(
                "{} probabilities do not make {} rows of {}; pass one a pixel",
                p.len(),
                size[0],
                size[1]
            );
        }
        let p = resize_nearest(p, size, [truth.height, truth.width]);
        // reached[k]: the pixels that reach k thresholds, those of the background and those of the foreground.
        let mut reached = vec![[0_u64; 2]; self.thresholds.len() + 1];
        for (&p, &y) in p.iter().zip(&truth.data) {
            if !matches!(y, IGNORE | NO_CLASS) {
                let p = f64::from(p);
                let k = self.thresholds.partition_point(|&t| p >= t);
                reached[k][usize::from(y == 1)] += 1;
            }
        }
        let [mut tn, mut fn_] = [0, 0];
        let [all_n, all_p] = reached
            .iter()
            .fold([0, 0], |[n, p], [more_n, more_p]| [n + more_n, p + more_p]);
        Ok(reached[..self.thresholds.len()]
            .iter()
            .map(|[below_n, below_p]| {
                tn += below_n;
                fn_ += below_p;
                Confusion {
                    tp: all_p - fn_,
                    fp: all_n - tn,
                    fn_,
                    tn,
                }
            })
            .collect())
    }

    /// The same with the image's name and each threshold beside its counts.
    ///
    /// # Errors
    ///
    /// As [`counts`](Self::counts).
    pub fn image(
        &self,
        id: &str,
        p: &[f32],
        size: [usize; 2],
        truth: &Labels,
    ) -> Result<ImageThresholds> {
        let counts = self.counts(p, size, truth)?;
        Ok(ImageThresholds {
            id: id.into(),
            counts: self.thresholds.iter().copied().zip(counts).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::classes,
        resample::resize_labels,
        rng::{Purpose, stream},
    };
    use rand::Rng as _;

    #[test]
    fn every_threshold_counts_what_its_own_grown_mask_does() {
        let mut rng = stream(0, Purpose::Order, 0, 0);
        let mut side = |least: usize| least + rng.random_range(0..12_u32) as usize;
        let sizes: Vec<[[usize; 2]; 2]> = (0..60)
            .map(|_| [[side(1), side(1)], [side(1), side(1)]])
            .collect();
        for (case, [small, own]) in sizes.into_iter().enumerate() {
            // Twentieths, so that many pixels lie on a threshold; as f32 some are above it, some below.
            let plane: Vec<f32> = (0..small[0] * small[1])
                .map(|_| rng.random_range(0..=20_u8).into())
                .map(|twentieths: f32| twentieths / 20.0)
                .collect();
            let truth = Labels {
                height: own[0],
                width: own[1],
                data: (0..own[0] * own[1])
                    .map(|_| [0, 1, 0, 1, IGNORE, NO_CLASS][rng.random_range(0..6_usize)])
                    .collect(),
            };
            let sweep = match case % 3 {
                0 => ThresholdSweep::even(20),
                1 => ThresholdSweep::even(1000),
                _ => ThresholdSweep::new(vec![0.0, 0.1, 0.5, 1.0]).unwrap(),
            };
            let both: Vec<f32> = plane.iter().map(|p| 1.0 - p).chain(plane.clone()).collect();
            let found = sweep.image("a", &plane, small, &truth).unwrap();
            assert_eq!(found.counts.len(), sweep.thresholds().len());
            for (t, counts) in found.counts {
                let mask = Labels {
                    height: small[0],
                    width: small[1],
                    data: classes(&both, 2, Some(t)),
                };
                let mask = resize_labels(&mask, own);
                let expected = Confusion::of_labels(&mask.data, &truth.data, 1).unwrap();
                assert_eq!(counts, expected, "case {case} at {t}");
            }
        }
    }

    #[test]
    fn thresholds_that_do_not_ascend_are_refused() {
        let refused = |t: &[f64]| ThresholdSweep::new(t.to_vec()).unwrap_err().to_string();
        assert_eq!(
            refused(&[0.5, 0.5]),
            "thresholds must ascend, got 0.5 before 0.5; sort them and name each once"
        );
        assert_eq!(
            refused(&[0.5, 1.5]),
            "a threshold is a number from 0 to 1, got 1.5"
        );
        let truth = Labels {
            height: 1,
            width: 1,
            data: vec![1],
        };
        assert_eq!(
            ThresholdSweep::even(2)
                .counts(&[0.5; 3], [2, 2], &truth)
                .unwrap_err()
                .to_string(),
            "3 probabilities do not make 2 rows of 2; pass one a pixel"
        );
    }
}
