//! From preset to experiment: preset ← `--config` ← named flags ← `--set`, the later winning key by key.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use seg_unet::Precision;

use super::{Experiment, OnNan, Preset, unknown};
use crate::{
    data::{DataConfig, Layout},
    legible::legible,
    open,
};

/// What the user said, by the layer it was said in.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// `--preset`; by default `phantom` for the phantom and `paper` for everything else.
    pub preset: Option<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--data`.
    pub data: Option<String>,
    /// `--size`, as `HxW`.
    pub size: Option<String>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `--epochs`.
    pub epochs: Option<usize>,
    /// `--batch`.
    pub batch: Option<usize>,
    /// `--clip-norm`.
    pub clip_norm: Option<f64>,
    /// `--save-every`.
    pub save_every: Option<usize>,
    /// `--on-nan`.
    pub on_nan: Option<OnNan>,
    /// `--precision`.
    pub precision: Option<Precision>,
    /// `--device`.
    pub device: Option<String>,
    /// `--set`, as `key=value`.
    pub set: Vec<String>,
}

impl Layers {
    /// The experiment, with `loss` in the place of whatever loss the layers name.
    ///
    /// # Errors
    ///
    /// One sentence for what is wrong: a key that does not exist (with the nearest that does), a value of the wrong
    /// kind or out of range, a file that cannot be read.
    pub fn resolve(&self, loss: Option<&str>) -> Result<Experiment> {
        self.laid_over(loss)
            .map_err(|error| anyhow::Error::msg(legible(&format!("{error:#}"))))
    }

    fn laid_over(&self, loss: Option<&str>) -> Result<Experiment> {
        let mut config = Table::new();
        if let Some(path) = &self.config {
            let text = open::text(path).with_context(|| {
                format!("the file {} of --config cannot be read", path.display())
            })?;
            config = parse(&text).with_context(|| format!("{}", path.display()))?;
            config.remove("record");
        }
        if let Some(named) = &self.data {
            // The file's data set is another one: nothing it says of that holds for this.
            let named: DataConfig = named.parse()?;
            let said = config.get("data").and_then(|data| data.get("kind"));
            if said.is_some_and(|kind| kind.as_str() != Some(named.kind.row().name)) {
                config.remove("data");
            }
        }
        let flags = self.flags(loss)?;
        let set = self
            .set
            .iter()
            .map(|text| assignment(text))
            .collect::<Result<Vec<Table>>>()?;

        let data = self.data_set(&config)?;
        let preset = match &self.preset {
            Some(name) => name.parse()?,
            None if matches!(data.kind.row().layout, Layout::Generated) => Preset::Phantom,
            None => Preset::Paper,
        };
        let base = Table::try_from(preset.experiment(data))?;
        let mut table = base.clone();
        for layer in std::iter::once(&config).chain([&flags]).chain(&set) {
            unknown::refuse(&base, layer)?;
            merge(&mut table, layer);
        }
        if loss.is_none()
            && [&config]
                .into_iter()
                .chain(&set)
                .all(|layer| !layer.contains_key("loss"))
        {
            bail!(
                "no loss was named: give --loss SPEC, for example --loss dice++ (`seg-train losses` lists them all)"
            );
        }
        let mut experiment: Experiment = typed(table)?;
        experiment.loss = experiment.loss_spec()?.to_string();
        experiment.data = experiment.data.absolute()?;
        experiment.check()?;
        Ok(experiment)
    }

    /// The data set has to be known first, since presets take the network's size from it.
    fn data_set(&self, config: &Table) -> Result<DataConfig> {
        match (&self.data, config.get("data")) {
            (Some(text), _) => text.parse(),
            (None, Some(data)) => data
                .clone()
                .try_into()
                .map_err(|error| sentence(&error))
                .context("[data]"),
            (None, None) => "phantom".parse(),
        }
    }

    fn flags(&self, loss: Option<&str>) -> Result<Table> {
        let mut table = Table::new();
        let mut put = |key: &str, value: Value| merge(&mut table, &nested(key, value));
        if let Some(loss) = loss {
            put("loss", loss.into());
        }
        if let Some(seed) = self.seed {
            put(
                "seed",
                Value::Integer(i64::try_from(seed).context("--seed is above 2^63 - 1")?),
            );
        }
        if let Some(device) = &self.device {
            put("device", device.as_str().into());
        }
        if let Some(norm) = self.clip_norm {
            put("recipe.sgd.clip_norm", norm.into());
        }
        if let Some(on_nan) = self.on_nan {
            put("recipe.on_nan", Value::try_from(on_nan)?);
        }
        if let Some(precision) = self.precision {
            put("recipe.precision", Value::try_from(precision)?);
        }
        for (key, value) in [
            ("recipe.epochs", self.epochs),
            ("recipe.batch", self.batch),
            ("recipe.save_every", self.save_every),
        ] {
            if let Some(value) = value {
                let value =
                    i64::try_from(value).with_context(|| format!("{key} is above 2^63 - 1"))?;
                put(key, Value::Integer(value));
            }
        }
        if let Some(data) = &self.data {
            let data: DataConfig = data.parse()?;
            put("data.kind", data.kind.row().name.into());
            put("data.path", Value::try_from(&data.path)?);
        }
        if let Some(size) = &self.size {
            let [height, width] = parse_size(size)?;
            put(
                "preprocess.size",
                Value::Array(vec![Value::Integer(height), Value::Integer(width)]),
            );
        }
        Ok(table)
    }
}

/// `256x384` is a height of 256 and a width of 384.
fn parse_size(text: &str) -> Result<[i64; 2]> {
    let sides = text
        .split_once(['x', '×'])
        .map(|(height, width)| (height.parse(), width.parse()));
    match sides {
        Some((Ok(height), Ok(width))) if height > 0 && width > 0 => Ok([height, width]),
        _ => bail!("--size is `{text}`; expected height and width in pixels, such as 256x384"),
    }
}

/// Parses TOML; a syntax error becomes one line with its place.
pub(crate) fn parse(text: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            1 + text.get(..span.start).unwrap_or(text).matches('\n').count()
        });
        anyhow::anyhow!("line {line}: {}", error.message())
    })
}

/// Reads a value from its table; an error becomes one line with the key it is about.
pub(crate) fn typed<T: DeserializeOwned>(table: Table) -> Result<T> {
    table.try_into().map_err(|error| sentence(&error))
}

/// Serde's error on one line: what was wrong, then `in` the key.
fn sentence(error: &toml::de::Error) -> anyhow::Error {
    let text = error.to_string();
    anyhow::anyhow!("{}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Parts of a key, more than any has.
const MOST_PARTS: usize = 8;

/// Reads `key=value`. The value is TOML; a bare word is taken as a string.
fn assignment(text: &str) -> Result<Table> {
    let Some((key, value)) = text
        .split_once('=')
        .map(|(key, value)| (key.trim(), value.trim()))
    else {
        bail!("--set {text}: expected KEY=VALUE, such as unet.width=16");
    };
    if ["unet.in_channels", "unet.classes"].contains(&key) {
        bail!("--set {text}: {key} follows from the data set and cannot be set");
    }
    // Before it becomes tables within tables, which would be as deep.
    let parts = key.split('.').count();
    if parts > MOST_PARTS {
        bail!(
            "--set: found a key of {parts} parts; expected at most {MOST_PARTS}, such as recipe.sgd.lr"
        );
    }
    let parsed = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    Ok(nested(key, parsed.unwrap_or_else(|| value.into())))
}

/// `a.b = value` as tables within tables.
fn nested(key: &str, value: Value) -> Table {
    match key.split_once('.') {
        None => Table::from_iter([(key.to_owned(), value)]),
        Some((first, rest)) => {
            Table::from_iter([(first.to_owned(), Value::Table(nested(rest, value)))])
        }
    }
}

/// Lays one table over another, key by key.
fn merge(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::calibration_term::CalibrationTerm;

    fn with_set(set: &[&str]) -> Result<Experiment> {
        Layers {
            set: set.iter().map(ToString::to_string).collect(),
            ..Layers::default()
        }
        .resolve(Some("dice++"))
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        fs::write(
            &path,
            "seed = 1\nloss = \"ce\"\n[recipe]\nepochs = 11\nbatch = 3\n",
        )
        .unwrap();
        let layers = Layers {
            config: Some(path),
            epochs: Some(12),
            size: Some("32x48".into()),
            set: vec!["recipe.batch=5".into(), "augment.outside=no-class".into()],
            ..Layers::default()
        };
        let experiment = layers.resolve(Some("dsc")).unwrap();
        assert_eq!(experiment.seed, 1);
        assert!(experiment.loss.starts_with("dice:"), "{}", experiment.loss);
        assert_eq!((experiment.recipe.epochs, experiment.recipe.batch), (12, 5));
        assert_eq!(experiment.preprocess.size, [32, 48]);
    }

    #[test]
    fn a_data_set_that_is_named_takes_the_place_of_the_files_own() {
        let dir = tempfile::tempdir().unwrap();
        let with_config = |text: &str, data: &str| {
            let path = dir.path().join("mine.toml");
            fs::write(&path, text).unwrap();
            let layers = Layers {
                config: Some(path),
                data: Some(data.into()),
                ..Layers::default()
            };
            layers.resolve(Some("ce")).unwrap().data
        };
        // A run.toml of the phantom, and another kind: nothing of the phantom is left.
        let run = Preset::Phantom.experiment("phantom".parse().unwrap());
        let data = with_config(&run.to_toml().unwrap(), "folder:/two");
        assert_eq!(data, "folder:/two".parse().unwrap());
        // The same kind elsewhere: how its files are read holds there too.
        let folder = "[data]\nkind = 'folder'\npath = '/one'\nmask = 'classes'\nclasses = 4\n";
        let data = with_config(folder, "folder:/two");
        assert_eq!((data.classes, data.path), (4, PathBuf::from("/two")));
    }

    #[test]
    fn a_relative_path_becomes_absolute_so_that_a_run_can_be_resumed_from_anywhere() {
        let layers = Layers {
            data: Some("folder:pairs".into()),
            ..Layers::default()
        };
        let path = layers.resolve(Some("ce")).unwrap().data.path;
        assert_eq!(path, std::env::current_dir().unwrap().join("pairs"));
    }

    #[test]
    fn without_a_flag_the_loss_comes_from_the_file_or_is_asked_for() {
        let set = Layers {
            set: vec!["loss=ce".into()],
            ..Layers::default()
        };
        assert!(set.resolve(None).unwrap().loss.starts_with("cross-entropy"));
        assert_eq!(
            Layers::default().resolve(None).unwrap_err().to_string(),
            "no loss was named: give --loss SPEC, for example --loss dice++ (`seg-train losses` lists them all)"
        );
    }

    #[test]
    fn a_method_of_training_is_set_by_its_key_though_no_preset_has_it() {
        let recipe = |set: &[&str]| with_set(set).unwrap().recipe;
        let found = recipe(&[
            "recipe.label_smoothing=0.1",
            "recipe.dropout=0.25",
            "recipe.watch=true",
        ]);
        assert_eq!(
            (found.label_smoothing, found.dropout, found.watch),
            (0.1, 0.25, true)
        );
        let term = |weight, bins| Some(CalibrationTerm { weight, bins });
        assert_eq!(recipe(&[]).calibration_term, None);
        for (set, expected) in [
            (&["recipe.calibration_term={weight=0.5}"][..], term(0.5, 15)),
            (&["recipe.calibration_term.weight=2"], term(2.0, 15)),
            (
                &[
                    "recipe.calibration_term.bins=20",
                    "recipe.calibration_term.weight=1",
                ],
                term(1.0, 20),
            ),
        ] {
            assert_eq!(recipe(set).calibration_term, expected, "{set:?}");
        }
        let refused = |set: &str| with_set(&[set]).unwrap_err().to_string();
        assert_eq!(
            refused("recipe.calibration_term.bins=20"),
            "missing field `weight` in `recipe.calibration_term`"
        );
        assert!(
            refused("recipe.calibration_term.share=1")
                .starts_with("unknown key `recipe.calibration_term.share`;")
        );
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (set, expected) in [
            (
                "unet.width",
                "--set unet.width: expected KEY=VALUE, such as unet.width=16",
            ),
            (
                "unet.classes=3",
                "--set unet.classes=3: unet.classes follows from the data set and cannot be set",
            ),
            (
                "recipe.epochs=many",
                "invalid type: string \"many\", expected usize in `recipe.epochs`",
            ),
            (
                "recipe.sgd.lr=-1",
                "recipe.sgd: the learning rate is -1; it must be positive",
            ),
            (
                "recipe.plateau.factor=1",
                "recipe.plateau: factor is 1; expected a number between 0 and 1",
            ),
            (
                "recipe.plateau.min_lr=nan",
                "recipe.plateau: min_lr is NaN; expected a finite number, at least 0",
            ),
            (
                "recipe.plateau.min_delta=inf",
                "recipe.plateau: min_delta is inf; expected a finite number, at least 0",
            ),
            (
                "recipe.stopping.min_delta=nan",
                "recipe.stopping: min_delta is NaN; expected a finite number, at least 0",
            ),
            (
                "recipe.sgd.lr=inf",
                "recipe.sgd: the learning rate is inf; it must be positive",
            ),
            (
                "preprocess.size=[1000000000, 1000000000]",
                "size 1000000000x1000000000 is too large; expected at most 2^26 pixels, such as 8192x8192",
            ),
            (
                "data.phantom.train=1000000000000000",
                "data.phantom.train is 1000000000000000; expected a whole number from 1 to 1000000",
            ),
            (
                "metrics.bins=1000000000000",
                "metrics.bins is 1000000000000; expected a whole number from 1 to 10000",
            ),
            (
                "augment.mirror=3",
                "augment: mirror = 3: a probability lies within 0 and 1",
            ),
            (
                "metrics.bins=0",
                "metrics.bins is 0; expected a whole number from 1 to 10000",
            ),
            (
                "data.phantom.noise=-3",
                "the phantom's noise is -3; it must be from 0 to 255",
            ),
            (
                "data.phantom.val=0",
                "data.phantom.val is 0; expected a whole number from 1 to 1000000",
            ),
            ("lr=1", "unknown key `lr`; did you mean `recipe.sgd.lr`?"),
            (
                "recipe.batch=0",
                "recipe.batch is 0; expected a whole number from 1 to 65536",
            ),
        ] {
            assert_eq!(
                format!("{:#}", with_set(&["recipe.epochs=7", set]).unwrap_err()),
                expected
            );
        }
        let layers = Layers {
            size: Some("256".into()),
            ..Layers::default()
        };
        assert_eq!(
            layers.resolve(Some("ce")).unwrap_err().to_string(),
            "--size is `256`; expected height and width in pixels, such as 256x384"
        );
    }

    #[test]
    fn an_error_stays_on_one_line_whatever_was_found() {
        for (set, sentence) in [
            (
                "a\nb=1",
                r"unknown key `a\nb`; the keys here are `augment`, `data`, `device`, `loss`, `metrics`, `preprocess`, `recipe`, `seed`, `unet`",
            ),
            (
                "device=\u{1b}[2J",
                r"unknown device `\u{1b}[2J`; expected cpu, cuda or cuda:N",
            ),
        ] {
            assert_eq!(with_set(&[set]).unwrap_err().to_string(), sentence);
        }
        let text = with_set(&[]).unwrap().to_toml().unwrap();
        let text = text.replace("\"cpu\"", r#""\u0007""#);
        assert_eq!(
            Experiment::from_toml(&text).unwrap_err().to_string(),
            r"unknown device `\u{7}`; expected cpu, cuda or cuda:N"
        );
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        assert!(
            parse("seed = 1\nloss = \n")
                .unwrap_err()
                .to_string()
                .starts_with("line 2: ")
        );
    }
}
