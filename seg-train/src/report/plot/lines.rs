//! Series with error bars.

use super::{
    Axis,
    svg::{Look, Panel, Scale, Svg, legend_height},
};

/// Several series over one axis, with error bars: the paper's Figure 4, say.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// What its ids begin with.
    pub id: String,
    /// What stands above it.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, in the order of the legend.
    pub series: Vec<Series>,
}

/// A line of [`Lines`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points from left to right. One whose x or y is NaN leaves a gap.
    pub points: Vec<Point>,
}

/// A point of a [`Series`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// On the horizontal axis.
    pub x: f64,
    /// On the vertical axis.
    pub y: f64,
    /// The lower and the upper end of its error bar.
    pub interval: Option<[f64; 2]>,
}

/// Draws series with error bars as SVG.
pub fn lines(plot: &Lines) -> String {
    const WIDTH: f64 = 440.0;
    let names: Vec<_> = plot
        .series
        .iter()
        .map(|series| series.name.as_str())
        .collect();
    let top = 30.0 + legend_height(&names, WIDTH) + 10.0;
    let panel = Panel {
        left: 58.0,
        right: WIDTH - 16.0,
        top,
        bottom: top + 240.0,
        x: Scale::linear(plot.x.range),
        y: Scale::linear(plot.y.range),
    };
    let mut svg = Svg::new(&plot.id, &plot.title, WIDTH, panel.bottom + 42.0);
    svg.heading(&plot.title, WIDTH);
    svg.legend(&names, 30.0, WIDTH);
    panel.draw(&mut svg, Some(&plot.x.title), &plot.y.title);
    svg.clip("clip", &panel);
    for (number, series) in plot.series.iter().enumerate() {
        let look = Look(number);
        for point in &series.points {
            let Some([low, high]) = point.interval else {
                continue;
            };
            if let (Some((x, low)), Some((_, high))) =
                (panel.place(point.x, low), panel.place(point.x, high))
            {
                svg.whisker(x, low, high, look);
            }
        }
        let places: Vec<_> = series
            .points
            .iter()
            .map(|point| panel.place(point.x, point.y))
            .collect();
        svg.path(&places, look);
        for &(x, y) in places.iter().flatten() {
            svg.marker(x, y, look);
        }
    }
    svg.raw("</g>");
    svg.finish()
}
