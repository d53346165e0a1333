//! The page of one run, and the numbers behind it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::{
    advice::{Situation, Thresholds, advice},
    decide::Estimate,
    diagrams, figures,
    findings::{self, Finding, chance, ece},
    sureness::{Sureness, mean_gap},
    worst,
};
use crate::{
    config::Experiment,
    evaluate::{Evaluated, Report},
    metrics::{CalibrationSummary, ImageRow},
    report::{
        examples::Example,
        page::{Block, Page, Section},
    },
};

/// A run evaluated for its page.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The run's folder, as a command names it.
    pub run: String,
    /// What it was.
    pub experiment: Experiment,
    /// The figures, image by image and over all.
    pub evaluated: Evaluated,
    /// The calibration over all images.
    pub summary: CalibrationSummary,
    /// How sure it is of each image that has a pixel that counts.
    pub sureness: Vec<Sureness>,
    /// Images that a temperature could be fitted on.
    pub validation: usize,
    /// The worst images, in the order of [`worst::worst`].
    pub examples: Vec<Example>,
}

/// What `calibration.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Record<'a> {
    /// The run's folder.
    pub run: &'a str,
    /// Mean of confidence − accuracy over the images.
    pub over_confidence: Option<Estimate>,
    /// ECE of the foreground that chance alone gives, about.
    pub chance: Option<f64>,
    /// What may be relied on.
    pub findings: Vec<Finding>,
    /// What to use and why.
    pub advice: Vec<String>,
    /// What thresholds do; of two classes.
    pub thresholds: Option<Thresholds>,
    /// All figures, as in a run's `summary.json`.
    #[serde(flatten)]
    pub report: &'a Report,
}

impl Calibrated {
    /// The findings, in the order of the page.
    pub fn findings(&self) -> Vec<Finding> {
        let (summary, rows) = (&self.summary, &self.evaluated.rows);
        let mut all = vec![
            findings::eight_in_ten(summary.view("foreground")),
            findings::as_sure_as_right(&self.sureness),
        ];
        all.extend(findings::boundary(
            summary,
            self.experiment.metrics.boundary,
        ));
        all.extend(findings::volume(rows, summary.volume.bias));
        let truth = self.evaluated.report.truth.as_ref();
        all.extend(truth.and_then(|truth| findings::reaches_the_floor(rows, truth)));
        all
    }

