//! Golden vectors: the crates against numbers that other programs computed.
//!
//! The folder is that of the environment variable `DICE_GOLDEN`, or the small one of the repository
//! (`tests/fixtures/golden`, made by `tests/fixtures/generate.py`). It holds `manifest.json` and one safetensors file
//! a family. No test knows a case or a parameter value: everything comes from the records, so that any folder of the
//! format can be checked. A record that has no counterpart is left out with its reason, and counted.

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
