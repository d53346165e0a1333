//! The page of a comparison, and the numbers behind it.

use anyhow::Result;
use serde::Serialize;

use super::{
    differences::{COMPARED, Comparison, Side, sentences, title},
    methods::Method,
    values::{Compared, column, pooled, seeds, values},
};
use crate::{
    metrics::{CalibrationSummary, EmptyMask, ImageRow},
    report::{
        document::{Cell, Column, Kind, Row, Table, p_value, rounded},
        page::{Block, Page, Section},
        plot::{Bins, Estimate, Intervals, Reliability, Series, intervals, reliability},
        thresholds::{self, RATIOS},
    },
    stats::mean_and_interval,
};

/// Methods compared on the same images.
#[derive(Clone, Copy, Debug)]
pub struct Compare<'a> {
    /// The runs, evaluated.
    pub runs: &'a [Compared],
    /// Which of them are one method.
    pub methods: &'a [Method],
    /// The place of the method that the others are compared with.
    pub against: usize,
    /// What was found.
    pub comparisons: &'a [Comparison],
}

/// What `compare.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Record<'a> {
    /// The method that the others are compared with.
    pub against: &'a str,
    /// What was found, in words.
    pub sentences: Vec<String>,
    /// The methods.
    pub methods: Vec<MethodRecord<'a>>,
    /// Every comparison.
    pub comparisons: &'a [Comparison],
}

/// A method in `compare.json`.
#[derive(Clone, Debug, Serialize)]
pub struct MethodRecord<'a> {
    /// Its name.
    pub name: &'a str,
    /// The folders of its runs.
    pub runs: Vec<&'a str>,
    /// Their seeds.
    pub seeds: Vec<u64>,
    /// In what it differs from the first method: key, the first's value, its own.
    pub differs: Vec<[&'a str; 3]>,
    /// Seconds of training, the mean over its runs.
    pub training_seconds: f64,
    /// Seconds that the probabilities of one image take, the mean over its runs.
    pub seconds_an_image: f64,
    /// Calibration over all pixels, run by run.
    pub calibration: Vec<&'a CalibrationSummary>,
}

