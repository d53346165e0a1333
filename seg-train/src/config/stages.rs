//! What a run is made of: the trainings that its network, or its ensemble of networks, needs one after the other.

use anyhow::{Context, Result, bail};

use super::{Experiment, FineTune};
use crate::{inference::InferenceConfig, metrics::MetricsConfig, optim::Sgd};

/// The name of the folder, within a run's, of the training that fine-tuning goes on from.
pub const FIRST: &str = "first";

/// Members of an ensemble at most.
const MEMBERS: usize = 100;

/// Samples of dropout at most.
const SAMPLES: usize = 10_000;

impl Experiment {
    /// The same training and nothing after it: what runs share that differ in [`inference`](Self::inference) and
    /// [`metrics`](Self::metrics) alone.
    #[must_use]
    pub fn training(&self) -> Self {
        Self {
            inference: InferenceConfig::default(),
            metrics: MetricsConfig::default(),
            ..self.clone()
        }
    }

    /// The trainings that the run's own needs beside or before it, each an experiment of its own, with the name of its
    /// folder within the run's.
    ///
    /// ```
    /// use seg_train::config::Preset;
    /// let mut ensemble = Preset::Phantom.experiment("phantom".parse()?);
    /// assert!(ensemble.parts().is_empty());
    /// ensemble.inference.members = 3;
    /// let names: Vec<String> = ensemble.parts().into_iter().map(|(name, _)| name).collect();
    /// assert_eq!(names, ["member-1", "member-2"]);
    /// # anyhow::Ok(())
    /// ```
    pub fn parts(&self) -> Vec<(String, Self)> {
        let mut parts = Vec::new();
        if self.recipe.fine_tune.is_some() {
            let mut first = self.training();
            first.recipe.fine_tune = None;
            parts.push((FIRST.to_owned(), first));
        }
        for member in 1..self.inference.members {
            let mut other = self.training();
            other.recipe.member = member as u64;
            parts.push((member_folder(member), other));
        }
        parts
    }

    /// The training that makes the run's own weights: the last where one follows another.
    #[must_use]
    pub(crate) fn last_stage(&self) -> Self {
        let mut stage = self.training();
        if let Some(FineTune { loss, epochs, lr }) = &self.recipe.fine_tune {
            stage.loss.clone_from(loss);
            stage.recipe.epochs = *epochs;
            stage.recipe.sgd.lr = *lr;
        }
        stage
    }

