//! A grid of experiments as data: data sets × losses × settings × seeds, what to show of it, and what the paper says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use dice_losses::LossSpec;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::claim::Claim;
use crate::{
    config::{parse, typed},
    metrics::ImageRow,
};

/// A grid, as a file of `configs/` or a user's own holds it.
///
/// ```
/// use seg_train::study::Grid;
/// let grid = Grid::parse("title = 'γ on the phantom'\ndata = ['phantom']\nlosses = ['dice', 'dice++:gamma=3']")?;
/// assert_eq!(grid.losses[1].name, "dice++:gamma=3");
/// assert_eq!(grid.seeds, [0]);
/// # anyhow::Ok(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grid {
    /// What it is about: the heading of its part of the report.
    pub title: String,
    /// Where in the paper it stands, such as `Table III`.
    #[serde(default)]
    pub paper: Option<String>,
    /// What else is to be said, such as numbers of the paper's text.
    #[serde(default)]
    pub note: Option<String>,
    /// What the report makes of it.
    #[serde(default)]
    pub show: Show,
    /// Data sets: `phantom`, a kind that is looked for below `--data-root`, or `KIND:PATH`.
    pub data: Vec<String>,
    /// The losses; the first is the one that others are compared with, unless `compare` says otherwise.
    pub losses: Vec<Entry>,
    /// Seeds: every run is made once with each.
    #[serde(default = "first_seed")]
    pub seeds: Vec<u64>,
    /// Where every experiment starts from, and the scale; a preset named on the command line comes before it.
    #[serde(default)]
    pub preset: Option<String>,
    /// Keys of the experiment, set for every run.
    #[serde(default)]
    pub set: Table,
    /// An axis of its own: settings by name, each run is made once with each.
    #[serde(default)]
    pub settings: BTreeMap<String, Table>,
    /// What each loss is compared with.
    #[serde(default)]
    pub compare: Compare,
    /// For `compare = "named"`: the loss.
    #[serde(default)]
    pub base: Option<String>,
    /// For data sets that the paper does not have: the one whose numbers stand beside theirs.
    #[serde(default)]
    pub stand_in: BTreeMap<String, String>,
    /// The metrics of its tables and tests; none named: those of the paper's tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The paper's own numbers.
    #[serde(default)]
    pub numbers: Vec<Numbers>,
    /// What the paper says of them.
    #[serde(default, rename = "claim")]
    pub claims: Vec<Claim>,
    /// What is less at a smaller scale, by the name of its preset.
    #[serde(default)]
    pub at: BTreeMap<String, Scale>,
}

/// What the report makes of a grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Show {
    /// Means with intervals, tests and claims (Tables III to V).
    #[default]
    Table,
    /// One image's path from prediction to heat map (Figure 1).
    Pipeline,
    /// Heat maps and histograms of one image a loss (Figure 2).
    Histograms,
    /// Image, truth and heat maps a data set (Figure 3).
    HeatMaps,
    /// Recall, precision and Dice by threshold, and overlays (Figure 4).
    Thresholds,
}

/// A loss, what is done besides, and what that is called in the report: a row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "EntryText")]
pub struct Entry {
    /// The loss, as `dice_losses::LossSpec` reads it.
    pub loss: String,
    /// Its name in tables and figures.
    pub name: String,
    /// Keys of the experiment for this row alone, such as a scaling.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub set: Table,
}

impl Entry {
    /// The keys that its runs set, as `--set` takes them.
    pub fn assignments(&self) -> Vec<String> {
        let mut all = Vec::new();
        flatten("", &self.set, &mut all);
        all
    }

    /// Loss and keys in one text, the same however the loss is spelt.
    fn in_full(&self) -> Result<String> {
        let all = [vec![in_full(&self.loss)?], self.assignments()].concat();
        Ok(all.join(" "))
    }
}

/// In a file a loss may be a word alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum EntryText {
    Loss(String),
    Named {
        loss: String,
        name: String,
        #[serde(default)]
        set: Table,
    },
}

impl From<EntryText> for Entry {
    fn from(text: EntryText) -> Self {
        match text {
            EntryText::Loss(loss) => Self {
                name: loss.clone(),
                loss,
                set: Table::new(),
            },
            EntryText::Named { loss, name, set } => Self { loss, name, set },
        }
    }
}

/// What the losses of a grid are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// Each with the first.
    #[default]
    First,
    /// Each that has `++` with the same loss without.
    Plain,
    /// Each with the loss that `base` names.
    Named,
}

/// The paper's numbers for one row of a table: mean, and both ends of the 95 % interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// The data set.
    pub data: String,
    /// The loss.
    pub loss: String,
    /// NLL of the foreground alone: what the paper's tables hold under NLL.
    pub nll: [f64; 3],
    /// Brier score.
    pub brier: [f64; 3],
    /// Dice.
    pub dice: [f64; 3],
    /// Jaccard.
    pub jaccard: [f64; 3],
}

