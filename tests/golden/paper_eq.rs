//! The paper's equations, without smoothing and clipping: the zoo by its specifications.

use candle_core::{Result, Tensor};
use dice_losses::{FocalCrossEntropy, Loss, LossSpec, PerClass, Prediction, Target};

use super::{
    folder::{Family, Folder, LeftOut, Mapped, Record, left_out},
    losses_common::{Bounds, Case, compare},
    report::{Checks, Outcome, check},
};

#[test]
fn golden_paper_eq() {
    let inputs = Folder::open().family("inputs");
    check("paper_eq", |folder, family, record, checks| {
        let Some(inputs) = &inputs else {
            return Ok(left_out("the folder has no inputs"));
        };
        run(folder, inputs, family, record, checks)
    });
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
    match Evaluated::of(record, &case) {
        Err(reason) => return Ok(Err(reason)),
        // p₀ = 1 − p is tied to p₁ = p.
        Ok(Evaluated::Foreground) => {
            let fg = usize::from(case.channels() > 1);
            let p = case.p.narrow(1, fg, 1)?;
            let y = two_classes(&case.target.narrow(1, fg, 1)?)?;
            let of_p = |p: &Tensor| f(&Prediction::probabilities(&two_classes(p)?), &y);
            compare(checks, family, record, (&p, &of_p), "grad_p", &bounds)?;
        }
        Ok(Evaluated::AllBut(first)) => {
            let p = case.p.narrow(1, first, case.channels() - first)?;
            let of_p = |p: &Tensor| {
                let p = match first {
                    0 => p.clone(),
                    _ => Tensor::cat(&[&case.p.narrow(1, 0, first)?, p], 1)?,
                };
                f(&Prediction::probabilities(&p), &case.target)
            };
            compare(checks, family, record, (&p, &of_p), "grad_p", &bounds)?;
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

/// `[1 − x, x]`.
fn two_classes(x: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[&x.affine(-1.0, 1.0)?, x], 1)
}

/// The channels that a record differentiates.
enum Evaluated {
    Foreground,
    /// All from this one on.
    AllBut(usize),
}

impl Evaluated {
    fn of(record: &Record, case: &Case) -> Mapped<Self> {
        match (record.word_or("classes", "fg"), case.channels()) {
            ("fg", 1 | 2) => Ok(Self::Foreground),
            ("all", _) => Ok(Self::AllBut(0)),
            ("nobg", 2..) => Ok(Self::AllBut(1)),
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
