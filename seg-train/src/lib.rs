//! The reference trainer of `dice-losses`: the DSC++ paper's recipe, data sets, metrics and reports.

pub mod metrics;
pub mod optim;
pub mod phantom;
pub mod raster;
pub mod rng;
pub mod schedule;
pub mod stats;
