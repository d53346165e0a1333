//! 3 × 3 convolution of two images that are joined along the channels, as a custom operation.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::{
    blocked::size,
    three::{Image, backward, forward},
};
use crate::{
    kernels::{filters::TAPS, simd::Dispatch},
    ops::storage::{elements, with_elements},
};

/// Of two images, and [`weight_and_bias`], all contiguous.
pub(super) struct OfTwo;

/// Both in the one tensor that is left for them of an operation's three inputs.
pub(super) fn weight_and_bias(weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[&weight.flatten_all()?, bias], 0)
}

/// [`weight_and_bias`] of images of so many channels, apart again.
fn apart<R>(both: &[R], channels: usize) -> (&[R], &[R]) {
    let row = channels * TAPS;
    both.split_at(both.len() / (row + 1) * row)
}

impl OfTwo {
    fn forward<R: Dispatch>(
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        (s3, l3): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let ((size, of_first), (_, of_second)) = (size(l1.shape())?, size(l2.shape())?);
        let images: [Image<'_, R>; 2] = [
            (elements(s1, l1)?, of_first),
            (elements(s2, l2)?, of_second),
        ];
        let (weight, bias) = apart(elements(s3, l3)?, of_first + of_second);
        let y = forward(&images, size, weight, bias, false)?;
        Ok((
            R::to_cpu_storage_owned(y),
            (size.n, bias.len(), size.h, size.w).into(),
        ))
    }

    fn backward<R: Dispatch>(
        x1: &Tensor,
        x2: &Tensor,
        both: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = with_elements::<R, _>(gy, |gy| {
            with_elements(both, |both| {
                let (weight, bias) = apart(both, x1.dim(1)? + x2.dim(1)?);
                backward(&[x1, x2], weight, bias.len(), gy)
            })
        })?;
        let mut images = gradients.images;
        let of_both = [gradients.weight, gradients.bias].concat();
        let of_both = Tensor::from_vec(of_both, both.shape(), x1.device())?;
        Ok((images.remove(0), images.remove(0), Some(of_both)))
    }
}

impl CustomOp3 for OfTwo {
    fn name(&self) -> &'static str {
        "conv-3x3-joined"
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
            CpuStorage::F64(_) => Self::forward::<f64>((s1, l1), (s2, l2), (s3, l3)),
            _ => Self::forward::<f32>((s1, l1), (s2, l2), (s3, l3)),
        }
    }

    fn bwd(
        &self,
        x1: &Tensor,
        x2: &Tensor,
        both: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        match x1.dtype() {
            DType::F64 => Self::backward::<f64>(x1, x2, both, &gy),
            _ => Self::backward::<f32>(x1, x2, both, &gy),
        }
    }
}
