//! The figures of a method, image by image, whatever its seeds.

use std::collections::{BTreeMap, BTreeSet};

use super::methods::{Candidate, ImageKey, Method};
use crate::{
    evaluate::Evaluated,
    metrics::{CalibrationSummary, ImageRow, calibration::Reliability},
    report::plot,
};

/// A run with what it was found to be worth.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The run.
    pub candidate: Candidate,
    /// Its figures.
    pub evaluated: Evaluated,
    /// Its calibration over all images.
    pub summary: CalibrationSummary,
    /// Seconds that the probabilities of one image take.
    pub seconds_an_image: f64,
}

/// An image under one seed.
type Place = (ImageKey, u64);

/// Reads a figure of the image at a place.
type Read<'a> = &'a dyn Fn(&Evaluated, usize) -> Option<f64>;

fn all(runs: &[Compared], method: &Method, read: Read<'_>) -> BTreeMap<Place, f64> {
    let mut all = BTreeMap::new();
    for run in method.runs.iter().map(|&run| &runs[run]) {
        for (place, row) in run.evaluated.rows.iter().enumerate() {
            if let Some(value) = read(&run.evaluated, place) {
                let key = run.candidate.key(&row.id);
                all.insert((key, run.candidate.experiment.seed), value);
            }
        }
    }
    all
}

/// The mean of each image's values: the image is what varies, not the pair of image and network.
fn by_image(values: &BTreeMap<Place, f64>) -> BTreeMap<&ImageKey, f64> {
    let mut images: BTreeMap<&ImageKey, Vec<f64>> = BTreeMap::new();
    for ((image, _), value) in values {
        images.entry(image).or_default().push(*value);
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    images
        .into_iter()
        .map(|(image, values)| (image, mean(values)))
        .collect()
}

/// A figure of every image that has it, one value an image.
pub fn values(runs: &[Compared], method: &Method, read: Read<'_>) -> Vec<f64> {
    by_image(&all(runs, method, read)).into_values().collect()
}

/// A column of the table of images, one value an image.
pub fn column(runs: &[Compared], method: &Method, read: fn(&ImageRow) -> Option<f64>) -> Vec<f64> {
    values(runs, method, &|evaluated, place| {
        read(&evaluated.rows[place])
    })
}

/// A column of two methods for the same images, in one order. Where both have the same seeds, an image counts under those
/// alone under which both have a value.
pub fn pairs(
    runs: &[Compared],
    [one, other]: [&Method; 2],
    read: fn(&ImageRow) -> Option<f64>,
) -> (Vec<f64>, Vec<f64>) {
    let of = |method| {
        all(runs, method, &|evaluated, place| {
            read(&evaluated.rows[place])
        })
    };
    paired(of(one), of(other), seeds(runs, one) == seeds(runs, other))
}

fn paired(
    mut x: BTreeMap<Place, f64>,
    mut y: BTreeMap<Place, f64>,
    same_seeds: bool,
) -> (Vec<f64>, Vec<f64>) {
    if same_seeds {
        x.retain(|place, _| y.contains_key(place));
        y.retain(|place, _| x.contains_key(place));
    }
    let (x, y) = (by_image(&x), by_image(&y));
    let shared = x.iter().filter_map(|(image, x)| Some((*x, *y.get(image)?)));
    shared.unzip()
}

/// The seeds of a method.
pub fn seeds(runs: &[Compared], method: &Method) -> BTreeSet<u64> {
    let seed = |&run: &usize| runs[run].candidate.experiment.seed;
    method.runs.iter().map(seed).collect()
}

/// A view of all runs of a method as one lot; the intervals of one run, and none of several: their images are the same.
pub fn pooled(runs: &[Compared], method: &Method, view: &str) -> Vec<plot::Bin> {
    let views: Vec<&[Reliability]> = method
        .runs
        .iter()
        .filter_map(|&run| Some(&runs[run].summary.view(view)?.reliability[..]))
        .collect();
    pool(&views)
}

fn pool(views: &[&[Reliability]]) -> Vec<plot::Bin> {
    let bins = views.first().map_or(0, |bins| bins.len());
    let bin = |place: usize| {
        let bins: Vec<&Reliability> = views.iter().filter_map(|bins| bins.get(place)).collect();
        let count: u64 = bins.iter().map(|bin| bin.pixels).sum();
        let mean = |of: fn(&Reliability) -> Option<f64>| {
            let sum = bins
                .iter()
                .map(|bin| of(bin).unwrap_or(0.0) * bin.pixels as f64);
            sum.sum::<f64>() / count as f64
        };
        (count > 0).then(|| plot::Bin {
            confidence: mean(|bin| bin.confidence),
            observed: mean(|bin| bin.accuracy),
            interval: match &bins[..] {
                [one] => one.interval,
                _ => None,
            },
            count,
        })
    };
    (0..bins).filter_map(bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by image and seed.
    fn map(values: &[(&str, u64, f64)]) -> BTreeMap<Place, f64> {
        values
            .iter()
            .map(|&(image, seed, value)| (((0, image.into()), seed), value))
            .collect()
    }

    #[test]
    fn an_image_counts_once_with_the_mean_over_its_seeds() {
        let x = map(&[("a", 0, 0.25), ("a", 1, 0.75), ("b", 0, 1.0)]);
        let means: Vec<f64> = by_image(&x).into_values().collect();
        assert_eq!(means, [0.5, 1.0]);
    }

    #[test]
    fn a_value_that_one_method_lacks_under_a_seed_leaves_the_pair() {
        let x = map(&[("a", 0, 0.25), ("a", 1, 9.0), ("b", 0, 1.0)]);
        let y = map(&[("a", 0, 0.5), ("b", 0, 2.0), ("b", 1, 8.0), ("c", 0, 7.0)]);
        assert_eq!(
            paired(x.clone(), y.clone(), true),
            (vec![0.25, 1.0], vec![0.5, 2.0])
        );
        // With other seeds the image alone is what they share.
        assert_eq!(paired(x, y, false), (vec![4.625, 1.0], vec![0.5, 5.0]));
    }

    #[test]
    fn bins_of_several_runs_are_pooled_by_their_pixels() {
        let bin = |pixels, mean: f64, share: f64| Reliability {
            low: 0.0,
            high: 1.0,
            pixels,
            images: 2,
            confidence: (pixels > 0).then_some(mean),
            accuracy: (pixels > 0).then_some(share),
            interval: Some([0.0, 1.0]),
        };
        let empty = bin(0, 0.0, 0.0);
        let (one, other) = ([bin(1, 0.25, 0.0), empty], [bin(3, 0.75, 1.0), empty]);
        let [pooled] = pool(&[&one[..], &other[..]])[..] else {
            panic!("an empty bin is left out")
        };
        assert_eq!(
            (pooled.count, pooled.confidence, pooled.observed),
            (4, 0.625, 0.75)
        );
        assert_eq!(pooled.interval, None);
        assert_eq!(pool(&[&one[..]])[0].interval, Some([0.0, 1.0]));
        assert!(pool(&[]).is_empty());
    }
}
