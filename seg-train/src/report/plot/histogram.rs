//! Counts in bins.

use super::{
    Axis,
    svg::{Look, Panel, Scale, Svg, n},
};

/// Counts in bins of equal width: the paper's Figure 2, one small panel a γ.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// What its ids begin with.
    pub id: String,
    /// What stands above it.
    pub title: String,
    /// The horizontal axis, whose range the bins share evenly.
    pub x: Axis,
    /// What is counted.
    pub y_title: String,
    /// The count of each bin.
    pub counts: Vec<u64>,
    /// Whether the vertical axis goes by powers of ten.
    pub log: bool,
    /// The largest count of the vertical axis, so that panels can be compared; that of the bins if none is given.
    pub top: Option<u64>,
}

/// Draws a histogram as SVG. On an axis by powers of ten a bin with 1 has a bar and one with 0 has none.
pub fn histogram(plot: &Histogram) -> String {
    const WIDTH: f64 = 270.0;
    let top = plot
        .top
        .or(plot.counts.iter().max().copied())
        .unwrap_or(1)
        .max(1) as f64;
    let panel = Panel {
        left: 58.0,
        right: WIDTH - 14.0,
        top: 34.0,
        bottom: 174.0,
        x: Scale::linear(plot.x.range),
        y: if plot.log {
            Scale::Log([0.5, top * 1.3])
        } else {
            Scale::Linear([0.0, top * 1.05])
        },
    };
    let mut svg = Svg::new(&plot.id, &plot.title, WIDTH, panel.bottom + 42.0);
    svg.heading(&plot.title, WIDTH);
    panel.draw(&mut svg, Some(&plot.x.title), &plot.y_title);
    svg.clip("clip", &panel);
    let width = (panel.right - panel.left) / plot.counts.len().max(1) as f64;
    let colour = Look(0).colour();
    for (bin, count) in plot
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let y = panel.y(*count as f64).max(-1e4);
        svg.raw(&format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{colour}\"/>",
            n(panel.left + width * bin as f64 + width.min(8.0) / 16.0),
            n(y),
            n(width - width.min(8.0) / 8.0),
            n(panel.bottom - y),
        ));
    }
    svg.raw("</g>");
    svg.finish()
}
