//! Reports of runs that were never made: every number of every image is known.

use super::*;
use crate::{
    config::Preset,
    metrics::ImageRow,
    report::document::Table,
    study::{
        Grid,
        claim::{Difference, Metric},
        grid::PAPERS,
        plan::{Cell as Point, PlannedRun},
    },
};
use std::collections::BTreeMap;

/// What one run gives one image: NLL of both kinds, Dice.
type Values = (f64, f64);

/// A study of a grid whose runs gave `values(loss, seed)`: image, NLL, Dice; none where a run is not done.
fn study(
    text: &str,
    data: &str,
    values: impl Fn(usize, u64) -> Option<Vec<(String, Values)>>,
) -> (Plan, Results) {
    let grid = Grid::parse(text).unwrap();
    let (mut runs, mut cells, mut results) = (Vec::new(), Vec::new(), BTreeMap::new());
    for &seed in &grid.seeds {
        for (loss, entry) in grid.losses.iter().enumerate() {
            let name = format!("{loss}-{seed}");
            let config = if data == "phantom" {
                data.into()
            } else {
                format!("{data}:/d")
            };
            let mut experiment = Preset::Cpu.experiment(config.parse().unwrap());
            experiment.seed = seed;
            experiment.loss.clone_from(&entry.loss);
            cells.push(Point {
                data: data.into(),
                loss,
                setting: None,
                seed,
                run: name.clone(),
            });
            runs.push(PlannedRun {
                name: name.clone(),
                reduced: Some("small".into()),
                images: [1, 1, 0],
                experiment,
            });
            let progress = values(loss, seed).map_or(Progress::Begun(0), |values| {
                Progress::Done(Box::new(Finished {
                    rows: values
                        .into_iter()
                        .map(|(id, (nll, dice))| ImageRow {
                            id,
                            nll: Some(nll),
                            nll_foreground: Some(nll / 4.0),
                            brier: Some(nll / 2.0),
                            dice: Some(dice),
                            jaccard: Some(dice / 2.0),
                            ..ImageRow::default()
                        })
                        .collect(),
                    thresholds: Vec::new(),
                    reliability: Vec::new(),
                    shift: Vec::new(),
                    steps: Vec::new(),
                    epochs: 7,
                    best_epoch: 5,
                    seconds: 1.0,
                    record: BTreeMap::new(),
                }))
            });
            results.insert(name, progress);
        }
    }
    let plan = Plan {
        what: "test".into(),
        command: vec!["seg-train".into()],
        preset: None,
        grids: vec![PlannedGrid {
            name: "test".into(),
            grid,
            cells,
        }],
        runs,
        missing: Vec::new(),
    };
    (plan, Results(results))
}

const GRID: &str = "title = 't'
data = ['chase-db1']
losses = ['dice', {loss = 'dice++', name = 'DSC++'}]
seeds = [0, 1]
stand-in = { chase-db1 = 'drive' }
[[numbers]]
data = 'drive'
loss = 'dice++'
nll = [0.041, 0.035, 0.047]
brier = [0.024, 0.023, 0.025]
dice = [0.808, 0.802, 0.814]
jaccard = [0.678, 0.670, 0.686]
[[claim]]
metric = 'nll'
loss = 'dice++'
than = 'dice'
is = 'lower'
section = 'III-B'
p = { drive = 'p = 6e-8' }
";

/// `count` images, DSC++ lower by a tenth and a little that differs from image to image.
fn lower(count: usize) -> impl Fn(usize, u64) -> Option<Vec<(String, Values)>> {
    move |loss, _| {
        let image = |i: usize| {
            let nll = 0.5 + 0.01 * i as f64 - loss as f64 * (0.1 + 0.001 * i as f64);
            (i.to_string(), (nll, 0.8))
        };
        Some((0..count).map(image).collect())
    }
}

fn made(plan: &Plan, results: &Results) -> (Table, Vec<Decided>) {
    let planned = &plan.grids[0];
    let groups = Group::all(plan, planned, results);
    let differences = Differences::of(&planned.grid, &groups).unwrap();
    (
        means(plan, planned, &groups, &differences, results),
        decide(&planned.grid, &groups, &differences),
    )
}

#[test]
fn an_image_that_two_seeds_test_on_counts_once_with_its_mean() {
    let values = |_, seed| match seed {
        0 => Some(vec![("a".into(), (0.2, 0.5)), ("b".into(), (0.4, 0.5))]),
        _ => Some(vec![("b".into(), (0.6, 0.5)), ("c".into(), (0.9, 0.5))]),
    };
    let column = |data| {
        let (plan, results) = study(GRID, data, values);
        let groups = Group::all(&plan, &plan.grids[0], &results);
        groups[0].column(|row| row.nll)
    };
    assert_eq!(column("chase-db1"), [0.2, 0.5, 0.9]);
    // Images that are made differ from seed to seed, whatever their names.
    assert_eq!(column("phantom"), [0.2, 0.4, 0.6, 0.9]);
}

#[test]
fn a_claim_holds_by_both_nlls_with_enough_images_and_stays_undecided_with_few() {
    let verdicts = |count| {
        let (plan, results) = study(GRID, "chase-db1", lower(count));
        let (_, decided) = made(&plan, &results);
        let verdicts = decided.iter().map(|claim| (claim.column, claim.verdict));
        verdicts.collect::<Vec<_>>()
    };
    let both = |verdict| vec![("nll_foreground", Some(verdict)), ("nll", Some(verdict))];
    assert_eq!(verdicts(12), both(Verdict::Holds));
    // Five images, all lower: 2 / 2⁵, and five comparisons to correct for.
    assert_eq!(verdicts(5), both(Verdict::Undecided));
}

