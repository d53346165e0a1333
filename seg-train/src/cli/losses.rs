//! `seg-train losses`: the zoo as a table.

use dice_losses::{
    spec::{Parameter, REGION_PARAMETERS},
    zoo::ZOO,
};

use super::print;
use crate::report::table::align_left;

pub(super) fn run() {
    let mut losses = vec![
        ["name", "aliases", "++", "defaults", "loss", "from"]
            .map(String::from)
            .to_vec(),
    ];
    let mut own: Vec<&Parameter> = Vec::new();
    for row in ZOO {
        let defaults = row
            .parameters
            .iter()
            .map(|parameter| format!("{}={}", parameter.name, parameter.default_text()));
        losses.push(vec![
            row.name.into(),
            row.aliases.join(", "),
            if row.plus_plus() { "yes" } else { "no" }.into(),
            defaults.collect::<Vec<_>>().join(","),
            row.summary.into(),
            row.citation.into(),
        ]);
        for parameter in row.parameters {
            if !own.contains(&parameter) {
                own.push(parameter);
            }
        }
    }
    print(&align_left(&losses));
    print("\n");
    print(&meanings(own));
    print(
        "\nName and parameters make a specification: tversky++:gamma=2,alpha=0.3. `++` gives false positives and false\n\
         negatives the exponent gamma (2 unless said otherwise); `preset=paper` sets the paper's equations where its\n\
         authors trained something else. Every loss of regions also takes:\n\n",
    );
    print(&meanings(REGION_PARAMETERS));
}

/// Name, default, values and meaning of each parameter.
fn meanings<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> String {
    let row = |parameter: &Parameter| {
        vec![
            parameter.name.into(),
            parameter.default_text(),
            parameter.allowed(),
            parameter.meaning.into(),
        ]
    };
    align_left(&parameters.into_iter().map(row).collect::<Vec<_>>())
}
