//! The losses by name: one constructor and one row of [`ZOO`] each.
//!
//! A constructor returns a value whose remaining choices (classes, region, γ, …) are set by its methods. A row holds
//! what parsing, help texts, tables and the tests of every law need; to add a loss is to add one of each.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use crate::{
    index::Tversky,
    loss::Loss,
    options::PerClass,
    pixel::FocalCrossEntropy,
    region::RegionLoss,
    spec::{LossSpec, Parameter},
    sum::WeightedSum,
};

/// Dice loss: one minus twice the overlap over the two volumes.
///
/// $$ 1 - \frac{2 TP}{2 TP + FP + FN} $$
///
/// `1 − 2TP / (2TP + FP + FN)`. Paper, Eq. 4; with [`plus_plus`](RegionLoss::plus_plus) DSC++, Eq. 9. With γ = 2 and
/// hard labels this is the squared-denominator Dice of Milletari et al. 2016, `1 − 2Σpy / (Σp² + Σy²)`.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let value = |loss: &dyn Loss| loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>();
/// assert!((value(&zoo::dice())? - 1.0 / 2.0).abs() < 1e-6); // TP = FP = FN = ½
/// assert!((value(&zoo::dice().plus_plus(2.0))? - 1.0 / 3.0).abs() < 1e-6); // TP = ½, FP = FN = ¼
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn dice() -> RegionLoss<Tversky> {
    RegionLoss::new(Tversky::DICE)
}

/// Jaccard loss: one minus intersection over union, `1 − TP / (TP + FP + FN)`. Paper, Eq. 12.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::jaccard().loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 2.0 / 3.0).abs() < 1e-6); // TP = FP = FN = ½
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn jaccard() -> RegionLoss<Tversky> {
    RegionLoss::new(Tversky::JACCARD)
}

/// Tversky loss: false positives weighed by α, false negatives by β.
///
/// $$ 1 - \frac{TP}{TP + \alpha FP + \beta FN} $$
///
/// `1 − TP / (TP + α FP + β FN)`. Salehi et al. 2017; paper, Eq. 15 and 16, with α = 0.3 and β = 0.7. α = β = ½ is
/// [`dice`].
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::tversky(0.5, 1.0).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 3.0 / 5.0).abs() < 1e-6); // (¼ + ½) / (½ + ¼ + ½)
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn tversky(alpha: f64, beta: f64) -> RegionLoss<Tversky> {
    RegionLoss::new(Tversky {
        alpha,
        beta,
        ..Tversky::DICE
    })
}

/// Focal Tversky loss: the Tversky loss to a power.
///
/// $$ (1 - TI)^{\text{power}} $$
///
/// Abraham and Khan 2019; paper, Eq. 17, whose exponent 1/γ with γ = 4/3 is `power` = 0.75. A power below 1 makes
/// small losses count more.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::focal_tversky(0.3, 0.7, 0.5).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 0.5f64.sqrt()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn focal_tversky(alpha: f64, beta: f64, power: f64) -> RegionLoss<Tversky> {
    tversky(alpha, beta).power(power)
}

/// Asymmetric focal Tversky loss: δ on false negatives, and the power 1 − `focus` on the foreground classes only.
///
/// $$ \frac{1}{C} \Bigl( (1 - TI_0) + \sum_{c > 0} (1 - TI_c)^{1 - \text{focus}} \Bigr), \quad
///    TI = \frac{TP}{TP + (1 - \delta) FP + \delta FN} $$
///
/// the mean of `1 − TI` of the background and `(1 − TI)^(1 − focus)` of each foreground, with
/// `TI = TP / (TP + (1 − δ) FP + δ FN)`. Yeung et al. 2021; paper, Eq. 20 and 21. The paper's Eq. 21 is typeset with δ
/// on the false positives, which is [`tversky`]`(δ, 1 − δ)` with the same powers.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::asymmetric_focal_tversky(0.6, 0.5).loss(&(&logits).into(), &(&labels).into())?;
/// assert!((loss.to_scalar::<f64>()? - (0.5 + 0.5f64.sqrt()) / 2.0).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn asymmetric_focal_tversky(delta: f64, focus: f64) -> RegionLoss<Tversky> {
    tversky(1.0 - delta, delta).power(PerClass::Split {
        background: 1.0,
        foreground: 1.0 - focus,
    })
}

