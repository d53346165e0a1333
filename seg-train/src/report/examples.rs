//! `examples.png`: a few test images beside what the network made of them.

use std::path::Path;

use anyhow::Result;
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    canvas::Canvas,
    colours::{FALSE_ALARM, FOUND, IGNORED, INK, LEFT_ALONE, MISSED, heat},
};
use crate::raster::{IGNORE, Image, Labels, NO_CLASS};

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
const GAP: u32 = 8;
const LINE: u32 = 20;

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
    grid(&rows.collect::<Vec<_>>(), &columns, ERRORS, title, path)
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
    grid(&rows.collect::<Vec<_>>(), &columns, MASK, title, path)
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
    let mut cells = vec![picture(&example.image), mask(&example.labels)];
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
    meanings: &[Meaning],
    title: &str,
    path: &Path,
) -> Result<()> {
    let heights: Vec<u32> = rows
        .iter()
        .map(|(example, _)| cell_height(&example.labels))
        .collect();
    let width = GAP + columns.len() as u32 * (CELL + GAP);
    let body: u32 = heights.iter().map(|height| LINE + height + GAP).sum();
    let top = GAP + 2 * (LINE + 4);
    let mut canvas = Canvas::new(width, top + body + 2 * LINE + GAP);

    canvas.text(title, GAP, GAP, 17, INK)?;
    let left = |column: usize| GAP + column as u32 * (CELL + GAP);
    for (column, name) in columns.iter().enumerate() {
        canvas.text(name, left(column), GAP + LINE + 6, 14, INK)?;
    }
    let mut y = top;
    for ((example, cells), height) in rows.iter().zip(heights) {
        canvas.text(&example.caption, GAP, y + 3, 13, INK)?;
        for (column, cell) in cells.iter().enumerate() {
            // Smoothing would invent probabilities and labels that nobody predicted or drew.
            let filter = if column == 0 && cell.width() > CELL {
                FilterType::Triangle
            } else {
                FilterType::Nearest
            };
            canvas.paste(
                &imageops::resize(cell, CELL, height, filter),
                left(column),
                y + LINE,
            );
        }
        y += LINE + height + GAP;
    }
    legend(&mut canvas, y, meanings)?;
    canvas.save(path)
}

/// A colour, what it means, and the width of these words in pixels.
type Meaning = (Rgb<u8>, &'static str, u32);

/// What the colours of a mask mean.
const MASK: &[Meaning] = &[
    (FOUND, "foreground", 92),
    (LEFT_ALONE, "background", 94),
    (IGNORED, "not counted", 96),
];

/// What the colours of a mask and of a map of errors mean.
const ERRORS: &[Meaning] = &[
    (FOUND, "foreground, found", 140),
    (MISSED, "missed", 66),
    (FALSE_ALARM, "false alarm", 94),
    (LEFT_ALONE, "background", 94),
    (IGNORED, "not counted", 96),
];

fn legend(canvas: &mut Canvas, y: u32, meanings: &[Meaning]) -> Result<()> {
    let mut x = GAP;
    for &(colour, meaning, width) in meanings {
        canvas.paste(&RgbImage::from_pixel(12, 12, colour), x, y + 3);
        canvas.text(meaning, x + 17, y + 2, 13, INK)?;
        x += width + 14;
    }
    let bar = RgbImage::from_fn(120, 12, |x, _| heat(x as f32 / 119.0));
    canvas.text("probability 0", GAP, y + LINE + 2, 13, INK)?;
    canvas.paste(&bar, GAP + 92, y + LINE + 3);
    canvas.text("1", GAP + 92 + 126, y + LINE + 2, 13, INK)
}

fn cell_height(labels: &Labels) -> u32 {
    ((CELL as usize * labels.height) / labels.width.max(1)).max(1) as u32
}

/// A picture from one plane or three, stretched from its smallest to its largest value: it is z-scored, not 0…255.
fn picture(image: &Image) -> RgbImage {
    let (low, high) = image
        .data
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| {
            (low.min(v), high.max(v))
        });
    let scale = 255.0 / (high - low).max(f32::MIN_POSITIVE);
    let plane = image.height * image.width;
    RgbImage::from_fn(image.width as u32, image.height as u32, |x, y| {
        let pixel = y as usize * image.width + x as usize;
        let value = |channel: usize| {
            let plane_number = if image.channels >= 3 { channel } else { 0 };
            ((image.data[plane_number * plane + pixel] - low) * scale).round() as u8
        };
        Rgb([value(0), value(1), value(2)])
    })
}

fn mask(labels: &Labels) -> RgbImage {
    per_pixel(
        labels,
        |_, label| if label == 0 { LEFT_ALONE } else { FOUND },
    )
}

/// The colours of a map of probabilities, as [`heat`] gives them.
fn heat_map(p: &[f32], labels: &Labels) -> RgbImage {
    let width = labels.width;
    RgbImage::from_fn(width as u32, labels.height as u32, |x, y| {
        heat(p[y as usize * width + x as usize])
    })
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

fn per_pixel(labels: &Labels, colour: impl Fn(usize, u8) -> Rgb<u8>) -> RgbImage {
    RgbImage::from_fn(labels.width as u32, labels.height as u32, |x, y| {
        let pixel = y as usize * labels.width + x as usize;
        match labels.data[pixel] {
            IGNORE | NO_CLASS => IGNORED,
            label => colour(pixel, label),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
