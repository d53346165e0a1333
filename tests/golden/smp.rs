//! The losses of `segmentation_models.pytorch`, where options of ours coincide with theirs.

use candle_core::{DType, Result, Tensor};
use dice_losses::{
    Activation, Classes, EmptyRegion, FocalCrossEntropy, Loss, LossSpec, Modulation, Outer,
    PerClass, Prediction, Region, RegionLoss, RegionStats, Target,
};

use super::{
    folder::{Family, Folder, LeftOut, Mapped, Record, left_out},
    losses_common::{
        Bounds, Case, Fraction, Function, check_cases, clamp_min, compare_where, off_the_kink, powf,
    },
    report::{Checks, Outcome},
};

#[test]
fn golden_smp() {
    check_cases("smp", run);
}

fn run(
    folder: &Folder,
    inputs: &Family,
    family: &Family,
    record: &Record,
    checks: &mut Checks,
) -> Outcome {
    let ignored = family.of(record, "ignore_mask");
    // The logits are the same numbers in f32, so the f64 record holds for both.
    for dtype in [DType::F64, DType::F32] {
        let case = Case::in_dtype(inputs, record, dtype)?;
        let mapped = Setting::of(record, &case, ignored).and_then(|setting| {
            let f = mapping(record, &setting)?;
            record.all_read()?;
            Ok((f, setting))
        });
        let (f, setting) = match mapped {
            Ok(mapped) => mapped,
            Err(reason) => return Ok(Err(reason)),
        };
        let role = if setting.of_logits {
            "grad_logits"
        } else {
            "grad_p"
        };
        // Overlaps are made of |p − y| there.
        let smooth = if setting.of_logits {
            None
        } else {
            Some(off_the_kink(&case)?)
        };
        let at = (role, smooth.as_ref());
        let bounds = match dtype {
            DType::F32 => Bounds::single(folder, record),
            _ => Bounds::of(folder, record),
        };
        compare_where(checks, family, record, (&setting.input, &f), at, &bounds)?;
        if !setting.of_logits {
            break;
        }
    }
    Ok(Ok(()))
}

/// What all of their losses have in common.
#[derive(Clone)]
struct Setting {
    case: Case,
    /// What is fed.
    input: Tensor,
    of_logits: bool,
    activation: Activation,
    /// `[N, …]`, 1 where a pixel counts.
    counted: Option<Tensor>,
    class_weights: Option<Vec<f64>>,
    multiclass: bool,
}

impl Setting {
    fn of(record: &Record, case: &Case, ignored: Option<&Tensor>) -> Mapped<Self> {
        let (multiclass, activation) = match record.word_or("mode", "multiclass") {
            "multiclass" => (true, Activation::Softmax),
            "multilabel" | "binary" => (false, Activation::Sigmoid),
            other => return left_out(format!("mode {other}")),
        };
        let of_logits = match record.word_or("input", "logits") {
            "logits" => true,
            "probs" => false,
            other => return left_out(format!("input {other}")),
        };
        if record.flag_or("from_logits", of_logits)? != of_logits {
            return left_out("probabilities taken for logits, or the other way round");
        }
        let counted = match (record.param("ignore_index"), ignored) {
            (None, _) => None,
            (Some(_), Some(mask)) => Some(
                mask.eq(0f64)
                    .or_else(|e| left_out(format!("the mask: {e}")))?,
            ),
            (Some(_), None) => return left_out("an ignore index without a mask"),
        };
        Ok(Self {
            input: if of_logits {
                case.need_logits()?
            } else {
                case.p.clone()
            },
            of_logits,
            activation,
            counted,
            // Kept in f32 there.
            class_weights: record.list("class_weights")?.map(|weights| {
                let single = |w: &f64| f64::from(*w as f32);
                weights.iter().map(single).collect()
            }),
            multiclass,
            case: case.clone(),
        })
    }

