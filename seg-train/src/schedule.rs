//! When to lower the learning rate and when to stop, with Keras' meaning of every word.
//!
//! The authors trained with Keras' `ReduceLROnPlateau` and `EarlyStopping`, and patience differs between frameworks:
//! Keras acts in the epoch in which it has waited `patience` epochs, `PyTorch` one epoch later. Here it is Keras'. Both
//! callbacks see the validation loss at the end of every epoch, the reduction first.
//!
//! A NaN loss is no improvement (it is not less than anything), so both go on waiting, as Keras does.
//!
//! Configuration and state are apart: the first is part of the experiment, the second of the run. A schedule written
//! out and read back goes on as if nothing had happened.
//!
//! ```
//! use seg_train::schedule::{EarlyStopping, EarlyStoppingConfig, ReduceLrOnPlateau, ReduceLrOnPlateauConfig};
//! let mut plateau = ReduceLrOnPlateau::new(&ReduceLrOnPlateauConfig { patience: 2, ..Default::default() });
//! let mut stopping = EarlyStopping::new(&EarlyStoppingConfig { patience: 3, ..Default::default() });
//! let (mut lr, mut ran) = (0.1, 0);
//! for loss in [0.9, 0.8, 0.8, 0.8, 0.8, 0.8] {
//!     lr = plateau.step(loss, lr);
//!     ran += 1;
//!     if stopping.step(loss) {
//!         break;
//!     }
//! }
//! assert_eq!(ran, 5); // the best was the second, and three more did not improve on it
//! assert!((lr - 0.01).abs() < 1e-9);
//! ```

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Settings of [`ReduceLrOnPlateau`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceLrOnPlateauConfig {
    /// What the learning rate is multiplied by.
    pub factor: f64,
    /// Epochs without improvement before it is.
    pub patience: u64,
    /// An improvement is a loss below best − `min_delta`.
    pub min_delta: f64,
    /// Epochs after a reduction in which nothing is counted.
    pub cooldown: u64,
    /// The rate never falls below this.
    pub min_lr: f64,
}

impl Default for ReduceLrOnPlateauConfig {
    /// The authors' setting, which is not Keras' default.
    fn default() -> Self {
        Self {
            factor: 0.1,
            patience: 25,
            min_delta: 1e-7,
            cooldown: 1,
            min_lr: 1e-4,
        }
    }
}

impl ReduceLrOnPlateauConfig {
    /// Refuses settings that mean nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let factor = self.factor;
        ensure!(
            0.0 < factor && factor < 1.0,
            "factor is {factor}; expected a number between 0 and 1"
        );
        at_least_zero("min_delta", self.min_delta)?;
        at_least_zero("min_lr", self.min_lr)
    }
}

fn at_least_zero(name: &str, value: f64) -> Result<()> {
    ensure!(
        value.is_finite() && value >= 0.0,
        "{name} is {value}; expected a finite number, at least 0"
    );
    Ok(())
}

/// Multiplies the learning rate by `factor` when the validation loss has not improved for `patience` epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReduceLrOnPlateau {
    config: ReduceLrOnPlateauConfig,
    best: Best,
    wait: u64,
    cooldown: u64,
}

impl ReduceLrOnPlateau {
    /// Before the first epoch.
    pub fn new(config: &ReduceLrOnPlateauConfig) -> Self {
        Self {
            config: config.clone(),
            best: Best::default(),
            wait: 0,
            cooldown: 0,
        }
    }

    /// Takes in the loss of the epoch that ended with learning rate `lr`; returns the rate of the next one.
    ///
    /// A reduced rate is rounded to f32, as Keras holds it: so 0.1 reduced three times is `min_lr` = 1e-4 and no
    /// longer above it, while in f64 it would stand a rounding error above and be "reduced" once more.
    pub fn step(&mut self, loss: f64, lr: f64) -> f64 {
        let config = &self.config;
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.wait = 0;
        }
        if loss < self.best.get() - config.min_delta {
            self.best = Best::of(loss);
            self.wait = 0;
        } else if self.cooldown == 0 {
            self.wait += 1;
            // At the floor `wait` just grows: Keras resets it only where it reduces.
            if self.wait >= config.patience && as_f32(lr) > as_f32(config.min_lr) {
                self.cooldown = config.cooldown;
                self.wait = 0;
                return as_f32((as_f32(lr) * config.factor).max(config.min_lr));
            }
        }
        lr
    }
}

/// Settings of [`EarlyStopping`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// Epochs without improvement before stopping.
    pub patience: u64,
    /// An improvement is a loss that, `min_delta` added, is still below the best.
    pub min_delta: f64,
}

impl Default for EarlyStoppingConfig {
    /// The authors' setting.
    fn default() -> Self {
        Self {
            patience: 50,
            min_delta: 1e-7,
        }
    }
}

impl EarlyStoppingConfig {
    /// Refuses settings that mean nothing.
    pub(crate) fn check(&self) -> Result<()> {
        at_least_zero("min_delta", self.min_delta)
    }
}

