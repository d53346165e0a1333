//! What all loss families share: a case's inputs, differentiation, and the references' habits that are none of ours.

use candle_core::{DType, Result, Tensor, Var};
use dice_losses::{RegionIndex, RegionStats, guard::NEAREST};

use super::{
    folder::{Bound, Family, Folder, Mapped, Record, left_out},
    report::{Checks, Outcome, check},
};

/// [`check`] for a family whose records name cases of the family `inputs`, which `compare` is given second.
pub(crate) fn check_cases(
    name: &str,
    compare: impl Fn(&Folder, &Family, &Family, &Record, &mut Checks) -> Outcome,
) {
    let inputs = Folder::open().family("inputs");
    check(name, |folder, family, record, checks| match &inputs {
        Some(inputs) => compare(folder, inputs, family, record, checks),
        None => Ok(left_out("the folder has no inputs")),
    });
}

/// Inputs and target of a case in one dtype.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) p: Tensor,
    pub(crate) logits: Option<Tensor>,
    pub(crate) target: Tensor,
    /// Whether the target is 0 or 1 everywhere.
    pub(crate) hard: bool,
}

impl Case {
    /// The case of a record, in the record's dtype.
    pub(crate) fn of(inputs: &Family, record: &Record) -> Result<Self> {
        Self::in_dtype(inputs, record, record.dtype())
    }

    /// The case of a record in any dtype: the logits are exact in both.
    pub(crate) fn in_dtype(inputs: &Family, record: &Record, dtype: DType) -> Result<Self> {
        let get = |what: &str| inputs.tensor(&format!("{}/{what}", record.case()));
        let need = |what: &str| {
            get(what).ok_or_else(|| {
                candle_core::Error::Msg(format!("case {} has no {what}", record.case()))
            })
        };
        let p = need(if dtype == DType::F32 { "p32" } else { "p64" })?.to_dtype(dtype)?;
        let target = need("target")?.to_dtype(dtype)?;
        let between = (target.gt(0f64)? * target.lt(1f64)?)?;
        Ok(Self {
            p,
            logits: get("logits").map(|z| z.to_dtype(dtype)).transpose()?,
            hard: between
                .to_dtype(DType::F64)?
                .sum_all()?
                .to_scalar::<f64>()?
                == 0.0,
            target,
        })
    }

    pub(crate) fn channels(&self) -> usize {
        self.p.dims()[1]
    }

    /// Pixels of an item.
    pub(crate) fn pixels(&self) -> usize {
        self.p.dims()[2..].iter().product()
    }

    /// The logits, or why there are none.
    pub(crate) fn need_logits(&self) -> Mapped<Tensor> {
        match &self.logits {
            Some(z) => Ok(z.clone()),
            None => left_out("the case has no logits"),
        }
    }
}

/// A loss as a function of the tensor that was fed: logits, or probabilities.
pub(crate) type Function = Box<Differentiable<'static>>;

/// The same without its box.
pub(crate) type Differentiable<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// Value and gradient of (the sum of) a function.
pub(crate) fn differentiate(x: &Tensor, f: &Differentiable<'_>) -> Result<(Tensor, Tensor)> {
    let x = Var::from_tensor(&x.detach().contiguous()?)?;
    let value = f(x.as_tensor())?;
    let gradient = match value.sum_all()?.backward()?.remove(&x) {
        Some(gradient) => gradient,
        None => x.zeros_like()?,
    };
    Ok((value.detach(), gradient.detach()))
}

/// Bounds of a record's value and gradient.
pub(crate) struct Bounds {
    pub(crate) value: Bound,
    pub(crate) grad: Bound,
}

impl Bounds {
    /// Of an f32 evaluation, whatever the record's dtype.
    pub(crate) fn single(folder: &Folder, record: &Record) -> Self {
        let own = Self::of(folder, record);
        let single = |what| folder.named_bound("t32", what);
        let (value, grad) = (single("value"), single("grad"));
        Self {
            value: own.value.at_least(value.abs, value.rel),
            grad: own.grad.at_least(grad.abs, grad.rel),
        }
    }

    pub(crate) fn of(folder: &Folder, record: &Record) -> Self {
        Self {
            value: folder.bound(record, "value"),
            grad: folder.bound(record, "grad"),
        }
    }

    /// Wider by how far a function and its rounded twin are apart at `x`.
    pub(crate) fn wider_by(self, (f, rounded): (&Function, &Function), x: &Tensor) -> Result<Self> {
        let (value, gradient) = differentiate(x, f)?;
        let (rounded_value, rounded_gradient) = differentiate(x, rounded)?;
        let apart = |a: &Tensor, b: &Tensor| -> Result<f64> {
            (a - b)?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
        };
        let (value, grad) = (
            apart(&value, &rounded_value)?,
            apart(&gradient, &rounded_gradient)?,
        );
        Ok(Self {
            value: self.value.at_least(value, 0.0),
            grad: self.grad.at_least(grad, 0.0),
        })
    }
}

