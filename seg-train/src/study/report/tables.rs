//! The tables of a grid: means beside the paper's, comparisons, claims.

use super::{
    differences::Differences,
    results::{Group, Progress, Results, mean},
};
use crate::{
    metrics::ImageRow,
    report::document::{Cell, Column, Kind, Row, Table, p_value, rounded},
    stats::{MeanInterval, bootstrap_mean, mean_and_interval},
    study::{
        Grid, Plan,
        claim::{Claim, Relation, SIGNIFICANT, Verdict, can_be_decided, column},
        grid::{Entry, Numbers},
        plan::PlannedGrid,
    },
};

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 10_000;

/// A column by the name that tells what it is, with the side that is better.
pub(super) fn heading(column: &str) -> String {
    let arrow = if ImageRow::more_is_better(column) {
        "↑"
    } else {
        "↓"
    };
    format!("{} {arrow}", metric(column))
}

/// A column by its name alone, for sentences.
pub(super) fn metric(column: &str) -> &str {
    match column {
        "nll_foreground" => "NLL (foreground)",
        "nll" => "NLL (proper)",
        "brier" => "Brier",
        "dice" => "Dice",
        "jaccard" => "Jaccard",
        "ece" => "ECE",
        "ace" => "ACE (equal mass)",
        "excess_nll" => "Excess NLL",
        "ece_boundary" => "ECE at boundaries",
        "volume_bias" => "Volume bias",
        "ece_truth" => "ECE against q",
        "truth_distance" => "Mean |p − q|",
        "hd95" => "HD95",
        "assd" => "ASSD",
        "nsd" => "NSD",
        other => other,
    }
}

/// The name of a group's loss in tables.
pub(super) fn label(grid: &Grid, group: &Group<'_>) -> String {
    let name = &grid.losses[group.loss].name;
    match group.setting {
        Some(setting) => format!("{name}, {setting}"),
        None => name.clone(),
    }
}

/// The paper's numbers that stand beside a group: its own data set's, or those of the one that it stands in for.
fn numbers<'a>(grid: &'a Grid, group: &Group<'_>) -> Option<&'a Numbers> {
    let data = grid
        .stand_in
        .get(group.data)
        .map_or(group.data, String::as_str);
    grid.numbers
        .iter()
        .find(|row| row.data == data && grid.position(&row.loss) == Some(group.loss))
}

/// What stands beside every row: whether it is reduced, and for how many epochs it was trained.
fn recipe(group: &Group<'_>) -> String {
    let Some((run, _)) = group.runs.first() else {
        return String::new();
    };
    let epochs = || group.runs.iter().map(|(_, finished)| finished.epochs);
    let epochs = match (epochs().min(), epochs().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or_default().to_string(),
    };
    let kind = if run.reduced.is_some() {
        "reduced"
    } else {
        "in full"
    };
    let seeds = match group.runs.len() {
        1 => String::new(),
        seeds => format!(", {seeds} seeds"),
    };
    format!("{kind}, {epochs} epochs{seeds}")
}

