//! Arrays as pictures, and pictures in rows and columns.

use std::path::Path;

use anyhow::Result;
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    canvas::Canvas,
    colours::{self, FAINT, FOUND, GREEN_FN, IGNORED, INK, LEFT_ALONE, MAGENTA_FP},
    page::{COLOUR_BAR, Pictures},
};
use crate::raster::{IGNORE, Image, Labels, NO_CLASS};

/// A picture from one plane or three, stretched from its smallest to its largest value: it is z-scored, not 0…255.
pub fn image(image: &Image) -> RgbImage {
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

/// Foreground, background and what does not count.
///
/// ```
/// use seg_train::{raster::Labels, report::{colours::{FOUND, LEFT_ALONE}, pictures::mask}};
/// let labels = Labels { height: 1, width: 2, data: vec![1, 0] };
/// assert_eq!(mask(&labels).pixels().copied().collect::<Vec<_>>(), [FOUND, LEFT_ALONE]);
/// ```
pub fn mask(labels: &Labels) -> RgbImage {
    per_pixel(
        labels,
        |_, label| if label == 0 { LEFT_ALONE } else { FOUND },
    )
}

/// A map of probabilities in the colours of [`colours::heat`]. A pixel without a probability is one that does not count.
pub fn heat(p: &[f32], width: usize, height: usize) -> RgbImage {
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let p = p.get(y as usize * width + x as usize);
        p.map_or(IGNORED, |&p| colours::heat(p))
    })
}

/// Right and wrong on the darkened image, as the paper's Figure 4 shows them: false positives magenta, false negatives
/// green, true positives nearly white. Foreground is where the probability is at least `threshold`; of a mask give its
/// zeros and ones and 0.5.
///
/// The four differ in lightness too: on a grey printer the background is darkest, then magenta, green, white.
pub fn errors(image: &Image, p: &[f32], threshold: f32, labels: &Labels) -> RgbImage {
    let below = self::image(image);
    per_pixel(labels, |pixel, label| {
        let (x, y) = ((pixel % labels.width) as u32, (pixel / labels.width) as u32);
        let grey = below
            .get_pixel_checked(x, y)
            .map_or(0.0, |Rgb(channels)| luma(*channels));
        match (label != 0, p[pixel] >= threshold) {
            (true, true) => on_grey(Rgb([255; 3]), grey, 0.85),
            (true, false) => on_grey(GREEN_FN, grey, 0.9),
            (false, true) => on_grey(MAGENTA_FP, grey, 0.9),
            (false, false) => on_grey(Rgb([0; 3]), grey, 0.6),
        }
    })
}

/// What the colours of [`mask`] mean.
pub fn mask_legend() -> Vec<(Rgb<u8>, String)> {
    named([
        (FOUND, "foreground"),
        (LEFT_ALONE, "background"),
        (IGNORED, "not counted"),
    ])
}

/// What the colours of [`errors`] mean.
pub fn errors_legend() -> Vec<(Rgb<u8>, String)> {
    named([
        (on_grey(Rgb([255; 3]), 128.0, 0.85), "true positive"),
        (MAGENTA_FP, "false positive"),
        (GREEN_FN, "false negative"),
        (IGNORED, "not counted"),
    ])
}

fn named<const N: usize>(meanings: [(Rgb<u8>, &str); N]) -> Vec<(Rgb<u8>, String)> {
    meanings.map(|(colour, name)| (colour, name.into())).into()
}

/// Brightness as a grey printer would have it (ITU-R BT.601).
fn luma([r, g, b]: [u8; 3]) -> f32 {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)
}

/// A colour over grey, and how much of it.
fn on_grey(Rgb(colour): Rgb<u8>, grey: f32, opacity: f32) -> Rgb<u8> {
    Rgb(colour.map(|c| (f32::from(c) * opacity + grey * (1.0 - opacity)).round() as u8))
}

pub(super) fn per_pixel(labels: &Labels, colour: impl Fn(usize, u8) -> Rgb<u8>) -> RgbImage {
    RgbImage::from_fn(labels.width as u32, labels.height as u32, |x, y| {
        let pixel = y as usize * labels.width + x as usize;
        match labels.data[pixel] {
            IGNORE | NO_CLASS => IGNORED,
            label => colour(pixel, label),
        }
    })
}

pub(super) const GAP: u32 = 8;
pub(super) const LINE: u32 = 20;

