//! A network on images unlike those it was trained on: the test set damaged in every way and strength of
//! [`corrupt`](crate::corrupt), and, where it was trained on one stain of dsb2018, all images of the other.
//!
//! The labels stay: what a pixel is does not change with the light.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    batches::ahead,
    config::Experiment,
    corrupt::Damage,
    data::{DataConfig, Dataset, Sample, Stain},
    evaluate::classes,
    inference::Inference,
    metrics::{Evaluation, ImageRow, Pixels},
    preprocess::prepare,
    raster::Labels,
    resample::resize_labels,
};

/// What is unlike the training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// A damage done to each test image.
    Damage(Damage),
    /// Images of a stain that none was trained on.
    Stain(Stain),
}

impl fmt::Display for Shift {
    /// `blur:3`, `stain:other`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damage(damage) => damage.fmt(f),
            Self::Stain(Stain::Fluorescence) => f.write_str("stain:fluorescence"),
            Self::Stain(Stain::Other) => f.write_str("stain:other"),
        }
    }
}

/// One image under one shift: a line of `shift.csv`. An empty cell is a value that is not defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShiftLine {
    /// The shift, as it displays itself.
    pub shift: String,
    /// The image's name.
    pub id: String,
    /// Dice similarity.
    pub dice: Option<f64>,
    /// Negative log-likelihood over all classes.
    pub nll: Option<f64>,
    /// Brier score.
    pub brier: Option<f64>,
    /// Expected calibration error of the foreground classes.
    pub ece: Option<f64>,
    /// The same near the truth's boundary.
    pub ece_boundary: Option<f64>,
}

impl ShiftLine {
    /// The file's name.
    pub const NAME: &str = "shift.csv";

    /// Its columns.
    pub const COLUMNS: [&str; 7] = ["shift", "id", "dice", "nll", "brier", "ece", "ece_boundary"];

    fn of(shift: Shift, row: &ImageRow) -> Self {
        Self {
            shift: shift.to_string(),
            id: row.id.clone(),
            dice: row.dice,
            nll: row.nll,
            brier: row.brier,
            ece: row.ece,
            ece_boundary: row.ece_boundary,
        }
    }

    /// A value by the name of its column; none for one that is not here.
    pub fn value(&self, column: &str) -> Option<f64> {
        match column {
            "dice" => self.dice,
            "nll" => self.nll,
            "brier" => self.brier,
            "ece" => self.ece,
            "ece_boundary" => self.ece_boundary,
            _ => None,
        }
    }

    /// The kind of the shift and its strength: `blur` and 3; of a stain 1.
    pub fn kind(&self) -> (&str, u8) {
        match self.shift.split_once(':') {
            Some((kind, strength)) if kind != "stain" => (kind, strength.parse().unwrap_or(0)),
            Some((kind, _)) => (kind, 1),
            None => (&self.shift, 0),
        }
    }
}

/// Measures a network on its test set under every damage at every strength, and on the images of the other stain.
///
/// Each image is read once. The damage of an image is drawn from the run's seed and the image's number, so that all
/// networks of a data set and a seed meet the same images.
///
/// # Errors
///
/// Unreadable images.
pub fn measure(net: &Inference, experiment: &Experiment, data: &Dataset) -> Result<Vec<ShiftLine>> {
    let damages: Vec<Damage> = Damage::all().collect();
    let mut shifted: Vec<(Shift, Evaluation)> = damages
        .iter()
        .map(|&damage| {
            let evaluation = Evaluation::new(experiment.metrics.clone());
            (Shift::Damage(damage), evaluation)
        })
        .collect();
    std::thread::scope(|scope| -> Result<()> {
        let samples = ahead(scope, data.split.test.iter(), |&index| -> Result<_> {
            let sample = data.load(index)?;
            let images: Vec<_> = damages
                .iter()
                .map(|damage| damage.of(&sample.image, experiment.seed, index as u64))
                .collect::<Result<_>>()?;
            Ok((sample, images))
        });
        for pair in samples {
            let (mut sample, images) = pair?;
            for (image, (_, evaluation)) in images.into_iter().zip(&mut shifted) {
                sample.image = image;
                add(evaluation, net, experiment, data.classes, &sample)?;
            }
        }
        Ok(())
    })?;
    if let Some(stain) = experiment.data.stain {
        let opposite = DataConfig {
            stain: Some(stain.opposite()),
            ..experiment.data.clone()
        };
        let others = Dataset::open(&opposite, experiment.seed)?.all_for_testing();
        let mut evaluation = Evaluation::new(experiment.metrics.clone());
        std::thread::scope(|scope| -> Result<()> {
            let samples = ahead(scope, others.split.test.iter(), |&index| others.load(index));
            for sample in samples {
                add(&mut evaluation, net, experiment, data.classes, &sample?)?;
            }
            Ok(())
        })?;
        shifted.push((Shift::Stain(stain.opposite()), evaluation));
    }
    Ok(shifted
        .iter()
        .flat_map(|(shift, evaluation)| {
            let rows = evaluation.rows().iter();
            rows.map(|row| ShiftLine::of(*shift, row))
        })
        .collect())
}

