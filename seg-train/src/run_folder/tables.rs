//! The tables of an evaluation: `metrics.csv`, `thresholds.csv`, `reliability.csv` and `shift.csv`.
//!
//! An empty cell is a value that is not defined. Numbers are written with as many digits as it takes to read the same
//! bits back.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::metrics::{Confusion, ImageRow, ImageThresholds, ReliabilityBin};
use crate::{open, shift::ShiftLine, store};

/// One line of `thresholds.csv`.
#[derive(Debug, Serialize, Deserialize)]
struct ThresholdLine {
    id: String,
    threshold: f64,
    tp: u64,
    fp: u64,
    #[serde(rename = "fn")]
    fn_: u64,
    tn: u64,
}

/// Writes `metrics.csv`: a row an image, a column a metric, empty where a metric is not defined.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_rows(rows: &[ImageRow], path: &Path) -> Result<()> {
    write(rows, path)
}

/// Reads `metrics.csv` back. In a file of before there were the further columns ([`ImageRow::FURTHER`]) their cells are
/// empty.
///
/// # Errors
///
/// When the file is missing or is no such table; the message names the file and the line.
pub fn read_rows(path: &Path) -> Result<Vec<ImageRow>> {
    let names = ImageRow::columns().map(|(name, _)| name);
    let names: Vec<&str> = ["id"].into_iter().chain(names).collect();
    read_either(path, [&names, &names[..=ImageRow::COLUMNS.len()]])
}

/// Writes `thresholds.csv`: the counts of every image at every threshold.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_thresholds(images: &[ImageThresholds], path: &Path) -> Result<()> {
    let lines = images.iter().flat_map(|image| {
        image.counts.iter().map(|&(threshold, c)| ThresholdLine {
            id: image.id.clone(),
            threshold,
            tp: c.tp,
            fp: c.fp,
            fn_: c.fn_,
            tn: c.tn,
        })
    });
    write(lines, path)
}

/// Reads `thresholds.csv` back.
///
/// # Errors
///
/// As [`read_rows`].
pub fn read_thresholds(path: &Path) -> Result<Vec<ImageThresholds>> {
    let lines: Vec<ThresholdLine> = read(path, &["id", "threshold", "tp", "fp", "fn", "tn"])?;
    // Thresholds ascend within an image, so that two images of one name stay two.
    let of_one = |a: &ThresholdLine, b: &ThresholdLine| a.id == b.id && a.threshold < b.threshold;
    Ok(lines
        .chunk_by(of_one)
        .map(|image| ImageThresholds {
            id: image[0].id.clone(),
            counts: image
                .iter()
                .map(|line| {
                    let counts = Confusion {
                        tp: line.tp,
                        fp: line.fp,
                        fn_: line.fn_,
                        tn: line.tn,
                    };
                    (line.threshold, counts)
                })
                .collect(),
        })
        .collect())
}

/// Writes `reliability.csv`: the bins of a reliability diagram over the pixels of all images, two empty cells for a bin
/// without pixels.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_reliability(bins: &[ReliabilityBin], path: &Path) -> Result<()> {
    write(bins, path)
}

/// Reads `reliability.csv` back.
///
/// # Errors
///
/// As [`read_rows`].
pub fn read_reliability(path: &Path) -> Result<Vec<ReliabilityBin>> {
    read(path, &["low", "high", "pixels", "confidence", "accuracy"])
}

/// Writes `shift.csv`: a line an image and shift.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_shift(lines: &[ShiftLine], path: &Path) -> Result<()> {
    write(lines, path)
}

/// Reads `shift.csv` back.
///
/// # Errors
///
/// As [`read_rows`].
pub fn read_shift(path: &Path) -> Result<Vec<ShiftLine>> {
    read(path, &ShiftLine::COLUMNS)
}

fn write(lines: impl IntoIterator<Item = impl Serialize>, path: &Path) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.serialize(line)?;
    }
    store::write(path, &writer.into_inner()?)
}

fn read<T: DeserializeOwned>(path: &Path, columns: &[&str]) -> Result<Vec<T>> {
    read_either(path, [columns, columns])
}

