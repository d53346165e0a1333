//! The reference trainer of `dice-losses`: the DSC++ paper's recipe, data sets, metrics and reports.

pub mod data;
pub mod raster;
pub mod rng;
