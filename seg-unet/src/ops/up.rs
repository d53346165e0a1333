//! 2 × 2 transposed convolution with stride 2 and bias: the way up.
//!
//! Stride and kernel are equal, so windows do not overlap, and the operation is one matrix product over the channels,
//! whose 4 · O rows are then dealt out to the four places of each window:
//!
//! ```text
//! y[o, 2h + a, 2w + b] = Σ_i weight[i, o, a, b] · x[i, h, w] + bias[o]
//! ```
//!
//! Candle's `conv_transpose2d` computes the same with a dot product for every element of the output.

use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::storage::{Matrix, channel_sums, elements, fused, with_elements};

/// Doubles height and width: `x` is `[N, I, H, W]`, `weight` `[I, O, 2, 2]`, `bias` `[O]`, the result `[N, O, 2H, 2W]`.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::new(&[[[[1f32, 2.]]]], &Cpu)?;
/// let weight = Tensor::new(&[[[[1f32, 2.], [3., 4.]]]], &Cpu)?;
/// let y = seg_unet::ops::up2(&x, &weight, &Tensor::new(&[10f32], &Cpu)?)?;
/// assert_eq!(y.reshape((2, 4))?.to_vec2::<f32>()?, [[11., 12., 12., 14.], [13., 14., 16., 18.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other.
pub fn up2(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check(x, weight, bias)?;
    if fused(x) {
        x.contiguous()?
            .apply_op3(&weight.contiguous()?, &bias.contiguous()?, Up2)
    } else {
        up2_reference(x, weight, bias)
    }
}

/// [`up2`] by Candle's own operations.
///
/// # Errors
/// As [`up2`].
pub fn up2_reference(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check(x, weight, bias)?;
    let (n, inputs, h, w) = x.dims4()?;
    let outputs = weight.dim(1)?;
    let rows = weight.reshape((inputs, 4 * outputs))?.t()?.contiguous()?;
    let product = rows.broadcast_matmul(&x.reshape((n, inputs, h * w))?)?;
    let dealt = product
        .reshape((n * outputs, 2, 2, h, w))?
        .permute((0, 3, 1, 4, 2))?;
    dealt
        .reshape((n, outputs, 2 * h, 2 * w))?
        .broadcast_add(&bias.reshape((1, (), 1, 1))?)
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let fits = match (x.dims(), weight.dims(), bias.dims()) {
        ([_, channels, _, _], [inputs, outputs, 2, 2], [biases]) => {
            channels == inputs && outputs == biases
        }
        _ => false,
    };
    // Nothing can be cut into pieces of length 0.
    if fits && x.elem_count() > 0 && weight.elem_count() > 0 {
        return Ok(());
    }
    Err(Error::Msg(format!(
        "up2: image {:?}, kernel {:?} and bias {:?} do not fit; expected [N, I, H, W], [I, O, 2, 2] and [O], no size 0",
        x.dims(),
        weight.dims(),
        bias.dims()
    )))
}

struct Up2;

/// Sizes of an image `[N, I, H, W]` that becomes `[N, O, 2H, 2W]`.
#[derive(Clone, Copy)]
struct Sizes {
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
}

impl Sizes {
    fn pixels(self) -> usize {
        self.height * self.width
    }

    fn image(self) -> (usize, usize) {
        (self.inputs, self.pixels())
    }

    /// `weight` as the matrix `[I, 4 · O]` that it is in memory.
    fn weight(self, storage: &CpuStorage, offset: usize) -> Matrix<'_> {
        Matrix::new(
            storage,
            offset,
            (self.inputs, 4 * self.outputs),
            4 * self.outputs,
        )
    }
}

/// Deals the rows (o, a, b) of a product out to the windows of one image, adding the bias.
fn deal<T: WithDType>(size: Sizes, product: &[T], bias: &[T], image: &mut [T]) {
    let (pixels, width) = (size.pixels(), size.width);
    image
        .par_chunks_mut(4 * pixels)
        .zip(product.par_chunks(4 * pixels))
        .zip(bias)
        .for_each(|((y, rows), &bias)| {
            for (i, y) in y.chunks_mut(2 * width).enumerate() {
                let (h, a) = (i / 2, i % 2);
                let left = &rows[2 * a * pixels + h * width..][..width];
                let right = &rows[(2 * a + 1) * pixels + h * width..][..width];
                for ((y, &left), &right) in y.chunks_mut(2).zip(left).zip(right) {
                    y[0] = left + bias;
                    y[1] = right + bias;
                }
            }
        });
}

/// The reverse of [`deal`]: the rows (o, a, b) of one image.
fn collect<T: WithDType>(size: Sizes, image: &[T]) -> Vec<T> {
    let (pixels, width) = (size.pixels(), size.width);
    let mut rows = vec![T::zero(); image.len()];
    rows.par_chunks_mut(4 * pixels)
        .zip(image.par_chunks(4 * pixels))
        .for_each(|(rows, y)| {
            for (i, y) in y.chunks(2 * width).enumerate() {
                let (h, a) = (i / 2, i % 2);
                for b in 0..2 {
                    let row = &mut rows[(2 * a + b) * pixels + h * width..][..width];
                    for (to, from) in row.iter_mut().zip(y.chunks(2)) {
                        *to = from[b];
                    }
                }
            }
        });
    rows
}

