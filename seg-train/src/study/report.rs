//! The report of a study: one page, and its tables and figures as files.
//!
//! It is made from the run folders by rule, figures from their networks and one image each: the same runs give the same bytes, but
//! for the table of times.

mod differences;
mod figures;
mod gradients;
mod results;
mod shift;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use self::{
    differences::Differences,
    figures::{Predictions, figure, forests, reliabilities},
    results::{Finished, Group, Progress, Results},
    tables::{Decided, claims, comparisons, decide, means, values},
};
use super::{Plan, Show, claim::Verdict, grid::PAPERS, plan::PlannedGrid, queue::duration};
use crate::{
    report::{
        document::{Cell, Column, Kind, Row, Table, identifier},
        page::{Block, Page, Section},
        table::align_left,
    },
    store,
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
    store::create_folder(&folder)?;
    let mut predictions = Predictions::new(out);
    let mut sections = Vec::new();
    let mut all_claims = Vec::new();
    let mut files = Vec::new();
    for planned in &plan.grids {
        let groups = Group::all(plan, planned, &results);
        let mut blocks = Vec::new();
        if planned.grid.show == Show::Table {
            let (of_table, decided) = table(plan, planned, &groups, &results)?;
            blocks.extend(of_table);
            all_claims.push((heading(planned), decided));
            files.push((
                format!("{}-values.csv", identifier(&planned.name)),
                values(planned, &groups),
            ));
        } else {
            blocks.extend(figure(planned, &groups, &mut predictions));
        }
        blocks.extend(planned.grid.note.clone().map(Block::Text));
        sections.push(Section {
            id: format!("about-{}", planned.name),
            title: format!("{}: {}", heading(planned), planned.grid.title),
            blocks,
        });
    }
    sections.push(runs_section(plan, &results));
    sections.push(methods());
    let of_paper = plan
        .grids
        .iter()
        .any(|planned| planned.grid.paper.is_some());
    let tally = tally(&all_claims, of_paper);
    let page = Page {
        title: if of_paper {
            "DSC++: the paper's experiments, made again".into()
        } else {
            plan.what.clone()
        },
        lead: lead(plan, &results, tally.clone()),
        sections,
    };
    files.extend(forms(&page));
    write_files(&folder, &page, &files)?;
    Ok(Summary {
        text: tally.map_or_else(String::new, |table| plain(&table)),
        page: folder.join("index.html"),
        undone: results.undone(),
    })
}

/// A table for the terminal: its title and rows, without marks.
fn plain(table: &Table) -> String {
    let titles = table.columns.iter().map(|column| column.title.clone());
    let mut rows = vec![titles.collect::<Vec<String>>()];
    rows.extend(
        table
            .rows
            .iter()
            .map(|row| row.cells.iter().map(|cell| cell.text.clone()).collect()),
    );
    format!("{}:\n\n{}\n", table.title, align_left(&rows))
}

/// The part of a grid that is a table: means, claims, plots, tests; and the claims as they were decided.
fn table(
    plan: &Plan,
    planned: &PlannedGrid,
    groups: &[Group<'_>],
    results: &Results,
) -> Result<(Vec<Block>, Vec<Decided>)> {
    let differences = Differences::of(&planned.grid, groups)?;
    let decided = decide(&planned.grid, groups, &differences);
    let mut blocks = vec![Block::Table(means(
        plan,
        planned,
        groups,
        &differences,
        results,
    ))];
    if !decided.is_empty() {
        let of_paper = planned.grid.paper.is_some();
        let says = if of_paper {
            "what the paper says of it"
        } else {
            "claims"
        };
        blocks.push(Block::Table(claims(
            &format!("{}-claims", planned.name),
            format!("{}: {says}", heading(planned)),
            of_paper,
            &decided,
        )));
    }
    blocks.extend(forests(planned, &decided));
    blocks.extend(reliabilities(planned, groups));
    blocks.extend(comparisons(planned, groups, &differences).map(Block::Table));
    blocks.extend(shift::blocks(planned, groups)?);
    blocks.extend(gradients::table(planned, groups).map(Block::Table));
    Ok((blocks, decided))
}

/// The page and each of its tables in every form, by the names of their files.
fn forms(page: &Page) -> Vec<(String, String)> {
    let mut files = vec![
        ("index.html".into(), page.html()),
        ("report.md".into(), page.markdown()),
        ("tables.md".into(), without_figures(page.clone()).markdown()),
    ];
    let of_sections = page.sections.iter().flat_map(|section| &section.blocks);
    for block in page.lead.iter().chain(of_sections) {
        if let Block::Table(table) = block {
            let name = identifier(&table.name);
            files.extend([
                (format!("{name}.csv"), table.csv()),
                (format!("{name}.md"), table.markdown()),
                (format!("{name}.tex"), table.latex()),
            ]);
        }
    }
    files
}

/// Writes the files of a report and its figures, and removes what an earlier report wrote and this one does not, so that
/// nothing stale lies beside it. `files.json` says what a report wrote; of other files none is touched.
fn write_files(folder: &Path, page: &Page, files: &[(String, String)]) -> Result<()> {
    let list = folder.join("files.json");
    let earlier: Vec<String> = fs::read(&list)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let figures = page.save_figures(folder)?;
    let mut names: Vec<String> = figures
        .iter()
        .map(|name| name.display().to_string())
        .collect();
    for (name, text) in files {
        store::write(&folder.join(name), text.as_bytes())?;
        names.push(name.clone());
    }
    for name in earlier.iter().filter(|name| !names.contains(name)) {
        // One that is gone already is what was wanted; and a name that leads elsewhere was written by nobody here.
        if Path::new(name).components().count() == 1 {
            let _ = store::remove(&folder.join(name));
        }
    }
    store::write(&list, &serde_json::to_vec(&names)?)
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
            " Reduced: they differ from what the paper did, mostly in smaller images and networks and fewer epochs; under each table stands how. What holds here need not hold at full size, nor the other way round.",
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
fn tally(all: &[(String, Vec<Decided>)], of_paper: bool) -> Option<Table> {
    let mut rows = Vec::new();
    for (heading, decided) in all {
        let mut first = true;
        for column in PAPERS {
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
        title: if of_paper {
            "Which of the paper's claims hold here".into()
        } else {
            "Which claims hold".into()
        },
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
                    Cell::new(match of("gpu") {
                        cpu if cpu.is_empty() => of("instruction_set"),
                        gpu => format!("{gpu}, {}", of("precision")),
                    }),
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
            "What varies in every interval and test is the image. That the same network trained with another seed comes out otherwise is in none of them: with one seed a verdict is about two networks, with several about their mean. Images are taken as independent, though both eyes of a child (CHASE_DB1) or neighbouring frames of a video (CVC-ClinicDB) are not quite.".into(),
            "The unit of every test is the image. With several seeds the data set is divided anew with each, unless it comes with a test set of its own; an image that is tested on more than once counts once, with its mean.".into(),
            tables::RULE.into(),
        ])],
    }
}
