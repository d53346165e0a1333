//! Convolution of any odd kernel as products with the unfolded image.
//!
//! The image is unfolded strip by strip, and the convolution is one matrix product a strip:
//!
//! ```text
//! y[o, t] = Σ w[o, (c, i, j)] · unfolded[(c, i, j), t] + b[o]
//! ```
//!
//! The gradient of the input is the same operation on the output's gradient, with the kernel rotated by half a turn and
//! its two channel axes swapped; that of the kernel is a product with the same unfolded strips.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType};

use super::unfold::{Grid, fold_in};
use crate::ops::storage::{Matrix, channel_sums, elements, with_elements};

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

/// On `x`, `w` and `b`, all contiguous.
pub(super) struct Unfolded;

/// Gradients with respect to input (if wanted), kernel and bias.
type Gradients<T> = (Option<Vec<T>>, Vec<T>, Vec<T>);

impl Unfolded {
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
            let gb = channel_sums(gy_, outputs, grid.pixels());
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

impl CustomOp3 for Unfolded {
    fn name(&self) -> &'static str {
        "conv2d-same-unfolded"
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
            let (gx, gw, gb) = Unfolded::backward::<T>(x, w, gy)?;
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
