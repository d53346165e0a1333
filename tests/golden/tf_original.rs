//! The authors' `TensorFlow` code, by options of ours and its clipping.

use candle_core::{Result, Tensor};
use dice_losses::{
    EmptyRegion, FocalCrossEntropy, Loss, Modulation, PerClass, Prediction, Region, RegionIndex,
    RegionLoss, RegionStats, Target, Tversky, zoo,
};

use super::{
    folder::{Family, Folder, Mapped, Record, left_out},
    losses_common::{Bounds, Case, Function, check_cases, clip, compare},
    report::{Checks, Outcome},
};

/// Keras' epsilon, to which everything is clipped and with which ratios are smoothed.
pub(crate) const EPSILON: f64 = 1e-7;

#[test]
fn golden_tf_original() {
    check_cases("tf_original", run);
}

fn run(
    folder: &Folder,
    inputs: &Family,
    family: &Family,
    record: &Record,
    checks: &mut Checks,
) -> Outcome {
    let case = Case::of(inputs, record)?;
    let mapped = |rounding| mapping(record, case.clone(), rounding);
    let (f, power) = match mapped(0.0) {
        Ok(mapped) => mapped,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut bounds = Bounds::of(folder, record);
    if power < 1.0 {
        // Near a perfect prediction their `1 − index` is mostly rounding, and a root of it more so. (In f32 a root
        // may be off by a tenth, and there is no more to it than the order of magnitude.)
        if record.is_f32() {
            bounds.value = bounds.value.at_least(1e-3, 0.0);
            bounds.grad = bounds.grad.at_least(1e-3, 0.0);
        } else if let Ok((rounded, _)) = mapped(8.0 * f64::EPSILON) {
            bounds = bounds.wider_by((&f, &rounded), &case.p)?;
        }
    }
    compare(checks, family, record, (&case.p, &f), "grad_p", &bounds)?;
    Ok(Ok(()))
}

/// What is clipped before the loss sees it.
#[derive(Clone, Copy)]
enum Clip {
    Nothing,
    P,
    PAndY,
}

/// A region loss as the authors' code has it: every class, one ratio an item, whatever the ratio gives when empty.
fn region(alpha: f64, beta: f64, smooth: f64) -> RegionLoss<Tversky> {
    RegionLoss::new(tversky(alpha, beta, smooth)).empty(EmptyRegion::Ratio)
}

fn tversky(alpha: f64, beta: f64, smooth: f64) -> Tversky {
    Tversky {
        alpha,
        beta,
        smooth,
    }
}

/// An index whose `1 − index` is off by `by`, for the losses that take a root of it.
struct Rounded<I> {
    index: I,
    by: f64,
}

impl<I: RegionIndex> RegionIndex for Rounded<I> {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self.index.index(stats)? - self.by
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        self.index.loss(stats)? + self.by
    }
}

/// A region loss with an outer power.
fn rooted(
    index: impl RegionIndex,
    rounding: f64,
    power: impl Into<PerClass>,
) -> RegionLoss<impl RegionIndex> {
    RegionLoss::new(Rounded {
        index,
        by: rounding,
    })
    .outer(power)
    .empty(EmptyRegion::Ratio)
}

