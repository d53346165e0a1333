//! Counts in the cells of a square.

use super::svg::{Anchor, Panel, SOFT, Scale, Svg, n};

/// Counts by two shares from 0 to 1, each cut into equal parts: Barfoot et al. 2024's data-set reliability histogram, say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Square {
    /// What its ids begin with.
    pub id: String,
    /// What stands above it.
    pub title: String,
    /// What the horizontal axis is, which goes from 0 to 1.
    pub x_title: String,
    /// What the vertical axis is, which goes from 0 to 1.
    pub y_title: String,
    /// The counts, a column after the other from left to right, each from below.
    pub counts: Vec<Vec<u64>>,
}

/// Draws counts in a square as SVG. The more a cell holds the darker it is, and a cell with room shows its number; an empty
/// one stays white. The diagonal is dotted.
pub fn square(plot: &Square) -> String {
    const WIDTH: f64 = 400.0;
    let panel = Panel {
        left: 58.0,
        right: WIDTH - 16.0,
        top: 34.0,
        bottom: 34.0 + WIDTH - 74.0,
        x: Scale::Linear([0.0, 1.0]),
        y: Scale::Linear([0.0, 1.0]),
    };
    let mut svg = Svg::new(&plot.id, &plot.title, WIDTH, panel.bottom + 42.0);
    svg.heading(&plot.title, WIDTH);
    panel.draw(&mut svg, Some(&plot.x_title), &plot.y_title);
    let most = plot.counts.iter().flatten().max().copied().unwrap_or(0);
    let wide = (panel.right - panel.left) / plot.counts.len().max(1) as f64;
    for (column, counts) in plot.counts.iter().enumerate() {
        let high = (panel.bottom - panel.top) / counts.len().max(1) as f64;
        for (row, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (x, y) = (
                panel.left + wide * column as f64,
                panel.bottom - high * (row + 1) as f64,
            );
            let share = (count as f64).ln_1p() / (most as f64).ln_1p();
            svg.raw(&format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>",
                n(x + 0.4),
                n(y + 0.4),
                n(wide - 0.8),
                n(high - 0.8),
                shade(share)
            ));
            let text = count.to_string();
            let size = (wide / (0.62 * text.len() as f64))
                .min(high * 0.62)
                .min(10.0);
            if size >= 6.0 {
                let ink = if share > 0.55 { "#fff" } else { "#212121" };
                let style = format!(" font-size=\"{}\" fill=\"{ink}\"", n(size));
                let (x, y) = (x + wide / 2.0, y + high / 2.0 + 0.36 * size);
                svg.text(&text, x, y, Anchor::Middle, &style);
            }
        }
    }
    let diagonal = format!(" stroke=\"{SOFT}\" stroke-width=\"1\" stroke-dasharray=\"1 3\"");
    svg.line(
        (panel.left, panel.bottom),
        (panel.right, panel.top),
        &diagonal,
    );
    svg.finish()
}

/// From nearly white to a deep blue; lightness alone orders the shades.
fn shade(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round() as u8;
    format!(
        "#{:02x}{:02x}{:02x}",
        mix(232.0, 0.0),
        mix(241.0, 68.0),
        mix(250.0, 120.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::tests::{HOSTILE, ids_of_well_formed};

    #[test]
    fn every_filled_cell_is_drawn_in_its_place_with_its_number() {
        let mut plot = Square {
            id: "histogram".into(),
            title: HOSTILE.into(),
            x_title: "said".into(),
            y_title: "was so".into(),
            counts: vec![vec![0; 10]; 10],
        };
        plot.counts[0][0] = 3;
        plot.counts[9][2] = 12;
        let svg = square(&plot);
        assert_eq!(ids_of_well_formed(&svg).len(), 2);
        // The white ground and two cells; the lower left one begins at the axes' corner.
        assert_eq!(svg.matches("<rect ").count(), 3);
        assert!(svg.contains("<rect x=\"58.4\" y=\"327.8\""), "{svg}");
        assert!(
            svg.contains(">3</text>") && svg.contains(">12</text>"),
            "{svg}"
        );
        assert_eq!(shade(1.0), "#004478");
    }

    #[test]
    fn nothing_counted_is_an_empty_frame() {
        for counts in [vec![], vec![vec![]; 3], vec![vec![0; 4]; 4]] {
            let svg = square(&Square {
                counts,
                ..Square::default()
            });
            assert_eq!(svg.matches("<rect ").count(), 1, "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
