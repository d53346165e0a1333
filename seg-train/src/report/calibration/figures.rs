//! The tables of a page, and what each figure in them says.

use super::findings::{Finding, bin_deviation, nearest_bin};
use crate::{
    evaluate::Truth,
    metrics::{
        ImageRow,
        calibration::{CalibrationSummary, Decomposition, Errors, View},
    },
    report::document::{Cell, Column, Kind, Row, Table, fixed, rounded},
    stats::mean_and_interval,
    study::claim::Verdict,
};

/// What each figure says, and where it comes from.
pub const MEANINGS: [&str; 12] = [
    "NLL: the mean of −log p of the true class, in nats a pixel; 0 for a network that is sure and right, 0.69 for a coin. A proper score: its expectation is lowest for the true probabilities (Good 1952).",
    "Brier score: the mean of (y − p)² over pixels and classes, y being 1 where the class is; proper too (Brier 1950). Reliability is what miscalibration costs of it, resolution what telling pixels apart gains, uncertainty what the classes' shares alone leave: score = reliability − resolution + uncertainty (Murphy 1973), plus what happens within the bins, variance − covariance (Stephenson et al. 2008).",
    "ECE, expected calibration error: the mean over pixels of |share that is right − mean probability| of the pixel's bin (Guo et al. 2017). Mostly of sure background, where most pixels are.",
    "ACE, average calibration error: the mean of the same over the bins that hold pixels, so that rare probabilities count as much as frequent ones (Nixon et al. 2019).",
    "MCE, maximum calibration error: the worst bin's (Guo et al. 2017). A bin with few pixels makes it large by chance.",
    "Equal width: bins from 0 to 1 of one width. Equal mass: bins that hold as many pixels each.",
    "Foreground: how probable each foreground class is, against whether it is there. Top label: how probable the most probable class is, against whether it is the true one. Boundary: as foreground, near the truth's boundary alone.",
    "Expected volume: the sum of all p of the foreground, against its true pixels; bias is (expected − true) / true (Popordanoska et al. 2021).",
    "Excess NLL: what the NLL exceeds that of the true probabilities by, Kullback and Leibler's divergence, where they are known.",
    "HD95: the 95th percentile of the distances from one surface to the other, the larger of both directions (Huttenlocher et al. 1993).",
    "ASSD: the mean of the distances between both surfaces.",
    "NSD, normalised surface Dice: the share of both surfaces that lies within the tolerance of the other (Nikolov et al. 2018).",
];

/// What was found: a row a claim.
pub fn findings(findings: &[Finding]) -> Table {
    let row = |finding: &Finding| {
        let kind = match finding.verdict {
            Verdict::Holds => Kind::Holds,
            Verdict::Fails => Kind::Fails,
            Verdict::Undecided => Kind::Undecided,
        };
        Row::of([
            Cell::new(&finding.claim),
            Cell::default().kind(kind),
            Cell::new(finding.deviation.map_or_else(
                || "–".into(),
                |deviation| rounded(deviation.mean, deviation.interval),
            )),
            Cell::new(if finding.margin > 0.0 {
                format!("±{}", finding.margin)
            } else {
                "below 0".into()
            }),
        ])
    };
    Table {
        name: "findings".into(),
        title: "What may be relied on".into(),
        columns: vec![
            Column::left("Claim"),
            Column::left("Here"),
            Column::stacked("Deviation (95 %)"),
            Column::right("Margin"),
        ],
        rows: findings.iter().map(row).collect(),
        notes: vec![
            "Holds: the whole interval of the deviation lies within the margin. Fails: it leaves out zero, and the deviation is at least the margin. All else is undecided. The margins are ours.".into(),
        ],
    }
}

/// What is said with some probabilities, and how often it is so.
pub fn promises(foreground: &View) -> Table {
    let mut seen = Vec::new();
    let mut rows = Vec::new();
    for p in [0.1, 0.2, 0.5, 0.8, 0.9] {
        let Some(bin) = nearest_bin(foreground, p) else {
            continue;
        };
        let Some((deviation, confidence)) = bin_deviation(bin).zip(bin.confidence) else {
            continue;
        };
        if seen.contains(&bin.low.to_bits()) {
            continue;
        }
        seen.push(bin.low.to_bits());
        rows.push(Row::of([
            Cell::new(format!("about {} %", fixed(100.0 * confidence, 0))),
            Cell::new(rounded(
                100.0 * bin.accuracy.unwrap_or(f64::NAN),
                bin.interval.map(|ends| ends.map(|end| 100.0 * end)),
            )),
            Cell::new(rounded(deviation.mean, deviation.interval)),
            Cell::new(bin.pixels.to_string()),
            Cell::new(bin.images.to_string()),
        ]));
    }
    Table {
        name: "promises".into(),
        title: "What is said, and how often it is so".into(),
        columns: vec![
            Column::left("Said of a pixel"),
            Column::stacked("Is foreground [%] (95 %)"),
            Column::stacked("Too little (+), too much (−)"),
            Column::right("Pixels"),
            Column::right("Images"),
        ],
        rows,
        notes: vec![
            "The bins nearest 10, 20, 50, 80 and 90 %. Intervals are between images, since the pixels of one are right or wrong together.".into(),
        ],
    }
}