#[test]
fn p_values_are_corrected_over_all_comparisons_of_the_table() {
    let (plan, results) = study(GRID, "chase-db1", lower(8));
    let planned = &plan.grids[0];
    let groups = Group::all(&plan, planned, &results);
    let differences = Differences::of(&planned.grid, &groups).unwrap();
    assert_eq!(differences.len(), 5);
    let nll = differences.get(&groups[1], 0, "nll").unwrap();
    // 2 / 2⁸ for three metrics, 1 for two whose differences are all zero.
    assert!((nll.difference.signed_rank - 2.0 / 256.0).abs() < 1e-15);
    assert!((nll.signed_rank_holm - 5.0 * 2.0 / 256.0).abs() < 1e-15);
    let dice = differences.get(&groups[1], 0, "dice").unwrap();
    assert_eq!(dice.signed_rank_holm, 1.0);
    // DSC++ minus dice, not the other way round.
    assert!(nll.difference.mean.as_ref().unwrap().mean < 0.0);
}

#[test]
fn pairs_are_of_the_same_image_whatever_its_place() {
    let values = |loss, _| {
        let image = |i: usize| (i.to_string(), (i as f64 + 0.5 * loss as f64, 0.5));
        let mut images: Vec<_> = (0..9).map(image).collect();
        if loss == 1 {
            images.reverse();
            images.push(("only here".into(), (99.0, 0.5)));
        }
        Some(images)
    };
    let (plan, results) = study(GRID, "chase-db1", values);
    let planned = &plan.grids[0];
    let groups = Group::all(&plan, planned, &results);
    let differences = Differences::of(&planned.grid, &groups).unwrap();
    let Difference { images, mean, .. } =
        &differences.get(&groups[1], 0, "nll").unwrap().difference;
    let mean = mean.as_ref().unwrap();
    assert_eq!((*images, mean.mean, mean.sd), (9, 0.5, 0.0));
}

#[test]
fn a_seed_that_one_loss_lacks_is_left_out_of_the_pairs() {
    let values = |loss, seed| match (loss, seed) {
        (1, 1) => None,
        // The second seed is another matter altogether.
        (_, seed) => Some(vec![(
            "a".into(),
            (0.5 - 0.1 * loss as f64 + 9.0 * seed as f64, 0.5),
        )]),
    };
    let (plan, results) = study(GRID, "chase-db1", values);
    let groups = Group::all(&plan, &plan.grids[0], &results);
    assert_eq!(groups[0].column(|row| row.nll), [5.0]);
    assert_eq!(
        groups[1].pairs(&groups[0], |row| row.nll),
        (vec![0.4], vec![0.5])
    );
}

#[test]
fn a_row_says_what_is_best_what_differs_and_what_the_paper_has() {
    let (plan, results) = study(GRID, "chase-db1", lower(12));
    let (table, _) = made(&plan, &results);
    let row = |at: usize| {
        table.rows[at]
            .cells
            .iter()
            .map(|cell| cell.text.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(table.rows.len(), 3);
    assert_eq!(row(0)[..4], ["chase-db1", "dice", "here", "12"]);
    assert_eq!(row(1)[9], "reduced, 7 epochs, 2 seeds");
    assert_eq!(row(2)[2], "paper, drive");
    assert_eq!(row(2)[4], "0.041 (0.035 to 0.047)");
    assert_eq!(row(2)[5], "");
    let nll = |at: usize| {
        (
            table.rows[at].cells[5].strong,
            table.rows[at].cells[5].marks.clone(),
        )
    };
    assert_eq!(nll(0), (false, String::new()));
    assert_eq!(nll(1), (true, "*†".into()));
    // Alike: both are the best, and nothing differs.
    let dice = |at: usize| {
        (
            table.rows[at].cells[7].strong,
            table.rows[at].cells[7].marks.clone(),
        )
    };
    assert_eq!(
        (dice(0), dice(1)),
        ((true, String::new()), (true, String::new()))
    );
    assert!(
        table
            .notes
            .iter()
            .any(|note| note == "Reduced, chase-db1: small.")
    );
}

#[test]
fn runs_that_are_not_done_are_said_and_never_counted() {
    let some = lower(6);
    let (plan, mut results) = study(GRID, "chase-db1", move |loss, seed| {
        if loss == 1 && seed == 1 {
            None
        } else {
            some(loss, seed)
        }
    });
    results
        .0
        .insert("1-1".into(), Progress::Failed("the disk is full".into()));
    assert_eq!(results.undone(), 1);
    let (table, _) = made(&plan, &results);
    assert_eq!(
        table.rows[1].cells[9].text,
        "reduced, 7 epochs; 1 of 2 seeds: failed: the disk is full"
    );
    results.0.insert("1-0".into(), Progress::Begun(3));
    let (table, decided) = made(&plan, &results);
    assert_eq!(table.rows[1].cells[5].kind, Kind::NotRun);
    assert!(decided.iter().all(|claim| claim.verdict.is_none()));
}

#[test]
fn every_metric_of_a_claim_has_a_column_in_its_table() {
    for metric in [Metric::Nll, Metric::Brier, Metric::Dice, Metric::Jaccard] {
        for column in metric.columns() {
            assert!(PAPERS.contains(column));
        }
    }
}
