//! A random prediction and its truth, and the ways tests look at a loss.

use candle_core::{DType, Device, Result, Tensor};
use dice_losses::{
    Loss, LossSpec, Prediction, Target,
    zoo::{Row, ZOO},
};
use proptest::prelude::*;

/// The paper's sweep of γ, and what lies between.
pub(crate) const GAMMAS: [f64; 7] = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0];

/// Logits `[N, C, S]` and class numbers `[N, S]`, f64.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) items: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
    pub(crate) logits: Vec<f64>,
    pub(crate) labels: Vec<u8>,
}

impl Case {
    /// Any case of 1 to 3 items, 1 to 4 channels and 1 to 30 pixels; classes may be absent.
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        (1..=3usize, 1..=4usize, 1..=30usize).prop_flat_map(|(n, c, s)| Self::of(n, c, s))
    }

    /// A case of this size.
    pub(crate) fn of(items: usize, channels: usize, pixels: usize) -> impl Strategy<Value = Self> {
        let logits = prop::collection::vec(-6.0..6.0f64, items * channels * pixels);
        let labels = prop::collection::vec(0..channels.max(2) as u8, items * pixels);
        (logits, labels).prop_map(move |(logits, labels)| Self {
            items,
            channels,
            pixels,
            logits,
            labels,
        })
    }

    /// The same case with every class present in every item, if there are pixels enough.
    pub(crate) fn with_all_classes(mut self) -> Self {
        let classes = self.channels.max(2);
        for item in self.labels.chunks_mut(self.pixels) {
            for (class, label) in item.iter_mut().take(classes).enumerate() {
                *label = class as u8;
            }
        }
        self
    }

    pub(crate) fn logits(&self) -> Tensor {
        let shape = (self.items, self.channels, self.pixels);
        Tensor::from_vec(self.logits.clone(), shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn labels(&self) -> Tensor {
        let shape = (self.items, self.pixels);
        Tensor::from_vec(self.labels.clone(), shape, &Device::Cpu).unwrap()
    }

    /// `p[n][c][s]` by the textbook formulas.
    pub(crate) fn p(&self) -> Vec<Vec<Vec<f64>>> {
        let (c, s) = (self.channels, self.pixels);
        self.logits
            .chunks(c * s)
            .map(|z| {
                let mut p = vec![vec![0.0; s]; c];
                for i in 0..s {
                    if c == 1 {
                        p[0][i] = 1.0 / (1.0 + (-z[i]).exp());
                    } else {
                        let sum: f64 = (0..c).map(|k| z[k * s + i].exp()).sum();
                        (0..c).for_each(|k| p[k][i] = z[k * s + i].exp() / sum);
                    }
                }
                p
            })
            .collect()
    }

    /// `y` of an item, channel and pixel.
    pub(crate) fn y(&self, item: usize, channel: usize, pixel: usize) -> f64 {
        let class = if self.channels == 1 { 1 } else { channel };
        f64::from(u8::from(
            usize::from(self.labels[item * self.pixels + pixel]) == class,
        ))
    }
}

/// Value and gradient of a specification's loss on logits and labels, as f64.
pub(crate) fn value_and_grad(spec: &str, logits: &Tensor, target: &Target) -> (f64, Vec<f64>) {
    let spec: LossSpec = spec.parse().unwrap();
    of_loss(spec.build().as_ref(), &Prediction::logits(logits), target)
}

/// Value and gradient of a loss, as f64.
#[track_caller]
pub(crate) fn of_loss(
    loss: &dyn Loss,
    prediction: &Prediction,
    target: &Target,
) -> (f64, Vec<f64>) {
    let (value, gradient) = loss.value_and_grad(prediction, target).unwrap();
    (scalar(&value), flat(&gradient).unwrap())
}

/// A scalar tensor of any float dtype.
#[track_caller]
pub(crate) fn scalar(tensor: &Tensor) -> f64 {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .to_scalar::<f64>()
        .unwrap()
}

/// All elements of a tensor of any float dtype.
pub(crate) fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()
}

/// Every row's name, and its `++` variant at γ where it has one.
pub(crate) fn plain_and_plus_plus(gamma: f64) -> Vec<String> {
    let plain = ZOO.iter().map(|row| row.name.to_string());
    let plus_plus = plus_plus_rows().map(|name| format!("{name}++:gamma={gamma}"));
    plain.chain(plus_plus).collect()
}

/// A specification with more settings: `dice` with `smooth=0` is `dice:smooth=0`.
pub(crate) fn with(spec: &str, settings: &str) -> String {
    let joint = if spec.contains(':') { ',' } else { ':' };
    format!("{spec}{joint}{settings}")
}

/// The row of a specification.
pub(crate) fn row(spec: &str) -> &'static Row {
    spec.parse::<LossSpec>().unwrap().row()
}

/// The names of the rows that have regions.
pub(crate) fn region_rows() -> impl Iterator<Item = &'static str> {
    ZOO.iter()
        .filter(|row| row.has_regions())
        .map(|row| row.name)
}

/// The names of the rows that take `++`.
pub(crate) fn plus_plus_rows() -> impl Iterator<Item = &'static str> {
    ZOO.iter().filter(|row| row.plus_plus()).map(|row| row.name)
}

/// Asserts that two numbers agree to `tolerance`, absolutely and relatively.
#[track_caller]
pub(crate) fn assert_close(a: f64, b: f64, tolerance: f64, what: &str) {
    assert!(
        (a - b).abs() <= tolerance * (1.0 + b.abs()),
        "{what}: {a} and {b} differ by more than {tolerance}"
    );
}

/// Asserts that two lists agree element by element.
#[track_caller]
pub(crate) fn assert_all_close(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_close(*a, *b, tolerance, &format!("{what}, element {i}"));
    }
}
