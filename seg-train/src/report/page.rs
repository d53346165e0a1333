//! A report as one HTML file that needs nothing beside it, and as Markdown.
//!
//! The HTML holds its style and its pictures, runs nothing and fetches nothing; a browser that heeds its
//! `Content-Security-Policy` would not let it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, codecs::png};

use super::{
    colours,
    document::{Table, html, identifier, markdown, markdown_paragraph},
    pictures::save_pictures,
};
use crate::store;

/// A report.
///
/// ```
/// use seg_train::report::page::{Block, Page, Section};
/// let page = Page {
///     title: "Losses".into(),
///     lead: vec![Block::Text("Five losses, compared.".into())],
///     sections: vec![Section {
///         id: "how".into(),
///         title: "How".into(),
///         blocks: vec![Block::List(vec!["train".into(), "test".into()])],
///     }],
/// };
/// assert!(page.html().contains("<a href=\"#how\">How</a>"));
/// assert_eq!(page.markdown(), "# Losses\n\nFive losses, compared.\n\n## How\n\n- train\n- test\n");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What it is about; the title of the browser's window too.
    pub title: String,
    /// What comes before the table of contents: what was found.
    pub lead: Vec<Block>,
    /// The sections, which the table of contents lists.
    pub sections: Vec<Section>,
}

/// A section of a [`Page`].
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its HTML id, which the table of contents links to.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A part of a [`Page`]. All text is shown as it is given; it holds no markup.
#[derive(Clone, Debug)]
pub enum Block {
    /// Paragraphs, with empty lines between them.
    Text(String),
    /// A list with dots.
    List(Vec<String>),
    /// Commands or a file, line by line.
    Code(String),
    /// A table.
    Table(Table),
    /// Plots beside each other, as far as there is room.
    Plots {
        /// HTML id of the figure, and the stem of the files that [`Page::save_figures`] writes.
        id: String,
        /// The plots, as the functions of [`plot`](super::plot) draw them.
        plots: Vec<String>,
        /// What they show.
        caption: String,
    },
    /// A figure of pictures.
    Pictures(Pictures),
}

/// Pictures in rows and columns.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// HTML id of the figure, and the stem of the file that [`Page::save_figures`] writes.
    pub id: String,
    /// What it shows.
    pub caption: String,
    /// What stands above each column.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<PictureRow>,
    /// What the colours mean.
    pub legend: Vec<(Rgb<u8>, String)>,
    /// Whether a bar explains the colours of [`colours::heat`].
    pub colour_bar: bool,
}

/// A row of [`Pictures`].
#[derive(Clone, Debug, Default)]
pub struct PictureRow {
    /// What stands beside it.
    pub label: String,
    /// Its pictures; `None` where there is none.
    pub cells: Vec<Option<Picture>>,
}

/// A picture and what it shows, for those who cannot see it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The picture.
    pub image: RgbImage,
    /// What it shows.
    pub alt: String,
}

impl Picture {
    /// A picture with its description.
    pub fn new(image: RgbImage, alt: impl Into<String>) -> Self {
        Self {
            image,
            alt: alt.into(),
        }
    }
}

/// What the colour bar shows.
pub(super) const COLOUR_BAR: &str = "softmax probability";

