//! The parts that the plots share: text, axes, markers, legends.

use std::fmt::Write as _;

use image::Rgb;

use crate::report::{
    colours::{FAINT, INK, SERIES},
    document::{fixed, html, identifier, superscript},
};

/// Height of the letters of a title, of other text and of the numbers at the axes.
pub(super) const TITLE: f64 = 14.0;
pub(super) const TEXT: f64 = 12.0;
pub(super) const SMALL: f64 = 11.0;
/// Notes and numbers at the axes: dark enough to be read.
pub(super) const SOFT: &str = "#555";

/// Dashes of the series, in the order of [`SERIES`]. Five against seven colours and six markers, so that no two of the
/// first two hundred series look the same.
const DASHES: [&str; 5] = ["", "7 3", "2 3", "9 3 2 3", "4 2"];

/// A drawing that grows.
pub(super) struct Svg {
    id: String,
    text: String,
}

/// Where text stands relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

// Writing to a String cannot fail, hence every `let _ =` below.
impl Svg {
    pub(super) fn new(id: &str, title: &str, width: f64, height: f64) -> Self {
        let id = identifier(id);
        let (w, h) = (n(width), n(height));
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" id=\"{id}\" role=\"img\" aria-labelledby=\"{id}-title\" width=\"{w}\" \
             height=\"{h}\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"{}\" fill=\"{}\">\n\
             <title id=\"{id}-title\">{}</title>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>\n",
            n(TEXT),
            hex(INK),
            html(title),
        );
        Self { id, text }
    }

    pub(super) fn finish(self) -> String {
        self.text + "</svg>\n"
    }

    pub(super) fn raw(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    pub(super) fn text(&mut self, text: &str, x: f64, y: f64, anchor: Anchor, style: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let _ = writeln!(
            self.text,
            "<text x=\"{}\" y=\"{}\"{anchor}{style}>{}</text>",
            n(x),
            n(y),
            html(text)
        );
    }

    pub(super) fn heading(&mut self, text: &str, width: f64) {
        let style = format!(" font-size=\"{}\" font-weight=\"600\"", n(TITLE));
        self.text(
            &fit(text, width - 2.0 * LEFT_EDGE, TITLE * 1.06),
            LEFT_EDGE,
            19.0,
            Anchor::Start,
            &style,
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let _ = writeln!(
            self.text,
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"{style}/>",
            n(from.0),
            n(from.1),
            n(to.0),
            n(to.1)
        );
    }

    /// Begins a group that is cut off at a panel's edge; `</g>` ends it.
    pub(super) fn clip(&mut self, name: &str, panel: &Panel) {
        let id = format!("{}-{name}", self.id);
        // Markers at the edge stay whole.
        let slack = 5.0;
        let _ = writeln!(
            self.text,
            "<clipPath id=\"{id}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>\n<g clip-path=\"url(#{id})\">",
            n(panel.left - slack),
            n(panel.top - slack),
            n(panel.right - panel.left + 2.0 * slack),
            n(panel.bottom - panel.top + 2.0 * slack),
        );
    }

    /// A line through points in the look of a series, broken where a point is missing.
    pub(super) fn path(&mut self, points: &[Option<(f64, f64)>], look: Look) {
        let mut path = String::new();
        let mut pen_down = false;
        for point in points {
            if let Some((x, y)) = point {
                let command = if pen_down { 'L' } else { 'M' };
                let _ = write!(path, "{command}{} {}", n(*x), n(*y));
            }
            pen_down = point.is_some();
        }
        if !path.is_empty() {
            let _ = writeln!(
                self.text,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"{}/>",
                look.colour(),
                look.dash()
            );
        }
    }

    pub(super) fn marker(&mut self, x: f64, y: f64, look: Look) {
        let shape = look.marker(x, y);
        self.raw(&shape);
    }

    /// A whisker from one height to another, with ends.
    pub(super) fn whisker(&mut self, x: f64, low: f64, high: f64, look: Look) {
        let _ = writeln!(
            self.text,
            "<path d=\"M{x0} {h}H{x1}M{x} {h}V{l}M{x0} {l}H{x1}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1\" \
             stroke-opacity=\"0.75\"/>",
            look.colour(),
            x0 = n(x - 2.5),
            x1 = n(x + 2.5),
            x = n(x),
            h = n(high),
            l = n(low),
        );
    }

    /// Names of series with their looks, in lines no wider than the plot.
    pub(super) fn legend(&mut self, names: &[&str], top: f64, width: f64) {
        for (place, (name, (x, line))) in names.iter().zip(legend_places(names, width)).enumerate()
        {
            let y = top + LEGEND_LINE * line as f64 + 8.0;
            let look = Look(place);
            self.path(&[Some((x, y)), Some((x + SAMPLE, y))], look);
            self.marker(x + SAMPLE / 2.0, y, look);
            let text = fit(name, width - 2.0 * LEFT_EDGE - SAMPLE - 6.0, TEXT);
            self.text(&text, x + SAMPLE + 6.0, y + 4.0, Anchor::Start, "");
        }
    }
}

/// Where titles and legends begin.
pub(super) const LEFT_EDGE: f64 = 8.0;
/// Length of a line in a legend.
const SAMPLE: f64 = 30.0;
const LEGEND_LINE: f64 = 18.0;

/// Left edge and line number of every name.
fn legend_places(names: &[&str], width: f64) -> Vec<(f64, usize)> {
    let (mut x, mut line) = (LEFT_EDGE, 0);
    let mut places = Vec::new();
    for name in names {
        let needed = SAMPLE + 6.0 + width_of(name, TEXT);
        if x > LEFT_EDGE && x + needed > width - LEFT_EDGE {
            (x, line) = (LEFT_EDGE, line + 1);
        }
        places.push((x, line));
        x += needed + 14.0;
    }
    places
}

/// Height of a legend.
pub(super) fn legend_height(names: &[&str], width: f64) -> f64 {
    let lines = legend_places(names, width)
        .last()
        .map_or(0, |(_, line)| line + 1);
    LEGEND_LINE * lines as f64
}

/// How the series of a number looks.
#[derive(Clone, Copy)]
pub(super) struct Look(pub(super) usize);

impl Look {
    pub(super) fn colour(self) -> String {
        hex(SERIES[self.0 % SERIES.len()])
    }

    fn dash(self) -> String {
        match DASHES[self.0 % DASHES.len()] {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        }
    }

    fn marker(self, x: f64, y: f64) -> String {
        let paint = format!(
            "fill=\"{0}\" stroke=\"#fff\" stroke-width=\"0.6\"",
            self.colour()
        );
        let polygon = |points: &[(f64, f64)]| {
            let points: Vec<_> = points
                .iter()
                .map(|(dx, dy)| format!("{},{}", n(x + dx), n(y + dy)))
                .collect();
            format!("<polygon points=\"{}\" {paint}/>", points.join(" "))
        };
        match self.0 % 6 {
            0 => format!(
                "<circle cx=\"{}\" cy=\"{}\" r=\"3.4\" {paint}/>",
                n(x),
                n(y)
            ),
            1 => polygon(&[(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)]),
            2 => polygon(&[(0.0, -4.4), (4.1, 3.0), (-4.1, 3.0)]),
            3 => polygon(&[(0.0, -4.6), (4.6, 0.0), (0.0, 4.6), (-4.6, 0.0)]),
            4 => polygon(&[(0.0, 4.4), (4.1, -3.0), (-4.1, -3.0)]),
            _ => format!(
                "<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"#fff\" stroke=\"{}\" stroke-width=\"1.6\"/>",
                n(x),
                n(y),
                self.colour()
            ),
        }
    }
}

/// How numbers lie on an axis.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    Linear([f64; 2]),
    /// By powers of ten; both ends above 0.
    Log([f64; 2]),
}

