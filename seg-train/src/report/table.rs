//! Tables as plain text: aligned, with nothing but spaces, so that they survive a log file.

use std::fmt::Write as _;

/// Lays out rows in columns: the first column to the left, the rest to the right, two spaces between.
///
/// ```
/// use seg_train::report::table::align;
/// let text = align(&[vec!["loss".into(), "Dice".into()], vec!["dice++".into(), "0.9".into()]]);
/// assert_eq!(text, "loss    Dice\ndice++   0.9\n");
/// ```
pub fn align(rows: &[Vec<String>]) -> String {
    lay_out(rows, Side::Right)
}

/// Lays out rows of words: every column to the left.
///
/// ```
/// use seg_train::report::table::align_left;
/// let text = align_left(&[vec!["ce".into(), "no".into()], vec!["dice".into(), "yes".into()]]);
/// assert_eq!(text, "ce    no\ndice  yes\n");
/// ```
pub fn align_left(rows: &[Vec<String>]) -> String {
    lay_out(rows, Side::Left)
}

/// Where all columns but the first are aligned.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

fn lay_out(rows: &[Vec<String>], side: Side) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match (column, side) {
                (0, _) => write!(line, "{cell:<width$}"),
                (_, Side::Left) => write!(line, "  {cell:<width$}"),
                (_, Side::Right) => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number with four digits that matter to a reader: fixed for ordinary sizes, with an exponent for the very small.
///
/// ```
/// use seg_train::report::table::number;
/// assert_eq!(number(0.91234), "0.9123");
/// assert_eq!(number(0.0000123), "1.23e-5");
/// assert_eq!(number(f64::NAN), "-");
/// ```
pub fn number(x: f64) -> String {
    if x.is_nan() {
        "-".into()
    } else if x != 0.0 && x.abs() < 1e-3 {
        format!("{x:.2e}")
    } else {
        format!("{x:.4}")
    }
}
