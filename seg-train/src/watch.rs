//! `steps.csv`: what the gradient was in each training step, of a run with `recipe.watch`.
//!
//! A Dice loss divides by what it finds, so that little foreground makes a large gradient; with γ above 1 the errors in
//! the denominator are smaller still. This is the record to look that up in. To watch a run changes no bit of it.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::{open, run_folder::RunFolder, state::Position, store};

/// One line of `steps.csv`. An empty cell is a value that there is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLine {
    /// The epoch, counted from one.
    pub epoch: usize,
    /// The step within the epoch, counted from one.
    pub step: usize,
    /// The loss of the step's batch; `NaN` or `inf` where that is what it was.
    pub loss: f64,
    /// Euclidean norm of the gradient in the logits of the batch; none where the loss is no number.
    pub logits_gradient: Option<f64>,
    /// Euclidean norm of the gradient in all weights, before it is clipped; none where the loss is no number.
    pub weights_gradient: Option<f64>,
    /// The smallest number that the loss divides by: `TP + α FP + β FN + s` of an item and class, in pixels, with γ in FP
    /// and FN ([`Loss::denominators`](dice_losses::Loss::denominators)); none for a loss of pixels alone, and where no
    /// class that counts is there.
    pub smallest_denominator: Option<f64>,
    /// The learning rate.
    pub lr: f64,
}

impl StepLine {
    /// The file.
    pub const NAME: &str = "steps.csv";

    const COLUMNS: [&str; 7] = [
        "epoch",
        "step",
        "loss",
        "logits_gradient",
        "weights_gradient",
        "smallest_denominator",
        "lr",
    ];

    /// The step that comes next, of which no more is known than its loss.
    pub(crate) fn next(position: &Position, loss: f64) -> Self {
        Self {
            epoch: position.epoch + 1,
            step: position.begun.steps + 1,
            loss,
            logits_gradient: None,
            weights_gradient: None,
            smallest_denominator: None,
            lr: position.lr,
        }
    }

    /// Reads `steps.csv`, oldest step first. What a crash left of a last line is left out.
    ///
    /// ```
    /// use seg_train::watch::StepLine;
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join(StepLine::NAME);
    /// let header = "epoch,step,loss,logits_gradient,weights_gradient,smallest_denominator,lr";
    /// std::fs::write(&path, format!("{header}\n1,1,0.7,0.01,2.5,,0.1\n1,2,0."))?;
    /// let steps = StepLine::read(&path)?;
    /// assert_eq!((steps.len(), steps[0].weights_gradient, steps[0].smallest_denominator), (1, Some(2.5), None));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the file is missing or is no such table; the message names the file and the line.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let bytes =
            open::record(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n');
        let mut reader = csv::Reader::from_reader(&bytes[..whole.map_or(0, |end| end + 1)]);
        let shown = || path.display().to_string();
        let found = reader.headers().with_context(shown)?;
        ensure!(
            *found == Self::COLUMNS[..],
            "{} has the columns {}, expected {}; move it away, and it begins anew",
            path.display(),
            found.iter().collect::<Vec<_>>().join(","),
            Self::COLUMNS.join(",")
        );
        let lines = reader.deserialize().collect::<Result<_, csv::Error>>();
        lines.with_context(shown)
    }
}

/// The lines of a run that trains. They are kept until a state is written, which so never knows of a step that the file
/// does not.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    unwritten: Vec<StepLine>,
}

impl Watch {
    /// Goes on from a state: lines of later steps, which a crash may leave, are cut off, since those steps are made again.
    pub(crate) fn open(folder: &RunFolder, position: &Position) -> Result<Self> {
        let path = folder.file(StepLine::NAME);
        let mut lines = Vec::new();
        if path.exists() {
            lines = StepLine::read(&path)?;
            let last = (position.epoch + 1, position.begun.steps);
            lines.retain(|line| (line.epoch, line.step) <= last);
        }
        let mut text = StepLine::COLUMNS.join(",") + "\n";
        text.push_str(&rows(&lines)?);
        folder.write(StepLine::NAME, text.as_bytes())?;
        Ok(Self {
            path,
            unwritten: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, line: StepLine) {
        self.unwritten.push(line);
    }

    /// Writes the lines there are.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.unwritten.is_empty() {
            store::append(&self.path, rows(&self.unwritten)?.as_bytes())?;
            self.unwritten.clear();
        }
        Ok(())
    }
}

