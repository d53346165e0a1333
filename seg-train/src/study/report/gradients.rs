//! The gradient's stability: its norms and the smallest denominators over the steps of the runs that were watched.

use super::{results::Group, tables::label};
use crate::{
    report::document::{Cell, Column, Row, Table},
    study::plan::PlannedGrid,
    watch::StepLine,
};

/// A row a loss; none where no run was watched.
pub(super) fn table(planned: &PlannedGrid, groups: &[Group<'_>]) -> Option<Table> {
    let watched = |group: &&Group<'_>| group.runs.iter().any(|(_, run)| !run.steps.is_empty());
    let rows: Vec<Row> = groups
        .iter()
        .filter(watched)
        .map(|group| {
            let of = |read: fn(&StepLine) -> Option<f64>| {
                let steps = group.runs.iter().flat_map(|(_, run)| &run.steps);
                sorted(steps.filter_map(read))
            };
            let logits = of(|step| step.logits_gradient);
            let weights = of(|step| step.weights_gradient);
            let denominators = of(|step| step.smallest_denominator);
            Row::of([
                Cell::new(group.data),
                Cell::new(label(&planned.grid, group)),
                Cell::new(logits.len().to_string()),
                Cell::new(shown(quantile(&logits, 0.5))),
                Cell::new(shown(quantile(&logits, 1.0))),
                Cell::new(shown(quantile(&weights, 0.5))),
                Cell::new(shown(quantile(&weights, 0.99))),
                Cell::new(shown(quantile(&weights, 1.0))),
                Cell::new(shown(spread(&weights))),
                Cell::new(shown(quantile(&denominators, 0.5))),
                Cell::new(shown(quantile(&denominators, 0.0))),
            ])
        })
        .collect();
    (!rows.is_empty()).then(|| Table {
        name: format!("{}-gradients", planned.name),
        title: format!("{}: norms and denominators", planned.grid.title),
        columns: vec![
            Column::left("Data set"),
            Column::left("Loss"),
            Column::right("Steps"),
            Column::right("in logits: median"),
            Column::right("largest"),
            Column::right("in weights: median"),
            Column::right("99 %"),
            Column::right("largest"),
            Column::right("largest / median"),
            Column::right("denominator: median"),
            Column::right("smallest"),
        ],
        rows,
        notes: vec![
            "Euclidean norms of each step's gradient, over all steps of all seeds. The denominator is the smallest of a step that the loss divides by, TP + α FP + β FN of an image and class, in pixels, with γ in FP and FN; losses of pixels alone have none.".into(),
        ],
    })
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of the values lies; none of none.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

/// How far the largest stands out.
fn spread(sorted: &[f64]) -> Option<f64> {
    Some(quantile(sorted, 1.0)? / quantile(sorted, 0.5)?)
}

/// Three digits, whatever the size.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(value) if (1e-2..1e4).contains(&value) => {
            let digits = (2 - value.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        Some(value) => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values = sorted([3.0, 1.0, 2.0, 5.0, 4.0].into_iter());
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert_eq!(quantile(&values, 1.0), Some(5.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(spread(&values), Some(5.0 / 3.0));
    }

    #[test]
    fn numbers_have_three_digits() {
        let text = |value| shown(Some(value));
        assert_eq!(
            [
                text(0.012_345),
                text(1.5),
                text(250.4),
                text(1e-5),
                text(2e6)
            ],
            ["0.0123", "1.50", "250", "1.0e-5", "2.0e6"]
        );
        assert_eq!(shown(None), "–");
    }
}
