//! The images that a network does worst on, to be looked at.

use image::RgbImage;

use crate::{
    metrics::ImageRow,
    raster::Labels,
    report::{
        colours,
        document::rounded,
        examples::Example,
        page::{Block, Picture, PictureRow, Pictures},
        pictures::{self, errors_legend, per_pixel},
    },
};

/// Images of the lowest Dice, and of the highest NLL, that are shown.
const EACH: usize = 3;

/// The places of the worst images and why each is among them: those of the lowest Dice, then those of the highest NLL that
/// are not yet among them. Of equals the earlier one.
pub fn worst(rows: &[ImageRow]) -> Vec<(usize, String)> {
    let ordered = |read: fn(&ImageRow) -> Option<f64>, sign: f64| {
        let mut order: Vec<(usize, f64)> = rows
            .iter()
            .enumerate()
            .filter_map(|(place, row)| Some((place, read(row)?)))
            .collect();
        order.sort_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)));
        order
    };
    let mut found: Vec<(usize, String)> = Vec::new();
    for (what, order) in [
        ("lowest Dice", ordered(|row| row.dice, 1.0)),
        ("highest NLL", ordered(|row| row.nll, -1.0)),
    ] {
        for (place, _) in order.into_iter().take(EACH) {
            match found.iter_mut().find(|(known, _)| *known == place) {
                Some((_, why)) => why.extend([", ", what]),
                None => found.push((place, what.into())),
            }
        }
    }
    found
}

/// How wrong each probability is: 1 − p of what is there, so |y − p| for two classes. A pixel that does not count is grey.
pub fn wrongness(p: &[f32], labels: &Labels) -> RgbImage {
    per_pixel(labels, |pixel, label| {
        let p = p.get(pixel).copied().unwrap_or(0.5);
        colours::heat(if label == 0 { p } else { 1.0 - p })
    })
}

/// The sum of the foreground classes' planes.
fn foreground(planes: &[f32], pixels: usize) -> Vec<f32> {
    let mut sum = vec![0.0; pixels];
    for plane in planes.chunks_exact(pixels.max(1)) {
        sum.iter_mut().zip(plane).for_each(|(sum, p)| *sum += p);
    }
    sum
}

/// The worst images beside what the network made of them, a row each.
pub fn pictures(examples: &[Example], rows: &[(&ImageRow, &str)]) -> Block {
    let knows_truth = examples.iter().any(|example| example.truth.is_some());
    let mut columns = vec!["Image", "Truth"];
    if knows_truth {
        columns.push("True probability");
    }
    columns.extend(["Probability", "Errors at T = ½", "|y − p|"]);
    let number =
        |value: Option<f64>| value.map_or_else(|| "–".into(), |value| rounded(value, None));
    let row = |(example, (row, why)): (&Example, &(&ImageRow, &str))| {
        let (id, labels) = (&row.id, &example.labels);
        let heat = |p: &[f32]| pictures::heat(p, labels.width, labels.height);
        let mut cells = vec![
            Some(Picture::new(
                pictures::image(&example.image),
                format!("Image {id}"),
            )),
            Some(Picture::new(
                pictures::mask(labels),
                format!("Truth of {id}"),
            )),
        ];
        if knows_truth {
            cells.push(example.truth.as_deref().map(|truth| {
                let truth = foreground(truth, labels.data.len());
                Picture::new(heat(&truth), format!("True probabilities of {id}"))
            }));
        }
        let p = &example.probability;
        cells.extend([
            Some(Picture::new(
                heat(p),
                format!("Probabilities predicted for {id}"),
            )),
            Some(Picture::new(
                pictures::errors(&example.image, p, example.threshold, labels),
                format!("False positives and false negatives of {id}"),
            )),
            Some(Picture::new(
                wrongness(p, labels),
                format!("How wrong each probability of {id} is"),
            )),
        ]);
        PictureRow {
            label: format!(
                "{id}: {why}. Dice {}, NLL {}, ECE {}",
                number(row.dice),
                number(row.nll),
                number(row.ece)
            ),
            cells,
        }
    };
    Block::Pictures(Pictures {
        id: "worst".into(),
        caption: "The images of the lowest Dice and of the highest NLL. In the last column a pixel is the brighter the more probability was given to what is not there: dark is right, and bright is wrong with confidence.".into(),
        columns: columns.into_iter().map(Into::into).collect(),
        rows: examples.iter().zip(rows).map(row).collect(),
        legend: errors_legend(),
        colour_bar: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raster::IGNORE;

    #[test]
    fn the_worst_by_either_figure_are_shown_once() {
        let row = |dice, nll| ImageRow {
            dice,
            nll: Some(nll),
            ..ImageRow::default()
        };
        let rows = [
            row(Some(0.9), 0.1),
            row(Some(0.2), 0.9),
            row(None, 0.8),
            row(Some(0.4), 0.2),
            row(Some(0.3), 0.3),
        ];
        let found = worst(&rows);
        let found: Vec<(usize, &str)> = found.iter().map(|(at, why)| (*at, why.as_str())).collect();
        assert_eq!(
            found,
            [
                (1, "lowest Dice, highest NLL"),
                (4, "lowest Dice, highest NLL"),
                (3, "lowest Dice"),
                (2, "highest NLL"),
            ]
        );
        assert!(worst(&[]).is_empty());
    }

    #[test]
    fn what_is_wrong_with_confidence_is_bright() {
        let labels = Labels {
            height: 1,
            width: 4,
            data: vec![0, 1, 1, IGNORE],
        };
        let shown = wrongness(&[0.0, 0.0, 0.75, 0.0], &labels);
        let at = |x| *shown.get_pixel(x, 0);
        assert_eq!((at(0), at(1)), (colours::heat(0.0), colours::heat(1.0)));
        assert_eq!((at(2), at(3)), (colours::heat(0.25), colours::IGNORED));
    }
}