impl<'a> Compare<'a> {
    fn runs_of(&self, method: &'a Method) -> impl Iterator<Item = &'a Compared> {
        let runs = self.runs;
        method.runs.iter().map(|&run| &runs[run])
    }

    fn mean(&self, method: &'a Method, of: fn(&Compared) -> f64) -> f64 {
        self.runs_of(method).map(of).sum::<f64>() / method.runs.len() as f64
    }

    /// The numbers behind the page.
    pub fn record(&self) -> Record<'a> {
        let method = |method: &'a Method| MethodRecord {
            name: &method.name,
            runs: self
                .runs_of(method)
                .map(|run| run.candidate.run.as_str())
                .collect(),
            seeds: seeds(self.runs, method).into_iter().collect(),
            differs: method
                .differences
                .iter()
                .map(|one| [one.key.as_str(), one.one.as_str(), one.other.as_str()])
                .collect(),
            training_seconds: self.mean(method, training_seconds),
            seconds_an_image: self.mean(method, |run| run.seconds_an_image),
            calibration: self.runs_of(method).map(|run| &run.summary).collect(),
        };
        Record {
            against: &self.methods[self.against].name,
            sentences: sentences(self.comparisons),
            methods: self.methods.iter().map(method).collect(),
            comparisons: self.comparisons,
        }
    }

    /// The page.
    pub fn page(&self) -> Page {
        let first = &self.runs[0];
        let images = column(self.runs, &self.methods[0], |row| row.nll).len();
        let about = format!(
            "{} methods from {} runs, tested on the same {images} images of {}. Compared with {}, pair by pair.",
            self.methods.len(),
            self.runs.len(),
            first.candidate.experiment.data,
            self.methods[self.against].name
        );
        let section = |id: &str, title: &str, blocks: Vec<Block>| Section {
            id: id.into(),
            title: title.into(),
            blocks,
        };
        let mut sections = vec![
            section(
                "differences",
                "Differences",
                vec![self.forests(), Block::Table(self.differences_table())],
            ),
            section(
                "means-of-methods",
                "Means",
                vec![
                    Block::Table(self.means_table()),
                    Block::Table(self.pooled_table()),
                ],
            ),
            section("reliabilities", "Reliability", vec![self.reliabilities()]),
        ];
        sections.extend(
            self.curves()
                .map(|curves| section("by-threshold", "By threshold", vec![curves])),
        );
        sections.push(section(
            "cost",
            "Cost",
            vec![Block::Table(self.cost_table())],
        ));
        sections.push(section(
            "how",
            "How it was measured",
            vec![Block::List(how().map(Into::into).into())],
        ));
        Page {
            title: "Which probabilities may be believed more?".into(),
            lead: vec![
                Block::Text(about),
                Block::List(sentences(self.comparisons)),
                Block::Table(self.methods_table()),
            ],
            sections,
        }
    }

    fn methods_table(&self) -> Table {
        let rows = self.methods.iter().enumerate().map(|(place, method)| {
            let loss = self.runs_of(method).next();
            let loss = loss.map_or("", |run| run.candidate.experiment.loss.as_str());
            let besides = method.differences.iter().filter(|one| one.key != "loss");
            let besides: Vec<String> = besides
                .map(|one| format!("{} = {}", one.key, one.other))
                .collect();
            let besides = match (place, &besides[..]) {
                (0, _) => "–".into(),
                (_, []) => "nothing".into(),
                (_, several) => several.join(", "),
            };
            let seeds = seeds(self.runs, method)
                .into_iter()
                .map(|seed| seed.to_string());
            Row::of([
                Cell::new(&method.name),
                // So that a line can end within it.
                Cell::new(loss.replace(',', ", ")),
                Cell::new(seeds.collect::<Vec<_>>().join(", ")),
                Cell::new(besides),
            ])
        });
        Table {
            name: "methods".into(),
            title: "Methods".into(),
            columns: vec![
                Column::left("Method"),
                Column::left("Loss"),
                Column::left("Seeds"),
                Column::left("Otherwise than the first, the loss aside"),
            ],
            rows: rows.collect(),
            notes: vec!["Runs that differ in the seed alone are one method; an image counts once, with the mean over its seeds.".into()],
        }
    }

    fn differences_table(&self) -> Table {
        let mut last = "";
        let rows = self.comparisons.iter().map(|one| {
            let text = match one.side {
                Side::Better => Cell::new("better").strong(),
                Side::Worse => Cell::new("worse"),
                Side::Undecided => Cell::new("undecided"),
            };
            let mut row = Row::of([
                Cell::new(&one.method),
                Cell::new(format!("{} {}", title(one.metric), arrow(one.metric))),
                Cell::new(rounded(one.mean_against, None)),
                Cell::new(rounded(one.mean, None)),
                Cell::new(rounded(one.difference, one.interval)),
                Cell::new(p_value(one.p)),
                Cell::new(p_value(one.p_holm)),
                Cell::new(one.images.to_string()),
                text,
            ]);
            row.group = one.method != last;
            last = &one.method;
            row
        });
        let mut notes = vec![
            "The method's minus the other's, of the images that both have the figure for; interval by Student's t, p by Wilcoxon's signed-rank test. Better or worse: the whole interval lies on that side and p after Holm's correction over this table is below 0.05. All else is undecided.".to_owned(),
        ];
        let missing = self.not_compared();
        if !missing.is_empty() {
            notes.push(format!(
                "Not compared, because no image has the figure for both: {}.",
                missing.join(", ")
            ));
        }
        let against = &self.methods[self.against].name;
        Table {
            name: "paired-differences".into(),
            title: format!("Differences from {against}, image by image"),
            columns: vec![
                Column::left("Method"),
                Column::left("Figure"),
                Column::right(format!("Mean of {against}")),
                Column::right("Mean"),
                Column::stacked("Difference (95 %)"),
                Column::right("p"),
                Column::right("p (Holm)"),
                Column::right("Images"),
                Column::left("Here"),
            ],
            rows: rows.collect(),
            notes,
        }
    }

    /// What is compared of no image though one of the two has it: a surface distance where a mask is empty, say.
    fn not_compared(&self) -> Vec<String> {
        let others = self.methods.iter().enumerate();
        let others = others.filter(|(place, _)| *place != self.against);
        let mut missing = Vec::new();
        for (_, method) in others {
            let compared = |metric: &str| {
                let mut all = self.comparisons.iter();
                all.any(|one| one.method == method.name && one.metric == metric)
            };
            for (name, read) in ImageRow::columns() {
                let known = [method, &self.methods[self.against]]
                    .iter()
                    .any(|method| !column(self.runs, method, read).is_empty());
                if COMPARED.contains(&name) && known && !compared(name) {
                    missing.push(format!("{} of {}", title(name), method.name));
                }
            }
        }
        missing
    }

    fn forests(&self) -> Block {
        let forest = |metric: &str| {
            let rows: Vec<Estimate> = self
                .comparisons
                .iter()
                .filter(|one| one.metric == metric)
                .map(|one| Estimate {
                    label: one.method.clone(),
                    estimate: one.difference,
                    interval: one.interval,
                    group: false,
                })
                .collect();
            let against = &self.methods[self.against].name;
            (!rows.is_empty()).then(|| {
                intervals(&Intervals {
                    id: format!("forest-{metric}"),
                    title: format!("{} {}", title(metric), arrow(metric)),
                    x_title: format!("mean difference from {against}"),
                    less: "lower".into(),
                    more: "higher".into(),
                    rows,
                })
            })
        };
        Block::Plots {
            id: "forests".into(),
            plots: COMPARED.iter().filter_map(|metric| forest(metric)).collect(),
            caption: "Mean difference over the images with its 95 % interval, uncorrected. An interval on one side of zero is filled.".into(),
        }
    }

    fn means_table(&self) -> Table {
        let columns: Vec<_> = ImageRow::columns()
            .filter(|(name, _)| COMPARED.contains(name) || *name == "volume_bias")
            .filter(|(_, read)| {
                let mut methods = self.methods.iter();
                methods.any(|method| !column(self.runs, method, *read).is_empty())
            })
            .collect();
        let row = |(name, read): &(&str, fn(&ImageRow) -> Option<f64>)| {
            let shown = match *name {
                "volume_bias" => "bias of the expected volume".to_owned(),
                name => format!("{} {}", title(name), arrow(name)),
            };
            let cells = self.methods.iter().map(|method| {
                let (mean, interval) = mean_and_interval(&column(self.runs, method, *read));
                Cell::new(rounded(mean, interval))
            });
            Row::of([Cell::new(shown)].into_iter().chain(cells))
        };
        let mut titles = vec![Column::left("Figure")];
        titles.extend(
            self.methods
                .iter()
                .map(|method| Column::stacked(&method.name)),
        );
        Table {
            name: "means".into(),
            title: "Means over the test images".into(),
            columns: titles,
            rows: columns.iter().map(row).collect(),
            notes: vec![
                "With 95 % intervals, which are of each mean by itself: how far apart two methods are the table of differences says.".into(),
            ],
        }
    }

    /// Errors over all pixels, the mean over the runs of a method.
    fn pooled_table(&self) -> Table {
        type Figure = (
            &'static str,
            &'static str,
            fn(&CalibrationSummary, &str) -> Option<f64>,
        );
        const FIGURES: [Figure; 6] = [
            ("ECE, foreground", "foreground", |of, view| {
                of.view(view)?.equal_width.ece
            }),
            ("ECE of equal mass, foreground", "foreground", |of, view| {
                of.view(view)?.equal_mass.ece
            }),
            ("ACE, foreground", "foreground", |of, view| {
                of.view(view)?.equal_width.ace
            }),
            ("MCE, foreground", "foreground", |of, view| {
                of.view(view)?.equal_width.mce
            }),
            ("ECE near the boundary", "boundary", |of, view| {
                of.view(view)?.equal_width.ece
            }),
            ("ECE of the top label", "top label", |of, view| {
                of.view(view)?.equal_width.ece
            }),
        ];
        let row = |(name, view, read): &Figure| {
            let cells = self.methods.iter().map(|method| {
                let values: Vec<f64> = self
                    .runs_of(method)
                    .filter_map(|run| read(&run.summary, view))
                    .collect();
                Cell::new(rounded(mean_and_interval(&values).0, None))
            });
            Row::of([Cell::new(*name)].into_iter().chain(cells))
        };
        let mut titles = vec![Column::left("Figure ↓")];
        titles.extend(
            self.methods
                .iter()
                .map(|method| Column::right(&method.name)),
        );
        Table {
            name: "errors".into(),
            title: "Calibration errors over all pixels".into(),
            columns: titles,
            rows: FIGURES.iter().map(row).collect(),
            notes: vec!["All pixels of a run's test set as one lot, which chance deviations of single images do not raise; the mean over a method's runs.".into()],
        }
    }

    fn reliabilities(&self) -> Block {
        let diagram = |view: &str, title: &str, x: &str, y: &str| {
            let series = self.methods.iter().map(|method| Bins {
                name: method.name.clone(),
                bins: pooled(self.runs, method, view),
            });
            reliability(&Reliability {
                id: format!("reliability-{}", view.replace(' ', "-")),
                title: title.into(),
                x_title: x.into(),
                y_title: y.into(),
                series: series.collect(),
            })
        };
        let (said, so) = (
            "mean predicted probability of the foreground",
            "share that is foreground",
        );
        Block::Plots {
            id: "reliability".into(),
            plots: vec![
                diagram("foreground", "Foreground", said, so),
                diagram("boundary", "Near the truth's boundary", said, so),
                diagram(
                    "top label",
                    "Top label",
                    "mean probability of the most probable class",
                    "share that is of that class",
                ),
            ],
            caption: "Reliability over all test pixels, of all seeds together. On the dotted diagonal a network is calibrated; below it, it promises too much. Bars, of methods with one run, are 95 % intervals between images.".into(),
        }
    }

    /// Recall, precision and Dice by threshold; `None` where some run has more than two classes.
    fn curves(&self) -> Option<Block> {
        if self
            .runs
            .iter()
            .any(|run| run.evaluated.thresholds.is_empty())
        {
            return None;
        }
        let marks: Vec<f64> = self.runs[0].evaluated.thresholds[0]
            .counts
            .iter()
            .map(|(t, _)| *t)
            .collect();
        let plots = RATIOS.map(|(name, ratio)| {
            let series = self.methods.iter().map(|method| {
                let empty: EmptyMask = self.runs[method.runs[0]].candidate.experiment.metrics.empty;
                let point = |(mark, t): (usize, &f64)| {
                    let read = |evaluated: &crate::evaluate::Evaluated, place: usize| {
                        let (_, counts) = evaluated.thresholds.get(place)?.counts.get(mark)?;
                        ratio(counts, empty)
                    };
                    thresholds::point(*t, &values(self.runs, method, &read))
                };
                Series {
                    name: method.name.clone(),
                    points: marks.iter().enumerate().map(point).collect(),
                }
            });
            let id = format!("thresholds-{}", name.to_lowercase());
            thresholds::plot(id, name, series.collect())
        });
        Some(Block::Plots {
            id: "thresholds".into(),
            plots: plots.into(),
            caption: "Recall, precision and Dice by softmax threshold: foreground is where p ≥ T. A flat curve leaves little to choose, a steep one much. Bars are 95 % intervals of the mean over the images.".into(),
        })
    }

    fn cost_table(&self) -> Table {
        let row = |method: &'a Method| {
            let device = self.runs_of(method).next();
            let device = device.map_or("", |run| run.candidate.experiment.device.as_str());
            Row::of([
                Cell::new(&method.name),
                Cell::new(method.runs.len().to_string()),
                Cell::new(format!("{:.1}", self.mean(method, training_seconds))).kind(Kind::Time),
                Cell::new(device),
                Cell::new(format!(
                    "{:.1}",
                    1e3 * self.mean(method, |run| run.seconds_an_image)
                ))
                .kind(Kind::Time),
            ])
        };
        Table {
            name: "costs".into(),
            title: "What it costs".into(),
            columns: vec![
                Column::left("Method"),
                Column::right("Runs"),
                Column::right("Training [s a run]"),
                Column::left("Trained on"),
                Column::right("Prediction [ms an image]"),
            ],
            rows: self.methods.iter().map(row).collect(),
            notes: vec!["Training: wall-clock time of the epochs, as each run's log has it. Prediction: the median over up to nine test images at the network's size, measured by this command on this machine, with all members or samples that the method takes.".into()],
        }
    }

    /// A row a comparison.
    ///
    /// # Errors
    ///
    /// When a table cannot be made of them.
    pub fn differences_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "method",
            "against",
            "metric",
            "images",
            "mean",
            "mean_against",
            "difference",
            "low",
            "high",
            "p",
            "p_holm",
            "rank_biserial",
            "side",
        ])?;
        let shown = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        for one in self.comparisons {
            let side = match one.side {
                Side::Better => "better",
                Side::Worse => "worse",
                Side::Undecided => "undecided",
            };
            writer.write_record([
                one.method.clone(),
                one.against.clone(),
                one.metric.into(),
                one.images.to_string(),
                one.mean.to_string(),
                one.mean_against.to_string(),
                one.difference.to_string(),
                shown(one.interval.map(|ends| ends[0])),
                shown(one.interval.map(|ends| ends[1])),
                one.p.to_string(),
                one.p_holm.to_string(),
                shown(one.rank_biserial),
                side.into(),
            ])?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// Every table of the page in Markdown.
    pub fn tables_markdown(&self) -> String {
        [
            self.methods_table(),
            self.differences_table(),
            self.means_table(),
            self.pooled_table(),
            self.cost_table(),
        ]
        .map(|table| table.markdown())
        .join("\n")
    }
}

fn training_seconds(run: &Compared) -> f64 {
    run.evaluated.report.training_seconds
}

fn arrow(metric: &str) -> &'static str {
    if ImageRow::more_is_better(metric) {
        "↑"
    } else {
        "↓"
    }
}

/// How the numbers came about, for a reader who would check them.
fn how() -> [&'static str; 4] {
    [
        "Every run's best checkpoint was evaluated anew on its test set. That all were tested on the same images was checked by their names, by what made them where they are made, and by the files' checksums where they are read.",
        "What varies in every interval and test is the image. That the same network trained with another seed comes out otherwise is in none of them: with one seed a verdict is about two networks, with several about their mean.",
        "ECE, ACE and the ECE at the boundary of single images hold chance deviations, the fewer pixels the more, and are compared image by image for that reason alone; how large the error is the table over all pixels says.",
        "compare.json beside this page holds the numbers, differences.csv a row a comparison, tables.md the tables.",
    ]
}
