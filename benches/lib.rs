//! What the benchmarks share: their inputs, the loss as a user would compose it, the copy that nothing can beat, the
//! network's step, and how a comparison's worker takes orders.

mod composed;
mod copy;
mod input;
pub mod memory;
pub mod orders;
mod step;

pub use composed::composed;
pub use copy::LeastTraffic;
pub use input::{Input, SHAPES, name};
pub use step::{Computed, Step};