/// Cross-entropy, `−mean Σ_c y_c ln p_c`. Paper, Eq. 1.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::cross_entropy().loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 2f64.ln()).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn cross_entropy() -> FocalCrossEntropy {
    FocalCrossEntropy::new(1.0, 0.0)
}

/// Focal loss, `−mean Σ_c (1 − p_c)^focus y_c ln p_c`. Lin et al. 2017, without their α; class weights are
/// [`FocalCrossEntropy::new`]'s.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::focal(2.0).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 2f64.ln() / 4.0).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn focal(focus: f64) -> FocalCrossEntropy {
    FocalCrossEntropy::new(1.0, focus)
}

/// Asymmetric focal loss: the foreground's cross-entropy by δ, the background's focal loss by 1 − δ.
///
/// $$ -\frac{\delta}{N} \sum_i y_i \log p_i - \frac{1 - \delta}{N} \sum_i (1 - y_i) p_i^{\text{focus}} \log (1 - p_i) $$
///
/// `−mean (δ y ln p + (1 − δ)(1 − y) p^focus ln(1 − p))`. Yeung et al. 2021; paper, Eq. 19 (typeset loosely there).
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::asymmetric_focal(0.6, 2.0).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 2f64.ln() * (0.6 + 0.4 / 4.0) / 2.0).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn asymmetric_focal(delta: f64, focus: f64) -> FocalCrossEntropy {
    FocalCrossEntropy::new(
        PerClass::Split {
            background: 1.0 - delta,
            foreground: delta,
        },
        PerClass::Split {
            background: focus,
            foreground: 0.0,
        },
    )
}

/// Combo loss: `ce_share` of a modified cross-entropy less `1 − ce_share` of the Dice coefficient.
///
/// $$ a L_{mCE} - (1 - a) DSC, \quad
///    L_{mCE} = -\frac{1}{N} \sum_i b y_i \log p_i + (1 - b)(1 - y_i) \log (1 - p_i) $$
///
/// `a·mCE − (1 − a)·DSC` with `mCE = −mean (b y ln p + (1 − b)(1 − y) ln(1 − p))`, a = `ce_share` and
/// b = `ce_fn_weight`. Taghanaki et al. 2019; paper, Eq. 13 and 14 (their α and β). It is
/// −(1 − a) at a perfect prediction. `region` sets the choices of its Dice part, γ among them:
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::combo(0.5, 0.5, |dice| dice.plus_plus(2.0)).loss(&(&logits).into(), &(&labels).into())?;
/// assert!((loss.to_scalar::<f64>()? - (0.5 * 2f64.ln() / 2.0 - 0.5 * 2.0 / 3.0)).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn combo(
    ce_share: f64,
    ce_fn_weight: f64,
    region: impl FnOnce(RegionLoss<Tversky>) -> RegionLoss<Tversky>,
) -> WeightedSum {
    let weights = PerClass::Split {
        background: 1.0 - ce_fn_weight,
        foreground: ce_fn_weight,
    };
    WeightedSum::new(ce_share - 1.0)
        .plus(ce_share, FocalCrossEntropy::new(weights, 0.0))
        .plus(1.0 - ce_share, region(dice()))
}

/// Unified focal loss: λ of [`asymmetric_focal`] and 1 − λ of [`asymmetric_focal_tversky`].
///
/// Yeung et al. 2021; paper, Eq. 18, with λ = 0.5, δ = 0.6 and `focus` = 0.1. `region` sets the choices of its Tversky
/// part, γ among them. (The authors' code multiplies λ into the Tversky part; at ½ it is the same.)
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[30f64, -30.], [-30., 30.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let unified_pp = zoo::unified_focal(0.5, 0.6, 0.1, |region| region.plus_plus(2.0));
/// assert!(unified_pp.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()? < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn unified_focal(
    lambda: f64,
    delta: f64,
    focus: f64,
    region: impl FnOnce(RegionLoss<Tversky>) -> RegionLoss<Tversky>,
) -> WeightedSum {
    WeightedSum::new(0.0)
        .plus(lambda, asymmetric_focal(delta, focus))
        .plus(1.0 - lambda, region(asymmetric_focal_tversky(delta, focus)))
}

