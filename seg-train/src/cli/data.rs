//! `seg-train data`: the data sets as a table.

use super::print;
use crate::{
    data::{KINDS, Layout, Row},
    phantom::PhantomConfig,
    report::table::align_left,
};

pub(super) fn run() {
    let mut rows = vec![
        [
            "kind",
            "size",
            "train/val/test",
            "images",
            "files under PATH",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for row in KINDS {
        rows.push(vec![
            row.name.into(),
            format!("{}x{}", row.size[0], row.size[1]),
            sizes(row),
            row.summary.into(),
            row.expects.into(),
        ]);
    }
    print(&align_left(&rows));
    let mut rows = vec![
        ["kind", "where it can be had", "terms"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(
        KINDS
            .iter()
            .map(|row| [row.name, row.source, row.terms].map(String::from).to_vec()),
    );
    print(&format!("\n{}", align_left(&rows)));
}

/// The sizes of the split, or its shares where the data set has no published one.
fn sizes(row: &Row) -> String {
    if matches!(row.layout, Layout::Generated) {
        let PhantomConfig {
            train, val, test, ..
        } = PhantomConfig::default();
        return format!("{train}/{val}/{test}");
    }
    row.published.map_or_else(
        || "64/16/20 %".into(),
        |n| format!("{}/{}/{}", n.train, n.val, n.test),
    )
}
