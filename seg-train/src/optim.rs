//! Stochastic gradient descent with momentum, in Keras' form.
//!
//! ```text
//! v ← μ v − η g
//! w ← w + v                 (momentum)
//! w ← w + μ v − η g         (Nesterov)
//! ```
//!
//! `PyTorch` keeps `v ← μ v + g` and multiplies by η only in the step. At a constant learning rate the two are the same.
//! When η falls they are not: Keras' velocity carries on with the pace of the old rate and fades over some 1/(1 − μ)
//! steps, `PyTorch`'s slows down at once. The paper's authors trained with Keras, and their rate falls, so it is Keras'.

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Storage, Tensor, Var, WithDType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, collections::HashMap};

#[cfg(feature = "cuda")]
use crate::cuda::sgd::{Fused, Settings};

/// Settings of [`Sgd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// Learning rate η at the start.
    pub lr: f64,
    /// Momentum μ.
    pub momentum: f64,
    /// Whether the step looks ahead (Nesterov).
    pub nesterov: bool,
    /// The norm that the gradient of all variables together has at most: a longer one is scaled down to it (Pascanu et
    /// al. 2013). None: as long as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

impl Default for SgdConfig {
    /// The paper's: 0.1, 0.9, Nesterov.
    fn default() -> Self {
        Self {
            lr: 0.1,
            momentum: 0.9,
            nesterov: true,
            clip_norm: None,
        }
    }
}

/// The part of a contiguous storage that a tensor covers.
macro_rules! covered {
    ($data:expr, $layout:expr) => {{
        let Some((start, end)) = $layout.contiguous_offsets() else {
            candle_core::bail!(
                "expected a contiguous tensor, got strides {:?}",
                $layout.stride()
            )
        };
        &$data[start..end]
    }};
    (mut $data:expr, $layout:expr) => {{
        let Some((start, end)) = $layout.contiguous_offsets() else {
            candle_core::bail!(
                "expected a contiguous tensor, got strides {:?}",
                $layout.stride()
            )
        };
        &mut $data[start..end]
    }};
}

/// The optimiser: variables by name, and a velocity each.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use seg_train::optim::{Sgd, SgdConfig};
/// let w = Var::new(&[1.0_f64, -2.0], &Device::Cpu)?;
/// let config = SgdConfig { lr: 0.1, momentum: 0.5, nesterov: false, clip_norm: None };
/// let mut sgd = Sgd::new(&config, &[("w".to_owned(), w.clone())])?;
/// for _ in 0..2 {
///     sgd.step(&w.sqr()?.sum_all()?.backward()?)?; // g = 2w
/// }
/// // v = −0.2, w = 0.8; then v = −0.1 − 0.16, w = 0.54.
/// assert!((w.to_vec1::<f64>()?[0] - 0.54).abs() < 1e-15);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Sgd {
    lr: f64,
    momentum: f64,
    nesterov: bool,
    clip_norm: Option<f64>,
    parameters: Vec<Parameter>,
    /// The velocities of variables on a GPU, and the kernels of a step.
    #[cfg(feature = "cuda")]
    fused: Option<Fused>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    var: Var,
    velocity: Velocity,
}

/// Plain numbers where one loop does the whole step, which is bound by memory: Candle's in-place operations change one
/// tensor each, and would read everything twice.
#[derive(Debug)]
enum Velocity {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Tensor(Tensor),
    /// Among those of all variables, on the GPU.
    #[cfg(feature = "cuda")]
    Fused,
}

impl Velocity {
    fn zeros(var: &Var) -> Result<Self> {
        let count = var.elem_count();
        Ok(match var.dtype() {
            DType::F32 if var.device().is_cpu() => Self::F32(vec![0.0; count]),
            DType::F64 if var.device().is_cpu() => Self::F64(vec![0.0; count]),
            _ => Self::Tensor(var.as_tensor().zeros_like()?.detach()),
        })
    }

    /// A copy of a tensor of the variable's shape and type.
    fn of(tensor: &Tensor, var: &Var) -> Result<Self> {
        let flat = || tensor.flatten_all();
        Ok(match var.dtype() {
            DType::F32 if var.device().is_cpu() => Self::F32(flat()?.to_vec1()?),
            DType::F64 if var.device().is_cpu() => Self::F64(flat()?.to_vec1()?),
            _ => Self::Tensor(tensor.to_device(var.device())?.copy()?.detach()),
        })
    }

