//! Which runs are one method, and whether all were tested on the same images.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, bail};

use crate::{
    config::{Difference, Experiment},
    data::{Files, Layout},
};

/// A run before it is evaluated.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its folder, as it was named.
    pub run: String,
    /// What it was.
    pub experiment: Experiment,
    /// The names of its test images.
    pub images: Vec<String>,
    /// What its files were; none where images are generated.
    pub files: Option<Files>,
}

/// What tells one test image from another. Images that are made differ from seed to seed though their names do not.
pub type ImageKey = (u64, String);

/// Runs that differ in the seed alone.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name, unlike all others.
    pub name: String,
    /// The places of its runs among the candidates.
    pub runs: Vec<usize>,
    /// What its experiment has otherwise than the first method's, the seed aside.
    pub differences: Vec<Difference>,
}

impl Candidate {
    /// Keys of images by their names.
    pub fn key(&self, image: &str) -> ImageKey {
        let generated = matches!(self.experiment.data.kind.row().layout, Layout::Generated);
        let seed = if generated { self.experiment.seed } else { 0 };
        (seed, image.into())
    }

    fn keys(&self) -> impl Iterator<Item = ImageKey> {
        self.images.iter().map(|image| self.key(image))
    }

    /// The experiment without what decides no number, and without the seed.
    fn method(&self) -> Experiment {
        let mut experiment = self.experiment.clone();
        experiment.seed = 0;
        experiment.recipe.save_every = 0;
        experiment.recipe.on_nan = crate::config::OnNan::default();
        experiment.data.path = Path::new("").into();
        experiment
    }
}

/// Puts runs together that differ in the seed alone, in their order, and names each method.
///
/// # Errors
///
/// When two runs are of one experiment, seed and all.
pub fn methods(candidates: &[Candidate]) -> Result<Vec<Method>> {
    let mut groups: Vec<(Experiment, Vec<usize>)> = Vec::new();
    for (place, candidate) in candidates.iter().enumerate() {
        let method = candidate.method();
        let Some((_, runs)) = groups.iter_mut().find(|(known, _)| *known == method) else {
            groups.push((method, vec![place]));
            continue;
        };
        let seed = candidate.experiment.seed;
        if let Some(twin) = runs
            .iter()
            .find(|&&run| candidates[run].experiment.seed == seed)
        {
            bail!(
                "{} and {} are one experiment with one seed, {seed}; name one of them",
                candidates[*twin].run,
                candidate.run
            );
        }
        runs.push(place);
    }
    let names = names(candidates, &groups)?;
    groups
        .iter()
        .zip(names)
        .map(|((experiment, runs), name)| {
            Ok(Method {
                name,
                runs: runs.clone(),
                differences: differences(&groups[0].0, experiment)?,
            })
        })
        .collect()
}

/// The methods' names, each unlike all others: by their runs' folders, or where two of these are alike by what is done, or
/// where that is alike too by all folders.
fn names(candidates: &[Candidate], groups: &[(Experiment, Vec<usize>)]) -> Result<Vec<String>> {
    let folders = |runs: &[usize]| -> Vec<&str> {
        runs.iter()
            .map(|&run| candidates[run].run.as_str())
            .collect()
    };
    let differ = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let by_folder = groups.iter().map(|(_, runs)| name(&folders(runs)));
    let by_folder: Vec<String> = by_folder.collect();
    if differ(&by_folder) {
        return Ok(by_folder);
    }
    let in_words = groups.iter().map(|(experiment, _)| experiment.method());
    let in_words = in_words.collect::<Result<Vec<String>>>()?;
    if differ(&in_words) {
        return Ok(in_words);
    }
    let all = groups.iter().map(|(_, runs)| folders(runs).join(", "));
    Ok(all.collect())
}

/// What another experiment has otherwise, epochs included: a finished run's are one of its numbers.
fn differences(base: &Experiment, other: &Experiment) -> Result<Vec<Difference>> {
    let mut all = base.differences(other)?;
    if base.recipe.epochs != other.recipe.epochs {
        all.push(Difference {
            key: "recipe.epochs".into(),
            one: base.recipe.epochs.to_string(),
            other: other.recipe.epochs.to_string(),
        });
    }
    Ok(all)
}

