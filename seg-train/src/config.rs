//! An experiment as a value: data set × loss × network × recipe × seed × device, and how the command line makes one.
//!
//! Its TOML is complete, and a key it does not know is an error. What a run used stands in its `run.toml`, defaults
//! included, so that a default that changes later changes no result that was reported.

mod differences;
mod layers;
mod preset;
mod stages;
mod unknown;

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use dice_losses::{LossSpec, Prediction, Target};
use seg_unet::{Precision, UNetConfig};
use serde::{Deserialize, Serialize};

pub(crate) use self::layers::{parse, typed};
pub use self::{
    differences::Difference,
    layers::Layers,
    preset::Preset,
    stages::{FIRST, member_folder},
};
use crate::{
    augment::Augment,
    calibration_term::CalibrationTerm,
    data::{DataConfig, Dataset, Layout},
    dropout,
    inference::InferenceConfig,
    legible::legible,
    metrics::MetricsConfig,
    open,
    optim::{Sgd, SgdConfig},
    preprocess::Preprocess,
    schedule::{EarlyStoppingConfig, ReduceLrOnPlateauConfig},
};

/// All that decides a run's numbers.
///
/// ```
/// use seg_train::config::{Experiment, Preset};
/// let experiment = Experiment { loss: "dice++:gamma=2".into(), ..Preset::Phantom.experiment("phantom".parse()?) };
/// let text = experiment.to_toml()?;
/// assert_eq!(Experiment::from_toml(&text)?, experiment);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The loss, as `dice_losses::LossSpec` reads it.
    pub loss: String,
    /// Seed of the split, the weights, the order and the augmentation.
    pub seed: u64,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Where the images come from.
    pub data: DataConfig,
    /// What is done to every image.
    pub preprocess: Preprocess,
    /// What is done to training images besides.
    pub augment: Augment,
    /// The network; its channels and classes follow from the data set.
    pub unet: UNetConfig,
    /// How it is trained.
    pub recipe: Recipe,
    /// How it is measured.
    pub metrics: MetricsConfig,
    /// How trained weights become probabilities.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inference: InferenceConfig,
}

/// How long and with which steps a network is trained. The default is the authors'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Epochs at most.
    pub epochs: usize,
    /// Images a step; the last step of an epoch takes what is left.
    pub batch: usize,
    /// The steps.
    pub sgd: SgdConfig,
    /// When the learning rate falls.
    pub plateau: ReduceLrOnPlateauConfig,
    /// When training ends before the last epoch.
    pub stopping: EarlyStoppingConfig,
    /// Steps of an epoch after which the state is written, besides after the epoch; 0: after the epoch only.
    #[serde(skip_serializing_if = "is_default")]
    pub save_every: usize,
    /// What is done about a loss that is no number.
    #[serde(skip_serializing_if = "is_default")]
    pub on_nan: OnNan,
    /// The numbers that a GPU computes the network in; the CPU knows f32 alone.
    #[serde(skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// The number of this network among those of an ensemble ([`InferenceConfig::members`]): each has weights, an order
    /// of images and an augmentation of its own, and all have one split of the data set.
    #[serde(skip_serializing_if = "is_default")]
    pub member: u64,
    /// Further epochs with another loss, from the best weights of those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fine_tune: Option<FineTune>,
    /// ε of label smoothing, `[0, 1)`: the true class counts `1 − ε + ε / C` in training, any other `ε / C`.
    #[serde(skip_serializing_if = "is_default")]
    pub label_smoothing: f64,
    /// Average calibration error, added to the loss.
    #[serde(skip_serializing_if = "is_default")]
    pub calibration_term: Option<CalibrationTerm>,
    /// The rate of channel dropout in training, `[0, 1)`.
    #[serde(skip_serializing_if = "is_default")]
    pub dropout: f64,
    /// Whether the gradient's norms are written for each step, to `steps.csv`; no number of the run depends on it.
    #[serde(skip_serializing_if = "is_default")]
    pub watch: bool,
}

/// Training that goes on with another loss, such as cross-entropy after Dice (Rousseau et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// The loss, as `dice_losses::LossSpec` reads it.
    pub loss: String,
    /// Epochs at most.
    pub epochs: usize,
    /// The learning rate of the first of them.
    pub lr: f64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is done about a loss, or with clipping a gradient, that is NaN or infinite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnNan {
    /// The run stops there; its last state stays.
    #[default]
    Stop,
    /// The step is left out and counted; the weights stay as they were.
    Skip,
}