    /// A copy as a tensor.
    fn tensor(&self, var: &Var) -> Result<Tensor> {
        Ok(match self {
            Self::F32(v) => Tensor::from_slice(v, var.shape(), var.device())?,
            Self::F64(v) => Tensor::from_slice(v, var.shape(), var.device())?,
            Self::Tensor(v) => v.copy()?,
            #[cfg(feature = "cuda")]
            Self::Fused => bail!("a velocity on the GPU is copied with all others"),
        })
    }
}

impl Sgd {
    /// Velocities start at zero.
    ///
    /// # Errors
    ///
    /// If a setting is out of range or the device has no room.
    pub fn new(config: &SgdConfig, vars: &[(String, Var)]) -> Result<Self> {
        ensure!(
            config.lr.is_finite() && config.lr > 0.0,
            "the learning rate is {}; it must be positive",
            config.lr
        );
        ensure!(
            (0.0..1.0).contains(&config.momentum),
            "the momentum is {}; it must be in [0, 1)",
            config.momentum
        );
        if let Some(norm) = config.clip_norm {
            ensure!(
                norm.is_finite() && norm > 0.0,
                "the norm to clip gradients to is {norm}; it must be positive"
            );
        }
        #[cfg(feature = "cuda")]
        let fused = Fused::fits(vars)
            .then(|| {
                let settings = Settings {
                    momentum: config.momentum,
                    nesterov: config.nesterov,
                    clip_norm: config.clip_norm,
                };
                Fused::new(vars, settings)
            })
            .transpose()?;
        let zeros = |var: &Var| {
            #[cfg(feature = "cuda")]
            if fused.is_some() {
                return Ok(Velocity::Fused);
            }
            Velocity::zeros(var)
        };
        let parameters = vars
            .iter()
            .map(|(name, var)| {
                Ok(Parameter {
                    name: name.clone(),
                    var: var.clone(),
                    velocity: zeros(var)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            lr: config.lr,
            momentum: config.momentum,
            nesterov: config.nesterov,
            clip_norm: config.clip_norm,
            parameters,
            #[cfg(feature = "cuda")]
            fused,
        })
    }

    /// The learning rate.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Sets the learning rate of the steps to come. The velocities stay: see the module's notes.
    pub fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    /// The step of variables on a GPU; none where they are elsewhere.
    #[cfg(feature = "cuda")]
    pub(crate) fn fused(&mut self) -> Option<&mut Fused> {
        self.fused.as_mut()
    }

    /// Whether a step needs all gradients at once, and [`Self::update`] is none.
    pub fn clips(&self) -> bool {
        self.clip_norm.is_some()
    }

    /// One step for every variable. Its bits depend on its input alone, not on the number of threads.
    ///
    /// # Errors
    ///
    /// If a variable has no gradient, which is named: an operation without a backward cut it off, and training would go
    /// on without it. Or if a gradient has another shape or type. No variable has been changed then.
    pub fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let gradients = self
            .parameters
            .iter()
            .map(|p| {
                gradients.get(&p.var).with_context(|| {
                    format!("no gradient for {}; the loss does not depend on it, or an operation on the way has no backward", p.name)
                })
            })
            .collect::<Result<Vec<_>>>()?;
        self.step_each(&gradients)
    }

    /// The same with the gradients in the order of the variables.
    ///
    /// # Errors
    ///
    /// If a gradient has another shape or type, or is to be clipped and holds NaN or an infinity. No variable has been
    /// changed then.
    pub fn step_each(&mut self, gradients: &[&Tensor]) -> Result<()> {
        ensure!(
            gradients.len() == self.parameters.len(),
            "cannot update {} variables with {} gradients",
            self.parameters.len(),
            gradients.len()
        );
        for (parameter, gradient) in self.parameters.iter().zip(gradients) {
            parameter.check(gradient)?;
        }
        let mut step = self.settings();
        if let Some(most) = self.clip_norm {
            let norm = norm(gradients)?;
            ensure!(
                norm.is_finite(),
                "the norm of the gradients is {norm}; it cannot be clipped to {most}"
            );
            // In the step η stands beside g and nowhere else: to scale one is to scale the other.
            step.lr *= (most / norm).min(1.0);
        }
        // All variables in one go: each way into rayon's pool puts threads to sleep and wakes them.
        self.parameters
            .par_iter_mut()
            .zip(gradients)
            .try_for_each(|(parameter, gradient)| {
                parameter
                    .step(gradient, step)
                    .with_context(|| format!("cannot update {}", parameter.name))
            })?;
        Ok(())
    }

    /// One step for the variable at a place among those of [`Self::new`]: the same as [`Self::step`], one by one, so that
    /// no more than one gradient has to be there at a time.
    ///
    /// # Errors
    ///
    /// If the gradient has another shape or type, or the norm of all gradients has to be known ([`Self::clips`]); the
    /// variable has not been changed then.
    pub fn update(&mut self, at: usize, gradient: &Tensor) -> Result<()> {
        ensure!(
            !self.clips(),
            "one gradient cannot be clipped by the norm of all; step with all of them"
        );
        let step = self.settings();
        let parameter = &mut self.parameters[at];
        parameter.check(gradient)?;
        parameter
            .step(gradient, step)
            .with_context(|| format!("cannot update {}", parameter.name))
    }

    fn settings(&self) -> Step {
        Step {
            lr: self.lr,
            momentum: self.momentum,
            nesterov: self.nesterov,
        }
    }

    /// A copy of the velocities, each by its variable's name: with the learning rate, all that going on needs.
    ///
    /// # Errors
    ///
    /// If the device has no room for the copies.
    pub fn velocity(&self) -> Result<Vec<(String, Tensor)>> {
        #[cfg(feature = "cuda")]
        if let Some(fused) = &self.fused {
            let velocities = self.parameters.iter().zip(fused.velocity()?);
            return velocities
                .map(|(p, v)| {
                    let velocity = Tensor::from_vec(v, p.var.shape(), &Device::Cpu)?;
                    Ok((p.name.clone(), velocity))
                })
                .collect();
        }
        self.parameters
            .iter()
            .map(|p| Ok((p.name.clone(), p.velocity.tensor(&p.var)?)))
            .collect()
    }

    /// Takes velocities from [`Self::velocity`]; other names in the map are left alone.
    ///
    /// # Errors
    ///
    /// If one is missing or has another shape or type. No velocity has been changed then.
    pub fn set_velocity(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let velocities = self
            .parameters
            .iter()
            .map(|p| {
                let name = &p.name;
                let Some(v) = tensors.get(name) else {
                    bail!("the state holds no velocity of {name}; it belongs to another network");
                };
                if (v.shape(), v.dtype()) != (p.var.shape(), p.var.dtype()) {
                    bail!(
                        "the velocity of {name} is {:?} of {:?} in the state, the network's is {:?} of {:?}; it belongs to another network",
                        v.dims(),
                        v.dtype(),
                        p.var.dims(),
                        p.var.dtype()
                    );
                }
                Ok(v)
            })
            .collect::<Result<Vec<_>>>()?;
        #[cfg(feature = "cuda")]
        if let Some(fused) = &mut self.fused {
            let velocities = velocities
                .iter()
                .map(|v| v.flatten_all()?.to_vec1())
                .collect::<candle_core::Result<Vec<_>>>()?;
            return fused.set_velocity(&velocities);
        }
        let velocities = self
            .parameters
            .iter()
            .zip(velocities)
            .map(|(p, v)| Velocity::of(v, &p.var))
            .collect::<Result<Vec<_>>>()?;
        for (parameter, velocity) in self.parameters.iter_mut().zip(velocities) {
            parameter.velocity = velocity;
        }
        Ok(())
    }
}

/// The Euclidean norm of all elements of some tensors together, summed in f64 in an order that is the same for any number
/// of threads.
///
/// # Errors
///
/// If a tensor has a type that is no f32 or f64 on the CPU, and the device cannot make it one.
pub fn norm(tensors: &[&Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    for tensor in tensors {
        sum += sum_of_squares(tensor)?;
    }
    Ok(sum.sqrt())
}

/// What [`norm`] adds up: the sum of the squares of one tensor's elements, in f64.
pub(crate) fn sum_of_squares(tensor: &Tensor) -> candle_core::Result<f64> {
    fn of<T: WithDType>(values: &[T]) -> f64 {
        let runs: Vec<f64> = values
            .par_chunks(RUN)
            .map(|run| run.iter().map(|value| value.to_f64().powi(2)).sum())
            .collect();
        runs.iter().sum()
    }
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    Ok(match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => of(covered!(values, layout)),
        Storage::Cpu(CpuStorage::F64(values)) => of(covered!(values, layout)),
        _ => {
            drop(storage);
            if !tensor.device().is_cpu() {
                return sum_of_squares(&tensor.to_device(&Device::Cpu)?);
            }
            let squares = tensor.to_dtype(DType::F64)?.sqr()?;
            squares.sum_all()?.to_scalar()?
        }
    })
}

impl Parameter {
    fn check(&self, gradient: &Tensor) -> Result<()> {
        let Self { name, var, .. } = self;
        ensure!(
            (gradient.shape(), gradient.dtype()) == (var.shape(), var.dtype()),
            "cannot update {name}: its gradient is {:?} of {:?}, the variable {:?} of {:?}",
            gradient.dims(),
            gradient.dtype(),
            var.dims(),
            var.dtype()
        );
        Ok(())
    }