    /// The numbers behind the page.
    pub fn record(&self) -> Record<'_> {
        let found = self.findings();
        let of = |claim: &str| found.iter().find(|finding| finding.claim == claim);
        let foreground = self.summary.view("foreground");
        let chance = foreground.and_then(|view| chance(&view.reliability));
        let thresholds = Thresholds::of(&self.evaluated.thresholds, self.experiment.metrics.empty);
        let situation = Situation {
            run: &self.run,
            validation: self.validation,
            ece: foreground
                .and_then(|view| ece(&view.reliability))
                .zip(chance),
            eight: of(findings::EIGHT_IN_TEN),
            sure: of(findings::AS_SURE_AS_RIGHT),
            boundary: of(findings::AT_THE_BOUNDARY),
            volume: of(findings::EXPECTED_VOLUME),
            volume_error: self.summary.volume.mean_absolute,
            thresholds,
            scaled: is_scaled(&self.experiment),
        };
        Record {
            run: &self.run,
            over_confidence: mean_gap(&self.sureness),
            chance,
            advice: advice(&situation),
            thresholds,
            report: &self.evaluated.report,
            findings: found,
        }
    }

    /// The page.
    pub fn page(&self) -> Page {
        let record = self.record();
        let report = &self.evaluated.report;
        let rows = &self.evaluated.rows;
        let about = format!(
            "{}: {} on {}, seed {}, evaluated at {} × {} pixels with the weights of epoch {}.\n\n{}",
            self.run,
            report.loss.replace(',', ", "),
            report.data,
            report.seed,
            report.size[0],
            report.size[1],
            report.best_epoch,
            findings::evidence(rows.len())
        );
        let sentences = record.findings.iter();
        let sentences = sentences.map(|finding| format!("{}. {}", finding.claim, finding.sentence));
        Page {
            title: "May these probabilities be believed?".into(),
            lead: vec![
                Block::Text(about),
                Block::Table(figures::findings(&record.findings)),
                Block::List(sentences.collect()),
            ],
            sections: self.sections(&record),
        }
    }

    fn sections(&self, record: &Record<'_>) -> Vec<Section> {
        let section = |id: &str, title: &str, blocks: Vec<Block>| Section {
            id: id.into(),
            title: title.into(),
            blocks,
        };
        let (summary, rows) = (&self.summary, &self.evaluated.rows);
        let mut sections = vec![section(
            "use",
            "What to use, and why",
            vec![Block::List(record.advice.clone())],
        )];
        let mut diagrams = vec![diagrams::views(summary), diagrams::histogram(summary)];
        if let Some(foreground) = summary.view("foreground") {
            diagrams.insert(0, Block::Table(figures::promises(foreground)));
        }
        sections.push(section("said-and-so", "Said and so", diagrams));
        let counted = [("this run".to_owned(), &self.evaluated.thresholds[..])];
        sections.extend(
            diagrams::curves(&counted, self.experiment.metrics.empty)
                .map(|curves| section("by-threshold", "By threshold", vec![curves])),
        );
        sections.push(section(
            "figures",
            "All figures",
            vec![
                Block::Table(figures::scores(
                    summary,
                    rows,
                    self.evaluated.report.truth.as_ref(),
                )),
                Block::Table(figures::errors(summary)),
                Block::List(figures::MEANINGS.map(Into::into).into()),
            ],
        ));
        let chosen = worst::worst(rows);
        if !self.examples.is_empty() {
            let why: Vec<(&ImageRow, &str)> = chosen
                .iter()
                .map(|(place, why)| (&rows[*place], why.as_str()))
                .collect();
            sections.push(section(
                "worst-images",
                "The worst images",
                vec![worst::pictures(&self.examples, &why)],
            ));
        }
        sections.push(section(
            "how",
            "How it was measured",
            vec![Block::List(how())],
        ));
        sections
    }

    /// A row an image: its figures, and how sure and how right the network is of it.
    ///
    /// # Errors
    ///
    /// When a table cannot be made of them.
    pub fn images_csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let names = ImageRow::columns().map(|(name, _)| name);
        let header = ["id"].into_iter().chain(names);
        writer.write_record(header.chain(["confidence", "accuracy"]))?;
        let sureness: BTreeMap<&str, &Sureness> = self
            .sureness
            .iter()
            .map(|image| (image.id.as_str(), image))
            .collect();
        for row in &self.evaluated.rows {
            let sure = sureness.get(row.id.as_str());
            let values = ImageRow::columns().map(|(_, read)| read(row));
            let sure = [sure.map(|of| of.confidence), sure.map(|of| of.accuracy)];
            let cells = values.chain(sure);
            let cells =
                cells.map(|value| value.map_or_else(String::new, |value| value.to_string()));
            writer.write_record(std::iter::once(row.id.clone()).chain(cells))?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// A row a bin of every view.
    ///
    /// # Errors
    ///
    /// When a table cannot be made of them.
    pub fn reliability_csv(&self) -> Result<String> {
        reliability_csv(&self.summary)
    }
}

/// A row a bin of every view; empty cells where a bin has no pixels or no interval.
fn reliability_csv(summary: &CalibrationSummary) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "view",
        "low",
        "high",
        "pixels",
        "images",
        "confidence",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
    ])?;
    let shown = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for view in &summary.views {
        for bin in &view.reliability {
            writer.write_record([
                view.name.clone(),
                bin.low.to_string(),
                bin.high.to_string(),
                bin.pixels.to_string(),
                bin.images.to_string(),
                shown(bin.confidence),
                shown(bin.accuracy),
                shown(bin.interval.map(|ends| ends[0])),
                shown(bin.interval.map(|ends| ends[1])),
            ])?;
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Whether the experiment scales the network's logits before it takes probabilities of them.
fn is_scaled(experiment: &Experiment) -> bool {
    experiment.to_toml().is_ok_and(|text| {
        text.lines()
            .any(|line| line.starts_with("scaling = ") && !line.contains("none"))
    })
}

/// How the numbers came about, for a reader who would check them.
fn how() -> Vec<String> {
    [
        "One pass over the test set with the weights of the best epoch, that with the lowest validation loss. Nothing was fitted or chosen on these images, but where this page says so.",
        "What varies in every interval is the image. Of a share it is the interval of a ratio of two sums over images (Cochran 1977), of a mean Student's. Images are taken as independent.",
        "The claims are decided by the rule that stands under their table; their margins were fixed before any network was looked at. Several claims on one page are not corrected for each other: each is about another thing.",
        "What chance alone gives an ECE is estimated as the mean over pixels of √(2/π) times the standard error of the pixel's bin: what a calibrated network's ECE would be about, with as many images. The boundary's difference is given ± twice what chance gives both of its parts.",
        "calibration.json beside this page holds every number of it, images.csv a row an image, reliability.csv a row a bin.",
    ]
    .map(Into::into)
    .into()
}
