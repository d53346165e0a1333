//! Predicted probability against what is observed.

use super::svg::{Look, Panel, SOFT, Scale, Svg, legend_height};

/// How often what is predicted with some probability is so: a diagonal where it is just as often.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reliability {
    /// What its ids begin with.
    pub id: String,
    /// What stands above it.
    pub title: String,
    /// What the horizontal axis is, which goes from 0 to 1.
    pub x_title: String,
    /// What the vertical axis is, which goes from 0 to 1.
    pub y_title: String,
    /// The series, in the order of the legend.
    pub series: Vec<Bins>,
}

/// The bins of one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bins {
    /// Its name in the legend.
    pub name: String,
    /// Its bins from left to right; those that hold nothing are left out of the plot.
    pub bins: Vec<Bin>,
}

/// What was predicted with about the same probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Mean predicted probability.
    pub confidence: f64,
    /// Share that was so.
    pub observed: f64,
    /// The lower and the upper end of that share's error bar.
    pub interval: Option<[f64; 2]>,
    /// How many there are.
    pub count: u64,
}

/// Draws a reliability diagram as SVG; below it, by powers of ten, how many each bin holds.
pub fn reliability(plot: &Reliability) -> String {
    const WIDTH: f64 = 400.0;
    let names: Vec<_> = plot
        .series
        .iter()
        .map(|series| series.name.as_str())
        .collect();
    let filled = || {
        plot.series.iter().map(|series| {
            let bins = series.bins.iter().filter(|bin| bin.count > 0);
            bins.copied().collect::<Vec<_>>()
        })
    };
    let most = filled().flatten().map(|bin| bin.count).max().unwrap_or(1);
    let top = 30.0 + legend_height(&names, WIDTH) + 10.0;
    let share = Panel {
        left: 58.0,
        right: WIDTH - 16.0,
        top,
        bottom: top + WIDTH - 74.0,
        x: Scale::Linear([0.0, 1.0]),
        y: Scale::Linear([0.0, 1.0]),
    };
    let count = Panel {
        top: share.bottom + 16.0,
        bottom: share.bottom + 96.0,
        y: Scale::Log([0.5, most as f64 * 2.0]),
        ..share
    };
    let mut svg = Svg::new(&plot.id, &plot.title, WIDTH, count.bottom + 42.0);
    svg.heading(&plot.title, WIDTH);
    svg.legend(&names, 30.0, WIDTH);
    share.draw(&mut svg, None, &plot.y_title);
    count.draw(&mut svg, Some(&plot.x_title), "count");
    let diagonal = format!(" stroke=\"{SOFT}\" stroke-width=\"1\" stroke-dasharray=\"1 3\"");
    svg.line(
        (share.left, share.bottom),
        (share.right, share.top),
        &diagonal,
    );
    for (name, panel) in [("share", &share), ("count", &count)] {
        svg.clip(name, panel);
        for (number, bins) in filled().enumerate() {
            let look = Look(number);
            let place = |bin: &super::Bin| match name {
                "share" => panel.place(bin.confidence, bin.observed),
                _ => panel.place(bin.confidence, bin.count as f64),
            };
            let places: Vec<_> = bins.iter().map(place).collect();
            if name == "share" {
                for bin in &bins {
                    let Some([low, high]) = bin.interval else {
                        continue;
                    };
                    if let (Some((x, low)), Some((_, high))) = (
                        panel.place(bin.confidence, low),
                        panel.place(bin.confidence, high),
                    ) {
                        svg.whisker(x, low, high, look);
                    }
                }
            }
            svg.path(&places, look);
            for &(x, y) in places.iter().flatten() {
                svg.marker(x, y, look);
            }
        }
        svg.raw("</g>");
    }
    svg.finish()
}