    /// The seed of what training draws: weights, order, augmentation. That of the first member is the run's.
    pub fn training_seed(&self) -> u64 {
        // An odd multiplier: members of one seed have seeds of their own, far from those of neighbouring runs.
        self.seed ^ self.recipe.member.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The run in words: its loss by name, and what is done besides.
    ///
    /// ```
    /// use seg_train::{config::Preset, inference::Scaling};
    /// let mut run = Preset::Phantom.experiment("phantom".parse()?);
    /// run.loss = "dice".into();
    /// run.inference.scaling = Scaling::Temperature;
    /// assert_eq!(run.method()?, "dice, temperature scaling");
    /// # anyhow::Ok(())
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no such loss.
    pub fn method(&self) -> Result<String> {
        let short = |loss: &str| -> Result<String> {
            let spec: dice_losses::LossSpec = loss.parse()?;
            let gamma = spec
                .gamma()
                .map_or(String::new(), |g| format!(" (γ = {g})"));
            Ok(format!("{}{gamma}", spec.name()))
        };
        let mut said = vec![short(&self.loss)?];
        if let Some(FineTune { loss, epochs, .. }) = &self.recipe.fine_tune {
            said.push(format!("then {} for {epochs} epochs", short(loss)?));
        }
        let recipe = &self.recipe;
        for (is_so, words) in [
            (
                recipe.label_smoothing > 0.0,
                format!("labels smoothed by {}", recipe.label_smoothing),
            ),
            (
                recipe.calibration_term.is_some(),
                "with a term of calibration error".to_owned(),
            ),
            (
                recipe.dropout > 0.0,
                format!("dropout of {}", recipe.dropout),
            ),
        ]
        .into_iter()
        .chain(self.inference.words())
        {
            if is_so {
                said.push(words);
            }
        }
        Ok(said.join(", "))
    }

    /// What a type cannot say of the stages.
    pub(super) fn check_stages(&self) -> Result<()> {
        let InferenceConfig {
            members, samples, ..
        } = self.inference;
        for (key, value, least, most) in [
            ("inference.members", members, 1, MEMBERS),
            ("inference.samples", samples, 0, SAMPLES),
        ] {
            if !(least..=most).contains(&value) {
                bail!("{key} is {value}; expected a whole number from {least} to {most}");
            }
        }
        if members > 1 && self.recipe.member > 0 {
            bail!(
                "recipe.member is {} and inference.members {members}: one network of an ensemble is no ensemble; leave one of them out",
                self.recipe.member
            );
        }
        if samples > 0 && self.recipe.dropout == 0.0 {
            bail!(
                "inference.samples is {samples} and recipe.dropout 0: there is nothing to sample from; set recipe.dropout, such as 0.2"
            );
        }
        let Some(FineTune { loss, epochs, lr }) = &self.recipe.fine_tune else {
            return Ok(());
        };
        loss.parse::<dice_losses::LossSpec>()
            .with_context(|| format!("recipe.fine_tune.loss `{loss}`"))?;
        if !(1..=1_000_000).contains(epochs) {
            bail!("recipe.fine_tune.epochs is {epochs}; expected a whole number from 1 to 1000000");
        }
        let mut sgd = self.recipe.sgd.clone();
        sgd.lr = *lr;
        Sgd::new(&sgd, &[]).context("recipe.fine_tune")?;
        Ok(())
    }
}

/// The folder of a member of an ensemble within the run's; the first has the run's own.
pub fn member_folder(member: usize) -> String {
    format!("member-{member}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Preset, inference::Scaling};

    fn phantom() -> Experiment {
        Preset::Phantom.experiment("phantom".parse().unwrap())
    }

    #[test]
    fn a_run_without_stages_is_its_own_and_only_training() {
        let run = phantom();
        assert_eq!(run.parts(), []);
        assert_eq!(run.last_stage(), run);
        assert_eq!(run.training_seed(), run.seed);
        let text = run.to_toml().unwrap();
        for key in ["inference", "member", "fine_tune"] {
            assert!(!text.contains(key), "{key} in {text}");
        }
    }

    #[test]
    fn members_fine_tuned_each_go_on_from_a_first_training_of_their_own() {
        let mut run = phantom();
        run.loss = "dice".into();
        run.inference.members = 2;
        run.inference.scaling = Scaling::Vector;
        run.recipe.fine_tune = Some(FineTune {
            loss: "ce".into(),
            epochs: 3,
            lr: 0.01,
        });
        run.check().unwrap();
        let parts = run.parts();
        assert_eq!(parts[0].0, "first");
        assert_eq!(parts[0].1.recipe.fine_tune, None);
        assert_eq!(parts[0].1.loss, "dice");
        assert_eq!(parts[1].0, "member-1");
        assert_eq!(parts[1].1.inference, InferenceConfig::default());
        assert_ne!(parts[1].1.training_seed(), run.training_seed());
        // The member's own first training draws as the member does.
        let of_member = parts[1].1.parts();
        assert_eq!(of_member.len(), 1);
        assert_eq!(of_member[0].1.training_seed(), parts[1].1.training_seed());
        let last = run.last_stage();
        assert_eq!(
            (&last.loss[..], last.recipe.epochs, last.recipe.sgd.lr),
            ("ce", 3, 0.01)
        );
        assert_eq!(
            run.method().unwrap(),
            "dice, then cross-entropy for 3 epochs, ensemble of 2, vector scaling"
        );
    }

    #[test]
    fn stages_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut Experiment)| {
            let mut run = phantom();
            change(&mut run);
            format!("{:#}", run.check().unwrap_err())
        };
        assert_eq!(
            refused(|run| run.inference.members = 0),
            "inference.members is 0; expected a whole number from 1 to 100"
        );
        assert_eq!(
            refused(|run| {
                run.inference.members = 2;
                run.recipe.member = 1;
            }),
            "recipe.member is 1 and inference.members 2: one network of an ensemble is no ensemble; leave one of them out"
        );
        assert_eq!(
            refused(|run| run.inference.samples = 5),
            "inference.samples is 5 and recipe.dropout 0: there is nothing to sample from; set recipe.dropout, such as 0.2"
        );
        let tuned = |loss: &str, epochs, lr| {
            let mut run = phantom();
            run.recipe.fine_tune = Some(FineTune {
                loss: loss.into(),
                epochs,
                lr,
            });
            format!("{:#}", run.check().unwrap_err())
        };
        assert_eq!(
            tuned("ce", 0, 0.1),
            "recipe.fine_tune.epochs is 0; expected a whole number from 1 to 1000000"
        );
        assert!(tuned("cross", 1, 0.1).starts_with("recipe.fine_tune.loss `cross`: "));
        assert!(tuned("ce", 1, -1.0).starts_with("recipe.fine_tune: "));
    }
}
