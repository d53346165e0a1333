//! What becomes of a grid's networks on images unlike those they were trained on.

use anyhow::Result;

use super::{
    results::{Group, mean},
    tables::{heading, label, metric},
};
use crate::{
    corrupt::{Corruption, STRONGEST},
    metrics::ImageRow,
    report::{
        document::{Cell, Column, Kind, Row, Table, rounded},
        page::Block,
        plot::{Axis, Lines, Point, Series, lines},
    },
    shift::ShiftLine,
    stats::{holm, mean_and_interval},
    study::{
        claim::{Difference, SIGNIFICANT},
        plan::PlannedGrid,
    },
};

/// The stain that none was trained on, beside the corruptions.
const STAIN: &str = "stain";

/// Tables and curves of a grid whose runs were measured under shifts; nothing of one whose runs were not.
///
/// # Errors
///
/// When a value is no number.
pub(super) fn blocks(planned: &PlannedGrid, groups: &[Group<'_>]) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for data in &planned.grid.data {
        let of_data: Vec<&Group<'_>> = groups
            .iter()
            .filter(|group| group.data == data && has_shift(group))
            .collect();
        if of_data.is_empty() {
            continue;
        }
        let mut shown = planned.grid.shown_columns();
        shown.retain(|name| ShiftLine::COLUMNS.contains(name));
        for column in shown {
            blocks.push(Block::Table(table(planned, &of_data, column)?));
        }
        blocks.push(curves(planned, data, &of_data));
    }
    Ok(blocks)
}

fn has_shift(group: &Group<'_>) -> bool {
    group.runs.iter().any(|(_, run)| !run.shift.is_empty())
}

/// The kinds of shift that the runs of a data set met.
fn kinds(groups: &[&Group<'_>]) -> Vec<&'static str> {
    let met = |kind: &&str| {
        groups
            .iter()
            .any(|group| !group.shifted(kind, None, "nll").is_empty())
    };
    Corruption::ALL
        .map(Corruption::name)
        .into_iter()
        .chain([STAIN])
        .filter(met)
        .collect()
}

/// One metric: a row a loss, a column a shift, beside the test set as it is.
fn table(planned: &PlannedGrid, groups: &[&Group<'_>], column: &'static str) -> Result<Table> {
    let grid = &planned.grid;
    let read = crate::study::claim::column(column);
    let kinds = kinds(groups);
    let base = |group: &Group<'_>| {
        let base = grid.compared_with(group.loss)?;
        let mut others = groups.iter();
        others.find(|other| other.loss == base && other.setting == group.setting)
    };
    // All comparisons of the table are one family.
    let mut places = Vec::new();
    let mut tests = Vec::new();
    for (row, group) in groups.iter().enumerate() {
        let Some(base) = base(group) else { continue };
        for (at, kind) in kinds.iter().enumerate() {
            let (x, y) = group.shifted_pairs(base, kind, column);
            if let Some(difference) = Difference::of(&x, &y)? {
                places.push((row, at));
                tests.push(difference.signed_rank);
            }
        }
    }
    let corrected = holm(&tests);
    let differs = |row: usize, at: usize| {
        let place = places.iter().position(|place| *place == (row, at));
        place.is_some_and(|place| corrected[place] < SIGNIFICANT)
    };
    let values = |group: &Group<'_>, kind: Option<&str>| match (kind, read) {
        (Some(kind), _) => group.shifted(kind, None, column),
        (None, Some(read)) => group.column(read),
        (None, None) => Vec::new(),
    };
    let best = |kind: Option<&str>| {
        let means = groups.iter().map(|group| mean(&values(group, kind)));
        let better = if ImageRow::more_is_better(column) {
            f64::max
        } else {
            f64::min
        };
        means.fold(f64::NAN, better)
    };
    let mut columns = vec![Column::left("Loss"), Column::stacked("as it is")];
    columns.extend(
        kinds
            .iter()
            .map(|kind| Column::stacked(if *kind == STAIN { "other stain" } else { kind })),
    );
    let rows = groups.iter().enumerate().map(|(row, group)| {
        let shifts = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| (Some(at), Some(*kind)));
        let cells = [(None, None)].into_iter().chain(shifts).map(|(at, kind)| {
            let values = values(group, kind);
            if values.is_empty() {
                return Cell::default().kind(Kind::NotRun);
            }
            let (here, interval) = mean_and_interval(&values);
            let mut cell = Cell::new(rounded(here, interval));
            if here == best(kind) {
                cell = cell.strong();
            }
            if at.is_some_and(|at| differs(row, at)) {
                cell = cell.marks("*");
            }
            cell
        });
        Row::of([Cell::new(label(grid, group))].into_iter().chain(cells))
    });
    let data = groups.first().map_or("", |group| group.data);
    Ok(Table {
        name: format!("{}-shift-{column}", planned.name),
        title: format!(
            "{}: {} on {data}, shifted",
            planned.grid.title,
            heading(column)
        ),
        columns,
        rows: rows.collect(),
        notes: vec![format!(
            "Mean over the test images, of each image the mean over the {STRONGEST} strengths of a corruption, and its 95 % interval. Bold: the best mean. * differs from the loss it is compared with on the same damaged images: signed-rank test, p < {SIGNIFICANT} after Holm's correction over the table."
        )],
    })
}

/// The NLL by strength, a plot a corruption, a line a loss.
fn curves(planned: &PlannedGrid, data: &str, groups: &[&Group<'_>]) -> Block {
    let column = "nll";
    let point = |x: u8, values: &[f64]| {
        let (y, interval) = mean_and_interval(values);
        Point {
            x: f64::from(x),
            y,
            interval,
        }
    };
    let clean = |group: &Group<'_>| {
        crate::study::claim::column(column).map_or_else(Vec::new, |read| group.column(read))
    };
    let plots = Corruption::ALL.map(|corruption| {
        let series: Vec<Series> = groups
            .iter()
            .map(|group| Series {
                name: label(&planned.grid, group),
                points: std::iter::once(point(0, &clean(group)))
                    .chain((1..=STRONGEST).map(|strength| {
                        let values = group.shifted(corruption.name(), Some(strength), column);
                        point(strength, &values)
                    }))
                    .collect(),
            })
            .collect();
        let highest = series
            .iter()
            .flat_map(|series| &series.points)
            .map(|point| point.interval.map_or(point.y, |[_, high]| high))
            .filter(|high| high.is_finite())
            .fold(0.0, f64::max);
        lines(&Lines {
            id: format!("{}-shift-{}", planned.name, corruption.name()),
            title: corruption.name().into(),
            x: Axis::new("strength", [0.0, f64::from(STRONGEST)]),
            y: Axis::new(metric(column), [0.0, (1.05 * highest).max(1e-6)]),
            series,
        })
    });
    Block::Plots {
        id: format!("{}-shift-curves", planned.name),
        plots: plots.into(),
        caption: format!(
            "NLL on {data} by the strength of a corruption; 0 is the test set as it is. Bars are 95 % intervals of the mean over the images."
        ),
    }
}
