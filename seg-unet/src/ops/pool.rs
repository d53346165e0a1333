//! 2 × 2 max-pooling with the gradient that Candle's `max_pool2d` gets wrong.
//!
//! In Candle 0.11.1 a window's only maximum receives a quarter of the gradient, and tied maxima receive all of it each.
//! Here one element of a window gets the whole gradient: the first maximum, row by row, as in `PyTorch`. Ties are the
//! rule rather than the exception behind a `ReLU`, where every window of zeros is one.

use candle_core::{
    CpuStorage, CustomOp1, D, DType, Error, Layout, Result, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use super::storage::{elements, fused, with_elements};

/// The maximum of each 2 × 2 window: `[N, C, H, W]` to `[N, C, H/2, W/2]`; NaN if the window holds one.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::new(&[[[[1f32, 2., 0., 0.], [4., 3., 0., -1.]]]], &Cpu)?;
/// let y = seg_unet::ops::max_pool2(&x)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [4., 0.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `x` does not have four dimensions, the last two of them even.
pub fn max_pool2(x: &Tensor) -> Result<Tensor> {
    check(x)?;
    if fused(x) {
        x.contiguous()?.apply_op1(MaxPool2)
    } else {
        max_pool2_reference(x)
    }
}

/// [`max_pool2`] by Candle's own operations: the windows become the last dimension, and `gather` takes the first maximum.
///
/// # Errors
/// As [`max_pool2`].
pub fn max_pool2_reference(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = check(x)?;
    let windows = x
        .reshape((n * c, h / 2, 2, w / 2, 2))?
        .permute((0, 1, 3, 2, 4))?;
    let windows = windows.reshape((n, c, h / 2, w / 2, 4))?.contiguous()?;
    // Not `max`: its gradient goes to every tied element.
    windows
        .gather(&windows.argmax_keepdim(D::Minus1)?, D::Minus1)?
        .squeeze(D::Minus1)
}

fn check(x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [n, c, h, w] if h % 2 == 0 && w % 2 == 0 && x.elem_count() > 0 => Ok((n, c, h, w)),
        _ => Err(Error::Msg(format!(
            "max_pool2: input {:?}; expected [N, C, H, W] with H and W even, no size 0",
            x.dims()
        ))),
    }
}

/// The first maximum among the four at `left` and `left + 1` of two rows: its row, column and value. The first NaN wins.
fn first_maximum<T: WithDType>(upper: &[T], lower: &[T], left: usize) -> (usize, usize, T) {
    let mut best = (0, left, upper[left]);
    for (row, column, value) in [
        (0, left + 1, upper[left + 1]),
        (1, left, lower[left]),
        (1, left + 1, lower[left + 1]),
    ] {
        if !best.2.to_f64().is_nan() && (value > best.2 || value.to_f64().is_nan()) {
            best = (row, column, value);
        }
    }
    best
}

struct MaxPool2;

impl MaxPool2 {
    fn forward<T: WithDType>(x: &[T], width: usize) -> Vec<T> {
        let mut y = vec![T::zero(); x.len() / 4];
        y.par_chunks_mut(width / 2)
            .zip(x.par_chunks(2 * width))
            .for_each(|(y, x)| {
                let (upper, lower) = x.split_at(width);
                for (i, y) in y.iter_mut().enumerate() {
                    *y = first_maximum(upper, lower, 2 * i).2;
                }
            });
        y
    }

    fn backward<T: WithDType>(x: &[T], gy: &[T], width: usize) -> Vec<T> {
        let mut gx = vec![T::zero(); x.len()];
        let rows = gx
            .par_chunks_mut(2 * width)
            .zip(x.par_chunks(2 * width))
            .zip(gy.par_chunks(width / 2));
        rows.for_each(|((gx, x), gy)| {
            let (upper, lower) = x.split_at(width);
            for (i, &g) in gy.iter().enumerate() {
                let (row, column, _) = first_maximum(upper, lower, 2 * i);
                gx[row * width + column] = g;
            }
        });
        gx
    }
}

