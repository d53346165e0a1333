//! Channel dropout: in each step some channels of the deepest maps are zero.
//!
//! A channel is dropped with the probability r and multiplied by 1 / (1 − r) otherwise, so that a map is on average what
//! it is without dropout (Srivastava et al. 2014). Whole channels, for neighbouring pixels say the same and one would
//! stand in for the other (Tompson et al. 2015). It is done behind the second norm of the two coarsest levels, in
//! encoder and decoder, and of the middle: Kendall et al. 2015 found a segmentation network with dropout in its deepest
//! layers alone the best of their variants, and one with dropout everywhere too strongly regularised.
//!
//! A norm's result is `w x̂ + b` a channel, and nothing but the next layer reads it. So a channel of the result times a
//! factor m is, exactly, the norm with the weights `m w` and `m b`: a step sets these, goes forward and backward, and
//! puts w and b back; the gradients in them are m times those in `m w` and `m b`. Neither the network nor its kernels
//! know of dropout.
//!
//! The images of a batch share one mask. The paper's recipe has one image a step.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use seg_unet::UNet;

/// Dropout of a network: its rate, and which norms it is done behind.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use seg_train::{dropout::Dropout, rng::{Purpose, stream}};
/// use seg_unet::{UNet, UNetConfig};
/// let config = UNetConfig { in_channels: 1, width: 8, depth: 2, ..UNetConfig::default() };
/// let unet = UNet::new(&config, 7, &Device::Cpu)?;
/// let image = Tensor::ones((1, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let logits = |unet: &UNet| unet.infer(&image)?.flatten_all()?.to_vec1::<f32>();
/// let without = logits(&unet)?;
///
/// let dropout = Dropout::new(&unet, 0.5)?;
/// let masked = dropout.mask(&unet, &mut stream(7, Purpose::Dropout, 1, 1))?;
/// assert_ne!(logits(&unet)?, without);
/// masked.restore(&unet)?;
/// assert_eq!(logits(&unet)?, without);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    rate: f64,
    /// Where the norms' weights stand among the network's; each one's bias follows it.
    norms: Vec<usize>,
}

/// The variables that a mask has changed, until they are put back.
#[derive(Debug)]
#[must_use = "the network's weights are masked until they are restored"]
pub struct Masked {
    layers: Vec<Layer>,
}

/// Weight and bias of a norm.
#[derive(Debug)]
struct Layer {
    /// Where the weight stands; the bias is the next.
    at: usize,
    /// What they are without the mask.
    kept: [Tensor; 2],
    /// A factor a channel: 0 or 1 / (1 − r).
    factors: Tensor,
}

impl Dropout {
    /// Of a network on the CPU, with a rate in `[0, 1)`.
    ///
    /// # Errors
    ///
    /// For another rate, or weights on another device.
    pub fn new(unet: &UNet, rate: f64) -> Result<Self> {
        check(rate)?;
        let coarsest = unet.config().depth.saturating_sub(2)..unet.config().depth;
        let mut names = vec!["mid.norm2.weight".to_owned()];
        for level in coarsest {
            names.extend(["enc", "dec"].map(|side| format!("{side}{level}.norm2.weight")));
        }
        let vars = unet.vars();
        ensure!(
            vars.iter().all(|(_, var)| var.device().is_cpu()),
            "dropout masks weights on the CPU; leave recipe.dropout out, or use --device cpu"
        );
        let norms: Vec<usize> = (0..vars.len())
            .filter(|&at| names.contains(&vars[at].0))
            .collect();
        ensure!(
            norms.len() == names.len(),
            "dropout found {} of the norms {}; the network has other names",
            norms.len(),
            names.join(", ")
        );
        Ok(Self { rate, norms })
    }

    /// The rate.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Draws a mask and sets the masked weights. They stay so until [`Masked::restore`]: to drop the value is not enough.
    ///
    /// # Errors
    ///
    /// When the weights cannot be set.
    pub fn mask(&self, unet: &UNet, rng: &mut ChaCha8Rng) -> Result<Masked> {
        let kept = 1.0 / (1.0 - self.rate);
        let mut layers = Vec::new();
        for &at in &self.norms {
            let [weight, bias] = [&unet.vars()[at].1, &unet.vars()[at + 1].1];
            let factors: Vec<f64> = (0..weight.elem_count())
                .map(|_| {
                    let is_dropped = rng.random::<f64>() < self.rate;
                    if is_dropped { 0.0 } else { kept }
                })
                .collect();
            let factors = Tensor::from_vec(factors, weight.shape(), weight.device())?
                .to_dtype(weight.dtype())?;
            let layer = Layer {
                at,
                kept: [
                    weight.as_detached_tensor().copy()?,
                    bias.as_detached_tensor().copy()?,
                ],
                factors,
            };
            for (var, kept) in [weight, bias].into_iter().zip(&layer.kept) {
                var.set(&(kept * &layer.factors)?)?;
            }
            layers.push(layer);
        }
        Ok(Masked { layers })
    }
}

