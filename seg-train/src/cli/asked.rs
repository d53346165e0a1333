//! A run that is to be looked at once more, with the data set and the device that were asked for.

use std::path::Path;

use candle_core::Device;

use super::{
    Failure,
    eval::{another, check_fits},
    usage,
};
use crate::{
    config::{Experiment, open_device},
    data::Dataset,
    run_folder::RunFolder,
};

/// A run, and what it is to be evaluated on.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) folder: RunFolder,
    /// The run's own, but for the data set.
    pub(super) experiment: Experiment,
    pub(super) data: Dataset,
    pub(super) device: Device,
}

impl Asked {
    /// Opens it; `data` and `device` are the run's own where none is given.
    pub(super) fn of(
        run: &Path,
        data: Option<&str>,
        device: Option<&str>,
    ) -> Result<Self, Failure> {
        let folder = RunFolder::open(run)?;
        let mut experiment = folder.experiment()?;
        let own = experiment.data.clone();
        if let Some(data) = data {
            experiment.data = another(&own, data).map_err(usage)?;
        }
        let device = open_device(device.unwrap_or(&experiment.device)).map_err(usage)?;
        let data = if experiment.data == own {
            folder.data_set(&experiment)?
        } else {
            Dataset::of(&experiment)?
        };
        check_fits(&folder, &experiment, &data)?;
        Ok(Self {
            folder,
            experiment,
            data,
            device,
        })
    }
}