/// Pictures in rows and columns, each row under its caption, and a legend below.
pub(super) struct Sheet<'a> {
    pub(super) title: &'a str,
    pub(super) columns: &'a [String],
    pub(super) rows: Vec<SheetRow<'a>>,
    pub(super) legend: &'a [(Rgb<u8>, String)],
    /// What the bar from 0 to 1 shows; none for no bar.
    pub(super) bar: Option<&'a str>,
    /// Width of a column, in pixels.
    pub(super) cell: u32,
}

pub(super) struct SheetRow<'a> {
    pub(super) caption: &'a str,
    pub(super) cells: Vec<Option<&'a RgbImage>>,
    pub(super) height: u32,
}

impl Sheet<'_> {
    /// Draws it and writes it as PNG.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let step = self.cell + GAP;
        let width = GAP + self.columns.len().max(1) as u32 * step;
        let places = self.legend_places(width)?;
        let legend_lines = places.last().map_or(0, |(_, line)| line + 1);
        let body: u32 = self.rows.iter().map(|row| LINE + row.height + GAP).sum();
        let title = if self.title.is_empty() { 0 } else { LINE + 4 };
        let top = GAP + title + LINE + 4;
        let bar = u32::from(self.bar.is_some());
        let mut canvas = Canvas::new(width, top + body + (legend_lines + bar) * LINE + GAP);

        canvas.text(self.title, GAP, GAP, 17, INK)?;
        let left = |column: usize| GAP + column as u32 * step;
        for (column, name) in self.columns.iter().enumerate() {
            let name = Canvas::fitted(name, 14, self.cell)?;
            canvas.text(&name, left(column), GAP + title + 2, 14, INK)?;
        }
        let mut y = top;
        for row in &self.rows {
            let caption = Canvas::fitted(row.caption, 13, width - 2 * GAP)?;
            canvas.text(&caption, GAP, y + 3, 13, INK)?;
            for (column, cell) in row.cells.iter().enumerate() {
                let Some(cell) = cell.filter(|cell| cell.width() > 0 && cell.height() > 0) else {
                    continue;
                };
                // Smoothing would invent probabilities and labels that nobody predicted or drew.
                let filter = if column == 0 && cell.width() > self.cell {
                    FilterType::Triangle
                } else {
                    FilterType::Nearest
                };
                let shown = imageops::resize(cell, self.cell, row.height, filter);
                canvas.paste(&shown, left(column), y + LINE);
            }
            y += LINE + row.height + GAP;
        }
        for ((colour, meaning), (x, line)) in self.legend.iter().zip(places) {
            let y = y + line * LINE;
            // A rim, without which white would be lost on paper.
            canvas.paste(&RgbImage::from_pixel(14, 14, FAINT), x - 1, y + 2);
            canvas.paste(&RgbImage::from_pixel(12, 12, *colour), x, y + 3);
            let meaning = Canvas::fitted(meaning, 13, width.saturating_sub(3 * GAP + 17))?;
            canvas.text(&meaning, x + 17, y + 2, 13, INK)?;
        }
        if let Some(name) = self.bar {
            let y = y + legend_lines * LINE;
            let name = format!("{name} 0");
            let x = GAP + Canvas::width_of(&name, 13)? + 6;
            let bar = RgbImage::from_fn(120, 12, |x, _| colours::heat(x as f32 / 119.0));
            canvas.text(&name, GAP, y + 2, 13, INK)?;
            canvas.paste(&bar, x, y + 3);
            canvas.text("1", x + 126, y + 2, 13, INK)?;
        }
        canvas.save(path)
    }

    /// Left edge and line number of every colour of the legend.
    fn legend_places(&self, width: u32) -> Result<Vec<(u32, u32)>> {
        let (mut x, mut line) = (GAP, 0);
        let mut places = Vec::new();
        for (_, meaning) in self.legend {
            let needed = 17 + Canvas::width_of(meaning, 13)?;
            if x > GAP && x + needed > width - GAP {
                (x, line) = (GAP, line + 1);
            }
            places.push((x, line));
            x += needed + 14;
        }
        Ok(places)
    }
}

