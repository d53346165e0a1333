//! Instance norm, alone and after a `ReLU`: every channel of every sample to mean 0 and variance 1, then scaled and moved.
//!
//! ŷ = (z − μ) / √(σ² + ε), y = w·ŷ + b, with μ and the biased σ² over the positions of one channel of one sample.
//! In reverse, with ⟨·⟩ the mean over the same positions: ∂z = w / √(σ² + ε) · (g − ⟨g⟩ − ŷ⟨gŷ⟩), ∂w = Σ gŷ, ∂b = Σ g.
//! Ulyanov et al. 2016. The network normalises what a `ReLU` has passed; one pass over memory does both.

use candle_core::{
    CpuStorage, CustomOp3, D, DType, Error, Layout, Result, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use super::storage::{elements, fused, sum, sum2, with_elements};

/// Instance norm of `x` `[N, C, …]` (any number of space dimensions) with `weight` and `bias` `[C]`.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::new(&[[[1f64, 3.]], [[5., 5.]]], &Cpu)?;
/// let (w, b) = (Tensor::new(&[2f64], &Cpu)?, Tensor::new(&[1f64], &Cpu)?);
/// let y = seg_unet::ops::instance_norm(&x, &w, &b, 1e-12)?.flatten_all()?.to_vec1::<f64>()?;
/// assert!((y[0] + 1.0).abs() < 1e-9 && (y[1] - 3.0).abs() < 1e-9);
/// assert_eq!(y[2..], [1.0, 1.0]); // a constant channel becomes the bias
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other.
pub fn instance_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight, bias)?;
    if fused(x) {
        norm(x, weight, bias, eps, Before::Nothing)
    } else {
        instance_norm_reference(x, weight, bias, eps)
    }
}

/// `instance_norm(relu(x))`; the `ReLU`'s gradient at 0 is 0, as `PyTorch`'s and `TensorFlow`'s, where Candle's is 1.
///
/// # Errors
/// As [`instance_norm`].
pub fn relu_instance_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight, bias)?;
    if fused(x) {
        norm(x, weight, bias, eps, Before::Relu)
    } else {
        instance_norm_reference(&relu_reference(x)?, weight, bias, eps)
    }
}

fn norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, before: Before) -> Result<Tensor> {
    x.contiguous()?.apply_op3(
        &weight.contiguous()?,
        &bias.contiguous()?,
        InstanceNorm { eps, before },
    )
}

/// [`instance_norm`] by Candle's own operations.
///
/// # Errors
/// As [`instance_norm`].
pub fn instance_norm_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check(x, weight, bias)?;
    // Candle's sums are quick, and in f32 tolerably exact, over the last dimension alone.
    let z = x.flatten_from(2)?;
    let centred = z.broadcast_sub(&z.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let per_channel = |t: &Tensor| t.reshape((1, (), 1));
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(&per_channel(weight)?)?
        .broadcast_add(&per_channel(bias)?)?
        .reshape(x.shape())
}

/// max(x, 0) with gradient 0 at 0; NaN stays NaN.
///
/// # Errors
/// Those of Candle.
pub fn relu_reference(x: &Tensor) -> Result<Tensor> {
    x.le(0.0)?.where_cond(&x.zeros_like()?, x)
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let fits = match (x.dims(), weight.dims(), bias.dims()) {
        ([_, channels, _, ..], [weights], [biases]) => channels == weights && channels == biases,
        _ => false,
    };
    // Nothing can be cut into pieces of length 0.
    if fits && x.elem_count() > 0 {
        return Ok(());
    }
    Err(Error::Msg(format!(
        "instance_norm: input {:?}, weight {:?} and bias {:?} do not fit; expected [N, C, …], [C] and [C], no size 0",
        x.dims(),
        weight.dims(),
        bias.dims()
    )))
}

/// What happens to the input before it is normalised.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Relu,
}

impl Before {
    fn apply<T: WithDType>(self, x: T) -> T {
        if self.stops_gradient(x) { T::zero() } else { x }
    }

    fn stops_gradient<T: WithDType>(self, x: T) -> bool {
        // "x ≤ 0" stops it, not "x > 0" lets it through: NaN has to come through.
        self == Self::Relu && x <= T::zero()
    }
}

