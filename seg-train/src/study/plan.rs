//! From grids to runs: which experiments are trained, each once however many tables it stands in.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use seg_unet::Precision;
use serde::{Deserialize, Serialize};

use super::{
    grid::Grid,
    queue::DONE,
    sources::{Missing, Sources},
};
use crate::{
    config::{Experiment, Layers, Preset},
    data::{DataConfig, Dataset},
    inference::InferenceConfig,
    open,
    run_folder::{Parts, RunFolder, data_set::FILES},
    state::{Best, STATE},
    store,
};

/// What is to be run and reported; in its folder it is `plan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for: `all`, `table3`, or the name of a user's file.
    pub what: String,
    /// The command that made it, word by word.
    pub command: Vec<String>,
    /// The preset that every experiment starts from; none: its own.
    pub preset: Option<String>,
    /// The grids and the runs of each.
    pub grids: Vec<PlannedGrid>,
    /// The runs, each once, in the order they are made: all with the first seed before any with the second.
    pub runs: Vec<PlannedRun>,
    /// Data sets that are not there.
    pub missing: Vec<Missing>,
}

/// A grid at its scale, and its cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedGrid {
    /// The name of its file.
    pub name: String,
    /// The grid.
    pub grid: Grid,
    /// A run each; of data sets that are missing there are none.
    pub cells: Vec<Cell>,
}

/// One point of a grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The data set, as the grid names it.
    pub data: String,
    /// The number of the loss in the grid.
    pub loss: usize,
    /// The name of the setting, where the grid has any.
    pub setting: Option<String>,
    /// The seed.
    pub seed: u64,
    /// The name of the run.
    pub run: String,
}

/// A run that is to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedRun {
    /// The name of its folder.
    pub name: String,
    /// All of it.
    pub experiment: Experiment,
    /// How it differs from what the paper did; none where it does not.
    pub reduced: Option<String>,
    /// Images to train, validate and test on.
    pub images: [usize; 3],
}

/// Grids by name, in the order they are reported.
pub type NamedGrids = Vec<(String, Grid)>;

/// What the command line says besides the grids.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// What is asked for.
    pub what: String,
    /// The command.
    pub command: Vec<String>,
    /// The scale: what the grids' `at` is looked up by.
    pub scale: Option<String>,
    /// The preset that experiments start from, before the grids' own.
    pub preset: Option<String>,
    /// Where data sets are.
    pub sources: Sources,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: Option<String>,
    /// `--precision`.
    pub precision: Option<Precision>,
    /// Keys of the experiment, after those of the grids.
    pub set: Vec<String>,
    /// Seeds in the place of the grids'.
    pub seeds: Vec<u64>,
}

impl Plan {
    /// Resolves every cell of every grid.
    ///
    /// # Errors
    ///
    /// A cell that makes no experiment; the sentence names the grid.
    pub fn of(grids: NamedGrids, wishes: &Wishes) -> Result<Self> {
        let mut plan = Self {
            what: wishes.what.clone(),
            command: wishes.command.clone(),
            preset: wishes.preset.clone(),
            grids: Vec::new(),
            runs: Vec::new(),
            missing: Vec::new(),
        };
        let mut found = BTreeMap::new();
        let mut ranked = Vec::new();
        for (name, grid) in grids {
            let scale = wishes.scale.clone().or_else(|| grid.preset.clone());
            let grid = grid.at_scale(&scale.unwrap_or_default());
            let cells = plan
                .cells(&grid, wishes, &mut found, &mut ranked)
                .with_context(|| format!("the grid {name}"))?;
            plan.grids.push(PlannedGrid { name, grid, cells });
        }
        // Stable: within a rank of seeds the order of the grids stays, but that what is made of another run's training comes
        // after it.
        ranked.sort_by_key(|(rank, run)| {
            let Experiment {
                recipe, inference, ..
            } = &run.experiment;
            let shares = *inference != InferenceConfig::default() || recipe.fine_tune.is_some();
            (*rank, shares)
        });
        plan.runs = ranked.into_iter().map(|(_, run)| run).collect();
        Ok(plan)
    }

