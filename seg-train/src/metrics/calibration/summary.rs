//! What the calibration of a data set comes to.

use super::{Decomposition, Errors, Reliability, TruthDistance, Volume};
use serde::{Deserialize, Serialize};

/// All figures of a data set's probabilities, over the pixels of all images as one lot; `None` is 0/0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationSummary {
    /// Images, with those of which not a pixel counts.
    pub images: u64,
    /// Pixels that count.
    pub pixels: u64,
    /// Negative log-likelihood over all classes, in nats a pixel ([`Scores::nll`](crate::metrics::Scores::nll)).
    pub nll: Option<f64>,
    /// The Brier score and its parts, each the mean over all classes.
    pub brier: Option<Decomposition>,
    /// The ways to look at it: `foreground` first, then `class 1`, `class 2`, …, `top label` and `boundary`.
    pub views: Vec<View>,
    /// Expected against true volume.
    pub volume: Volume,
    /// Distance from the true probabilities, over the images where they are known.
    pub truth: Option<TruthDistance>,
    /// Data-set reliability histogram: a row a bin of the foreground's confidence, in it how many images had an accuracy
    /// in each of as many bins. Empty if there are more than 100 bins.
    pub histogram: Vec<Vec<u64>>,
}

impl CalibrationSummary {
    /// A view by its name.
    pub fn view(&self, name: &str) -> Option<&View> {
        self.views.iter().find(|view| view.name == name)
    }
}

/// One way to look at calibration: which probability is the confidence and when it is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// `foreground`: each foreground class against the rest, errors the mean over these classes and the diagram of their
    /// pixels as one lot; `class 1` and so on: that class against the rest; `top label`: the most probable class and
    /// whether it is the true one; `boundary`: as `foreground`, of the pixels near the truth's boundary alone.
    pub name: String,
    /// Pixels; with several foreground classes, `foreground` and `boundary` count a pixel once for each.
    pub pixels: u64,
    /// Over bins of equal width.
    pub equal_width: Errors,
    /// Over as many of equal mass, cut from fine cells.
    pub equal_mass: Errors,
    /// The bins of equal width.
    pub reliability: Vec<Reliability>,
}