struct InstanceNorm {
    eps: f64,
    before: Before,
}

impl InstanceNorm {
    /// μ and 1/√(σ² + ε) of one channel of one sample.
    fn moments<T: WithDType>(&self, plane: &[T]) -> (T, f64) {
        let before = self.before;
        let m = plane.len() as f64;
        let mean = T::from_f64(sum(plane, |x| before.apply(x)) / m);
        let square = |x: T| x * x;
        let variance = sum(plane, |x| square(before.apply(x) - mean)) / m;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    fn forward<T: WithDType>(&self, x: &[T], positions: usize, weight: &[T], bias: &[T]) -> Vec<T> {
        let mut y = vec![T::zero(); x.len()];
        y.par_chunks_mut(positions)
            .zip(x.par_chunks(positions))
            .enumerate()
            .for_each(|(i, (y, x))| {
                let channel = i % weight.len();
                let (mean, rstd) = self.moments(x);
                let scale = T::from_f64(weight[channel].to_f64() * rstd);
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = (self.before.apply(x) - mean) * scale + bias[channel];
                }
            });
        y
    }

    /// Gradients with respect to input, weight and bias.
    fn backward<T: WithDType>(
        &self,
        x: &[T],
        positions: usize,
        weight: &[T],
        gy: &[T],
    ) -> (Vec<T>, Vec<T>, Vec<T>) {
        let m = positions as f64;
        let mut gx = vec![T::zero(); x.len()];
        let planes = gx
            .par_chunks_mut(positions)
            .zip(x.par_chunks(positions))
            .zip(gy.par_chunks(positions));
        let sums: Vec<(f64, f64)> = planes
            .enumerate()
            .map(|(i, ((gx, x), gy))| {
                let (mean, rstd) = self.moments(x);
                let (before, factor) = (self.before, T::from_f64(rstd));
                let normed = |x: T| (before.apply(x) - mean) * factor;
                let sum_g = sum(gy, |g| g);
                let sum_gn = sum2(gy, x, |g, x| g * normed(x));
                let scale = T::from_f64(weight[i % weight.len()].to_f64() * rstd);
                let (mean_g, mean_gn) = (T::from_f64(sum_g / m), T::from_f64(sum_gn / m));
                for ((gx, &x), &g) in gx.iter_mut().zip(x).zip(gy) {
                    let gradient = scale * (g - mean_g - normed(x) * mean_gn);
                    *gx = if before.stops_gradient(x) {
                        T::zero()
                    } else {
                        gradient
                    };
                }
                (sum_gn, sum_g)
            })
            .collect();
        // Sample after sample, so that the sums do not depend on the threads.
        let mut totals = vec![(0.0, 0.0); weight.len()];
        for (i, (gn, g)) in sums.into_iter().enumerate() {
            let total = &mut totals[i % weight.len()];
            *total = (total.0 + gn, total.1 + g);
        }
        let (gw, gb) = totals
            .into_iter()
            .map(|(gw, gb)| (T::from_f64(gw), T::from_f64(gb)))
            .unzip();
        (gx, gw, gb)
    }

    fn gradients<T: WithDType>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        gy: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let positions = x.dims()[2..].iter().product();
        let (gx, gw, gb) = with_elements::<T, _>(x, |x| {
            with_elements::<T, _>(weight, |w| {
                with_elements::<T, _>(gy, |gy| Ok(self.backward(x, positions, w, gy)))
            })
        })?;
        let gw = Tensor::from_vec(gw, weight.shape(), x.device())?;
        let gb = Tensor::from_vec(gb, weight.shape(), x.device())?;
        Ok([Tensor::from_vec(gx, x.shape(), x.device())?, gw, gb])
    }
}

