//! The report of a study: one page, and its tables and figures as files.
//!
//! It is made from the run folders alone, by rule: the same runs give the same bytes, but for what is marked as a time.

mod differences;
mod figures;
mod results;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::{
    differences::Differences,
    figures::{Predictions, figure, forests, reliabilities},
    results::{Finished, Group, Progress, Results},
    tables::{Decided, claims, comparisons, decide, means, values},
};
use super::{Plan, Show, claim::Verdict, plan::PlannedGrid, queue::duration};
use crate::{
    report::{
        document::{Cell, Column, Kind, Row, Table},
        page::{Block, Page, Section},
    },
    run_folder::write_whole,
};

/// What was written.
#[derive(Clone, Debug)]
pub struct Summary {
    /// For the terminal.
    pub text: String,
    /// The page.
    pub page: PathBuf,
    /// Runs that are not done.
    pub undone: usize,
}

/// Writes `report/`: `index.html` with all of it, `report.md` and, without its figures, `tables.md`, each table as CSV, Markdown and LaTeX, the numbers of each
/// table of means to their last digit as `NAME-values.csv`, and each figure as SVG or PNG.
///
/// # Errors
///
/// When a run's files cannot be read or the folder cannot be written to.
pub fn write(out: &Path, plan: &Plan) -> Result<Summary> {
    let results = Results::read(out, plan)?;
    let folder = out.join("report");
    fs::create_dir_all(&folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let mut predictions = Predictions::new(out);
    let mut sections = Vec::new();
    let mut all_claims = Vec::new();
    for planned in &plan.grids {
        let groups = Group::all(plan, planned, &results);
        let mut blocks = Vec::new();
        if planned.grid.show == Show::Table {
            let differences = Differences::of(&planned.grid, &groups)?;
            let decided = decide(&planned.grid, &groups, &differences);
            blocks.push(Block::Table(means(
                plan,
                planned,
                &groups,
                &differences,
                &results,
            )));
            if !decided.is_empty() {
                let name = format!("{}-claims", planned.name);
                let title = format!("{}: what the paper says of it", heading(planned));
                blocks.push(Block::Table(claims(&name, title, &decided)));
            }
            blocks.extend(forests(planned, &decided));
            blocks.extend(reliabilities(planned, &groups));
            blocks.extend(comparisons(planned, &groups, &differences).map(Block::Table));
            write_whole(
                &folder.join(format!("{}-values.csv", planned.name)),
                values(planned, &groups).as_bytes(),
            )?;
            all_claims.push((heading(planned), decided));
        } else {
            blocks.extend(figure(planned, &groups, &mut predictions)?);
        }
        sections.push(Section {
            id: planned.name.clone(),
            title: format!("{}: {}", heading(planned), planned.grid.title),
            blocks,
        });
    }
    sections.push(runs_section(plan, &results));
    sections.push(methods());
    let tally = tally(&all_claims);
    let page = Page {
        title: match &plan.preset {
            Some(_)
                if plan
                    .grids
                    .iter()
                    .any(|planned| planned.grid.paper.is_some()) =>
            {
                "DSC++: the paper's experiments, made again".into()
            }
            _ => plan.what.clone(),
        },
        lead: lead(plan, &results, tally.clone()),
        sections,
    };
    for block in page
        .lead
        .iter()
        .chain(page.sections.iter().flat_map(|section| &section.blocks))
    {
        if let Block::Table(table) = block {
            for (extension, text) in [
                ("csv", table.csv()),
                ("md", table.markdown()),
                ("tex", table.latex()),
            ] {
                write_whole(
                    &folder.join(format!("{}.{extension}", table.name)),
                    text.as_bytes(),
                )?;
            }
        }
    }
    page.save_figures(&folder)?;
    write_whole(&folder.join("report.md"), page.markdown().as_bytes())?;
    write_whole(
        &folder.join("tables.md"),
        without_figures(page.clone()).markdown().as_bytes(),
    )?;
    let path = folder.join("index.html");
    write_whole(&path, page.html().as_bytes())?;
    Ok(Summary {
        text: tally.map_or(String::new(), |table| table.markdown() + "\n"),
        page: path,
        undone: results.undone(),
    })
}

/// The page's words and tables alone.
fn without_figures(mut page: Page) -> Page {
    let stays = |block: &Block| !matches!(block, Block::Plots { .. } | Block::Pictures(_));
    page.lead.retain(stays);
    for section in &mut page.sections {
        section.blocks.retain(stays);
    }
    page.sections.retain(|section| !section.blocks.is_empty());
    page
}

/// `Table III`, or a user's grid by its name.
fn heading(planned: &PlannedGrid) -> String {
    planned
        .grid
        .paper
        .clone()
        .unwrap_or_else(|| planned.name.clone())
}

/// What stands above everything else.
fn lead(plan: &Plan, results: &Results, tally: Option<Table>) -> Vec<Block> {
    let done = plan.runs.len() - results.undone();
    let mut text = format!("{done} of {} runs are done.", plan.runs.len());
    if plan.runs.iter().any(|run| run.reduced.is_some()) {
        text.push_str(
            " Reduced: the networks are smaller and trained for less long than the paper's. Beside each row stands how. What holds here need not hold at full size, nor the other way round.",
        );
    }
    let made = format!(
        "Made by seg-train {} (commit {}) with the command below; nothing on this page was written by hand.",
        env!("CARGO_PKG_VERSION"),
        env!("SEG_TRAIN_COMMIT")
    );
    let mut blocks = vec![
        Block::Text(format!("{text}\n\n{made}")),
        Block::Code(plan.command.join(" ")),
    ];
    blocks.extend(tally.map(Block::Table));
    if !plan.missing.is_empty() {
        blocks.push(Block::Text(
            "Data sets that were not there, so that their rows say “not run”:".into(),
        ));
        blocks.push(Block::List(
            plan.missing
                .iter()
                .map(|missing| {
                    format!(
                        "{}: {}. It can be had from {}; terms: {}.",
                        missing.data, missing.why, missing.source, missing.terms
                    )
                })
                .collect(),
        ));
    }
    blocks
}

/// How many claims of each table hold, by metric.
fn tally(all: &[(String, Vec<Decided>)]) -> Option<Table> {
    let mut rows = Vec::new();
    for (heading, decided) in all {
        let mut first = true;
        for column in differences::COLUMNS {
            let of_column = || decided.iter().filter(|claim| claim.column == column);
            if of_column().next().is_none() {
                continue;
            }
            let count = |verdict: Option<Verdict>| {
                of_column()
                    .filter(|claim| claim.verdict == verdict)
                    .count()
                    .to_string()
            };
            let mut row = Row::of([
                Cell::new(heading),
                Cell::new(tables::metric(column)),
                Cell::new(count(Some(Verdict::Holds))),
                Cell::new(count(Some(Verdict::Undecided))),
                Cell::new(count(Some(Verdict::Fails))),
                Cell::new(count(None)),
            ]);
            row.group = std::mem::take(&mut first);
            rows.push(row);
        }
    }
    (!rows.is_empty()).then(|| Table {
        name: "claims".into(),
        title: "Which of the paper's claims hold here".into(),
        columns: vec![
            Column::left("Table"),
            Column::left("Metric"),
            Column::right("hold"),
            Column::right("undecided"),
            Column::right("fail"),
            Column::right("not run"),
        ],
        rows,
        notes: vec![tables::RULE.into()],
    })
}

/// Every run, what made it, and how long it took.
fn runs_section(plan: &Plan, results: &Results) -> Section {
    let mut rows = Vec::new();
    let mut times = Vec::new();
    let mut total = 0.0;
    for run in &plan.runs {
        let mut cells = vec![Cell::new(&run.name)];
        match results.get(&run.name) {
            Some(Progress::Done(finished)) => {
                let Finished {
                    epochs,
                    best_epoch,
                    seconds,
                    record,
                    ..
                } = &**finished;
                let of = |key: &str| record.get(key).cloned().unwrap_or_default();
                cells.extend([
                    Cell::new("done"),
                    Cell::new(epochs.to_string()),
                    Cell::new(best_epoch.to_string()),
                    Cell::new(of("commit")),
                    Cell::new(of("instruction_set")),
                ]);
                total += seconds;
                times.push(Row::of([
                    Cell::new(&run.name),
                    Cell::new(format!("{seconds:.0}")).kind(Kind::Time),
                ]));
            }
            Some(Progress::Failed(why)) => cells.push(Cell::new(format!("failed: {why}"))),
            Some(Progress::Begun(0)) | None => cells.push(Cell::new("not begun")),
            Some(Progress::Begun(epochs)) => {
                cells.push(Cell::new(format!("broken off after {epochs} epochs")));
            }
        }
        cells.resize(6, Cell::default());
        rows.push(Row::of(cells));
    }
    times.push(
        Row::of([
            Cell::new("all, one after the other"),
            Cell::new(duration(total)).kind(Kind::Time),
        ])
        .group(),
    );
    let table = |name: &str, title: &str, columns: Vec<Column>, rows, note: &str| {
        Block::Table(Table {
            name: name.into(),
            title: title.into(),
            columns,
            rows,
            notes: vec![note.into()],
        })
    };
    Section {
        id: "runs".into(),
        title: "Runs".into(),
        blocks: vec![
            table(
                "runs-done",
                "Runs",
                vec![
                    Column::left("Run"),
                    Column::left("State"),
                    Column::right("Epochs"),
                    Column::right("Best"),
                    Column::left("Commit"),
                    Column::left("Instruction set"),
                ],
                rows,
                "The weights of the best epoch, that with the lowest validation loss, are evaluated. The whole experiment of a run stands in its run.toml.",
            ),
            table(
                "times",
                "Training time",
                vec![Column::left("Run"), Column::right("Seconds")],
                times,
                "Wall-clock time of the epochs, validation included; runs side by side share the cores.",
            ),
        ],
    }
}

/// How the numbers came about, for a reader who would check them.
fn methods() -> Section {
    Section {
        id: "methods".into(),
        title: "How it was measured".into(),
        blocks: vec![Block::List(vec![
            "Overlaps (Dice, Jaccard, recall, precision) are of the mask at each image's own size; scores (both NLLs, Brier) and reliability are at the network's size, where its probabilities are. Both as in the authors' evaluation.".into(),
            "NLL is in nats a pixel. The proper one is over all classes (the paper's Eq. 1). The authors' evaluation, and so the paper's tables, keep the foreground's term alone, divided by all pixels: it is lower, no proper score, and is not raised by a confident false positive.".into(),
            "Every interval is at 95 %, of the mean over the test images. The files NAME-values.csv also have the normal and the bootstrap (BCa) intervals.".into(),
            "The unit of every test is the image. With several seeds the data set is divided anew with each; an image that is tested on more than once counts once, with its mean.".into(),
            tables::RULE.into(),
        ])],
    }
}
