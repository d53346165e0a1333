//! What the runs of a study left behind, read back, and put together by data set, loss and setting.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Result, bail};

use crate::{
    data::Layout,
    metrics::{ImageRow, ImageThresholds, ReliabilityBin},
    run_folder::{
        EpochLine, RunFolder,
        tables::{read_reliability, read_rows, read_shift, read_thresholds},
    },
    shift::ShiftLine,
    study::{
        Plan,
        plan::{Cell, PlannedGrid, PlannedRun, run_folder},
        queue::{is_done, last_error},
    },
    watch::StepLine,
};

/// A run that is done.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) rows: Vec<ImageRow>,
    pub(super) thresholds: Vec<ImageThresholds>,
    pub(super) reliability: Vec<ReliabilityBin>,
    pub(super) epochs: usize,
    pub(super) best_epoch: usize,
    /// Each test image under each shift; none where the run was not asked.
    pub(super) shift: Vec<ShiftLine>,
    /// What the gradient was in each step; none where the run was not watched.
    pub(super) steps: Vec<StepLine>,
    /// Wall-clock seconds of training.
    pub(super) seconds: f64,
    /// What made it, as its `run.toml` has it.
    pub(super) record: BTreeMap<String, String>,
}

/// How far a run is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Done(Box<Finished>),
    Failed(String),
    /// Trained for some epochs, or none.
    Begun(usize),
}

/// Every run of a plan by its name.
#[derive(Clone, Debug)]
pub(super) struct Results(pub(super) BTreeMap<String, Progress>);

impl Results {
    pub(super) fn read(out: &Path, plan: &Plan) -> Result<Self> {
        let mut all = BTreeMap::new();
        for run in &plan.runs {
            all.insert(run.name.clone(), Progress::of(out, run)?);
        }
        Ok(Self(all))
    }

    pub(super) fn get(&self, run: &str) -> Option<&Progress> {
        self.0.get(run)
    }

    pub(super) fn finished(&self, run: &str) -> Option<&Finished> {
        match self.0.get(run) {
            Some(Progress::Done(finished)) => Some(finished),
            _ => None,
        }
    }

    pub(super) fn undone(&self) -> usize {
        self.0
            .values()
            .filter(|progress| !matches!(progress, Progress::Done(_)))
            .count()
    }
}

impl Progress {
    fn of(out: &Path, run: &PlannedRun) -> Result<Self> {
        let path = run_folder(out, &run.name);
        if !is_done(out, &run.name) {
            if let Some(why) = last_error(out, &run.name) {
                return Ok(Self::Failed(why));
            }
            let epochs = match RunFolder::open(&path) {
                Ok(folder) => folder.log()?.len(),
                Err(_) => 0,
            };
            return Ok(Self::Begun(epochs));
        }
        let folder = RunFolder::open(&path)?;
        let rows = read_rows(&folder.file("metrics.csv"))?;
        if rows.len() != run.images[2] {
            bail!(
                "{} has {} images and the test set {}; remove summary.json beside it, and the run is evaluated again",
                folder.file("metrics.csv").display(),
                rows.len(),
                run.images[2]
            );
        }
        let log: Vec<EpochLine> = folder.log()?;
        // More than two classes have no thresholds.
        let two_classes = run.experiment.unet.classes == 2;
        Ok(Self::Done(Box::new(Finished {
            rows,
            thresholds: if two_classes {
                read_thresholds(&folder.file("thresholds.csv"))?
            } else {
                Vec::new()
            },
            reliability: if two_classes {
                read_reliability(&folder.file("reliability.csv"))?
            } else {
                Vec::new()
            },
            shift: if run.experiment.metrics.shift {
                read_shift(&folder.file(ShiftLine::NAME))?
            } else {
                Vec::new()
            },
            steps: if run.experiment.recipe.watch {
                StepLine::read(&folder.file(StepLine::NAME))?
            } else {
                Vec::new()
            },
            epochs: log.len(),
            best_epoch: log
                .iter()
                .rfind(|line| line.best)
                .map_or(0, |line| line.epoch),
            seconds: folder.training_seconds()?,
            record: folder.record()?,
        })))
    }
}

/// What tells one test image of a data set from another. Images that the program makes differ from seed to seed though
/// their names do not.
pub(super) type ImageKey = (u64, String);

/// One row of a table: a data set, a loss and a setting, with the runs of every seed.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) data: &'a str,
    /// The number of the loss in the grid.
    pub(super) loss: usize,
    pub(super) setting: Option<&'a str>,
    /// One a seed.
    pub(super) cells: Vec<&'a Cell>,
    pub(super) runs: Vec<(&'a PlannedRun, &'a Finished)>,
}

