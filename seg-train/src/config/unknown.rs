//! A key that does not exist is an error that names the nearest one that does.

use anyhow::{Result, bail};
use toml::{Table, Value};

use super::{Experiment, layers::typed};

/// Refuses every key of `layer` that an experiment such as `base` does not have.
pub(super) fn refuse(base: &Table, layer: &Table) -> Result<()> {
    for key in leaves(layer) {
        if find(base, &key).is_some() || is_optional(base, layer, &key) {
            continue;
        }
        let known = leaves(base);
        match nearest(&key, &known) {
            Some(near) => bail!("unknown key `{key}`; did you mean `{near}`?"),
            None => bail!(
                "unknown key `{key}`; the keys here are {}",
                siblings(&key, &known)
            ),
        }
    }
    Ok(())
}

/// A key may be absent from the base because it is optional, or the table that it is in: then serde takes it.
fn is_optional(base: &Table, layer: &Table, key: &str) -> bool {
    let mut table = base.clone();
    let mut place = &mut table;
    let parts: Vec<&str> = key.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        if !place.contains_key(*part) {
            let Some(value) = find(layer, &parts[..=depth].join(".")) else {
                return false;
            };
            place.insert((*part).to_owned(), value.clone());
            break;
        }
        place = match place.get_mut(*part) {
            Some(Value::Table(inner)) => inner,
            _ => return false,
        };
    }
    typed::<Experiment>(table).map_or_else(
        |error| !error.to_string().contains("unknown field"),
        |_| true,
    )
}

/// The dotted keys of all values that are no tables.
pub(super) fn leaves(table: &Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => keys.extend(
                leaves(inner)
                    .into_iter()
                    .map(|rest| format!("{key}.{rest}")),
            ),
            _ => keys.push(key.clone()),
        }
    }
    keys
}

pub(super) fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => find(table.get(first)?.as_table()?, rest),
    }
}

/// The known key that ends the same way (`lr` is short for `recipe.sgd.lr`), or whose end is fewest edits away, but no
/// more than a third of the shorter word: a short key is a few edits from anything.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let by_end = known.iter().find(|candidate| last(candidate) == last(key));
    let by_edits = || {
        known
            .iter()
            .filter(|candidate| {
                let (a, b) = (last(key), last(candidate));
                edits(&a, &b) <= a.len().min(b.len()).div_ceil(3)
            })
            .min_by_key(|candidate| (edits(&last(key), &last(candidate)), edits(key, candidate)))
    };
    by_end.or_else(by_edits).cloned()
}

/// The keys beside an unknown one; at the top, where it has no table, the first parts of all keys.
fn siblings(key: &str, known: &[String]) -> String {
    let table = key
        .rsplit_once('.')
        .map_or(String::new(), |(table, _)| format!("{table}."));
    let beside = |prefix: &str| -> Vec<String> {
        let mut keys: Vec<String> = known
            .iter()
            .filter_map(|candidate| candidate.strip_prefix(prefix))
            .map(|rest| format!("`{prefix}{}`", rest.split('.').next().unwrap_or(rest)))
            .collect();
        keys.dedup();
        keys
    };
    let keys = beside(&table);
    if keys.is_empty() {
        beside("").join(", ")
    } else {
        keys.join(", ")
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Table {
        "loss = 'ce'\n[unet]\nwidth = 8\ndepth = 3\n[recipe.sgd]\nlr = 0.1\n"
            .parse()
            .unwrap()
    }

    fn refused(text: &str) -> String {
        refuse(&base(), &text.parse().unwrap())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        assert_eq!(
            refused("unet.widht = 8"),
            "unknown key `unet.widht`; did you mean `unet.width`?"
        );
        assert_eq!(
            refused("lr = 1"),
            "unknown key `lr`; did you mean `recipe.sgd.lr`?"
        );
    }

    #[test]
    fn a_key_like_no_other_names_its_neighbours() {
        assert_eq!(
            refused("unet.activation = 'relu'"),
            "unknown key `unet.activation`; the keys here are `unet.depth`, `unet.width`"
        );
        assert_eq!(
            refused("unet.blur = 1"),
            "unknown key `unet.blur`; the keys here are `unet.depth`, `unet.width`"
        );
        assert_eq!(
            refused("colour.of.bikeshed = 1"),
            "unknown key `colour.of.bikeshed`; the keys here are `loss`, `recipe`, `unet`"
        );
    }

    #[test]
    fn known_keys_pass() {
        refuse(
            &base(),
            &"unet.width = 4\nrecipe.sgd.lr = 1".parse().unwrap(),
        )
        .unwrap();
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in [("", "abc", 3), ("kitten", "sitting", 3), ("lr", "lr", 0)] {
            assert_eq!(edits(a, b), distance);
        }
    }
}