    fn step(&mut self, gradient: &Tensor, step: Step) -> Result<()> {
        // Detached: a gradient may carry the graph it came from, and a velocity made of it would keep every step's.
        let g = gradient.detach().contiguous()?;
        let Step {
            lr,
            momentum,
            nesterov,
        } = step;
        #[cfg(feature = "cuda")]
        if matches!(self.velocity, Velocity::Fused) {
            bail!("variables on a GPU are updated all at once, by the trainer's own kernel");
        }
        if let Velocity::Tensor(velocity) = &mut self.velocity {
            let push = (g * lr)?;
            *velocity = ((&*velocity * momentum)? - &push)?.detach();
            let change = if nesterov {
                ((&*velocity * momentum)? - push)?
            } else {
                velocity.clone()
            };
            self.var.set(&(self.var.as_tensor().detach() + change)?)?;
        } else {
            let velocity = RefCell::new(&mut self.velocity);
            self.var
                .as_tensor()
                .inplace_op2(&g, &Update { step, velocity })?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Step {
    lr: f64,
    momentum: f64,
    nesterov: bool,
}

/// Elements that a thread takes at a time: the largest tensor of the paper's network makes some hundred of them, so that
/// threads end together, and one takes longer than handing it over.
const RUN: usize = 1 << 15;

impl Step {
    /// A plain loop, shared among threads: composed of Candle's operations a step of the paper's network takes ten times
    /// as long. An element's bits depend on nothing but its own numbers.
    fn update<T: WithDType>(self, w: &mut [T], v: &mut [T], g: &[T]) {
        let [lr, momentum] = [self.lr, self.momentum].map(T::from_f64);
        let runs = w
            .par_chunks_mut(RUN)
            .zip(v.par_chunks_mut(RUN))
            .zip(g.par_chunks(RUN));
        runs.for_each(|((w, v), g)| {
            let each = w.iter_mut().zip(v).zip(g);
            if self.nesterov {
                for ((w, v), &g) in each {
                    *v = momentum * *v - lr * g;
                    *w += momentum * *v - lr * g;
                }
            } else {
                for ((w, v), &g) in each {
                    *v = momentum * *v - lr * g;
                    *w += *v;
                }
            }
        });
    }
}

/// A step of one variable and its velocity, in place.
struct Update<'a> {
    step: Step,
    velocity: RefCell<&'a mut Velocity>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(
        &self,
        w: &mut CpuStorage,
        w_l: &Layout,
        g: &CpuStorage,
        g_l: &Layout,
    ) -> candle_core::Result<()> {
        match (&mut **self.velocity.borrow_mut(), w, g) {
            (Velocity::F32(v), CpuStorage::F32(w), CpuStorage::F32(g)) => {
                self.step.update(covered!(mut w, w_l), v, covered!(g, g_l));
            }
            (Velocity::F64(v), CpuStorage::F64(w), CpuStorage::F64(g)) => {
                self.step.update(covered!(mut w, w_l), v, covered!(g, g_l));
            }
            _ => candle_core::bail!("the gradient has another type than the variable"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTEROV: SgdConfig = SgdConfig {
        lr: 0.1,
        momentum: 0.9,
        nesterov: true,
        clip_norm: None,
    };

    fn var(values: &[f64]) -> (String, Var) {
        ("w".to_owned(), Var::new(values, &Device::Cpu).unwrap())
    }

    fn step(sgd: &mut Sgd, w: &Var, g: &[f64]) {
        let mut grads = GradStore::default();
        grads.insert(w, Tensor::new(g, &Device::Cpu).unwrap());
        sgd.step(&grads).unwrap();
    }

    /// `PyTorch`'s form: v ← μ v + g; w ← w − η (g + μ v).
    fn pytorch(lrs: &[f64], g: f64) -> f64 {
        let (mut w, mut v) = (1.0, 0.0);
        for lr in lrs {
            v = 0.9 * v + g;
            w -= lr * (g + 0.9 * v);
        }
        w
    }

    #[test]
    fn equals_pytorch_at_a_constant_rate_and_keras_when_it_falls() {
        let run = |lrs: &[f64]| {
            let (name, w) = var(&[1.0]);
            let mut sgd = Sgd::new(&NESTEROV, &[(name, w.clone())]).unwrap();
            for &lr in lrs {
                sgd.set_lr(lr);
                step(&mut sgd, &w, &[0.5]);
            }
            w.to_vec1::<f64>().unwrap()[0]
        };
        assert!((run(&[0.1; 4]) - pytorch(&[0.1; 4], 0.5)).abs() < 1e-15);
        // By hand: v = −0.05, w = 1 − 0.045 − 0.05 = 0.905; then η = 0.01: v = −0.05, w = 0.905 − 0.045 − 0.005.
        assert!((run(&[0.1, 0.01]) - 0.855).abs() < 1e-15);
        assert!((pytorch(&[0.1, 0.01], 0.5) - 0.855).abs() > 0.03);
    }

    #[test]
    fn the_loop_and_the_composed_operations_agree() {
        let values: Vec<f32> = (0..100).map(|k| (k as f32 * 0.37).sin()).collect();
        for nesterov in [true, false] {
            let config = SgdConfig {
                nesterov,
                ..NESTEROV
            };
            let (mut w, mut v) = (values.clone(), vec![0.0; 100]);
            let name = Var::new(values.as_slice(), &Device::Cpu).unwrap();
            let mut sgd = Sgd::new(&config, &[("w".to_owned(), name.clone())]).unwrap();
            for _ in 0..3 {
                let g: Vec<f32> = w.iter().map(|w| w * w - 0.3).collect();
                let mut grads = GradStore::default();
                grads.insert(&name, Tensor::new(g.as_slice(), &Device::Cpu).unwrap());
                sgd.step(&grads).unwrap();
                for k in 0..100 {
                    v[k] = 0.9 * v[k] - 0.1 * g[k];
                    w[k] += if nesterov {
                        0.9 * v[k] - 0.1 * g[k]
                    } else {
                        v[k]
                    };
                }
            }
            assert_eq!(name.to_vec1::<f32>().unwrap(), w);
        }
    }

    /// More elements than one thread takes at a time, and a last run that is not full.
    #[test]
    fn a_step_has_the_same_bits_on_any_number_of_threads() {
        let count = 2 * RUN + 7;
        let values: Vec<f32> = (0..count).map(|k| (k as f32 * 0.37).sin()).collect();
        let gradient: Vec<f32> = values.iter().map(|w| w * w - 0.3).collect();
        let after = |threads| {
            let w = Var::new(values.as_slice(), &Device::Cpu).unwrap();
            let mut sgd = Sgd::new(&NESTEROV, &[("w".to_owned(), w.clone())]).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                for _ in 0..2 {
                    let mut grads = GradStore::default();
                    grads.insert(&w, Tensor::new(gradient.as_slice(), &Device::Cpu).unwrap());
                    sgd.step(&grads).unwrap();
                }
            });
            w.to_vec1::<f32>().unwrap()
        };
        let mut plain = values.clone();
        let mut v = vec![0.0; count];
        for _ in 0..2 {
            for ((w, v), g) in plain.iter_mut().zip(&mut v).zip(&gradient) {
                *v = 0.9 * *v - 0.1 * g;
                *w += 0.9 * *v - 0.1 * g;
            }
        }
        for threads in [1, 2, 5] {
            assert_eq!(after(threads), plain, "{threads} threads");
        }
    }

    #[test]
    fn a_gradient_of_another_shape_or_type_is_named_and_nothing_moves() {
        let (first, second) = (var(&[1.0]), var(&[2.0]).1);
        let vars = [first, ("second".to_owned(), second)];
        for (gradient, found) in [
            (
                Tensor::new(&[1.0_f64, 1.0], &Device::Cpu).unwrap(),
                "[2] of F64",
            ),
            (Tensor::new(&[1.0_f32], &Device::Cpu).unwrap(), "[1] of F32"),
        ] {
            let mut sgd = Sgd::new(&NESTEROV, &vars).unwrap();
            let mut grads = GradStore::default();
            grads.insert(&vars[0].1, Tensor::new(&[1.0_f64], &Device::Cpu).unwrap());
            grads.insert(&vars[1].1, gradient);
            assert_eq!(
                sgd.step(&grads).unwrap_err().to_string(),
                format!("cannot update second: its gradient is {found}, the variable [1] of F64")
            );
            assert_eq!(vars[0].1.to_vec1::<f64>().unwrap(), [1.0]);
        }
    }

    #[test]
    fn a_long_gradient_is_scaled_to_the_norm_of_all_and_a_short_one_is_left_alone() {
        let clipped = SgdConfig {
            clip_norm: Some(5.0),
            ..NESTEROV
        };
        let steps = |config: &SgdConfig, gradients: [[f64; 1]; 2]| {
            let vars = [var(&[1.0]), ("v".to_owned(), var(&[2.0]).1)];
            let mut sgd = Sgd::new(config, &vars).unwrap();
            let gradients = gradients.map(|g| Tensor::new(&g, &Device::Cpu).unwrap());
            sgd.step_each(&gradients.each_ref()).unwrap();
            vars.map(|(_, w)| w.to_vec1::<f64>().unwrap()[0])
        };
        assert_eq!(
            steps(&clipped, [[0.3], [0.4]]),
            steps(&NESTEROV, [[0.3], [0.4]])
        );
        // The length of (3, 4) is 5, that of (30, 40) ten times that, and no variable's own is.
        assert_eq!(
            steps(&clipped, [[3.0], [4.0]]),
            steps(&NESTEROV, [[3.0], [4.0]])
        );
        let (scaled, short) = (
            steps(&clipped, [[30.0], [40.0]]),
            steps(&NESTEROV, [[3.0], [4.0]]),
        );
        for (scaled, short) in scaled.into_iter().zip(short) {
            assert!((scaled - short).abs() < 1e-15, "{scaled} {short}");
        }
    }

    #[test]
    fn what_cannot_be_clipped_is_refused_and_nothing_moves() {
        let clipped = |norm| SgdConfig {
            clip_norm: Some(norm),
            ..NESTEROV
        };
        let vars = [var(&[1.0])];
        for norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                Sgd::new(&clipped(norm), &vars).unwrap_err().to_string(),
                format!("the norm to clip gradients to is {norm}; it must be positive")
            );
        }
        let mut sgd = Sgd::new(&clipped(1.0), &vars).unwrap();
        let g = Tensor::new(&[f64::NAN], &Device::Cpu).unwrap();
        assert_eq!(
            sgd.step_each(&[&g]).unwrap_err().to_string(),
            "the norm of the gradients is NaN; it cannot be clipped to 1"
        );
        assert_eq!(
            sgd.update(0, &g).unwrap_err().to_string(),
            "one gradient cannot be clipped by the norm of all; step with all of them"
        );
        assert_eq!(
            sgd.step_each(&[]).unwrap_err().to_string(),
            "cannot update 1 variables with 0 gradients"
        );
        assert_eq!(vars[0].1.to_vec1::<f64>().unwrap(), [1.0]);
    }

