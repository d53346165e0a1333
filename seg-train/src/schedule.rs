//! When to lower the learning rate and when to stop, with Keras' meaning of every word.
//!
//! The authors trained with Keras' `ReduceLROnPlateau` and `EarlyStopping`, and patience differs between frameworks:
//! Keras acts in the epoch in which it has waited `patience` epochs, `PyTorch` one epoch later. Here it is Keras'. Both
//! callbacks see the validation loss at the end of every epoch, the reduction first.
//!
//! A NaN loss is no improvement (it is not less than anything), so both go on waiting, as Keras does.
//!
//! Configuration and state are apart: the first is part of the experiment, the second of the run, and a state written
//! out and read back goes on as if nothing had happened.
//!
//! ```
//! use seg_train::schedule::{Plateau, ReduceLrOnPlateau, Stopping, EarlyStopping};
//! let reduce = ReduceLrOnPlateau { patience: 2, ..ReduceLrOnPlateau::default() };
//! let stop = EarlyStopping { patience: 3, ..EarlyStopping::default() };
//! let (mut plateau, mut stopping) = (Plateau::default(), Stopping::default());
//! let (mut lr, mut ran) = (0.1, 0);
//! for loss in [0.9, 0.8, 0.8, 0.8, 0.8, 0.8] {
//!     lr = reduce.next_lr(&mut plateau, loss, lr);
//!     ran += 1;
//!     if stop.should_stop(&mut stopping, loss) {
//!         break;
//!     }
//! }
//! assert_eq!(ran, 5); // the best was the second, and three more did not improve on it
//! assert!((lr - 0.01).abs() < 1e-9);
//! ```

use serde::{Deserialize, Serialize};

/// Multiplies the learning rate by `factor` when the validation loss has not improved for `patience` epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceLrOnPlateau {
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

impl Default for ReduceLrOnPlateau {
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

/// Where a [`ReduceLrOnPlateau`] stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    best: Best,
    wait: u64,
    cooldown: u64,
}

impl ReduceLrOnPlateau {
    /// Takes in the loss of the epoch that ended with learning rate `lr`; returns the rate of the next one.
    ///
    /// A reduced rate is rounded to f32, as Keras holds it: so 0.1 reduced three times is `min_lr` = 1e-4 and no
    /// longer above it, while in f64 it would stand a rounding error above and be "reduced" once more.
    pub fn next_lr(&self, state: &mut Plateau, loss: f64, lr: f64) -> f64 {
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.wait = 0;
        }
        if loss < state.best.get() - self.min_delta {
            state.best = Best::of(loss);
            state.wait = 0;
        } else if state.cooldown == 0 {
            state.wait += 1;
            // At the floor `wait` just grows: Keras resets it only where it reduces.
            if state.wait >= self.patience && as_f32(lr) > as_f32(self.min_lr) {
                state.cooldown = self.cooldown;
                state.wait = 0;
                return as_f32((as_f32(lr) * self.factor).max(self.min_lr));
            }
        }
        lr
    }
}

/// Stops the training when the validation loss has not improved for `patience` epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// Epochs without improvement before stopping.
    pub patience: u64,
    /// An improvement is a loss that, `min_delta` added, is still below the best.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    /// The authors' setting.
    fn default() -> Self {
        Self {
            patience: 50,
            min_delta: 1e-7,
        }
    }
}

/// Where an [`EarlyStopping`] stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopping {
    best: Best,
    wait: u64,
    epochs: u64,
}

impl Stopping {
    /// Epochs since the last improvement.
    pub fn wait(&self) -> u64 {
        self.wait
    }

    /// The best loss so far; infinite before the first.
    pub fn best(&self) -> f64 {
        self.best.get()
    }
}