    fn prediction(&self, x: &Tensor) -> Prediction {
        match (self.activation, self.of_logits) {
            (Activation::Softmax, true) => Prediction::logits(x),
            (Activation::Softmax, false) => Prediction::probabilities(x),
            (Activation::Sigmoid, true) => Prediction::multi_label(x),
            (Activation::Sigmoid, false) => Prediction::multi_label_probabilities(x),
        }
    }

    fn target(&self, y: &Tensor) -> Target {
        let target = Target::dense(y);
        match &self.counted {
            Some(counted) => target.mask(counted),
            None => target,
        }
    }
}

/// The specification that `dice-losses/docs/coming-from.md` states for a record, and the power of the mean over the
/// classes that comes after; none where that takes more than a specification.
fn specification(record: &Record, setting: &Setting) -> Mapped<Option<(String, f64)>> {
    let flag = |key: &str| record.flag_or(key, false);
    if setting.class_weights.is_some() || flag("log_loss")? || flag("normalized")? {
        return Ok(None);
    }
    let number = |key: &str, default: f64| record.number_or(key, default);
    let overlap = match record.loss() {
        "DiceLoss" => String::from("dice:"),
        "JaccardLoss" => String::from("jaccard:"),
        "TverskyLoss" => format!(
            "tversky:alpha={},beta={},",
            number("alpha", 0.5)?,
            number("beta", 0.5)?
        ),
        "FocalLoss"
            if setting.activation == Activation::Sigmoid
                && record.param("alpha").is_none()
                && record.word_or("reduction", "mean") == "mean" =>
        {
            return Ok(Some((
                format!("focal:focus={}", number("gamma", 2.0)?),
                1.0,
            )));
        }
        _ => return Ok(None),
    };
    let classes = match record.list("classes")? {
        None => String::from("all"),
        Some(list) => {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            list.join("+")
        }
    };
    let power = match record.loss() {
        "TverskyLoss" => number("gamma", 1.0)?,
        _ => 1.0,
    };
    let smooth = number("smooth", 0.0)?;
    let spec = format!("{overlap}classes={classes},region=batch,empty=zero,smooth={smooth}");
    Ok(Some((spec, power)))
}

fn mapping(record: &Record, setting: &Setting) -> Mapped<Function> {
    let built = by_builders(record, setting)?;
    let Some((spec, power)) = specification(record, setting)? else {
        return Ok(built);
    };
    let spec: LossSpec = spec
        .parse()
        .map_err(|error| LeftOut(format!("outside the zoo's ranges: {error}")))?;
    let (loss, setting) = (spec.build(), setting.clone());
    Ok(Box::new(move |x| {
        let target = setting.target(&setting.case.target);
        powf(&loss.evaluate(&setting.prediction(x), &target)?, power)
    }))
}

fn by_builders(record: &Record, setting: &Setting) -> Mapped<Function> {
    match record.loss() {
        "DiceLoss" => overlap(record, setting, 0.5, 0.5, 1.0),
        "JaccardLoss" => overlap(record, setting, 1.0, 1.0, 1.0),
        "TverskyLoss" => {
            let (alpha, beta) = (
                record.number_or("alpha", 0.5)?,
                record.number_or("beta", 0.5)?,
            );
            let power = record.number_or("gamma", 1.0)?;
            overlap(record, setting, alpha, beta, power)
        }
        "FocalLoss" => focal(record, setting),
        _ => left_out("no such loss here"),
    }
}

