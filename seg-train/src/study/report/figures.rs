//! The figures of the paper, from the runs at hand.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::Device;

use super::{
    results::Group,
    tables::{label, metric},
};
use crate::{
    batches::Images,
    evaluate::{foreground, load},
    metrics::EmptyMask,
    preprocess::Prepared,
    report::{
        document::{Cell, Column, Row, Table, rounded},
        page::{Block, Picture, PictureRow, Pictures},
        pictures::{self, errors_legend, mask_legend},
        plot::{
            Axis, Bin, Bins, Estimate, Histogram, Intervals, Reliability, Series, histogram,
            intervals, reliability,
        },
        thresholds::{self, RATIOS},
    },
    run_folder::RunFolder,
    stats::mean_and_interval,
    study::{
        Compare, Grid, Show,
        grid::PAPERS,
        plan::{PlannedGrid, PlannedRun, run_folder},
    },
};

/// Networks at work on single images, each image of each run looked at once.
pub(super) struct Predictions<'a> {
    out: &'a std::path::Path,
    known: BTreeMap<(String, String), (Prepared, Vec<f32>)>,
}

impl<'a> Predictions<'a> {
    pub(super) fn new(out: &'a std::path::Path) -> Self {
        Self {
            out,
            known: BTreeMap::new(),
        }
    }

    /// A test image by its name, and the foreground's probability at network size; on the processor, whatever the network was
    /// trained on: where a report is made there need be nothing else.
    fn of(&mut self, run: &PlannedRun, id: &str) -> Result<&(Prepared, Vec<f32>)> {
        let key = (run.name.clone(), id.to_owned());
        if !self.known.contains_key(&key) {
            let experiment = &run.experiment;
            let folder = RunFolder::open(&run_folder(self.out, &run.name))?;
            let net = load(&folder, experiment, &Device::Cpu)?;
            let data = folder.data_set(experiment)?;
            let images = Images::new(&data, &experiment.preprocess);
            let test = &data.split.test;
            let index = *test
                .iter()
                .find(|&&index| data.id(index) == id)
                .with_context(|| {
                    format!("{} no longer has the test image {id}", experiment.data)
                })?;
            let prepared = images.get(index)?;
            let p = net.predict(&prepared.image)?;
            self.known
                .insert(key.clone(), (prepared, foreground(&p, data.classes)));
        }
        Ok(&self.known[&key])
    }
}

/// The rule by which a figure's image is chosen, so that nobody chooses it.
pub(super) const CHOICE: &str =
    "the test image whose Dice is the median under the first loss with the first seed";

/// The name of that image.
fn median_image(group: &Group<'_>) -> Option<String> {
    let (_, finished) = group.runs.first()?;
    let mut order: Vec<usize> = (0..finished.rows.len()).collect();
    let dice = |&place: &usize| finished.rows[place].dice.unwrap_or(0.0);
    order.sort_by(|a, b| dice(a).total_cmp(&dice(b)));
    let place = *order.get(order.len().saturating_sub(1) / 2)?;
    Some(finished.rows[place].id.clone())
}

/// What can be drawn of a data set: groups that have their first seed, the first loss's among them, with the image that it
/// chooses; and the names of those that cannot.
fn drawable<'a, 'b>(
    grid: &Grid,
    groups: &'b [Group<'a>],
    data: &str,
) -> (Option<String>, Vec<&'b Group<'a>>, Vec<String>) {
    let has_first = |group: &&Group<'_>| match (group.cells.first(), group.runs.first()) {
        (Some(cell), Some((run, _))) => cell.run == run.name,
        _ => false,
    };
    let (can, cannot): (Vec<_>, Vec<_>) = groups
        .iter()
        .filter(|group| group.data == data)
        .partition(has_first);
    let image = can
        .first()
        .filter(|group| group.loss == 0)
        .and_then(|group| median_image(group));
    (
        image,
        can,
        cannot.into_iter().map(|group| label(grid, group)).collect(),
    )
}

/// The image itself.
fn original(seen: &Prepared) -> Picture {
    Picture::new(pictures::image(&seen.image), format!("Image {}", seen.id))
}

/// What the annotator drew.
fn truth(seen: &Prepared) -> Picture {
    Picture::new(
        pictures::mask(&seen.labels),
        format!("Truth of {}", seen.id),
    )
}

/// A sentence for what a figure lacks; empty where it lacks nothing.
fn lacking(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!(" Not run: {}.", names.join(", "))
}

