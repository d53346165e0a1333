//! `seg-train data`: the data sets as a table.

use super::print;
use crate::{data::KINDS, report::table::align_left};

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
            row.published.map_or_else(
                || "64/16/20 %".into(),
                |n| format!("{}/{}/{}", n.train, n.val, n.test),
            ),
            row.summary.into(),
            row.expects.into(),
        ]);
    }
    print(&align_left(&rows));
}