/// Stops the training when the validation loss has not improved for `patience` epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    config: EarlyStoppingConfig,
    best: Best,
    wait: u64,
    epochs: u64,
}

impl EarlyStopping {
    /// Before the first epoch.
    pub fn new(config: &EarlyStoppingConfig) -> Self {
        Self {
            config: config.clone(),
            best: Best::default(),
            wait: 0,
            epochs: 0,
        }
    }

    /// Takes in the loss of the epoch that ended; says whether it was the last.
    ///
    /// Never after the first epoch, as in Keras, even with a patience of zero.
    pub fn step(&mut self, loss: f64) -> bool {
        self.epochs += 1;
        self.wait += 1;
        if loss + self.config.min_delta.abs() < self.best.get() {
            self.best = Best::of(loss);
            self.wait = 0;
            return false;
        }
        self.wait >= self.config.patience && self.epochs > 1
    }

    /// Epochs since the last improvement.
    pub fn wait(&self) -> u64 {
        self.wait
    }

    /// The best loss so far; infinite before the first.
    pub fn best(&self) -> f64 {
        self.best.get()
    }
}

/// The best loss; `None` is none yet and stands for infinity, which JSON cannot write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Best(Option<f64>);

impl Best {
    fn of(loss: f64) -> Self {
        Self(Some(loss))
    }

    fn get(self) -> f64 {
        self.0.unwrap_or(f64::INFINITY)
    }
}

fn as_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reductions(
        config: &ReduceLrOnPlateauConfig,
        losses: impl IntoIterator<Item = f64>,
    ) -> (Vec<usize>, f64) {
        let (mut plateau, mut lr, mut at) = (ReduceLrOnPlateau::new(config), 0.1, Vec::new());
        for (epoch, loss) in losses.into_iter().enumerate() {
            let next = plateau.step(loss, lr);
            if next != lr {
                at.push(epoch);
            }
            lr = next;
        }
        (at, lr)
    }

    #[test]
    fn a_flat_loss_is_reduced_by_patience_and_cooldown_down_to_the_floor() {
        // Epoch 0 improves on infinity; 25 do not: epoch 25. A cooldown of 1 ends at the start of epoch 26, which
        // then counts: epoch 50, and so on. The third reduction reaches the floor.
        let (at, lr) = reductions(&ReduceLrOnPlateauConfig::default(), [1.0; 200]);
        assert_eq!(at, [25, 50, 75]);
        assert_eq!(lr, as_f32(1e-4));
    }

    #[test]
    fn an_improvement_of_min_delta_is_none() {
        let config = ReduceLrOnPlateauConfig {
            patience: 2,
            min_delta: 0.25,
            ..Default::default()
        };
        assert_eq!(reductions(&config, [1.0, 0.75, 0.75]).0, [2]);
        assert_eq!(reductions(&config, [1.0, 0.7, 0.7]).0, [0_usize; 0]);
    }

    #[test]
    fn nan_is_no_improvement() {
        let config = ReduceLrOnPlateauConfig {
            patience: 2,
            ..Default::default()
        };
        assert_eq!(reductions(&config, [1.0, f64::NAN, f64::NAN]).0, [2]);
        let mut stopping = EarlyStopping::new(&EarlyStoppingConfig {
            patience: 2,
            ..Default::default()
        });
        assert_eq!(
            [f64::NAN, f64::NAN].map(|loss| stopping.step(loss)),
            [false, true]
        );
        assert_eq!(stopping.best(), f64::INFINITY);
    }

    #[test]
    fn patience_zero_stops_after_the_second_epoch_at_the_earliest() {
        let mut stopping = EarlyStopping::new(&EarlyStoppingConfig {
            patience: 0,
            ..Default::default()
        });
        assert!(!stopping.step(f64::NAN));
        assert!(stopping.step(f64::NAN));
    }

    #[test]
    fn a_schedule_written_and_read_goes_on_as_before() {
        let losses: Vec<f64> = (0..30)
            .map(|k| 1.0 / 3.0 + 0.1 * f64::from(k * 7 % 11))
            .collect();
        let run = |resume_at: Option<usize>| {
            let mut plateau = ReduceLrOnPlateau::new(&ReduceLrOnPlateauConfig {
                patience: 3,
                cooldown: 2,
                ..Default::default()
            });
            let mut stopping = EarlyStopping::new(&EarlyStoppingConfig {
                patience: 9,
                ..Default::default()
            });
            let (mut lr, mut trace) = (0.1, Vec::new());
            for (epoch, &loss) in losses.iter().enumerate() {
                if resume_at == Some(epoch) {
                    plateau =
                        serde_json::from_str(&serde_json::to_string(&plateau).unwrap()).unwrap();
                    stopping =
                        serde_json::from_str(&serde_json::to_string(&stopping).unwrap()).unwrap();
                }
                lr = plateau.step(loss, lr);
                trace.push((lr.to_bits(), stopping.step(loss), stopping.wait()));
            }
            trace
        };
        for epoch in 0..losses.len() {
            assert_eq!(run(Some(epoch)), run(None));
        }
    }
}