/// A figure of the paper, a block or more a data set; what cannot be drawn is said.
pub(super) fn figure(
    planned: &PlannedGrid,
    groups: &[Group<'_>],
    predictions: &mut Predictions<'_>,
) -> Vec<Block> {
    let grid = &planned.grid;
    let mut blocks = Vec::new();
    if grid.show == Show::HeatMaps {
        blocks.push(heat_maps(planned, groups, predictions));
        return blocks;
    }
    for data in &grid.data {
        let (image, groups, cannot) = drawable(grid, groups, data);
        let Some(image) = image else {
            blocks.push(Block::Text(format!(
                "Not run: {data}, or not the first loss, which chooses the image."
            )));
            continue;
        };
        let mut at = At {
            grid,
            name: format!("{}-{data}", planned.name),
            data,
            groups,
            cannot,
            image,
            predictions,
        };
        let drawn = match grid.show {
            Show::Pipeline => at.pipeline(),
            Show::Histograms => at.histograms(),
            Show::Thresholds => at.thresholds(),
            Show::Table | Show::HeatMaps => Ok(Vec::new()),
        };
        // The tables do not need the data; a figure that does is no reason to have none of them.
        blocks.extend(drawn.unwrap_or_else(|error| vec![not_drawn(data, &error)]));
    }
    blocks
}

/// What stands in the place of a figure that cannot be drawn.
fn not_drawn(data: &str, error: &anyhow::Error) -> Block {
    Block::Text(format!("Not drawn: {data}: {error:#}."))
}

/// One data set of a figure.
struct At<'a, 'b> {
    grid: &'a Grid,
    name: String,
    data: &'a str,
    groups: Vec<&'a Group<'a>>,
    /// The names of those that are not run.
    cannot: Vec<String>,
    /// The image that is shown.
    image: String,
    predictions: &'a mut Predictions<'b>,
}

impl At<'_, '_> {
    fn look(&mut self, group: &Group<'_>) -> Result<(Prepared, Vec<f32>)> {
        let (run, _) = group.runs.first().context("a group without runs")?;
        Ok(self.predictions.of(run, &self.image)?.clone())
    }

    fn caption(&self, what: &str) -> String {
        let Self { image, data, .. } = self;
        format!(
            "{what} {image} ({data}), {CHOICE}.{}",
            lacking(&self.cannot)
        )
    }

    /// Figure 1: image, truth, prediction, errors, heat map; a row a loss.
    fn pipeline(&mut self) -> Result<Vec<Block>> {
        let mut rows = Vec::new();
        for group in self.groups.clone() {
            let (seen, p) = self.look(group)?;
            let name = label(self.grid, group);
            let [width, height] = [seen.labels.width, seen.labels.height];
            let predicted = crate::raster::Labels {
                data: p.iter().map(|&p| u8::from(p > 0.5)).collect(),
                ..seen.labels
            };
            rows.push(PictureRow {
                label: name.clone(),
                cells: vec![
                    Some(original(&seen)),
                    Some(truth(&seen)),
                    Some(Picture::new(
                        pictures::mask(&predicted),
                        format!("Mask predicted by {name}"),
                    )),
                    Some(Picture::new(
                        pictures::errors(&seen.image, &p, 0.5, &seen.labels),
                        format!("False positives and false negatives of {name}"),
                    )),
                    Some(Picture::new(
                        pictures::heat(&p, width, height),
                        format!("Softmax probabilities of {name}"),
                    )),
                ],
            });
        }
        let columns = ["Image", "Truth", "Prediction, p > ½", "Errors", "Heat map"];
        Ok(vec![Block::Pictures(Pictures {
            id: self.name.clone(),
            caption: self.caption("From image to prediction to heat map:"),
            columns: columns.map(Into::into).into(),
            rows,
            legend: errors_legend(),
            colour_bar: true,
        })])
    }

    /// Figure 2: heat maps, and below them histograms, a column a loss.
    fn histograms(&mut self) -> Result<Vec<Block>> {
        let mut columns = vec!["Image".to_owned(), "Truth".to_owned()];
        let mut cells = Vec::new();
        let mut counted = Vec::new();
        for group in self.groups.clone() {
            let (seen, p) = self.look(group)?;
            let name = label(self.grid, group);
            let [width, height] = [seen.labels.width, seen.labels.height];
            if cells.is_empty() {
                cells.push(Some(original(&seen)));
                cells.push(Some(truth(&seen)));
            }
            cells.push(Some(Picture::new(
                pictures::heat(&p, width, height),
                format!("Softmax probabilities, {name}"),
            )));
            columns.push(name.clone());
            let mut counts = vec![0_u64; HISTOGRAM_BINS];
            for &p in &p {
                let bin = (f64::from(p) * HISTOGRAM_BINS as f64) as usize;
                counts[bin.min(HISTOGRAM_BINS - 1)] += 1;
            }
            counted.push((name, counts));
        }
        let top = counted.iter().flat_map(|(_, counts)| counts).max().copied();
        let plots = counted
            .into_iter()
            .enumerate()
            .map(|(number, (name, counts))| {
                histogram(&Histogram {
                    id: format!("{}-histogram-{number}", self.name),
                    title: name,
                    x: Axis::new("softmax probability of the foreground", [0.0, 1.0]),
                    y_title: "pixels".into(),
                    counts,
                    log: true,
                    top,
                })
            });
        let plots: Vec<String> = plots.collect();
        Ok(vec![
            Block::Pictures(Pictures {
                id: self.name.clone(),
                caption: self.caption("Heat maps of"),
                columns,
                rows: vec![PictureRow {
                    label: String::new(),
                    cells,
                }],
                legend: mask_legend(),
                colour_bar: true,
            }),
            Block::Plots {
                id: format!("{}-histograms", self.name),
                plots,
                caption: format!(
                    "The same image's pixels by their softmax probability, {HISTOGRAM_BINS} bins. The vertical axis goes by powers of ten."
                ),
            },
        ])
    }

    /// Figure 4: recall, precision and Dice by threshold, and what three thresholds make of one image.
    fn thresholds(&mut self) -> Result<Vec<Block>> {
        let mut runs = self.groups.iter().flat_map(|group| &group.runs);
        if runs.any(|(_, finished)| finished.thresholds.is_empty()) {
            return Ok(vec![Block::Text(format!(
                "Not drawn: {}: a threshold decides between two classes, and here are more.",
                self.data
            ))]);
        }
        let mut plots = Vec::new();
        let mut table = BTreeMap::new();
        for (column, (name, ratio)) in RATIOS.iter().enumerate() {
            let mut series = Vec::new();
            for (number, group) in self.groups.iter().enumerate() {
                let mut points = Vec::new();
                let (run, first) = group.runs.first().context("a group without runs")?;
                let empty = run.experiment.metrics.empty;
                let marks = first
                    .thresholds
                    .first()
                    .map_or(0, |image| image.counts.len());
                for mark in 0..marks {
                    let values = group.values(|finished, place| {
                        let (_, counts) = finished.thresholds.get(place)?.counts.get(mark)?;
                        ratio(counts, empty)
                    });
                    let t = first.thresholds[0].counts[mark].0;
                    points.push(thresholds::point(t, &values));
                    let (mean, interval) = mean_and_interval(&values);
                    table.insert((mark, number, column), (t, rounded(mean, interval)));
                }
                series.push(Series {
                    name: label(self.grid, group),
                    points,
                });
            }
            plots.push(thresholds::plot(
                format!("{}-{}", self.name, name.to_lowercase()),
                name,
                series,
            ));
        }
        let numbers = self.threshold_table(&table);
        // The curves need no image, and are there where the data are gone.
        let overlays = self
            .overlays()
            .unwrap_or_else(|error| not_drawn(self.data, &error));
        Ok(vec![
            Block::Plots {
                id: format!("{}-curves", self.name),
                plots,
                caption: format!(
                    "Recall, precision and Dice by softmax threshold on {}: foreground is where p ≥ T. Bars are 95 % intervals of the mean over the test images.",
                    self.data
                ),
            },
            overlays,
            Block::Table(numbers),
            Block::Table(self.range_table()),
        ])
    }

    /// The lower half of Figure 4: what some thresholds make of the image; a row a loss.
    fn overlays(&mut self) -> Result<Block> {
        let mut rows = Vec::new();
        for group in self.groups.clone() {
            let (seen, p) = self.look(group)?;
            let name = label(self.grid, group);
            let mut cells = vec![Some(original(&seen))];
            cells.extend(SHOWN.map(|t| {
                Some(Picture::new(
                    pictures::errors(&seen.image, &p, t, &seen.labels),
                    format!("False positives and false negatives of {name} at T = {t}"),
                ))
            }));
            rows.push(PictureRow { label: name, cells });
        }
        let mut columns = vec!["Image".to_owned()];
        columns.extend(SHOWN.map(|t| format!("T = {t}")));
        Ok(Block::Pictures(Pictures {
            id: self.name.clone(),
            caption: self.caption("What thresholds make of"),
            columns,
            rows,
            legend: errors_legend(),
            colour_bar: false,
        }))
    }

    /// How much there is to choose: what recall, precision and Dice change by between two thresholds.
    fn range_table(&self) -> Table {
        let mut rows = Vec::new();
        for (from, to) in RANGES {
            for (name, ratio) in RATIOS {
                let mut cells = vec![Cell::new(name), Cell::new(format!("T = {from} to {to}"))];
                for group in &self.groups {
                    let empty = group
                        .runs
                        .first()
                        .map_or_else(EmptyMask::default, |(run, _)| run.experiment.metrics.empty);
                    let values = group.values(|finished, place| {
                        let counts = &finished.thresholds.get(place)?.counts;
                        let at = |t: f64| {
                            let (_, counts) =
                                counts.iter().find(|(at, _)| (at - t).abs() < 1e-9)?;
                            ratio(counts, empty)
                        };
                        Some(at(to)? - at(from)?)
                    });
                    let (mean, interval) = mean_and_interval(&values);
                    cells.push(Cell::new(rounded(mean, interval)));
                }
                let mut row = Row::of(cells);
                row.group = name == RATIOS[0].0;
                rows.push(row);
            }
        }
        let mut columns = vec![Column::left("What changes"), Column::left("Between")];
        columns.extend(
            self.groups
                .iter()
                .map(|group| Column::right(label(self.grid, group))),
        );
        Table {
            name: format!("{}-ranges", self.name),
            title: format!("What the softmax threshold changes on {}", self.data),
            columns,
            rows,
            notes: vec![
                "Mean over the test images of each image's change, with its 95 % interval by Student's t.".into(),
            ],
        }
    }

    fn threshold_table(&self, values: &BTreeMap<(usize, usize, usize), (f64, String)>) -> Table {
        let mut columns = vec![Column::right("T")];
        for group in &self.groups {
            let name = label(self.grid, group);
            columns.extend(RATIOS.map(|(ratio, _)| Column::right(format!("{ratio}, {name}"))));
        }
        let mut rows: Vec<Row> = Vec::new();
        for ((_, number, column), (t, text)) in values {
            if (*number, *column) == (0, 0) {
                rows.push(Row::of([Cell::new(format!("{t:.2}"))]));
            }
            if let Some(row) = rows.last_mut() {
                row.cells.push(Cell::new(text));
            }
        }
        Table {
            name: format!("{}-thresholds", self.name),
            title: format!("Softmax thresholds on {}", self.data),
            columns,
            rows,
            notes: vec![
                "Mean over the test images and its 95 % interval by Student's t, at each image's own size.".into(),
            ],
        }
    }
}

/// Bins of the histograms of softmax values.
const HISTOGRAM_BINS: usize = 40;

/// The thresholds whose masks Figure 4 shows.
const SHOWN: [f32; 3] = [0.2, 0.5, 0.8];

/// From which threshold to which a change is told: the whole range of Figure 4, and the one that III-D speaks of.
const RANGES: [(f64, f64); 2] = [(0.05, 0.95), (0.3, 0.7)];

/// Figure 3: a row a data set; image, truth, heat map a loss.
fn heat_maps(
    planned: &PlannedGrid,
    groups: &[Group<'_>],
    predictions: &mut Predictions<'_>,
) -> Block {
    let grid = &planned.grid;
    let mut columns = vec!["Image".to_owned(), "Truth".to_owned()];
    for setting in grid.setting_names() {
        columns.extend(grid.losses.iter().map(|entry| match setting {
            Some(setting) => format!("{}, {setting}", entry.name),
            None => entry.name.clone(),
        }));
    }
    let mut rows = Vec::new();
    let mut left_out = Vec::new();
    for data in &grid.data {
        let (image, of_data, cannot) = drawable(grid, groups, data);
        let Some(image) = image else {
            left_out.push(data.clone());
            continue;
        };
        left_out.extend(cannot.into_iter().map(|name| format!("{name} on {data}")));
        let mut cells: Vec<Option<Picture>> = vec![None; columns.len()];
        for group in of_data {
            let Some((run, _)) = group.runs.first() else {
                continue;
            };
            let name = label(grid, group);
            let (seen, p) = match predictions.of(run, &image) {
                Ok(seen) => seen,
                Err(error) => {
                    left_out.push(format!("{name} on {data}: {error:#}"));
                    continue;
                }
            };
            cells[0] = Some(original(seen));
            cells[1] = Some(truth(seen));
            if let Some(column) = columns.iter().position(|column| *column == name) {
                cells[column] = Some(Picture::new(
                    pictures::heat(p, seen.labels.width, seen.labels.height),
                    format!("Softmax probabilities of {} by {name}", seen.id),
                ));
            }
        }
        rows.push(PictureRow {
            label: format!("{data}: {image}"),
            cells,
        });
    }
    let not_run = lacking(&left_out);
    Block::Pictures(Pictures {
        id: planned.name.clone(),
        caption: format!(
            "Image, truth and heat map of each loss; of each data set {CHOICE}.{not_run}"
        ),
        columns,
        rows,
        legend: mask_legend(),
        colour_bar: true,
    })
}

/// Reliability diagrams of a grid: a plot a data set, or a data set and pair of losses where each stands beside its plain self.
pub(super) fn reliabilities(planned: &PlannedGrid, groups: &[Group<'_>]) -> Option<Block> {
    let grid = &planned.grid;
    let mut plots = Vec::new();
    for data in &grid.data {
        let of_data: Vec<&Group<'_>> = groups
            .iter()
            .filter(|group| group.data == data && !group.runs.is_empty())
            .collect();
        let families: Vec<Vec<&Group<'_>>> = if grid.compare == Compare::Plain {
            let mut pairs = Vec::new();
            for group in &of_data {
                let base = grid.compared_with(group.loss);
                let plain = of_data
                    .iter()
                    .find(|other| Some(other.loss) == base && other.setting == group.setting);
                pairs.extend(plain.map(|plain| vec![*plain, *group]));
            }
            pairs
        } else {
            vec![of_data]
        };
        for family in families {
            let series: Vec<Bins> = family
                .iter()
                .filter_map(|group| pooled(grid, group))
                .collect();
            if series.is_empty() {
                continue;
            }
            plots.push(reliability(&Reliability {
                id: format!("{}-reliability-{}", planned.name, plots.len()),
                title: data.clone(),
                x_title: "mean predicted probability of the foreground".into(),
                y_title: "share that is foreground".into(),
                series,
            }));
        }
    }
    (!plots.is_empty()).then(|| Block::Plots {
        id: format!("{}-reliability", planned.name),
        plots,
        caption: "Reliability: of the pixels given about the same probability of being foreground, the share that is. On the diagonal a network is calibrated; where the line is flatter than the diagonal it is surer than it is right, where it is steeper less sure. All test pixels of all seeds together; empty bins are left out. Below each, the pixels of each bin.".into(),
    })
}

/// The bins of all seeds of a group as one.
fn pooled(grid: &Grid, group: &Group<'_>) -> Option<Bins> {
    let mut sums: Vec<(u64, f64, f64)> = Vec::new();
    for (_, finished) in &group.runs {
        sums.resize(sums.len().max(finished.reliability.len()), (0, 0.0, 0.0));
        for (sum, bin) in sums.iter_mut().zip(&finished.reliability) {
            let n = bin.pixels as f64;
            sum.0 += bin.pixels;
            sum.1 += n * bin.confidence.unwrap_or(0.0);
            sum.2 += n * bin.accuracy.unwrap_or(0.0);
        }
    }
    if sums.iter().all(|(count, ..)| *count == 0) {
        return None;
    }
    Some(Bins {
        name: label(grid, group),
        bins: sums
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, confidence, observed)| Bin {
                confidence: confidence / count as f64,
                observed: observed / count as f64,
                interval: None,
                count,
            })
            .collect(),
    })
}

/// The claims' mean differences as forest plots, one a metric.
pub(super) fn forests(planned: &PlannedGrid, decided: &[super::tables::Decided]) -> Option<Block> {
    let mut plots = Vec::new();
    for column in PAPERS {
        let mut last = "";
        let rows: Vec<Estimate> = decided
            .iter()
            .filter(|claim| claim.column == column)
            .filter_map(|claim| {
                let (estimate, interval) = claim.difference?;
                let group = claim.data != last && !last.is_empty();
                last = &claim.data;
                Some(Estimate {
                    label: format!("{}: {}", claim.data, claim.pair),
                    estimate,
                    interval,
                    group,
                })
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        plots.push(intervals(&Intervals {
            id: format!("{}-forest-{column}", planned.name),
            title: metric(column).into(),
            x_title: format!("mean difference of {}", metric(column)),
            less: "lower".into(),
            more: "higher".into(),
            rows,
        }));
    }
    (!plots.is_empty()).then(|| Block::Plots {
        id: format!("{}-differences", planned.name),
        plots,
        caption: "The differences that the claims are about: mean over the test images with its 95 % interval.".into(),
    })
}
