//! Label smoothing: soft targets instead of hard ones, in training alone.
//!
//! A network that is told to be certain everywhere becomes so, right or wrong. Szegedy et al. 2016 tell it
//! `(1 − ε) y + ε / C` of C classes instead; Müller et al. 2019 found that classifiers are then better calibrated. The
//! validation loss stays that of the hard labels, so that runs of different ε are compared by the same measure.

use anyhow::Result;
use dice_losses::Target;

use crate::{
    batches::{Batch, one_hot},
    raster::NO_CLASS,
};

/// A batch whose target is smoothed by ε, `[0, 1)`: the true class of `classes` becomes `1 − ε + ε / C` and each other
/// `ε / C`. ε = 0 gives the batch back as it was.
///
/// A pixel that is ignored stays so, and one of no class keeps zeros for every class: there is nothing to smooth.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dice_losses::{Loss, Prediction, zoo};
/// use seg_train::{batches::Batch, preprocess::Prepared, raster::{Image, Labels}, smoothing::smooth};
/// let image = Image { channels: 1, height: 1, width: 2, data: vec![0.0; 2] };
/// let labels = Labels { height: 1, width: 2, data: vec![0, 1] };
/// let prepared = Prepared { id: "a".into(), image, labels, truth: None };
/// let batch = smooth(Batch::gather(&[prepared], 2, &Device::Cpu)?, 0.5, 2)?;
/// let logits = Tensor::new(&[[[[2_f32, 0.0]], [[0.0, 2.0]]]], &Device::Cpu)?; // 2 for the true class, 0 for the other
/// let loss = zoo::cross_entropy().loss(&Prediction::logits(&logits), &batch.target)?.to_scalar::<f32>()?;
/// let [right, wrong] = [(1.0 + (-2_f32).exp()).ln(), (1.0 + 2_f32.exp()).ln()]; // −ln p of each
/// assert!((loss - (0.75 * right + 0.25 * wrong)).abs() < 1e-6);
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
///
/// When the device has no room.
pub fn smooth(mut batch: Batch, epsilon: f64, classes: usize) -> Result<Batch> {
    if epsilon == 0.0 {
        return Ok(batch);
    }
    batch.target = if batch.labels.contains(&NO_CLASS) {
        let (n, _, height, width) = batch.images.dims4()?;
        let off = epsilon / classes as f64;
        let values = [off as f32, (1.0 - epsilon + off) as f32];
        one_hot(
            &batch.labels,
            (n, height, width),
            classes,
            values,
            batch.images.device(),
        )?
    } else {
        Target::smoothing(batch.target, epsilon)
    };
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use dice_losses::{Loss, LossSpec, Prediction};

    use super::*;
    use crate::{
        preprocess::Prepared,
        raster::{IGNORE, Image, Labels},
    };

    fn batch(labels: &[u8]) -> Batch {
        let size = |data: Vec<f32>| Image {
            channels: 1,
            height: 1,
            width: data.len(),
            data,
        };
        let prepared = Prepared {
            id: "a".into(),
            image: size(vec![0.0; labels.len()]),
            labels: Labels {
                height: 1,
                width: labels.len(),
                data: labels.to_vec(),
            },
            truth: None,
        };
        Batch::gather(&[prepared], 3, &Device::Cpu).unwrap()
    }

    /// Logits of three classes and `pixels` pixels, no two alike.
    fn logits(pixels: usize) -> Tensor {
        let values: Vec<f64> = (0..3 * pixels).map(|i| (i as f64 * 1.7).sin()).collect();
        Tensor::from_vec(values, (1, 3, 1, pixels), &Device::Cpu).unwrap()
    }

    fn value_and_grad(loss: &str, logits: &Tensor, target: &Target) -> (f64, Vec<f64>) {
        let loss = loss.parse::<LossSpec>().unwrap().build();
        let (value, gradient) = loss
            .value_and_grad(&Prediction::logits(logits), target)
            .unwrap();
        let gradient = gradient.flatten_all().unwrap().to_vec1().unwrap();
        (value.to_scalar().unwrap(), gradient)
    }

    const LOSSES: [&str; 5] = ["ce", "dice", "dice++", "focal", "unified-focal++"];

    #[test]
    fn every_loss_sees_one_minus_epsilon_of_the_label_and_an_even_share_of_the_rest() {
        let labels = [0, 1, 2, 1, 0, 0];
        let epsilon = 0.3;
        let soft: Vec<f64> = (0..3_u8)
            .flat_map(|class| labels.map(|l| f64::from(u8::from(l == class)) * 0.7 + 0.1))
            .collect();
        let soft = Tensor::from_vec(soft, (1, 3, 1, 6), &Device::Cpu).unwrap();
        let smoothed = smooth(batch(&labels), epsilon, 3).unwrap();
        for loss in LOSSES {
            let logits = logits(6);
            let (found, of_found) = value_and_grad(loss, &logits, &smoothed.target);
            let (expected, of_expected) = value_and_grad(loss, &logits, &Target::dense(&soft));
            assert!(
                (found - expected).abs() < 1e-12,
                "{loss}: {found} {expected}"
            );
            for (a, b) in of_found.iter().zip(&of_expected) {
                assert!((a - b).abs() < 1e-12, "{loss}: {a} {b}");
            }
            let (hard, _) = value_and_grad(loss, &logits, &batch(&labels).target);
            assert_ne!(found, hard, "{loss}");
        }
    }

    #[test]
    fn an_ignored_pixel_stays_nothing_and_one_of_no_class_keeps_its_zeros() {
        for loss in LOSSES {
            // The ignored pixel comes last, so that leaving it out leaves the others in their places.
            let wide = logits(4);
            let narrow = wide.narrow(3, 0, 3).unwrap().contiguous().unwrap();
            let ignored = smooth(batch(&[0, 1, 2, IGNORE]), 0.2, 3).unwrap();
            let without = smooth(batch(&[0, 1, 2]), 0.2, 3).unwrap();
            let (with, gradient) = value_and_grad(loss, &wide, &ignored.target);
            let (without, _) = value_and_grad(loss, &narrow, &without.target);
            assert!((with - without).abs() < 1e-12, "{loss}");
            assert_eq!([gradient[3], gradient[7], gradient[11]], [0.0; 3], "{loss}");

            let both = smooth(batch(&[0, 1, NO_CLASS, IGNORE]), 0.3, 3).unwrap();
            let values: [f32; 12] = [
                0.8, 0.1, 0.0, 0.0, // background
                0.1, 0.8, 0.0, 0.0, // 1
                0.1, 0.1, 0.0, 0.0, // 2
            ];
            let values = Tensor::from_slice(&values, (1, 3, 1, 4), &Device::Cpu).unwrap();
            let counts = Tensor::new(&[[[1_u8, 1, 1, 0]]], &Device::Cpu).unwrap();
            let expected = Target::dense(&values).mask(&counts);
            let (found, _) = value_and_grad(loss, &wide, &both.target);
            let (expected, _) = value_and_grad(loss, &wide, &expected);
            // ε is rounded to f32 in a dense target.
            assert!(
                (found - expected).abs() < 1e-6,
                "{loss}: {found} {expected}"
            );
        }
    }

    #[test]
    fn without_smoothing_the_batch_is_the_same() {
        let logits = logits(3);
        for labels in [[0, 1, 2], [0, NO_CLASS, IGNORE]] {
            let plain = value_and_grad("dice++", &logits, &batch(&labels).target);
            let smoothed = smooth(batch(&labels), 0.0, 3).unwrap();
            assert_eq!(value_and_grad("dice++", &logits, &smoothed.target), plain);
        }
    }
}