/// Their Dice, Jaccard and Tversky losses: one ratio a class over the batch, nothing for a class without truth, the
/// mean over classes (weighted, divided by the weights' sum) to a power.
fn overlap(
    record: &Record,
    setting: &Setting,
    alpha: f64,
    beta: f64,
    power: f64,
) -> Mapped<Function> {
    if !setting.case.hard {
        return left_out("their sums of |p − y| for soft labels");
    }
    let eps = record.number_or("eps", 1e-7)?;
    let smooth = record.number_or("smooth", 0.0)?;
    // The index is no less than this.
    let floor = if record.flag_or("log_loss", false)? {
        eps
    } else {
        0.0
    };
    let index = Fraction {
        numerator: move |s: &RegionStats| &s.tp + smooth,
        denominator: move |s: &RegionStats| {
            let errors = ((&s.fp * alpha)? + (&s.fn_ * beta)?)?;
            (&s.tp + errors)? + smooth
        },
        least: eps,
        floor,
    };
    let channels = setting.case.channels();
    let (classes, chosen) = match record.list("classes")? {
        None => (Classes::All, (0..channels).collect()),
        Some(list) => {
            let list: Vec<usize> = list.into_iter().map(|class| class as usize).collect();
            (Classes::Listed(list.clone()), list)
        }
    };
    let mut loss = RegionLoss::new(index)
        .empty(EmptyRegion::Zero)
        .region(Region::Batch)
        .classes(classes);
    if floor > 0.0 {
        loss = loss.outer(Outer::MinusLog(1.0));
    }
    if let Some(weights) = &setting.class_weights {
        if weights.len() != channels {
            return left_out("another number of weights than channels");
        }
        let sum: f64 = chosen.iter().map(|class| weights[*class]).sum();
        let share = chosen.len() as f64 / sum;
        loss = loss.class_weights(weights.iter().map(|w| w * share).collect::<Vec<_>>());
    }
    let setting = setting.clone();
    Ok(Box::new(move |x| {
        let target = setting.target(&setting.case.target);
        powf(&loss.evaluate(&setting.prediction(x), &target)?, power)
    }))
}

/// Their focal loss: sigmoids for every mode, the mean over classes (weighted, divided by the weights' sum);
/// `normalized` divides by the sum of the focal factors, which is FP + FN with `++`.
fn focal(record: &Record, setting: &Setting) -> Mapped<Function> {
    if !setting.of_logits {
        return left_out("probabilities turned back to logits");
    }
    if !setting.case.hard {
        return left_out("their focal factor of soft labels");
    }
    let gamma = record.number_or("gamma", 2.0)?;
    let normalized = record.flag_or("normalized", false)?;
    let reduction = record.word_or("reduction", "mean");
    if reduction != "mean" && reduction != "sum" {
        return left_out(format!("reduction {reduction}"));
    }
    let sum = reduction == "sum";
    let sides = if record.param("alpha").is_some() {
        let alpha = record.number("alpha")?;
        PerClass::Split {
            background: 1.0 - alpha,
            foreground: alpha,
        }
    } else {
        PerClass::All(1.0)
    };
    let channels = setting.case.channels();
    let weights = match &setting.class_weights {
        None => vec![1.0; channels],
        Some(weights) if weights.len() == channels => weights.clone(),
        Some(_) => return left_out("another number of weights than channels"),
    };
    if setting.counted.is_some() && !setting.multiclass && channels > 1 {
        return left_out("an ignore index with several labels, which fails there");
    }
    let loss = FocalCrossEntropy::new(sides, gamma);
    let setting = setting.clone();
    Ok(Box::new(move |x| {
        let class = |c: usize| -> Result<Tensor> {
            let prediction = Prediction::multi_label(&x.narrow(1, c, 1)?);
            let target = setting.target(&setting.case.target.narrow(1, c, 1)?);
            let mut value = loss.evaluate(&prediction, &target)?;
            let stats = RegionStats::new(
                &prediction,
                &target,
                Modulation::from_gamma(gamma),
                Region::Batch,
            )?;
            if sum {
                value = (value * stats.pixels.sum_all()?)?;
            }
            if normalized {
                let factors = (&stats.fp + &stats.fn_)?.sum_all()?;
                value = (value / clamp_min(&factors, 1e-6)?)?;
            }
            Ok(value)
        };
        let classes: Result<Vec<Tensor>> = (0..channels).map(class).collect();
        let weights = Tensor::new(weights.as_slice(), x.device())?.to_dtype(DType::F64)?;
        let total = (Tensor::stack(&classes?, 0)? * &weights)?.sum_all()?;
        total / weights.sum_all()?
    }))
}
