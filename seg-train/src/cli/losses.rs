//! `seg-train losses`: the zoo as a table.

use dice_losses::{
    spec::{Kind, Parameter, REGION_PARAMETERS},
    zoo::ZOO,
};

use super::print;
use crate::report::table::align_left;

pub(super) fn run() {
    let mut rows = vec![
        ["name", "aliases", "++", "defaults", "loss", "from"]
            .map(String::from)
            .to_vec(),
    ];
    for row in ZOO {
        let defaults = row
            .parameters
            .iter()
            .map(|parameter| format!("{}={}", parameter.name, default(parameter)));
        rows.push(vec![
            row.name.into(),
            row.aliases.join(", "),
            if row.plus_plus { "yes" } else { "no" }.into(),
            defaults.collect::<Vec<_>>().join(","),
            row.summary.into(),
            row.citation.into(),
        ]);
    }
    print(&align_left(&rows));
    print(
        "\nName and parameters make a specification: tversky++:gamma=2,alpha=0.3. `++` gives false positives and false\n\
         negatives the exponent gamma (2 unless said otherwise); `preset=paper` sets the paper's equations where its\n\
         authors trained something else. Every loss with `++` also takes:\n\n",
    );
    let rows: Vec<Vec<String>> = REGION_PARAMETERS
        .iter()
        .map(|parameter| {
            vec![
                parameter.name.into(),
                default(parameter),
                parameter.allowed(),
                parameter.meaning.into(),
            ]
        })
        .collect();
    print(&align_left(&rows));
}

fn default(parameter: &Parameter) -> String {
    match parameter.kind {
        Kind::Number { default, .. } => default.to_string(),
        Kind::Choice(words) => words[0].into(),
        Kind::Classes => "all".into(),
    }
}
