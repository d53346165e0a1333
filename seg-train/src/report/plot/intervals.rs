//! Estimates and their intervals, row by row.

use super::svg::{Anchor, Panel, SMALL, SOFT, Scale, Svg, TEXT, fit, hex, n, width_of};
use crate::report::{
    colours::{FAINT, INK, SERIES},
    document::rounded,
};

/// Estimates with their intervals, one below the other, about a line at zero: a forest plot, say of paired differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intervals {
    /// What its ids begin with.
    pub id: String,
    /// What stands above it.
    pub title: String,
    /// What is estimated, with its unit.
    pub x_title: String,
    /// What a negative number means, or nothing.
    pub less: String,
    /// What a positive number means, or nothing.
    pub more: String,
    /// The rows.
    pub rows: Vec<Estimate>,
}

/// A row of [`Intervals`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// What it is of.
    pub label: String,
    /// The estimate; NaN where there is none.
    pub estimate: f64,
    /// Its interval.
    pub interval: Option<[f64; 2]>,
    /// Whether a rule stands above it, because another group begins.
    pub group: bool,
}

const WIDTH: f64 = 720.0;
const ROW: f64 = 24.0;

/// Draws a forest plot as SVG. An interval on one side of zero is filled in that side's colour; one about zero is hollow.
pub fn intervals(plot: &Intervals) -> String {
    let numbers: Vec<_> = plot
        .rows
        .iter()
        .map(|row| rounded(row.estimate, row.interval))
        .collect();
    let widest = |texts: &mut dyn Iterator<Item = &str>| {
        texts.map(|text| width_of(text, TEXT)).fold(0.0, f64::max)
    };
    let labels = widest(&mut plot.rows.iter().map(|row| row.label.as_str())).clamp(60.0, 260.0);
    let texts = widest(&mut numbers.iter().map(String::as_str)).clamp(60.0, 220.0);
    let sides = !(plot.less.is_empty() && plot.more.is_empty());
    let panel = Panel {
        left: 16.0 + labels,
        right: WIDTH - texts - 20.0,
        top: 34.0,
        bottom: 34.0 + ROW * plot.rows.len().max(1) as f64,
        x: Scale::linear(range(&plot.rows)),
        y: Scale::Linear([0.0, 1.0]),
    };
    let height = panel.bottom + if sides { 60.0 } else { 44.0 };
    let mut svg = Svg::new(&plot.id, &plot.title, WIDTH, height);
    svg.heading(&plot.title, WIDTH);
    axis(&mut svg, &panel, plot);
    svg.clip("clip", &panel);
    for (number, row) in plot.rows.iter().enumerate() {
        estimate(
            &mut svg,
            &panel,
            row,
            panel.top + ROW * (number as f64 + 0.5),
        );
    }
    svg.raw("</g>");
    let rule = format!(" stroke=\"{}\" stroke-width=\"0.8\"", hex(FAINT));
    for (number, (row, text)) in plot.rows.iter().zip(&numbers).enumerate() {
        let y = panel.top + ROW * (number as f64 + 0.5);
        if row.group && number > 0 {
            svg.line((8.0, y - ROW / 2.0), (WIDTH - 8.0, y - ROW / 2.0), &rule);
        }
        svg.text(
            &fit(&row.label, labels, TEXT),
            8.0,
            y + 4.0,
            Anchor::Start,
            "",
        );
        svg.text(
            text,
            WIDTH - 8.0,
            y + 4.0,
            Anchor::End,
            " font-size=\"11.5\"",
        );
    }
    svg.finish()
}

/// What holds every interval and zero, with some room at both sides.
fn range(rows: &[Estimate]) -> [f64; 2] {
    let ends = rows.iter().flat_map(|row| {
        let [low, high] = row.interval.unwrap_or([row.estimate; 2]);
        [low, row.estimate, high]
    });
    let [low, high] = ends
        .filter(|end| end.is_finite())
        .fold([0.0_f64; 2], |[low, high], end| {
            [low.min(end), high.max(end)]
        });
    let room = 0.06 * (high - low);
    [
        if low < 0.0 { low - room } else { -room },
        if high > 0.0 { high + room } else { room },
    ]
}

fn axis(svg: &mut Svg, panel: &Panel, plot: &Intervals) {
    let small = format!(" font-size=\"{}\" fill=\"{SOFT}\"", n(SMALL));
    let grid = format!(
        " stroke=\"{}\" stroke-width=\"0.6\" stroke-opacity=\"0.7\"",
        hex(FAINT)
    );
    for (value, text) in panel
        .x
        .ticks(((panel.right - panel.left) / 48.0).max(2.0) as usize)
    {
        let x = panel.x(value);
        svg.line((x, panel.top), (x, panel.bottom), &grid);
        svg.text(&text, x, panel.bottom + 15.0, Anchor::Middle, &small);
    }
    let ink = format!(" stroke=\"{}\" stroke-width=\"1\"", hex(INK));
    svg.line(
        (panel.left, panel.bottom),
        (panel.right, panel.bottom),
        &ink,
    );
    let zero = panel.x(0.0);
    svg.line((zero, panel.top), (zero, panel.bottom), &ink);
    let middle = f64::midpoint(panel.left, panel.right);
    svg.text(
        &plot.x_title,
        middle,
        panel.bottom + 33.0,
        Anchor::Middle,
        "",
    );
    if !plot.less.is_empty() {
        let text = format!("← {}", plot.less);
        svg.text(&text, zero - 10.0, panel.bottom + 51.0, Anchor::End, &small);
    }
    if !plot.more.is_empty() {
        let text = format!("{} →", plot.more);
        svg.text(
            &text,
            zero + 10.0,
            panel.bottom + 51.0,
            Anchor::Start,
            &small,
        );
    }
}

fn estimate(svg: &mut Svg, panel: &Panel, row: &Estimate, y: f64) {
    let Some((x, _)) = panel.place(row.estimate, 0.0) else {
        return;
    };
    let [low, high] = row
        .interval
        .filter(|ends| ends.iter().all(|end| !end.is_nan()))
        .unwrap_or([row.estimate; 2]);
    let decided = row.interval.is_some() && (low > 0.0 || high < 0.0);
    let colour = match (decided, low > 0.0) {
        (false, _) => SOFT.to_owned(),
        (true, true) => hex(SERIES[1]),
        (true, false) => hex(SERIES[0]),
    };
    if let (Some((from, _)), Some((to, _))) = (panel.place(low, 0.0), panel.place(high, 0.0)) {
        svg.raw(&format!(
            "<path d=\"M{from} {top}V{bottom}M{from} {y}H{to}M{to} {top}V{bottom}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"1.8\"/>",
            from = n(from),
            to = n(to),
            y = n(y),
            top = n(y - 4.0),
            bottom = n(y + 4.0),
        ));
    }
    let fill = if decided { colour.as_str() } else { "#fff" };
    svg.raw(&format!(
        "<rect x=\"{}\" y=\"{}\" width=\"9\" height=\"9\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
        n(x - 4.5),
        n(y - 4.5),
    ));
}
