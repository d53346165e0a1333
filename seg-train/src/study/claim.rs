//! What the paper says of two losses, and the rule by which it holds, fails or stays undecided here.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    metrics::ImageRow,
    stats::{
        Alternative, MeanInterval, cliffs_delta, matched_rank_biserial, rank_sum, signed_rank,
    },
};

/// A sentence of the paper: by this metric one loss is lower, higher or no different than another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Claim {
    /// The metric as the paper's tables name it: `nll`, `brier`, `dice` or `jaccard`.
    pub metric: Metric,
    /// The loss that the sentence is about.
    pub loss: String,
    /// The loss that it is compared with.
    pub than: String,
    /// What it is said to be.
    pub is: Relation,
    /// For `alike`: a mean difference within ± this is none. The default is ours, since the paper gives none: about the
    /// half-width of its own intervals.
    #[serde(default = "margin")]
    pub within: f64,
    /// Where the paper says it.
    #[serde(default)]
    pub section: String,
    /// The data sets that it is said of; all of the grid's where none is named. It is decided on those that stand in for
    /// them too.
    #[serde(default)]
    pub data: Vec<String>,
    /// The p-value that the paper gives for its own metric, a data set, as it stands there.
    #[serde(default)]
    pub p: BTreeMap<String, String>,
}

fn margin() -> f64 {
    0.01
}

/// A column of the paper's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// NLL. The paper's is of the foreground alone, which is no proper score; a claim about it is decided twice.
    Nll,
    /// Brier score.
    Brier,
    /// Dice.
    Dice,
    /// Jaccard.
    Jaccard,
}

impl Metric {
    /// The columns of [`ImageRow`] that decide a claim about the metric, the paper's own first.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Nll => &["nll_foreground", "nll"],
            Self::Brier => &["brier"],
            Self::Dice => &["dice"],
            Self::Jaccard => &["jaccard"],
        }
    }
}

/// What one loss is said to be beside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Its mean is lower.
    Lower,
    /// Its mean is higher.
    Higher,
    /// Its mean differs by less than anyone would mind.
    Alike,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As the paper says.
    Holds,
    /// The opposite.
    Fails,
    /// The images do not tell.
    Undecided,
}

/// A p-value below this is significant, as in the paper (II-F).
pub const SIGNIFICANT: f64 = 0.05;

/// Two losses over the same images by one metric: the first minus the second.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Images that both have a value for.
    pub images: usize,
    /// The mean of the images' differences and its interval.
    pub mean: Option<MeanInterval>,
    /// Wilcoxon's signed-rank test of the pairs, two-sided.
    pub signed_rank: f64,
    /// Wilcoxon's rank-sum test, two-sided: the paper's, which does not use that the images are the same.
    pub rank_sum: f64,
    /// Matched-pairs rank-biserial correlation.
    pub rank_biserial: Option<f64>,
    /// Cliff's δ.
    pub cliff: Option<f64>,
}

impl Difference {
    /// Compares paired values; none where there are none.
    ///
    /// # Errors
    ///
    /// When a value is no number.
    pub fn of(x: &[f64], y: &[f64]) -> Result<Option<Self>> {
        if x.is_empty() {
            return Ok(None);
        }
        let differences: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
        Ok(Some(Self {
            images: x.len(),
            mean: MeanInterval::of(&differences, 0.95),
            signed_rank: signed_rank(x, y, Alternative::TwoSided)?.p,
            rank_sum: rank_sum(x, y, Alternative::TwoSided)?.p,
            rank_biserial: matched_rank_biserial(x, y),
            cliff: cliffs_delta(x, y),
        }))
    }
}

