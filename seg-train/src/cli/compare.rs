//! `seg-train compare`: runs on the same test images, pair by pair.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, asked::Asked, calibrate::summary_of, print, train::write_json, usage};
use crate::{
    evaluate::{evaluate, load},
    report::calibration::compare::{
        cost::seconds_an_image,
        differences::{compare, sentences},
        methods::{Candidate, Method, methods, refuse_other_images},
        page::Compare,
        values::Compared,
    },
    run_folder::{Runs, first_free, refuse_taken},
    say::say,
    store,
};

#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// Folders of the runs, two or more; one that compares several losses stands for all of its runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The method that the others are compared with, by its name on the page or by a run's folder [default: the first]
    #[arg(long, value_name = "NAME")]
    against: Option<String>,
    /// Folder to write to: new or empty [default: runs/compare, or the first free one after it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, cuda or cuda:N [default: each run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

pub(super) fn run(args: &CompareArgs) -> Result<(), Failure> {
    if let Some(out) = &args.out {
        refuse_taken(out).map_err(usage)?;
    }
    let folders = folders(&args.runs)?;
    let asked = folders
        .iter()
        .map(|run| Asked::of(run, None, args.device.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    let candidates: Vec<Candidate> = asked.iter().zip(&folders).map(candidate).collect();
    let methods = methods(&candidates).map_err(usage)?;
    let against = place_of(args.against.as_deref(), &candidates, &methods).map_err(usage)?;
    if methods.len() < 2 {
        return Err(usage(format!(
            "there is nothing to compare: {} is one method with {} seeds; name runs that differ in more than the seed",
            methods[0].name,
            candidates.len()
        )));
    }
    refuse_other_images(&candidates, &methods)?;

    let mut runs = Vec::new();
    for (asked, candidate) in asked.iter().zip(candidates) {
        let Asked {
            folder,
            experiment,
            data,
            device,
        } = asked;
        say(&format!("evaluating {}", candidate.run));
        let evaluated = evaluate(folder, experiment, data, None, device)?;
        let net = load(folder, experiment, device)?;
        runs.push(Compared {
            candidate,
            summary: summary_of(&evaluated, folder)?,
            evaluated,
            seconds_an_image: seconds_an_image(&net, experiment, data)?,
        });
    }
    let comparisons = compare(&runs, &methods, against)?;
    let compared = Compare {
        runs: &runs,
        methods: &methods,
        against,
        comparisons: &comparisons,
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => first_free(&Path::new("runs").join("compare")),
    };
    store::create_folder(&out)?;
    write_json(&out.join("compare.json"), &compared.record())?;
    let write = |name: &str, text: String| store::write(&out.join(name), text.as_bytes());
    write("differences.csv", compared.differences_csv()?)?;
    write("tables.md", compared.tables_markdown())?;
    // Last: with it the page is whole.
    write("index.html", compared.page().html())?;
    print(&format!(
        "{}\n{}\n",
        sentences(&comparisons).join("\n"),
        out.join("index.html").display()
    ));
    Ok(())
}

/// The runs that are named, those of a comparison of several losses each by itself.
fn folders(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in named {
        match Runs::read(path)? {
            Some(Runs { runs }) => all.extend(runs.iter().map(|run| path.join(run))),
            None => all.push(path.clone()),
        }
    }
    Ok(all)
}

fn candidate((asked, run): (&Asked, &PathBuf)) -> Candidate {
    let data = &asked.data;
    Candidate {
        run: run.display().to_string(),
        experiment: asked.experiment.clone(),
        images: data
            .split
            .test
            .iter()
            .map(|&image| data.id(image))
            .collect(),
        files: data.bound().cloned(),
    }
}

/// The place of the method of a name, or of the one that a run belongs to; the first where none is named.
fn place_of(
    name: Option<&str>,
    candidates: &[Candidate],
    methods: &[Method],
) -> anyhow::Result<usize> {
    let Some(name) = name else { return Ok(0) };
    let is_named = |method: &Method| {
        let mut runs = method
            .runs
            .iter()
            .map(|&run| Path::new(&candidates[run].run));
        method.name == name || runs.any(|run| run == Path::new(name))
    };
    methods.iter().position(is_named).ok_or_else(|| {
        let names: Vec<&str> = methods.iter().map(|method| method.name.as_str()).collect();
        anyhow::anyhow!(
            "--against {name} is none of the methods, which are {}; name one of them",
            names.join(", ")
        )
    })
}
