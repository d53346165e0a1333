//! Calibration, proper scores and overlap.

use candle_core::{DType, Result};
use seg_train::metrics::{
    Bins, Confusion, EmptyMask, Pixels, Rule, Scores, Threshold, Top,
    calibration::{class_mean, equal_mass},
    scores::CLIP,
};
use serde_json::Value;

use super::{
    folder::{Bound, Family, Folder, LeftOut, Mapped, Record, left_out},
    report::{Checks, Outcome, check, failed, numbers},
};

#[test]
fn golden_metrics() {
    let inputs = Folder::open().family("inputs");
    check("metrics", |folder, family, record, checks| {
        let bound = folder.bound(record, "value");
        let maps = match Maps::of(inputs.as_ref(), family, record)? {
            Ok(maps) => maps,
            Err(reason) => return Ok(Err(reason)),
        };
        run(&maps, record, checks, bound)
    });
}

/// Probabilities `[C, pixels]` and labels of all samples of a case, or of one.
struct Maps {
    p: Vec<f64>,
    channels: usize,
    labels: Vec<u8>,
}

impl Maps {
    fn of(
        inputs: Option<&Family>,
        family: &Family,
        record: &Record,
    ) -> Result<std::result::Result<Self, LeftOut>> {
        let key = |what: &str| format!("{}/{what}", record.case());
        // A set of its own, [pixels, classes], or a case of the losses, [N, C, …].
        let own = family
            .tensor(&key("p32"))
            .zip(family.tensor(&key("labels")));
        let case = inputs.and_then(|inputs| {
            let p = inputs.tensor(&key("p64"));
            p.zip(inputs.tensor(&key("labels")))
        });
        let Some((p, labels)) = own.or(case) else {
            return Ok(left_out("the case has no labels"));
        };
        let (p, labels) = match record.param("sample").and_then(Value::as_u64) {
            Some(sample) => (
                p.narrow(0, sample as usize, 1)?,
                labels.narrow(0, sample as usize, 1)?,
            ),
            None => (p.clone(), labels.clone()),
        };
        let channels = p.dims()[1];
        let p = p.transpose(0, 1)?.contiguous()?;
        Ok(Ok(Self {
            p: numbers(&p)?,
            channels,
            labels: labels.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?,
        }))
    }

    fn pixels(&self) -> Result<Pixels<'_, f64>> {
        Pixels::new(&self.p, self.channels, &self.labels).map_err(failed)
    }

    /// The foreground's map alone.
    fn foreground(&self) -> &[f64] {
        let n = self.labels.len();
        if self.channels == 1 {
            &self.p
        } else {
            &self.p[n..2 * n]
        }
    }

    /// As torchmetrics has it for several classes: in f32.
    fn in_single(&self) -> Vec<f64> {
        let mut p: Vec<f64> = self.p.clone();
        if self.channels == 1 {
            let background = p.iter().map(|p| 1.0 - p);
            p = background.chain(self.p.iter().copied()).collect();
        }
        p.iter().map(|p| f64::from(*p as f32)).collect()
    }
}