/// Compares a function's value and its gradient at `x` with what is recorded; the gradient under this role.
pub(crate) fn compare(
    checks: &mut Checks,
    family: &Family,
    record: &Record,
    (x, f): (&Tensor, &Differentiable<'_>),
    role: &str,
    bounds: &Bounds,
) -> Result<()> {
    compare_where(checks, family, record, (x, f), (role, None), bounds)
}

/// The same, with the gradient only where `counts` is 1.
pub(crate) fn compare_where(
    checks: &mut Checks,
    family: &Family,
    record: &Record,
    (x, f): (&Tensor, &Differentiable<'_>),
    (role, counts): (&str, Option<&Tensor>),
    bounds: &Bounds,
) -> Result<()> {
    let (value, gradient) = differentiate(x, f)?;
    if let Some(expected) = family.of(record, "value_tensor") {
        checks.tensor("value_tensor", &value, expected, bounds.value)?;
    } else if let Some(expected) = record.value() {
        let value = value.to_dtype(DType::F64)?.to_scalar()?;
        checks.number("value", value, expected, bounds.value);
    } else if record.value_is_special() {
        checks.finite("value", &value)?;
    }
    if let Some(expected) = family.of(record, role) {
        if record.is_nonfinite(role) {
            checks.finite(role, &gradient)?;
        } else if let Some(counts) = counts {
            let expected = (expected.to_dtype(gradient.dtype())? * counts)?;
            checks.tensor(role, &(gradient * counts)?, &expected, bounds.grad)?;
        } else {
            checks.tensor(role, &gradient, expected, bounds.grad)?;
        }
    }
    Ok(())
}

/// Where a sum of `|p − y|` has a derivative: at `p = y` `PyTorch` takes half of it.
pub(crate) fn off_the_kink(case: &Case) -> Result<Tensor> {
    case.p.ne(&case.target)?.to_dtype(case.p.dtype())
}

/// Clips to `[low, 1 − low]` with the gradient of `TensorFlow` and `PyTorch`: 1 inside and on the bounds, 0 outside.
///
/// The authors do so with predictions and truths. It takes the gradient from every pixel that is confidently wrong, so
/// the crate does not.
pub(crate) fn clip(x: &Tensor, low: f64) -> Result<Tensor> {
    let at = x.detach();
    let inside = (at.ge(low)? * at.le(1.0 - low)?)?.to_dtype(x.dtype())?;
    at.clamp(low, 1.0 - low)? + (inside * (x - &at)?)?
}

/// `max(x, low)` with the gradient of `clamp_min`.
pub(crate) fn clamp_min(x: &Tensor, low: f64) -> Result<Tensor> {
    let at = x.detach();
    let inside = at.ge(low)?.to_dtype(x.dtype())?;
    at.maximum(low)? + (inside * (x - &at)?)?
}

/// `x^k` of a loss, with the derivative taken no nearer to 0 than the crate does for its own powers.
pub(crate) fn powf(x: &Tensor, k: f64) -> Result<Tensor> {
    if k == 1.0 {
        return Ok(x.clone());
    }
    let at = x.detach();
    let slope = (at.maximum(NEAREST)?.powf(k - 1.0)? * k)?;
    at.powf(k)? + (slope * (x - &at)?)?
}

/// `a / b`, and 0 where `b` is 0.
fn ratio(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let zero = b.detach().eq(0f64)?;
    let quotient = (a / (b + zero.to_dtype(b.dtype())?)?)?;
    zero.where_cond(&quotient.zeros_like()?, &quotient)
}

/// An index given by numerator and denominator, whose smoothing terms may differ, as in MONAI.
pub(crate) struct Fraction<N, D> {
    pub(crate) numerator: N,
    pub(crate) denominator: D,
    /// The denominator is at least this.
    pub(crate) least: f64,
    /// So is the index.
    pub(crate) floor: f64,
}

impl<N, D> RegionIndex for Fraction<N, D>
where
    N: Fn(&RegionStats) -> Result<Tensor> + Send + Sync,
    D: Fn(&RegionStats) -> Result<Tensor> + Send + Sync,
{
    fn index(&self, stats: &RegionStats) -> Result<Tensor> {
        let denominator = (self.denominator)(stats)?;
        let denominator = if self.least > 0.0 {
            clamp_min(&denominator, self.least)?
        } else {
            denominator
        };
        let index = ratio(&(self.numerator)(stats)?, &denominator)?;
        if self.floor > 0.0 {
            clamp_min(&index, self.floor)
        } else {
            Ok(index)
        }
    }
}

/// `[N, C, …]` with every pixel an item of its own, `[N·S, C]`.
pub(crate) fn pixels_as_items(x: &Tensor) -> Result<Tensor> {
    let (n, c) = (x.dims()[0], x.dims()[1]);
    let s = x.elem_count() / n / c;
    x.reshape((n, c, s))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((n * s, c))
}