    #[test]
    fn a_norm_is_summed_in_f64_and_the_same_for_any_number_of_threads() {
        let ones = Tensor::ones(3 * RUN + 1, DType::F32, &Device::Cpu).unwrap();
        let large = (ones.clone() * 1e30).unwrap(); // its square is no f32
        assert_eq!(
            norm(&[&ones]).unwrap(),
            f64::from(3 * RUN as u32 + 1).sqrt()
        );
        let expected = f64::from(1e30_f32) * f64::from(3 * RUN as u32 + 1).sqrt();
        assert!((norm(&[&large]).unwrap() / expected - 1.0).abs() < 1e-12);
        let odd = Tensor::rand(0_f32, 1.0, 3 * RUN + 7, &Device::Cpu).unwrap();
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let narrow = odd.narrow(0, 5, 2 * RUN).unwrap();
        for tensor in [&odd, &narrow] {
            let alone = one.install(|| norm(&[tensor]).unwrap());
            assert_eq!(norm(&[tensor]).unwrap().to_bits(), alone.to_bits());
        }
        let copy = narrow.copy().unwrap();
        assert_eq!(norm(&[&narrow]).unwrap(), norm(&[&copy]).unwrap());
    }

    #[test]
    fn a_restored_state_goes_on_with_the_same_bits() {
        let gradients = [[0.3, -0.7], [0.1, 0.2], [-0.4, 0.6]];
        let (name, w) = var(&[1.0, 2.0]);
        let mut sgd = Sgd::new(&NESTEROV, &[(name.clone(), w.clone())]).unwrap();
        step(&mut sgd, &w, &gradients[0]);
        let (weights, state) = (w.to_vec1::<f64>().unwrap(), sgd.velocity().unwrap());
        assert_eq!(state[0].0, "w");
        let (_, again) = var(&weights);
        let mut resumed = Sgd::new(&NESTEROV, &[(name, again.clone())]).unwrap();
        resumed.set_velocity(&state.into_iter().collect()).unwrap();
        for g in &gradients[1..] {
            step(&mut sgd, &w, g);
            step(&mut resumed, &again, g);
        }
        assert_eq!(w.to_vec1::<f64>().unwrap(), again.to_vec1::<f64>().unwrap());
    }