impl CustomOp3 for InstanceNorm {
    fn name(&self) -> &'static str {
        "instance-norm"
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
        let positions = l1.dims()[2..].iter().product();
        let y = match s1 {
            CpuStorage::F64(_) => CpuStorage::F64(self.forward(
                elements(s1, l1)?,
                positions,
                elements(s2, l2)?,
                elements(s3, l3)?,
            )),
            _ => CpuStorage::F32(self.forward(
                elements(s1, l1)?,
                positions,
                elements(s2, l2)?,
                elements(s3, l3)?,
            )),
        };
        Ok((y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        let [gx, gw, gb] = match x.dtype() {
            DType::F64 => self.gradients::<f64>(x, weight, &gy)?,
            _ => self.gradients::<f32>(x, weight, &gy)?,
        };
        Ok((Some(gx), Some(gw), Some(gb)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device::Cpu, Var};

    use super::*;
    use crate::ops::testing::{assert_agree, assert_gradients, random};

    #[test]
    fn value_and_gradients_are_those_of_the_reference_in_any_rank() {
        for dims in [
            &[2, 3, 35][..],
            &[2, 3, 5, 7],
            &[1, 2, 3, 4, 5],
            &[1, 2, 1, 1],
            &[3, 1, 8, 8],
        ] {
            let c = dims[1];
            let inputs = [random(dims, 1), random(&[c], 2), random(&[c], 3)];
            let norm = |t: &[Tensor]| instance_norm(&t[0], &t[1], &t[2], 1e-3);
            assert_agree(
                &inputs,
                norm,
                |t| instance_norm_reference(&t[0], &t[1], &t[2], 1e-3),
                1e-12,
            );
            let relu_norm = |t: &[Tensor]| relu_instance_norm(&t[0], &t[1], &t[2], 1e-3);
            let reference =
                |t: &[Tensor]| instance_norm_reference(&relu_reference(&t[0])?, &t[1], &t[2], 1e-3);
            assert_agree(&inputs, relu_norm, reference, 1e-12);
            let inputs = inputs.map(|t| t.to_dtype(DType::F32).unwrap());
            assert_agree(&inputs, relu_norm, reference, 2e-5);
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        let inputs = [random(&[2, 3, 3, 4], 1), random(&[3], 2), random(&[3], 3)];
        assert_gradients(&inputs, |t| instance_norm(&t[0], &t[1], &t[2], 1e-3), 1e-6);
        assert_gradients(
            &inputs,
            |t| relu_instance_norm(&t[0], &t[1], &t[2], 1e-3),
            1e-6,
        );
    }

    #[test]
    fn relu_has_gradient_zero_at_zero_and_keeps_nan() {
        let x = Var::new(&[[[-1.0_f64, 0.0, 2.0]]], &Cpu).unwrap();
        let gradient = |y: Tensor| {
            let weights = Tensor::new(&[[[1.0_f64, 10.0, 100.0]]], &Cpu).unwrap();
            let grads = (y * weights)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            grads
                .get(&x)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap()
        };
        assert_eq!(gradient(relu_reference(&x).unwrap()), [0.0, 0.0, 100.0]);
        let one = Tensor::new(&[1.0_f64], &Cpu).unwrap();
        assert_eq!(
            gradient(relu_instance_norm(&x, &one, &one, 1e-3).unwrap())[..2],
            [0.0, 0.0]
        );
        let nan = Tensor::new(&[[[f64::NAN, 1.0]]], &Cpu).unwrap();
        for y in [
            relu_reference(&nan).unwrap(),
            relu_instance_norm(&nan, &one, &one, 1e-3).unwrap(),
        ] {
            assert!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0].is_nan());
        }
    }

    #[test]
    fn a_constant_channel_has_finite_gradients() {
        let x = Var::ones((1, 1, 4, 4), DType::F32, &Cpu).unwrap();
        let one = Tensor::ones(1, DType::F32, &Cpu).unwrap();
        let y = instance_norm(&x, &one, &one, 1e-3).unwrap();
        let up = random(&[1, 1, 4, 4], 5).to_dtype(DType::F32).unwrap();
        let grads = (y * up).unwrap().sum_all().unwrap().backward().unwrap();
        let g: Vec<f32> = grads
            .get(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert!(g.iter().all(|g| g.is_finite()) && g.iter().any(|g| *g != 0.0));
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Cpu).unwrap();
        let error = instance_norm(&t(&[1, 3, 8, 8]), &t(&[3]), &t(&[4]), 1e-3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "instance_norm: input [1, 3, 8, 8], weight [3] and bias [4] do not fit; \
             expected [N, C, …], [C] and [C], no size 0"
        );
    }
}
