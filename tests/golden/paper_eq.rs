//! The paper's equations, without smoothing and clipping: the zoo by its specifications.

use candle_core::{Result, Tensor};
use dice_losses::{
    FocalCrossEntropy, Loss, LossSpec, PerClass, Prediction, Target, guard::NEAREST,
};

use super::{
    folder::{Family, Folder, LeftOut, Mapped, Record, left_out},
    losses_common::{Bounds, Case, check_cases, compare, compare_where},
    report::{Checks, Outcome},
};

#[test]
fn golden_paper_eq() {
    check_cases("paper_eq", run);
}

fn run(
    folder: &Folder,
    inputs: &Family,
    family: &Family,
    record: &Record,
    checks: &mut Checks,
) -> Outcome {
    let case = Case::of(inputs, record)?;
    let loss = match loss(record) {
        Ok(loss) => loss,
        Err(reason) => return Ok(Err(reason)),
    };
    let bounds = Bounds::of(folder, record);
    let f = |prediction: &Prediction, target: &Tensor| {
        loss.evaluate(prediction, &Target::dense(target))
    };
    let evaluated = match Evaluated::of(record, &case) {
        Ok(evaluated) => evaluated,
        Err(reason) => return Ok(Err(reason)),
    };
    let has_logarithm = matches!(record.loss(), "mce" | "combopp" | "asym_unified_focalpp");
    if has_logarithm && record.value().is_some() && near_a_pole(&case)? {
        // The logarithm of a probability below `NEAREST` is bounded, by design; that of a logit is exact.
        if family.of(record, "grad_fg_logit").is_none() {
            return Ok(left_out(
                "logarithms of probabilities nearer to 0 than the crate takes them",
            ));
        }
        return of_logits(family, record, &case, &f, &bounds, checks);
    }
    // So is the derivative of a power below 1.
    let gamma = record.number_or("gamma", 1.0).unwrap_or(1.0);
    let counts = (gamma < 1.0).then(|| off_the_poles(&case.p)).transpose()?;
    match evaluated {
        // p₀ = 1 − p is tied to p₁ = p.
        Evaluated::Foreground => {
            let fg = usize::from(case.channels() > 1);
            let of_fg = |x: &Tensor| x.narrow(1, fg, 1);
            let (p, y) = (of_fg(&case.p)?, two_classes(&of_fg(&case.target)?)?);
            let of_p = |p: &Tensor| f(&Prediction::probabilities(&two_classes(p)?), &y);
            let counts = counts.as_ref().map(of_fg).transpose()?;
            let at = ("grad_p", counts.as_ref());
            compare_where(checks, family, record, (&p, &of_p), at, &bounds)?;
        }
        Evaluated::AllFrom(first) => {
            let channels = case.channels();
            let from = |x: &Tensor| x.narrow(1, first, channels - first);
            let p = from(&case.p)?;
            let of_p = |p: &Tensor| {
                let p = match first {
                    0 => p.clone(),
                    _ => Tensor::cat(&[&case.p.narrow(1, 0, first)?, p], 1)?,
                };
                f(&Prediction::probabilities(&p), &case.target)
            };
            let counts = counts.as_ref().map(from).transpose()?;
            let at = ("grad_p", counts.as_ref());
            compare_where(checks, family, record, (&p, &of_p), at, &bounds)?;
        }
    }
    if family.of(record, "grad_fg_logit").is_some() {
        return of_logits(family, record, &case, &f, &bounds, checks);
    }
    Ok(Ok(()))
}

/// From logits: a sigmoid, or a softmax of two, whose background derivative is the negative of the recorded one.
fn of_logits(
    family: &Family,
    record: &Record,
    case: &Case,
    f: &dyn Fn(&Prediction, &Tensor) -> Result<Tensor>,
    bounds: &Bounds,
    checks: &mut Checks,
) -> Outcome {
    let Some(z) = &case.logits else {
        return Ok(left_out("the case has no logits"));
    };
    // A sigmoid is a softmax whose other logit is 0; the losses of both classes need both written down.
    let one_channel = case.channels() == 1;
    let both_classes = record.loss() == "asym_unified_focalpp";
    let of_z = |z: &Tensor| {
        if one_channel && both_classes {
            let z = Tensor::cat(&[&z.zeros_like()?, z], 1)?;
            f(&Prediction::logits(&z), &two_classes(&case.target)?)
        } else {
            f(&Prediction::logits(z), &case.target)
        }
    };
    let role = "grad_fg_logit";
    if one_channel {
        compare(checks, family, record, (z, &of_z), role, bounds)?;
        return Ok(Ok(()));
    }
    // As a function of z_fg and of −z_bg.
    let (z0, z1) = (z.narrow(1, 0, 1)?, z.narrow(1, 1, 1)?);
    let of_fg = |z1: &Tensor| of_z(&Tensor::cat(&[&z0, z1], 1)?);
    compare(checks, family, record, (&z1, &of_fg), role, bounds)?;
    let of_bg = |minus_z0: &Tensor| of_z(&Tensor::cat(&[&minus_z0.neg()?, &z1], 1)?);
    compare(checks, family, record, (&z0.neg()?, &of_bg), role, bounds)?;
    Ok(Ok(()))
}

