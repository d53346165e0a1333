//! Several losses side by side: every metric of each, and how likely the difference is chance.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::table::{align, number};
use crate::{
    evaluate::{Evaluated, Report},
    metrics::{ImageRow, Line},
    stats::{Alternative, rank_sum},
};

/// What a column of [`ImageRow`] is called in tables.
///
/// The names say what a number is: an NLL of the foreground alone is not the NLL.
pub fn title(column: &str) -> &str {
    match column {
        "dice" => "Dice",
        "jaccard" => "Jaccard",
        "nll" => "NLL (proper)",
        "nll_foreground" => "NLL (paper: foreground only)",
        "brier" => "Brier",
        "ece" => "ECE",
        "excess_nll" => "excess NLL over the truth",
        other => other,
    }
}

fn better(column: &str) -> String {
    if ImageRow::more_is_better(column) {
        "higher"
    } else {
        "lower"
    }
    .into()
}

/// A p-value to three digits; what is smaller is only said to be.
fn probability(p: f64) -> String {
    if p < 0.001 {
        "<0.001".into()
    } else {
        format!("{p:.3}")
    }
}

fn interval(ends: Option<[f64; 2]>) -> String {
    ends.map_or_else(
        || "-".into(),
        |[low, high]| format!("{} to {}", number(low), number(high)),
    )
}

/// The lines that tables show.
fn shown(report: &Report) -> impl Iterator<Item = &Line> {
    let names = ImageRow::COLUMNS.iter();
    names.filter_map(|(name, _)| report.summary.line(name))
}

/// The table at the end of a run.
pub fn one(report: &Report) -> String {
    let mut rows = vec![
        ["metric", "better", "mean", "95 % interval", "images"]
            .map(String::from)
            .to_vec(),
    ];
    for line in shown(report) {
        let Some(mean) = line.mean else { continue };
        rows.push(vec![
            title(line.metric).into(),
            better(line.metric),
            number(mean),
            interval(line.interval.as_ref().map(|interval| interval.t)),
            line.images.to_string(),
        ]);
    }
    let pooled = |name: &str, value: Option<f64>| {
        value.map(|value| {
            vec![
                name.into(),
                "lower".into(),
                number(value),
                "-".into(),
                "pooled".into(),
            ]
        })
    };
    rows.extend(pooled(
        "ECE (all pixels as one lot)",
        report.summary.pooled.ece,
    ));
    let mut text = align(&rows);
    if let Some(truth) = report.truth {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "The true probabilities themselves have a Dice of {} and an NLL of {} nats, which no model's expected NLL is \
             below;\nthe images' noise leaves the best estimator an excess NLL of at most {}.",
            number(truth.dice),
            number(truth.entropy),
            number(truth.noise_floor)
        );
    }
    text
}

/// A difference between two losses over the test images.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The metric.
    pub metric: &'static str,
    /// The first loss.
    pub base: String,
    /// The other one.
    pub other: String,
    /// Probability of ranks at least as far apart if both losses did equally well: two-sided Wilcoxon rank-sum test, as
    /// in the paper.
    pub p: f64,
}