// Writing to a String cannot fail, hence every `let _ =` below.
impl Page {
    /// The page in one file.
    pub fn html(&self) -> String {
        let title = html(&self.title);
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light\">\n\
             <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n",
            include_str!("page/page.css"),
        );
        for block in &self.lead {
            block.html(&mut text);
        }
        text.push_str("</header>\n");
        if !self.sections.is_empty() {
            text.push_str("<nav aria-label=\"Contents\">\n<h2>Contents</h2>\n<ol>\n");
            for section in &self.sections {
                let (id, title) = (identifier(&section.id), html(&section.title));
                let _ = writeln!(text, "<li><a href=\"#{id}\">{title}</a></li>");
            }
            text.push_str("</ol>\n</nav>\n");
        }
        text.push_str("<main>\n");
        for section in &self.sections {
            let (id, title) = (identifier(&section.id), html(&section.title));
            let _ = writeln!(
                text,
                "<section id=\"{id}\" aria-labelledby=\"{id}-heading\">\n<h2 id=\"{id}-heading\">{title}</h2>"
            );
            for block in &section.blocks {
                block.html(&mut text);
            }
            text.push_str("</section>\n");
        }
        text + "</main>\n</body>\n</html>\n"
    }

    /// The page as Markdown. Figures are links to the files that [`Page::save_figures`] writes, in the same folder.
    pub fn markdown(&self) -> String {
        let mut parts = vec![format!("# {}\n", markdown(&self.title))];
        parts.extend(self.lead.iter().map(Block::markdown));
        for section in &self.sections {
            parts.push(format!("## {}\n", markdown(&section.title)));
            parts.extend(section.blocks.iter().map(Block::markdown));
        }
        parts.join("\n")
    }

    /// Writes every figure into a folder: `ID.svg` or, of several plots, `ID-1.svg` and so on; `ID.png` of pictures.
    /// Returns the names.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn save_figures(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let sections = self.sections.iter().flat_map(|section| &section.blocks);
        let mut written = Vec::new();
        for block in self.lead.iter().chain(sections) {
            match block {
                Block::Plots { id, plots, .. } => {
                    for (name, plot) in plot_files(id, plots.len()).into_iter().zip(plots) {
                        store::write(&folder.join(&name), plot.as_bytes())?;
                        written.push(name.into());
                    }
                }
                Block::Pictures(pictures) => {
                    let name = picture_file(pictures);
                    save_pictures(pictures, &folder.join(&name))?;
                    written.push(name.into());
                }
                _ => {}
            }
        }
        Ok(written)
    }
}

fn plot_files(id: &str, plots: usize) -> Vec<String> {
    let id = identifier(id);
    match plots {
        1 => vec![format!("{id}.svg")],
        _ => (1..=plots).map(|n| format!("{id}-{n}.svg")).collect(),
    }
}

fn picture_file(pictures: &Pictures) -> String {
    format!("{}.png", identifier(&pictures.id))
}

/// Paragraphs: what lies between empty lines.
fn paragraphs(text: &str) -> impl Iterator<Item = String> {
    let mut paragraphs = vec![String::new()];
    for line in text.lines() {
        match paragraphs.last_mut() {
            Some(last) if !line.trim().is_empty() => {
                let between = if last.is_empty() { "" } else { "\n" };
                let _ = write!(last, "{between}{line}");
            }
            _ => paragraphs.push(String::new()),
        }
    }
    paragraphs.into_iter().filter(|text| !text.is_empty())
}

impl Block {
    fn html(&self, text: &mut String) {
        match self {
            Self::Text(words) => {
                for paragraph in paragraphs(words) {
                    let _ = writeln!(text, "<p>{}</p>", html(&paragraph));
                }
            }
            Self::List(items) => {
                text.push_str("<ul>\n");
                for item in items {
                    let _ = writeln!(text, "<li>{}</li>", html(item));
                }
                text.push_str("</ul>\n");
            }
            Self::Code(code) => {
                let code = html(code.trim_end());
                let _ = writeln!(
                    text,
                    "<pre class=\"scroll\" tabindex=\"0\"><code>{code}</code></pre>"
                );
            }
            Self::Table(table) => text.push_str(&table.html()),
            Self::Plots { id, plots, caption } => {
                let (id, caption) = (identifier(id), html(caption));
                let _ = writeln!(
                    text,
                    "<figure class=\"plots\" id=\"{id}\">\n<div class=\"row\">"
                );
                for plot in plots {
                    let _ = writeln!(text, "<div class=\"scroll\">{}</div>", plot.trim_end());
                }
                let _ = writeln!(
                    text,
                    "</div>\n<figcaption>{caption}</figcaption>\n</figure>"
                );
            }
            Self::Pictures(pictures) => pictures.html(text),
        }
    }

    fn markdown(&self) -> String {
        let figure = |file: &str, alt: &str| format!("![{}]({file})\n", markdown(alt));
        match self {
            Self::Text(text) => paragraphs(text)
                .map(|paragraph| markdown_paragraph(&paragraph) + "\n")
                .collect::<Vec<_>>()
                .join("\n"),
            Self::List(items) => items
                .iter()
                .map(|item| "- ".to_owned() + &markdown_paragraph(item) + "\n")
                .collect(),
            Self::Code(code) => {
                let code = code.trim_end();
                let fence = "`".repeat(longest_run(code, '`').max(2) + 1);
                format!("{fence}text\n{code}\n{fence}\n")
            }
            Self::Table(table) => table.markdown(),
            Self::Plots { id, plots, caption } => {
                let files = plot_files(id, plots.len());
                let figures: String = files.iter().map(|file| figure(file, file)).collect();
                format!("{figures}\n{}\n", markdown_paragraph(caption))
            }
            Self::Pictures(pictures) => {
                let file = picture_file(pictures);
                format!(
                    "{}\n{}\n",
                    figure(&file, &file),
                    markdown_paragraph(&pictures.caption)
                )
            }
        }
    }
}

