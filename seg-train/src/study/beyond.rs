//! Grids beyond the paper's, compiled in from `configs/beyond/`: questions that its readers ask.

/// Every grid by the name that `seg-train sweep` knows it by, with what it asks.
pub const BEYOND: [(&str, &str, &str); 8] = [
    (
        "calibration",
        "losses and temperature scaling against true probabilities",
        include_str!("../../configs/beyond/calibration.toml"),
    ),
    (
        "methods",
        "scaling, dropout, ensembles, fine-tuning, smoothed labels, a calibration term",
        include_str!("../../configs/beyond/methods.toml"),
    ),
    (
        "shift",
        "nuclei of one stain, damaged in five ways, and the other stains",
        include_str!("../../configs/beyond/shift.toml"),
    ),
    (
        "classes",
        "four classes with true probabilities",
        include_str!("../../configs/beyond/classes.toml"),
    ),
    (
        "nuclei",
        "nuclei, their boundaries, background",
        include_str!("../../configs/beyond/nuclei.toml"),
    ),
    (
        "volumes",
        "one ratio for a volume or one for each slice",
        include_str!("../../configs/beyond/volumes.toml"),
    ),
    (
        "rare",
        "foreground of 1 %, 0.1 % and 0.01 %",
        include_str!("../../configs/beyond/rare.toml"),
    ),
    (
        "gradients",
        "norms and denominators step by step",
        include_str!("../../configs/beyond/gradients.toml"),
    ),
];

/// The grid of a name; none that is none of them.
pub fn beyond(name: &str) -> Option<&'static str> {
    let found = BEYOND.iter().find(|(known, ..)| *known == name);
    found.map(|(.., text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{
        Grid,
        plan::{Plan, Wishes},
    };

    #[test]
    fn every_grid_makes_experiments_of_the_built_in_data_and_names_what_else_it_needs() {
        for (name, _, text) in BEYOND {
            let grid = Grid::parse(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let rows = grid.losses.len() * grid.seeds.len() * grid.setting_names().len();
            let plan = Plan::of(vec![(name.into(), grid)], &Wishes::default()).unwrap();
            match &plan.missing[..] {
                [] => {
                    assert_eq!(plan.grids[0].cells.len(), rows, "{name}");
                    assert_eq!(plan.runs.len(), rows, "{name}");
                }
                [missing] => assert_eq!(missing.data, "dsb2018", "{name}"),
                more => panic!("{name}: {more:?}"),
            }
        }
        assert!(beyond("paper").is_none());
    }
}