impl Recipe {
    /// What the types of the ways to better calibration cannot say; `on_cuda` where the device is CUDA's.
    fn check(&self, on_cuda: bool) -> Result<()> {
        if !(0.0..1.0).contains(&self.label_smoothing) {
            bail!(
                "recipe.label_smoothing is {}; expected a number from 0 to below 1, such as 0.1",
                self.label_smoothing
            );
        }
        if let Some(term) = &self.calibration_term {
            term.check().context("recipe.calibration_term")?;
        }
        dropout::check(self.dropout).context("recipe.dropout")?;
        let for_cpu = [
            ("label_smoothing", self.label_smoothing != 0.0),
            ("calibration_term", self.calibration_term.is_some()),
            ("dropout", self.dropout != 0.0),
            ("watch", self.watch),
        ];
        if let Some((key, _)) = for_cpu.iter().find(|(_, is_set)| on_cuda && *is_set) {
            bail!(
                "recipe.{key} is set and the device is cuda, whose training step does not know it; train with --device cpu, \
                 or leave recipe.{key} out"
            );
        }
        Ok(())
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 1000,
            batch: 1,
            sgd: SgdConfig::default(),
            plateau: ReduceLrOnPlateauConfig::default(),
            stopping: EarlyStoppingConfig::default(),
            save_every: 0,
            on_nan: OnNan::Stop,
            precision: Precision::F32,
            member: 0,
            fine_tune: None,
            label_smoothing: 0.0,
            calibration_term: None,
            dropout: 0.0,
            watch: false,
        }
    }
}

impl Experiment {
    /// The experiment in TOML, every key of it.
    ///
    /// # Errors
    ///
    /// When a value has no TOML form, such as a path that is not Unicode.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("the experiment cannot be written as TOML")
    }

    /// Reads a complete experiment. The `[record]` that a run folder adds is passed over.
    ///
    /// # Errors
    ///
    /// Syntax errors, missing and unknown keys, values out of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::typed(text).map_err(|error| anyhow::Error::msg(legible(&format!("{error:#}"))))
    }

    fn typed(text: &str) -> Result<Self> {
        let mut table = layers::parse(text)?;
        table.remove("record");
        let experiment: Self = layers::typed(table)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Reads a complete experiment from a file.
    ///
    /// # Errors
    ///
    /// Those of [`from_toml`](Self::from_toml), and a file that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            open::text(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::from_toml(&text).with_context(|| format!("{}", path.display()))
    }

    /// The loss.
    ///
    /// # Errors
    ///
    /// When the zoo has no such loss or a parameter is out of range; the message names the remedy.
    pub fn loss_spec(&self) -> Result<LossSpec> {
        Ok(self.loss.parse()?)
    }

    /// The device to train on.
    ///
    /// # Errors
    ///
    /// When there is no such device, or this program was built without support for it.
    pub fn open_device(&self) -> Result<Device> {
        open_device(&self.device)
    }

    /// Whether the loss can be taken of the network's output, which is known once the data set is: tried on one pixel.
    ///
    /// # Errors
    ///
    /// When it cannot, such as a weight a class for another number of classes.
    pub fn check_loss(&self) -> Result<()> {
        let logits = Tensor::zeros((1, self.unet.classes, 1, 1), DType::F32, &Device::Cpu)?;
        let labels = Tensor::zeros((1, 1, 1), DType::U8, &Device::Cpu)?;
        self.loss_spec()?
            .build()
            .value_and_grad(&Prediction::logits(&logits), &Target::labels(&labels))
            .with_context(|| {
                format!(
                    "--loss {} does not fit the {} classes of {}",
                    self.loss, self.unet.classes, self.data
                )
            })?;
        Ok(())
    }

    /// What a type cannot say: sizes that the network can halve, counts above zero, a loss that exists.
    pub(crate) fn check(&self) -> Result<()> {
        self.loss_spec()?;
        if device_number(&self.device)?.is_none() && self.recipe.precision != Precision::F32 {
            bail!(
                "recipe.precision is {} and the device is cpu, which computes in f32; train with --device cuda, or leave --precision out",
                self.recipe.precision
            );
        }
        self.recipe.check(is_cuda(&self.device))?;
        self.unet.validate()?;
        let multiple = self.unet.size_multiple();
        let [height, width] = self.preprocess.size;
        if height == 0 || width == 0 || height % multiple != 0 || width % multiple != 0 {
            bail!(
                "size {height}x{width} does not fit the network: a depth of {} halves it that often, so height and width must be multiples of {multiple}",
                self.unet.depth
            );
        }
        self.check_counts()?;
        Sgd::new(&self.recipe.sgd, &[]).context("recipe.sgd")?;
        self.check_stages()?;
        self.recipe.plateau.check().context("recipe.plateau")?;
        self.recipe.stopping.check().context("recipe.stopping")?;
        self.augment.check().context("augment")?;
        self.data.check()?;
        if matches!(self.data.kind.row().layout, Layout::Generated) {
            // Whether settings make an image, making one tells.
            Dataset::open(&self.data, self.seed)?
                .at_size(self.preprocess.size)
                .load(0)?;
        }
        Ok(())
    }

    /// Counts that are above zero, and no larger than anyone needs: memory is taken by them.
    fn check_counts(&self) -> Result<()> {
        let [height, width] = self.preprocess.size;
        if height.saturating_mul(width) > PIXELS {
            bail!(
                "size {height}x{width} is too large; expected at most 2^26 pixels, such as 8192x8192"
            );
        }
        let values = height * width * self.unet.width;
        if values > VALUES {
            bail!(
                "size {height}x{width} makes {values} values of unet.width = {}; expected at most 2^32, 16 GiB in f32: take \
                 a smaller size or width",
                self.unet.width
            );
        }
        let mut counts = vec![
            ("recipe.epochs", self.recipe.epochs, 1, 1_000_000),
            ("recipe.batch", self.recipe.batch, 1, 65_536),
            (
                "recipe.save_every",
                self.recipe.save_every,
                0,
                1_000_000_000,
            ),
            ("metrics.bins", self.metrics.bins, 1, 10_000),
            ("metrics.boundary", self.metrics.boundary, 0, 65_536),
        ];
        if let Some(phantom) = &self.data.phantom {
            counts.extend([
                ("data.phantom.train", phantom.train, 1, 1_000_000),
                ("data.phantom.val", phantom.val, 1, 1_000_000),
                ("data.phantom.test", phantom.test, 1, 1_000_000),
                ("data.phantom.structures", phantom.structures, 0, 10_000),
                ("data.phantom.distractors", phantom.distractors, 0, 10_000),
            ]);
        }
        for (key, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                bail!("{key} is {value}; expected a whole number from {least} to {most}");
            }
        }
        self.metrics.check_lengths()
    }
}