impl Numbers {
    /// The numbers of a column of `ImageRow`; none where the paper has none.
    pub fn of(&self, column: &str) -> Option<[f64; 3]> {
        match column {
            "nll_foreground" => Some(self.nll),
            "brier" => Some(self.brier),
            "dice" => Some(self.dice),
            "jaccard" => Some(self.jaccard),
            _ => None,
        }
    }
}

/// What a smaller scale has in the place of the grid's own; what is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scale {
    /// Data sets.
    #[serde(default)]
    pub data: Option<Vec<String>>,
    /// Those of the grid's losses that are trained.
    #[serde(default)]
    pub losses: Option<Vec<String>>,
    /// Seeds.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
    /// Stand-ins.
    #[serde(default)]
    pub stand_in: Option<BTreeMap<String, String>>,
}

/// The columns of a table of the paper, with both NLLs: the paper's first, the proper one beside it.
pub(crate) const PAPERS: [&str; 5] = ["nll_foreground", "nll", "brier", "dice", "jaccard"];

fn first_seed() -> Vec<u64> {
    vec![0]
}

/// A loss in full, so that one loss has one spelling.
///
/// # Errors
///
/// When there is no such loss.
pub(super) fn in_full(loss: &str) -> Result<String> {
    Ok(loss.parse::<LossSpec>()?.to_string())
}

impl Grid {
    /// Reads a grid and checks what can be checked without data.
    ///
    /// # Errors
    ///
    /// Syntax errors, unknown keys, unknown or repeated losses, an empty axis; one sentence.
    pub fn parse(text: &str) -> Result<Self> {
        let grid: Self = typed(parse(text)?)?;
        grid.check()?;
        Ok(grid)
    }

    fn check(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for entry in &self.losses {
            let loss = &entry.loss;
            let full = entry
                .in_full()
                .with_context(|| format!("the loss `{loss}`"))?;
            if let Some(other) = seen.insert(full, loss) {
                bail!(
                    "the losses `{other}` and `{loss}` are the same; name each loss of a grid once"
                );
            }
        }
        if let Some(name) = repeated(
            &self
                .losses
                .iter()
                .map(|entry| &entry.name)
                .collect::<Vec<_>>(),
        ) {
            bail!("two losses are called {name}; give each a name of its own");
        }
        for claim in &self.claims {
            if self.position(&claim.loss).is_some()
                && self.position(&claim.loss) == self.position(&claim.than)
            {
                bail!(
                    "a claim compares {} with itself; name two losses",
                    claim.loss
                );
            }
        }
        for (place, table) in std::iter::once(("set".into(), &self.set))
            .chain(
                self.settings
                    .iter()
                    .map(|(name, table)| (format!("settings.{name}"), table)),
            )
            .chain(
                self.losses
                    .iter()
                    .map(|entry| (format!("{}'s set", entry.name), &entry.set)),
            )
        {
            let mut keys = Vec::new();
            flatten("", table, &mut keys);
            refuse_axes(&place, &keys)?;
        }
        let known = |loss: &str| -> Result<()> {
            if self.position(loss).is_some() {
                return Ok(());
            }
            if !self.losses.iter().any(|entry| entry.name == loss) {
                in_full(loss)?;
            }
            bail!("`{loss}` is none of the grid's losses; name it under losses too")
        };
        let of_numbers = self.numbers.iter().map(|row| &row.loss);
        let of_claims = self
            .claims
            .iter()
            .flat_map(|claim| [&claim.loss, &claim.than]);
        let of_scales = self
            .at
            .values()
            .flat_map(|scale| scale.losses.iter().flatten());
        if (self.compare == Compare::Named) != self.base.is_some() {
            bail!(
                "compare = \"named\" and base belong together; say which loss the others are compared with"
            );
        }
        for loss in of_numbers
            .chain(of_claims)
            .chain(of_scales)
            .chain(&self.base)
        {
            known(loss)?;
        }
        self.check_columns()?;
        for (axis, empty) in [
            ("data", self.data.is_empty()),
            ("losses", self.losses.is_empty()),
            ("seeds", self.seeds.is_empty()),
        ] {
            if empty {
                bail!("{axis} is empty; a grid needs at least one of each axis");
            }
        }
        for (axis, repeated) in [
            ("data", repeated(&self.data)),
            ("seeds", repeated(&self.seeds)),
        ] {
            if let Some(value) = repeated {
                bail!("{axis} names {value} twice; name it once");
            }
        }
        Ok(())
    }