impl Claim {
    /// The rule. `p` is the signed-rank test's, after Holm's correction.
    ///
    /// *Lower* and *higher* hold when the 95 % interval (t) of the mean difference lies wholly on the side that was claimed and p is
    /// below 0.05; they fail when it lies wholly on the other side and p is below 0.05. *Alike* holds when the interval
    /// lies wholly within ± `within`, and fails when it lies wholly outside: that a test finds no difference shows none to be
    /// absent. Everything else is undecided.
    pub fn verdict(&self, interval: Option<[f64; 2]>, p: f64) -> Verdict {
        let Some([low, high]) = interval else {
            return Verdict::Undecided;
        };
        let (holds, fails) = match self.is {
            Relation::Lower => (high < 0.0 && p < SIGNIFICANT, low > 0.0 && p < SIGNIFICANT),
            Relation::Higher => (low > 0.0 && p < SIGNIFICANT, high < 0.0 && p < SIGNIFICANT),
            Relation::Alike => (
                low > -self.within && high < self.within,
                low > self.within || high < -self.within,
            ),
        };
        match (holds, fails) {
            (true, _) => Verdict::Holds,
            (_, true) => Verdict::Fails,
            _ => Verdict::Undecided,
        }
    }
}

/// Whether so few images could ever give a significant p-value: the smallest that the signed-rank test has, when all
/// differences have one sign, corrected over a family of tests.
pub fn can_be_decided(images: usize, family: usize) -> bool {
    0.5_f64.powi(images as i32 - 1) * (family as f64) < SIGNIFICANT
}

/// Reads one column of [`ImageRow`]; none for a name that is no column.
pub fn column(name: &str) -> Option<fn(&ImageRow) -> Option<f64>> {
    ImageRow::columns()
        .find(|(column, _)| *column == name)
        .map(|(_, read)| read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(is: Relation) -> Claim {
        Claim {
            metric: Metric::Dice,
            loss: "dice++".into(),
            than: "dice".into(),
            is,
            within: 0.01,
            section: String::new(),
            data: Vec::new(),
            p: BTreeMap::new(),
        }
    }

    #[test]
    fn a_direction_needs_the_whole_interval_on_its_side_and_a_small_p() {
        use Verdict::{Fails, Holds, Undecided};
        for (interval, p, lower, higher) in [
            ([-0.3, -0.1], 0.01, Holds, Fails),
            ([-0.3, -0.1], 0.05, Undecided, Undecided),
            ([-0.3, 0.0], 0.01, Undecided, Undecided),
            ([-0.3, 0.1], 0.01, Undecided, Undecided),
            ([0.1, 0.3], 0.049, Fails, Holds),
        ] {
            assert_eq!(claim(Relation::Lower).verdict(Some(interval), p), lower);
            assert_eq!(claim(Relation::Higher).verdict(Some(interval), p), higher);
        }
        assert_eq!(claim(Relation::Lower).verdict(None, 0.0), Undecided);
    }

    #[test]
    fn six_images_never_decide_a_table() {
        assert!(can_be_decided(6, 1) && !can_be_decided(6, 2) && !can_be_decided(5, 1));
        assert!(can_be_decided(20, 500));
    }

    #[test]
    fn no_difference_is_shown_by_a_narrow_interval_and_not_by_a_large_p() {
        use Verdict::{Fails, Holds, Undecided};
        for (interval, expected) in [
            ([-0.009, 0.009], Holds),
            ([0.001, 0.009], Holds),
            ([-0.02, 0.02], Undecided),
            ([0.005, 0.02], Undecided),
            ([0.011, 0.02], Fails),
            ([-0.02, -0.011], Fails),
        ] {
            assert_eq!(
                claim(Relation::Alike).verdict(Some(interval), 0.9),
                expected,
                "{interval:?}"
            );
        }
    }

    #[test]
    fn a_claim_about_nll_is_decided_by_the_papers_and_by_the_proper_one() {
        assert_eq!(Metric::Nll.columns(), ["nll_foreground", "nll"]);
        for metric in [Metric::Nll, Metric::Brier, Metric::Dice, Metric::Jaccard] {
            assert!(metric.columns().iter().all(|name| column(name).is_some()));
        }
        assert!(column("colour").is_none());
    }
}
