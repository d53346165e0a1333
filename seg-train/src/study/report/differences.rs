//! Every comparison that a table makes, with its tests, corrected together.

use std::collections::BTreeMap;

use anyhow::Result;

use super::results::Group;
use crate::{
    stats::holm,
    study::{
        Grid,
        claim::{Difference, column},
    },
};

/// What a comparison is of: data set, setting, the two losses by their numbers, column.
pub(super) type Key = (String, Option<String>, usize, usize, &'static str);

/// A comparison with its p-values after Holm's correction over the table.
#[derive(Clone, Debug)]
pub(super) struct Tested {
    pub(super) difference: Difference,
    pub(super) signed_rank_holm: f64,
    pub(super) rank_sum_holm: f64,
}

/// The comparisons of a table.
#[derive(Clone, Debug)]
pub(super) struct Differences(BTreeMap<Key, Tested>);

impl Differences {
    /// Each loss with the one that the grid compares it with, and whatever else a claim compares. All of them are one
    /// family: the more is tested, the smaller a p-value must be.
    pub(super) fn of(grid: &Grid, groups: &[Group<'_>]) -> Result<Self> {
        let mut wanted: Vec<(usize, usize)> = (0..grid.losses.len())
            .filter_map(|loss| grid.compared_with(loss).map(|base| (loss, base)))
            .collect();
        wanted.extend(
            grid.claims.iter().filter_map(|claim| {
                Some((grid.position(&claim.loss)?, grid.position(&claim.than)?))
            }),
        );
        wanted.sort_unstable();
        wanted.dedup();
        let mut all = BTreeMap::new();
        for group in groups {
            for &(_, base) in wanted.iter().filter(|(loss, _)| *loss == group.loss) {
                let same = |other: &&Group<'_>| {
                    (other.data, other.loss, other.setting) == (group.data, base, group.setting)
                };
                let Some(base_group) = groups.iter().find(same) else {
                    continue;
                };
                for name in grid.tested_columns() {
                    let Some(read) = column(name) else { continue };
                    let (x, y) = group.pairs(base_group, read);
                    if let Some(difference) = Difference::of(&x, &y)? {
                        let setting = group.setting.map(Into::into);
                        let key = (group.data.to_owned(), setting, group.loss, base, name);
                        all.insert(key, difference);
                    }
                }
            }
        }
        let corrected = |p: fn(&Difference) -> f64| holm(&all.values().map(p).collect::<Vec<_>>());
        let signed_rank = corrected(|difference| difference.signed_rank);
        let rank_sum = corrected(|difference| difference.rank_sum);
        let tested = all
            .into_iter()
            .zip(signed_rank.into_iter().zip(rank_sum))
            .map(|((key, difference), (signed_rank_holm, rank_sum_holm))| {
                let tested = Tested {
                    difference,
                    signed_rank_holm,
                    rank_sum_holm,
                };
                (key, tested)
            });
        Ok(Self(tested.collect()))
    }

    pub(super) fn get(
        &self,
        group: &Group<'_>,
        base: usize,
        column: &'static str,
    ) -> Option<&Tested> {
        let setting = group.setting.map(Into::into);
        self.0
            .get(&(group.data.to_owned(), setting, group.loss, base, column))
    }

    /// How many there are: the size of the family.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