/// A figure by name, `None` where it is 0/0.
type Figures = Vec<(&'static str, Option<f64>)>;

fn run(maps: &Maps, record: &Record, checks: &mut Checks, bound: Bound) -> Outcome {
    let pixels = maps.pixels()?;
    let outputs = &record.json["outputs"];
    match record.loss() {
        name if name.contains("calibration") => {
            if !calibration(maps, &pixels, record, checks, bound)? {
                return Ok(left_out("no such figure here"));
            }
        }
        "scores" => {
            if record.number_or("eps", CLIP).is_ok_and(|eps| eps != CLIP) {
                return Ok(left_out("logarithms clipped elsewhere"));
            }
            let figures = scores(maps, &pixels)?;
            compare(checks, outputs, &figures, bound);
        }
        name if name.starts_with("overlap_at") => match threshold(record, None) {
            Err(reason) => return Ok(Err(reason)),
            Ok(threshold) => {
                let counts = Confusion::at_threshold(&pixels, threshold);
                compare(checks, outputs, &overlap(&counts), bound);
            }
        },
        "threshold_sweep" => {
            let thresholds = match record.list("thresholds") {
                Ok(thresholds) => thresholds.unwrap_or_default(),
                Err(reason) => return Ok(Err(reason)),
            };
            let rows = record.json["rows"].as_array();
            let rows = rows.map_or(&[][..], Vec::as_slice);
            checks.same("number of rows", &rows.len(), &thresholds.len());
            for (at, row) in thresholds.iter().zip(rows) {
                match threshold(record, Some(*at)) {
                    Err(reason) => return Ok(Err(reason)),
                    Ok(threshold) => {
                        let counts = Confusion::at_threshold(&pixels, threshold);
                        compare(checks, row, &overlap(&counts), bound);
                    }
                }
            }
        }
        "overlap_argmax_per_class" => {
            let _ = record.param("rule");
            let rows = record.json["rows"].as_array();
            let rows = rows.map_or(&[][..], Vec::as_slice);
            let counts = Confusion::of_argmax(&pixels);
            checks.same("number of rows", &rows.len(), &counts.len());
            for (counts, row) in counts.iter().zip(rows) {
                compare(checks, row, &overlap(counts), bound);
            }
        }
        "authors_notebook_eval" => {
            let counts = Confusion::of_argmax(&pixels)[1];
            let mut scores = Scores::new(pixels.classes());
            scores.add(&pixels).map_err(failed)?;
            let figures = [
                ("nll", Some(scores.nll_foreground())),
                ("brier", Some(scores.brier_per_class()[1])),
                ("dice", counts.dice(EmptyMask::Skip)),
                ("iou", counts.jaccard(EmptyMask::Skip)),
                ("precision", counts.precision(EmptyMask::Skip)),
                ("recall", counts.recall(EmptyMask::Skip)),
            ];
            compare(checks, outputs, &figures, bound);
        }
        _ => return Ok(left_out("no such figure here")),
    }
    Ok(record.all_read())
}

/// The figures that have to do with calibration; whether there is one of that name.
fn calibration(
    maps: &Maps,
    pixels: &Pixels<'_, f64>,
    record: &Record,
    checks: &mut Checks,
    bound: Bound,
) -> Result<bool> {
    let bins = record.number_or("n_bins", 10.0).unwrap_or(10.0) as usize;
    // These only tell what was done.
    for note in ["confidence", "accuracy", "note", "num_classes"] {
        let _ = record.param(note);
    }
    let outputs = &record.json["outputs"];
    match record.loss() {
        "torchmetrics_binary_calibration_error" => {
            let bins = Bins::foreground(pixels, bins, Top::OwnBin);
            compare(checks, outputs, &norms(&bins), bound);
        }
        "torchmetrics_multiclass_calibration_error" => {
            let single = maps.in_single();
            let single =
                Pixels::new(&single, maps.channels.max(2), &maps.labels).map_err(failed)?;
            let bins = Bins::top_label(&single, bins, Top::OwnBin);
            compare(checks, outputs, &norms(&bins), bound);
        }
        "numpy_calibration_fg" => {
            let sums = Bins::foreground(pixels, bins, Top::Closed);
            let sorted: Vec<(f64, bool)> = pixels
                .counted()
                .map(|(i, y)| (pixels.p(1, i), y == 1))
                .collect();
            bins_and_masses(checks, outputs, &sums, (&sorted, bins), bound);
        }
        "numpy_calibration_top1" => {
            let sums = Bins::top_label(pixels, bins, Top::Closed);
            let sorted: Vec<(f64, bool)> = pixels
                .counted()
                .map(|(i, y)| (pixels.p(pixels.argmax(i), i), pixels.argmax(i) == y))
                .collect();
            bins_and_masses(checks, outputs, &sums, (&sorted, bins), bound);
        }
        "numpy_calibration_classwise" => {
            let sums = Bins::class_wise(pixels, bins, Top::Closed);
            let mut figures = vec![
                ("ece_l1", class_mean(&sums, Bins::ece)),
                ("ece_l2", class_mean(&sums, Bins::ece_l2)),
                ("mce", class_mean(&sums, Bins::mce)),
                ("ace_average_nonempty_bins", class_mean(&sums, Bins::ace)),
            ];
            let of_class = |class: usize| {
                let sorted: Vec<(f64, bool)> = pixels
                    .counted()
                    .map(|(i, y)| (pixels.p(class, i), y == class))
                    .collect();
                equal_mass(&sorted, bins)
            };
            let masses: Option<Vec<_>> = (0..pixels.classes()).map(of_class).collect();
            if let Some(masses) = masses {
                let n = masses.len() as f64;
                let unweighted = masses.iter().map(|m| m.unweighted).sum::<f64>() / n;
                let weighted = masses.iter().map(|m| m.weighted).sum::<f64>() / n;
                figures.push(("ace_adaptive_equal_mass_unweighted", Some(unweighted)));
                figures.push(("ace_adaptive_equal_mass_weighted", Some(weighted)));
            }
            compare(checks, outputs, &figures, bound);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn threshold(record: &Record, at: Option<f64>) -> Mapped<Threshold> {
    let at = match at {
        Some(at) => at,
        None => record.number_or("threshold", 0.5)?,
    };
    match record.word_or("rule", "p > t") {
        "p > t" => Ok(Threshold {
            at,
            rule: Rule::Above,
        }),
        "p >= t" => Ok(Threshold {
            at,
            rule: Rule::AtLeast,
        }),
        other => left_out(format!("rule {other}")),
    }
}

/// Compares every recorded figure that has a name here; `null` is 0/0.
fn compare(
    checks: &mut Checks,
    recorded: &Value,
    figures: &[(&'static str, Option<f64>)],
    bound: Bound,
) {
    for (name, found) in figures {
        match (recorded.get(name), found) {
            (None, _) => {}
            (Some(Value::Null), found) => checks.same(name, found, &None),
            (Some(expected), Some(found)) => {
                checks.number(name, *found, expected.as_f64().unwrap_or(f64::NAN), bound);
            }
            (Some(expected), None) => checks.same(name, &None, &expected.as_f64()),
        }
    }
}

fn norms(bins: &Bins) -> Figures {
    vec![
        ("l1", bins.ece()),
        ("l2", bins.ece_l2()),
        ("max", bins.mce()),
    ]
}

/// The figures over bins of equal width and of equal mass, and the bins themselves.
fn bins_and_masses(
    checks: &mut Checks,
    outputs: &Value,
    sums: &Bins,
    (sorted, bins): (&[(f64, bool)], usize),
    bound: Bound,
) {
    let mass = equal_mass(sorted, bins);
    let figures = [
        ("ece_l1", sums.ece()),
        ("ece_l2", sums.ece_l2()),
        ("mce", sums.mce()),
        ("ace_average_nonempty_bins", sums.ace()),
        (
            "ace_adaptive_equal_mass_unweighted",
            mass.map(|m| m.unweighted),
        ),
        ("ace_adaptive_equal_mass_weighted", mass.map(|m| m.weighted)),
    ];
    compare(checks, outputs, &figures, bound);
    let Some(recorded) = outputs.get("bins") else {
        return;
    };
    for (i, bin) in sums.iter().enumerate() {
        let at = |key: &str| recorded[key].get(i).cloned().unwrap_or(Value::Null);
        let row = serde_json::json!({"count": at("count"), "acc": at("acc"), "conf": at("conf")});
        let figures = [
            ("count", Some(bin.map_or(0.0, |bin| bin.count as f64))),
            ("acc", bin.map(|bin| bin.accuracy)),
            ("conf", bin.map(|bin| bin.confidence)),
        ];
        compare(checks, &row, &figures, bound);
    }
}

fn scores(maps: &Maps, pixels: &Pixels<'_, f64>) -> Result<Figures> {
    let mut all = Scores::new(pixels.classes());
    all.add(pixels).map_err(failed)?;
    let mut figures = vec![
        ("nll_all_classes", Some(all.nll())),
        ("brier_eq11_mean_over_classes_and_pixels", Some(all.brier())),
        ("brier_sum_over_classes", Some(all.brier_sum())),
        ("brier_fg_only", Some(all.brier_per_class()[1])),
    ];
    if pixels.classes() == 2 {
        let foreground = Pixels::new(maps.foreground(), 1, &maps.labels).map_err(failed)?;
        let mut both = Scores::new(2);
        both.add(&foreground).map_err(failed)?;
        figures.push(("nll_fg_only", Some(all.nll_foreground())));
        figures.push(("nll_binary_both_terms", Some(both.nll())));
    }
    Ok(figures)
}

fn overlap(counts: &Confusion) -> Figures {
    let count = |n: u64| Some(n as f64);
    vec![
        ("tp", count(counts.tp)),
        ("fp", count(counts.fp)),
        ("fn", count(counts.fn_)),
        ("tn", count(counts.tn)),
        ("dice", counts.dice(EmptyMask::Skip)),
        ("jaccard", counts.jaccard(EmptyMask::Skip)),
        ("precision", counts.precision(EmptyMask::Skip)),
        ("recall", counts.recall(EmptyMask::Skip)),
        ("specificity", counts.specificity(EmptyMask::Skip)),
        ("accuracy", counts.accuracy(EmptyMask::Skip)),
    ]
}
