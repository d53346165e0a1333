//! The training step of the paper's network, as the trainer makes it.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, IndexOp as _};
use dice_losses::LossSpec;
use seg_train::{
    cuda::Repeated,
    preprocess::Prepared,
    raster::{Image, Labels},
};
use seg_unet::Precision;
use workspace_benches::Step;

/// A network and the batch it is trained on.
pub(crate) struct Batch {
    /// The same on the CPU: what PyTorch reads.
    cpu: Step,
    device: Device,
    /// Bytes that were taken before.
    before: usize,
    repeated: Repeated,
}

impl Batch {
    pub(crate) fn new(
        size: usize,
        images: usize,
        seed: u64,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        let cpu = Step::batch(size, images, seed)?;
        let before = used(device)?;
        let (config, sgd) = Step::settings();
        let loss: LossSpec = "dice++:gamma=2".parse()?;
        let repeated = Repeated::new(
            (&config, seed),
            &sgd,
            loss.build(),
            precision,
            prepared(&cpu)?,
            device,
        )?;
        Ok(Self {
            cpu,
            device: device.clone(),
            before,
            repeated,
        })
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        self.cpu.save(folder)
    }

    pub(crate) fn losses(&mut self, count: usize) -> Result<Vec<f64>> {
        self.repeated.losses(count)
    }

    /// One replay, which is not waited for.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.repeated.step()
    }

    /// Bytes that the device has given since before the network was made.
    pub(crate) fn memory(&self) -> Result<usize> {
        self.device.as_cuda_device()?.cuda_stream().synchronize()?;
        Ok(used(&self.device)?.saturating_sub(self.before))
    }
}

/// Bytes of the device that are taken, by whomever.
fn used(device: &Device) -> Result<usize> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let (free, total) = stream.context().mem_get_info()?;
    Ok(total - free)
}

fn prepared(cpu: &Step) -> Result<Vec<Prepared>> {
    let (images, labels) = cpu.data();
    let (n, channels, height, width) = images.dims4()?;
    let one = |i: usize| -> Result<Prepared> {
        Ok(Prepared {
            id: i.to_string(),
            image: Image {
                channels,
                height,
                width,
                data: images.i(i)?.flatten_all()?.to_vec1()?,
            },
            labels: Labels {
                height,
                width,
                data: labels.i(i)?.flatten_all()?.to_vec1()?,
            },
            truth: None,
        })
    };
    (0..n).map(one).collect()
}
