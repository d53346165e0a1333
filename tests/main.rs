//! The workspace's tests, one binary: each that links Candle takes seconds to link.

mod case;
mod cli;
mod finite;
mod golden;
mod gradients;
mod laws;
