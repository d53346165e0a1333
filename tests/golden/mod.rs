//! Golden vectors: the crates against numbers that other programs computed.
//!
//! The folder is that of the environment variable `DICE_GOLDEN`, or the small one of the repository
//! (`tests/fixtures/golden`, made by `tests/fixtures/generate.py`). It holds `manifest.json` and one safetensors file
//! a family. No test knows a case or a parameter value: everything comes from the records, so that any folder of the
//! format can be checked. A record that has no counterpart is left out with its reason, and counted.

mod calibration;
mod folder;
mod losses_common;
mod metrics;
mod monai;
mod networks;
mod paper_eq;
mod report;
mod schedules;
mod smp;
mod statistics;
mod tf_original;

/// Every family that has a test here.
const FAMILIES: [&str; 10] = [
    "paper_eq",
    "tf_original",
    "monai",
    "smp",
    "metrics",
    "stats",
    "instance_norm",
    "unet",
    "sched_keras",
    "sched_torch",
];

/// A folder without a family that is known here would pass every test above.
#[test]
fn golden_folder_has_families_to_compare() {
    let folder = folder::Folder::open();
    let found: Vec<&str> = FAMILIES
        .into_iter()
        .filter(|name| folder.family(name).is_some())
        .collect();
    println!("golden: families {}", found.join(", "));
    if folder.own {
        let expected = [
            "paper_eq",
            "metrics",
            "stats",
            "instance_norm",
            "unet",
            "sched_keras",
        ];
        assert_eq!(found, expected);
    } else {
        assert!(
            !found.is_empty(),
            "DICE_GOLDEN names a folder with none of {FAMILIES:?}"
        );
    }
}