    /// Refuses a column that no image has.
    fn check_columns(&self) -> Result<()> {
        let known: Vec<&str> = ImageRow::columns().map(|(name, _)| name).collect();
        if let Some(odd) = self.columns.iter().find(|name| !known.contains(&&name[..])) {
            bail!(
                "columns names `{odd}`, which is no metric of an image; known are {}",
                known.join(", ")
            );
        }
        Ok(())
    }

    /// The grid at a scale: what `at` has for it in the place of the grid's own.
    #[must_use]
    pub fn at_scale(mut self, scale: &str) -> Self {
        let Some(Scale {
            data,
            losses,
            seeds,
            stand_in,
        }) = self.at.remove(scale)
        else {
            return self;
        };
        if let Some(losses) = losses {
            let kept: Vec<usize> = losses
                .iter()
                .filter_map(|loss| self.position(loss))
                .collect();
            let mut place = 0..;
            self.losses
                .retain(|_| place.next().is_some_and(|place| kept.contains(&place)));
        }
        self.data = data.unwrap_or(self.data);
        self.seeds = seeds.unwrap_or(self.seeds);
        self.stand_in = stand_in.unwrap_or(self.stand_in);
        self
    }

    /// The names of the axis of settings; one without a name where the grid has none.
    pub fn setting_names(&self) -> Vec<Option<&str>> {
        if self.settings.is_empty() {
            return vec![None];
        }
        self.settings
            .keys()
            .map(|name| Some(name.as_str()))
            .collect()
    }

    /// The keys that a run with a setting sets, as `--set` takes them.
    pub fn assignments(&self, setting: Option<&str>) -> Vec<String> {
        let mut all = Vec::new();
        flatten("", &self.set, &mut all);
        if let Some(table) = setting.and_then(|name| self.settings.get(name)) {
            flatten("", table, &mut all);
        }
        all
    }

    /// The loss that loss number `at` is compared with; none for those that others are compared with.
    pub fn compared_with(&self, at: usize) -> Option<usize> {
        match self.compare {
            Compare::First => (at > 0).then_some(0),
            Compare::Plain => self.position(&plain(&self.losses[at].loss)?),
            Compare::Named => self
                .position(self.base.as_ref()?)
                .filter(|&base| base != at),
        }
    }

    /// The number of a row in the grid, by its name, or by its loss, however that is spelt, where nothing is done besides.
    pub fn position(&self, loss: &str) -> Option<usize> {
        let by_name = self.losses.iter().position(|entry| entry.name == loss);
        by_name.or_else(|| {
            let full = in_full(loss).ok()?;
            self.losses
                .iter()
                .position(|entry| entry.in_full().is_ok_and(|loss| loss == full))
        })
    }

    /// The columns of its tables.
    pub fn shown_columns(&self) -> Vec<&'static str> {
        match &self.columns[..] {
            [] => PAPERS.to_vec(),
            named => named
                .iter()
                .filter_map(|wanted| ImageRow::columns().find(|(name, _)| name == wanted))
                .map(|(name, _)| name)
                .collect(),
        }
    }

    /// The columns that something is tested by: those of its tables and of its claims.
    pub fn tested_columns(&self) -> Vec<&'static str> {
        let mut all = self.shown_columns();
        for column in self.claims.iter().flat_map(|claim| claim.metric.columns()) {
            if !all.contains(column) {
                all.push(column);
            }
        }
        all
    }
}

/// Refuses assignments of what the axes of a grid are: they would make every row the same run.
///
/// # Errors
///
/// One of `loss`, `seed`, `data.kind` and `data.path` is set.
pub fn refuse_axes(place: &str, assignments: &[String]) -> Result<()> {
    for assignment in assignments {
        let key = assignment.split('=').next().unwrap_or_default().trim();
        if ["loss", "seed", "data.kind", "data.path"].contains(&key) {
            bail!(
                "{place} sets {key}, which is an axis of the grid; name it under losses, seeds or data"
            );
        }
    }
    Ok(())
}

/// The same loss without `++`, in full; none for one that has none.
fn plain(loss: &str) -> Option<String> {
    let full = in_full(loss).ok()?;
    let (name, parameters) = full.split_once(':').unwrap_or((&full, ""));
    let name = name.strip_suffix("++")?;
    let rest: Vec<&str> = parameters
        .split(',')
        .filter(|parameter| !parameter.starts_with("gamma="))
        .collect();
    in_full(&format!("{name}:{}", rest.join(","))).ok()
}

fn repeated<T: PartialEq + std::fmt::Display>(values: &[T]) -> Option<String> {
    let twice = |(at, value): (usize, &T)| values[..at].contains(value).then(|| value.to_string());
    values.iter().enumerate().find_map(twice)
}

