//! The workspace's tests, one binary: each that links Candle takes seconds to link.

mod case;
mod cli;
mod corpus;
mod finite;
mod fused;
mod golden;
mod gradients;
mod hostile;
mod laws;
mod methods;
mod operations;
mod promises;
mod properties;
mod study;
mod trust;
