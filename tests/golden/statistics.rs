//! Rank tests and intervals, against `SciPy`.

use seg_train::stats::{
    Alternative, MOST_EXACT_PAIRS, MeanInterval, Method, mann_whitney, rank_sum,
};

use super::{
    folder::{Bound, Family, Mapped, Record, left_out},
    report::{Checks, Outcome, check, failed, numbers},
};

#[test]
fn golden_stats() {
    check("stats", |folder, family, record, checks| {
        run(family, record, checks, folder.bound(record, "value"))
    });
}

fn run(family: &Family, record: &Record, checks: &mut Checks, bound: Bound) -> Outcome {
    let sample = |name: &str| {
        let tensor = family.tensor(&format!("{}/{name}", record.case()));
        tensor.map(numbers).transpose()
    };
    let Some(x) = sample("x")? else {
        return Ok(left_out("the case has no sample"));
    };
    let y = sample("y")?.unwrap_or_default();
    let outputs = &record.json["outputs"];
    let mut compare = |name: &str, found: f64| {
        if let Some(expected) = outputs[name].as_f64() {
            checks.number(name, found, expected, bound);
        }
    };
    match record.loss() {
        "ranksums" | "mannwhitneyu" => {
            let (alternative, method) = match options(record) {
                Ok(options) => options,
                Err(reason) => return Ok(Err(reason)),
            };
            if method == Method::Exact && x.len() * y.len() > MOST_EXACT_PAIRS {
                return Ok(left_out("the exact test of more pairs than it takes here"));
            }
            let test = if record.loss() == "ranksums" {
                rank_sum(&x, &y, alternative)
            } else {
                mann_whitney(&x, &y, alternative, method)
            };
            let test = test.map_err(failed)?;
            compare("statistic", test.statistic);
            compare("pvalue", test.p);
        }
        "confidence_interval_mean" => {
            let level = record.number_or("level", 0.95).unwrap_or(0.95);
            let Some(interval) = MeanInterval::of(&x, level) else {
                return Ok(left_out("fewer than two values"));
            };
            compare("n", interval.n as f64);
            compare("mean", interval.mean);
            compare("sd_ddof1", interval.sd);
            compare("normal_lo", interval.normal[0]);
            compare("normal_hi", interval.normal[1]);
            compare("t_lo", interval.t[0]);
            compare("t_hi", interval.t[1]);
        }
        _ => return Ok(left_out("no such test here")),
    }
    Ok(record.all_read())
}

fn options(record: &Record) -> Mapped<(Alternative, Method)> {
    let alternative = match record.word_or("alternative", "two-sided") {
        "two-sided" => Alternative::TwoSided,
        "less" => Alternative::Less,
        "greater" => Alternative::Greater,
        other => return left_out(format!("alternative {other}")),
    };
    let continuity = record.flag_or("use_continuity", true)?;
    let method = match (record.word_or("method", "asymptotic"), continuity) {
        ("exact", _) => Method::Exact,
        ("asymptotic", true) => Method::Asymptotic,
        ("asymptotic", false) => Method::AsymptoticUncorrected,
        (other, _) => return left_out(format!("method {other}")),
    };
    Ok((alternative, method))
}
