//! Learning rate and stopping over recorded loss curves: Keras', and what of `PyTorch`'s Keras' can say.

use seg_train::schedule::{
    EarlyStopping, EarlyStoppingConfig, ReduceLrOnPlateau, ReduceLrOnPlateauConfig,
};
use serde_json::Value;

use super::{
    folder::{Bound, Family, LeftOut, Mapped, Record, left_out},
    report::{Checks, Outcome, check, numbers},
};

#[test]
fn golden_sched_keras() {
    check("sched_keras", |folder, family, record, checks| {
        keras(family, record, checks, folder.bound(record, "value"))
    });
}

#[test]
fn golden_sched_torch() {
    check("sched_torch", |_, family, record, checks| {
        torch(family, record, checks)
    });
}

fn losses(family: &Family, record: &Record) -> candle_core::Result<Option<Vec<f64>>> {
    let tensor = family.tensor(&format!("{}/loss", record.case()));
    tensor.map(numbers).transpose()
}

fn keras(family: &Family, record: &Record, checks: &mut Checks, bound: Bound) -> Outcome {
    let Some(losses) = losses(family, record)? else {
        return Ok(left_out("the case has no loss curve"));
    };
    let _ = record.param("config");
    let settings = || {
        let lr = record.number("lr0")?;
        let unfit = |error: serde_json::Error| LeftOut(error.to_string());
        let plateau: ReduceLrOnPlateauConfig = serde_json::from_value(named(
            record.param("reduce_lr"),
            &["factor", "patience", "min_delta", "cooldown", "min_lr"],
        )?)
        .map_err(unfit)?;
        let stopping: EarlyStoppingConfig = serde_json::from_value(named(
            record.param("early_stopping"),
            &["patience", "min_delta"],
        )?)
        .map_err(unfit)?;
        record.all_read()?;
        Ok((lr, plateau, stopping))
    };
    let (mut lr, plateau, stopping) = match settings() {
        Ok(settings) => settings,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut plateau = ReduceLrOnPlateau::new(&plateau);
    let mut stopping = EarlyStopping::new(&stopping);
    let (mut rates, mut waits, mut reductions) = (Vec::new(), Vec::new(), Vec::new());
    let (mut stop, mut best_epoch) = (None, None);
    for (epoch, loss) in losses.iter().enumerate() {
        let next = plateau.step(*loss, lr);
        if next < lr {
            reductions.push(epoch as u64);
        }
        lr = next;
        let stops = stopping.step(*loss);
        if stopping.wait() == 0 {
            best_epoch = Some(epoch as u64);
        }
        rates.push(lr);
        waits.push(stopping.wait() as f64);
        if stops {
            stop = Some(epoch as u64);
            break;
        }
    }
    let tensor = |x: &[f64]| candle_core::Tensor::new(x, &candle_core::Device::Cpu);
    for (role, found) in [("lr_after_epoch", &rates), ("es_wait", &waits)] {
        if let Some(expected) = family.of(record, role) {
            checks.tensor(role, &tensor(found)?, expected, bound)?;
        }
    }
    let field = |key: &str| record.json.get(key);
    if let Some(expected) = field("stop_epoch") {
        checks.same("stop_epoch", &stop, &expected.as_u64());
    }
    if let Some(expected) = field("epochs_run") {
        checks.same("epochs_run", &Some(rates.len() as u64), &expected.as_u64());
    }
    if let Some(expected) = field("best_epoch") {
        checks.same("best_epoch", &best_epoch, &expected.as_u64());
    }
    if let Some(expected) = field("best").and_then(Value::as_f64) {
        checks.number("best", stopping.best(), expected, bound);
    }
    same_reductions(checks, record, &reductions);
    Ok(Ok(()))
}

fn same_reductions(checks: &mut Checks, record: &Record, found: &[u64]) {
    if let Some(expected) = record.json["reductions"].as_array() {
        let expected: Vec<u64> = expected.iter().filter_map(Value::as_u64).collect();
        checks.same("reductions", &found.to_vec(), &expected);
    }
}

/// Every setting must be named: the defaults here are the authors', not Keras'.
fn named(value: Option<&Value>, keys: &[&str]) -> Mapped<Value> {
    let Some(value) = value else {
        return left_out("one of the two callbacks alone");
    };
    match keys.iter().find(|key| value.get(**key).is_none()) {
        Some(key) => left_out(format!("`{key}` is missing")),
        None => Ok(value.clone()),
    }
}

/// `PyTorch` reduces when it has waited more than `patience` epochs, Keras when as many; and Keras counts the epoch in
/// which a cooldown ends. So `PyTorch`'s settings are Keras' with one more of each. Learning rates are f32 in Keras and
/// so here, so only the epochs of reduction are compared.
fn torch(family: &Family, record: &Record, checks: &mut Checks) -> Outcome {
    let Some(losses) = losses(family, record)? else {
        return Ok(left_out("the case has no loss curve"));
    };
    let settings = || {
        if record.word_or("mode", "min") != "min" {
            return left_out("a maximum");
        }
        let threshold = record.number_or("threshold", 1e-4)?;
        if record.word_or("threshold_mode", "rel") != "abs" && threshold != 0.0 {
            return left_out("a threshold relative to the best loss, where Keras' is absolute");
        }
        let plateau = ReduceLrOnPlateauConfig {
            factor: record.number_or("factor", 0.1)?,
            patience: record.number_or("patience", 10.0)? as u64 + 1,
            min_delta: threshold,
            cooldown: record.number_or("cooldown", 0.0)? as u64 + 1,
            min_lr: record.number_or("min_lr", 0.0)?,
        };
        let lr = record.number("lr0")?;
        record.all_read()?;
        Ok((lr, plateau))
    };
    let (mut lr, plateau) = match settings() {
        Ok(settings) => settings,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut plateau = ReduceLrOnPlateau::new(&plateau);
    let mut reductions = Vec::new();
    for (epoch, loss) in losses.iter().enumerate() {
        let next = plateau.step(*loss, lr);
        // They leave a rate alone that would change by less.
        if lr - next > 1e-8 {
            reductions.push(epoch as u64);
        }
        lr = next;
    }
    same_reductions(checks, record, &reductions);
    Ok(Ok(()))
}
