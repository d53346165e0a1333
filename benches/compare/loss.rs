//! Our side of `compare/loss.py`: takes orders on standard input, answers each with one line.
//!
//! ```text
//! load FOLDER 1x2x512x512      read logits.f32, labels.u8 and one_hot.f32; answers "bytes B", the least to move
//! time CONTESTANT COUNT        answers "ms" and the time of each iteration, then "cpu" and its processor time
//! write CONTESTANT DTYPE FILE  compute in f32 or f64, write the gradient as raw f32; answers "value" and the loss
//! ```
//!
//! Words are separated by tabs. What goes wrong is answered as "error" and the sentence. The end of the input ends the
//! program. The contestants:
//! `ours` (`value_and_grad` on labels), `ours-one-hot` (the same on the one-hot target), `ours-backward` (`loss` and
//! `Tensor::backward` on labels), `composed` (see `workspace_benches::composed`) and `copy`.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor, Var};
use dice_losses::{Loss, LossSpec, Prediction, Target};
use workspace_benches::{
    Input, LeastTraffic, composed,
    orders::{serve, timed},
};

/// One shape, ready to be measured.
struct Bench {
    input: Input,
    logits: Var,
    loss: Box<dyn Loss>,
    copy: LeastTraffic,
}

impl Bench {
    fn load(folder: &Path, dims: &str) -> Result<Self> {
        let dims = dims
            .split('x')
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>()?;
        Self::of(Input::read(folder, &dims)?)
    }

    fn of(input: Input) -> Result<Self> {
        Ok(Self {
            logits: Var::from_tensor(&input.logits)?,
            loss: "dice++:gamma=2".parse::<LossSpec>()?.build(),
            copy: LeastTraffic::new(input.least_bytes()),
            input,
        })
    }

    /// Loss and gradient, once.
    fn run(&self, contestant: &str) -> Result<(Tensor, Tensor)> {
        let Input {
            logits,
            labels,
            one_hot,
        } = &self.input;
        let backward = |loss: Tensor| -> Result<(Tensor, Tensor)> {
            let gradient = loss.backward()?.remove(&self.logits);
            Ok((loss, gradient.context("the loss has no gradient")?))
        };
        match contestant {
            "ours" => Ok(self
                .loss
                .value_and_grad(&Prediction::logits(logits), &Target::labels(labels))?),
            "ours-one-hot" => Ok(self
                .loss
                .value_and_grad(&Prediction::logits(logits), &Target::dense(one_hot))?),
            "ours-backward" => backward(
                self.loss
                    .loss(&Prediction::logits(&self.logits), &Target::labels(labels))?,
            ),
            "composed" => backward(composed(&self.logits, one_hot)?),
            _ => bail!(
                "the contestants are ours, ours-one-hot, ours-backward, composed and copy, found {contestant}"
            ),
        }
    }

    /// Milliseconds of each iteration. The last gradient is freed within the time, as PyTorch's is.
    fn time(&mut self, contestant: &str, count: usize) -> Result<String> {
        timed(count, || {
            if contestant == "copy" {
                self.copy.run();
                Ok(())
            } else {
                self.run(contestant).map(drop)
            }
        })
    }

    fn write(&self, contestant: &str, dtype: DType, file: &str) -> Result<String> {
        let (value, gradient) = if dtype == self.logits.dtype() {
            self.run(contestant)?
        } else {
            Self::of(self.input.to_dtype(dtype)?)?.run(contestant)?
        };
        let gradient: Vec<u8> = gradient
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        fs::write(file, gradient)?;
        let value = value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(format!("value {value}"))
    }
}

fn answer(bench: &mut Option<Bench>, words: &[&str]) -> Result<String> {
    match (words, bench) {
        (["load", folder, dims], bench) => {
            let loaded = Bench::load(Path::new(folder), dims)?;
            let bytes = loaded.input.least_bytes();
            *bench = Some(loaded);
            Ok(format!("bytes {bytes}"))
        }
        (["time", contestant, count], Some(bench)) => bench.time(contestant, count.parse()?),
        (["write", contestant, dtype, file], Some(bench)) => {
            bench.write(contestant, dtype.parse()?, file)
        }
        _ => bail!(
            "expected load first, then time or write, with tabs between the words, found {words:?}"
        ),
    }
}

fn main() -> io::Result<()> {
    let mut bench = None;
    serve(|words| answer(&mut bench, words))
}