/// Nested tables as dotted assignments.
fn flatten(prefix: &str, table: &Table, all: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{key}."), inner, all),
            value => all.push(format!("{prefix}{key}={value}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "title = 't'\ndata = ['drive', 'chase-db1']\nlosses = ['dice', {loss = 'dice++', name = 'DSC++'}, 'ce']\n";

    fn refused(more: &str) -> String {
        format!("{:#}", Grid::parse(&format!("{SMALL}{more}")).unwrap_err())
    }

    #[test]
    fn a_scale_takes_the_place_of_what_it_names_and_of_nothing_else() {
        let grid = Grid::parse(&format!("{SMALL}seeds = [1, 2]\n[at.cpu]\ndata = ['chase-db1']\nlosses = ['ce', 'dice++:gamma=2']\n")).unwrap();
        let cpu = grid.clone().at_scale("cpu");
        assert_eq!(cpu.data, ["chase-db1"]);
        assert_eq!(cpu.seeds, [1, 2]);
        let names: Vec<&str> = cpu.losses.iter().map(|entry| &entry.name[..]).collect();
        assert_eq!(names, ["DSC++", "ce"]);
        assert_eq!(grid.clone().at_scale("paper"), grid);
    }

    #[test]
    fn settings_are_assignments_upon_those_of_all_runs() {
        let grid = Grid::parse(&format!(
            "{SMALL}[set]\nunet.width = 16\n[settings.short]\nrecipe.epochs = 3\npreprocess.size = [64, 64]\n[settings.long]\n"
        ))
        .unwrap();
        assert_eq!(grid.setting_names(), [Some("long"), Some("short")]);
        assert_eq!(grid.assignments(Some("long")), ["unet.width=16"]);
        assert_eq!(
            grid.assignments(Some("short")),
            [
                "unet.width=16",
                "preprocess.size=[64, 64]",
                "recipe.epochs=3"
            ]
        );
    }

    #[test]
    fn losses_are_compared_with_the_first_or_with_their_plain_selves() {
        let mut grid = Grid::parse(
            "title = 't'\ndata = ['drive']\nlosses = ['tversky', 'tversky++:gamma=3', 'combo', 'combo++', 'focal-tversky++:alpha=0.4', 'focal-tversky:alpha=0.4']",
        )
        .unwrap();
        let compared = |grid: &Grid| (0..6).map(|at| grid.compared_with(at)).collect::<Vec<_>>();
        assert_eq!(
            compared(&grid),
            [None, Some(0), Some(0), Some(0), Some(0), Some(0)]
        );
        grid.compare = Compare::Plain;
        assert_eq!(
            compared(&grid),
            [None, Some(0), None, Some(2), Some(5), None]
        );
    }

    #[test]
    fn the_example_of_the_documentation_is_a_grid() {
        let page = include_str!("../../../docs/studies.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let grid = Grid::parse(rest.split_once("```").unwrap().0).unwrap();
        assert_eq!(grid.setting_names(), [Some("narrow"), Some("wide")]);
        assert_eq!((grid.losses.len(), grid.claims.len()), (3, 1));
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (more, expected) in [
            (
                "seeds = []",
                "seeds is empty; a grid needs at least one of each axis",
            ),
            ("seeds = [3, 3]", "seeds names 3 twice; name it once"),
            (
                "[[claim]]\nmetric = 'nll'\nloss = 'tversky'\nthan = 'dice'\nis = 'lower'",
                "`tversky` is none of the grid's losses; name it under losses too",
            ),
            (
                "[[claim]]\nmetric = 'nll'\nloss = 'dsc'\nthan = 'dice'\nis = 'lower'",
                "a claim compares dsc with itself; name two losses",
            ),
            (
                "[set]\nseed = 3",
                "set sets seed, which is an axis of the grid; name it under losses, seeds or data",
            ),
            (
                "[settings.a]\nloss = 'ce'",
                "settings.a sets loss, which is an axis of the grid; name it under losses, seeds or data",
            ),
            (
                "[at.cpu]\nlosses = ['combo']",
                "`combo` is none of the grid's losses; name it under losses too",
            ),
        ] {
            assert_eq!(refused(more), expected);
        }
        assert_eq!(
            format!(
                "{:#}",
                Grid::parse("title = 't'\ndata = ['drive']\nlosses = ['dice++', 'dsc++:gamma=2']")
                    .unwrap_err()
            ),
            "the losses `dice++` and `dsc++:gamma=2` are the same; name each loss of a grid once"
        );
        assert!(refused("colour = 1").contains("unknown field `colour`"));
        assert!(
            refused("[[claim]]\nmetric = 'nll'\nloss = 'dice'\nthan = 'ce'\nis = 'nicer'")
                .contains("unknown variant `nicer`")
        );
    }
}
