//! Longer than a reference: which loss to take, what another library's arguments are called here, recipes, and what is
//! guaranteed of the numbers.

#[doc = include_str!("../docs/choosing-a-loss.md")]
pub mod choosing_a_loss {}

#[doc = include_str!("../docs/coming-from.md")]
pub mod coming_from {}

#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("../docs/numerics.md")]
pub mod numerics {}
