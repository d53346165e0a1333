//! Safetensors files that know whether they are whole: a note beside the tensors, and a checksum over every byte.
//!
//! The format of Safetensors has no checksum, and a flipped bit in a weight is a weight. The note is JSON under one key of
//! the file's metadata; its first field is the CRC-32 of the file with that field's digits as zeros.

use std::{collections::HashMap, io::Read as _, ops::Range, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{legible::legible, open};

/// The key of the metadata that the note stands under.
const KEY: &str = "seg-train";

/// The number of the note's form; another number is another form.
const FORMAT: u32 = 2;

/// What stands in a header before the checksum's digits: JSON within JSON.
const BEFORE_DIGITS: &[u8] = br#"\"checksum\":\""#;

const NO_DIGITS: &str = "00000000";

/// A header takes some hundred bytes a tensor, and the note some thousand.
const HEADER_BYTES: u64 = 1 << 20;

/// The note with what is said of every file. The checksum comes first: where it stands is then where its name is found.
#[derive(Serialize, Deserialize)]
struct Envelope<N> {
    checksum: String,
    format: u32,
    program: String,
    #[serde(flatten)]
    note: N,
}

/// What every version of a note has.
#[derive(Deserialize)]
struct Stamp {
    format: u32,
    program: String,
}

/// A file that is whole.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    bytes: Vec<u8>,
    note: Option<String>,
}

/// The bytes of a file of f32 tensors and a note.
///
/// # Errors
///
/// A number that is none: weights that hold one are no state to go on from.
pub fn seal(tensors: &[(String, Tensor)], note: &impl Serialize) -> Result<Vec<u8>> {
    let bytes = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let mut bytes = vec![0; 4 * values.len()];
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&values) {
                ensure!(value.is_finite(), "tensor `{name}` holds {value}");
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<Vec<(&String, Vec<usize>, Vec<u8>)>>>()?;
    let views = bytes
        .iter()
        .map(|(name, dims, bytes)| {
            let view = TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes)?;
            Ok((*name, view))
        })
        .collect::<Result<Vec<_>>>()?;
    let note = serde_json::to_string(&Envelope {
        checksum: NO_DIGITS.into(),
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").into(),
        note,
    })?;
    let mut sealed = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), note)])))?;
    let digits = digits(&sealed).context("the note has lost its checksum")?;
    let checksum = format!("{:08x}", checksum(&sealed, &digits));
    sealed[digits].copy_from_slice(checksum.as_bytes());
    Ok(sealed)
}

impl Checkpoint {
    /// Reads a file of at most so many bytes of tensors.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, that is not whole, or whose checksum is another's; the sentence names it. A file
    /// without a note is taken as it is: it was made by another program.
    pub fn read(path: &Path, most: u64) -> Result<Self> {
        let shown = path.display();
        let unreadable = || format!("{shown} cannot be read");
        let file = open::regular(path).with_context(unreadable)?;
        // Before anything of it is in memory: it may be any file at all.
        let (found, most) = (
            file.metadata().with_context(unreadable)?.len(),
            most + HEADER_BYTES,
        );
        ensure!(
            found <= most,
            "{shown} has {found} bytes, and those of this network at most {most}; it belongs to another network"
        );
        let mut bytes = Vec::new();
        file.take(most)
            .read_to_end(&mut bytes)
            .with_context(unreadable)?;
        Self::parse(bytes).with_context(|| shown.to_string())
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    ///
    /// Bytes that are not whole, or whose checksum is another's.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let damaged =
            |why: &dyn std::fmt::Display| anyhow!("it is damaged ({})", legible(&why.to_string()));
        let declared =
            header_bytes(&bytes).ok_or_else(|| damaged(&"it ends within its first 8 bytes"))?;
        ensure!(
            declared <= HEADER_BYTES,
            damaged(&format_args!("its header says it has {declared} bytes"))
        );
        SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(&error))?;
        let notes = header.metadata().as_ref();
        let note = notes.and_then(|notes| notes.get(KEY)).cloned();
        if note.is_some() {
            let digits = digits(&bytes).ok_or_else(|| damaged(&"it has lost its checksum"))?;
            let found = format!("{:08x}", checksum(&bytes, &digits));
            let said = String::from_utf8_lossy(&bytes[digits]);
            ensure!(
                found == said,
                damaged(&format_args!(
                    "its checksum is {said}, and that of its bytes {found}"
                ))
            );
        }
        Ok(Self { bytes, note })
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the file was written by [`seal`].
    pub fn has_note(&self) -> bool {
        self.note.is_some()
    }

    /// Its tensors by name, which are f32 and finite.
    ///
    /// # Errors
    ///
    /// A tensor of another type, or one that holds a number which is none.
    pub fn tensors(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        SafeTensors::deserialize(&self.bytes)?
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let tensor = tensor(&name, &view, device)?;
                Ok((name, tensor))
            })
            .collect()
    }

    /// What the file says of itself; none where it was made by another program.
    ///
    /// # Errors
    ///
    /// A note of another version of this program, which is named.
    pub fn note<N: DeserializeOwned>(&self) -> Result<Option<N>> {
        let Some(text) = &self.note else {
            return Ok(None);
        };
        let Stamp { format, program } =
            serde_json::from_str(text).context("its note is none of this program's")?;
        let here = env!("CARGO_PKG_VERSION");
        if (format, &*program) != (FORMAT, here) {
            bail!(
                "it was written by seg-train {program} (format {format}), and this is {here} (format {FORMAT}), whose numbers may be others; go on with seg-train {program}"
            );
        }
        let envelope: Envelope<N> =
            serde_json::from_str(text).context("its note is none of this program's")?;
        Ok(Some(envelope.note))
    }
}