    fn cells(
        &mut self,
        grid: &Grid,
        wishes: &Wishes,
        found: &mut BTreeMap<String, Option<DataConfig>>,
        ranked: &mut Vec<(usize, PlannedRun)>,
    ) -> Result<Vec<Cell>> {
        let seeds = if wishes.seeds.is_empty() {
            &grid.seeds
        } else {
            &wishes.seeds
        };
        let mut cells = Vec::new();
        for data in &grid.data {
            if !found.contains_key(data) {
                let config = match wishes.sources.find(data)? {
                    Ok(config) => Some(config),
                    Err(missing) => {
                        self.missing.push(missing);
                        None
                    }
                };
                found.insert(data.clone(), config);
            }
            let Some(Some(config)) = found.get(data) else {
                continue;
            };
            for (rank, &seed) in seeds.iter().enumerate() {
                let opened = Dataset::open(config, seed)?;
                // What settings make of it, each opened once: telling the stains of images apart takes decoding them all.
                let mut reread: Vec<(DataConfig, Dataset)> = Vec::new();
                for (loss, entry) in grid.losses.iter().enumerate() {
                    for setting in grid.setting_names() {
                        let layers = Layers {
                            preset: wishes.preset.clone().or_else(|| grid.preset.clone()),
                            data: Some(config.to_string()),
                            seed: Some(seed),
                            device: wishes.device.clone(),
                            precision: wishes.precision,
                            set: [
                                grid.assignments(setting),
                                entry.assignments(),
                                wishes.set.clone(),
                            ]
                            .concat(),
                            ..Layers::default()
                        };
                        let mut experiment = layers.resolve(Some(&entry.loss))?;
                        // Settings may change how a data set is read: channels, classes, what the phantom is made of.
                        let known = |(other, _): &&(DataConfig, Dataset)| *other == experiment.data;
                        let read = if experiment.data == *config {
                            opened.clone()
                        } else if let Some((_, read)) = reread.iter().find(known) {
                            read.clone()
                        } else {
                            let read = Dataset::open(&experiment.data, seed)?;
                            reread.push((experiment.data.clone(), read.clone()));
                            read
                        };
                        experiment.unet.in_channels = read.channels;
                        experiment.unet.classes = read.classes;
                        experiment.check_loss()?;
                        let run = PlannedRun {
                            name: name(&experiment)?,
                            reduced: reduced(&experiment)?,
                            images: [&read.split.train, &read.split.val, &read.split.test]
                                .map(Vec::len),
                            experiment,
                        };
                        cells.push(Cell {
                            data: data.clone(),
                            loss,
                            setting: setting.map(Into::into),
                            seed,
                            run: run.name.clone(),
                        });
                        if !ranked.iter().any(|(_, known)| known.name == run.name) {
                            ranked.push((rank, run));
                        }
                    }
                }
            }
        }
        Ok(cells)
    }

    /// Writes `plan.json`, and beside each run's folder its experiment: `runs/NAME.toml`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn write(&self, out: &Path) -> Result<()> {
        let runs = out.join("runs");
        store::create_folder(&runs)?;
        for run in &self.runs {
            store::write(
                &experiment_file(out, &run.name),
                run.experiment.to_toml()?.as_bytes(),
            )?;
        }
        // Last: with it the folder is a grid's.
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        store::write(&out.join("plan.json"), text.as_bytes())
    }

    /// Reads `plan.json`.
    ///
    /// # Errors
    ///
    /// When there is none in the folder, or another version of the program wrote it.
    pub fn read(out: &Path) -> Result<Self> {
        let path = out.join("plan.json");
        if !path.is_file() {
            bail!(
                "{} holds no grid of experiments: it has no plan.json; name a folder that `seg-train reproduce` or `seg-train sweep` made",
                out.display()
            );
        }
        let text =
            open::record(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is no plan of this version; make it anew",
                path.display()
            )
        })
    }

    /// A run by its name.
    pub fn run(&self, name: &str) -> Option<&PlannedRun> {
        self.runs.iter().find(|run| run.name == name)
    }
}

/// The experiment of a run, as the plan wrote it.
pub fn experiment_file(out: &Path, run: &str) -> PathBuf {
    out.join("runs").join(format!("{run}.toml"))
}

/// The folder of a run.
pub fn run_folder(out: &Path, run: &str) -> PathBuf {
    out.join("runs").join(run)
}

/// An experiment without where its data set lies: one of known layout is the same wherever it was unpacked to, which its
/// names of images, kept in `split.json`, bear out.
fn anywhere(experiment: &Experiment) -> Experiment {
    let mut same = experiment.clone();
    if same.data.kind.row().name != "folder" {
        same.data.path = PathBuf::new();
    }
    same
}

/// Whether two experiments are the same wherever the data set lies.
pub fn is_same(one: &Experiment, other: &Experiment) -> bool {
    anywhere(one) == anywhere(other)
}

