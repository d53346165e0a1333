//! The grids of the paper's own tables and figures, compiled in from `configs/`.

use anyhow::{Context, Result, bail};

use super::{Grid, plan::NamedGrids};

/// Every grid by the name that `seg-train reproduce` knows it by, in the order of the report.
pub const GRIDS: [(&str, &str); 7] = [
    ("table3", include_str!("../../configs/table3.toml")),
    ("table4", include_str!("../../configs/table4.toml")),
    ("table5", include_str!("../../configs/table5.toml")),
    ("figure1", include_str!("../../configs/figure1.toml")),
    ("figure2", include_str!("../../configs/figure2.toml")),
    ("figure3", include_str!("../../configs/figure3.toml")),
    ("figure4", include_str!("../../configs/figure4.toml")),
];

/// The grids that `all` or the name of one stands for.
///
/// # Errors
///
/// A name that is none of them; the sentence lists them.
pub fn grids(what: &str) -> Result<NamedGrids> {
    let named: Vec<_> = GRIDS
        .iter()
        .filter(|(name, _)| what == "all" || *name == what)
        .collect();
    if named.is_empty() {
        let names: Vec<&str> = GRIDS.iter().map(|(name, _)| *name).collect();
        bail!(
            "unknown table or figure `{what}`; expected all, {}",
            names.join(", ")
        );
    }
    named
        .into_iter()
        .map(|(name, text)| {
            let grid = Grid::parse(text).with_context(|| format!("configs/{name}.toml"))?;
            Ok(((*name).to_owned(), grid))
        })
        .collect()
}
