//! Convolution of odd kernel, stride 1, "same" zero padding, with bias.
//!
//! Candle's own is right but slow: its forward gathers single floats, and its gradients convolve with kernels as large
//! as the image. Here the image is unfolded strip by strip, and the convolution is one matrix product a strip:
//!
//! ```text
//! y[o, t] = Σ w[o, (c, i, j)] · unfolded[(c, i, j), t] + b[o]
//! ```
//!
//! The gradient of the input is the same operation on the output's gradient, with the kernel rotated by half a turn and
//! its two channel axes swapped; that of the kernel is a product with the same unfolded strips.

use super::{
    storage::{Matrix, elements, fused, sum, with_elements},
    unfold::{Grid, fold_in},
};
use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Tensor, WithDType};

/// y = x ∗ w + b of the same height and width: `x` is `[N, I, H, W]`, `w` `[O, I, k, k]` with k odd, `b` `[O]`.
///
/// A cross-correlation, as in every deep-learning library, with zeros outside the image.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Cpu)?;
/// let w = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Cpu)?;
/// let b = Tensor::new(&[10f32], &Cpu)?;
/// let y = seg_unet::ops::conv2d_same(&x, &w, &b)?.flatten_all()?.to_vec1::<f32>()?;
/// assert_eq!(y, [14., 16., 14., 16., 19., 16., 14., 16., 14.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other or the kernel is not odd and square.
pub fn conv2d_same(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    check(x, w, b)?;
    if fused(x) {
        x.contiguous()?
            .apply_op3(&w.contiguous()?, &b.contiguous()?, Conv2dSame)
    } else {
        conv2d_same_reference(x, w, b)
    }
}

/// [`conv2d_same`] by Candle's own operations.
///
/// # Errors
/// As [`conv2d_same`].
pub fn conv2d_same_reference(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    let k = check(x, w, b)?;
    // Candle has computed wrong gradients for strided kernels before.
    x.conv2d(&w.contiguous()?, k / 2, 1, 1, 1)?
        .broadcast_add(&b.reshape((1, (), 1, 1))?)
}

