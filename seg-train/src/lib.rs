//! The reference trainer of `dice-losses`: the DSC++ paper's recipe, data sets, metrics and reports.

// A test makes files of all kinds.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod augment;
pub mod batches;
pub mod calibration_term;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod corrupt;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod dropout;
pub mod evaluate;
pub mod inference;
mod legible;
pub mod metrics;
mod open;
pub mod optim;
pub mod phantom;
pub mod predict;
pub mod preprocess;
pub mod progress;
pub mod raster;
pub mod report;
pub mod resample;
pub mod rng;
pub mod run_folder;
mod say;
pub mod schedule;
pub mod shift;
pub mod smoothing;
pub mod state;
pub mod stats;
pub mod store;
pub mod study;
mod threads;
pub mod threshold;
pub mod train;
pub mod watch;
