//! Instance norm and whole U-Nets: outputs, gradients, and steps of the optimiser.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use dice_losses::{EmptyRegion, Loss, Prediction, RegionLoss, Target, Tversky};
use seg_train::optim::{Sgd, SgdConfig};
use seg_unet::{UNet, UNetConfig, ops};

use super::{
    folder::{Bound, Family, Mapped, Record, bound, left_out},
    losses_common::clip,
    report::{Checks, Outcome, check, failed},
    tf_original::EPSILON,
};

/// Both dtypes, and their names in a record's tolerances.
const DTYPES: [(DType, &str); 2] = [(DType::F64, "f64"), (DType::F32, "f32")];

#[test]
fn golden_instance_norm() {
    check("instance_norm", |_, family, record, checks| {
        // These only tell what was done.
        for note in ["shape", "variance"] {
            let _ = record.param(note);
        }
        let settings = || {
            if !record.flag_or("affine", true)? {
                return left_out("without weight and bias");
            }
            let eps = record.number_or("eps", 1e-5)?;
            record.all_read()?;
            Ok(eps)
        };
        let eps = match settings() {
            Ok(eps) => eps,
            Err(reason) => return Ok(Err(reason)),
        };
        for (dtype, name) in DTYPES {
            let bound = bound(&record.json["tol"][name], "value");
            instance_norm(family, record, checks, (dtype, eps, bound))?;
        }
        Ok(Ok(()))
    });
}

fn instance_norm(
    family: &Family,
    record: &Record,
    checks: &mut Checks,
    (dtype, eps, bound): (DType, f64, Bound),
) -> Result<()> {
    let tensor = |role: &str| family.need(record, role)?.to_dtype(dtype);
    let var = |role: &str| Var::from_tensor(&tensor(role)?);
    let (x, weight, bias) = (var("x")?, var("weight")?, var("bias")?);
    for (which, norm) in [
        (
            "",
            ops::instance_norm as fn(&Tensor, &Tensor, &Tensor, f64) -> Result<Tensor>,
        ),
        (" by Candle's operations", ops::instance_norm_reference),
    ] {
        let y = norm(&x, &weight, &bias, eps)?;
        let grads = (&y * tensor("upstream")?)?.sum_all()?.backward()?;
        let of = |role: &str| format!("{role}{which} in {dtype:?}");
        checks.tensor(&of("y"), &y, family.need(record, "y")?, bound)?;
        for (role, var) in [
            ("grad_x", &x),
            ("grad_weight", &weight),
            ("grad_bias", &bias),
        ] {
            let found = grads
                .get(var)
                .map_or_else(|| var.zeros_like(), |g| Ok(g.clone()))?;
            checks.tensor(&of(role), &found, family.need(record, role)?, bound)?;
        }
    }
    Ok(())
}

#[test]
fn golden_unet() {
    check("unet", |_, family, record, checks| {
        let settings = match Settings::of(record) {
            Ok(settings) => settings,
            Err(reason) => return Ok(Err(reason)),
        };
        match record.loss() {
            "forward_backward" => forward_backward(family, record, &settings, checks),
            "sgd_nesterov" | "sgd_momentum" => steps(family, record, &settings, checks),
            _ => Ok(left_out("no such run here")),
        }
    });
}

struct Settings {
    net: UNetConfig,
    gamma: f64,
    sgd: SgdConfig,
    steps: usize,
}

impl Settings {
    fn of(record: &Record) -> Mapped<Self> {
        for note in ["batch", "size"] {
            let _ = record.param(note);
        }
        let count = |key: &str| record.number(key).map(|n| n as usize);
        let settings = Self {
            net: UNetConfig {
                in_channels: count("in_channels")?,
                classes: count("classes")?,
                width: count("base")?,
                depth: count("depth")?,
                norm_eps: record.number("eps")?,
            },
            gamma: record.number_or("gamma", 2.0)?,
            sgd: SgdConfig {
                clip_norm: None,
                lr: record.number_or("lr", 0.1)?,
                momentum: record.number_or("momentum", 0.9)?,
                nesterov: record.flag_or("nesterov", false)?,
            },
            steps: record.number_or("steps", 0.0)? as usize,
        };
        record.all_read()?;
        if settings.net.classes < 2 {
            return left_out("one class");
        }
        Ok(settings)
    }

