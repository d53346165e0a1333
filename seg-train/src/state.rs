//! `state.safetensors`: all that going on needs, written after every epoch.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};
use seg_unet::UNet;
use serde::{Deserialize, Serialize};

use crate::{
    config::Recipe,
    optim::Sgd,
    run_folder::RunFolder,
    schedule::{EarlyStopping, ReduceLrOnPlateau},
};

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Completed epochs.
    pub epoch: usize,
    /// Whether early stopping has ended the run.
    pub finished: bool,
    /// The learning rate of the next epoch.
    pub lr: f64,
    /// The best epoch so far and its validation loss.
    pub best: Option<(usize, f64)>,
    /// When the learning rate falls next.
    pub plateau: ReduceLrOnPlateau,
    /// When the run ends.
    pub stopping: EarlyStopping,
}

/// A run between two epochs.
#[derive(Debug)]
pub struct State {
    /// Where it stands.
    pub position: Position,
    /// The weights by name.
    pub weights: HashMap<String, Tensor>,
    /// The optimiser's velocities by the name of their weight.
    pub velocity: HashMap<String, Tensor>,
}

const NAME: &str = "state.safetensors";
const WEIGHT: &str = "weight.";
const VELOCITY: &str = "velocity.";

impl Position {
    /// Before the first epoch.
    pub fn start(recipe: &Recipe) -> Self {
        Self {
            epoch: 0,
            finished: false,
            lr: recipe.sgd.lr,
            best: None,
            plateau: ReduceLrOnPlateau::new(&recipe.plateau),
            stopping: EarlyStopping::new(&recipe.stopping),
        }
    }
}

impl State {
    /// Writes the state whole or not at all.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(folder: &RunFolder, position: &Position, unet: &UNet, sgd: &Sgd) -> Result<()> {
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
        write_tensors(folder, NAME, &tensors, &serde_json::to_string(position)?)
    }

    /// Reads the state back.
    ///
    /// # Errors
    ///
    /// When the file is missing, damaged, or holds a number that is not finite.
    pub fn read(folder: &RunFolder, device: &Device) -> Result<Self> {
        let path = folder.file(NAME);
        let (tensors, position) = read_tensors(&path, device)?;
        let position = serde_json::from_str(&position)
            .with_context(|| format!("{} holds no position of a run", path.display()))?;
        let (mut weights, mut velocity) = (HashMap::new(), HashMap::new());
        for (name, tensor) in tensors {
            if let Some(name) = name.strip_prefix(WEIGHT) {
                weights.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(VELOCITY) {
                velocity.insert(name.to_owned(), tensor);
            }
        }
        Ok(Self {
            position,
            weights,
            velocity,
        })
    }
}

/// Writes f32 tensors and a note beside them.
fn write_tensors(
    folder: &RunFolder,
    name: &str,
    tensors: &[(String, Tensor)],
    note: &str,
) -> Result<()> {
    let bytes = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let mut bytes = vec![0; 4 * values.len()];
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<Vec<(&String, Vec<usize>, Vec<u8>)>>>()?;
    let views = bytes
        .iter()
        .map(|(name, dims, bytes)| {
            Ok((
                *name,
                TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let notes = HashMap::from([("position".to_owned(), note.to_owned())]);
    folder.write(name, &safetensors::serialize(views, Some(notes))?)
}

/// Reads f32 tensors and the note beside them, empty where there is none.
fn read_tensors(path: &Path, device: &Device) -> Result<(Vec<(String, Tensor)>, String)> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let damaged = || format!("{} is no complete safetensors file", path.display());
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(damaged)?;
    let note = header
        .metadata()
        .as_ref()
        .and_then(|notes| notes.get("position"))
        .cloned()
        .unwrap_or_default();
    let mut tensors = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes)
        .with_context(damaged)?
        .tensors()
    {
        if view.dtype() != safetensors::Dtype::F32 {
            bail!(
                "{}: tensor `{name}` is {:?}; expected F32",
                path.display(),
                view.dtype()
            );
        }
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            bail!(
                "{}: tensor `{name}` holds {value}; the training that wrote it has failed, use another checkpoint",
                path.display()
            );
        }
        tensors.push((name, Tensor::from_vec(values, view.shape(), device)?));
    }
    Ok((tensors, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_and_note_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path()).unwrap();
        let values = [1.0_f32, -0.0, f32::MIN_POSITIVE / 3.0, 1.0 / 3.0];
        let tensor = Tensor::new(&values, &Device::Cpu)
            .unwrap()
            .reshape((2, 2))
            .unwrap();
        write_tensors(
            &folder,
            "t.safetensors",
            &[("weight:a".into(), tensor)],
            "{\"epoch\":3}",
        )
        .unwrap();
        let (tensors, note) = read_tensors(&folder.file("t.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(note, "{\"epoch\":3}");
        assert_eq!(tensors[0].0, "weight:a");
        let back: Vec<f32> = tensors[0].1.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(back.map_bits(), values.to_vec().map_bits());
    }

    trait MapBits {
        fn map_bits(&self) -> Vec<u32>;
    }
    impl MapBits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn a_checkpoint_with_nan_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path()).unwrap();
        let tensor = Tensor::new(&[0.0, f32::NAN], &Device::Cpu).unwrap();
        write_tensors(
            &folder,
            "t.safetensors",
            &[("enc.0.bias".into(), tensor)],
            "",
        )
        .unwrap();
        let path = folder.file("t.safetensors");
        assert_eq!(
            read_tensors(&path, &Device::Cpu).unwrap_err().to_string(),
            format!(
                "{}: tensor `enc.0.bias` holds NaN; the training that wrote it has failed, use another checkpoint",
                path.display()
            )
        );
    }

    #[test]
    fn a_truncated_checkpoint_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path()).unwrap();
        let tensor = Tensor::new(&[0.0_f32; 100], &Device::Cpu).unwrap();
        write_tensors(&folder, "t.safetensors", &[("a".into(), tensor)], "").unwrap();
        let path = folder.file("t.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
        assert_eq!(
            read_tensors(&path, &Device::Cpu).unwrap_err().to_string(),
            format!("{} is no complete safetensors file", path.display())
        );
    }
}
