//! Bytes as the weights of a network and as the state of a run: refused in a sentence that names the file, or finite
//! numbers in the shapes of the network.

use std::{fs, path::Path, sync::OnceLock};

use candle_core::{DType, Device, Tensor};
use seg_train::{
    config::Recipe,
    optim::Sgd,
    run_folder::RunFolder,
    state::{Position, State},
};
use seg_unet::{UNet, UNetConfig};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{assert_names, bytes::Choices};

const SMALL: UNetConfig = UNetConfig {
    in_channels: 1,
    classes: 2,
    width: 1,
    depth: 1,
    norm_eps: 1e-3,
};

const WEIGHTS: &str = "best.safetensors";
const STATE: &str = "state.safetensors";

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir().expect("a temporary folder");
    static FRESH: UNet = UNet::new(&SMALL, 0, &Device::Cpu).expect("a small network");
}

/// The first byte says which file it is, and whether the rest is the file itself or says how a good one is changed.
pub(crate) fn holds(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let choice = choices.byte();
    let (name, good) = [WEIGHTS, STATE]
        .into_iter()
        .zip(good_files())
        .nth(usize::from(choice % 2))
        .expect("one of two files");
    let file = if choice / 2 % 2 == 0 {
        choices.rest().to_vec()
    } else {
        changed(good, &mut choices)
    };
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        fs::write(&path, file).expect("a temporary file");
        if name == WEIGHTS {
            is_a_network(&path);
        } else {
            is_a_state(folder.path());
        }
    });
}

fn is_a_network(path: &Path) {
    match UNet::load(&SMALL, path, &Device::Cpu) {
        Ok(unet) => {
            let like = FRESH.with(UNet::tensors);
            assert_eq!(unet.tensors().len(), like.len());
            for ((name, tensor), (known, like)) in unet.tensors().iter().zip(like) {
                assert_eq!((name, tensor.dims()), (&known, like.dims()));
                assert_finite(name, tensor);
            }
        }
        Err(error) => assert_names(&error.to_string(), path),
    }
}

fn is_a_state(folder: &Path) {
    // `run.toml` makes a folder that of a run.
    fs::write(folder.join("run.toml"), "").expect("a temporary file");
    let folder = RunFolder::open(folder).expect("the folder of a run");
    match State::read(&folder, &Device::Cpu) {
        Ok(state) => {
            for (name, tensor) in state.weights.iter().chain(&state.velocity) {
                assert_finite(name, tensor);
            }
            FRESH.with(|unet| is_taken_or_refused(&state, unet));
        }
        Err(error) => assert_names(&format!("{error:#}"), &folder.file(STATE)),
    }
}

/// A network and its optimiser take what was read, or say what is wrong with it.
fn is_taken_or_refused(state: &State, unet: &UNet) {
    let mut sgd = Sgd::new(&Recipe::default().sgd, unet.vars()).expect("an optimiser");
    for taken in [
        unet.set_tensors(&state.weights).map_err(|e| e.to_string()),
        sgd.set_velocity(&state.velocity)
            .map_err(|e| format!("{e:#}")),
    ] {
        assert_ne!(taken.err().as_deref(), Some(""));
    }
}

#[track_caller]
fn assert_finite(name: &str, tensor: &Tensor) {
    let sum = tensor
        .to_dtype(DType::F64)
        .and_then(|values| values.abs()?.sum_all()?.to_scalar::<f64>());
    assert!(
        sum.as_ref().is_ok_and(|sum| sum.is_finite()),
        "{name}: {sum:?}"
    );
}

/// The files of a network and of a run that are in order.
fn good_files() -> &'static [Vec<u8>; 2] {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run = RunFolder::create(folder.path()).expect("the folder of a run");
        let unet = UNet::new(&SMALL, 1, &Device::Cpu).expect("a small network");
        unet.save(run.file(WEIGHTS)).expect("its weights");
        let recipe = Recipe::default();
        let sgd = Sgd::new(&recipe.sgd, unet.vars()).expect("an optimiser");
        State::write(&run, &Position::start(&recipe), &unet, &sgd).expect("a state");
        [WEIGHTS, STATE].map(|name| fs::read(run.file(name)).expect("what was written"))
    })
}

/// A good file with changes to its header, its numbers and its length.
fn changed(good: &[u8], choices: &mut Choices) -> Vec<u8> {
    let (header, mut numbers) = parts(good);
    let mut header = header;
    for _ in 0..choices.below(4) {
        change_header(&mut header, choices);
    }
    for _ in 0..choices.below(4) {
        change_numbers(&mut numbers, choices);
    }
    let header = Value::Object(header).to_string();
    let mut length = header.len() as u64;
    if choices.rarely(8) {
        length = length.wrapping_add_signed(i64::from(i8::from_le_bytes(choices.array())));
    }
    let mut file = [&length.to_le_bytes(), header.as_bytes(), &numbers].concat();
    if choices.rarely(8) {
        file.truncate(choices.below(file.len()));
    }
    if choices.rarely(8) {
        file.extend_from_slice(choices.rest());
    }
    file
}

/// The header of a safetensors file as JSON, and the numbers behind it.
fn parts(file: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let (length, rest) = file.split_first_chunk().expect("the header's length");
    let (header, numbers) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = serde_json::from_slice(header).expect("the header's JSON");
    (header, numbers.to_vec())
}

fn change_header(header: &mut Map<String, Value>, choices: &mut Choices) {
    let names: Vec<String> = header.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = &names[choices.below(names.len())];
    let number = match choices.below(4) {
        0 => json!(choices.byte()),
        1 => json!(u64::from_le_bytes(choices.array())),
        2 => json!(i64::from(i8::from_le_bytes(choices.array()))),
        _ => json!(u64::MAX),
    };
    let entry = &mut header[name];
    match choices.below(10) {
        0 => {
            header.remove(name);
        }
        1 => {
            let twin = format!("{name}{}", char::from(choices.byte()));
            let entry = header[name].clone();
            header.insert(twin, entry);
        }
        2 => {
            if let Some(moved) = header.remove(name) {
                header.insert(String::from_utf8_lossy(&choices.array::<6>()).into(), moved);
            }
        }
        3 => entry["dtype"] = json!(choices.of(DTYPES)),
        4 => entry["shape"] = json!([number]),
        5 => entry["shape"] = json!([0, number, 0]),
        6 => entry["shape"] = json!([number, number, number]),
        7 => {
            let offsets = entry["data_offsets"].as_array().cloned();
            let mut offsets = offsets.unwrap_or_else(|| vec![json!(0); 2]);
            offsets[choices.below(2)] = number;
            entry["data_offsets"] = json!(offsets);
        }
        8 => entry["data_offsets"] = json!([number, number]),
        _ => {
            let note = String::from_utf8_lossy(&choices.array::<12>()).into_owned();
            header.insert("__metadata__".into(), json!({ "position": note }));
        }
    }
}

/// The names of dtypes that the format has.
const DTYPES: &[&str] = &[
    "F32", "F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U32", "BOOL", "F8_E4M3", "F4",
    "C64", "",
];

/// Writes over some numbers: NaN and infinities, or anything.
fn change_numbers(numbers: &mut [u8], choices: &mut Choices) {
    let at = choices.below(numbers.len().max(1));
    let bytes = match choices.below(4) {
        0 => f32::NAN.to_le_bytes(),
        1 => f32::NEG_INFINITY.to_le_bytes(),
        2 => f32::MAX.to_le_bytes(),
        _ => choices.array(),
    };
    for (number, byte) in numbers[at / 4 * 4..].iter_mut().zip(bytes) {
        *number = byte;
    }
}