    /// The network with the weights `w.…` of a record.
    fn network(&self, family: &Family, start: &Record, dtype: DType) -> Result<UNet> {
        let net = UNet::with_dtype(&self.net, 0, dtype, &Device::Cpu)?;
        let weights: Result<HashMap<String, Tensor>> = net
            .vars()
            .iter()
            .map(|(name, _)| {
                let weight = family.need(start, &format!("w.{name}"))?.to_dtype(dtype)?;
                Ok((name.clone(), weight))
            })
            .collect();
        net.set_tensors(&weights?)?;
        Ok(net)
    }

    /// The authors' loss: p and y clipped, ε in numerator and denominator, the mean over samples and classes.
    fn loss(&self, probs: &Tensor, target: &Tensor) -> Result<Tensor> {
        let index = Tversky {
            smooth: EPSILON / 2.0,
            ..Tversky::DICE
        };
        let prediction = Prediction::probabilities(&clip(probs, EPSILON)?);
        RegionLoss::new(index)
            .plus_plus(self.gamma)
            .empty(EmptyRegion::Ratio)
            .evaluate(&prediction, &Target::dense(&clip(target, EPSILON)?))
    }
}

fn softmax(logits: &Tensor) -> Result<Tensor> {
    let shift = logits.detach().max_keepdim(1)?;
    let e = logits.broadcast_sub(&shift)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(1)?)
}

fn scalar(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.to_scalar()
}

fn forward_backward(
    family: &Family,
    record: &Record,
    settings: &Settings,
    checks: &mut Checks,
) -> Outcome {
    for (dtype, name) in DTYPES {
        let within = |what: &str| bound(&record.json["tol"][name], what);
        let of = |what: &str| format!("{what} in {name}");
        let net = settings.network(family, record, dtype)?;
        let input = |role: &str| family.need(record, role)?.to_dtype(dtype);
        let logits = net.forward(&input("x")?)?;
        let probs = softmax(&logits)?;
        let loss = settings.loss(&probs, &input("target")?)?;
        let outputs = within("logits");
        checks.tensor(
            &of("logits"),
            &logits,
            family.need(record, "logits")?,
            outputs,
        )?;
        checks.tensor(&of("probs"), &probs, family.need(record, "probs")?, outputs)?;
        if let Some(expected) = record.value() {
            checks.number(&of("loss"), scalar(&loss)?, expected, within("loss"));
        }
        let grads = loss.backward()?;
        for (weight, var) in net.vars() {
            let role = format!("grad.{weight}");
            let found = grads
                .get(var)
                .map_or_else(|| var.zeros_like(), |g| Ok(g.clone()))?;
            checks.tensor(
                &of(&role),
                &found,
                family.need(record, &role)?,
                within("grad"),
            )?;
        }
    }
    Ok(Ok(()))
}

/// Steps of SGD on one batch, from the weights of the case's `forward_backward` record.
fn steps(family: &Family, record: &Record, settings: &Settings, checks: &mut Checks) -> Outcome {
    let start = family
        .records
        .iter()
        .find(|other| other.loss() == "forward_backward" && other.case() == record.case());
    let Some(start) = start else {
        return Ok(left_out("no record with the first weights"));
    };
    for (dtype, name) in DTYPES {
        let within = |what: &str| bound(&record.json["tol"][name], what);
        let net = settings.network(family, start, dtype)?;
        let x = family.need(start, "x")?.to_dtype(dtype)?;
        let target = family.need(start, "target")?.to_dtype(dtype)?;
        let mut sgd = Sgd::new(&settings.sgd, net.vars()).map_err(failed)?;
        let loss = || settings.loss(&softmax(&net.forward(&x)?)?, &target);
        for step in 0..settings.steps {
            let loss = loss()?;
            if let Some(expected) = record.json["losses"][step].as_f64() {
                let what = format!("loss before step {} in {name}", step + 1);
                checks.number(&what, scalar(&loss)?, expected, within("loss"));
            }
            sgd.step(&loss.backward()?).map_err(failed)?;
        }
        if let Some(expected) = record.value() {
            let what = format!("loss after the steps in {name}");
            checks.number(&what, scalar(&loss()?)?, expected, within("loss"));
        }
        for (weight, var) in net.vars() {
            let role = format!("step{}.{weight}", settings.steps);
            let expected = family.need(record, &role)?;
            let what = format!("{role} in {name}");
            checks.tensor(&what, var.as_tensor(), expected, within("weights"))?;
        }
    }
    Ok(Ok(()))
}
