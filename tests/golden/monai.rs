//! MONAI's losses, where options of ours coincide with theirs.

use candle_core::{DType, Result, Tensor};
use dice_losses::{
    Activation, ClassReduction, Classes, EmptyRegion, FocalCrossEntropy, GeneralisedDice, Loss,
    LossSpec, Modulation, PerClass, Prediction, Reduction, Region, RegionIndex, RegionLoss,
    RegionStats, Target, Tversky, Weighting,
};

use super::{
    folder::{Family, Folder, LeftOut, Mapped, Record, left_out},
    losses_common::{
        Bounds, Case, Fraction, Function, check_cases, clip, compare_where, off_the_kink,
        pixels_as_items,
    },
    report::{Checks, Outcome},
};

#[test]
fn golden_monai() {
    check_cases("monai", run);
}

fn run(
    folder: &Folder,
    inputs: &Family,
    family: &Family,
    record: &Record,
    checks: &mut Checks,
) -> Outcome {
    // The logits are the same numbers in f32, so the f64 record holds for both.
    for dtype in [DType::F64, DType::F32] {
        let case = Case::in_dtype(inputs, record, dtype)?;
        let mapped = Setting::of(record, &case).and_then(|setting| {
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
        let soft_label = record.flag_or("soft_label", false).unwrap_or(false);
        let smooth = if soft_label && !setting.of_logits {
            Some(off_the_kink(&case)?)
        } else {
            None
        };
        let at = (role, smooth.as_ref());
        let mut bounds = match dtype {
            DType::F32 => Bounds::single(folder, record),
            _ => Bounds::of(folder, record),
        };
        if record.loss() == "GeneralizedDiceLoss" {
            // Their weights are f32.
            let rounding = f64::from(f32::EPSILON);
            bounds.value = bounds.value.at_least(0.0, rounding);
            bounds.grad = bounds.grad.at_least(rounding * 1e-2, rounding * 10.0);
        }
        compare_where(checks, family, record, (&setting.input, &f), at, &bounds)?;
        if !setting.of_logits || setting.activation.is_none() {
            break;
        }
    }
    Ok(Ok(()))
}

/// What all of MONAI's losses have in common.
#[derive(Clone)]
struct Setting {
    case: Case,
    /// What is fed.
    input: Tensor,
    of_logits: bool,
    /// What is done to it; nothing: it is taken as it is.
    activation: Option<Activation>,
    background: bool,
    reduction: Reduction,
    region: Region,
    /// One weight for each class that counts.
    weight: Option<Vec<f64>>,
    smooth_nr: f64,
    smooth_dr: f64,
}

impl Setting {
    fn of(record: &Record, case: &Case) -> Mapped<Self> {
        let of_logits = match record.word_or("input", "logits") {
            "logits" => true,
            "probs" => false,
            other => return left_out(format!("input {other}")),
        };
        let activation = match record.word_or("activation", "none") {
            // A softmax over one channel is skipped with a warning.
            "softmax" if case.channels() > 1 => Some(Activation::Softmax),
            "sigmoid" => Some(Activation::Sigmoid),
            "none" | "softmax" => None,
            other => return left_out(format!("activation {other}")),
        };
        if !of_logits && activation.is_some() {
            return left_out("an activation of probabilities");
        }
        Ok(Self {
            input: if of_logits {
                case.need_logits()?
            } else {
                case.p.clone()
            },
            of_logits,
            activation,
            background: record.flag_or("include_background", true)? || case.channels() == 1,
            reduction: match record.word_or("reduction", "mean") {
                "mean" => Reduction::Mean,
                "sum" => Reduction::Sum,
                "none" => Reduction::None,
                other => return left_out(format!("reduction {other}")),
            },
            region: if record.flag_or("batch", false)? {
                Region::Batch
            } else {
                Region::Item
            },
            weight: record.list("weight")?,
            smooth_nr: record.number_or("smooth_nr", 1e-5)?,
            smooth_dr: record.number_or("smooth_dr", 1e-5)?,
            case: case.clone(),
        })
    }

    /// The prediction that a region loss sees.
    fn prediction(&self, x: &Tensor) -> Result<Prediction> {
        match (self.activation, self.of_logits) {
            (Some(Activation::Softmax), _) => Ok(Prediction::logits(x)),
            (Some(Activation::Sigmoid), _) => Ok(Prediction::multi_label(x)),
            (None, false) => Ok(Prediction::probabilities(x)),
            (None, true) => candle_core::bail!("logits without activation"),
        }
    }

    fn classes(&self) -> Classes {
        if self.background {
            Classes::All
        } else {
            Classes::Foreground
        }
    }

    /// The weights a channel: theirs have none for a background that does not count, and none at all for one class.
    fn class_weights(&self) -> Mapped<PerClass> {
        let skipped = usize::from(!self.background);
        let counted = self.case.channels() - skipped;
        match &self.weight {
            None => Ok(PerClass::All(1.0)),
            Some(_) if counted == 1 => Ok(PerClass::All(1.0)),
            Some(weight) if weight.len() == 1 => Ok(PerClass::All(weight[0])),
            Some(weight) if weight.len() == counted => Ok(PerClass::Each(
                [&vec![1.0; skipped], weight.as_slice()].concat(),
            )),
            Some(_) => left_out("another number of weights than classes"),
        }
    }

    /// A region loss with these choices; with `none`, of every region.
    fn region_loss(
        &self,
        index: impl RegionIndex + 'static,
        modulation: Modulation,
    ) -> Mapped<Function> {
        if self.activation.is_none() && self.of_logits {
            return left_out("logits taken for probabilities");
        }
        let loss = RegionLoss::new(index)
            .modulation(modulation)
            .empty(EmptyRegion::Ratio)
            .classes(self.classes())
            .region(self.region)
            .class_weights(self.class_weights()?)
            .reduction(self.reduction)
            .class_reduction(match self.reduction {
                Reduction::Sum => ClassReduction::Sum,
                _ => ClassReduction::Mean,
            });
        let setting = self.clone();
        Ok(Box::new(move |x| {
            let prediction = setting.prediction(x)?;
            let target = Target::dense(&setting.case.target);
            match setting.reduction {
                Reduction::None => loss.per_region(&prediction, &target),
                _ => loss.evaluate(&prediction, &target),
            }
        }))
    }
}

/// The specification that `dice-losses/docs/coming-from.md` states for a record; none where that takes more than a
/// specification: weights, reductions, two smoothing terms.
fn specification(record: &Record, setting: &Setting) -> Mapped<Option<String>> {
    let smooth = setting.smooth_nr;
    if setting.reduction != Reduction::Mean
        || setting.weight.is_some()
        || record
            .param("alpha")
            .is_some_and(|_| record.loss().contains("Focal"))
        || smooth != setting.smooth_dr
    {
        return Ok(None);
    }
    let number = |key: &str, default: f64| record.number_or(key, default);
    let (softmax, sigmoid) = (
        setting.activation == Some(Activation::Softmax),
        setting.activation == Some(Activation::Sigmoid),
    );
    let exclusive = softmax || setting.case.channels() == 1;
    let (jaccard, squared) = (
        record.flag_or("jaccard", false)?,
        record.flag_or("squared_pred", false)?,
    );
    let overlap = match (record.loss(), jaccard, squared) {
        ("DiceLoss", true, false) => format!("jaccard:smooth={}", smooth / 2.0),
        ("DiceLoss", false, true) => format!("squared-dice:smooth={}", smooth / 2.0),
        ("DiceLoss", false, false) => format!("dice:smooth={}", smooth / 2.0),
        ("TverskyLoss", ..) => format!(
            "tversky:alpha={},beta={},smooth={smooth}",
            number("alpha", 0.5)?,
            number("beta", 0.5)?
        ),
        ("DiceCELoss", false, false) if exclusive => format!(
            "dice+ce:dice_weight={},ce_weight={},smooth={}",
            number("lambda_dice", 1.0)?,
            number("lambda_ce", 1.0)?,
            smooth / 2.0
        ),
        // Its focal part is always a sigmoid's.
        ("DiceFocalLoss", false, false) if sigmoid => format!(
            "dice+focal:dice_weight={},focal_weight={},focus={},smooth={}",
            number("lambda_dice", 1.0)?,
            number("lambda_focal", 1.0)?,
            number("gamma", 2.0)?,
            smooth / 2.0
        ),
        ("FocalLoss", ..) if sigmoid => {
            return Ok(Some(format!("focal:focus={}", number("gamma", 2.0)?)));
        }
        _ => return Ok(None),
    };
    let classes = if setting.background { "all" } else { "fg" };
    let region = match setting.region {
        Region::Item => "item",
        Region::Batch => "batch",
    };
    Ok(Some(format!(
        "{overlap},classes={classes},region={region},empty=ratio"
    )))
}

fn mapping(record: &Record, setting: &Setting) -> Mapped<Function> {
    let built = by_builders(record, setting)?;
    let Some(spec) = specification(record, setting)? else {
        return Ok(built);
    };
    let spec: LossSpec = spec
        .parse()
        .map_err(|error| LeftOut(format!("outside the zoo's ranges: {error}")))?;
    let (loss, setting) = (spec.build(), setting.clone());
    Ok(Box::new(move |x| {
        let target = Target::dense(&setting.case.target);
        loss.evaluate(&setting.prediction(x)?, &target)
    }))
}

fn by_builders(record: &Record, setting: &Setting) -> Mapped<Function> {
    match record.loss() {
        "DiceLoss" => dice(record, setting),
        "TverskyLoss" => {
            if record.flag_or("soft_label", false)? && !setting.case.hard {
                return left_out("their sums of |p − y| for soft labels");
            }
            let (alpha, beta) = (
                record.number_or("alpha", 0.5)?,
                record.number_or("beta", 0.5)?,
            );
            setting.region_loss(smoothed(setting, alpha, beta, 1.0), Modulation::Plain)
        }
        "GeneralizedDiceLoss" => generalized_dice(record, setting),
        "DiceCELoss" => {
            let dice = dice(record, setting)?;
            let ce = cross_entropy(setting)?;
            weighted(record, ("lambda_dice", dice), ("lambda_ce", ce))
        }
        "FocalLoss" => {
            let softmax = setting.activation == Some(Activation::Softmax);
            focal(record, setting, softmax)
        }
        // Its focal part is always a sigmoid's.
        "DiceFocalLoss" => {
            let dice = dice(record, setting)?;
            let focal = focal(record, setting, false)?;
            weighted(record, ("lambda_dice", dice), ("lambda_focal", focal))
        }
        "AsymmetricUnifiedFocalLoss" => asymmetric_unified_focal(record, setting),
        _ => left_out("no such loss here"),
    }
}

/// The sum of two losses with the weights of these parameters.
fn weighted(record: &Record, a: (&str, Function), b: (&str, Function)) -> Mapped<Function> {
    let (of_a, of_b) = (record.number_or(a.0, 1.0)?, record.number_or(b.0, 1.0)?);
    let (a, b) = (a.1, b.1);
    Ok(Box::new(move |x| (a(x)? * of_a)? + (b(x)? * of_b)?))
}

/// `(TP + nr) / (TP + α FP + β FN + dr)`, where both smoothing terms are given for `times` as much.
fn smoothed(setting: &Setting, alpha: f64, beta: f64, times: f64) -> impl RegionIndex + 'static {
    let (nr, dr) = (setting.smooth_nr / times, setting.smooth_dr / times);
    Fraction {
        numerator: move |s: &RegionStats| &s.tp + nr,
        denominator: move |s: &RegionStats| {
            let errors = ((&s.fp * alpha)? + (&s.fn_ * beta)?)?;
            (&s.tp + errors)? + dr
        },
        least: 0.0,
        floor: 0.0,
    }
}

/// `1 − (2TP + nr) / (2TP + FP + FN + dr)`; Jaccard has `2FP + 2FN` there. `squared_pred` is our squared Dice,
/// since Σp² + Σy² = 2Σpy + Σ(p − y)².
fn dice(record: &Record, setting: &Setting) -> Mapped<Function> {
    let share = if record.flag_or("jaccard", false)? {
        1.0
    } else {
        0.5
    };
    let squared = record.flag_or("squared_pred", false)?;
    let soft_label = record.flag_or("soft_label", false)?;
    if soft_label && !squared && !setting.case.hard {
        return left_out("their sums of |p − y| for soft labels");
    }
    let modulation = if squared {
        Modulation::SquaredDifference
    } else {
        Modulation::Plain
    };
    // With one smoothing term it is an index of the crate.
    if setting.smooth_nr == setting.smooth_dr {
        let index = Tversky {
            alpha: share,
            beta: share,
            smooth: setting.smooth_nr / 2.0,
        };
        return setting.region_loss(index, modulation);
    }
    setting.region_loss(smoothed(setting, share, share, 2.0), modulation)
}

/// Our generalised Dice, whose smoothing is in pixels of the rarest class where theirs is in units of its weight.
fn generalized_dice(record: &Record, setting: &Setting) -> Mapped<Function> {
    if record.flag_or("soft_label", false)? && !setting.case.hard {
        return left_out("their sums of |p − y| for soft labels");
    }
    let weighting = match record.word_or("w_type", "square") {
        "square" => Weighting::Square,
        "simple" => Weighting::Simple,
        "uniform" => Weighting::Uniform,
        other => return left_out(format!("w_type {other}")),
    };
    if setting.weight.is_some() {
        return left_out("class weights");
    }
    let index = TheirSmoothing {
        weighting,
        nr: setting.smooth_nr,
        dr: setting.smooth_dr,
    };
    setting.region_loss(index, Modulation::Plain)
}

/// [`GeneralisedDice`] with a smoothing of its own for each item: `s / w` of its rarest class, `s` times that class's
/// volume to the weights' exponent. With none of the classes there all weights are 0 there, and so is the loss.
struct TheirSmoothing {
    weighting: Weighting,
    nr: f64,
    dr: f64,
}

impl RegionIndex for TheirSmoothing {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self.loss(stats)?.affine(-1.0, 1.0)
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        let volumes: Vec<Vec<f64>> = stats.volume.to_dtype(DType::F64)?.to_vec2()?;
        let items = volumes.iter().enumerate().map(|(n, volumes)| {
            let present = volumes.iter().copied().filter(|volume| *volume > 0.0);
            let rarest = present.fold(f64::INFINITY, f64::min).min(1e100);
            let unit = match self.weighting {
                Weighting::Square => rarest * rarest,
                Weighting::Simple => rarest,
                Weighting::Uniform => 1.0,
            };
            let item = |x: &Tensor| x.narrow(0, n, 1);
            let item = RegionStats {
                tp: item(&stats.tp)?,
                fp: item(&stats.fp)?,
                fn_: item(&stats.fn_)?,
                volume: item(&stats.volume)?,
                predicted: item(&stats.predicted)?,
                pixels: item(&stats.pixels)?,
                activation: stats.activation,
                modulation: stats.modulation,
            };
            let ours = GeneralisedDice {
                weighting: self.weighting,
                smooth: self.dr * unit,
            };
            let loss = ours.loss(&item)?;
            if self.nr == self.dr {
                return Ok(loss);
            }
            // 1 − (2TP + nr)/(all + dr) = (FP + FN)/(all + dr) + (dr − nr)/(all + dr)
            let all = (((&item.tp * 2.0)? + &item.fp)? + &item.fn_)?;
            let all = (all * ours.weights(&item.volume)?)?.sum_keepdim(1)?;
            loss + ((all + ours.smooth)?.recip()? * ((self.dr - self.nr) * unit))?
        });
        Tensor::cat(&items.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// `PyTorch`'s: for several channels always of a softmax, with class weights that are not divided out.
fn cross_entropy(setting: &Setting) -> Mapped<Function> {
    if !setting.of_logits {
        return left_out("a cross-entropy that takes probabilities for logits");
    }
    let channels = setting.case.channels();
    let weights = match &setting.weight {
        // `pos_weight`: of the foreground's term alone.
        Some(weight) if channels == 1 && weight.len() == 1 => PerClass::Split {
            background: 1.0,
            foreground: weight[0],
        },
        Some(weight) if weight.len() == channels => PerClass::Each(weight.clone()),
        Some(_) => return left_out("another number of weights than channels"),
        None => PerClass::All(1.0),
    };
    let pixels = setting.case.pixels() as f64;
    // Their sum is over pixels, ours of the items' means.
    let scale = match setting.reduction {
        Reduction::Mean => 1.0,
        Reduction::Sum => pixels,
        Reduction::None => return left_out("a cross-entropy a pixel"),
    };
    let loss = FocalCrossEntropy::new(weights, 0.0).reduction(setting.reduction);
    let target = setting.case.target.clone();
    Ok(Box::new(move |x| {
        loss.evaluate(&Prediction::logits(x), &Target::dense(&target))? * scale
    }))
}

/// `(1 − p_t)^γ` times the cross-entropy, a class of a pixel, averaged over both; α weighs the foreground against
/// the background.
fn focal(record: &Record, setting: &Setting, softmax: bool) -> Mapped<Function> {
    if !setting.of_logits {
        return left_out("a focal loss that takes probabilities for logits");
    }
    let gamma = record.number_or("gamma", 2.0)?;
    let alpha = record.list("alpha")?;
    let case = &setting.case;
    let first = usize::from(!setting.background);
    let channels = case.channels() - first;
    if softmax && channels == 1 {
        return left_out("a softmax over one channel");
    }
    if !softmax && !case.hard {
        return left_out("their focal factor |y − p| of soft labels in sigmoids");
    }
    let weights = match &setting.weight {
        None => vec![1.0; channels],
        Some(weight) if weight.len() == 1 => vec![weight[0]; channels],
        Some(weight) if weight.len() == channels => weight.clone(),
        Some(_) => return left_out("another number of weights than channels"),
    };
    // Weights of a channel's background and foreground in sigmoids; of a channel in a softmax.
    let sides: Vec<(f64, f64)> = match alpha.as_deref() {
        None => vec![(1.0, 1.0); channels],
        Some([_]) if softmax && first > 0 => vec![(1.0, 1.0); channels],
        Some([a]) if softmax => (0..channels)
            .map(|c| (1.0, if c == 0 { 1.0 - a } else { *a }))
            .collect(),
        Some([a]) => vec![(1.0 - a, *a); channels],
        Some(list) if list.len() == channels => list.iter().map(|a| (1.0, *a)).collect(),
        Some(_) => return left_out("another number of alphas than channels"),
    };
    let reduction = setting.reduction;
    let case = case.clone();
    Ok(Box::new(move |x| {
        let of = |x: &Tensor| x.narrow(1, first, channels)?.contiguous();
        let (x, y) = (of(x)?, of(&case.target)?);
        let pixelwise = reduction == Reduction::None;
        let (x, y) = if pixelwise {
            (pixels_as_items(&x)?, pixels_as_items(&y)?)
        } else {
            (x, y)
        };
        let class = |c: usize| -> Result<Tensor> {
            let (background, foreground) = sides[c];
            if softmax {
                // This class's term alone.
                let mut only = vec![0.0; channels];
                only[c] = weights[c] * foreground;
                FocalCrossEntropy::new(only, gamma)
                    .reduction(reduction)
                    .evaluate(&Prediction::logits(&x), &Target::dense(&y))
            } else {
                let split = PerClass::Split {
                    background: weights[c] * background,
                    foreground: weights[c] * foreground,
                };
                FocalCrossEntropy::new(split, gamma)
                    .reduction(reduction)
                    .evaluate(
                        &Prediction::multi_label(&x.narrow(1, c, 1)?),
                        &Target::dense(&y.narrow(1, c, 1)?),
                    )
            }
        };
        let classes: Result<Vec<Tensor>> = (0..channels).map(class).collect();
        let classes = Tensor::stack(&classes?, 0)?;
        match reduction {
            Reduction::Mean => classes.mean_all(),
            Reduction::Sum => classes.sum_all(),
            // [C, N·S] to [N, C, S].
            Reduction::None => classes
                .reshape((channels, case.p.dims()[0], case.pixels()))?
                .transpose(0, 1)?
                .contiguous(),
        }
    }))
}

/// Theirs clips whatever it is given to `[ε, 1 − ε]`, averages the focal part over the two classes too, and takes
/// `weight` for the focal part.
fn asymmetric_unified_focal(record: &Record, setting: &Setting) -> Mapped<Function> {
    const EPSILON: f64 = 1e-7;
    // It is applied to a number.
    let _ = record.word_or("reduction", "mean");
    if setting.activation.is_some() {
        return left_out("an activation it does not have");
    }
    if setting.case.channels() > 2 {
        return left_out("more than two classes");
    }
    let (delta, gamma) = (
        record.number_or("delta", 0.7)?,
        record.number_or("gamma", 0.5)?,
    );
    let weight = match &setting.weight {
        None => 0.5,
        Some(weight) => weight[0],
    };
    if gamma >= 1.0 {
        return left_out("an outer power of 0 or less");
    }
    let index = Tversky {
        alpha: 1.0 - delta,
        beta: delta,
        smooth: EPSILON,
    };
    let tversky = RegionLoss::new(index)
        .outer(vec![1.0, 1.0 - gamma])
        .empty(EmptyRegion::Ratio);
    let focal = dice_losses::zoo::asymmetric_focal(delta, gamma);
    let case = setting.case.clone();
    Ok(Box::new(move |x| {
        let both = |x: &Tensor| match x.dims()[1] {
            1 => Tensor::cat(&[&x.affine(-1.0, 1.0)?, x], 1),
            _ => Ok(x.clone()),
        };
        let p = Prediction::probabilities(&clip(&both(x)?, EPSILON)?);
        let y = Target::dense(&both(&case.target)?);
        (focal.evaluate(&p, &y)? * (weight / 2.0))? + (tversky.evaluate(&p, &y)? * (1.0 - weight))?
    }))
}
