//! In what two experiments differ, key by key.

use anyhow::Result;
use toml::Table;

use super::{Experiment, unknown};

/// Keys that no number of a run depends on as far as it has come: where the images lie, how many epochs there will be,
/// when states are written, what is done about a loss that is no number, of which there was none or it was left out, and
/// whether the steps are watched.
const NO_NUMBERS: [&str; 5] = [
    "data.path",
    "recipe.epochs",
    "recipe.on_nan",
    "recipe.save_every",
    "recipe.watch",
];

/// A key and its two values; `none` where an experiment has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The dotted key.
    pub key: String,
    /// What the first experiment has.
    pub one: String,
    /// What the second has.
    pub other: String,
}

impl Experiment {
    /// The keys in which another experiment differs in a way that its numbers depend on.
    ///
    /// # Errors
    ///
    /// When an experiment has no TOML form.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>> {
        let (one, other) = (Table::try_from(self)?, Table::try_from(other)?);
        let mut keys = unknown::leaves(&one);
        keys.extend(unknown::leaves(&other));
        keys.sort();
        keys.dedup();
        let shown = |table: &Table, key: &str| {
            unknown::find(table, key).map_or_else(|| "none".into(), ToString::to_string)
        };
        Ok(keys
            .into_iter()
            .filter(|key| !NO_NUMBERS.contains(&key.as_str()))
            .map(|key| Difference {
                one: shown(&one, &key),
                other: shown(&other, &key),
                key,
            })
            .filter(|Difference { one, other, .. }| one != other)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn differing_keys_are_named_with_both_values_but_those_that_decide_no_number() {
        let one = Preset::Paper.experiment("folder:/one".parse().unwrap());
        let mut other = one.clone();
        other.data.path = "/two".into();
        other.recipe.save_every = 7;
        other.recipe.watch = true;
        assert_eq!(one.differences(&other).unwrap(), []);
        other.unet.width = 5;
        other.recipe.sgd.clip_norm = Some(1.0);
        let difference = |key: &str, one: &str, other: &str| Difference {
            key: key.into(),
            one: one.into(),
            other: other.into(),
        };
        assert_eq!(
            one.differences(&other).unwrap(),
            [
                difference("recipe.sgd.clip_norm", "none", "1.0"),
                difference("unet.width", "32", "5")
            ]
        );
    }
}