    #[test]
    fn a_variable_without_gradient_is_named_and_nothing_moves() {
        let (name, w) = var(&[1.0]);
        let lonely = Var::new(&[2.0_f64], &Device::Cpu).unwrap();
        let mut sgd = Sgd::new(
            &NESTEROV,
            &[(name, w.clone()), ("lonely".to_owned(), lonely)],
        )
        .unwrap();
        let mut grads = GradStore::default();
        grads.insert(&w, Tensor::new(&[1.0_f64], &Device::Cpu).unwrap());
        assert_eq!(
            sgd.step(&grads).unwrap_err().to_string(),
            "no gradient for lonely; the loss does not depend on it, or an operation on the way has no backward"
        );
        assert_eq!(w.to_vec1::<f64>().unwrap(), [1.0]);
    }

    #[test]
    fn a_state_of_another_network_is_refused() {
        let (name, w) = var(&[1.0]);
        let mut sgd = Sgd::new(&NESTEROV, &[(name, w)]).unwrap();
        assert_eq!(
            sgd.set_velocity(&HashMap::new()).unwrap_err().to_string(),
            "the state holds no velocity of w; it belongs to another network"
        );
        let other = HashMap::from([(
            "w".to_owned(),
            Tensor::new(&[1.0_f32, 2.0], &Device::Cpu).unwrap(),
        )]);
        assert_eq!(
            sgd.set_velocity(&other).unwrap_err().to_string(),
            "the velocity of w is [2] of F32 in the state, the network's is [1] of F64; it belongs to another network"
        );
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let error = |config| Sgd::new(&config, &[]).unwrap_err().to_string();
        assert_eq!(
            error(SgdConfig {
                lr: 0.0,
                ..NESTEROV
            }),
            "the learning rate is 0; it must be positive"
        );
        assert_eq!(
            error(SgdConfig {
                momentum: 1.0,
                ..NESTEROV
            }),
            "the momentum is 1; it must be in [0, 1)"
        );
    }

    /// Half precision takes the composed path, where a velocity could hold on to the graph.
    #[test]
    fn a_step_keeps_no_graph() {
        for dtype in [DType::F16, DType::F64] {
            let start = Tensor::new(&[1.0_f64, 2.0], &Device::Cpu).unwrap();
            let w = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
            let mut sgd = Sgd::new(&NESTEROV, &[("w".to_owned(), w.clone())]).unwrap();
            let mut grads = GradStore::default();
            let g = w.affine(2.0, 0.0).unwrap(); // tracked: it was made from a variable
            assert!(g.track_op());
            grads.insert(&w, g);
            sgd.step(&grads).unwrap();
            if let Velocity::Tensor(velocity) = &sgd.parameters[0].velocity {
                assert!(dtype == DType::F16 && !velocity.track_op());
            }
            // v = −0.2, w = 1 − 0.18 − 0.2.
            let w = w.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            assert!((w[0] - 0.62).abs() < 1e-3, "{dtype:?}: {w:?}");
        }
    }
}