/// A row of the zoo: everything that is known about one named loss.
#[derive(Debug)]
pub struct Row {
    /// The name in a specification.
    pub name: &'static str,
    /// Other names it answers to.
    pub aliases: &'static [&'static str],
    /// What it is, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub citation: &'static str,
    /// Whether it has false-positive and false-negative terms, so that `++` applies and the choices of a region loss
    /// ([`crate::spec::REGION_PARAMETERS`]) are its parameters too.
    pub plus_plus: bool,
    /// Its own parameters.
    pub parameters: &'static [Parameter],
    /// What `preset=paper` sets: the equations as printed where the authors' code differs.
    pub paper: &'static [(&'static str, &'static str)],
    /// Smallest and largest value for a number of classes.
    pub range: fn(&LossSpec, usize) -> (f64, f64),
    /// The value at a perfect prediction.
    pub perfection: fn(&LossSpec) -> f64,
    /// The loss.
    pub build: fn(&LossSpec) -> Box<dyn Loss>,
}

/// A weight: 0 or more.
const WEIGHT: (Bound<f64>, Bound<f64>) = (Included(0.0), Unbounded);
/// A share: from 0 to 1.
const SHARE: (Bound<f64>, Bound<f64>) = (Included(0.0), Included(1.0));

const ALPHA: Parameter = Parameter::number("alpha", 0.3, WEIGHT, "weight of false positives");
const BETA: Parameter = Parameter::number("beta", 0.7, WEIGHT, "weight of false negatives");
const POWER: Parameter = Parameter::number(
    "power",
    0.75,
    (Excluded(0.0), Unbounded),
    "exponent of each class's loss",
);
const FOCUS: Parameter = Parameter::number("focus", 2.0, WEIGHT, "focal exponent");
const DELTA: Parameter = Parameter::number(
    "delta",
    0.6,
    SHARE,
    "weight of the foreground, of its false negatives",
);
const ASYMMETRIC_FOCUS: Parameter = Parameter::number(
    "focus",
    0.1,
    (Included(0.0), Excluded(1.0)),
    "focal exponent of the background; the region part's power is 1 - focus",
);
const DELTA_ON: Parameter = Parameter::choice(
    "delta_on",
    &["fn", "fp"],
    "which errors delta multiplies; Eq. 21 is typeset with fp",
);
const LAMBDA: Parameter = Parameter::number("lambda", 0.5, SHARE, "share of the focal part");
const CE_SHARE: Parameter = Parameter::number("ce_share", 0.5, SHARE, "share of the cross-entropy");
const CE_FN_WEIGHT: Parameter = Parameter::number(
    "ce_fn_weight",
    0.5,
    SHARE,
    "weight of the foreground in the cross-entropy",
);

/// The equations of the region losses look at the foreground, without smoothing.
const FOREGROUND: &[(&str, &str)] = &[("classes", "fg"), ("smooth", "0")];
/// Eq. 17 sums over the classes.
const FOREGROUND_SUM: &[(&str, &str)] = &[
    ("classes", "fg"),
    ("class_reduction", "sum"),
    ("smooth", "0"),
];
/// Eq. 20 sums over all classes, and Eq. 21 has δ on the false positives.
const AS_TYPESET: &[(&str, &str)] = &[
    ("class_reduction", "sum"),
    ("smooth", "0"),
    ("delta_on", "fp"),
];