impl Masked {
    /// The factors that the gradient of the weight at this place in [`UNet::vars`] is to be multiplied by; none where the
    /// weight was not masked.
    pub fn scale(&self, at: usize) -> Option<&Tensor> {
        self.layers
            .iter()
            .find(|layer| (layer.at..=layer.at + 1).contains(&at))
            .map(|layer| &layer.factors)
    }

    /// Puts the weights back as they were, bit for bit.
    ///
    /// # Errors
    ///
    /// When the weights cannot be set.
    pub fn restore(self, unet: &UNet) -> Result<()> {
        for Layer { at, kept, .. } in self.layers {
            for ((_, var), kept) in unet.vars()[at..].iter().zip(&kept) {
                var.set(kept)?;
            }
        }
        Ok(())
    }
}

/// Whether a rate can be one.
pub(crate) fn check(rate: f64) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&rate),
        "the rate of dropout is {rate}; expected a number from 0 to below 1"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device::Cpu};
    use seg_unet::{
        UNetConfig,
        ops::{conv2d_same, conv2d_same_joined, max_pool2, relu_instance_norm, up2},
    };

    use super::*;
    use crate::rng::{Purpose, stream};

    fn unet(depth: usize, width: usize) -> UNet {
        let config = UNetConfig {
            in_channels: 1,
            width,
            depth,
            ..UNetConfig::default()
        };
        let unet = UNet::with_dtype(&config, 3, DType::F64, &Cpu).unwrap();
        // Norms that do something: weights other than 1, biases other than 0.
        for (at, (name, var)) in unet.vars().iter().enumerate() {
            if name.contains("norm") {
                let values: Vec<f64> = (0..var.elem_count())
                    .map(|i| 0.4 + ((at + 3 * i) as f64).sin())
                    .collect();
                var.set(&Tensor::from_vec(values, var.shape(), &Cpu).unwrap())
                    .unwrap();
            }
        }
        unet
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn wave(shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
        Tensor::from_vec(values, shape, &Cpu).unwrap()
    }

    /// A network of depth 1 as Candle's operations, the second norm's maps of each block multiplied by factors.
    fn with_maps_multiplied(unet: &UNet, image: &Tensor, factors: [&Tensor; 3]) -> Tensor {
        let var = |name: &str| {
            let (_, var) = unet.vars().iter().find(|(other, _)| other == name).unwrap();
            var.as_tensor()
        };
        let both = |name: &str| [var(&format!("{name}.weight")), var(&format!("{name}.bias"))];
        let eps = unet.config().norm_eps;
        let block = |name: &str, x: &Tensor, skip: Option<&Tensor>, factors: &Tensor| {
            let [w, b] = both(&format!("{name}.conv1"));
            let x = match skip {
                None => conv2d_same(x, w, b).unwrap(),
                Some(skip) => conv2d_same_joined(x, skip, w, b).unwrap(),
            };
            let [w, b] = both(&format!("{name}.norm1"));
            let x = relu_instance_norm(&x, w, b, eps).unwrap();
            let [w, b] = both(&format!("{name}.conv2"));
            let x = conv2d_same(&x, w, b).unwrap();
            let [w, b] = both(&format!("{name}.norm2"));
            let x = relu_instance_norm(&x, w, b, eps).unwrap();
            let factors = factors.reshape((1, factors.elem_count(), 1, 1)).unwrap();
            x.broadcast_mul(&factors).unwrap()
        };
        let skip = block("enc0", image, None, factors[0]);
        let middle = block("mid", &max_pool2(&skip).unwrap(), None, factors[1]);
        let [w, b] = both("up0");
        let raised = up2(&middle, w, b).unwrap();
        let last = block("dec0", &raised, Some(&skip), factors[2]);
        let [w, b] = both("head");
        conv2d_same(&last, w, b).unwrap()
    }

    #[test]
    fn the_norms_are_those_of_the_coarsest_levels_and_the_middle() {
        let names = |depth| {
            let unet = unet(depth, 2);
            let dropout = Dropout::new(&unet, 0.5).unwrap();
            let names = dropout.norms.iter().map(|&at| {
                let [weight, bias] = [0, 1].map(|i| unet.vars()[at + i].0.clone());
                let name = weight.strip_suffix(".weight").unwrap().to_owned();
                assert_eq!(bias, format!("{name}.bias"));
                name
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["enc0.norm2", "mid.norm2", "dec0.norm2"]);
        assert_eq!(
            names(4),
            [
                "enc2.norm2",
                "enc3.norm2",
                "mid.norm2",
                "dec3.norm2",
                "dec2.norm2"
            ]
        );
    }

    #[test]
    fn masked_weights_are_masked_maps_in_value_and_gradient() {
        let unet = unet(1, 6);
        let image = wave((2, 1, 8, 12));
        let dropout = Dropout::new(&unet, 0.4).unwrap();
        for sample in 0..5 {
            let mut rng = stream(1, Purpose::Dropout, 0, sample);
            let masked = dropout.mask(&unet, &mut rng).unwrap();
            let pass = unet.pass(&image).unwrap();
            let logits = values(pass.logits());
            let slopes = wave((2, 2, 8, 12));
            let mut gradients = vec![Vec::new(); unet.vars().len()];
            pass.backward_each(&slopes, |at, gradient| {
                let gradient = match masked.scale(at) {
                    Some(factors) => (gradient * factors)?,
                    None => gradient,
                };
                gradients[at] = values(&gradient);
                Ok::<_, candle_core::Error>(())
            })
            .unwrap();
            let factors: Vec<Tensor> = masked.layers.iter().map(|l| l.factors.clone()).collect();
            masked.restore(&unet).unwrap();

            let dropped = factors.iter().flat_map(values).filter(|m| *m == 0.0);
            assert!((1..24).contains(&dropped.count()));
            let factors = [&factors[0], &factors[1], &factors[2]];
            let reference = with_maps_multiplied(&unet, &image, factors);
            for (a, b) in logits.iter().zip(values(&reference)) {
                assert!((a - b).abs() < 1e-11, "{a} {b}");
            }
            let graph = (reference * slopes).unwrap().sum_all().unwrap();
            let graph = graph.backward().unwrap();
            for ((name, var), found) in unet.vars().iter().zip(&gradients) {
                let expected = values(graph.get(var).unwrap());
                for (a, b) in found.iter().zip(expected) {
                    assert!((a - b).abs() < 1e-9, "{name}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn on_average_over_masks_the_weights_are_what_they_are() {
        let (rate, draws) = (0.3, 4000);
        let unet = unet(1, 4);
        let dropout = Dropout::new(&unet, rate).unwrap();
        let at = dropout.norms[1];
        let weights = || {
            [0, 1]
                .map(|i| values(unet.vars()[at + i].1.as_tensor()))
                .concat()
        };
        let before = weights();
        let mut sums = vec![0.0; before.len()];
        let mut rng = stream(2, Purpose::Dropout, 0, 0);
        for _ in 0..draws {
            let masked = dropout.mask(&unet, &mut rng).unwrap();
            sums.iter_mut()
                .zip(weights())
                .for_each(|(sum, w)| *sum += w);
            masked.restore(&unet).unwrap();
        }
        assert_eq!(weights(), before);
        // Five standard deviations of a mean of as many factors.
        let bound = 5.0 * (rate / (1.0 - rate) / f64::from(draws)).sqrt();
        for (sum, w) in sums.iter().zip(&before) {
            let mean = sum / f64::from(draws);
            assert!((mean - w).abs() < bound * w.abs(), "{mean} {w}");
        }
    }

    #[test]
    fn restored_weights_have_their_bits_and_equal_streams_equal_masks() {
        let unet = unet(2, 5);
        let all = || {
            let tensors = unet.tensors();
            tensors
                .iter()
                .flat_map(|(_, t)| values(t))
                .collect::<Vec<_>>()
        };
        let before = all();
        let dropout = Dropout::new(&unet, 0.5).unwrap();
        let with = |step| {
            let mut rng = stream(3, Purpose::Dropout, 1, step);
            let masked = dropout.mask(&unet, &mut rng).unwrap();
            let found = all();
            masked.restore(&unet).unwrap();
            assert_eq!(all(), before);
            found
        };
        let first = with(1);
        assert_ne!(first, before);
        assert_eq!(with(1), first);
        assert_ne!(with(2), first);
        // No rate drops nothing.
        let none = Dropout::new(&unet, 0.0).unwrap();
        let masked = none
            .mask(&unet, &mut stream(3, Purpose::Dropout, 1, 1))
            .unwrap();
        assert_eq!(all(), before);
        masked.restore(&unet).unwrap();
    }

    #[test]
    fn a_rate_out_of_range_is_refused() {
        for rate in [1.0, -0.1, f64::NAN] {
            assert_eq!(
                Dropout::new(&unet(1, 2), rate).unwrap_err().to_string(),
                format!("the rate of dropout is {rate}; expected a number from 0 to below 1")
            );
        }
    }
}