/// What `comparison.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The folders of the runs, in the order the losses were named.
    pub runs: Vec<String>,
    /// Their reports.
    pub reports: Vec<Report>,
    /// Each loss against the first.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Compares runs, named by their folders, with the first.
    ///
    /// # Errors
    ///
    /// When a metric is not a number for some image.
    pub fn of(runs: &[(String, Evaluated)]) -> Result<Self> {
        let mut differences = Vec::new();
        let Some(((base, first), others)) = runs.split_first() else {
            return Ok(Self {
                runs: Vec::new(),
                reports: Vec::new(),
                differences,
            });
        };
        for (metric, read) in ImageRow::COLUMNS {
            let values = |rows: &[ImageRow]| rows.iter().filter_map(read).collect::<Vec<f64>>();
            let base_values = values(&first.rows);
            for (other, evaluated) in others {
                let other_values = values(&evaluated.rows);
                if base_values.is_empty() || other_values.is_empty() {
                    continue;
                }
                let p = rank_sum(&base_values, &other_values, Alternative::TwoSided)?.p;
                differences.push(Difference {
                    metric,
                    base: base.clone(),
                    other: other.clone(),
                    p,
                });
            }
        }
        Ok(Self {
            runs: runs.iter().map(|(name, _)| name.clone()).collect(),
            reports: runs
                .iter()
                .map(|(_, evaluated)| evaluated.report.clone())
                .collect(),
            differences,
        })
    }

    /// The rows of the table: a metric each, with mean and interval a loss, and a p-value for each loss but the first.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut header = vec!["metric".to_owned(), "better".to_owned()];
        for (number, run) in self.runs.iter().enumerate() {
            header.push(run.clone());
            header.push("95 % interval".into());
            if number > 0 {
                header.push("p".into());
            }
        }
        let mut rows = vec![header];
        for (metric, _) in ImageRow::COLUMNS {
            let lines: Vec<_> = self
                .reports
                .iter()
                .filter_map(|report| report.summary.line(metric))
                .collect();
            if lines.iter().all(|line| line.mean.is_none()) {
                continue;
            }
            let mut row = vec![title(metric).to_owned(), better(metric)];
            for (line, run) in lines.iter().zip(&self.runs) {
                row.push(number(line.mean.unwrap_or(f64::NAN)));
                row.push(interval(line.interval.as_ref().map(|interval| interval.t)));
                if run != &self.runs[0] {
                    let p = self
                        .differences
                        .iter()
                        .find(|d| d.metric == metric && &d.other == run);
                    row.push(p.map_or_else(|| "-".into(), |difference| probability(difference.p)));
                }
            }
            rows.push(row);
        }
        let mut row = vec!["ECE (all pixels as one lot)".to_owned(), "lower".to_owned()];
        for (place, report) in self.reports.iter().enumerate() {
            row.push(number(report.summary.pooled.ece.unwrap_or(f64::NAN)));
            row.extend(std::iter::repeat_n(
                "-".to_owned(),
                if place == 0 { 1 } else { 2 },
            ));
        }
        rows.push(row);
        rows
    }

    /// What the numbers are of, for under the table.
    fn note(&self) -> String {
        let Some(report) = self.reports.first() else {
            return String::new();
        };
        format!(
            "{}, seed {}, {} test images; p: two-sided rank-sum test over the images against {}.\n",
            report.data,
            report.seed,
            report
                .summary
                .lines
                .iter()
                .map(|line| line.images + line.skipped)
                .max()
                .unwrap_or(0),
            self.runs[0]
        )
    }

    /// As plain text.
    pub fn text(&self) -> String {
        align(&self.rows()) + &self.note()
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (number, row) in self.rows().iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|---|---|{}", "---:|".repeat(row.len() - 2));
            }
        }
        text + "\n" + &self.note()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::Truth,
        metrics::{Evaluation, MetricsConfig, Pixels},
        raster::Labels,
    };

    /// Three images of two pixels, the first foreground, whose p is given.
    fn evaluated(loss: &str, p: [f32; 3]) -> Evaluated {
        let mut evaluation = Evaluation::new(MetricsConfig::default());
        for p in p {
            let pixels = [1.0 - p, 0.75, p, 0.25];
            let pixels = Pixels::new(&pixels, 2, &[1, 0]).unwrap();
            let labels = |data: [u8; 2]| Labels {
                height: 1,
                width: 2,
                data: data.into(),
            };
            let (mask, truth) = (labels([u8::from(p > 0.5), 0]), labels([1, 0]));
            let q = [0.75, 0.25];
            evaluation
                .add("image", [&mask, &truth], &pixels, [1, 2], Some(&q))
                .unwrap();
        }
        let report = Report {
            loss: loss.into(),
            data: "phantom".into(),
            seed: 0,
            size: [1, 2],
            threshold: None,
            epochs: 3,
            best_epoch: 2,
            training_seconds: 1.0,
            summary: evaluation.summary(),
            truth: Some(Truth {
                entropy: 0.562_335,
                dice: 0.9,
                noise_floor: 0.0005,
            }),
        };
        Evaluated {
            report,
            rows: evaluation.rows().to_vec(),
            thresholds: Vec::new(),
            reliability: Vec::new(),
            shown: Vec::new(),
            examples: Vec::new(),
        }
    }

    #[test]
    fn the_table_of_a_run_says_what_is_better_and_how_sure_it_is() {
        assert_eq!(
            one(&evaluated("ce", [0.75, 0.75, 0.75]).report),
            "\
metric                        better    mean     95 % interval  images
Dice                          higher  1.0000  1.0000 to 1.0000       3
Jaccard                       higher  1.0000  1.0000 to 1.0000       3
precision                     higher  1.0000  1.0000 to 1.0000       3
recall                        higher  1.0000  1.0000 to 1.0000       3
NLL (proper)                   lower  0.2877  0.2877 to 0.2877       3
NLL (paper: foreground only)   lower  0.1438  0.1438 to 0.1438       3
Brier                          lower  0.0625  0.0625 to 0.0625       3
ECE                            lower  0.2500  0.2500 to 0.2500       3
excess NLL over the truth      lower  0.0000  0.0000 to 0.0000       3
ECE (all pixels as one lot)    lower  0.2500                 -  pooled
The true probabilities themselves have a Dice of 0.9000 and an NLL of 0.5623 nats, which no model's expected NLL is below;
the images' noise leaves the best estimator an excess NLL of at most 5.00e-4.
"
        );
    }

    #[test]
    fn a_comparison_sets_every_loss_against_the_first() {
        let runs = [("ce", [0.25, 0.75, 0.75]), ("dice++", [0.75, 0.8, 0.9])]
            .map(|(name, p)| (name.to_owned(), evaluated(name, p)));
        let comparison = Comparison::of(&runs).unwrap();
        let text = comparison.text();
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap(),
            "metric                        better      ce      95 % interval  dice++      95 % interval      p"
        );
        let dice = lines.next().unwrap();
        assert!(
            dice.starts_with("Dice                          higher  0.6667"),
            "{dice}"
        );
        assert_eq!(
            text.lines().last().unwrap(),
            "phantom, seed 0, 3 test images; p: two-sided rank-sum test over the images against ce."
        );
        let markdown = comparison.markdown();
        assert!(markdown.starts_with("| metric | better | ce | 95 % interval | dice++ | 95 % interval | p |\n|---|---|---:|---:|---:|---:|---:|\n| Dice | higher | 0.6667 |"), "{markdown}");
    }

    #[test]
    fn tiny_p_values_are_bounded_rather_than_rounded_to_zero() {
        assert_eq!(
            (probability(0.000_4), probability(0.35)),
            ("<0.001".into(), "0.350".into())
        );
    }
}