impl Up2 {
    fn forward<T: WithDType>(
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        (s3, l3): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (n, inputs, height, width) = l1.shape().dims4()?;
        let outputs = l3.shape().elem_count();
        let size = Sizes {
            inputs,
            outputs,
            height,
            width,
        };
        let bias = elements::<T>(s3, l3)?;
        let rows = size.weight(s2, l2.start_offset()).t();
        let mut y = vec![T::zero(); n * outputs * 4 * size.pixels()];
        for (i, y) in y.chunks_mut(outputs * 4 * size.pixels()).enumerate() {
            let start = l1.start_offset() + i * inputs * size.pixels();
            let x = Matrix::new(s1, start, size.image(), size.pixels());
            deal(size, &rows.times::<T>(&x)?, bias, y);
        }
        Ok((
            T::to_cpu_storage_owned(y),
            (n, outputs, 2 * height, 2 * width).into(),
        ))
    }

    /// Gradients with respect to input, weight and bias.
    fn backward<T: WithDType>(
        size: Sizes,
        x: &[T],
        weight: &[T],
        gy: &[T],
    ) -> Result<(Vec<T>, Vec<T>, Vec<T>)> {
        let Sizes {
            inputs, outputs, ..
        } = size;
        let pixels = size.pixels();
        let weight = T::to_cpu_storage(weight);
        let weight = size.weight(&weight, 0);
        let mut gx = Vec::with_capacity(x.len());
        let mut gw = vec![T::zero(); 4 * inputs * outputs];
        let gb = channel_sums(gy, outputs, 4 * pixels);
        for (x, gy) in x
            .chunks(inputs * pixels)
            .zip(gy.chunks(outputs * 4 * pixels))
        {
            let rows = T::to_cpu_storage_owned(collect(size, gy));
            let rows = Matrix::new(&rows, 0, (4 * outputs, pixels), pixels);
            gx.extend(weight.times::<T>(&rows)?);
            let x = T::to_cpu_storage(x);
            let part = Matrix::new(&x, 0, size.image(), pixels).times::<T>(&rows.t())?;
            for (gw, part) in gw.iter_mut().zip(part) {
                *gw += part;
            }
        }
        Ok((gx, gw, gb))
    }
}

impl CustomOp3 for Up2 {
    fn name(&self) -> &'static str {
        "up2"
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
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn tensors<T: WithDType>(
            x: &Tensor,
            weight: &Tensor,
            bias: &Tensor,
            gy: &Tensor,
        ) -> Result<[Tensor; 3]> {
            let (_, inputs, height, width) = x.dims4()?;
            let size = Sizes {
                inputs,
                outputs: bias.dim(0)?,
                height,
                width,
            };
            let (gx, gw, gb) = with_elements::<T, _>(x, |x| {
                with_elements::<T, _>(weight, |w| {
                    with_elements::<T, _>(gy, |gy| Up2::backward(size, x, w, gy))
                })
            })?;
            let gx = Tensor::from_vec(gx, x.shape(), x.device())?;
            let gw = Tensor::from_vec(gw, weight.shape(), x.device())?;
            Ok([gx, gw, Tensor::from_vec(gb, bias.shape(), x.device())?])
        }
        let gy = gy.contiguous()?;
        let [gx, gw, gb] = match x.dtype() {
            DType::F64 => tensors::<f64>(x, weight, bias, &gy)?,
            _ => tensors::<f32>(x, weight, bias, &gy)?,
        };
        Ok((Some(gx), Some(gw), Some(gb)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device::Cpu;

    use super::*;
    use crate::ops::testing::{assert_agree, assert_gradients, random};

    #[test]
    fn value_and_gradients_are_those_of_the_reference_and_of_candles_operation() {
        for (n, i, o, h, w) in [(1, 1, 1, 1, 1), (2, 3, 4, 5, 2), (3, 4, 2, 1, 6)] {
            let inputs = [
                random(&[n, i, h, w], 1),
                random(&[i, o, 2, 2], 2),
                random(&[o], 3),
            ];
            let up = |t: &[Tensor]| up2(&t[0], &t[1], &t[2]);
            assert_agree(&inputs, up, |t| up2_reference(&t[0], &t[1], &t[2]), 1e-13);
            let candles = |t: &[Tensor]| {
                t[0].conv_transpose2d(&t[1], 0, 0, 2, 1)?
                    .broadcast_add(&t[2].reshape((1, (), 1, 1))?)
            };
            assert_agree(&inputs, up, candles, 1e-13);
            let inputs = inputs.map(|t| t.to_dtype(DType::F32).unwrap());
            assert_agree(&inputs, up, |t| up2_reference(&t[0], &t[1], &t[2]), 1e-6);
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        let inputs = [
            random(&[2, 3, 2, 3], 1),
            random(&[3, 2, 2, 2], 2),
            random(&[2], 3),
        ];
        assert_gradients(&inputs, |t| up2(&t[0], &t[1], &t[2]), 1e-7);
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Cpu).unwrap();
        let error = up2(&t(&[1, 3, 8, 8]), &t(&[4, 2, 2, 2]), &t(&[2])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "up2: image [1, 3, 8, 8], kernel [4, 2, 2, 2] and bias [2] do not fit; \
             expected [N, I, H, W], [I, O, 2, 2] and [O], no size 0"
        );
    }
}
