//! The weights at the start: Glorot uniform, drawn from the seed and nothing else.
//!
//! Candle's own CPU generator cannot be seeded, so every tensor has a `ChaCha` stream of its own, keyed by the seed and
//! the tensor's place in the network. A tensor's numbers depend neither on the others nor on the number of threads.

use candle_core::{DType, Device, Result, Tensor};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// The word that sets these streams apart from those drawn from the same seed for other purposes (data, augmentation).
const PURPOSE: u64 = 4;

/// Glorot (Xavier) uniform for a kernel `[a, b, k, k]`: U(−l, l) with l = √(6 / (`fan_in` + `fan_out`)).
///
/// Keras' fans: channels in times k², channels out times k², where a stride counts for nothing. So a convolution
/// `[out, in, k, k]` and a transposed one `[in, out, k, k]` follow one rule, for the sum does not care which is which.
/// Glorot and Bengio 2010, eq. 16. The draw is made in f64 and rounded, so f32 and f64 networks start alike.
pub(crate) fn glorot_uniform(
    shape: (usize, usize, usize, usize),
    seed: u64,
    index: u64,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let (a, b, kh, kw) = shape;
    let limit = (6.0 / ((a + b) * kh * kw) as f64).sqrt();
    let mut key = [0; 32];
    for (part, word) in key.chunks_exact_mut(8).zip([seed, PURPOSE, 0, index]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    let values: Vec<f64> = (0..a * b * kh * kw)
        // The upper 53 bits fill an f64's significand: uniform on [0, 1).
        .map(|_| limit * (2.0 * ((rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64) - 1.0))
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(shape: (usize, usize, usize, usize), seed: u64, index: u64) -> Vec<f64> {
        let t = glorot_uniform(shape, seed, index, DType::F64, &Device::Cpu).unwrap();
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_are_uniform_within_glorots_limit() {
        let values = draw((64, 32, 3, 3), 1, 0);
        let limit = (6.0_f64 / (96.0 * 9.0)).sqrt();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
        let most = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        assert!(most <= limit && most > 0.999 * limit, "{most} of {limit}");
        // Four standard errors: σ/√n for the mean, and √(4/45)·l²/√n for the second moment of a uniform.
        assert!(mean.abs() < 4.0 * limit / (3.0 * n).sqrt(), "{mean}");
        let error = 4.0 * (4.0_f64 / 45.0).sqrt() * limit * limit / n.sqrt();
        assert!((variance - limit * limit / 3.0).abs() < error, "{variance}");
    }

    #[test]
    fn seed_and_index_alone_decide() {
        let shape = (4, 3, 3, 3);
        assert_eq!(draw(shape, 7, 2), draw(shape, 7, 2));
        assert_ne!(draw(shape, 7, 2), draw(shape, 8, 2));
        assert_ne!(draw(shape, 7, 2), draw(shape, 7, 3));
    }

    #[test]
    fn single_precision_is_the_rounded_double() {
        let single = glorot_uniform((4, 3, 3, 3), 7, 2, DType::F32, &Device::Cpu).unwrap();
        let single: Vec<f32> = single.flatten_all().unwrap().to_vec1().unwrap();
        let double: Vec<f32> = draw((4, 3, 3, 3), 7, 2).iter().map(|&v| v as f32).collect();
        assert_eq!(single, double);
    }
}