/// How the rows of a table are reduced, a sentence a kind of reduction.
fn reductions(groups: &[Group<'_>]) -> Vec<String> {
    let mut data_by_kind: Vec<(&str, Vec<&str>)> = Vec::new();
    for group in groups {
        for (run, _) in &group.runs {
            let Some(how) = &run.reduced else { continue };
            let known = data_by_kind.iter_mut().find(|(kind, _)| kind == how);
            match known {
                Some((_, data)) if data.contains(&group.data) => {}
                Some((_, data)) => data.push(group.data),
                None => data_by_kind.push((how, vec![group.data])),
            }
        }
    }
    data_by_kind
        .into_iter()
        .map(|(how, data)| format!("Reduced, {}: {how}.", data.join(", ")))
        .collect()
}

/// Why a cell has no numbers.
fn not_run(cells: &[&crate::study::plan::Cell], results: &Results) -> String {
    let told = cells.iter().find_map(|cell| match results.get(&cell.run)? {
        Progress::Failed(why) => Some(format!("failed: {why}")),
        Progress::Begun(0) | Progress::Done(_) => None,
        Progress::Begun(epochs) => Some(format!("broken off after {epochs} epochs")),
    });
    told.unwrap_or_else(|| "not begun".into())
}

/// Means with 95 % intervals, the paper's below ours.
pub(super) fn means(
    plan: &Plan,
    planned: &PlannedGrid,
    groups: &[Group<'_>],
    differences: &Differences,
    results: &Results,
) -> Table {
    let grid = &planned.grid;
    let mut columns = vec![
        Column::left("Data set"),
        Column::left("Loss"),
        Column::left("From"),
        Column::right("Images"),
    ];
    let shown = grid.shown_columns();
    columns.extend(shown.iter().map(|name| Column::stacked(heading(name))));
    columns.push(Column::left("Recipe"));
    let width = columns.len();
    let mut rows = Vec::new();
    for data in &grid.data {
        let of_data: Vec<&Group<'_>> = groups.iter().filter(|group| group.data == data).collect();
        let mut first = true;
        if of_data.is_empty() {
            let why = plan
                .missing
                .iter()
                .find(|missing| &missing.data == data)
                .map_or_else(String::new, |missing| missing.why.clone());
            let mut cells = vec![
                Cell::new(data),
                Cell::new("all"),
                Cell::new("here"),
                Cell::default(),
            ];
            cells.extend(shown.iter().map(|_| Cell::default().kind(Kind::NotRun)));
            cells.push(Cell::new(why));
            rows.push(Row::of(cells).group());
            continue;
        }
        for group in &of_data {
            let mut row = Row::of(ours(grid, group, &of_data, differences, results, width));
            row.group = std::mem::take(&mut first);
            rows.push(row);
            if let Some(paper) = numbers(grid, group) {
                rows.push(Row::of(theirs(grid, group, paper)));
            }
        }
    }
    let stand_ins: Vec<String> = grid
        .stand_in
        .iter()
        .filter(|(data, _)| grid.data.contains(data))
        .map(|(data, of)| {
            format!("the paper has no {data}: its numbers of {of} stand beside it, of other images")
        })
        .collect();
    let mut notes = vec![
        "Mean over the test images and its 95 % interval: ours by Student's t, the paper's as printed. Rounded to what the interval supports. Bold: the best mean of ours over the same images.".to_owned(),
        format!("* differs from the loss it is compared with: signed-rank test, p < {SIGNIFICANT} after Holm's correction over the table. † rank-sum test as in the paper, p < {SIGNIFICANT}, not corrected."),
        "An image in the test set of several seeds counts once, with the mean of its values.".to_owned(),
    ];
    notes.extend(reductions(groups));
    if !stand_ins.is_empty() {
        notes.push(format!("Stand-ins: {}.", stand_ins.join("; ")));
    }
    Table {
        name: planned.name.clone(),
        title: title(grid, ""),
        columns,
        rows,
        notes,
    }
}

/// The title of a table of a grid.
fn title(grid: &Grid, what: &str) -> String {
    let paper = grid
        .paper
        .as_ref()
        .map_or(String::new(), |paper| format!("{paper}: "));
    let what = if what.is_empty() {
        String::new()
    } else {
        format!(": {what}")
    };
    format!("{paper}{}{what}", grid.title)
}

/// Our row of a group.
fn ours(
    grid: &Grid,
    group: &Group<'_>,
    of_data: &[&Group<'_>],
    differences: &Differences,
    results: &Results,
    width: usize,
) -> Vec<Cell> {
    let mut cells = vec![
        Cell::new(group.data),
        Cell::new(label(grid, group)),
        Cell::new("here"),
    ];
    if group.runs.is_empty() {
        cells.push(Cell::default());
        cells.resize(width - 1, Cell::default().kind(Kind::NotRun));
        cells.push(Cell::new(not_run(&group.cells, results)));
        return cells;
    }
    let mut images = 0;
    let mut numbers = Vec::new();
    for name in grid.shown_columns() {
        let values_of = |group: &Group<'_>| -> Vec<f64> {
            column(name).map_or_else(Vec::new, |read| group.column(read))
        };
        let values = values_of(group);
        images = images.max(values.len());
        if values.is_empty() {
            numbers.push(Cell::new("–"));
            continue;
        }
        let (here, interval) = mean_and_interval(&values);
        let mut cell = Cell::new(rounded(here, interval));
        let comparable = |other: &&&Group<'_>| {
            column(name).is_some_and(|read| other.images(read) == group.images(read))
        };
        let others = of_data
            .iter()
            .filter(comparable)
            .map(|other| values_of(other))
            .filter(|v| !v.is_empty());
        let better = |other: f64| {
            if ImageRow::more_is_better(name) {
                other > here
            } else {
                other < here
            }
        };
        if !others.map(|values| mean(&values)).any(better) {
            cell = cell.strong();
        }
        if let Some(tested) = grid
            .compared_with(group.loss)
            .and_then(|base| differences.get(group, base, name))
        {
            let mut marks = String::new();
            if tested.signed_rank_holm < SIGNIFICANT {
                marks.push('*');
            }
            if tested.difference.rank_sum < SIGNIFICANT {
                marks.push('†');
            }
            cell = cell.marks(marks);
        }
        numbers.push(cell);
    }
    cells.push(Cell::new(images.to_string()));
    cells.append(&mut numbers);
    let missing = group.cells.len() - group.runs.len();
    let mut recipe = recipe(group);
    if missing > 0 {
        recipe = format!(
            "{recipe}; {missing} of {} seeds: {}",
            group.cells.len(),
            not_run(&group.cells, results)
        );
    }
    cells.push(Cell::new(recipe));
    cells
}

/// The paper's row of a group.
fn theirs(grid: &Grid, group: &Group<'_>, paper: &Numbers) -> Vec<Cell> {
    let mut cells = vec![
        Cell::new(group.data),
        Cell::new(label(grid, group)),
        Cell::new(if paper.data == group.data {
            "paper".into()
        } else {
            format!("paper, {}", paper.data)
        }),
        Cell::default(),
    ];
    cells.extend(grid.shown_columns().into_iter().map(|name| {
        paper
            .of(name)
            .map_or_else(Cell::default, |[mean, low, high]| {
                Cell::new(format!("{mean:.3} ({low:.3} to {high:.3})"))
            })
    }));
    cells.push(Cell::new("as printed"));
    cells
}

/// A row of a grid for other programs: its loss alone, or its name where something is done besides.
fn full_name(entry: &Entry) -> String {
    if entry.set.is_empty() {
        entry.loss.clone()
    } else {
        entry.name.clone()
    }
}

/// Every number of the table of means to its last digit, all metrics, with all three intervals: for other programs.
pub(super) fn values(planned: &PlannedGrid, groups: &[Group<'_>]) -> String {
    let mut text = String::from(
        "data,loss,setting,metric,images,mean,sd,normal_low,normal_high,t_low,t_high,bootstrap_low,bootstrap_high,paper_mean,paper_low,paper_high\n",
    );
    let mut writer = csv::Writer::from_writer(Vec::new());
    for group in groups {
        for (name, read) in ImageRow::columns() {
            let values = group.column(read);
            if values.is_empty() {
                continue;
            }
            let interval = MeanInterval::of(&values, 0.95);
            let of = |ends: fn(&MeanInterval) -> [f64; 2]| interval.as_ref().map(ends);
            let bootstrap = bootstrap_mean(&values, 0.95, RESAMPLES, 0);
            let paper = numbers(&planned.grid, group).and_then(|row| row.of(name));
            let mut record = vec![
                group.data.to_owned(),
                full_name(&planned.grid.losses[group.loss]),
                group.setting.unwrap_or_default().to_owned(),
                name.to_owned(),
                values.len().to_string(),
                mean(&values).to_string(),
                interval.map_or(String::new(), |interval| interval.sd.to_string()),
            ];
            for ends in [
                of(|interval| interval.normal),
                of(|interval| interval.t),
                bootstrap,
            ] {
                record.extend(match ends {
                    Some(ends) => ends.map(|end| end.to_string()),
                    None => [String::new(), String::new()],
                });
            }
            record.extend(match paper {
                Some(paper) => paper.map(|number| number.to_string()),
                None => [String::new(), String::new(), String::new()],
            });
            // Into memory: cannot fail.
            let _ = writer.write_record(record);
        }
    }
    let rows = writer.into_inner().unwrap_or_default();
    text.push_str(&String::from_utf8_lossy(&rows));
    text
}

/// Every comparison with its tests.
pub(super) fn comparisons(
    planned: &PlannedGrid,
    groups: &[Group<'_>],
    differences: &Differences,
) -> Option<Table> {
    let grid = &planned.grid;
    let mut rows = Vec::new();
    for group in groups {
        for base in 0..grid.losses.len() {
            let mut first = true;
            for name in grid.tested_columns() {
                let Some(tested) = differences.get(group, base, name) else {
                    continue;
                };
                let difference = &tested.difference;
                let effect = |value: Option<f64>| {
                    value.map_or_else(
                        || "–".into(),
                        |value| match format!("{value:.2}") {
                            zero if zero == "-0.00" => "0.00".into(),
                            other => other.replace('-', "−"),
                        },
                    )
                };
                let mut row = Row::of([
                    Cell::new(group.data),
                    Cell::new(format!(
                        "{} − {}",
                        label(grid, group),
                        grid.losses[base].name
                    )),
                    Cell::new(metric(name)),
                    Cell::new(difference.images.to_string()),
                    Cell::new(
                        difference
                            .mean
                            .as_ref()
                            .map_or_else(|| "–".into(), |mean| rounded(mean.mean, Some(mean.t))),
                    ),
                    Cell::new(p_value(difference.signed_rank)),
                    Cell::new(p_value(tested.signed_rank_holm)),
                    Cell::new(p_value(difference.rank_sum)),
                    Cell::new(p_value(tested.rank_sum_holm)),
                    Cell::new(effect(difference.rank_biserial)),
                    Cell::new(effect(difference.cliff)),
                ]);
                row.group = std::mem::take(&mut first);
                rows.push(row);
            }
        }
    }
    (!rows.is_empty()).then(|| Table {
        name: format!("{}-tests", planned.name),
        title: title(grid, "differences and tests"),
        columns: vec![
            Column::left("Data set"),
            Column::left("Difference"),
            Column::left("Metric"),
            Column::right("Images"),
            Column::stacked("Mean (95 %)"),
            Column::right("Signed rank p"),
            Column::right("after Holm"),
            Column::right("Rank sum p"),
            Column::right("after Holm"),
            Column::right("r"),
            Column::right("δ"),
        ],
        rows,
        notes: vec![
            "Mean of the images' differences, with its 95 % interval by Student's t. Both tests are two-sided.".into(),
            "The images are the same for both losses, so the signed-rank test, which pairs them, is the right one; the rank-sum test is the paper's, takes the two sets of values for independent and its p-value from the normal distribution, and mostly finds less.".into(),
            format!("Holm's correction is over the {} comparisons of this table, for each test by itself. r is the matched-pairs rank-biserial correlation, δ Cliff's of the two sets of values; both lie between −1 and 1.", differences.len()),
        ],
    })
}

/// A claim decided on a data set.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) sentence: String,
    /// The two losses, as a difference.
    pub(super) pair: String,
    pub(super) data: String,
    pub(super) column: &'static str,
    pub(super) verdict: Option<Verdict>,
    /// The mean difference and its interval.
    pub(super) difference: Option<(f64, Option<[f64; 2]>)>,
    /// The p-value that the verdict used; none for claims of no difference, which use none.
    p: Option<f64>,
    /// Whether so few images could give no significant p-value whatever they were.
    too_few: bool,
    paper: String,
}

/// Every claim of a grid on every data set, by both NLLs where it is about NLL.
pub(super) fn decide(grid: &Grid, groups: &[Group<'_>], differences: &Differences) -> Vec<Decided> {
    let mut decided = Vec::new();
    for claim in &grid.claims {
        let (Some(loss), Some(than)) = (grid.position(&claim.loss), grid.position(&claim.than))
        else {
            // A loss that this scale leaves out.
            continue;
        };
        for data in &grid.data {
            let of = grid.stand_in.get(data).unwrap_or(data);
            if !claim.data.is_empty() && !claim.data.contains(of) {
                continue;
            }
            let of_data: Vec<&Group<'_>> = groups
                .iter()
                .filter(|group| group.data == data && group.loss == loss)
                .collect();
            for &column in claim.metric.columns() {
                let mut push =
                    |setting: Option<&str>, tested: Option<&super::differences::Tested>| {
                        let interval = tested.and_then(|tested| tested.difference.mean.as_ref());
                        decided.push(Decided {
                            sentence: sentence(grid, claim, column, loss, than, setting),
                            pair: format!(
                                "{} − {}",
                                grid.losses[loss].name, grid.losses[than].name
                            ),
                            data: data.clone(),
                            column,
                            verdict: tested.map(|tested| {
                                claim.verdict(
                                    interval.map(|interval| interval.t),
                                    tested.signed_rank_holm,
                                )
                            }),
                            difference: tested.map(|_| {
                                let mean = interval.map_or(f64::NAN, |interval| interval.mean);
                                (mean, interval.map(|interval| interval.t))
                            }),
                            p: tested
                                .filter(|_| claim.is != Relation::Alike)
                                .map(|tested| tested.signed_rank_holm),
                            too_few: claim.is != Relation::Alike
                                && tested.is_some_and(|tested| {
                                    !can_be_decided(tested.difference.images, differences.len())
                                }),
                            paper: in_paper(grid, claim, data, column),
                        });
                    };
                if of_data.is_empty() {
                    push(None, None);
                }
                for group in &of_data {
                    push(group.setting, differences.get(group, than, column));
                }
            }
        }
    }
    decided
}

/// `DSC++ has a lower NLL (proper) than DSC`.
fn sentence(
    grid: &Grid,
    claim: &Claim,
    column: &str,
    loss: usize,
    than: usize,
    setting: Option<&str>,
) -> String {
    let (loss, than) = (&grid.losses[loss].name, &grid.losses[than].name);
    let metric = metric(column);
    let setting = setting.map_or(String::new(), |setting| format!(" ({setting})"));
    match claim.is {
        Relation::Lower => format!("{loss} has a lower {metric} than {than}{setting}"),
        Relation::Higher => format!("{loss} has a higher {metric} than {than}{setting}"),
        Relation::Alike => format!(
            "{loss} and {than} have the same {metric}, within ±{}{setting}",
            claim.within
        ),
    }
}

/// What the paper gives for the claim: section and, of its own metric, the p-value on the data set or the one that is stood in
/// for.
fn in_paper(grid: &Grid, claim: &Claim, data: &str, column: &str) -> String {
    let of = grid.stand_in.get(data).map_or(data, String::as_str);
    let own_metric = claim.metric.columns().first() == Some(&column);
    match claim.p.get(of) {
        Some(p) if own_metric => format!("{}: {p} on {of}", claim.section),
        _ => claim.section.clone(),
    }
}

/// The table of claims.
pub(super) fn claims(name: &str, title: String, of_paper: bool, decided: &[Decided]) -> Table {
    let mut rows = Vec::new();
    let mut last = "";
    for claim in decided {
        let verdict = match claim.verdict {
            None => Cell::default().kind(Kind::NotRun),
            Some(Verdict::Holds) => Cell::default().kind(Kind::Holds),
            Some(Verdict::Fails) => Cell::default().kind(Kind::Fails),
            Some(Verdict::Undecided) => {
                let why = if claim.too_few { "too few images" } else { "" };
                Cell::new(why).kind(Kind::Undecided)
            }
        };
        let mut row = Row::of([
            Cell::new(&claim.sentence),
            Cell::new(&claim.data),
            verdict,
            Cell::new(
                claim
                    .difference
                    .map_or_else(String::new, |(mean, interval)| rounded(mean, interval)),
            ),
            Cell::new(claim.p.map_or_else(String::new, p_value)),
            Cell::new(&claim.paper),
        ]);
        row.group = claim.sentence != last;
        last = &claim.sentence;
        rows.push(row);
    }
    if !of_paper {
        for row in &mut rows {
            row.cells.truncate(5);
        }
    }
    let mut table = Table {
        name: name.into(),
        title,
        columns: vec![
            Column::left("Claim"),
            Column::left("Data set"),
            Column::left("Here"),
            Column::right("Mean difference (95 %)"),
            Column::right("p (signed rank, Holm)"),
            Column::left("In the paper"),
        ],
        rows,
        notes: vec![
            "Decided by rule: see “How it was measured”. p is the signed-rank test's, after Holm's correction over the comparisons of the table; a claim of no difference uses none. The margin of ± is ours.".into(),
        ],
    };
    if !of_paper {
        table.columns.truncate(5);
    }
    table
}

/// How claims are decided: [`Claim::verdict`] in words.
pub(super) const RULE: &str = "Lower and higher hold when the 95 % interval of the mean difference lies wholly on the claimed side and the signed-rank p-value is below 0.05 after Holm's correction, and fail when both hold for the other side. The same within ±m holds when the interval lies wholly within ±m and fails when it lies wholly outside: a test that finds no difference does not show that there is none. The margin m is ours, since the paper gives none: 0.01 where nothing else is said, about the half-width of the paper's own intervals. All else is undecided. NLL (foreground) is what the paper's tables hold, the foreground's term alone, which a confident false positive does not raise; NLL (proper) is the paper's Eq. 1.";