/// Pixels of an image at most: far above any use, and a slip of the keyboard fills no memory.
const PIXELS: usize = 1 << 26;

/// Values of the network's finest maps at most, a few of which are held at once.
const VALUES: usize = 1 << 32;

/// `None` for the CPU, else the number of the CUDA device.
pub(crate) fn device_number(name: &str) -> Result<Option<usize>> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(None),
        None if name == "cuda" => Ok(Some(0)),
        Some(("cuda", number)) if number.parse::<usize>().is_ok() => Ok(number.parse().ok()),
        _ => bail!("unknown device `{name}`; expected cpu, cuda or cuda:N"),
    }
}

/// Whether a device is one of CUDA's, by its name.
pub(crate) fn is_cuda(name: &str) -> bool {
    name == "cuda" || name.starts_with("cuda:")
}

/// Opens `cpu`, `cuda` or `cuda:N`. Each call gives a CUDA device a stream of its own: trainings side by side on one GPU
/// open it once each.
///
/// # Errors
///
/// When there is no such device, or this program was built without support for it.
pub fn open_device(name: &str) -> Result<Device> {
    match device_number(name)? {
        None => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        Some(number) => crate::cuda::device::open(name, number),
        #[cfg(not(feature = "cuda"))]
        Some(_) => Err(without_cuda(name)),
    }
}

