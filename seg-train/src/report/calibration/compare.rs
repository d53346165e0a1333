//! Several runs on the same test images: which probabilities may be believed more, and what that costs.
//!
//! | what | where |
//! |---|---|
//! | which runs are one method, and whether all were tested on the same images | [`methods`] |
//! | the figures of a method, image by image | [`values`] |
//! | paired differences and their tests | [`differences`] |
//! | what an image costs | [`cost`] |
//! | the page | [`page`] |

pub mod cost;
pub mod differences;
pub mod methods;
pub mod page;
pub mod values;
