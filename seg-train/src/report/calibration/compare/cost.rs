//! What an image costs a trained network.

use std::time::Instant;

use anyhow::Result;

use crate::{batches::Images, config::Experiment, data::Dataset, inference::Inference};

/// Images that are timed.
const TIMED: usize = 9;

/// Seconds that the probabilities of one image take: the median over up to nine test images after one that is not counted,
/// reading and preparing them aside.
///
/// # Errors
///
/// When an image cannot be read; a data set without test images gives NaN.
pub fn seconds_an_image(net: &Inference, experiment: &Experiment, data: &Dataset) -> Result<f64> {
    let images = Images::new(data, &experiment.preprocess);
    let mut seconds = Vec::new();
    // The first one pays for what is made once.
    let test = &data.split.test;
    for &index in test.iter().take(1).chain(test.iter().take(TIMED)) {
        let image = images.get(index)?.image;
        let began = Instant::now();
        net.predict(&image)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(median(seconds.get(1..).unwrap_or_default()))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_image_does_not_move_the_median() {
        assert_eq!(median(&[3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