/// Reads a table of these columns or, of an earlier program, those.
fn read_either<T: DeserializeOwned>(
    path: &Path,
    [columns, earlier]: [&[&str]; 2],
) -> Result<Vec<T>> {
    let bytes = open::record(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let found = reader
        .headers()
        .with_context(|| format!("{}", path.display()))?;
    // A table without lines is an empty file: the header is written with the first line.
    if !bytes.is_empty() && found != columns && found != earlier {
        bail!(
            "{} has the columns {}, expected {}; evaluate the run anew with seg-train eval",
            path.display(),
            found.iter().collect::<Vec<_>>().join(","),
            columns.join(",")
        );
    }
    let lines = reader.deserialize().collect::<Result<_, csv::Error>>();
    lines.with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that few digits do not tell from their neighbours.
    const AWKWARD: [f64; 5] = [1.0 / 3.0, 0.1 + 0.2, 5e-324, 1.0 - f64::EPSILON / 2.0, 0.0];

    #[test]
    fn rows_come_back_with_their_bits_and_their_empty_cells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let rows: Vec<ImageRow> = AWKWARD
            .iter()
            .enumerate()
            .map(|(i, &value)| ImageRow {
                id: ["a", "b, c", "d \"e\"", "007", ""][i].into(),
                dice: Some(value),
                precision: (i % 2 == 0).then_some(-value),
                excess_nll: Some(value * 1e300),
                volume_bias: Some(-value),
                nsd: (i % 2 == 1).then_some(value),
                ..ImageRow::default()
            })
            .collect();
        write_rows(&rows, &path).unwrap();
        assert_eq!(read_rows(&path).unwrap(), rows);
        write_rows(&[], &path).unwrap();
        assert_eq!(read_rows(&path).unwrap(), []);
    }

    #[test]
    fn rows_of_before_there_were_further_columns_have_empty_cells_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let header = "id,dice,jaccard,precision,recall,nll,nll_foreground,brier,ece,excess_nll";
        std::fs::write(&path, format!("{header}\na,0.5,,,,,,,0.25,\n")).unwrap();
        let expected = ImageRow {
            id: "a".into(),
            dice: Some(0.5),
            ece: Some(0.25),
            ..ImageRow::default()
        };
        assert_eq!(read_rows(&path).unwrap(), [expected]);
        std::fs::write(&path, format!("{header},ace\na,0.5,,,,,,,0.25,,1\n")).unwrap();
        let error = read_rows(&path).unwrap_err().to_string();
        assert!(
            error.contains("excess_nll,ace, expected id,dice") && error.contains("assd,nsd;"),
            "{error}"
        );
    }

    #[test]
    fn counts_come_back_an_image_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thresholds.csv");
        let image = |id: &str, first: u64| ImageThresholds {
            id: id.into(),
            counts: (1..20)
                .map(|k| {
                    let counts = Confusion {
                        tp: first + k,
                        fp: 2 * k,
                        fn_: 3,
                        tn: u64::MAX - k,
                    };
                    (k as f64 / 20.0, counts)
                })
                .collect(),
        };
        let images = [image("eye", 0), image("eye", 5), image("1,2", 7)];
        write_thresholds(&images, &path).unwrap();
        assert_eq!(read_thresholds(&path).unwrap(), images);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(
                "id,threshold,tp,fp,fn,tn\neye,0.05,1,2,3,18446744073709551614\neye,0.1,"
            ),
            "{text}"
        );
    }

    #[test]
    fn an_empty_bin_has_empty_cells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reliability.csv");
        let bins = [
            ReliabilityBin {
                low: 0.0,
                high: 1.0 / 3.0,
                pixels: 0,
                confidence: None,
                accuracy: None,
            },
            ReliabilityBin {
                low: 1.0 / 3.0,
                high: 2.0 / 3.0,
                pixels: 3,
                confidence: Some(0.1 + 0.2),
                accuracy: Some(1.0 / 3.0),
            },
        ];
        write_reliability(&bins, &path).unwrap();
        assert_eq!(read_reliability(&path).unwrap(), bins);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("low,high,pixels,confidence,accuracy\n0.0,0.3333333333333333,0,,\n"),
            "{text}"
        );
    }

    #[test]
    fn a_table_of_another_kind_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reliability.csv");
        let shown = path.display();
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            format!("{:#}", read_reliability(&path).unwrap_err())
        };
        assert_eq!(
            error("id,dice\na,0.5\n"),
            format!(
                "{shown} has the columns id,dice, expected low,high,pixels,confidence,accuracy; evaluate the run anew with seg-train eval"
            )
        );
        let torn = error("low,high,pixels,confidence,accuracy\n0,0.5,3,0.2,0.3\n0.5,1,x,,\n");
        assert!(
            torn.starts_with(&format!("{shown}: ")) && torn.contains("line: 3"),
            "{torn}"
        );
        std::fs::remove_file(&path).unwrap();
        let missing = format!("{:#}", read_rows(&path).unwrap_err());
        assert!(
            missing.starts_with(&format!("{shown} cannot be read: ")),
            "{missing}"
        );
    }
}