impl<'a> Group<'a> {
    /// The groups of a grid, in the order of its axes; of data sets that are missing there are none.
    pub(super) fn all(plan: &'a Plan, planned: &'a PlannedGrid, results: &'a Results) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for cell in &planned.cells {
            let setting = cell.setting.as_deref();
            let place = groups.iter().position(|group| {
                (group.data, group.loss, group.setting) == (&cell.data, cell.loss, setting)
            });
            let place = place.unwrap_or_else(|| {
                groups.push(Self {
                    data: &cell.data,
                    loss: cell.loss,
                    setting,
                    cells: Vec::new(),
                    runs: Vec::new(),
                });
                groups.len() - 1
            });
            groups[place].cells.push(cell);
            if let (Some(run), Some(finished)) = (plan.run(&cell.run), results.finished(&cell.run))
            {
                groups[place].runs.push((run, finished));
            }
        }
        groups
    }

    /// The value of each test image under each seed that it is tested with.
    fn all_values(
        &self,
        read: impl Fn(&Finished, usize) -> Option<f64>,
    ) -> BTreeMap<(ImageKey, u64), f64> {
        let mut all = BTreeMap::new();
        for (run, finished) in &self.runs {
            let seed = run.experiment.seed;
            let generated = matches!(run.experiment.data.kind.row().layout, Layout::Generated);
            for (place, row) in finished.rows.iter().enumerate() {
                if let Some(value) = read(finished, place) {
                    let key = (if generated { seed } else { 0 }, row.id.clone());
                    all.insert((key, seed), value);
                }
            }
        }
        all
    }

    /// The value of each test image. An image that is in the test set of several seeds counts once, with the mean of its
    /// values: the image is what varies, not the pair of image and network.
    pub(super) fn values(&self, read: impl Fn(&Finished, usize) -> Option<f64>) -> Vec<f64> {
        by_image(&self.all_values(read), |_| true)
    }

    /// The values of a column of the table of images.
    pub(super) fn column(&self, read: fn(&ImageRow) -> Option<f64>) -> Vec<f64> {
        self.values(|finished, place| read(&finished.rows[place]))
    }

    /// The images that it has a value of a column for.
    pub(super) fn images(&self, read: fn(&ImageRow) -> Option<f64>) -> BTreeSet<ImageKey> {
        let values = self.all_values(|finished, place| read(&finished.rows[place]));
        values.into_keys().map(|(image, _)| image).collect()
    }

    /// The value of each test image under each seed and a kind of shift, at a strength or as the mean over all of them.
    fn all_shifted(
        &self,
        kind: &str,
        strength: Option<u8>,
        column: &str,
    ) -> BTreeMap<(ImageKey, u64), f64> {
        let mut all: BTreeMap<(ImageKey, u64), Vec<f64>> = BTreeMap::new();
        for (run, finished) in &self.runs {
            let seed = run.experiment.seed;
            let generated = matches!(run.experiment.data.kind.row().layout, Layout::Generated);
            for line in &finished.shift {
                let (found, at) = line.kind();
                if found == kind
                    && strength.is_none_or(|wanted| wanted == at)
                    && let Some(value) = line.value(column)
                {
                    let key = (if generated { seed } else { 0 }, line.id.clone());
                    all.entry((key, seed)).or_default().push(value);
                }
            }
        }
        let means = all.into_iter().map(|(key, values)| (key, mean(&values)));
        means.collect()
    }

    /// The value of each image under a shift, as [`values`](Self::values) has those without.
    pub(super) fn shifted(&self, kind: &str, strength: Option<u8>, column: &str) -> Vec<f64> {
        by_image(&self.all_shifted(kind, strength, column), |_| true)
    }

    /// The values under a shift that two groups have for the same images under the same seeds, in one order.
    pub(super) fn shifted_pairs(
        &self,
        other: &Self,
        kind: &str,
        column: &str,
    ) -> (Vec<f64>, Vec<f64>) {
        let of = |group: &Self| group.all_shifted(kind, None, column);
        let (x, y) = (of(self), of(other));
        (
            by_image(&x, |key| y.contains_key(key)),
            by_image(&y, |key| x.contains_key(key)),
        )
    }

    /// The values of a column that two groups have for the same images under the same seeds, in one order.
    pub(super) fn pairs(
        &self,
        other: &Self,
        read: fn(&ImageRow) -> Option<f64>,
    ) -> (Vec<f64>, Vec<f64>) {
        let of = |group: &Self| group.all_values(|finished, place| read(&finished.rows[place]));
        let (x, y) = (of(self), of(other));
        (
            by_image(&x, |key| y.contains_key(key)),
            by_image(&y, |key| x.contains_key(key)),
        )
    }
}

/// The mean of each image's values, of those that count, in the order of the images.
fn by_image(
    values: &BTreeMap<(ImageKey, u64), f64>,
    counts: impl Fn(&(ImageKey, u64)) -> bool,
) -> Vec<f64> {
    let mut images: BTreeMap<&ImageKey, Vec<f64>> = BTreeMap::new();
    for (key, value) in values.iter().filter(|(key, _)| counts(key)) {
        images.entry(&key.0).or_default().push(*value);
    }
    images.into_values().map(|values| mean(&values)).collect()
}

/// The mean; NaN of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