/// Measures one image as a test image is measured.
fn add(
    evaluation: &mut Evaluation,
    net: &Inference,
    experiment: &Experiment,
    count: usize,
    sample: &Sample,
) -> Result<()> {
    let prepared = prepare(sample, &experiment.preprocess)?;
    let p = net.predict(&prepared.image)?;
    let labels = &prepared.labels;
    let mask = Labels {
        data: classes(&p, count, None),
        ..*labels
    };
    let mask = resize_labels(&mask, [sample.labels.height, sample.labels.width]);
    evaluation.add(
        &sample.id,
        [&mask, &sample.labels],
        &Pixels::new(&p, count, &labels.data)?,
        [labels.height, labels.width],
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use seg_unet::{Precision, UNet};

    use super::*;
    use crate::{
        config::Preset,
        corrupt::{Corruption, STRONGEST},
        phantom::PhantomConfig,
    };

    #[test]
    fn every_damage_of_every_strength_measures_every_test_image_and_the_same_again() {
        let mut experiment = Preset::Phantom.experiment("phantom".parse().unwrap());
        experiment.preprocess.size = [16, 16];
        experiment.unet.depth = 1;
        experiment.unet.width = 2;
        experiment.data.phantom = Some(PhantomConfig {
            train: 1,
            val: 1,
            test: 2,
            foreground: [0.02, 0.5],
            ..PhantomConfig::default()
        });
        let data = Dataset::of(&experiment).unwrap();
        let unet = UNet::new(&experiment.unet, 3, &Device::Cpu).unwrap();
        let net = Inference::new(unet, Precision::F32, &Device::Cpu);
        let lines = measure(&net, &experiment, &data).unwrap();
        assert_eq!(
            lines.len(),
            Corruption::ALL.len() * usize::from(STRONGEST) * 2
        );
        assert_eq!(lines, measure(&net, &experiment, &data).unwrap());
        assert_eq!(lines[0].shift, "brightness:1");
        assert_eq!(lines[0].kind(), ("brightness", 1));
        assert_eq!(
            (&lines[0].id[..], &lines[1].id[..]),
            ("phantom-2", "phantom-3")
        );
        let strongest = lines.iter().find(|line| line.shift == "noise:5").unwrap();
        let weakest = lines.iter().find(|line| line.shift == "noise:1").unwrap();
        assert_ne!(strongest.nll, weakest.nll);
        assert!(lines.iter().all(|line| line.value("nll").unwrap() > 0.0));
        assert_eq!(lines[0].value("hd95"), None);
    }

    #[test]
    fn a_stain_is_a_shift_of_one_strength() {
        let row = ImageRow {
            id: "a".into(),
            dice: Some(0.5),
            ..ImageRow::default()
        };
        let line = ShiftLine::of(Shift::Stain(Stain::Other), &row);
        assert_eq!(
            (&line.shift[..], line.kind()),
            ("stain:other", ("stain", 1))
        );
    }
}