/// The folder's own name, or what the names of several begin with.
fn name(runs: &[&str]) -> String {
    let last = |run: &str| {
        Path::new(run).file_name().map_or_else(
            || run.to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
    };
    let names: Vec<String> = runs.iter().map(|run| last(run)).collect();
    let shared = names.iter().skip(1).fold(names[0].clone(), |shared, name| {
        let same = shared.chars().zip(name.chars()).take_while(|(a, b)| a == b);
        same.map(|(c, _)| c).collect()
    });
    let shared = match runs {
        [_] => shared.as_str(),
        _ => shared.trim_end_matches(['-', '_', '.', '=']),
    };
    if shared.is_empty() {
        names.join(", ")
    } else {
        shared.to_owned()
    }
}

/// Refuses methods that were not tested on the same images as the first.
///
/// # Errors
///
/// One sentence that names the first image, file or setting that differs.
pub fn refuse_other_images(candidates: &[Candidate], methods: &[Method]) -> Result<()> {
    let Some((first, others)) = methods.split_first() else {
        return Ok(());
    };
    let of = |method: &Method| &candidates[method.runs[0]];
    let keys = |method: &Method| -> BTreeSet<ImageKey> {
        let runs = method.runs.iter().map(|&run| &candidates[run]);
        runs.flat_map(Candidate::keys).collect()
    };
    let base = keys(first);
    for method in others {
        let (one, other) = (of(first), of(method));
        if let Some(difference) = first_setting(one, other)? {
            bail!(
                "{} and {} were tested on images that were made otherwise: {} is {} and {}; compare runs on the same images",
                one.run,
                other.run,
                difference.key,
                difference.one,
                difference.other
            );
        }
        let those = keys(method);
        if let Some((seed, image)) = base.symmetric_difference(&those).next() {
            let (has, lacks) = if base.contains(&(*seed, image.clone())) {
                (first, method)
            } else {
                (method, first)
            };
            let generated = matches!(one.experiment.data.kind.row().layout, Layout::Generated);
            let seed = if generated {
                format!(" of seed {seed}")
            } else {
                String::new()
            };
            bail!(
                "{} was tested on the image {image}{seed} and {} was not; compare runs of one data set and one split, with the same seeds where the split or the images come of them",
                has.name,
                lacks.name
            );
        }
        let path = one.files.as_ref().zip(other.files.as_ref());
        if let Some(path) = path.and_then(|(one, other)| one.first_other(other)) {
            bail!(
                "{path} was another file for {} than for {}; compare runs on the same images",
                one.run,
                other.run
            );
        }
    }
    Ok(())
}

/// The first setting in which generated images differ, or a set of files.
fn first_setting(one: &Candidate, other: &Candidate) -> Result<Option<Difference>> {
    let generated = matches!(one.experiment.data.kind.row().layout, Layout::Generated);
    let decides = |key: &str| key.starts_with("data.") || (generated && key == "preprocess.size");
    let differences = one.experiment.differences(&other.experiment)?;
    Ok(differences.into_iter().find(|found| decides(&found.key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn candidate(run: &str, data: &str, loss: &str, seed: u64) -> Candidate {
        let mut experiment = Preset::Cpu.experiment(data.parse().unwrap());
        experiment.seed = seed;
        experiment.loss = loss.into();
        Candidate {
            run: run.into(),
            experiment,
            images: vec!["a".into(), "b".into()],
            files: None,
        }
    }

    fn refused(candidates: &[Candidate]) -> String {
        let methods = methods(candidates).unwrap();
        let refused = refuse_other_images(candidates, &methods);
        refused.unwrap_err().to_string()
    }

    #[test]
    fn runs_that_differ_in_the_seed_alone_are_one_method() {
        let all = [
            candidate("runs/dice-0", "phantom", "dice", 0),
            candidate("runs/ce", "phantom", "ce", 0),
            candidate("runs/dice-1", "phantom", "dice", 1),
            candidate("other/ce", "phantom", "dice++", 0),
        ];
        let methods = methods(&all).unwrap();
        let found: Vec<(&str, &[usize])> = methods
            .iter()
            .map(|method| (method.name.as_str(), &method.runs[..]))
            .collect();
        assert_eq!(
            found,
            [
                ("dice", &[0, 2][..]),
                ("cross-entropy", &[1]),
                ("dice++ (γ = 2)", &[3])
            ]
        );
        let of_two_names = super::methods(&all[..3]).unwrap();
        assert_eq!(of_two_names[1].name, "ce");
        let mut wider = candidate("wide/ce", "phantom", "ce", 0);
        wider.experiment.unet.width += 1;
        let alike = super::methods(&[all[1].clone(), wider]).unwrap();
        assert_eq!([&alike[0].name, &alike[1].name], ["runs/ce", "wide/ce"]);
        assert_eq!(methods[0].differences, []);
        assert_eq!(methods[1].differences[0].key, "loss");
    }

    #[test]
    fn more_epochs_are_another_method() {
        let mut longer = candidate("b", "phantom", "dice", 1);
        longer.experiment.recipe.epochs += 1;
        let all = [candidate("a", "phantom", "dice", 0), longer];
        let methods = methods(&all).unwrap();
        assert_eq!(methods.len(), 2);
        assert_eq!(methods[1].differences[0].key, "recipe.epochs");
    }

    #[test]
    fn one_experiment_twice_is_refused() {
        let all = [
            candidate("a", "phantom", "dice", 3),
            candidate("b", "phantom", "dice", 3),
        ];
        assert_eq!(
            methods(&all).unwrap_err().to_string(),
            "a and b are one experiment with one seed, 3; name one of them"
        );
    }

    #[test]
    fn the_first_image_that_differs_is_named() {
        let mut other = candidate("runs/ce", "folder:/d", "ce", 0);
        let one = candidate("runs/dice", "folder:/d", "dice", 0);
        let fits = [one.clone(), other.clone()];
        refuse_other_images(&fits, &methods(&fits).unwrap()).unwrap();
        other.images[1] = "c".into();
        assert_eq!(
            refused(&[one, other]),
            "dice was tested on the image b and ce was not; compare runs of one data set and one split, with the same seeds where the split or the images come of them"
        );
        // The names are the same and the images are not.
        let made = [
            candidate("dice", "phantom", "dice", 0),
            candidate("ce", "phantom", "ce", 1),
        ];
        assert!(
            refused(&made).starts_with("dice was tested on the image a of seed 0 and ce was not; "),
        );
    }

    #[test]
    fn images_that_were_made_otherwise_are_refused_by_their_setting() {
        let mut larger = candidate("ce", "phantom", "ce", 0);
        larger.experiment.preprocess.size = [32, 32];
        let said = refused(&[candidate("dice", "phantom", "dice", 0), larger]);
        assert!(
            said.starts_with(
                "dice and ce were tested on images that were made otherwise: preprocess.size is ["
            ) && said.contains("[32, 32]"),
            "{said}"
        );
    }
}
