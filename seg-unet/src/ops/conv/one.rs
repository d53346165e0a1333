//! 3 × 3 convolution of one image, and with a `ReLU` behind it, as a custom operation.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    blocked::size,
    three::{Image, backward, forward},
};
use crate::{
    kernels::simd::Dispatch,
    ops::storage::{elements, with_elements},
};

/// `gy` where `y` = relu(z) has passed z.
fn passed<R: Dispatch>(y: &[R], gy: &[R]) -> Vec<R> {
    let pairs = y.par_iter().zip(gy);
    // "y ≤ 0" stops it, not "y > 0" lets it through: NaN has to come through.
    let passed = pairs.map(|(&y, &gy)| if y <= R::zero() { R::zero() } else { gy });
    passed.collect()
}

/// Of an image, weight and bias, all contiguous.
pub(super) struct OfOne {
    /// Whether a `ReLU` follows.
    pub(super) relu: bool,
}

impl OfOne {
    fn forward<R: Dispatch>(
        &self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        (s3, l3): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (size, channels) = size(l1.shape())?;
        let (weight, bias) = (elements(s2, l2)?, elements(s3, l3)?);
        let images: [Image<'_, R>; 1] = [(elements(s1, l1)?, channels)];
        let y = forward(&images, size, weight, bias, self.relu)?;
        Ok((
            R::to_cpu_storage_owned(y),
            (size.n, bias.len(), size.h, size.w).into(),
        ))
    }

    fn backward<R: Dispatch>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let outputs = bias.elem_count();
        let gradients = with_elements::<R, _>(gy, |gy| {
            with_elements(weight, |weight| {
                if self.relu {
                    let gy = with_elements(y, |y| Ok(passed(y, gy)))?;
                    backward(&[x], weight, outputs, &gy)
                } else {
                    backward(&[x], weight, outputs, gy)
                }
            })
        })?;
        let mut images = gradients.images;
        Ok((
            images.remove(0),
            Some(Tensor::from_vec(
                gradients.weight,
                weight.shape(),
                x.device(),
            )?),
            Some(Tensor::from_vec(gradients.bias, outputs, x.device())?),
        ))
    }
}

impl CustomOp3 for OfOne {
    fn name(&self) -> &'static str {
        "conv-3x3"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match s1 {
            CpuStorage::F64(_) => self.forward::<f64>((s1, l1), (s2, l2), (s3, l3)),
            _ => self.forward::<f32>((s1, l1), (s2, l2), (s3, l3)),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        match x.dtype() {
            DType::F64 => self.backward::<f64>(x, weight, bias, y, &gy),
            _ => self.backward::<f32>(x, weight, bias, y, &gy),
        }
    }
}
