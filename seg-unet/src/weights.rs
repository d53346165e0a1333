//! Weights in files: written whole or not at all, and checked before they are used.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::Path,
};

use ::safetensors::{SafeTensorError, SafeTensors, tensor::TensorView};
use candle_core::{DType, Device, Error, Result, Tensor, Var, safetensors::Load as _};

use crate::UNetConfig;

/// Writes to a sibling, syncs it, then renames, so that a run killed meanwhile leaves the old file whole.
pub(crate) fn save(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(".part");
    let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    let written = ::safetensors::serialize(&tensors, None)
        .map_err(Error::from)
        .and_then(|bytes| {
            let mut file = File::create(&sibling)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(fs::rename(&sibling, path)?)
        });
    written.map_err(|error| {
        let _ = fs::remove_file(&sibling); // a second failure adds nothing to the first
        Error::Msg(format!(
            "{}: cannot write the weights ({error}); check the folder and the disk",
            path.display()
        ))
    })
}

/// What a file of weights may hold besides their numbers: a hundred bytes a tensor are usual.
const HEADER: u64 = 1 << 20;

/// The bytes of a file that can be one of this network's: its length and that of its header are checked before anything
/// is read of them.
pub(crate) fn read(path: &Path, config: &UNetConfig) -> Result<Vec<u8>> {
    let source = path.display().to_string();
    let unreadable = |error| {
        Error::Msg(format!(
            "{source}: cannot read the weights ({error}); check the path"
        ))
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // Before it is opened: opening a pipe waits for a writer.
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    let most = HEADER + config.weights() * DType::F64.size_in_bytes() as u64;
    if metadata.len() > most {
        return Err(Error::Msg(format!(
            "{source}: found {} bytes; the weights of this network take at most {most}: {OTHER_NETWORK}",
            metadata.len()
        )));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    Ok(bytes)
}

/// The tensors of a file, as its header describes them.
pub(crate) struct Stored<'a> {
    source: &'a str,
    views: HashMap<String, TensorView<'a>>,
}

impl<'a> Stored<'a> {
    pub(crate) fn parse(source: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let header = bytes
            .first_chunk()
            .map_or(0, |length| u64::from_le_bytes(*length));
        let parsed = match header {
            // What is longer is not parsed.
            0..=HEADER => SafeTensors::deserialize(bytes),
            _ => Err(SafeTensorError::HeaderTooLarge),
        };
        let parsed = parsed.map_err(|error| {
            Error::Msg(format!(
                "{source}: found {} bytes that are not whole safetensors ({error}); expected a file that this network was \
                 saved to: copy it again or save it anew",
                bytes.len()
            ))
        })?;
        let views = parsed.tensors().into_iter().collect();
        Ok(Self { source, views })
    }

    /// F64 if the first tensor is; everything else is to be F32.
    pub(crate) fn dtype(&self) -> DType {
        let first = self.views.get("enc0.conv1.weight");
        match first.map(TensorView::dtype) {
            Some(::safetensors::Dtype::F64) => DType::F64,
            _ => DType::F32,
        }
    }

    /// The tensors, which are those of the network.
    pub(crate) fn tensors(
        &self,
        vars: &[(String, Var)],
        device: &Device,
    ) -> Result<HashMap<String, Tensor>> {
        let described = self
            .views
            .iter()
            .map(|(name, view)| (name.as_str(), Described::of(view.shape(), view.dtype())))
            .collect();
        // By the header first: nothing of another kind is converted.
        tell(self.source, fault_of_kind(vars, &described))?;
        let load = |(name, view): (&String, &TensorView)| Ok((name.clone(), view.load(device)?));
        let tensors = self.views.iter().map(load).collect::<Result<_>>()?;
        tell(self.source, fault_of_values(vars, &tensors)?)?;
        Ok(tensors)
    }
}

/// Whether the tensors are those of the network, each of its shape and type and finite; `source` begins the sentence.
pub(crate) fn check(
    source: &str,
    vars: &[(String, Var)],
    found: &HashMap<String, Tensor>,
) -> Result<()> {
    let described = found
        .iter()
        .map(|(name, tensor)| (name.as_str(), Described::of(tensor.dims(), tensor.dtype())))
        .collect();
    tell(source, fault_of_kind(vars, &described))?;
    tell(source, fault_of_values(vars, found)?)
}

fn tell(source: &str, fault: Option<String>) -> Result<()> {
    match fault {
        None => Ok(()),
        Some(fault) => Err(Error::Msg(format!("{source}: {fault}"))),
    }
}

const OTHER_NETWORK: &str = "give the in_channels, classes, width and depth they were trained with";

/// A tensor without its numbers.
struct Described {
    shape: Vec<usize>,
    /// The type's name, which is the same in Candle and in safetensors.
    dtype: String,
}

impl Described {
    fn of(shape: &[usize], dtype: impl Debug) -> Self {
        Self {
            shape: shape.into(),
            dtype: format!("{dtype:?}"),
        }
    }
}

/// What is missing, of another shape or type, or unknown.
fn fault_of_kind(vars: &[(String, Var)], found: &HashMap<&str, Described>) -> Option<String> {
    let known: HashSet<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
    for (name, var) in vars {
        let expected = Described::of(var.dims(), var.dtype());
        let Described { shape, dtype } = &expected;
        let Some(tensor) = found.get(name.as_str()) else {
            return Some(format!(
                "tensor {name} is missing among {}; expected {dtype} {shape:?}: {OTHER_NETWORK}",
                found.len()
            ));
        };
        if tensor.shape != *shape {
            return Some(format!(
                "tensor {name} has shape {:?}; expected {shape:?}: {OTHER_NETWORK}",
                tensor.shape
            ));
        }
        if tensor.dtype != *dtype {
            return Some(format!(
                "tensor {name} is {}; expected {dtype}: convert all of the weights to {dtype}",
                tensor.dtype
            ));
        }
    }
    // The first by name, so that the sentence does not change from run to run.
    let unknown = found
        .iter()
        .filter(|(name, _)| !known.contains(*name))
        .min_by_key(|(name, _)| *name);
    unknown.map(|(name, tensor)| {
        format!(
            "tensor {} {:?} is unknown; expected the {} tensors of this network alone: {OTHER_NETWORK}",
            name.escape_debug(),
            tensor.shape,
            vars.len()
        )
    })
}

/// The first number that is none.
fn fault_of_values(
    vars: &[(String, Var)],
    found: &HashMap<String, Tensor>,
) -> Result<Option<String>> {
    for (name, tensor) in vars
        .iter()
        .filter_map(|(name, _)| found.get_key_value(name))
    {
        let values = tensor
            .flatten_all()?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Ok(Some(format!(
                "tensor {name} holds {value}; expected finite numbers: the training had diverged, so take an earlier \
                 file"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use candle_core::Device::Cpu;

    use super::*;
    use crate::UNet;

    const SMALL: UNetConfig = UNetConfig {
        in_channels: 1,
        classes: 2,
        width: 2,
        depth: 1,
        norm_eps: 1e-3,
    };

    fn bits(net: &UNet) -> Vec<(String, Vec<u64>)> {
        let values = |t: &Tensor| {
            t.flatten_all()
                .unwrap()
                .to_dtype(DType::F64)
                .unwrap()
                .to_vec1::<f64>()
                .unwrap()
        };
        net.tensors()
            .iter()
            .map(|(name, t)| {
                (
                    name.clone(),
                    values(t).into_iter().map(f64::to_bits).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn a_saved_network_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        for dtype in [DType::F32, DType::F64] {
            let net = UNet::with_dtype(&SMALL, 5, dtype, &Cpu).unwrap();
            net.save(&path).unwrap();
            let loaded = UNet::load(&SMALL, &path, &Cpu).unwrap();
            assert_eq!(loaded.dtype(), dtype);
            assert_eq!(bits(&loaded), bits(&net));
        }
        let names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["net.safetensors"], "nothing else is left behind");
    }

    #[test]
    fn set_tensors_takes_all_or_nothing() {
        let (net, other) = (
            UNet::new(&SMALL, 1, &Cpu).unwrap(),
            UNet::new(&SMALL, 2, &Cpu).unwrap(),
        );
        let before = bits(&net);
        let mut tensors: HashMap<_, _> = other.tensors().into_iter().collect();
        let head = tensors.remove("head.bias").unwrap();
        let error = net.set_tensors(&tensors).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the given tensors: tensor head.bias is missing among 27; expected F32 [2]: \
             give the in_channels, classes, width and depth they were trained with"
        );
        assert_eq!(bits(&net), before);
        tensors.insert("head.bias".into(), head);
        net.set_tensors(&tensors).unwrap();
        assert_eq!(bits(&net), bits(&other));
    }

    #[test]
    fn every_fault_of_a_file_is_told_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        let shown = path.display();
        let good: HashMap<_, _> = UNet::new(&SMALL, 1, &Cpu)
            .unwrap()
            .tensors()
            .into_iter()
            .collect();
        let load = || UNet::load(&SMALL, &path, &Cpu).unwrap_err().to_string();
        let trained = "give the in_channels, classes, width and depth they were trained with";

        let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Cpu).unwrap();
        let cases = [
            ("enc9.conv1.bias", Some(zeros(&[2], DType::F32)), format!("tensor enc9.conv1.bias [2] is unknown; expected the 28 tensors of this network alone: {trained}")),
            ("up0.weight", None, format!("tensor up0.weight is missing among 27; expected F32 [4, 2, 2, 2]: {trained}")),
            ("up0.bias", Some(zeros(&[3], DType::F32)), format!("tensor up0.bias has shape [3]; expected [2]: {trained}")),
            ("up0.bias", Some(zeros(&[2], DType::F64)), "tensor up0.bias is F64; expected F32: convert all of the weights to F32".into()),
            ("up0.bias", Some(Tensor::new(&[0.0, f32::NAN], &Cpu).unwrap()), "tensor up0.bias holds NaN; expected finite numbers: the training had diverged, so take an earlier file".into()),
            ("up0.bias", Some(Tensor::new(&[f32::NEG_INFINITY, 0.0], &Cpu).unwrap()), "tensor up0.bias holds -inf; expected finite numbers: the training had diverged, so take an earlier file".into()),
        ];
        for (name, tensor, fault) in cases {
            let mut tensors = good.clone();
            match tensor {
                Some(tensor) => tensors.insert(name.into(), tensor),
                None => tensors.remove(name),
            };
            save(&path, tensors.into_iter().collect()).unwrap();
            assert_eq!(load(), format!("{shown}: {fault}"));
        }

        save(&path, good.into_iter().collect()).unwrap();
        let whole = fs::read(&path).unwrap();
        for (bytes, reason) in [
            (
                &whole[..whole.len() - 1],
                "incomplete metadata, file not fully covered",
            ),
            (&whole[..100], "invalid header length"),
            (&[][..], "header too small"),
            (b"PK\x03\x04 not safetensors", "header too large"),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(
                load(),
                format!(
                    "{shown}: found {} bytes that are not whole safetensors ({reason}); expected a file that this \
                     network was saved to: copy it again or save it anew",
                    bytes.len()
                )
            );
        }
        // Nothing is read of it: a file of holes takes no disk, and would fill the memory.
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let most = (1 << 20) + 8 * SMALL.weights();
        assert_eq!(
            load(),
            format!(
                "{shown}: found 1099511627776 bytes; the weights of this network take at most {most}: {trained}"
            )
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(
            load(),
            format!(
                "{shown}: cannot read the weights (No such file or directory (os error 2)); check the path"
            )
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("net.safetensors");
        let sentence = UNet::new(&SMALL, 1, &Cpu)
            .unwrap()
            .save(&path)
            .unwrap_err()
            .to_string();
        assert!(
            sentence.starts_with(&format!("{}: cannot write the weights (", path.display())),
            "{sentence}"
        );
        assert!(
            sentence.ends_with("); check the folder and the disk"),
            "{sentence}"
        );
    }
}