fn shown(value: Option<f64>) -> Cell {
    Cell::new(value.map_or_else(|| "–".into(), |value| rounded(value, None)))
}

/// A line of the table of scores: its title, the figure over all pixels, the column of the table of images, and whether a
/// group begins.
type Line = (&'static str, Option<f64>, &'static str, bool);

/// The scores: over all pixels as one lot, and the mean over the images.
pub fn scores(summary: &CalibrationSummary, rows: &[ImageRow], truth: Option<&Truth>) -> Table {
    let volume = &summary.volume;
    let mut lines: Vec<Line> = vec![("NLL ↓", summary.nll, "nll", false)];
    lines.extend(brier_lines(summary));
    lines.extend([
        ("Expected volume, bias", volume.bias, "volume_bias", true),
        (
            "Expected volume, size of the bias ↓",
            volume.mean_absolute,
            "",
            false,
        ),
    ]);
    lines.extend(truth_lines(summary, truth));
    lines.extend([
        ("Dice ↑", None, "dice", true),
        ("HD95 ↓", None, "hd95", false),
        ("ASSD ↓", None, "assd", false),
        ("NSD ↑", None, "nsd", false),
    ]);
    Table {
        name: "scores".into(),
        title: "Scores".into(),
        columns: vec![
            Column::left("Figure"),
            Column::right("All pixels"),
            Column::stacked("Mean over images (95 %)"),
            Column::right("Images"),
        ],
        rows: lines.into_iter().filter_map(|line| score(line, rows)).collect(),
        notes: vec![
            "Scores and calibration are at the network's size, where its probabilities are; overlaps and surfaces at each image's own.".into(),
        ],
    }
}

/// The row of a line; `None` where neither all pixels nor any image has the figure.
fn score((title, pooled, column, group): Line, rows: &[ImageRow]) -> Option<Row> {
    let read = ImageRow::columns().find(|(name, _)| *name == column);
    let values: Vec<f64> = match read {
        Some((_, read)) => rows.iter().filter_map(read).collect(),
        None => Vec::new(),
    };
    if pooled.is_none() && values.is_empty() {
        return None;
    }
    let (mean, interval) = mean_and_interval(&values);
    let count = match values.len() {
        0 => "–".into(),
        images => images.to_string(),
    };
    let mut row = Row::of([
        Cell::new(title),
        shown(pooled),
        Cell::new(rounded(mean, interval)),
        Cell::new(count),
    ]);
    row.group = group;
    Some(row)
}

fn brier_lines(summary: &CalibrationSummary) -> [Line; 6] {
    let part = |of: fn(&Decomposition) -> f64| summary.brier.as_ref().map(of);
    [
        ("Brier score ↓", part(|of| of.score), "brier", true),
        ("– reliability ↓", part(|of| of.reliability), "", false),
        ("– resolution ↑", part(|of| of.resolution), "", false),
        ("– uncertainty", part(|of| of.uncertainty), "", false),
        (
            "– variance within bins",
            part(|of| of.within_variance),
            "",
            false,
        ),
        (
            "– covariance within bins",
            part(|of| of.within_covariance),
            "",
            false,
        ),
    ]
}

/// What a phantom alone has.
fn truth_lines(summary: &CalibrationSummary, truth: Option<&Truth>) -> Vec<Line> {
    let Some(distance) = &summary.truth else {
        return Vec::new();
    };
    vec![
        (
            "Excess NLL over the true probabilities ↓",
            Some(distance.kl),
            "excess_nll",
            true,
        ),
        (
            "– at most, of the best estimator (noise floor)",
            truth.map(|truth| truth.noise_floor),
            "",
            false,
        ),
        (
            "– NLL of the true probabilities (entropy)",
            truth.map(|truth| truth.entropy),
            "",
            false,
        ),
        (
            "Mean |p − q| from the true probabilities ↓",
            Some(distance.absolute),
            "truth_distance",
            false,
        ),
        (
            "ECE against the true probabilities ↓",
            Some(distance.ece),
            "ece_truth",
            false,
        ),
    ]
}

/// The calibration errors: a row a view, ECE, ACE and MCE by both kinds of bins.
pub fn errors(summary: &CalibrationSummary) -> Table {
    let cells = |errors: &Errors| [errors.ece, errors.ace, errors.mce].map(shown);
    let row = |view: &View| {
        let mut row = vec![Cell::new(&view.name)];
        row.extend(cells(&view.equal_width));
        row.extend(cells(&view.equal_mass));
        row.push(Cell::new(view.pixels.to_string()));
        Row::of(row)
    };
    // One foreground class is all of it.
    let twice = |view: &&View| view.name == "class 1" && summary.view("class 2").is_none();
    let mut columns = vec![Column::left("View")];
    for bins in ["equal width", "equal mass"] {
        columns.extend(["ECE", "ACE", "MCE"].map(|name| Column::right(format!("{name}, {bins}"))));
    }
    columns.push(Column::right("Pixels"));
    Table {
        name: "errors".into(),
        title: "Calibration errors over all pixels".into(),
        columns,
        rows: summary
            .views
            .iter()
            .filter(|view| !twice(view))
            .map(row)
            .collect(),
        notes: vec![
            "All pixels of the test set as one lot: an image's own bins hold few pixels, whose chance deviations all count as error.".into(),
        ],
    }
}
