//! Our side of `compare/step.py`: takes orders on standard input, answers each with one line.
//!
//! ```text
//! load SIZE SEED       make the network of a seed, and an image of SIZE²
//! write FOLDER         write the weights and the image with its labels
//! compute FILE         write loss, logits and gradients
//! time MODE COUNT      answers "ms" and the time of each iteration, then "cpu" and its processor time
//! memory MODE COUNT    answers "kib", the resident memory before COUNT iterations and their peak, or "unknown"
//! ```
//!
//! Words are separated by tabs. What goes wrong is answered as "error" and the sentence. The end of the input ends the
//! program. A mode is `train`, a training step, or `inference`.

use std::{io, path::Path};

use anyhow::{Result, bail};
use workspace_benches::{
    Step, memory,
    orders::{serve, timed},
};

fn iterate(step: &mut Step, mode: &str) -> Result<()> {
    match mode {
        "train" => step.train(),
        "inference" => step.infer().map(drop),
        _ => bail!("the modes are train and inference, found {mode}"),
    }
}

fn answer(loaded: &mut Option<Step>, words: &[&str]) -> Result<String> {
    match (words, loaded) {
        (["load", size, seed], loaded) => {
            // The old one's memory first.
            *loaded = None;
            *loaded = Some(Step::new(size.parse()?, seed.parse()?)?);
            Ok("loaded".to_owned())
        }
        (["write", folder], Some(step)) => {
            step.save(Path::new(folder))?;
            Ok("written".to_owned())
        }
        (["compute", file], Some(step)) => {
            step.save_computed(Path::new(file))?;
            Ok("computed".to_owned())
        }
        (["time", mode, count], Some(step)) => timed(count.parse()?, || iterate(step, mode)),
        (["memory", mode, count], Some(step)) => {
            let before = memory::forget_peak();
            for _ in 0..count.parse()? {
                iterate(step, mode)?;
            }
            Ok(match before.zip(memory::peak()) {
                Some((before, peak)) => format!("kib {before} {peak}"),
                None => "kib unknown".to_owned(),
            })
        }
        _ => bail!(
            "expected load first, then write, compute, time or memory, with tabs between the words, found {words:?}"
        ),
    }
}

fn main() -> io::Result<()> {
    let mut loaded = None;
    serve(|words| answer(&mut loaded, words))
}
