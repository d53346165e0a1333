//! Our side of `compare/gpu.py`: takes orders on standard input, answers each with one line.
//!
//! ```text
//! versions                            answers "json", the device
//! copy MIB                            make two buffers
//! loss FOLDER SHAPE DTYPE             read logits.f32 and labels.u8; answers "bytes", the least to move
//! write CONTESTANT FILE               write the gradient as raw f32; answers "value" and the loss
//! step SIZE IMAGES SEED PRECISION     make a network and a batch
//! layer N CIN COUT SIZE PRECISION     make a convolution of SIZE² pixels
//! save FOLDER                         write the weights and the batch
//! losses COUNT                        answers "values", the losses of as many steps
//! memory                              answers "json", what the device has given since `step`
//! time SUBJECT COUNT                  answers "ms", the means of COUNT blocks of iterations
//! forget                              give all memory back
//! ```
//!
//! Words are separated by tabs. What goes wrong is answered as "error" and the sentence. The end of the input ends the
//! program. The subjects of `time`: `copy`; `planned` and `call`, the loss; `step`; `forward`, `input` and `weight`, of a layer
//! and its two gradients.

mod clock;
mod layer;
mod loss;
mod step;

use std::{io, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use candle_core::{
    Device,
    cuda_backend::cudarc::driver::{CudaSlice, CudaStream},
};
use seg_train::config::open_device;
use workspace_benches::orders::serve;

use self::{clock::blocks, layer::Layer, loss::Bench, step::Batch};

/// What is to be measured.
enum Loaded {
    Copy(CudaSlice<u8>, CudaSlice<u8>),
    Loss(Box<Bench>),
    Step(Box<Batch>),
    Layer(Box<Layer>),
}

struct Gpu {
    device: Device,
    stream: Arc<CudaStream>,
    loaded: Option<Loaded>,
}

impl Gpu {
    fn open() -> Result<Self> {
        let device = open_device("cuda")?;
        Ok(Self {
            stream: device.as_cuda_device()?.cuda_stream(),
            device,
            loaded: None,
        })
    }

    fn versions(&self) -> Result<String> {
        let context = self.stream.context();
        let (major, minor) = context.compute_capability()?;
        let mib = context.total_mem()? >> 20;
        let name = context.name()?.replace('"', "'");
        Ok(format!(
            r#"json {{"device": "{name}", "capability": "{major}.{minor}", "MiB": {mib}}}"#
        ))
    }

    /// The old one's memory first.
    fn forget(&mut self) -> Result<()> {
        self.loaded = None;
        self.stream.synchronize()?;
        Ok(())
    }

    fn load(&mut self, words: &[&str]) -> Result<String> {
        self.forget()?;
        let mut answer = "loaded".to_owned();
        self.loaded = Some(match words {
            ["copy", mib] => {
                let bytes = mib.parse::<usize>()? << 20;
                Loaded::Copy(
                    self.stream.alloc_zeros(bytes)?,
                    self.stream.alloc_zeros(bytes)?,
                )
            }
            ["loss", folder, shape, dtype] => {
                let bench = Bench::read(Path::new(folder), shape, dtype.parse()?, &self.device)?;
                answer = format!("bytes {}", bench.least_bytes());
                Loaded::Loss(Box::new(bench))
            }
            ["step", size, images, seed, precision] => Loaded::Step(Box::new(Batch::new(
                size.parse()?,
                images.parse()?,
                seed.parse()?,
                precision.parse()?,
                &self.device,
            )?)),
            ["layer", n, inputs, outputs, size, precision] => {
                let shape = [n.parse()?, inputs.parse()?, outputs.parse()?, size.parse()?];
                let layer = Layer::new(shape, precision.parse()?, &self.device)?;
                Loaded::Layer(Box::new(layer))
            }
            _ => bail!("expected copy, loss, step or layer with what they need, found {words:?}"),
        });
        Ok(answer)
    }

    fn time(&mut self, subject: &str, count: usize) -> Result<String> {
        let stream = Arc::clone(&self.stream);
        let stream = &stream;
        match (subject, self.loaded.as_mut()) {
            ("copy", Some(Loaded::Copy(from, to))) => {
                blocks(stream, count, || Ok(stream.memcpy_dtod(from, to)?))
            }
            ("planned", Some(Loaded::Loss(bench))) => blocks(stream, count, || bench.replay()),
            ("call", Some(Loaded::Loss(bench))) => blocks(stream, count, || bench.call().map(drop)),
            ("forward" | "input" | "weight", Some(Loaded::Layer(layer))) => {
                blocks(stream, count, || layer.run(subject))
            }
            ("step", Some(Loaded::Step(batch))) => blocks(stream, count, || batch.step()),
            _ => bail!("nothing is loaded that has a time of {subject}"),
        }
    }

    fn answer(&mut self, words: &[&str]) -> Result<String> {
        match (words, self.loaded.as_mut()) {
            (["versions"], _) => self.versions(),
            (["forget"], _) => {
                self.forget()?;
                Ok("forgotten".to_owned())
            }
            (["write", contestant, file], Some(Loaded::Loss(bench))) => {
                let value = bench.write(contestant, Path::new(file))?;
                Ok(format!("value {value}"))
            }
            (["save", folder], Some(Loaded::Step(batch))) => {
                batch.save(Path::new(folder))?;
                Ok("saved".to_owned())
            }
            (["losses", count], Some(Loaded::Step(batch))) => {
                let losses = batch.losses(count.parse()?)?;
                let words: Vec<String> = losses.iter().map(ToString::to_string).collect();
                Ok(format!("values {}", words.join(" ")))
            }
            (["memory"], Some(Loaded::Step(batch))) => {
                let mib = batch.memory()? as f64 / f64::from(1 << 20);
                Ok(format!(r#"json {{"device_mib": {mib}}}"#))
            }
            (["time", subject, count], Some(_)) => self.time(subject, count.parse()?),
            (words, _) => self.load(words),
        }
    }
}

fn main() -> io::Result<()> {
    // Opened by the first order, so that what goes wrong is an answer.
    let mut gpu = None;
    serve(|words| {
        if gpu.is_none() {
            gpu = Some(Gpu::open()?);
        }
        gpu.as_mut().context("opened above")?.answer(words)
    })
}
