//! Reading and writing the elements of CPU tensors in the custom operations.

use candle_core::{
    CpuStorage, DType, Error, Layout, Result, Shape, Storage, Tensor, WithDType,
    backend::BackendStorage,
};
use rayon::prelude::*;

/// Whether the custom operations serve this tensor; if not, the reference does.
pub(super) fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// The elements of a contiguous tensor, in order.
pub(super) fn elements<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| {
        Error::Msg(
            "a custom operation was given a strided tensor; expected a contiguous one".into(),
        )
    })?;
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

/// Calls `f` with the elements of a contiguous CPU tensor.
pub(super) fn with_elements<T: WithDType, R>(
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    f(cpu_elements(&storage, layout)?)
}

/// The elements of a contiguous tensor of the CPU, in order.
pub(crate) fn cpu_elements<'a, T: WithDType>(
    storage: &'a Storage,
    layout: &Layout,
) -> Result<&'a [T]> {
    match storage {
        Storage::Cpu(storage) => elements(storage, layout),
        _ => Err(Error::Msg(
            "a custom operation was given a tensor of another device; expected the CPU's".into(),
        )),
    }
}

/// A row-major matrix, or a strided view of one.
pub(super) struct Matrix<'a> {
    storage: &'a CpuStorage,
    rows: usize,
    columns: usize,
    layout: Layout,
}

impl<'a> Matrix<'a> {
    /// `rows × columns` elements from `offset` on, where a row begins `pitch` elements after the last.
    pub(super) fn new(
        storage: &'a CpuStorage,
        offset: usize,
        (rows, columns): (usize, usize),
        pitch: usize,
    ) -> Self {
        let layout = Layout::new(Shape::from((rows, columns)), vec![pitch, 1], offset);
        Self {
            storage,
            rows,
            columns,
            layout,
        }
    }

    /// The transpose: nothing is moved.
    pub(super) fn t(self) -> Self {
        let strides = self.layout.stride();
        let layout = Layout::new(
            Shape::from((self.columns, self.rows)),
            vec![strides[1], strides[0]],
            self.layout.start_offset(),
        );
        Self {
            storage: self.storage,
            rows: self.columns,
            columns: self.rows,
            layout,
        }
    }

    /// The product, row-major.
    pub(super) fn times<T: WithDType>(&self, other: &Self) -> Result<Vec<T>> {
        let size = (1, self.rows, other.columns, self.columns);
        T::cpu_storage_data(self.storage.matmul(
            other.storage,
            size,
            &self.layout,
            &other.layout,
        )?)
    }
}

/// Σ f(a, b) over two slices of one length: in `T` within short blocks, in f64 over the blocks, always in one order.
///
/// One f32 sum over the 262,144 pixels of a 512 × 512 channel would lose up to a thousandth; a block's loses none to
/// speak of, and its lanes side by side let the processor add several at once.
pub(super) fn sum2<T: WithDType>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    const LANES: usize = 16;
    const BLOCK: usize = 64 * LANES;
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [T::zero(); LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (&a, &b) in a.remainder().iter().zip(b.remainder()) {
            total += f(a, b).to_f64();
        }
        for (a, b) in a.zip(b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += f(a, b);
            }
        }
        total += lanes.into_iter().map(T::to_f64).sum::<f64>();
    }
    total
}

/// Σ f(a), as [`sum2`].
pub(crate) fn sum<T: WithDType>(a: &[T], f: impl Fn(T) -> T) -> f64 {
    sum2(a, a, |a, _| f(a))
}

/// The sum over each channel of `[N, C, …]`, of so many positions: a bias's gradient.
pub(super) fn channel_sums<T: WithDType>(a: &[T], channels: usize, positions: usize) -> Vec<T> {
    let sums: Vec<f64> = a.par_chunks(positions).map(|a| sum(a, |x| x)).collect();
    let over_images = |channel| sums.iter().skip(channel).step_by(channels).sum();
    (0..channels)
        .map(|channel| T::from_f64(over_images(channel)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sum_of_singles_is_exact_to_single_precision() {
        for length in [0, 1, 15, 1023, 512 * 512, 512 * 512 + 17] {
            let exact = length as f64 * f64::from(0.1_f32);
            let error = (sum(&vec![0.1_f32; length], |x| x) - exact).abs();
            assert!(error <= 1e-6 * exact, "{length}: {error}");
        }
    }
}