/// Takes over the training of another run of the grid, where one is done that was made from the same experiment: runs that
/// differ in what becomes of their weights alone, such as a scaling, share it, and its bits are those that training anew
/// would give. `beside` is the folder of the grid's runs.
///
/// # Errors
///
/// When a file cannot be read or written.
pub fn adopt(folder: &RunFolder, experiment: &Experiment, beside: Option<&Path>) -> Result<()> {
    // The state is written last: with it a training has been taken over whole, or was begun here.
    let (Some(runs), false) = (beside, folder.file(STATE).exists()) else {
        return Ok(());
    };
    let mut names: Vec<PathBuf> = fs::read_dir(runs)?
        .flatten()
        .map(|run| run.path())
        .collect();
    names.sort();
    let done = |run: &&PathBuf| run.join(DONE).is_file() && *run != folder.path();
    for run in names.iter().filter(done) {
        let other = RunFolder::open(run)?;
        let made = other.experiment()?;
        let is_it = is_same(&made.training(), &experiment.training())
            && Parts::read(&other)? == Parts::read(folder)?
            && open::record(&other.file(FILES)).ok() == open::record(&folder.file(FILES)).ok();
        if is_it {
            for file in [Best::NAME, "log.jsonl", STATE] {
                folder.write(file, &fs::read(other.file(file))?)?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// The name of a run's folder: data set, loss, seed, and eight digits that differ where anything else of the experiment
/// does, but for where a known data set lies.
fn name(experiment: &Experiment) -> Result<String> {
    let spec = experiment.loss_spec()?;
    let gamma = spec
        .gamma()
        .map_or(String::new(), |gamma| gamma.to_string());
    Ok(format!(
        "{}-{}{gamma}-{}-{:08x}",
        experiment.data.kind,
        spec.name(),
        experiment.seed,
        fingerprint(anywhere(experiment).to_toml()?.as_bytes())
    ))
}

/// FNV-1a, folded to 32 bits: the standard library's hashes may change between its versions, and a name may not.
fn fingerprint(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

/// How an experiment differs from what the paper did with its data set; none where it does not, by the text or by the
/// authors' code. Smaller images and networks and fewer epochs come first.
fn reduced(experiment: &Experiment) -> Result<Option<String>> {
    let Experiment {
        preprocess,
        unet,
        recipe,
        ..
    } = experiment;
    let mut fewest: Option<Vec<String>> = None;
    for preset in [Preset::Paper, Preset::Authors] {
        let keys = differing(experiment, &preset.experiment(experiment.data.clone()))?;
        if fewest
            .as_ref()
            .is_none_or(|fewest| keys.len() < fewest.len())
        {
            fewest = Some(keys);
        }
    }
    let mut keys = fewest.unwrap_or_default();
    let mut said = Vec::new();
    let mut say = |names: &[&str], words: String| {
        let before = keys.len();
        keys.retain(|key| !names.contains(&&key[..]));
        if keys.len() < before {
            said.push(words);
        }
    };
    let [height, width] = preprocess.size;
    say(&["preprocess.size"], format!("{height} × {width} pixels"));
    say(&["unet.width"], format!("width {}", unet.width));
    say(&["unet.depth"], format!("depth {}", unet.depth));
    say(
        &["recipe.epochs", "recipe.stopping.patience"],
        format!("at most {} epochs", recipe.epochs),
    );
    if !keys.is_empty() {
        said.push(format!("other {}", keys.join(", ")));
    }
    Ok((!said.is_empty()).then(|| said.join(", ")))
}

/// The keys in which two experiments differ, those left out that are no part of the recipe: loss, seed, device, data set and
/// what follows from it.
fn differing(one: &Experiment, other: &Experiment) -> Result<Vec<String>> {
    fn leaves(prefix: &str, table: &toml::Table, all: &mut BTreeMap<String, toml::Value>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => leaves(&format!("{prefix}{key}."), inner, all),
                value => {
                    all.insert(format!("{prefix}{key}"), value.clone());
                }
            }
        }
    }
    let keys = |experiment: &Experiment| -> Result<BTreeMap<String, toml::Value>> {
        let mut all = BTreeMap::new();
        leaves("", &toml::Table::try_from(experiment)?, &mut all);
        all.retain(|key, _| {
            !["loss", "seed", "device", "unet.in_channels", "unet.classes"].contains(&&key[..])
                && !key.starts_with("data.")
                && !key.starts_with("inference.")
                && !["metrics.shift", "recipe.watch"].contains(&&key[..])
        });
        Ok(all)
    };
    let (one, other) = (keys(one)?, keys(other)?);
    let all = one
        .keys()
        .chain(other.keys().filter(|key| !one.contains_key(*key)));
    Ok(all
        .filter(|key| one.get(*key) != other.get(*key))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Grid {
        Grid::parse(text).unwrap()
    }

    const TWO: &str =
        "title = 't'\ndata = ['phantom', 'drive']\nlosses = ['dice', 'dice++']\nseeds = [4, 5]\n";

    #[test]
    fn a_run_of_two_tables_is_made_once_and_first_seeds_come_first() {
        let other =
            grid("title = 'u'\ndata = ['phantom']\nlosses = ['ce', 'dsc++:gamma=2']\nseeds = [4]");
        let plan = Plan::of(
            vec![("a".into(), grid(TWO)), ("b".into(), other)],
            &Wishes::default(),
        )
        .unwrap();
        let names: Vec<&str> = plan
            .runs
            .iter()
            .map(|run| run.name.rsplit_once('-').unwrap().0)
            .collect();
        assert_eq!(
            names,
            [
                "phantom-dice-4",
                "phantom-dice++2-4",
                "phantom-cross-entropy-4",
                "phantom-dice-5",
                "phantom-dice++2-5"
            ]
        );
        assert_eq!(plan.grids[0].cells.len(), 4);
        assert_eq!(plan.grids[1].cells[1].run, plan.runs[1].name);
        let missing: Vec<&str> = plan
            .missing
            .iter()
            .map(|missing| &missing.data[..])
            .collect();
        assert_eq!(missing, ["drive"]);
        assert_eq!(plan.runs[0].images, [128, 16, 32]);
    }

    #[test]
    fn a_name_changes_with_every_key_and_with_nothing_else() {
        let named = |set: &[&str], command: &str| {
            let wishes = Wishes {
                set: set.iter().map(ToString::to_string).collect(),
                command: vec![command.into()],
                ..Wishes::default()
            };
            Plan::of(vec![("a".into(), grid(TWO))], &wishes)
                .unwrap()
                .runs[0]
                .name
                .clone()
        };
        assert_eq!(named(&[], "x"), named(&[], "y"));
        assert_ne!(named(&[], "x"), named(&["recipe.sgd.lr=0.05"], "x"));
        assert_ne!(named(&[], "x"), named(&["data.phantom.noise=3"], "x"));
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4 ^ 0x8422_2325);
    }

    #[test]
    fn what_is_less_than_the_papers_is_said_and_nothing_else() {
        let cpu = Preset::Cpu.experiment("dsb2018:/d".parse().unwrap());
        assert_eq!(
            reduced(&cpu).unwrap().unwrap(),
            "128 × 128 pixels, width 16, at most 12 epochs, other recipe.plateau.patience"
        );
        for preset in [Preset::Paper, Preset::Authors] {
            let mut experiment = preset.experiment("drive:/d".parse().unwrap());
            assert_eq!(reduced(&experiment).unwrap(), None);
            experiment.recipe.sgd.lr = 0.01;
            assert_eq!(
                reduced(&experiment).unwrap().unwrap(),
                "other recipe.sgd.lr"
            );
        }
    }

    #[test]
    fn a_setting_may_change_how_a_data_set_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for part in ["images", "masks"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
            for i in 0..6 {
                let path = dir.path().join(format!("{part}/{i}.png"));
                image::GrayImage::new(16, 16).save(path).unwrap();
            }
        }
        let text = format!(
            "title = 't'\ndata = ['folder:{}']\nlosses = ['dice']\n[settings.grey]\n[settings.three]\ndata.mask = 'classes'\ndata.classes = 3\ndata.channels = 3\n",
            dir.path().display()
        );
        let plan = Plan::of(vec![("a".into(), grid(&text))], &Wishes::default()).unwrap();
        let unets: Vec<(usize, usize)> = plan
            .runs
            .iter()
            .map(|run| (run.experiment.unet.in_channels, run.experiment.unet.classes))
            .collect();
        assert_eq!(unets, [(1, 2), (3, 3)]);
    }

    #[test]
    fn a_plan_reads_back_and_a_folder_without_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Plan::read(dir.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{} holds no grid of experiments: it has no plan.json; name a folder that `seg-train reproduce` or `seg-train sweep` made",
                dir.path().display()
            )
        );
        let plan = Plan::of(vec![("a".into(), grid(TWO))], &Wishes::default()).unwrap();
        plan.write(dir.path()).unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), plan);
        let file = experiment_file(dir.path(), &plan.runs[0].name);
        assert_eq!(Experiment::read(&file).unwrap(), plan.runs[0].experiment);
    }

    #[test]
    fn a_cell_that_makes_no_experiment_names_its_grid() {
        let bad = grid(&format!("{TWO}[set]\nunet.widht = 3"));
        let error = Plan::of(vec![("mine".into(), bad)], &Wishes::default()).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the grid mine: unknown key `unet.widht`; did you mean `unet.width`?"
        );
    }
}