impl Scale {
    /// A range that is none becomes 0…1.
    pub(super) fn linear([low, high]: [f64; 2]) -> Self {
        Self::Linear(if (high - low).is_finite() && low < high {
            [low, high]
        } else {
            [0.0, 1.0]
        })
    }

    /// Position of a number, 0 at the beginning of the axis and 1 at its end.
    fn share(self, value: f64) -> f64 {
        match self {
            Self::Linear([low, high]) => (value - low) / (high - low),
            Self::Log([low, high]) => (value.max(low) / low).ln() / (high / low).ln(),
        }
    }

    /// About `wanted` round numbers of the range, and how they are written.
    pub(super) fn ticks(self, wanted: usize) -> Vec<(f64, String)> {
        match self {
            Self::Linear([low, high]) => {
                let rough = (high - low) / wanted.max(1) as f64;
                let power = rough.log10().floor();
                let unit = 10_f64.powf(power);
                let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                    .into_iter()
                    .find(|step| step * unit >= rough * 0.999_999)
                    .unwrap_or(10.0);
                let decimals = (-power).max(0.0) as usize + usize::from(step == 2.5);
                let decimals = decimals.saturating_sub(usize::from(step == 10.0 && decimals > 0));
                let step = step * unit;
                let first = (low / step - 1e-9).ceil() as i64;
                let last = (high / step + 1e-9).floor() as i64;
                (first..=last)
                    .map(|tick| tick as f64 * step)
                    .map(|value| (value, fixed(value, decimals)))
                    .collect()
            }
            Self::Log([low, high]) => {
                let first = low.log10().ceil() as i32;
                let last = (high.log10() + 1e-9).floor() as i32;
                let span = (last - first).max(1) as usize;
                let every = span.div_ceil(wanted.max(1)) as i32;
                (first..=last)
                    .filter(|power| (power - first) % every == 0)
                    .map(|power| {
                        let text = match power {
                            0 => "1".into(),
                            1 => "10".into(),
                            _ => format!("10{}", superscript(power)),
                        };
                        (10_f64.powi(power), text)
                    })
                    .collect()
            }
        }
    }
}

/// A field with two axes.
pub(super) struct Panel {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    pub(super) x: Scale,
    pub(super) y: Scale,
}