/// What is said where CUDA is asked for and not built in.
#[cfg(not(feature = "cuda"))]
pub(crate) fn without_cuda(name: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "device `{name}` needs CUDA, and this program was built without it; build with `--features cuda`, or use --device cpu"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phantom() -> Experiment {
        Preset::Phantom.experiment("phantom".parse().unwrap())
    }

    #[test]
    fn every_preset_reads_back_what_it_wrote() {
        for (preset, data) in [
            (Preset::Phantom, "phantom"),
            (Preset::Paper, "drive:/d"),
            (Preset::Authors, "dsb2018:/d"),
            (Preset::Cpu, "chase-db1:/d"),
        ] {
            let experiment = preset.experiment(data.parse().unwrap());
            let text = experiment.to_toml().unwrap();
            assert_eq!(
                Experiment::from_toml(&text).unwrap(),
                experiment,
                "{preset:?}"
            );
        }
    }

    #[test]
    fn a_record_is_passed_over() {
        let text = phantom().to_toml().unwrap() + "\n[record]\nseg_train = \"0.0.1\"\n";
        assert_eq!(Experiment::from_toml(&text).unwrap(), phantom());
    }

    #[test]
    fn a_size_the_network_cannot_halve_is_refused() {
        let mut experiment = phantom();
        experiment.unet.depth = 4;
        experiment.preprocess.size = [64, 40];
        assert_eq!(
            experiment.check().unwrap_err().to_string(),
            "size 64x40 does not fit the network: a depth of 4 halves it that often, so height and width must be multiples of 16"
        );
    }

    #[test]
    fn a_method_is_in_the_toml_where_it_is_asked_for_and_nowhere_else() {
        let plain = phantom().to_toml().unwrap();
        for key in ["label_smoothing", "calibration_term", "dropout", "watch"] {
            assert!(!plain.contains(key), "{key}");
        }
        let mut experiment = phantom();
        experiment.recipe.label_smoothing = 0.1;
        experiment.recipe.calibration_term = Some(CalibrationTerm {
            weight: 0.5,
            bins: 20,
        });
        experiment.recipe.dropout = 0.25;
        experiment.recipe.watch = true;
        let text = experiment.to_toml().unwrap();
        assert_eq!(Experiment::from_toml(&text).unwrap(), experiment);
    }

    #[test]
    fn a_method_out_of_its_range_is_refused() {
        let refused = |change: &dyn Fn(&mut Recipe)| {
            let mut experiment = phantom();
            change(&mut experiment.recipe);
            format!("{:#}", experiment.check().unwrap_err())
        };
        for epsilon in [1.0, -0.1, f64::NAN] {
            assert_eq!(
                refused(&|recipe| recipe.label_smoothing = epsilon),
                format!(
                    "recipe.label_smoothing is {epsilon}; expected a number from 0 to below 1, such as 0.1"
                )
            );
        }
        let term = |weight, bins| {
            refused(&|recipe| recipe.calibration_term = Some(CalibrationTerm { weight, bins }))
        };
        assert_eq!(
            term(0.0, 15),
            "recipe.calibration_term: weight is 0; expected a finite number above 0, or leave the term out"
        );
        assert_eq!(
            term(1.0, 0),
            "recipe.calibration_term: bins is 0; expected a whole number from 1 to 10000"
        );
        assert_eq!(
            refused(&|recipe| recipe.dropout = 1.0),
            "recipe.dropout: the rate of dropout is 1; expected a number from 0 to below 1"
        );
    }

    #[test]
    fn a_method_of_the_cpu_is_refused_on_cuda() {
        let all = Recipe {
            label_smoothing: 0.1,
            calibration_term: Some(CalibrationTerm {
                weight: 1.0,
                bins: 15,
            }),
            dropout: 0.1,
            watch: true,
            ..Recipe::default()
        };
        let all = toml::Table::try_from(&all).unwrap();
        for key in ["label_smoothing", "calibration_term", "dropout", "watch"] {
            let one = toml::Table::from_iter([(key.to_owned(), all[key].clone())]);
            let mut experiment = phantom();
            experiment.recipe = one.try_into().unwrap();
            experiment.check().unwrap();
            experiment.device = "cuda:1".into();
            assert_eq!(
                experiment.check().unwrap_err().to_string(),
                format!(
                    "recipe.{key} is set and the device is cuda, whose training step does not know it; train with \
                     --device cpu, or leave recipe.{key} out"
                )
            );
        }
    }

    #[test]
    fn an_unknown_device_names_the_known_ones() {
        assert_eq!(
            open_device("gpu").unwrap_err().to_string(),
            "unknown device `gpu`; expected cpu, cuda or cuda:N"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_without_support_names_the_remedy() {
        assert_eq!(
            open_device("cuda:1").unwrap_err().to_string(),
            "device `cuda:1` needs CUDA, and this program was built without it; build with `--features cuda`, or use --device cpu"
        );
    }
}