/// Writes a figure of pictures as one PNG: its columns, rows, legend and colour bar, without its caption, which a paper
/// sets itself.
///
/// # Errors
///
/// When the picture cannot be drawn or written.
pub fn save_pictures(pictures: &Pictures, path: &Path) -> Result<()> {
    let all = || pictures.rows.iter().flat_map(|row| &row.cells).flatten();
    let width = all()
        .map(|cell| cell.image.width())
        .max()
        .unwrap_or(1)
        .max(1);
    // At least 256, and whole pixels of the largest picture.
    let cell = width * 256_u32.div_ceil(width);
    let rows = pictures.rows.iter().map(|row| {
        let cells: Vec<_> = row
            .cells
            .iter()
            .map(|cell| cell.as_ref().map(|cell| &cell.image))
            .collect();
        let heights = cells.iter().flatten().map(|image| {
            let (width, height) = image.dimensions();
            cell * height / width.max(1)
        });
        SheetRow {
            caption: &row.label,
            height: heights.max().unwrap_or(1).max(1),
            cells,
        }
    });
    let mut columns = pictures.columns.clone();
    columns.resize(pictures.width(), String::new());
    Sheet {
        title: "",
        columns: &columns,
        rows: rows.collect(),
        legend: &pictures.legend,
        bar: pictures.colour_bar.then_some(COLOUR_BAR),
        cell,
    }
    .save(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::{Picture, PictureRow};

    #[test]
    fn right_and_wrong_have_the_colours_of_the_papers_figure() {
        let image = Image {
            channels: 1,
            height: 1,
            width: 5,
            data: vec![1.0, 0.0, 0.0, 1.0, 0.5],
        };
        let labels = Labels {
            height: 1,
            width: 5,
            data: vec![1, 1, 0, 0, IGNORE],
        };
        let shown = errors(&image, &[0.5, 0.49, 0.5, 0.49, 1.0], 0.5, &labels);
        let at = |x| shown.get_pixel(x, 0).0;
        assert_eq!(at(0), [255; 3]);
        assert_eq!(at(1), [108, 207, 81], "green where foreground was missed");
        assert_eq!(
            at(2),
            [180, 0, 126],
            "magenta where background was taken for it"
        );
        assert_eq!(at(3), [102; 3], "the darkened image elsewhere");
        assert_eq!(at(4), IGNORED.0);
    }

    #[test]
    fn false_positives_and_negatives_differ_in_grey_too() {
        let shades = [Rgb([255; 3]), GREEN_FN, MAGENTA_FP].map(|Rgb(colour)| luma(colour));
        assert!(
            shades[0] - shades[1] > 60.0 && shades[1] - shades[2] > 80.0,
            "{shades:?}"
        );
        // The image below is drawn at no more than two fifths of its brightness.
        for grey in [0.0, 255.0] {
            let of = |colour: Rgb<u8>| luma(on_grey(colour, grey, 0.9).0);
            assert!(of(GREEN_FN) - of(MAGENTA_FP) > 80.0);
        }
    }

    #[test]
    fn a_figure_is_drawn_with_gaps_long_names_and_small_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("figure.png");
        let picture = |w, h| Some(Picture::new(RgbImage::new(w, h), ""));
        let figure = Pictures {
            id: "figure".into(),
            caption: "not drawn".into(),
            columns: vec![
                "a name far longer than the picture below it is wide".into(),
                "b".into(),
            ],
            rows: vec![
                PictureRow {
                    label: "x".repeat(300),
                    cells: vec![picture(100, 50), None],
                },
                PictureRow {
                    label: String::new(),
                    cells: vec![None, picture(20, 20), picture(0, 0)],
                },
            ],
            legend: errors_legend(),
            colour_bar: true,
        };
        save_pictures(&figure, &path).unwrap();
        let (width, height) = image::image_dimensions(&path).unwrap();
        // Three columns of three times a hundred pixels; column names, both rows, one line of legend, the bar.
        assert_eq!(width, GAP + 3 * (300 + GAP));
        assert_eq!(
            height,
            GAP + (LINE + 4) + (LINE + 150 + GAP) + (LINE + 300 + GAP) + 2 * LINE + GAP
        );
        save_pictures(&Pictures::default(), &path).unwrap();
    }

    #[test]
    fn a_map_too_short_shows_where_nothing_is_known() {
        let colours: Vec<_> = heat(&[0.0], 2, 1).pixels().copied().collect();
        assert_eq!(colours, [colours::heat(0.0), IGNORED]);
    }
}