/// The record's loss as a function of `p`, and the smallest outer power in it; `rounding` is what is added to
/// `1 − index` under a power.
fn mapping(record: &Record, case: Case, rounding: f64) -> Mapped<(Function, f64)> {
    let number = |key: &str, default: f64| record.number_or(key, default);
    let mut power = 1.0;
    let f: Function = match record.loss() {
        // (2TP + ε) / (2TP + FP + FN + ε)
        "dice_plus_loss" => {
            let loss = region(0.5, 0.5, EPSILON / 2.0).plus_plus(number("gamma", 2.0)?);
            of(case, Clip::PAndY, loss)
        }
        // The notebooks': (TP + ε) / (TP + FP/2 + FN/2 + ε)
        "nb_dice_plus_loss" => {
            let loss = region(0.5, 0.5, EPSILON).plus_plus(number("gamma", 2.0)?);
            of(case, Clip::PAndY, loss)
        }
        "tversky_plus_plus_loss" => {
            let delta = number("delta", 0.7)?;
            let loss = region(1.0 - delta, delta, EPSILON).plus_plus(number("gamma", 2.0)?);
            of(case, Clip::PAndY, loss)
        }
        "focal_tversky_plus_plus_loss" => {
            power = 0.75;
            let delta = number("delta", 0.7)?;
            let loss = rooted(tversky(1.0 - delta, delta, EPSILON), rounding, power);
            of(case, Clip::PAndY, loss.plus_plus(number("gamma", 2.0)?))
        }
        "cross_entropy" => {
            let loss = FocalCrossEntropy::new(truth_only(&case, 1.0), 0.0);
            of(case, Clip::P, loss)
        }
        "nb_focal_loss" => {
            let weights = truth_only(&case, number("alpha", 0.5)?);
            let loss = FocalCrossEntropy::new(weights, number("gamma", 2.0)?);
            of(case, Clip::P, loss)
        }
        "ufl_focal_loss" => {
            let weights = match record.list("alpha")? {
                Some(alpha) if alpha.len() == case.channels() => PerClass::Each(alpha),
                Some(_) => return left_out("another number of weights than channels"),
                None => truth_only(&case, 1.0),
            };
            let loss = FocalCrossEntropy::new(weights, number("gamma_f", 2.0)?);
            of(case, Clip::P, loss)
        }
        "dice_crossentropy" => dice_crossentropy(case),
        // (2TP + s) / (Σy + Σp + s)
        "miscnn_dice_soft_loss" => {
            let smooth = number("smooth", 1e-5)?;
            of(case, Clip::Nothing, region(0.5, 0.5, smooth / 2.0))
        }
        "ufl_dice_loss" | "ufl_tversky_loss" => {
            let default = if record.loss() == "ufl_dice_loss" {
                0.5
            } else {
                0.7
            };
            let (delta, smooth) = (number("delta", default)?, number("smooth", 1e-6)?);
            of(case, Clip::Nothing, region(1.0 - delta, delta, smooth))
        }
        "ufl_focal_tversky_loss" => {
            let (delta, smooth) = (number("delta", 0.7)?, number("smooth", 1e-6)?);
            power = number("gamma", 0.75)?;
            let index = tversky(1.0 - delta, delta, smooth);
            of(case, Clip::P, rooted(index, rounding, power))
        }
        "ufl_combo_loss" => combo(record, case)?,
        "asymmetric_focal_loss"
        | "ufl_asymmetric_focal_loss"
        | "ufl_symmetric_focal_loss"
        | "asymmetric_focal_tversky_loss"
        | "ufl_asymmetric_focal_tversky_loss"
        | "ufl_symmetric_focal_tversky_loss"
        | "asym_unified_focal_loss"
        | "ufl_asym_unified_focal_loss"
        | "ufl_sym_unified_focal_loss" => {
            let (f, smallest) = unified_focal_family(record, &case, rounding)?;
            power = smallest;
            f
        }
        _ => return left_out("no such loss here"),
    };
    record.all_read()?;
    if power <= 0.0 {
        return left_out("an outer power of 0 or less");
    }
    Ok((f, power))
}

/// A loss of ours behind their clipping.
fn of(case: Case, clipped: Clip, loss: impl Loss + 'static) -> Function {
    Box::new(move |p| {
        let (p, y) = match clipped {
            Clip::Nothing => (p.clone(), case.target.clone()),
            Clip::P => (clip(p, EPSILON)?, case.target.clone()),
            Clip::PAndY => (clip(p, EPSILON)?, clip(&case.target, EPSILON)?),
        };
        loss.evaluate(&Prediction::probabilities(&p), &Target::dense(&y))
    })
}

/// The weight of the true class. Their single channel has the foreground's term alone, `−y ln p`.
fn truth_only(case: &Case, weight: f64) -> PerClass {
    match case.channels() {
        1 => PerClass::Split {
            background: 0.0,
            foreground: weight,
        },
        _ => PerClass::All(weight),
    }
}

/// Keras' categorical cross-entropy makes the channels sum to 1 first; the Dice part takes them as they are.
fn dice_crossentropy(case: Case) -> Function {
    let dice = of(case.clone(), Clip::PAndY, region(0.5, 0.5, EPSILON / 2.0));
    let ce = of(case, Clip::P, zoo::cross_entropy());
    Box::new(move |p| dice(p)? + ce(&p.broadcast_div(&p.sum_keepdim(1)?)?)?)
}

/// `α CE − (1 − α) Dice`, with β on channel 0; without α their difference, without β plain cross-entropy.
fn combo(record: &Record, case: Case) -> Mapped<Function> {
    let weights = match record.param("beta") {
        Some(_) => {
            let beta = record.number("beta")?;
            PerClass::Each(vec![beta, 1.0 - beta])
        }
        None => PerClass::All(1.0),
    };
    let (of_ce, of_dice) = match record.param("alpha") {
        Some(_) => (record.number("alpha")?, 1.0 - record.number("alpha")?),
        None => (1.0, 1.0),
    };
    let smooth = record.number_or("smooth", 1e-6)?;
    let dice = of(case.clone(), Clip::Nothing, region(0.5, 0.5, smooth));
    let ce = of(case, Clip::P, FocalCrossEntropy::new(weights, 0.0));
    // −Dice is the Dice loss less 1.
    Ok(Box::new(move |p| {
        ((ce(p)? * of_ce)? + (dice(p)? * of_dice)?)? - of_dice
    }))
}