/// 1 where neither `p` nor `1 − p` lies strictly between 0 and the crate's nearest point to a pole.
fn off_the_poles(p: &Tensor) -> Result<Tensor> {
    let off = |x: &Tensor| x.ge(NEAREST)? + x.eq(0f64)?;
    (off(p)? * off(&p.affine(-1.0, 1.0)?)?)?.to_dtype(p.dtype())
}

/// Whether a true class (of either side) has a probability between 0 and the crate's nearest point to a pole.
fn near_a_pole(case: &Case) -> Result<bool> {
    let near = |p: &Tensor, y: &Tensor| ((p.gt(0f64)? * p.lt(NEAREST)?)? * y.gt(0f64)?)?.max_all();
    let complement = |x: &Tensor| x.affine(-1.0, 1.0);
    let (here, there) = (
        near(&case.p, &case.target)?,
        near(&complement(&case.p)?, &complement(&case.target)?)?,
    );
    Ok(here.to_scalar::<u8>()? + there.to_scalar::<u8>()? > 0)
}

/// `[1 − x, x]`.
fn two_classes(x: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[&x.affine(-1.0, 1.0)?, x], 1)
}

/// The channels that a record differentiates.
enum Evaluated {
    Foreground,
    /// All from this one on.
    AllFrom(usize),
}

impl Evaluated {
    fn of(record: &Record, case: &Case) -> Mapped<Self> {
        match (record.word_or("classes", "fg"), case.channels()) {
            ("fg", 1 | 2) => Ok(Self::Foreground),
            ("all", _) => Ok(Self::AllFrom(0)),
            ("nobg", 2..) => Ok(Self::AllFrom(1)),
            (classes, channels) => left_out(format!("classes {classes} of {channels} channels")),
        }
    }
}

/// The record's loss: a row of the zoo without smoothing, and with whatever the ratio gives for an empty region.
fn loss(record: &Record) -> Mapped<Box<dyn Loss>> {
    let number = |key: &str| record.number(key);
    let pool = match record.word_or("pool", "batch") {
        "batch" => "batch",
        "sample" => "item",
        other => return left_out(format!("pool {other}")),
    };
    let classes = match record.word_or("classes", "fg") {
        "all" => "all",
        _ => "fg",
    };
    let region = |classes: &str| format!("region={pool},classes={classes},empty=ratio,smooth=0");
    let spec = match record.loss() {
        "dsc" => format!("dice:{}", region(classes)),
        "dscpp" => format!("dice++:gamma={},{}", number("gamma")?, region(classes)),
        "tverskypp" => format!(
            "tversky++:gamma={},alpha={},beta={},{}",
            number("gamma")?,
            number("alpha")?,
            number("beta")?,
            region(classes)
        ),
        "focal_tverskypp" => format!(
            "focal-tversky++:gamma={},alpha={},beta={},power={},{}",
            number("gamma")?,
            number("alpha")?,
            number("beta")?,
            1.0 / number("gamma_ft")?,
            region(classes)
        ),
        "combopp" => format!(
            "combo++:gamma={},ce_share={},ce_fn_weight={},{}",
            number("gamma")?,
            number("alpha")?,
            number("beta")?,
            region(classes)
        ),
        // The foreground is what is differentiated; the loss is of both classes.
        "asym_unified_focalpp" => format!(
            "unified-focal++:gamma={},lambda={},delta={},focus={},class_reduction={},delta_on={},{}",
            number("gamma")?,
            number("lam")?,
            number("delta")?,
            number("gamma_f")?,
            record.word_or("class_reduction", "sum"),
            record.word_or("delta_on", "fn"),
            region("all")
        ),
        "mce" => {
            let beta = number("beta")?;
            record.all_read()?;
            let weights = PerClass::Split {
                background: 1.0 - beta,
                foreground: beta,
            };
            return Ok(Box::new(FocalCrossEntropy::new(weights, 0.0)));
        }
        _ => return left_out("no such loss here"),
    };
    record.all_read()?;
    let spec: LossSpec = spec
        .parse()
        .map_err(|error| LeftOut(format!("outside the zoo's ranges: {error}")))?;
    Ok(spec.build())
}
