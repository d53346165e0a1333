//! `examples.png`: a few test images beside what the network made of them.

use std::path::Path;

use anyhow::Result;
use image::{Rgb, RgbImage};

use super::{
    colours::{FALSE_ALARM, FOUND, IGNORED, LEFT_ALONE, MISSED},
    pictures::{self, Sheet, SheetRow, mask, mask_legend, per_pixel},
};
use crate::raster::{Image, Labels};

/// One row of the picture. All arrays have network resolution.
#[derive(Clone, Debug)]
pub struct Example {
    /// Name of the image, and what is to be said about it.
    pub caption: String,
    /// What the network saw.
    pub image: Image,
    /// The annotator's labels; everything but 0 is foreground.
    pub labels: Labels,
    /// The true probability of the foreground, where the data set knows it.
    pub truth: Option<Vec<f32>>,
    /// The network's probability of the foreground.
    pub probability: Vec<f32>,
    /// Foreground is where the probability is at least this.
    pub threshold: f32,
}

/// Width of a column, in pixels.
const CELL: u32 = 192;

/// Draws a row an example: image, truth, (true probability,) predicted probability, errors; a legend below.
///
/// # Errors
///
/// When the picture cannot be drawn or written.
pub fn save(examples: &[Example], title: &str, path: &Path) -> Result<()> {
    let knows_truth = examples.iter().any(|example| example.truth.is_some());
    let mut columns = given(knows_truth);
    columns.extend(["predicted probability", "errors"].map(String::from));
    let rows = examples.iter().map(|example| {
        let mut cells = given_cells(example, knows_truth);
        cells.push(heat_map(&example.probability, &example.labels));
        cells.push(error_map(example));
        (example, cells)
    });
    grid(
        &rows.collect::<Vec<_>>(),
        &columns,
        &errors_legend(),
        title,
        path,
    )
}

/// Draws a row an image: image, truth, (true probability,) then what each of several networks predicts there. The
/// examples of every run are of the same images in the same order.
///
/// # Errors
///
/// When the picture cannot be drawn or written.
pub fn save_comparison(runs: &[(String, Vec<Example>)], title: &str, path: &Path) -> Result<()> {
    let Some((_, first)) = runs.first() else {
        return Ok(());
    };
    let knows_truth = first.iter().any(|example| example.truth.is_some());
    let mut columns = given(knows_truth);
    columns.extend(runs.iter().map(|(name, _)| name.clone()));
    let rows = first.iter().enumerate().map(|(row, example)| {
        let mut cells = given_cells(example, knows_truth);
        let others = runs.iter().filter_map(|(_, examples)| examples.get(row));
        cells.extend(others.map(|other| heat_map(&other.probability, &other.labels)));
        (example, cells)
    });
    grid(
        &rows.collect::<Vec<_>>(),
        &columns,
        &mask_legend(),
        title,
        path,
    )
}

/// The columns that do not depend on a network.
fn given(knows_truth: bool) -> Vec<String> {
    let known: &[&str] = if knows_truth {
        &["true probability"]
    } else {
        &[]
    };
    ["image", "truth"]
        .iter()
        .chain(known)
        .map(ToString::to_string)
        .collect()
}

fn given_cells(example: &Example, knows_truth: bool) -> Vec<RgbImage> {
    let mut cells = vec![pictures::image(&example.image), mask(&example.labels)];
    if knows_truth {
        cells.push(match &example.truth {
            Some(truth) => heat_map(truth, &example.labels),
            None => RgbImage::from_pixel(1, 1, IGNORED),
        });
    }
    cells
}

fn grid(
    rows: &[(&Example, Vec<RgbImage>)],
    columns: &[String],
    legend: &[(Rgb<u8>, String)],
    title: &str,
    path: &Path,
) -> Result<()> {
    let rows = rows.iter().map(|(example, cells)| SheetRow {
        caption: &example.caption,
        cells: cells.iter().map(Some).collect(),
        height: cell_height(&example.labels),
    });
    Sheet {
        title,
        columns,
        rows: rows.collect(),
        legend,
        bar: Some("probability"),
        cell: CELL,
    }
    .save(path)
}

/// What the colours of a mask and of a map of errors mean.
fn errors_legend() -> Vec<(Rgb<u8>, String)> {
    [
        (FOUND, "foreground, found"),
        (MISSED, "missed"),
        (FALSE_ALARM, "false alarm"),
        (LEFT_ALONE, "background"),
        (IGNORED, "not counted"),
    ]
    .map(|(colour, name)| (colour, name.into()))
    .into()
}

fn cell_height(labels: &Labels) -> u32 {
    ((CELL as usize * labels.height) / labels.width.max(1)).max(1) as u32
}

/// The colours of a map of probabilities, as [`heat`](super::colours::heat) gives them.
fn heat_map(p: &[f32], labels: &Labels) -> RgbImage {
    pictures::heat(p, labels.width, labels.height)
}

fn error_map(example: &Example) -> RgbImage {
    per_pixel(&example.labels, |pixel, label| {
        match (label != 0, example.probability[pixel] >= example.threshold) {
            (true, true) => FOUND,
            (true, false) => MISSED,
            (false, true) => FALSE_ALARM,
            (false, false) => LEFT_ALONE,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        raster::IGNORE,
        report::pictures::{GAP, LINE},
    };

    #[test]
    fn every_kind_of_pixel_has_its_colour() {
        let example = Example {
            caption: String::new(),
            image: Image {
                channels: 1,
                height: 1,
                width: 5,
                data: vec![0.0; 5],
            },
            labels: Labels {
                height: 1,
                width: 5,
                data: vec![1, 1, 0, 0, IGNORE],
            },
            truth: None,
            probability: vec![0.5, 0.49, 0.5, 0.49, 1.0],
            threshold: 0.5,
        };
        let colours: Vec<_> = error_map(&example).pixels().copied().collect();
        assert_eq!(colours, [FOUND, MISSED, FALSE_ALARM, LEFT_ALONE, IGNORED]);
    }

    #[test]
    fn the_picture_is_written_in_the_shape_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("examples.png");
        let example = Example {
            caption: "wide".into(),
            image: Image {
                channels: 3,
                height: 4,
                width: 8,
                data: vec![1.0; 96],
            },
            labels: Labels {
                height: 4,
                width: 8,
                data: vec![0; 32],
            },
            truth: None,
            probability: vec![0.0; 32],
            threshold: 0.5,
        };
        save(&[example], "title", &path).unwrap();
        let (width, height) = image::image_dimensions(&path).unwrap();
        assert_eq!(width, GAP + 4 * (CELL + GAP));
        // Title and column names, one row of half a cell, the legend's two lines.
        assert_eq!(
            height,
            2 * (LINE + 4) + (LINE + CELL / 2) + 2 * LINE + 3 * GAP
        );
    }
}