/// The kernel's size, if all shapes fit.
fn check(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<usize> {
    let fits = match (x.dims(), w.dims(), b.dims()) {
        ([_, channels, _, _], [outputs, inputs, kh, kw], [biases]) => {
            channels == inputs && outputs == biases && kh == kw && kh % 2 == 1
        }
        _ => false,
    };
    // Nothing can be cut into pieces of length 0.
    if fits && x.elem_count() > 0 && w.elem_count() > 0 {
        return w.dim(3);
    }
    Err(Error::Msg(format!(
        "conv2d_same: image {:?}, kernel {:?} and bias {:?} do not fit; \
         expected [N, I, H, W], [O, I, k, k] with k odd, and [O], no size 0",
        x.dims(),
        w.dims(),
        b.dims()
    )))
}

/// The kernel for the gradient of the input: `[O, I, k, k]` to `[I, O, k, k]`, rotated by half a turn.
fn rotate<T: WithDType>(w: &[T], outputs: usize, inputs: usize, taps: usize) -> Vec<T> {
    let mut rotated = Vec::with_capacity(w.len());
    for i in 0..inputs {
        for o in 0..outputs {
            rotated.extend(w[(o * inputs + i) * taps..][..taps].iter().rev());
        }
    }
    rotated
}

fn add_to<T: WithDType>(total: &mut [T], part: &[T]) {
    for (total, &part) in total.iter_mut().zip(part) {
        *total += part;
    }
}

struct Conv2dSame;

/// Gradients with respect to input (if wanted), kernel and bias.
type Gradients<T> = (Option<Vec<T>>, Vec<T>, Vec<T>);

impl Conv2dSame {
    fn forward<T: WithDType>(
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        (s3, l3): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (n, inputs, height, width) = l1.shape().dims4()?;
        let (outputs, _, k, _) = l2.shape().dims4()?;
        let grid = Grid { height, width, k };
        let (x, b) = (elements::<T>(s1, l1)?, elements::<T>(s3, l3)?);
        let rows_of_w = inputs * k * k;
        let w = Matrix::new(s2, l2.start_offset(), (outputs, rows_of_w), rows_of_w);
        let mut y = vec![T::zero(); n * outputs * grid.pixels()];
        for (x, y) in x
            .chunks(inputs * grid.pixels())
            .zip(y.chunks_mut(outputs * grid.pixels()))
        {
            grid.unfold(&grid.pad(x), inputs, |first, rows, cols| {
                let columns = rows * grid.pitch();
                let product = w.times::<T>(&Matrix::new(cols, 0, (rows_of_w, columns), columns))?;
                fold_in(grid, &product, first, rows, b, y);
                Ok(())
            })?;
        }
        Ok((
            T::to_cpu_storage_owned(y),
            (n, outputs, height, width).into(),
        ))
    }

    /// The kernel's gradient, from the unfolded image:
    ///
    /// ```text
    /// ∂w[o, (i, tap)] = Σ_t gy[o, t] · unfolded(x)[(i, tap), t]
    /// ```
    fn kernel_gradient<T: WithDType>(
        grid: Grid,
        (x, inputs): (&[T], usize),
        (gy, outputs): (&[T], usize),
    ) -> Result<Vec<T>> {
        let rows_of_w = inputs * grid.k * grid.k;
        let mut gw = vec![T::zero(); outputs * rows_of_w];
        for (x, gy) in x
            .chunks(inputs * grid.pixels())
            .zip(gy.chunks(outputs * grid.pixels()))
        {
            // The border of zeros keeps the dropped columns out of the sum.
            let gy = T::to_cpu_storage_owned(grid.pad(gy));
            grid.unfold(&grid.pad(x), inputs, |first, rows, cols| {
                let columns = rows * grid.pitch();
                let start = grid.origin() + first * grid.pitch();
                let gy = Matrix::new(&gy, start, (outputs, columns), grid.len());
                add_to(
                    &mut gw,
                    &gy.times::<T>(&Matrix::new(cols, 0, (rows_of_w, columns), columns).t())?,
                );
                Ok(())
            })?;
        }
        Ok(gw)
    }

    /// The image's and the kernel's gradient from one unfolding, that of `gy`; the latter is then
    ///
    /// ```text
    /// ∂w[o, i, tap] = Σ_t x[i, t] · unfolded(gy)[(o, tap rotated by half a turn), t]
    /// ```
    fn both_gradients<T: WithDType>(
        grid: Grid,
        (x, inputs): (&[T], usize),
        (gy, outputs): (&[T], usize),
        w: &[T],
    ) -> Result<(Vec<T>, Vec<T>)> {
        let taps = grid.k * grid.k;
        let rows_of_w = outputs * taps;
        let rotated = T::to_cpu_storage_owned(rotate(w, outputs, inputs, taps));
        let rotated = Matrix::new(&rotated, 0, (inputs, rows_of_w), rows_of_w);
        let mut gx = vec![T::zero(); x.len()];
        let mut gw = vec![T::zero(); w.len()];
        let samples = x
            .chunks(inputs * grid.pixels())
            .zip(gy.chunks(outputs * grid.pixels()));
        for ((x, gy), gx) in samples.zip(gx.chunks_mut(inputs * grid.pixels())) {
            let x = T::to_cpu_storage_owned(grid.pad(x));
            grid.unfold(&grid.pad(gy), outputs, |first, rows, cols| {
                let columns = rows * grid.pitch();
                let cols = Matrix::new(cols, 0, (rows_of_w, columns), columns);
                fold_in(grid, &rotated.times::<T>(&cols)?, first, rows, &[], gx);
                let start = grid.origin() + first * grid.pitch();
                let x = Matrix::new(&x, start, (inputs, columns), grid.len());
                add_to(&mut gw, &x.times::<T>(&cols.t())?);
                Ok(())
            })?;
        }
        Ok((gx, rotate(&gw, inputs, outputs, taps)))
    }

    fn backward<T: WithDType>(x: &Tensor, w: &Tensor, gy: &Tensor) -> Result<Gradients<T>> {
        let (_, inputs, height, width) = x.dims4()?;
        let (outputs, _, k, _) = w.dims4()?;
        let grid = Grid { height, width, k };
        with_elements::<T, _>(gy, |gy_| {
            let mut gb = vec![0.0; outputs];
            for (i, plane) in gy_.chunks(grid.pixels()).enumerate() {
                gb[i % outputs] += sum(plane, |g| g);
            }
            let gb = gb.into_iter().map(T::from_f64).collect();
            with_elements::<T, _>(x, |x_| {
                // The image itself needs no gradient, and unfolding its few channels is cheaper.
                if x.track_op() {
                    let both =
                        |w: &[T]| Self::both_gradients(grid, (x_, inputs), (gy_, outputs), w);
                    let (gx, gw) = with_elements(w, both)?;
                    Ok((Some(gx), gw, gb))
                } else {
                    Ok((
                        None,
                        Self::kernel_gradient(grid, (x_, inputs), (gy_, outputs))?,
                        gb,
                    ))
                }
            })
        })
    }
}

impl CustomOp3 for Conv2dSame {
    fn name(&self) -> &'static str {
        "conv2d-same"
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
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn tensors<T: WithDType>(
            x: &Tensor,
            w: &Tensor,
            b: &Tensor,
            gy: &Tensor,
        ) -> Result<[Option<Tensor>; 3]> {
            let (gx, gw, gb) = Conv2dSame::backward::<T>(x, w, gy)?;
            let gx = gx
                .map(|gx| Tensor::from_vec(gx, x.shape(), x.device()))
                .transpose()?;
            let gw = Tensor::from_vec(gw, w.shape(), w.device())?;
            Ok([
                gx,
                Some(gw),
                Some(Tensor::from_vec(gb, b.shape(), b.device())?),
            ])
        }
        let gy = gy.contiguous()?;
        let [gx, gw, gb] = match x.dtype() {
            DType::F64 => tensors::<f64>(x, w, b, &gy)?,
            _ => tensors::<f32>(x, w, b, &gy)?,
        };
        Ok((gx, gw, gb))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device::Cpu};

    use super::*;
    use crate::ops::{
        testing::{assert_agree, assert_gradients, random},
        unfold::STRIP,
    };

    #[test]
    fn value_and_gradients_are_those_of_the_reference_at_any_size() {
        for (n, i, o, h, w, k) in [
            (1, 1, 1, 1, 1, 3),
            (2, 3, 4, 5, 7, 3),
            (1, 2, 3, 1, 9, 3),
            (3, 2, 2, 8, 1, 3),
            (1, 5, 2, 6, 6, 1),
            (1, 2, 2, 4, 5, 5),
        ] {
            let inputs = [
                random(&[n, i, h, w], 1),
                random(&[o, i, k, k], 2),
                random(&[o], 3),
            ];
            assert_agree(
                &inputs,
                |t| conv2d_same(&t[0], &t[1], &t[2]),
                |t| conv2d_same_reference(&t[0], &t[1], &t[2]),
                1e-13,
            );
        }
    }

    #[test]
    fn an_image_of_several_strips_agrees_with_the_reference() {
        let (channels, height, width) = (24, 96, 40);
        assert!(channels * 9 * height * (width + 1) > STRIP); // more than one strip
        let inputs = [
            random(&[2, channels, height, width], 1),
            random(&[3, channels, 3, 3], 2),
            random(&[3], 3),
        ];
        let fused = |t: &[Tensor]| conv2d_same(&t[0], &t[1], &t[2]);
        assert_agree(
            &inputs,
            fused,
            |t| conv2d_same_reference(&t[0], &t[1], &t[2]),
            1e-11,
        );
        let inputs = inputs.map(|t| t.to_dtype(DType::F32).unwrap());
        assert_agree(
            &inputs,
            fused,
            |t| conv2d_same_reference(&t[0], &t[1], &t[2]),
            1e-5,
        );
    }

    #[test]
    fn gradients_are_central_differences() {
        let inputs = [
            random(&[2, 2, 3, 4], 1),
            random(&[3, 2, 3, 3], 2),
            random(&[3], 3),
        ];
        assert_gradients(&inputs, |t| conv2d_same(&t[0], &t[1], &t[2]), 1e-7);
    }

    #[test]
    fn a_strided_image_and_a_strided_kernel_are_read_rightly() {
        let inputs = [
            random(&[4, 5, 2, 3], 1),
            random(&[3, 3, 3, 2], 2),
            random(&[2], 3),
        ];
        let turned = |t: &[Tensor]| {
            Ok::<_, Error>((t[0].permute((2, 3, 0, 1))?, t[1].permute((3, 0, 1, 2))?))
        };
        assert_agree(
            &inputs,
            |t| turned(t).and_then(|(x, w)| conv2d_same(&x, &w, &t[2])),
            |t| turned(t).and_then(|(x, w)| conv2d_same_reference(&x, &w, &t[2])),
            1e-13,
        );
    }

    #[test]
    fn an_image_that_needs_no_gradient_leaves_the_others_unchanged() {
        let (x, w, b) = (
            random(&[2, 3, 6, 5], 1),
            random(&[4, 3, 3, 3], 2),
            random(&[4], 3),
        );
        let var = |t: &Tensor| candle_core::Var::from_tensor(t).unwrap();
        let (vx, vw, vb) = (var(&x), var(&w), var(&b));
        let grads = |x: &Tensor| {
            conv2d_same(x, &vw, &vb)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        };
        let (without, with) = (grads(&x), grads(&vx));
        assert!(without.get(&x).is_none());
        for v in [&vw, &vb] {
            let difference = (without.get(v).unwrap() - with.get(v).unwrap())
                .unwrap()
                .abs()
                .unwrap();
            let most: f64 = difference.max_all().unwrap().to_scalar().unwrap();
            assert!(most < 1e-12, "{most}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Cpu).unwrap();
        for kernel in [[4, 2, 3, 3], [4, 3, 2, 2], [5, 3, 3, 3]] {
            let error = conv2d_same(&t(&[1, 3, 8, 8]), &t(&kernel), &t(&[4])).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "conv2d_same: image [1, 3, 8, 8], kernel {kernel:?} and bias [4] do not fit; \
                     expected [N, I, H, W], [O, I, k, k] with k odd, and [O], no size 0"
                )
            );
        }
    }
}
