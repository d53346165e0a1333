//! The report of a study.
use super::{Plan, queue::is_done};
use anyhow::Result;
use std::path::{Path, PathBuf};
/// What was written.
#[derive(Clone, Debug)]
pub struct Summary {
    /// For the terminal.
    pub text: String,
    /// The page.
    pub page: PathBuf,
    /// Runs that are not done.
    pub undone: usize,
}
/// Writes the report.
///
/// # Errors
///
/// When a run's files cannot be read or the folder cannot be written to.
pub fn write(out: &Path, plan: &Plan) -> Result<Summary> {
    Ok(Summary {
        text: String::new(),
        page: out.join("report/index.html"),
        undone: plan
            .runs
            .iter()
            .filter(|run| !is_done(out, &run.name))
            .count(),
    })
}
