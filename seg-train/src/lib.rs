//! The reference trainer of `dice-losses`: the DSC++ paper's recipe, data sets, metrics and reports.

pub mod augment;
pub mod data;
pub mod preprocess;
pub mod raster;
pub mod resample;
pub mod rng;
