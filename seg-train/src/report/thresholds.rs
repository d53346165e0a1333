//! Recall, precision and Dice by softmax threshold (paper, Eq. 10 and Figure 4), as every page draws them.

use super::plot::{Axis, Lines, Point, Series, lines};
use crate::{
    metrics::{Confusion, EmptyMask, ImageThresholds},
    stats::mean_and_interval,
};

/// A ratio of counts, and what it is called.
pub type Ratio = (&'static str, fn(&Confusion, EmptyMask) -> Option<f64>);

/// What the paper's Figure 4 plots.
pub const RATIOS: [Ratio; 3] = [
    ("Recall", Confusion::recall),
    ("Precision", Confusion::precision),
    ("Dice", Confusion::dice),
];

/// A point of a curve: the mean over images at a threshold, its 95 % interval cut off at 0 and 1.
///
/// ```
/// use seg_train::report::thresholds::point;
/// let point = point(0.5, &[0.75, 1.0]);
/// assert_eq!((point.x, point.y), (0.5, 0.875));
/// assert_eq!(point.interval.unwrap()[1], 1.0);
/// ```
pub fn point(threshold: f64, values: &[f64]) -> Point {
    let (mean, interval) = mean_and_interval(values);
    Point {
        x: threshold,
        y: mean,
        interval: interval.map(|ends| ends.map(|end| end.clamp(0.0, 1.0))),
    }
}

/// The curve of a ratio over images that were all counted at the same thresholds.
pub fn curve(images: &[ImageThresholds], ratio: Ratio, empty: EmptyMask) -> Vec<Point> {
    let marks = images.first().map_or(&[][..], |image| &image.counts);
    marks
        .iter()
        .enumerate()
        .map(|(mark, (threshold, _))| {
            let counts = images.iter().filter_map(|image| image.counts.get(mark));
            let values = counts.filter_map(|(_, counts)| ratio.1(counts, empty));
            point(*threshold, &values.collect::<Vec<f64>>())
        })
        .collect()
}

/// Draws the curves of one ratio, a series a network.
pub fn plot(id: String, ratio: &str, series: Vec<Series>) -> String {
    lines(&Lines {
        id,
        title: ratio.into(),
        x: Axis::new("softmax threshold T", [0.0, 1.0]),
        y: Axis::new(format!("{ratio}, mean over the test images"), [0.0, 1.0]),
        series,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_the_mean_over_the_images_that_have_the_ratio() {
        let image = |tp, fp| ImageThresholds {
            id: "a".into(),
            counts: [0.25, 0.5]
                .map(|t| {
                    (
                        t,
                        Confusion {
                            tp,
                            fp,
                            fn_: 1,
                            tn: 4,
                        },
                    )
                })
                .into(),
        };
        let images = [image(1, 1), image(0, 0), image(3, 0)];
        let precision = curve(&images, RATIOS[1], EmptyMask::Skip);
        assert_eq!(precision.len(), 2);
        assert_eq!((precision[0].x, precision[0].y), (0.25, 0.75));
        assert!(curve(&[], RATIOS[0], EmptyMask::Skip).is_empty());
    }
}
