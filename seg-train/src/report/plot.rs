//! Plots as SVG, to stand in a page or in a file of their own.
//!
//! Text stays text, in whatever sans-serif font there is. Nothing is fetched and nothing runs. The series of a plot differ
//! in colour, dash and marker at once, so each can be told without the other two. Every plot takes an `id` that its own
//! ids begin with, so that many stand in one page.

mod histogram;
mod intervals;
mod lines;
mod reliability;
mod square;
mod svg;

pub use histogram::{Histogram, histogram};
pub use intervals::{Estimate, Intervals, intervals};
pub use lines::{Lines, Point, Series, lines};
pub use reliability::{Bin, Bins, Reliability, reliability};
pub use square::{Square, square};

/// An axis from one number to a larger one.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures, with its unit.
    pub title: String,
    /// Where it begins and ends; what lies outside is cut off.
    pub range: [f64; 2],
}

impl Axis {
    /// An axis with a title and a range.
    pub fn new(title: impl Into<String>, range: [f64; 2]) -> Self {
        Self {
            title: title.into(),
            range,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A reader of tags: every one closed in order, every attribute quoted and given once, every `&` an entity. Returns
    /// the ids.
    pub(in crate::report) fn ids_of_well_formed(text: &str) -> Vec<String> {
        let (mut open, mut ids, mut rest) = (Vec::new(), Vec::<String>::new(), text);
        while let Some(start) = rest.find('<') {
            entities(&rest[..start]);
            let end = start + tag_length(&rest[start..]);
            let tag = &rest[start + 1..end - 1];
            rest = &rest[end..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "</{name}>");
                continue;
            }
            let closed = tag.ends_with('/');
            let tag = tag.trim_end_matches('/');
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{name}>");
            let mut seen = Vec::new();
            let mut left = attributes;
            while !left.trim().is_empty() {
                let (key, value) = left.trim_start().split_once("=\"").expect(left);
                let (value, after) = value.split_once('"').expect(value);
                entities(value);
                assert!(!seen.contains(&key), "{key} twice in <{tag}>");
                seen.push(key);
                if key == "id" {
                    ids.push(value.to_owned());
                }
                left = after;
            }
            if !closed {
                open.push(name);
            }
        }
        entities(rest);
        assert!(open.is_empty(), "not closed: {open:?}");
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        ids
    }

    fn tag_length(text: &str) -> usize {
        let mut quoted = false;
        for (place, c) in text.char_indices() {
            match c {
                '"' => quoted = !quoted,
                '>' if !quoted => return place + 1,
                '<' if place > 0 => panic!("< within {}", &text[..place]),
                _ => {}
            }
        }
        panic!("a tag without end: {text}");
    }

    fn entities(text: &str) {
        assert!(!text.contains('>'), "{text}");
        for after in text.split('&').skip(1) {
            let (name, _) = after.split_once(';').expect(after);
            assert!(
                ["amp", "lt", "gt", "quot", "#39"].contains(&name),
                "&{name};"
            );
        }
    }

    pub(in crate::report) const HOSTILE: &str = "</svg><script>\"a\" & 'b'\u{0}";

    /// One of each, with a name that would break out of it, and numbers that are none.
    pub(in crate::report) fn demo() -> [String; 4] {
        [
            demo_lines(),
            demo_histogram(),
            demo_reliability(),
            demo_intervals(),
        ]
    }

    fn demo_lines() -> String {
        let points = |f: fn(f64) -> f64| {
            (1..20)
                .map(|n| {
                    let x = f64::from(n) / 20.0;
                    let interval = Some([f(x) - 0.03, f(x) + 0.03]);
                    Point {
                        x,
                        y: f(x),
                        interval,
                    }
                })
                .collect()
        };
        lines(&Lines {
            id: "thresholds".into(),
            title: "DSC++, DRIVE".into(),
            x: Axis::new("softmax threshold", [0.0, 1.0]),
            y: Axis::new("score", [0.0, 1.0]),
            series: vec![
                Series {
                    name: "recall".into(),
                    points: points(|x| 0.95 - 0.5 * x * x),
                },
                Series {
                    name: "precision".into(),
                    points: points(|x| 0.5 + 0.45 * x.sqrt()),
                },
                Series {
                    name: HOSTILE.into(),
                    points: points(|x| 0.72 - (x - 0.5).powi(2) * 0.3),
                },
                Series {
                    name: "none".into(),
                    points: vec![Point {
                        x: f64::NAN,
                        y: f64::INFINITY,
                        interval: Some([f64::NAN, 1.0]),
                    }],
                },
            ],
        })
    }

    fn demo_histogram() -> String {
        histogram(&Histogram {
            id: "histogram".into(),
            title: "γ = 2".into(),
            x: Axis::new("softmax probability", [0.0, 1.0]),
            y_title: "pixels".into(),
            counts: vec![
                310_204, 9_120, 4_020, 1_400, 900, 0, 600, 640, 700, 1, 800, 900, 1_000, 1_400,
                1_900, 2_800, 4_900, 9_100, 16_000, 42_000,
            ],
            log: true,
            top: None,
        })
    }

    fn demo_reliability() -> String {
        let bins = |bend: f64| {
            (0..10)
                .map(|n| {
                    let confidence = (f64::from(n) + 0.5) / 10.0;
                    Bin {
                        confidence,
                        observed: confidence.powf(bend),
                        interval: None,
                        count: 10_u64.pow(if n == 0 { 5 } else { 2 + n % 3 }),
                    }
                })
                .collect()
        };
        reliability(&Reliability {
            id: "reliability".into(),
            title: "Reliability".into(),
            x_title: "mean predicted probability".into(),
            y_title: "observed share".into(),
            series: vec![
                Bins {
                    name: "DSC".into(),
                    bins: bins(1.8),
                },
                Bins {
                    name: "DSC++".into(),
                    bins: bins(1.1),
                },
            ],
        })
    }

    fn demo_intervals() -> String {
        let estimate = |label: &str, estimate, interval| Estimate {
            label: label.into(),
            estimate,
            interval,
            group: label.starts_with("DRIVE: Dice"),
        };
        intervals(&Intervals {
            id: "differences".into(),
            title: "Differences: DSC++ minus DSC".into(),
            x_title: "difference of NLL [nats]".into(),
            less: "DSC++ is lower".into(),
            more: "DSC is lower".into(),
            rows: vec![
                estimate("phantom: NLL", -0.11, Some([-0.15, -0.07])),
                estimate("phantom: Brier", -0.02, Some([-0.05, 0.01])),
                estimate(
                    "DRIVE: Dice, of vessels as narrow as a pixel or two",
                    0.04,
                    Some([0.012, 0.068]),
                ),
                estimate(HOSTILE, f64::NAN, None),
                estimate("BUS2017", 0.01, None),
            ],
        })
    }

    #[test]
    fn every_plot_is_well_formed_and_reads_names_as_text() {
        for svg in demo() {
            ids_of_well_formed(&svg);
            assert!(!svg.contains("<script"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let outside = svg.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http"), "{svg}");
            assert!(
                svg.contains("role=\"img\"") && svg.contains("<title"),
                "{svg}"
            );
        }
    }

    #[test]
    fn plots_in_one_page_share_no_id() {
        ids_of_well_formed(&demo().concat());
    }

    #[test]
    fn nothing_to_plot_is_an_empty_frame() {
        let x = Axis::new("x", [0.0, 0.0]);
        let empty = [
            lines(&Lines {
                id: "a".into(),
                title: "t".into(),
                x: x.clone(),
                y: x.clone(),
                series: vec![],
            }),
            histogram(&Histogram {
                id: "b".into(),
                title: "t".into(),
                x,
                y_title: "y".into(),
                counts: vec![],
                log: false,
                top: None,
            }),
            reliability(&Reliability::default()),
            intervals(&Intervals::default()),
        ];
        for svg in empty {
            ids_of_well_formed(&svg);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
