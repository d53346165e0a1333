//! Whether a network's probabilities may be believed: the pages of `seg-train calibrate` and `seg-train compare`.
//!
//! Every sentence of theirs is computed: a question, a margin that was fixed beforehand, an interval between images, and the
//! rule of [`decide`]. Where the images do not decide a question the page says so.
//!
//! | what | where |
//! |---|---|
//! | how sure a network is of an image and how often it is right there | [`sureness`] |
//! | when a deviation is small | [`decide`] |
//! | what a reader would rely on, and whether it holds | [`findings`] |
//! | what to use and why | [`advice`] |
//! | tables, diagrams and pictures | [`figures`], [`diagrams`], [`worst`] |
//! | the page of one run | [`page`] |
//! | several runs on the same images | [`compare`] |

pub mod advice;
pub mod compare;
pub mod decide;
pub mod diagrams;
pub mod figures;
pub mod findings;
pub mod page;
pub mod sureness;

pub mod worst;
