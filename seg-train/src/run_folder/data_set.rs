//! The data set of a run as it was when the run began: its split, and the bytes of its files.

use anyhow::{Context, Result};

use super::{Parts, RunFolder};
use crate::{
    config::Experiment,
    data::{Dataset, Files},
    open,
};

/// The lengths and checksums of a data set's files; there is none where images are generated.
pub(crate) const FILES: &str = "files.json";

impl RunFolder {
    /// Writes what a data set is, by [`Dataset::bind`] as well.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write_data_set(&self, data: &Dataset) -> Result<()> {
        if let Some(files) = data.bound() {
            self.write(FILES, &serde_json::to_vec(files)?)?;
        }
        Parts::of(data).write(self)
    }

    /// The run's data set, which must be divided as it was when the run began, and is bound to what its files were.
    ///
    /// # Errors
    ///
    /// One sentence that says what has changed; a damaged folder.
    pub fn data_set(&self, experiment: &Experiment) -> Result<Dataset> {
        let data = Dataset::of(experiment)?;
        Parts::read(self)?.refuse_other(&Parts::of(&data), &experiment.data.to_string())?;
        if data.is_generated() {
            return Ok(data);
        }
        let path = self.file(FILES);
        let text =
            open::record(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let files: Files =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(data.bound_to(files))
    }
}
