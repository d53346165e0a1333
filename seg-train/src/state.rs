//! `state.safetensors`: all that going on needs, written after every epoch, after every so many steps, and when the run is
//! asked to stop.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use seg_unet::{UNet, UNetConfig};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{Checkpoint, seal},
    config::{Difference, Experiment, Recipe},
    legible::legible,
    optim::Sgd,
    run_folder::RunFolder,
    schedule::{EarlyStopping, ReduceLrOnPlateau},
    store,
};

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Completed epochs.
    pub epoch: usize,
    /// What is behind of the epoch that follows them.
    pub begun: Begun,
    /// Whether early stopping has ended the run.
    pub finished: bool,
    /// The learning rate of the epoch that follows.
    pub lr: f64,
    /// The best epoch so far and its validation loss.
    pub best: Option<(usize, f64)>,
    /// When the learning rate falls next.
    pub plateau: ReduceLrOnPlateau,
    /// When the run ends.
    pub stopping: EarlyStopping,
}

/// The part of an epoch that lies behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// Steps, those that were skipped too.
    pub steps: usize,
    /// Steps that were skipped, their loss being no number.
    pub skipped: usize,
    /// Images of the steps that were not skipped.
    pub images: usize,
    /// The sum of these images' losses.
    pub loss: f64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Position {
    /// Before the first epoch.
    pub fn start(recipe: &Recipe) -> Self {
        Self {
            epoch: 0,
            begun: Begun::default(),
            finished: false,
            lr: recipe.sgd.lr,
            best: None,
            plateau: ReduceLrOnPlateau::new(&recipe.plateau),
            stopping: EarlyStopping::new(&recipe.stopping),
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.epoch, self.begun.steps) {
            (0, 0) => write!(f, "the beginning"),
            (epoch, 0) => write!(f, "epoch {epoch}"),
            (epoch, steps) => write!(f, "step {steps} of epoch {}", epoch + 1),
        }
    }
}

/// A run between two steps.
#[derive(Debug)]
pub struct State {
    /// Where it stands.
    pub position: Position,
    /// The weights by name.
    pub weights: HashMap<String, Tensor>,
    /// The optimiser's velocities by the name of their weight.
    pub velocity: HashMap<String, Tensor>,
}

/// The state's file.
pub const STATE: &str = "state.safetensors";

/// The state before it: what there is to go on from when a disk has damaged the last one.
pub const PREVIOUS: &str = "state.previous.safetensors";

const WEIGHT: &str = "weight.";
const VELOCITY: &str = "velocity.";

/// What a state's file says beside its tensors.
#[derive(Serialize, Deserialize)]
struct Note {
    position: Position,
    /// The experiment in TOML: a state of another one is none of this run.
    experiment: String,
}

/// A state that was found, and what had to be passed over for it.
#[derive(Debug)]
pub struct Found {
    /// The state.
    pub state: State,
    /// Why it is not the last one that was written. It has that one's name now, for what is damaged is never to take the
    /// place of what is whole.
    pub passed_over: Option<String>,
}

impl State {
    /// Writes the state whole or not at all, and keeps the one before it.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to, or a number of the state is none: the last state stays then.
    pub fn write(
        folder: &RunFolder,
        experiment: &Experiment,
        position: &Position,
        unet: &UNet,
        sgd: &Sgd,
    ) -> Result<()> {
        let named = |prefix: &str, tensors: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
            tensors
                .into_iter()
                .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
                .collect()
        };
        let tensors = [
            named(WEIGHT, unet.tensors()),
            named(VELOCITY, sgd.velocity()?),
        ]
        .concat();
        let note = Note {
            position: position.clone(),
            experiment: experiment.to_toml()?,
        };
        let bytes = seal(&tensors, &note)?;
        store::write_keeping(&folder.file(STATE), &bytes, &folder.file(PREVIOUS))
    }

    /// The last state of a run that is whole: the newest, or the one before it if the newest is damaged or gone. From
    /// either the run goes on to the same end. None before the first.
    ///
    /// # Errors
    ///
    /// When there are states and all of them are damaged; when one is another experiment's, network's or program
    /// version's.
    pub fn last(
        folder: &RunFolder,
        experiment: &Experiment,
        device: &Device,
    ) -> Result<Option<Found>> {
        let there: Vec<PathBuf> = [STATE, PREVIOUS]
            .map(|name| folder.file(name))
            .into_iter()
            .filter(|path| path.exists())
            .collect();
        // Weights and velocities.
        let most = 2 * size_of::<f32>() as u64 * experiment.unet.weights();
        let mut damaged = Vec::new();
        for path in &there {
            match Checkpoint::read(path, most) {
                // None was ever written without a note: it is the note that is damaged.
                Ok(checkpoint) if !checkpoint.has_note() => {
                    damaged.push(format!("{} holds no position of a run", path.display()));
                }
                Ok(checkpoint) => {
                    let state = Self::of(&checkpoint, experiment, device)
                        .with_context(|| path.display().to_string())?;
                    let last = folder.file(STATE);
                    if *path != last {
                        store::take_place(path, &last)?;
                    }
                    return Ok(Some(Found {
                        state,
                        passed_over: (!damaged.is_empty()).then(|| damaged.join("; ")),
                    }));
                }
                Err(error) => damaged.push(format!("{error:#}")),
            }
        }
        ensure!(
            damaged.is_empty(),
            "{}; there is no other state to go on from: train the run anew with another --out",
            damaged.join("; ")
        );
        Ok(None)
    }

    /// The state in a file that is whole.
    fn of(checkpoint: &Checkpoint, experiment: &Experiment, device: &Device) -> Result<Self> {
        let Some(Note {
            position,
            experiment: toml,
        }) = checkpoint.note()?
        else {
            bail!("it holds no position of a run");
        };
        let then = Experiment::from_toml(&toml).context("its experiment")?;
        let differences = then.training().differences(&experiment.training())?;
        ensure!(
            differences.is_empty(),
            "it was written for another experiment: {}; put run.toml back as it was, or train another run",
            differences
                .iter()
                .map(|Difference { key, one, other }| format!("{key} was {one} and is {other}"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        let (mut weights, mut velocity) = (HashMap::new(), HashMap::new());
        for (name, tensor) in checkpoint.tensors(device)? {
            if let Some(name) = name.strip_prefix(WEIGHT) {
                weights.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(VELOCITY) {
                velocity.insert(name.to_owned(), tensor);
            } else {
                bail!(
                    "tensor `{}` is neither a weight nor a velocity; the file is none of this program's",
                    legible(&name)
                );
            }
        }
        Ok(Self {
            position,
            weights,
            velocity,
        })
    }
}

/// The weights of a run's best epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch.
    pub epoch: usize,
}

impl Best {
    /// The file.
    pub const NAME: &str = "best.safetensors";

    /// Writes the weights of this epoch.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to, or a weight is no number.
    pub fn write(self, folder: &RunFolder, unet: &UNet) -> Result<()> {
        folder.write(Self::NAME, &seal(&unet.tensors(), &self)?)
    }

    /// Reads the file, whole, and of which epoch it says its weights are; nothing where another program wrote it.
    ///
    /// # Errors
    ///
    /// A file that is damaged, or larger than the network's.
    pub fn read(folder: &RunFolder, unet: &UNetConfig) -> Result<(Checkpoint, Option<Self>)> {
        let path = folder.file(Self::NAME);
        let file = Checkpoint::read(&path, size_of::<f64>() as u64 * unet.weights())?;
        let best = file.note().with_context(|| path.display().to_string())?;
        Ok((file, best))
    }
}