/// Length of the longest run of a character.
fn longest_run(text: &str, c: char) -> usize {
    text.split(|other| other != c)
        .map(str::len)
        .max()
        .unwrap_or(0)
}

impl Pictures {
    fn html(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "<figure class=\"pictures\" id=\"{}\">\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">\n<table>",
            identifier(&self.id),
            html(&self.caption)
        );
        let labelled = self.rows.iter().any(|row| !row.label.is_empty());
        text.push_str(if labelled {
            "<thead><tr><td></td>"
        } else {
            "<thead><tr>"
        });
        for column in &self.columns {
            let _ = write!(text, "<th scope=\"col\">{}</th>", html(column));
        }
        text.push_str("</tr></thead>\n<tbody>\n");
        let shown = self.shown_width();
        for row in &self.rows {
            text.push_str("<tr>");
            if labelled {
                let _ = write!(text, "<th scope=\"row\">{}</th>", html(&row.label));
            }
            for place in 0..self.width() {
                let cell = row.cells.get(place).and_then(Option::as_ref);
                match cell.and_then(|cell| Some((cell, data_url(&cell.image)?))) {
                    Some((cell, url)) => {
                        let (width, height) = cell.image.dimensions();
                        let high = (shown * height + width / 2) / width;
                        let _ = write!(
                            text,
                            "\n<td><img src=\"{url}\" width=\"{shown}\" height=\"{}\" alt=\"{}\"></td>",
                            high.max(1),
                            html(&cell.alt)
                        );
                    }
                    None => text.push_str("\n<td class=\"none\">–</td>"),
                }
            }
            text.push_str("</tr>\n");
        }
        text.push_str("</tbody>\n</table>\n</div>\n");
        self.legend_html(text);
        let _ = writeln!(
            text,
            "<figcaption>{}</figcaption>\n</figure>",
            html(&self.caption)
        );
    }

    fn legend_html(&self, text: &mut String) {
        if self.legend.is_empty() && !self.colour_bar {
            return;
        }
        text.push_str("<ul class=\"legend\">\n");
        for (Rgb([r, g, b]), meaning) in &self.legend {
            let _ = writeln!(
                text,
                "<li><svg width=\"14\" height=\"14\" aria-hidden=\"true\"><rect x=\"0.5\" y=\"0.5\" width=\"13\" height=\"13\" \
                 fill=\"#{r:02x}{g:02x}{b:02x}\" stroke=\"#777\"/></svg> {}</li>",
                html(meaning)
            );
        }
        if self.colour_bar {
            let bar = RgbImage::from_fn(256, 1, |x, _| colours::heat(x as f32 / 255.0));
            let _ = writeln!(
                text,
                "<li class=\"bar\"><span>0</span> <img src=\"{}\" width=\"160\" height=\"12\" alt=\"from black through purple \
                 and orange to pale yellow\"> <span>1</span> {COLOUR_BAR}</li>",
                data_url(&bar).unwrap_or_default()
            );
        }
        text.push_str("</ul>\n");
    }

    /// Number of columns, with those that only a row's length speaks of.
    pub(super) fn width(&self) -> usize {
        let cells = self.rows.iter().map(|row| row.cells.len());
        cells.max().unwrap_or(0).max(self.columns.len())
    }

    /// Width of every picture on the page, in its pixels: about 200, less where that many do not fit beside each other, and
    /// whole pixels where pictures are small.
    fn shown_width(&self) -> u32 {
        let cells = self.rows.iter().flat_map(|row| &row.cells).flatten();
        let width = cells
            .map(|cell| cell.image.width())
            .max()
            .unwrap_or(1)
            .max(1);
        // What a page of 1200 pixels has for each, the rows' labels and the gaps taken off.
        let room = (1080 / self.width().max(1) as u32).clamp(96, 256);
        if width <= 100 {
            width * (room.min(200) / width).max(1)
        } else if width <= room {
            width
        } else {
            width.div_ceil(width.div_ceil(room))
        }
    }
}