impl EarlyStopping {
    /// Takes in the loss of the epoch that ended; says whether it was the last.
    ///
    /// Never after the first epoch, as in Keras, even with a patience of zero.
    pub fn should_stop(&self, state: &mut Stopping, loss: f64) -> bool {
        state.epochs += 1;
        state.wait += 1;
        if loss + self.min_delta.abs() < state.best.get() {
            state.best = Best::of(loss);
            state.wait = 0;
            return false;
        }
        state.wait >= self.patience && state.epochs > 1
    }
}

/// The best loss; `None` is none yet, so infinity, which JSON and TOML readers do not all know. Kept as bits' worth:
/// f64 text round-trips exactly.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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

impl PartialEq for Best {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

// A NaN is never stored: it is not below any best.
impl Eq for Best {}

fn as_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reductions(
        config: &ReduceLrOnPlateau,
        losses: impl IntoIterator<Item = f64>,
    ) -> (Vec<usize>, f64) {
        let (mut state, mut lr, mut at) = (Plateau::default(), 0.1, Vec::new());
        for (epoch, loss) in losses.into_iter().enumerate() {
            let next = config.next_lr(&mut state, loss, lr);
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
        let (at, lr) = reductions(&ReduceLrOnPlateau::default(), [1.0; 200]);
        assert_eq!(at, [25, 50, 75]);
        assert_eq!(lr, as_f32(1e-4));
    }

    #[test]
    fn an_improvement_of_min_delta_is_none() {
        let config = ReduceLrOnPlateau {
            patience: 2,
            min_delta: 0.25,
            ..ReduceLrOnPlateau::default()
        };
        assert_eq!(reductions(&config, [1.0, 0.75, 0.75]).0, [2]);
        assert_eq!(reductions(&config, [1.0, 0.7, 0.7]).0, [0_usize; 0]);
    }

    #[test]
    fn nan_is_no_improvement() {
        let config = ReduceLrOnPlateau {
            patience: 2,
            ..ReduceLrOnPlateau::default()
        };
        assert_eq!(reductions(&config, [1.0, f64::NAN, f64::NAN]).0, [2]);
        let stop = EarlyStopping {
            patience: 2,
            ..EarlyStopping::default()
        };
        let mut state = Stopping::default();
        assert_eq!(
            [f64::NAN, f64::NAN].map(|loss| stop.should_stop(&mut state, loss)),
            [false, true]
        );
        assert_eq!(state.best(), f64::INFINITY);
    }

    #[test]
    fn patience_zero_stops_after_the_second_epoch_at_the_earliest() {
        let stop = EarlyStopping {
            patience: 0,
            ..EarlyStopping::default()
        };
        let mut state = Stopping::default();
        assert!(!stop.should_stop(&mut state, f64::NAN));
        assert!(stop.should_stop(&mut state, f64::NAN));
    }

    #[test]
    fn a_state_written_and_read_goes_on_as_before() {
        let reduce = ReduceLrOnPlateau {
            patience: 3,
            cooldown: 2,
            ..ReduceLrOnPlateau::default()
        };
        let stop = EarlyStopping {
            patience: 9,
            ..EarlyStopping::default()
        };
        let losses: Vec<f64> = (0..30)
            .map(|k| 1.0 / 3.0 + 0.1 * f64::from(k * 7 % 11))
            .collect();
        let run = |resume_at: Option<usize>| {
            let (mut plateau, mut stopping, mut lr) =
                (Plateau::default(), Stopping::default(), 0.1);
            let mut trace = Vec::new();
            for (epoch, &loss) in losses.iter().enumerate() {
                if resume_at == Some(epoch) {
                    plateau =
                        serde_json::from_str(&serde_json::to_string(&plateau).unwrap()).unwrap();
                    stopping =
                        serde_json::from_str(&serde_json::to_string(&stopping).unwrap()).unwrap();
                }
                lr = reduce.next_lr(&mut plateau, loss, lr);
                trace.push((
                    lr.to_bits(),
                    stop.should_stop(&mut stopping, loss),
                    stopping.wait(),
                ));
            }
            trace
        };
        for epoch in 0..losses.len() {
            assert_eq!(run(Some(epoch)), run(None));
        }
    }
}
