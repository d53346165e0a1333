//! The diagrams of a page.

use crate::{
    metrics::{
        EmptyMask, ImageThresholds,
        calibration::{CalibrationSummary, Reliability as Bin, View},
    },
    report::{
        page::Block,
        plot::{self, Bins, Reliability, Series, Square, reliability, square},
        thresholds::{self, RATIOS},
    },
};

/// The bins of a view as a series of a diagram.
pub fn series(name: &str, bins: &[Bin]) -> Bins {
    let bins = bins.iter().filter_map(|bin| {
        Some(plot::Bin {
            confidence: bin.confidence?,
            observed: bin.accuracy?,
            interval: bin.interval,
            count: bin.pixels,
        })
    });
    Bins {
        name: name.into(),
        bins: bins.collect(),
    }
}

/// Reliability of one network: its foreground and what lies near the boundary, its top label, and with several foreground
/// classes each of them.
pub fn views(summary: &CalibrationSummary) -> Block {
    let named = |name: &str, shown: &str| {
        let view = summary.view(name)?;
        (view.pixels > 0).then(|| series(shown, &view.reliability))
    };
    let mut plots = vec![reliability(&Reliability {
        id: "reliability-foreground".into(),
        title: "Foreground".into(),
        x_title: "mean predicted probability of the foreground".into(),
        y_title: "share that is foreground".into(),
        series: [
            named("foreground", "all pixels"),
            named("boundary", "near the boundary"),
        ]
        .into_iter()
        .flatten()
        .collect(),
    })];
    let classes: Vec<&View> = summary
        .views
        .iter()
        .filter(|view| view.name.starts_with("class ") && view.pixels > 0)
        .collect();
    if classes.len() > 1 {
        let of_class = |view: &&View| series(&view.name, &view.reliability);
        plots.push(reliability(&Reliability {
            id: "reliability-classes".into(),
            title: "Class by class".into(),
            x_title: "mean predicted probability of the class".into(),
            y_title: "share that is of the class".into(),
            series: classes.iter().map(of_class).collect(),
        }));
    }
    plots.push(reliability(&Reliability {
        id: "reliability-top-label".into(),
        title: "Top label".into(),
        x_title: "mean probability of the most probable class".into(),
        y_title: "share that is of that class".into(),
        series: named("top label", "all pixels").into_iter().collect(),
    }));
    Block::Plots {
        id: "reliability".into(),
        plots,
        caption: "Reliability: of the pixels given about the same probability, the share for which it came true. On the dotted diagonal a network is calibrated. Below it, it promises too much; above it, too little. Bars are 95 % intervals between images; below each diagram, by powers of ten, the pixels of each bin.".into(),
    }
}

/// The data-set reliability histogram (Barfoot et al. 2024): whether images agree, where a diagram of all pixels shows
/// their mean.
pub fn histogram(summary: &CalibrationSummary) -> Block {
    let plot = square(&Square {
        id: "images-histogram".into(),
        title: "Images by accuracy in each bin".into(),
        x_title: "predicted probability of the foreground".into(),
        y_title: "share of an image's pixels that is foreground".into(),
        counts: summary.histogram.clone(),
    });
    Block::Plots {
        id: "histogram".into(),
        plots: vec![plot],
        caption: "The same image by image: in each bin of the predicted probability, how many images had which share of foreground (data-set reliability histogram, Barfoot et al. 2024). Images along the diagonal are each calibrated; spread about it, they are calibrated in the mean at best.".into(),
    }
}

/// Recall, precision and Dice by threshold, a series a network; `None` where nothing was counted.
pub fn curves(networks: &[(String, &[ImageThresholds])], empty: EmptyMask) -> Option<Block> {
    if networks.iter().all(|(_, images)| images.is_empty()) {
        return None;
    }
    let plots = RATIOS.map(|ratio| {
        let series = networks.iter().map(|(name, images)| Series {
            name: name.clone(),
            points: thresholds::curve(images, ratio, empty),
        });
        let id = format!("thresholds-{}", ratio.0.to_lowercase());
        thresholds::plot(id, ratio.0, series.collect())
    });
    Some(Block::Plots {
        id: "thresholds".into(),
        plots: plots.into(),
        caption: "Recall, precision and Dice by softmax threshold: foreground is where p ≥ T. Bars are 95 % intervals of the mean over the test images.".into(),
    })
}
