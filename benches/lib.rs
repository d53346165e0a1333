//! What the benchmarks share: their inputs, the loss as a user would compose it, and the copy that nothing can beat.

mod composed;
mod copy;
mod input;

pub use composed::composed;
pub use copy::LeastTraffic;
pub use input::{Input, SHAPES, name};
