//! Logits with their truth, drawn or read.

use std::{fs, path::Path};

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use dice_losses::{Prediction, Target};

/// The shapes that are compared: an image, a batch of them, two volumes of four classes, an image with one channel.
pub const SHAPES: [&[usize]; 4] = [
    &[1, 2, 512, 512],
    &[8, 2, 512, 512],
    &[2, 4, 128, 128, 128],
    &[1, 1, 512, 512],
];

/// `1x2x512x512`.
pub fn name(dims: &[usize]) -> String {
    dims.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("x")
}

/// What a loss is measured on. One channel is a sigmoid's, more are a softmax's.
#[derive(Debug)]
pub struct Input {
    /// `[N, C, …]`, f32.
    pub logits: Tensor,
    /// Class numbers `[N, …]`, u8: the ordinary target.
    pub labels: Tensor,
    /// The same truth as `[N, C, …]`, f32: what a loss without labels has to be given.
    pub one_hot: Tensor,
}

impl Input {
    /// Rings, a class each, that the logits see with noise.
    ///
    /// # Errors
    ///
    /// If the shape is not `[N, C, …]`.
    pub fn draw(dims: &[usize]) -> Result<Self> {
        let [n, channels, space @ ..] = dims else {
            bail!("an input has shape [N, C, ...], found {dims:?}");
        };
        let pixels: usize = space.iter().product();
        let classes = (*channels).max(2);
        let ring: Vec<u8> = (0..pixels).map(|i| ring(i, space, classes)).collect();
        let mut logits = Vec::with_capacity(n * channels * pixels);
        let mut one_hot = Vec::with_capacity(logits.capacity());
        for item in 0..*n {
            for channel in 0..*channels {
                let class = if *channels == 1 { 1 } else { channel };
                for (i, &label) in ring.iter().enumerate() {
                    let y = f32::from(usize::from(label) == class);
                    let noise = noise(((item * channels + channel) * pixels + i) as u64);
                    one_hot.push(y);
                    logits.push(2.0 * y - 1.0 + 3.0 * noise);
                }
            }
        }
        Self::new(dims, logits, ring.repeat(*n), one_hot)
    }

    /// The raw files `logits.f32`, `labels.u8` and `one_hot.f32` of a folder, little-endian.
    ///
    /// # Errors
    ///
    /// If a file can't be read or has another length than the shape says.
    pub fn read(folder: &Path, dims: &[usize]) -> Result<Self> {
        let bytes = |file: &str| {
            let path = folder.join(file);
            fs::read(&path).map_err(|error| Error::Msg(format!("{}: {error}", path.display())))
        };
        let floats = |file: &str| -> Result<Vec<f32>> {
            let bytes = bytes(file)?;
            let (numbers, _) = bytes.as_chunks::<4>();
            Ok(numbers
                .iter()
                .map(|&number| f32::from_le_bytes(number))
                .collect())
        };
        Self::new(
            dims,
            floats("logits.f32")?,
            bytes("labels.u8")?,
            floats("one_hot.f32")?,
        )
    }

    fn new(dims: &[usize], logits: Vec<f32>, labels: Vec<u8>, one_hot: Vec<f32>) -> Result<Self> {
        let without_channels: Vec<usize> = [&dims[..1], &dims[2..]].concat();
        Ok(Self {
            logits: Tensor::from_vec(logits, dims, &Device::Cpu)?,
            labels: Tensor::from_vec(labels, without_channels, &Device::Cpu)?,
            one_hot: Tensor::from_vec(one_hot, dims, &Device::Cpu)?,
        })
    }

    /// The same numbers with logits and one-hot target of another dtype.
    ///
    /// # Errors
    ///
    /// If Candle can't convert to it.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            logits: self.logits.to_dtype(dtype)?,
            labels: self.labels.clone(),
            one_hot: self.one_hot.to_dtype(dtype)?,
        })
    }

    /// The logits for a loss.
    pub fn prediction(&self) -> Prediction {
        Prediction::logits(&self.logits)
    }

    /// The labels for a loss.
    pub fn target(&self) -> Target {
        Target::labels(&self.labels)
    }

    /// The least bytes that loss and gradient have to move: logits and labels read twice, since no gradient can be
    /// written before the sums over all pixels are known, and the gradient written once.
    pub fn least_bytes(&self) -> usize {
        let logits = self.logits.elem_count() * DType::F32.size_in_bytes();
        let labels = self.labels.elem_count() * DType::U8.size_in_bytes();
        2 * logits + 2 * labels + logits
    }
}

/// Which ring around the middle a pixel lies in; the innermost is the last class.
fn ring(pixel: usize, space: &[usize], classes: usize) -> u8 {
    let (mut rest, mut squares) = (pixel, 0.0);
    for &size in space.iter().rev() {
        let from_middle = 2.0 * ((rest % size) as f64 + 0.5) / size as f64 - 1.0;
        squares += from_middle * from_middle;
        rest /= size;
    }
    let inwards = (1.0 - squares.sqrt()).max(0.0);
    ((inwards * classes as f64) as usize).min(classes - 1) as u8
}

/// Noise in `[-1, 1)` from a place: Candle's own generator can't be seeded on the CPU. Steele et al. 2014 (splitmix).
fn noise(place: u64) -> f32 {
    let mut x = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
