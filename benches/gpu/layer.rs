//! One convolution of the network, as the engine computes it.

use anyhow::Result;
use candle_core::{Device, Tensor};
use seg_unet::{Precision, cuda::single::Block};

/// A convolution, with numbers that no kernel takes a shorter way for.
pub(crate) struct Layer(Block);

impl Layer {
    /// Of `[images, inputs, outputs, size]`.
    pub(crate) fn new(shape: [usize; 4], precision: Precision, device: &Device) -> Result<Self> {
        let [images, inputs, outputs, size] = shape;
        let waves = |dims: &[usize]| -> Result<Tensor> {
            let count: usize = dims.iter().product();
            let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
            Ok(Tensor::from_vec(numbers, dims, device)?)
        };
        let x = waves(&[images, inputs, size, size])?;
        let weight = waves(&[outputs, inputs, 3, 3])?;
        let numbers = waves(&[outputs])?;
        let weights = [&weight, &numbers, &numbers, &numbers];
        let block = Block::new(&[&x], weights, 1e-3, false, precision)?;
        // The gradient in z, which those below are made of.
        block.trace(&[&waves(&[images, outputs, size, size])?])?;
        Ok(Self(block))
    }

    /// The convolution itself, or its gradient in the input or the weight.
    pub(crate) fn run(&self, direction: &str) -> Result<()> {
        match direction {
            "forward" => self.0.convolution()?,
            "input" => self.0.input_gradient()?,
            _ => self.0.weight_gradient()?,
        }
        Ok(())
    }
}