/// The zoo. Names and aliases are unique; every default lies in its range.
pub static ZOO: &[Row] = &[
    Row {
        name: "dice",
        aliases: &["dsc"],
        summary: "1 - 2TP/(2TP + FP + FN)",
        citation: "Milletari et al. 2016; paper, Eq. 2-4; ++: Eq. 9",
        plus_plus: true,
        parameters: &[],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(dice())),
    },
    Row {
        name: "jaccard",
        aliases: &["iou"],
        summary: "1 - TP/(TP + FP + FN)",
        citation: "Rahman and Wang 2016; paper, Eq. 12",
        plus_plus: true,
        parameters: &[],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(jaccard())),
    },
    Row {
        name: "tversky",
        aliases: &[],
        summary: "1 - TP/(TP + alpha FP + beta FN)",
        citation: "Salehi et al. 2017; paper, Eq. 15-16",
        plus_plus: true,
        parameters: &[ALPHA, BETA],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| {
            Box::new(spec.region_part(tversky(spec.number("alpha"), spec.number("beta"))))
        },
    },
    Row {
        name: "focal-tversky",
        aliases: &[],
        summary: "(1 - TI)^power",
        citation: "Abraham and Khan 2019; paper, Eq. 17",
        plus_plus: true,
        parameters: &[ALPHA, BETA, POWER],
        paper: FOREGROUND_SUM,
        range: region_range,
        perfection: zero,
        build: |spec| {
            let loss = focal_tversky(
                spec.number("alpha"),
                spec.number("beta"),
                spec.number("power"),
            );
            Box::new(spec.region_part(loss))
        },
    },
    Row {
        name: "asymmetric-focal-tversky",
        aliases: &[],
        summary: "(1 - TI), the foreground's to the power 1 - focus",
        citation: "Yeung et al. 2021; paper, Eq. 20-21",
        plus_plus: true,
        parameters: &[DELTA, ASYMMETRIC_FOCUS, DELTA_ON],
        paper: AS_TYPESET,
        range: region_range,
        perfection: zero,
        build: |spec| {
            Box::new(spec.region_part(asymmetric_focal_tversky(
                spec.number("delta"),
                spec.number("focus"),
            )))
        },
    },
    Row {
        name: "cross-entropy",
        aliases: &["ce"],
        summary: "-mean log p of the true class",
        citation: "paper, Eq. 1",
        plus_plus: false,
        parameters: &[],
        paper: &[],
        range: unbounded,
        perfection: zero,
        build: |_| Box::new(cross_entropy()),
    },
    Row {
        name: "focal",
        aliases: &[],
        summary: "-mean (1 - p)^focus log p of the true class",
        citation: "Lin et al. 2017",
        plus_plus: false,
        parameters: &[FOCUS],
        paper: &[],
        range: unbounded,
        perfection: zero,
        build: |spec| Box::new(focal(spec.number("focus"))),
    },
    Row {
        name: "asymmetric-focal",
        aliases: &[],
        summary: "delta CE of the foreground + (1 - delta) focal loss of the background",
        citation: "Yeung et al. 2021; paper, Eq. 19",
        plus_plus: false,
        parameters: &[DELTA, ASYMMETRIC_FOCUS],
        paper: &[],
        range: unbounded,
        perfection: zero,
        build: |spec| Box::new(asymmetric_focal(spec.number("delta"), spec.number("focus"))),
    },
    Row {
        name: "combo",
        aliases: &[],
        summary: "ce_share CE - (1 - ce_share) DSC",
        citation: "Taghanaki et al. 2019; paper, Eq. 13-14",
        plus_plus: true,
        parameters: &[CE_SHARE, CE_FN_WEIGHT],
        paper: FOREGROUND,
        range: |spec, _| (spec.number("ce_share") - 1.0, f64::INFINITY),
        perfection: |spec| spec.number("ce_share") - 1.0,
        build: |spec| {
            Box::new(combo(
                spec.number("ce_share"),
                spec.number("ce_fn_weight"),
                |region| spec.region_part(region),
            ))
        },
    },
    Row {
        name: "unified-focal",
        aliases: &[],
        summary: "lambda asymmetric-focal + (1 - lambda) asymmetric-focal-tversky",
        citation: "Yeung et al. 2021; paper, Eq. 18-21",
        plus_plus: true,
        parameters: &[LAMBDA, DELTA, ASYMMETRIC_FOCUS, DELTA_ON],
        paper: AS_TYPESET,
        range: unbounded,
        perfection: zero,
        build: |spec| {
            let (lambda, delta, focus) = (
                spec.number("lambda"),
                spec.number("delta"),
                spec.number("focus"),
            );
            Box::new(unified_focal(lambda, delta, focus, |region| {
                spec.region_part(region)
            }))
        },
    },
];

/// The row of a name or alias.
pub fn find(name: &str) -> Option<&'static Row> {
    ZOO.iter()
        .find(|row| row.name == name || row.aliases.contains(&name))
}

fn zero(_: &LossSpec) -> f64 {
    0.0
}

fn unbounded(_: &LossSpec, _: usize) -> (f64, f64) {
    (0.0, f64::INFINITY)
}

fn region_range(spec: &LossSpec, classes: usize) -> (f64, f64) {
    (
        0.0,
        if spec.word("class_reduction") == "sum" {
            classes as f64
        } else {
            1.0
        },
    )
}