/// Lines without a header.
fn rows(lines: &[StepLine]) -> Result<String> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    for line in lines {
        writer.serialize(line)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// The gradient's length, from the squares of one variable's part of it after the other, in whatever order they come.
#[derive(Debug)]
pub(crate) struct Squares(Vec<f64>);

impl Squares {
    pub(crate) fn of(variables: usize) -> Self {
        Self(vec![0.0; variables])
    }

    pub(crate) fn add(&mut self, at: usize, gradient: &Tensor) -> Result<()> {
        self.0[at] = crate::optim::sum_of_squares(gradient)?;
        Ok(())
    }

    /// The same bits as [`norm`](crate::optim::norm) of all of them in the order of the variables.
    pub(crate) fn norm(&self) -> f64 {
        self.0.iter().fold(0.0, |sum, squares| sum + squares).sqrt()
    }
}

/// The smallest of some denominators; NaN where one is, and none of none.
pub(crate) fn smallest(denominators: &[f64]) -> Option<f64> {
    denominators
        .iter()
        .copied()
        .reduce(|a, b| if a.is_nan() || a < b { a } else { b })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{config::Preset, optim::norm, run_folder::testing, state::Begun};

    fn line(epoch: usize, step: usize) -> StepLine {
        StepLine {
            epoch,
            step,
            loss: 1.0 / 3.0,
            logits_gradient: Some(5e-324),
            weights_gradient: Some(0.1 + 0.2),
            smallest_denominator: None,
            lr: 0.1,
        }
    }

    fn at(epoch: usize, steps: usize) -> Position {
        let experiment = Preset::Phantom.experiment("phantom".parse().unwrap());
        let mut position = Position::start(&experiment.recipe);
        position.epoch = epoch;
        position.begun = Begun {
            steps,
            ..Begun::default()
        };
        position
    }

    #[test]
    fn lines_come_back_with_their_bits_and_what_no_state_has_seen_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let folder = testing::folder(dir.path());
        let path = folder.file(StepLine::NAME);
        let mut watch = Watch::open(&folder, &at(0, 0)).unwrap();
        assert_eq!(StepLine::read(&path).unwrap(), []);
        let steps = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(epoch, step)| line(epoch, step));
        for line in &steps[..3] {
            watch.add(line.clone());
        }
        assert_eq!(StepLine::read(&path).unwrap(), []);
        watch.flush().unwrap();
        watch.flush().unwrap();
        watch.add(steps[3].clone());
        watch.flush().unwrap();
        assert_eq!(StepLine::read(&path).unwrap(), steps);
        for (position, left) in [(at(2, 0), 4), (at(1, 1), 3), (at(1, 0), 2), (at(0, 1), 1)] {
            let _ = Watch::open(&folder, &position).unwrap();
            assert_eq!(StepLine::read(&path).unwrap(), steps[..left]);
        }
    }

    #[test]
    fn what_a_crash_left_of_a_line_is_left_out_and_other_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = testing::folder(dir.path());
        let path = folder.file(StepLine::NAME);
        let header = StepLine::COLUMNS.join(",");
        let read = |rest: &str| {
            std::fs::write(&path, format!("{header}\n{rest}")).unwrap();
            StepLine::read(&path)
        };
        // As numbers the half line would be whole.
        let steps = read("1,1,NaN,,,,0.1\n1,2,0.5,1,2,3,0.0").unwrap();
        assert!(steps[0].loss.is_nan() && steps.len() == 1);
        let damaged = format!("{:#}", read("1,1,x,,,,0.1\n").unwrap_err());
        assert!(
            damaged.starts_with(&path.display().to_string()) && damaged.contains("line: 2"),
            "{damaged}"
        );
        std::fs::write(&path, "a,b\n").unwrap();
        assert_eq!(
            StepLine::read(&path).unwrap_err().to_string(),
            format!(
                "{} has the columns a,b, expected {header}; move it away, and it begins anew",
                path.display()
            )
        );
    }

    #[test]
    fn the_norm_has_the_bits_of_that_of_all_at_once_in_whatever_order_they_come() {
        let tensors = [0.3_f32, -1.7, 1e-9, 40.0].map(|x| {
            let values: Vec<f32> = (0..100).map(|i| x * (i as f32).cos()).collect();
            Tensor::from_vec(values, 100, &Device::Cpu).unwrap()
        });
        let mut squares = Squares::of(4);
        for at in [2, 0, 3, 1] {
            squares.add(at, &tensors[at]).unwrap();
        }
        let all: Vec<&Tensor> = tensors.iter().collect();
        assert_eq!(squares.norm().to_bits(), norm(&all).unwrap().to_bits());
    }

    #[test]
    fn the_smallest_of_none_is_none_and_a_nan_is_not_passed_over() {
        assert_eq!(smallest(&[]), None);
        assert_eq!(smallest(&[3.0, 1.0, 2.0]), Some(1.0));
        for with_nan in [
            [f64::NAN, 1.0, 2.0],
            [1.0, f64::NAN, 2.0],
            [2.0, 1.0, f64::NAN],
        ] {
            assert!(smallest(&with_nan).unwrap().is_nan(), "{with_nan:?}");
        }
    }
}
