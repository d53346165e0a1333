//! Comparing operations with their references and with central differences.

use candle_core::{Device, Result, Tensor, Var};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Values in (−1, 1), all different, in f64.
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..dims.iter().product())
        .map(|_| f64::from(rng.next_u32()) / f64::from(1_u32 << 31) - 1.0)
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(candle_core::DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The value, and the gradient of each input under a fixed random upstream gradient.
fn value_and_gradients(
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = op(&tensors).unwrap();
    let upstream = random(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    let grads = (&y * upstream)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    (
        y,
        vars.iter().map(|v| grads.get(v).unwrap().clone()).collect(),
    )
}

#[track_caller]
fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * scale,
            "{what}[{i}]: {a} and {b}"
        );
    }
}

/// Value and gradients of `op` are those of `reference`, within `tolerance` of the largest element (at least of 1).
#[track_caller]
pub(crate) fn assert_agree(
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    tolerance: f64,
) {
    let (y, grads) = value_and_gradients(inputs, op);
    let (y_reference, grads_reference) = value_and_gradients(inputs, reference);
    assert_close("value", &y, &y_reference, tolerance);
    for (i, (g, r)) in grads.iter().zip(&grads_reference).enumerate() {
        assert_close(&format!("gradient of input {i}"), g, r, tolerance);
    }
}

/// The gradients of `op` are the central differences of its value.
#[track_caller]
pub(crate) fn assert_gradients(
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    tolerance: f64,
) {
    let step = 1e-5;
    let (y, grads) = value_and_gradients(inputs, &op);
    let upstream = values(&random(y.dims(), 99));
    let weighted = |inputs: &[Tensor]| -> f64 {
        values(&op(inputs).unwrap())
            .iter()
            .zip(&upstream)
            .map(|(y, u)| y * u)
            .sum()
    };
    for (i, input) in inputs.iter().enumerate() {
        let at = values(input);
        let differences: Vec<f64> = (0..at.len())
            .map(|j| {
                let moved = |by: f64| {
                    let mut at = at.clone();
                    at[j] += by;
                    let mut inputs = inputs.to_vec();
                    inputs[i] = Tensor::from_vec(at, input.dims(), &Device::Cpu).unwrap();
                    weighted(&inputs)
                };
                (moved(step) - moved(-step)) / (2.0 * step)
            })
            .collect();
        let differences = Tensor::from_vec(differences, input.dims(), &Device::Cpu).unwrap();
        assert_close(
            &format!("gradient of input {i}"),
            &grads[i],
            &differences,
            tolerance,
        );
    }
}
