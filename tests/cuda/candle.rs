//! Candle's own kernels that the project leans on, against the CPU's. On soft CUDA this is a test of soft CUDA.

use candle_core::{D, DType, Device, Result, Tensor};

use super::device;

/// The largest difference of two tensors of any type.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
    let numbers = |x: &Tensor| {
        x.to_device(&Device::Cpu)
            .and_then(|x| x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>())
            .unwrap()
    };
    numbers(a)
        .iter()
        .zip(&numbers(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// The same on both devices, of the same numbers.
#[track_caller]
fn agree(bound: f64, of: &[&Tensor], operation: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (device, _) = device::open();
    let here: Vec<Tensor> = of.iter().map(|&x| x.clone()).collect();
    let there: Vec<Tensor> = of.iter().map(|x| x.to_device(&device).unwrap()).collect();
    let found = difference(&operation(&here).unwrap(), &operation(&there).unwrap());
    assert!(found <= bound, "they differ by {found}");
}

fn numbers(dims: &[usize], dtype: DType) -> Tensor {
    let n: usize = dims.iter().product();
    let x: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin() * 3.0).collect();
    Tensor::from_vec(x, dims, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

#[test]
fn numbers_become_other_numbers() {
    for from in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for to in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            agree(0.0, &[&numbers(&[5, 7], from)], |x| x[0].to_dtype(to));
        }
    }
    let labels = Tensor::from_vec((0..12_u32).collect(), (3, 4), &Device::Cpu).unwrap();
    for to in [DType::U8, DType::I64, DType::F32, DType::BF16] {
        agree(0.0, &[&labels], |x| x[0].t()?.to_dtype(to));
    }
}

#[test]
fn arithmetic_is_the_cpus() {
    let bounds = [(DType::F64, 1e-14), (DType::F32, 1e-6), (DType::BF16, 4e-2)];
    for (dtype, bound) in bounds {
        let (x, y) = (numbers(&[2, 3, 8], dtype), numbers(&[2, 1, 8], dtype));
        agree(bound, &[&x, &y], |t| {
            t[0].broadcast_add(&t[1])?.affine(0.5, 1.0)
        });
        agree(bound, &[&x, &y], |t| t[0].broadcast_mul(&t[1])?.sqr());
        agree(bound, &[&x], |t| t[0].relu()?.exp()?.neg());
        agree(bound, &[&x], |t| t[0].t()?.abs()?.affine(1.0, 1.0)?.log());
        agree(bound, &[&x, &y], |t| t[0].broadcast_lt(&t[1]));
        agree(bound, &[&x, &y], |t| {
            let y = t[1].broadcast_as(t[0].shape())?;
            t[0].ge(0.0)?.where_cond(&t[0], &y)
        });
    }
}

#[test]
fn sums_and_places_are_the_cpus() {
    let x = numbers(&[3, 5, 200], DType::F32);
    agree(1e-4, &[&x], |t| t[0].sum(D::Minus1));
    agree(1e-4, &[&x], |t| t[0].sum_keepdim((0, 2)));
    agree(0.0, &[&x], |t| t[0].max(1));
    agree(0.0, &[&x], |t| t[0].argmin(D::Minus1));
    let places = Tensor::from_slice(&[2_u32, 0, 2, 1], 4, &Device::Cpu).unwrap();
    agree(0.0, &[&x, &places], |t| t[0].index_select(&t[1], 1));
    let picks = Tensor::from_vec(
        (0..15_u32).map(|i| i * 13 % 200).collect(),
        (3, 5, 1),
        &Device::Cpu,
    )
    .unwrap();
    agree(0.0, &[&x, &picks], |t| t[0].gather(&t[1], 2));
    agree(0.0, &[&x, &picks], |t| {
        t[0].zeros_like()?
            .scatter_add(&t[1], &t[0].narrow(2, 0, 1)?.contiguous()?, 2)
    });
    agree(0.0, &[&x], |t| {
        Tensor::cat(&[&t[0].narrow(2, 3, 50)?, &t[0].narrow(2, 100, 7)?], 2)
    });
    agree(
        0.0,
        &[&x.narrow(2, 0, 64).unwrap().contiguous().unwrap()],
        |t| Ok(t[0].sort_last_dim(true)?.0),
    );
}