fn tensor(name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
    let name = legible(name);
    ensure!(
        view.dtype() == safetensors::Dtype::F32,
        "tensor `{name}` is {:?}; expected F32",
        view.dtype()
    );
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        bail!(
            "tensor `{name}` holds {value}; the training that wrote it has failed, use another file"
        );
    }
    Ok(Tensor::from_vec(values, view.shape(), device)?)
}

/// How long the header says it is.
fn header_bytes(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

/// Where the digits of the checksum stand.
fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let end = 8 + usize::try_from(header_bytes(bytes)?).ok()?;
    let header = bytes.get(8..end)?;
    let found = header
        .windows(BEFORE_DIGITS.len())
        .position(|window| window == BEFORE_DIGITS)?;
    let start = 8 + found + BEFORE_DIGITS.len();
    (start + NO_DIGITS.len() <= end).then(|| start..start + NO_DIGITS.len())
}

/// The CRC-32 of all bytes, the digits taken as zeros.
fn checksum(bytes: &[u8], digits: &Range<usize>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..digits.start]);
    crc.update(NO_DIGITS.as_bytes());
    crc.update(&bytes[digits.end..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Epoch {
        epoch: usize,
    }

    fn tensors(values: &[f32]) -> [(String, Tensor); 1] {
        [("a".to_owned(), Tensor::new(values, &Device::Cpu).unwrap())]
    }

    fn sealed() -> Vec<u8> {
        seal(
            &tensors(&[1.0, -0.0, f32::MIN_POSITIVE / 3.0, 1.0 / 3.0]),
            &Epoch { epoch: 3 },
        )
        .unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<Checkpoint> {
        Checkpoint::parse(bytes.to_vec())
    }

    #[test]
    fn tensors_and_note_come_back_bit_for_bit() {
        let file = parse(&sealed()).unwrap();
        assert_eq!(file.note::<Epoch>().unwrap(), Some(Epoch { epoch: 3 }));
        let bits: Vec<u32> = file.tensors(&Device::Cpu).unwrap()["a"]
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect();
        let expected = [1.0, -0.0, f32::MIN_POSITIVE / 3.0, 1.0 / 3.0].map(f32::to_bits);
        assert_eq!(bits, expected);
        assert_eq!(sealed(), sealed(), "the same content is the same bytes");
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_goes_unseen() {
        let whole = sealed();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                // A note whose key is hit is no note any more, and its tensors are those of an unsigned file.
                let unseen = parse(&bytes).is_ok_and(|file| file.note.is_some());
                assert!(!unseen, "bit {bit} of byte {at}");
            }
            assert!(parse(&whole[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let whole = sealed();
        let error = |bytes: &[u8]| format!("{:#}", parse(bytes).unwrap_err());
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        let said = error(&flipped);
        assert!(
            said.starts_with("it is damaged (its checksum is ")
                && said.contains(", and that of its bytes "),
            "{said}"
        );
        assert_eq!(
            error(&whole[..5]),
            "it is damaged (it ends within its first 8 bytes)"
        );
        assert_eq!(
            error(&u64::MAX.to_le_bytes()),
            "it is damaged (its header says it has 18446744073709551615 bytes)"
        );
        assert_eq!(
            error(&whole[..whole.len() - 1]),
            "it is damaged (incomplete metadata, file not fully covered)"
        );
        assert_eq!(
            seal(&tensors(&[0.0, f32::NAN]), &Epoch { epoch: 1 })
                .unwrap_err()
                .to_string(),
            "tensor `a` holds NaN"
        );
    }

    #[test]
    fn a_note_of_another_version_is_refused_by_name() {
        let bytes = sealed();
        let mut file = parse(&bytes).unwrap();
        let here = env!("CARGO_PKG_VERSION");
        for (written, other, said) in [
            (
                format!("\"program\":\"{here}\""),
                "\"program\":\"9.0.0\"",
                "9.0.0 (format 2)",
            ),
            (
                "\"format\":2".into(),
                "\"format\":3,\"more\":[]",
                &*format!("{here} (format 3)"),
            ),
        ] {
            let note = file.note.clone();
            file.note = note.as_ref().map(|note| note.replace(&written, other));
            assert_ne!(file.note, note);
            let error = file.note::<Epoch>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!(
                    "it was written by seg-train {said}, and this is {here} (format 2)"
                )),
                "{error}"
            );
            file.note = note;
        }
    }

    #[test]
    fn a_file_larger_than_the_network_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.safetensors");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert_eq!(
            Checkpoint::read(&path, 1000).unwrap_err().to_string(),
            format!(
                "{} has 1099511627776 bytes, and those of this network at most 1049576; it belongs to another network",
                path.display()
            )
        );
    }
}