/// A picture as PNG within an address; `None` for one without pixels.
fn data_url(image: &RgbImage) -> Option<String> {
    let mut bytes = Vec::new();
    png::PngEncoder::new_with_quality(
        &mut bytes,
        png::CompressionType::Best,
        png::FilterType::Adaptive,
    )
    .write_image(
        image.as_raw(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )
    .ok()?;
    Some(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{
        document::{Cell, Column, Kind, Row},
        pictures,
        plot::tests::{HOSTILE, demo, ids_of_well_formed},
    };

    /// A disc with a soft rim: an image, its labels, and two networks' probabilities.
    fn disc(
        size: usize,
    ) -> (
        crate::raster::Image,
        crate::raster::Labels,
        Vec<f32>,
        Vec<f32>,
    ) {
        let at = |x: f32, y: f32| ((x - 0.45).powi(2) + (y - 0.5).powi(2)).sqrt();
        let pixels = || {
            (0..size * size).map(move |pixel| {
                let to = |n: usize| (n as f32 + 0.5) / size as f32;
                (to(pixel % size), to(pixel / size))
            })
        };
        let noise = |x: f32, y: f32| ((x * 91.7).sin() * (y * 77.3).cos() * 43.5).sin() * 0.12;
        let data = pixels()
            .map(|(x, y)| 0.9 - at(x, y) + noise(x, y))
            .collect();
        let labels = pixels().map(|(x, y)| u8::from(at(x, y) < 0.28)).collect();
        let soft = |sharp: f32, moved: f32| {
            let p = move |(x, y)| 1.0 / (1.0 + ((at(x - moved, y) - 0.28) * sharp).exp());
            pixels().map(p).collect()
        };
        (
            crate::raster::Image {
                channels: 1,
                height: size,
                width: size,
                data,
            },
            crate::raster::Labels {
                height: size,
                width: size,
                data: labels,
            },
            soft(200.0, 0.05),
            soft(20.0, 0.03),
        )
    }

    fn shown() -> Pictures {
        let (image, labels, sharp, soft) = disc(128);
        let heat = |p: &[f32], name: &str| {
            Some(Picture::new(
                pictures::heat(p, 128, 128),
                format!("softmax of {name}"),
            ))
        };
        let errors = |p: &[f32], name: &str| {
            let errors = pictures::errors(&image, p, 0.5, &labels);
            Some(Picture::new(errors, format!("errors of {name}")))
        };
        let given = || {
            [
                Some(Picture::new(pictures::image(&image), "the image")),
                Some(Picture::new(pictures::mask(&labels), "the truth")),
            ]
        };
        let row = |label: &str, cells: [Option<Picture>; 3]| PictureRow {
            label: label.into(),
            cells: given().into_iter().chain(cells).collect(),
        };
        Pictures {
            id: "figure-3".into(),
            caption: format!("Figure 3. Predictions of every loss on two test images. {HOSTILE}"),
            columns: ["image", "truth", "DSC", "DSC++ (γ = 2)", HOSTILE]
                .map(String::from)
                .to_vec(),
            rows: vec![
                row(
                    "phantom 17",
                    [heat(&sharp, "DSC"), heat(&soft, "DSC++"), None],
                ),
                row(
                    HOSTILE,
                    [errors(&sharp, "DSC"), errors(&soft, "\"DSC++\""), None],
                ),
            ],
            legend: pictures::errors_legend(),
            colour_bar: true,
        }
    }

    fn table() -> Table {
        let losses = [
            "CE",
            "DSC",
            "DSC++",
            "Tversky",
            "Tversky++",
            "Combo",
            "Combo++",
        ];
        let mut rows = Vec::new();
        for data in ["DRIVE", "BUS2017", HOSTILE] {
            for (n, loss) in losses.into_iter().enumerate() {
                let mut row = Row::of([
                    data.into(),
                    loss.into(),
                    Cell::new("0.204 (0.177 to 0.231)"),
                    if n == 2 {
                        Cell::new("0.812 (0.801 to 0.823)").strong().marks("*†")
                    } else {
                        Cell::new("0.798 (0.789 to 0.807)")
                    },
                    Cell::new("0.75"),
                    Cell::new("3·10⁻⁵"),
                    Cell::new(format!("{} min", 12 + n)).kind(Kind::Time),
                    Cell::new(if n == 1 { "in 2 of 3 data sets" } else { "" })
                        .kind([Kind::Holds, Kind::Fails, Kind::Undecided, Kind::NotRun][n % 4]),
                ]);
                row.group = n == 0;
                rows.push(row);
            }
        }
        Table {
            name: "table-iv".into(),
            title: "Table IV. Calibration and Dice of every loss on every data set: mean over the test images and its 95 % interval".into(),
            columns: vec![
                Column::left("data set"),
                Column::left("loss"),
                Column::right("NLL ↓ [nats]"),
                Column::right("Dice ↑"),
                Column::right("precision ↑"),
                Column::right("p"),
                Column::right("training"),
                Column::left("claim"),
            ],
            rows,
            notes: vec![
                "Bold: the best of its data set. * p < 0.05 against DSC, † against CE; two-sided rank-sum test over the images.".into(),
                HOSTILE.into(),
            ],
        }
    }

    /// Every kind of block, with hostile names in all of them.
    fn page() -> Page {
        let words = "The Dice loss is robust to class imbalance, but its predictions are overconfident. DSC++ raises what is \
                     wrong and unsure to a power γ, so that a network is no longer rewarded for certainty that it does not have. \
                     Here that is trained again, on data that anybody can make, and compared claim by claim.";
        let [lines, histogram, reliability, intervals] = demo();
        let panels = |n: usize| {
            let renamed = |k: usize| {
                histogram
                    .replace("\"histogram", &format!("\"histogram-{k}"))
                    .replace("#histogram", &format!("#histogram-{k}"))
            };
            (0..n).map(renamed).collect::<Vec<_>>()
        };
        let second = lines
            .replace("thresholds", "thresholds-dsc")
            .replace("DSC++, DRIVE", "DSC, DRIVE");
        Page {
            title: format!("Calibrated segmentation with DSC++ {HOSTILE}"),
            lead: vec![
                Block::Text(words.into()),
                Block::Table(Table {
                    name: "claims".into(),
                    title: "What was found".into(),
                    columns: vec![Column::left("claim"), Column::left("verdict"), Column::right("difference")],
                    rows: vec![
                        Row::of(["DSC++ lowers the NLL".into(), Cell::new("").kind(Kind::Holds), "−0.11 (−0.15 to −0.07)".into()]),
                        Row::of(["Dice stays the same".into(), Cell::new("").kind(Kind::Undecided), "0.004 (−0.009 to 0.017)".into()]),
                        Row::of(["CE has the worst Dice".into(), Cell::new("on 2 of 3").kind(Kind::Fails), "0.02 (0.01 to 0.03)".into()]),
                        Row::of(["DRIVE is as the paper says".into(), Cell::new("").kind(Kind::NotRun), "–".into()]),
                    ],
                    notes: vec![],
                }),
            ],
            sections: vec![
                Section {
                    id: "tables".into(),
                    title: "Tables".into(),
                    blocks: vec![Block::Text(format!("{words}\n\n- {HOSTILE}")), Block::Table(table())],
                },
                Section {
                    id: "figures".into(),
                    title: "Figures & plots".into(),
                    blocks: vec![
                        Block::Pictures(shown()),
                        Block::Plots {
                            id: "figure-2".into(),
                            plots: panels(4),
                            caption: "Figure 2. Number of pixels by softmax probability, by γ.".into(),
                        },
                        Block::Plots {
                            id: "figure-4".into(),
                            plots: vec![lines, second],
                            caption: "Figure 4. Recall, precision and Dice by threshold; bars are 95 % intervals.".into(),
                        },
                        Block::Plots {
                            id: "more".into(),
                            plots: vec![reliability, intervals],
                            caption: format!("Reliability and paired differences. {HOSTILE}"),
                        },
                    ],
                },
                Section {
                    id: "how <to> repeat".into(),
                    title: format!("How to repeat it {HOSTILE}"),
                    blocks: vec![
                        Block::List(vec!["Build it.".into(), format!("1. {HOSTILE}"), words.into()]),
                        Block::Code(format!("cargo run --release -p seg-train -- reproduce --data phantom --losses ce,dice,dice++ --out runs/reproduce --seeds 5\n``` {HOSTILE}\n")),
                    ],
                },
            ],
        }
    }

    #[test]
    fn the_page_is_well_formed_and_holds_every_id_once() {
        let html = page().html();
        if let Some(path) = std::env::var_os("REPORT_DEMO") {
            std::fs::write(path, &html).unwrap();
        }
        let body = html.split_once("<body>").unwrap().1;
        let body = body.split_once("</body>").unwrap().0;
        // Images are the one element without an end that the page uses.
        let mut closed = String::new();
        for part in body.split_inclusive('>') {
            closed.push_str(part.trim_end_matches('>'));
            closed.push_str(if part.contains("<img ") {
                "/>"
            } else {
                &part[part.trim_end_matches('>').len()..]
            });
        }
        let ids = ids_of_well_formed(&closed);
        for id in [
            "claims",
            "tables",
            "table-iv",
            "figure-3",
            "figure-4",
            "thresholds-dsc",
            "how--to--repeat",
        ] {
            assert!(ids.iter().any(|have| have == id), "{id} of {ids:?}");
        }
        for link in body.split("href=\"#").skip(1) {
            let target = link.split('"').next().unwrap();
            assert!(ids.iter().any(|id| id == target), "#{target}");
        }
    }

    #[test]
    fn the_page_asks_for_nothing_beyond_itself_and_runs_nothing() {
        let html = page().html().replace("http://www.w3.org/2000/svg", "");
        let html = html.replace("http-equiv", "");
        for never in [
            "http",
            "<script",
            "@import",
            "url(//",
            "javascript:",
            "onload",
            "//cdn",
        ] {
            assert!(!html.contains(never), "{never}");
        }
        for source in html.split("src=\"").skip(1) {
            assert!(
                source.starts_with("data:image/png;base64,"),
                "{}",
                &source[..40]
            );
        }
    }

    #[test]
    fn the_same_page_is_the_same_bytes() {
        assert!(page().html() == page().html());
    }

    #[test]
    fn markdown_names_the_files_that_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let page = page();
        let mut written: Vec<_> = page
            .save_figures(dir.path())
            .unwrap()
            .into_iter()
            .map(|path| path.to_str().unwrap().to_owned())
            .collect();
        let markdown = page.markdown();
        if let Some(path) = std::env::var_os("REPORT_DEMO") {
            let folder = Path::new(&path).parent().unwrap();
            std::fs::write(folder.join("demo.md"), &markdown).unwrap();
            page.save_figures(folder).unwrap();
        }
        let mut named: Vec<_> = markdown
            .split("](")
            .skip(1)
            .map(|link| link.split(')').next().unwrap().to_owned())
            .collect();
        named.retain(|name| name.contains('.'));
        written.sort();
        named.sort();
        assert_eq!(named, written);
        assert_eq!(written.len(), 9);
        for name in written {
            assert!(
                dir.path().join(&name).metadata().unwrap().len() > 0,
                "{name}"
            );
        }
    }

    #[test]
    fn markdown_keeps_text_from_becoming_markup() {
        let page = Page {
            title: "a # b".into(),
            lead: vec![
                Block::Text("- no list\n\n# no heading\nnext".into()),
                Block::List(vec!["1. one".into()]),
                Block::Code("a\n```\nb\n".into()),
            ],
            sections: vec![],
        };
        assert_eq!(
            page.markdown(),
            "# a \\# b\n\n\\- no list\n\n\\# no heading next\n\n- 1\\. one\n\n````text\na\n```\nb\n````\n"
        );
    }

    #[test]
    fn a_picture_has_its_size_and_its_description() {
        let mut text = String::new();
        let picture = Picture::new(RgbImage::new(50, 25), "a \"picture\"");
        Pictures {
            rows: vec![PictureRow {
                label: "row".into(),
                cells: vec![
                    Some(picture),
                    None,
                    Some(Picture::new(RgbImage::new(0, 0), "")),
                ],
            }],
            ..Pictures::default()
        }
        .html(&mut text);
        assert!(
            text.contains("width=\"200\" height=\"100\" alt=\"a &quot;picture&quot;\""),
            "{text}"
        );
        assert_eq!(text.matches("class=\"none\"").count(), 2, "{text}");
    }
}