impl CustomOp1 for MaxPool2 {
    fn name(&self) -> &'static str {
        "max-pool2"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = l.shape().dims4()?;
        let y = match s {
            CpuStorage::F64(_) => CpuStorage::F64(Self::forward(elements(s, l)?, w)),
            _ => CpuStorage::F32(Self::forward(elements(s, l)?, w)),
        };
        Ok((y, (n, c, h / 2, w / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        fn gradient<T: WithDType>(x: &Tensor, gy: &Tensor) -> Result<Tensor> {
            let width = x.dim(D::Minus1)?;
            let gx = with_elements::<T, _>(x, |x| {
                with_elements(gy, |gy| Ok(MaxPool2::backward::<T>(x, gy, width)))
            })?;
            Tensor::from_vec(gx, x.shape(), x.device())
        }
        let gy = gy.contiguous()?;
        match x.dtype() {
            DType::F64 => gradient::<f64>(x, &gy),
            _ => gradient::<f32>(x, &gy),
        }
        .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device::Cpu, Var};

    use super::*;
    use crate::ops::testing::{assert_agree, assert_gradients, random};

    #[test]
    fn value_and_gradient_are_those_of_the_reference() {
        for dims in [[1, 1, 2, 2], [2, 3, 4, 6], [1, 2, 8, 2]] {
            let exact = 0.0;
            assert_agree(
                &[random(&dims, 1)],
                |t| max_pool2(&t[0]),
                |t| max_pool2_reference(&t[0]),
                exact,
            );
            let single = random(&dims, 1).to_dtype(DType::F32).unwrap();
            assert_agree(
                &[single],
                |t| max_pool2(&t[0]),
                |t| max_pool2_reference(&t[0]),
                exact,
            );
        }
    }

    #[test]
    fn gradient_is_the_central_difference() {
        assert_gradients(&[random(&[2, 2, 4, 6], 1)], |t| max_pool2(&t[0]), 1e-9);
    }

    #[test]
    fn of_tied_maxima_the_first_gets_the_whole_gradient() {
        let x = [[[
            [0_f64, 0., 1., 5.],
            [0., 0., 5., 5.],
            [3., 7., -1., -2.],
            [7., 7., -1., -1.],
        ]]];
        let expected = [
            1., 0., 0., 2., 0., 0., 0., 0., 0., 3., 4., 0., 0., 0., 0., 0.,
        ];
        let x = Var::new(&x, &Cpu).unwrap();
        let upstream = Tensor::new(&[[[[1_f64, 2.], [3., 4.]]]], &Cpu).unwrap();
        for y in [max_pool2(&x).unwrap(), max_pool2_reference(&x).unwrap()] {
            assert_eq!(
                y.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
                [0., 5., 7., -1.]
            );
            let grads = (y * &upstream)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            assert_eq!(
                grads
                    .get(&x)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f64>()
                    .unwrap(),
                expected
            );
        }
    }

    #[test]
    fn nan_is_not_swallowed() {
        for at in 0..4 {
            let mut x = [1.0_f32, 2.0, 3.0, 4.0];
            x[at] = f32::NAN;
            let y = max_pool2(&Tensor::from_slice(&x, (1, 1, 2, 2), &Cpu).unwrap()).unwrap();
            assert!(
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan(),
                "NaN at {at}"
            );
        }
    }

    #[test]
    fn an_odd_or_empty_size_is_refused() {
        let x = Tensor::zeros((1, 2, 4, 5), DType::F32, &Cpu).unwrap();
        assert!(max_pool2(&x.narrow(3, 0, 0).unwrap()).is_err());
        for result in [max_pool2(&x), max_pool2_reference(&x)] {
            assert_eq!(
                result.unwrap_err().to_string(),
                "max_pool2: input [1, 2, 4, 5]; expected [N, C, H, W] with H and W even, no size 0"
            );
        }
    }
}
