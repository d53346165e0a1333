//! Runs a family's records, counts, and fails with the worst disagreements.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};

use super::folder::{Bound, Family, Folder, LeftOut, Record};

/// What one record compared.
pub(crate) struct Checks {
    id: String,
    finite: usize,
    found: Vec<Disagreement>,
}

struct Disagreement {
    /// Error over bound.
    excess: f64,
    text: String,
}

impl Checks {
    fn disagree(&mut self, excess: f64, text: &str) {
        self.found.push(Disagreement {
            excess,
            text: format!("{}: {text}", self.id),
        });
    }

    /// Compares two numbers.
    pub(crate) fn number(&mut self, what: &str, found: f64, expected: f64, bound: Bound) {
        self.finite += 1;
        let allowed = bound.abs + bound.rel * expected.abs();
        let error = (found - expected).abs();
        if error.is_nan() || error > allowed {
            self.disagree(
                error / allowed.max(f64::MIN_POSITIVE),
                &format!("{what}: found {found}, expected {expected} within {allowed:e}"),
            );
        }
    }

    /// Compares two tensors, and tells the worst of their elements.
    pub(crate) fn tensor(
        &mut self,
        what: &str,
        found: &Tensor,
        expected: &Tensor,
        bound: Bound,
    ) -> Result<()> {
        self.finite += 1;
        if found.elem_count() != expected.elem_count() {
            let text = format!(
                "{what}: found shape {:?}, expected {:?}",
                found.dims(),
                expected.dims()
            );
            self.disagree(f64::INFINITY, &text);
            return Ok(());
        }
        let (found, expected) = (numbers(found)?, numbers(expected)?);
        let excess = |i: usize| {
            let allowed = bound.abs + bound.rel * expected[i].abs();
            let excess = (found[i] - expected[i]).abs() / allowed.max(f64::MIN_POSITIVE);
            if excess.is_nan() {
                f64::INFINITY
            } else {
                excess
            }
        };
        let worst = (0..found.len()).max_by(|a, b| excess(*a).total_cmp(&excess(*b)));
        if let Some(i) = worst.filter(|i| excess(*i) > 1.0) {
            let text = format!(
                "{what}[{i}]: found {}, expected {} within {:e} + {:e}·|expected|",
                found[i], expected[i], bound.abs, bound.rel
            );
            self.disagree(excess(i), &text);
        }
        Ok(())
    }

    /// Compares two things that must be the same.
    pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        found: &T,
        expected: &T,
    ) {
        self.finite += 1;
        if found != expected {
            self.disagree(
                f64::INFINITY,
                &format!("{what}: found {found:?}, expected {expected:?}"),
            );
        }
    }

    /// Where the reference is not finite ours must be.
    pub(crate) fn finite(&mut self, what: &str, found: &Tensor) -> Result<()> {
        let numbers = numbers(found)?;
        if let Some(number) = numbers.iter().find(|x| !x.is_finite()) {
            self.disagree(
                f64::INFINITY,
                &format!("{what}: found {number}, expected a finite number"),
            );
        }
        Ok(())
    }
}

/// An error of the trainer's as one of Candle's.
pub(crate) fn failed(error: impl std::fmt::Display) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}

/// All elements in f64.
pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// What happened to a record: it was compared, or left out for a reason; or our side reported an error.
pub(crate) type Outcome = Result<std::result::Result<(), LeftOut>>;

/// Runs `compare` over every record of a family, prints the counts, and panics with the worst disagreements.
pub(crate) fn check(
    name: &str,
    compare: impl Fn(&Folder, &Family, &Record, &mut Checks) -> Outcome,
) {
    let folder = Folder::open();
    let of = if folder.own {
        " of the repository's own fixtures only (DICE_GOLDEN is not set)"
    } else {
        ""
    };
    let Some(family) = folder.family(name) else {
        println!("golden {name}: no records{of}");
        return;
    };
    let (mut compared, mut only_finite) = (0, 0);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut disagreements = Vec::new();
    for record in &family.records {
        let mut checks = Checks {
            id: format!("{} ({})", record.id(), record.case()),
            finite: 0,
            found: Vec::new(),
        };
        match compare(&folder, &family, record, &mut checks) {
            Ok(Ok(())) => {
                compared += 1;
                only_finite += usize::from(checks.finite == 0);
            }
            Ok(Err(LeftOut(reason))) => {
                *reasons
                    .entry(format!("{}: {reason}", record.loss()))
                    .or_default() += 1;
            }
            Err(error) => checks.disagree(f64::INFINITY, &format!("our side failed: {error}")),
        }
        disagreements.append(&mut checks.found);
    }
    println!(
        "golden {name}: compared {compared} of {} records{of}",
        family.records.len()
    );
    if only_finite > 0 {
        println!(
            "golden {name}:   of these {only_finite} are NaN or infinite there, and were checked to be finite here"
        );
    }
    for (reason, count) in &reasons {
        println!("golden {name}:   left out {count}: {reason}");
    }
    disagreements.sort_by(|a, b| b.excess.total_cmp(&a.excess));
    let worst: Vec<String> = disagreements
        .iter()
        .take(12)
        .map(|d| format!("  {:.1e} times the bound, {}", d.excess, d.text))
        .collect();
    assert!(
        disagreements.is_empty(),
        "golden {name}: {} disagreements, the worst:\n{}",
        disagreements.len(),
        worst.join("\n")
    );
    assert!(
        compared > only_finite,
        "golden {name}: none of {} records was compared",
        family.records.len()
    );
}
