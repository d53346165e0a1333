//! The workspace's tests, one binary: each that links Candle takes seconds to link.

mod case;
mod cli;
mod finite;
mod fused;
mod golden;
mod gradients;
mod laws;
mod operations;
mod study;
mod trust;
