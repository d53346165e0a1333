//! `curves.png`: the losses and the validation Dice over the epochs.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    chart::ChartBuilder,
    element::{Circle, PathElement},
    prelude::DrawingBackend,
    series::LineSeries,
    style::{Color, ShapeStyle},
};

use super::{
    canvas::{Area, Canvas, rgb, translucent, writing},
    colours::{FAINT, INK, TRAINING, VALIDATION},
};
use crate::{progress::shown, run_folder::EpochLine};

/// One line of a panel.
struct Curve<'a> {
    name: &'a str,
    colour: image::Rgb<u8>,
    value: fn(&EpochLine) -> f64,
}

/// Draws the log of a run: losses above, validation Dice below; a grey line where the learning rate fell, a dot at the
/// epoch whose weights were kept.
///
/// # Errors
///
/// When the picture cannot be drawn or written.
pub fn save(log: &[EpochLine], title: &str, path: &Path) -> Result<()> {
    let mut canvas = Canvas::new(900, 720);
    canvas.plot(|area| {
        let body = area
            .titled(title, writing(20, INK))
            .map_err(|error| anyhow!("drawing failed: {error}"))?;
        let (above, below) = body.split_vertically(380);
        let losses = [
            Curve {
                name: "training loss",
                colour: TRAINING,
                value: |line| line.loss,
            },
            Curve {
                name: "validation loss",
                colour: VALIDATION,
                value: |line| line.val_loss,
            },
        ];
        let dice = [Curve {
            name: "validation Dice",
            colour: VALIDATION,
            value: |line| line.val_dice,
        }];
        panel(&above, log, &losses, None)?;
        panel(&below, log, &dice, Some((0.0, 1.0)))
    })?;
    canvas.save(path)
}

/// One panel over the epochs. Without `range` the axis runs from the smallest to the largest value.
fn panel(
    area: &Area<'_>,
    log: &[EpochLine],
    curves: &[Curve<'_>],
    range: Option<(f64, f64)>,
) -> Result<()> {
    let values = curves
        .iter()
        .flat_map(|curve| log.iter().map(curve.value))
        .filter(|v| v.is_finite());
    let (low, high) = range.unwrap_or_else(|| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        if low > high { (0.0, 1.0) } else { (low, high) }
    });
    let margin = (0.04 * (high - low)).max(1e-6);
    let last = log.last().map_or(1, |line| line.epoch) as f64;
    draw(
        area,
        log,
        curves,
        [0.5, last + 0.5],
        [low - margin, high + margin],
    )
    .map_err(|error| anyhow!("drawing failed: {error}"))
}

/// A tick's value without the zeros behind it.
fn axis_label(y: f64) -> String {
    // Ticks are multiples of a step; what lies beyond six digits is rounding.
    ((y * 1e6).round() / 1e6).to_string()
}

fn draw<'a, DB: DrawingBackend + 'a>(
    area: &plotters::drawing::DrawingArea<DB, plotters::coord::Shift>,
    log: &[EpochLine],
    curves: &[Curve<'_>],
    [left, right]: [f64; 2],
    [bottom, top]: [f64; 2],
) -> Result<(), plotters::drawing::DrawingAreaErrorKind<DB::ErrorType>>
where
    DB::ErrorType: 'static,
{
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(left..right, bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| axis_label(*y))
        .axis_desc_style(writing(15, INK))
        .label_style(writing(13, INK))
        .bold_line_style(translucent(FAINT, 0.6))
        .light_line_style(translucent(FAINT, 0.0))
        .draw()?;
    for pair in log.windows(2).filter(|pair| pair[1].lr < pair[0].lr) {
        let x = pair[1].epoch as f64 - 0.5;
        chart.draw_series([PathElement::new(
            [(x, bottom), (x, top)],
            rgb(FAINT).stroke_width(1),
        )])?;
        let corner = chart.backend_coord(&(x, top));
        let origin = area.get_base_pixel();
        area.draw_text(
            &format!("rate {}", shown(pair[1].lr)),
            &writing(12, FAINT),
            (corner.0 - origin.0 + 4, corner.1 - origin.1 + 2),
        )?;
    }
    for curve in curves {
        let style = ShapeStyle {
            color: rgb(curve.colour).to_rgba(),
            filled: true,
            stroke_width: 2,
        };
        let points = || {
            log.iter()
                .map(|line| (line.epoch as f64, (curve.value)(line)))
        };
        chart
            .draw_series(LineSeries::new(points(), style))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        // A single epoch has no line to show.
        if log.len() == 1 {
            chart.draw_series(points().map(|point| Circle::new(point, 3, style)))?;
        }
        if let Some(best) = log.iter().rfind(|line| line.best) {
            let point = (best.epoch as f64, (curve.value)(best));
            chart.draw_series([Circle::new(point, 4, style)])?;
        }
    }
    chart
        .configure_series_labels()
        .label_font(writing(14, INK))
        .background_style(translucent(super::colours::PAPER, 0.85))
        .border_style(rgb(FAINT))
        .draw()
}