impl Panel {
    pub(super) fn x(&self, value: f64) -> f64 {
        self.left + self.x.share(value) * (self.right - self.left)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.share(value) * (self.bottom - self.top)
    }

    /// The place of a point; none where a number is none, and far outside cut to where a reader's numbers still hold it.
    pub(super) fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        let near = |at: f64| at.clamp(-1e4, 1e4);
        (!x.is_nan() && !y.is_nan()).then(|| (near(self.x(x)), near(self.y(y))))
    }

    /// Grid lines with their numbers, the frame and the titles.
    pub(super) fn draw(&self, svg: &mut Svg, x_title: Option<&str>, y_title: &str) {
        let (wide, high) = (self.right - self.left, self.bottom - self.top);
        let grid = format!(
            " stroke=\"{}\" stroke-width=\"0.6\" stroke-opacity=\"0.7\"",
            hex(FAINT)
        );
        let small = format!(" font-size=\"{}\" fill=\"{SOFT}\"", n(SMALL));
        let room = if matches!(self.y, Scale::Log(_)) {
            24.0
        } else {
            38.0
        };
        for (value, text) in self.y.ticks((high / room).max(2.0) as usize) {
            let y = self.y(value);
            svg.line((self.left, y), (self.right, y), &grid);
            svg.text(&text, self.left - 6.0, y + 4.0, Anchor::End, &small);
        }
        for (value, text) in self.x.ticks((wide / 56.0).max(2.0) as usize) {
            let x = self.x(value);
            svg.line((x, self.top), (x, self.bottom), &grid);
            if x_title.is_some() {
                svg.text(&text, x, self.bottom + 15.0, Anchor::Middle, &small);
            }
        }
        let axis = format!(" stroke=\"{}\" stroke-width=\"1\"", hex(INK));
        svg.line((self.left, self.top), (self.left, self.bottom), &axis);
        svg.line((self.left, self.bottom), (self.right, self.bottom), &axis);
        if let Some(title) = x_title {
            let title = fit(title, wide + 40.0, TEXT);
            svg.text(
                &title,
                self.left + wide / 2.0,
                self.bottom + 33.0,
                Anchor::Middle,
                "",
            );
        }
        let (x, y) = (14.0, self.top + high / 2.0);
        let turned = format!(" transform=\"rotate(-90 {} {})\"", n(x), n(y));
        svg.text(
            &fit(y_title, high + 30.0, TEXT),
            x,
            y,
            Anchor::Middle,
            &turned,
        );
    }
}

/// A length or a place, to a hundredth.
pub(super) fn n(x: f64) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.into()
}

pub(super) fn hex(Rgb([r, g, b]): Rgb<u8>) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// About how wide text is in a common sans-serif font; somewhat more than less.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    let narrow = |c: char| " .,:;'|!iljft()[]/-".contains(c);
    let wide = |c: char| c.is_uppercase() || "mwMW@%−±".contains(c);
    let em = |c: char| match c {
        c if narrow(c) => 0.36,
        c if wide(c) => 0.74,
        c if c >= '\u{2e80}' => 1.05,
        _ => 0.58,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// Text cut to a width, with an ellipsis where it was cut.
pub(super) fn fit(text: &str, width: f64, size: f64) -> String {
    if width_of(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width_of(&kept, size) + width_of("m", size) > width {
            kept.pop();
            break;
        }
    }
    kept.trim_end().to_owned() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_of_the_range() {
        let texts = |scale: Scale, wanted| -> Vec<String> {
            scale
                .ticks(wanted)
                .into_iter()
                .map(|(_, text)| text)
                .collect()
        };
        assert_eq!(
            texts(Scale::linear([0.0, 1.0]), 5),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(texts(Scale::linear([-0.15, 0.07]), 4), ["−0.1", "0.0"]);
        assert_eq!(
            texts(Scale::linear([0.0, 40.0]), 4),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(
            texts(Scale::linear([0.0, 1.0]), 4),
            ["0.00", "0.25", "0.50", "0.75", "1.00"]
        );
        assert_eq!(
            texts(Scale::Log([0.5, 1e5]), 9),
            ["1", "10", "10²", "10³", "10⁴", "10⁵"]
        );
        assert_eq!(texts(Scale::Log([0.5, 1e5]), 3), ["1", "10²", "10⁴"]);
    }

    #[test]
    fn the_first_looks_are_all_different() {
        let looks: std::collections::BTreeSet<_> = (0..200)
            .map(|number| {
                let look = Look(number);
                (look.colour(), look.dash(), look.marker(0.0, 0.0))
            })
            .collect();
        assert_eq!(looks.len(), 200);
    }

    #[test]
    fn long_names_are_cut_with_an_ellipsis() {
        assert_eq!(fit("short", 100.0, TEXT), "short");
        let cut = fit(&"name ".repeat(20), 100.0, TEXT);
        assert!(cut.ends_with('…') && width_of(&cut, TEXT) <= 110.0, "{cut}");
    }
}