#[derive(Clone, Copy)]
enum Symmetry {
    Asymmetric,
    Symmetric,
}

/// The (a)symmetric focal and focal Tversky losses and the sum of both, all of the first two channels; and the outer
/// power.
fn unified_focal_family(record: &Record, case: &Case, rounding: f64) -> Mapped<(Function, f64)> {
    let loss = record.loss();
    if case.channels() < 2 {
        return left_out("of two classes, and the case has one channel");
    }
    let pair = |x: &Tensor| x.narrow(1, 0, 2);
    let pairs = Case {
        p: case.p.clone(),
        logits: None,
        target: pair(&case.target).or_else(|_| left_out("no two channels"))?,
        hard: case.hard,
    };
    let symmetry = if loss.contains("asym") {
        Symmetry::Asymmetric
    } else {
        Symmetry::Symmetric
    };
    let unified = loss.contains("unified");
    let (has_tversky, has_focal) = (
        unified || loss.contains("tversky"),
        unified || !loss.contains("tversky"),
    );
    if has_focal && case.p.rank() == 5 {
        return left_out("the authors' code takes slices of the volume for classes");
    }
    let default = match (unified, has_tversky) {
        (true, _) => (0.6, 0.5),
        (false, true) => (0.7, 0.75),
        (false, false) => (0.7, 2.0),
    };
    let delta = record.number_or("delta", default.0)?;
    let focus = record.number_or("gamma", default.1)?;
    let gamma = record.number_or("gamma_plus_plus", 1.0)?;
    // Without a weight the two are added.
    let (of_tversky, of_focal) = match (unified, record.param("weight")) {
        (true, Some(_)) => (record.number("weight")?, 1.0 - record.number("weight")?),
        _ => (1.0, 1.0),
    };
    let focal: Function = match symmetry {
        Symmetry::Asymmetric => of(pairs.clone(), Clip::P, zoo::asymmetric_focal(delta, focus)),
        Symmetry::Symmetric => {
            let weights = PerClass::Split {
                background: 1.0 - delta,
                foreground: delta,
            };
            of(
                pairs.clone(),
                Clip::P,
                FocalCrossEntropy::new(weights, focus),
            )
        }
    };
    if !has_tversky {
        return Ok((Box::new(move |p| focal(&p.narrow(1, 0, 2)?)), 1.0));
    }
    let power = 1.0 - focus;
    let powers = match symmetry {
        Symmetry::Asymmetric => vec![1.0, power],
        Symmetry::Symmetric => vec![power, power],
    };
    let index = tversky(1.0 - delta, delta, EPSILON);
    let tversky: Function = if pairs.hard {
        let loss = rooted(index, rounding, powers).plus_plus(gamma);
        of(pairs, Clip::P, loss)
    } else {
        soft_focal_tversky(pairs, index, gamma, powers)
    };
    let f: Function = if has_focal {
        Box::new(move |p| {
            let p = p.narrow(1, 0, 2)?;
            (tversky(&p)? * of_tversky)? + (focal(&p)? * of_focal)?
        })
    } else {
        Box::new(move |p| tversky(&p.narrow(1, 0, 2)?))
    };
    Ok((f, power))
}

/// Their focal Tversky loss for soft labels.
///
/// With `++` their false negatives are `y (1 − p)^γ`, the truth outside the power. That is ours for a target
/// `y^(1/γ)`; for hard labels there is no difference.
fn soft_focal_tversky(case: Case, index: Tversky, gamma: f64, powers: Vec<f64>) -> Function {
    Box::new(move |p| {
        let prediction = Prediction::probabilities(&clip(p, EPSILON)?);
        let root = Target::dense(&case.target.powf(1.0 / gamma)?);
        let modulation = Modulation::from_gamma(gamma);
        let fn_ = RegionStats::new(&prediction, &root, modulation, Region::Item)?.fn_;
        rooted(OtherMisses { index, fn_ }, 0.0, powers.clone())
            .plus_plus(gamma)
            .evaluate(&prediction, &Target::dense(&case.target))
    })
}

/// A Tversky index with false negatives of its own.
struct OtherMisses {
    index: Tversky,
    fn_: Tensor,
}

impl OtherMisses {
    fn stats(&self, stats: &RegionStats) -> RegionStats {
        RegionStats {
            fn_: self.fn_.clone(),
            ..stats.clone()
        }
    }
}

impl RegionIndex for OtherMisses {
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        self.index.index(&self.stats(stats))
    }

    fn loss(&self, stats: &RegionStats) -> Result<Tensor> {
        self.index.loss(&self.stats(stats))
    }
}
