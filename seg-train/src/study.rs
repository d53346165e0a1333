//! Studies: grids of experiments, run side by side or on a cluster, and the report of what they show.
//!
//! A [`Grid`] is data: data sets × losses × settings × seeds, and for the paper's own tables and figures what the paper
//! says. A [`Plan`] holds the runs that some grids need, each once. [`queue`] makes them on this machine and [`slurm`] on
//! a cluster; both start `seg-train work OUT RUN`, which brings a run to its end from wherever it is, or several on one GPU.
//!
//! The folder of a study:
//!
//! | file | what it holds |
//! |---|---|
//! | `plan.json` | the grids and their runs ([`Plan`]) |
//! | `runs/NAME.toml` | a run's experiment, as planned |
//! | `runs/NAME/` | the run ([`crate::run_folder::RunFolder`]); done when it has a `summary.json` |
//! | `runs/NAME.log` | what it said |
//! | `runs/cuda.log`, `runs/cuda-N.log` | what the process of a GPU said besides |
//! | `runs/NAME.error` | why it failed when it was last tried |
//! | `report/` | the report |
//! | `slurm/` | scripts of submissions, and what their jobs said |

mod beyond;
pub mod claim;
pub mod devices;
pub mod estimate;
mod grid;
mod paper;
pub mod plan;
pub mod queue;
pub mod report;
pub mod slurm;
mod sources;

pub use beyond::{BEYOND, beyond};
pub use grid::{Compare, Entry, Grid, Numbers, Scale, Show, refuse_axes};
pub use paper::{GRIDS, grids};
pub use plan::{Plan, Wishes};
pub use sources::{Missing, Sources};
