//! The losses by name: one constructor and one row of [`ZOO`] each.
//!
//! A constructor returns a value whose remaining choices (classes, region, γ, …) are set by its methods. A row holds
//! what parsing, help texts, tables and the tests of every law need; to add a loss is to add one of each.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use crate::{
    index::{GeneralisedDice, Tversky, Weighting},
    loss::Loss,
    options::PerClass,
    outer::Outer,
    pixel::FocalCrossEntropy,
    region::RegionLoss,
    spec::{LossSpec, Parameter},
    stats::Modulation,
    sum::WeightedSum,
};

/// Dice loss: one minus twice the overlap over the two volumes.
///
/// $$ 1 - \frac{2 TP}{2 TP + FP + FN} $$
///
/// `1 − 2TP / (2TP + FP + FN)`. Paper, Eq. 4; with [`plus_plus`](RegionLoss::plus_plus) DSC++, Eq. 9. With γ = 2 and
/// hard labels this is [`squared_dice`].
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

/// Fβ loss: the Tversky loss in which recall counts `recall_weight` times as much as precision.
///
/// $$ 1 - \frac{(1 + b^2) TP}{(1 + b^2) TP + b^2 FN + FP} $$
///
/// `1 − (1 + b²) TP / ((1 + b²) TP + b² FN + FP)` with `b = recall_weight`: [`tversky`] with α = 1/(1 + b²) and
/// β = b²/(1 + b²). 1 is [`dice`]. Hashemi et al. 2019, whose β this is; here β is the weight of false negatives.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0., 0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[1u8, 0, 0, 0]], &Device::Cpu)?; // TP = FN = ½, FP = 3/2
/// let loss = zoo::f_beta(2.0).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - (1.0 - 5.0 * 0.5 / (5.0 * 0.5 + 4.0 * 0.5 + 1.5))).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn f_beta(recall_weight: f64) -> RegionLoss<Tversky> {
    let square = recall_weight * recall_weight;
    tversky(1.0 / (1.0 + square), square / (1.0 + square))
}

/// Dice loss with squared denominators: that of the V-Net.
///
/// $$ 1 - \frac{2 \sum_i p_i y_i}{\sum_i p_i^2 + \sum_i y_i^2} $$
///
/// `1 − 2Σpy / (Σp² + Σy²)`, computed as `Σ(p − y)² / (Σp² + Σy²)`. Milletari et al. 2016 (V-Net). For hard
/// labels it is [`dice`] with γ = 2, bit for bit, since `Σp² + Σy² = 2Σpy + Σ(p − y)²`: its γ is part of it, so there is
/// no `squared-dice++`. For soft labels the two differ, and this one is 0 where p = y.
///
/// ```
/// use dice_losses::{Loss, Target, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let value = |target: Target| zoo::squared_dice().loss(&(&logits).into(), &target)?.to_scalar::<f64>();
/// // Σpy = ½, Σp² = ½, Σy² = 1
/// assert!((value(Target::labels(&Tensor::new(&[[1u8, 0]], &Device::Cpu)?))? - 1.0 / 3.0).abs() < 1e-6);
/// assert_eq!(value(Target::dense(&Tensor::new(&[[[0.5f64, 0.5]]], &Device::Cpu)?))?, 0.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn squared_dice() -> RegionLoss<Tversky> {
    dice().modulation(Modulation::SquaredDifference)
}

/// Generalised Dice loss: one ratio of all classes, the rarer ones weighted up.
///
/// $$ 1 - \frac{2 \sum_c w_c TP_c}{\sum_c w_c (2 TP_c + FP_c + FN_c)}, \quad w_c = \frac{1}{(\sum_i y_{ic})^2} $$
///
/// `1 − 2 Σ_c w_c TP_c / Σ_c w_c (2TP_c + FP_c + FN_c)`. Sudre et al. 2017; [`GeneralisedDice`] says how the weights are
/// scaled and what an absent class weighs. The classes chosen share one ratio, so class weights and powers must be the
/// same for all, and a class reduction has one number to reduce. With [`Weighting::Uniform`] it is the Dice loss of all
/// pixels of all classes, as Keras has it.
///
/// ```
/// use dice_losses::{Loss, Weighting, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64; 4]; 2]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 0, 0, 1]], &Device::Cpu)?; // FP + FN = 2 and 2TP + FP + FN = 5, 3
/// let value = |weighting, gamma| {
///     let loss = zoo::generalised_dice(weighting).plus_plus(gamma);
///     loss.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()
/// };
/// assert!((value(Weighting::Square, 1.0)? - 5.0 / 8.0).abs() < 1e-6); // w = 1/9, 1
/// assert!((value(Weighting::Simple, 1.0)? - 4.0 / 7.0).abs() < 1e-6); // w = 1/3, 1
/// assert!((value(Weighting::Uniform, 1.0)? - 1.0 / 2.0).abs() < 1e-6);
/// assert!((value(Weighting::Uniform, 2.0)? - 1.0 / 3.0).abs() < 1e-6); // FP + FN = 1
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn generalised_dice(weighting: Weighting) -> RegionLoss<GeneralisedDice> {
    RegionLoss::new(GeneralisedDice {
        weighting,
        smooth: Tversky::DICE.smooth,
    })
}

/// Log-cosh Dice loss: `ln cosh` of each region's Dice loss.
///
/// $$ \ln \cosh \Bigl( 1 - \frac{2 TP}{2 TP + FP + FN} \Bigr) $$
///
/// Jadon 2020. Quadratic near a perfect prediction, so that its gradient vanishes there; at most ln cosh 1 = 0.434. It
/// is taken of each region, before the means (the source has one region).
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::log_cosh_dice().loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 0.5f64.cosh().ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn log_cosh_dice() -> RegionLoss<Tversky> {
    dice().outer(Outer::LogCosh)
}

/// Focal Dice loss: one minus the Dice coefficient to a power.
///
/// $$ 1 - DSC^{\text{index\_power}} $$
///
/// `1 − DSC^index_power`. Wang and Chung 2018, whose exponent is 1/β with β ≥ 1; their class weights are
/// [`RegionLoss::class_weights`]. An exponent below 1 makes the badly segmented classes count more: the slope in the DSC
/// is `index_power · DSC^(index_power − 1)`. (Others give the name to a sum of the Dice and the focal loss; that is
/// [`dice_focal`].)
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::focal_dice(0.5).loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - (1.0 - 0.5f64.sqrt())).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn focal_dice(index_power: f64) -> RegionLoss<Tversky> {
    dice().outer(Outer::IndexPower(index_power))
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
    tversky(alpha, beta).outer(power)
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
    tversky(1.0 - delta, delta).outer(PerClass::Split {
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

/// Exponential-logarithmic loss: powers of `−ln` of the Dice coefficient and of each pixel's probability.
///
/// $$ (1 - a) \, E_c \bigl[ (-\ln DSC_c)^{\text{power}} \bigr]
///    + a \, E_i \bigl[ w_{c(i)} (-\ln p_i)^{\text{log\_power}} \bigr] $$
///
/// `(1 − a) mean_c (−ln DSC_c)^power + a mean_i w (−ln p)^log_power` with a = `ce_share`. Wong et al. 2018,
/// with the shares 0.8 and 0.2 and both exponents (their γ) 0.3; their weights w are √(Σ_k f_k / f_c), f being the
/// frequency of a label in the training set, which is the caller's to know: 1 weighs all classes alike. An exponent below
/// 1 has infinite slope at a perfect prediction, where the derivative is bounded ([`crate::guard`]).
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::exponential_log(0.2, 0.3, 0.3, 1.0, |dice| dice).loss(&(&logits).into(), &(&labels).into())?;
/// assert!((loss.to_scalar::<f64>()? - 2f64.ln().powf(0.3)).abs() < 1e-6); // DSC = p = ½
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn exponential_log(
    ce_share: f64,
    power: f64,
    log_power: f64,
    class_weights: impl Into<PerClass>,
    region: impl FnOnce(RegionLoss<Tversky>) -> RegionLoss<Tversky>,
) -> WeightedSum {
    let cross_entropy = FocalCrossEntropy::new(class_weights, 0.0).log_power(log_power);
    WeightedSum::new(0.0)
        .plus(ce_share, cross_entropy)
        .plus(1.0 - ce_share, region(dice().outer(Outer::MinusLog(power))))
}

/// Dice loss and cross-entropy, added with a weight each: `dice_weight · L_Dice + ce_weight · CE`.
///
/// Isensee et al. 2021 (nnU-Net), with weights 1 and 1. `region` sets the choices of the Dice part, γ among them.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::dice_ce(1.0, 2.0, |dice| dice.plus_plus(2.0)).loss(&(&logits).into(), &(&labels).into())?;
/// assert!((loss.to_scalar::<f64>()? - (1.0 / 3.0 + 2.0 * 2f64.ln())).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn dice_ce(
    dice_weight: f64,
    ce_weight: f64,
    region: impl FnOnce(RegionLoss<Tversky>) -> RegionLoss<Tversky>,
) -> WeightedSum {
    WeightedSum::new(0.0)
        .plus(dice_weight, region(dice()))
        .plus(ce_weight, cross_entropy())
}

/// Dice loss and focal loss, added with a weight each: `dice_weight · L_Dice + focal_weight · FL`.
///
/// Zhu et al. 2019 (AnatomyNet). `region` sets the choices of the Dice part, γ among them.
///
/// ```
/// use dice_losses::{Loss, zoo, candle_core::{Device, Tensor}};
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?;
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// let loss = zoo::dice_focal(1.0, 0.5, 2.0, |dice| dice).loss(&(&logits).into(), &(&labels).into())?;
/// assert!((loss.to_scalar::<f64>()? - (1.0 / 2.0 + 0.5 * 2f64.ln() / 4.0)).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn dice_focal(
    dice_weight: f64,
    focal_weight: f64,
    focus: f64,
    region: impl FnOnce(RegionLoss<Tversky>) -> RegionLoss<Tversky>,
) -> WeightedSum {
    WeightedSum::new(0.0)
        .plus(dice_weight, region(dice()))
        .plus(focal_weight, focal(focus))
}

/// Whether a loss counts false positives and false negatives, and what `++` has to do with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Errors {
    /// It does, and `++` gives them the exponent γ.
    Modulated,
    /// It does, with an exponent that is part of the loss: `++` would take it away.
    Squared,
    /// It does not: a loss of pixels, to which `++` does not apply.
    None,
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
    /// Whether it has false-positive and false-negative terms: then the choices of a region loss
    /// ([`crate::spec::REGION_PARAMETERS`]) are its parameters too, and `++` may apply.
    pub errors: Errors,
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

impl Row {
    /// Whether `++` applies.
    pub fn plus_plus(&self) -> bool {
        self.errors == Errors::Modulated
    }

    /// Whether the choices of a region loss are its parameters.
    pub fn has_regions(&self) -> bool {
        self.errors != Errors::None
    }
}

/// A weight: 0 or more.
const WEIGHT: (Bound<f64>, Bound<f64>) = (Included(0.0), Unbounded);
/// A share: from 0 to 1.
const SHARE: (Bound<f64>, Bound<f64>) = (Included(0.0), Included(1.0));

const ALPHA: Parameter = Parameter::number("alpha", 0.3, WEIGHT, "weight of false positives");
const BETA: Parameter = Parameter::number("beta", 0.7, WEIGHT, "weight of false negatives");
/// An exponent: above 0.
const EXPONENT: (Bound<f64>, Bound<f64>) = (Excluded(0.0), Unbounded);

const POWER: Parameter =
    Parameter::number("power", 0.75, EXPONENT, "exponent of each class's loss");
const RECALL_WEIGHT: Parameter = Parameter::number(
    "recall_weight",
    2.0,
    EXPONENT,
    "how many times recall counts as much as precision",
);
const INDEX_POWER: Parameter = Parameter::number(
    "index_power",
    0.5,
    EXPONENT,
    "exponent of each class's Dice coefficient",
);
const WEIGHTING: Parameter = Parameter::choice(
    "weighting",
    &["square", "simple", "uniform"],
    "a class's weight: 1/volume^2, 1/volume, or 1",
);
const LOG_DICE_POWER: Parameter = Parameter::number(
    "power",
    0.3,
    EXPONENT,
    "exponent of minus the logarithm of each class's Dice coefficient",
);
const LOG_POWER: Parameter = Parameter::number(
    "log_power",
    0.3,
    EXPONENT,
    "exponent of minus the logarithm of each pixel's probability",
);
const DICE_WEIGHT: Parameter =
    Parameter::number("dice_weight", 1.0, WEIGHT, "factor of the Dice loss");
const CE_WEIGHT: Parameter =
    Parameter::number("ce_weight", 1.0, WEIGHT, "factor of the cross-entropy");
const FOCAL_WEIGHT: Parameter =
    Parameter::number("focal_weight", 1.0, WEIGHT, "factor of the focal loss");
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
const SMALL_CE_SHARE: Parameter =
    Parameter::number("ce_share", 0.2, SHARE, "share of the cross-entropy");
const CE_FN_WEIGHT: Parameter = Parameter::number(
    "ce_fn_weight",
    0.5,
    SHARE,
    "weight of the foreground in the cross-entropy",
);

/// The equations of the region losses look at the foreground, without smoothing.
const FOREGROUND: &[(&str, &str)] = &[("classes", "fg"), ("smooth", "0")];
/// Its source takes all classes.
const UNSMOOTHED: &[(&str, &str)] = &[("smooth", "0")];
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
        errors: Errors::Modulated,
        parameters: &[],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(dice())),
    },
    Row {
        name: "squared-dice",
        aliases: &["v-net"],
        summary: "1 - 2 sum py/(sum p^2 + sum y^2)",
        citation: "Milletari et al. 2016",
        errors: Errors::Squared,
        parameters: &[],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(squared_dice())),
    },
    Row {
        name: "generalised-dice",
        aliases: &["gdl"],
        summary: "1 - 2 sum_c w TP/sum_c w (2TP + FP + FN), one ratio of all classes",
        citation: "Sudre et al. 2017",
        errors: Errors::Modulated,
        parameters: &[WEIGHTING],
        paper: UNSMOOTHED,
        range: unit_range,
        perfection: zero,
        build: |spec| {
            let loss = generalised_dice(match spec.word("weighting") {
                "simple" => Weighting::Simple,
                "uniform" => Weighting::Uniform,
                _ => Weighting::Square,
            });
            let smooth = spec.number("smooth");
            let loss = loss.map_index(|index| GeneralisedDice { smooth, ..index });
            Box::new(spec.region_choices(loss))
        },
    },
    Row {
        name: "log-cosh-dice",
        aliases: &[],
        summary: "log cosh of the Dice loss",
        citation: "Jadon 2020",
        errors: Errors::Modulated,
        parameters: &[],
        paper: FOREGROUND,
        range: |spec, classes| (0.0, region_range(spec, classes).1 * 1f64.cosh().ln()),
        perfection: zero,
        build: |spec| Box::new(spec.region_part(log_cosh_dice())),
    },
    Row {
        name: "focal-dice",
        aliases: &[],
        summary: "1 - DSC^index_power",
        citation: "Wang and Chung 2018",
        errors: Errors::Modulated,
        parameters: &[INDEX_POWER],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(focal_dice(spec.number("index_power")))),
    },
    Row {
        name: "jaccard",
        aliases: &["iou"],
        summary: "1 - TP/(TP + FP + FN)",
        citation: "Rahman and Wang 2016; paper, Eq. 12",
        errors: Errors::Modulated,
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
        errors: Errors::Modulated,
        parameters: &[ALPHA, BETA],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| {
            Box::new(spec.region_part(tversky(spec.number("alpha"), spec.number("beta"))))
        },
    },
    Row {
        name: "f-beta",
        aliases: &[],
        summary: "1 - F_beta score, beta = recall_weight",
        citation: "Hashemi et al. 2019",
        errors: Errors::Modulated,
        parameters: &[RECALL_WEIGHT],
        paper: FOREGROUND,
        range: region_range,
        perfection: zero,
        build: |spec| Box::new(spec.region_part(f_beta(spec.number("recall_weight")))),
    },
    Row {
        name: "focal-tversky",
        aliases: &[],
        summary: "(1 - TI)^power",
        citation: "Abraham and Khan 2019; paper, Eq. 17",
        errors: Errors::Modulated,
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
        errors: Errors::Modulated,
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
        errors: Errors::None,
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
        errors: Errors::None,
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
        errors: Errors::None,
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
        errors: Errors::Modulated,
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
        errors: Errors::Modulated,
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
    Row {
        name: "exponential-log",
        aliases: &["exp-log"],
        summary: "(1 - ce_share) (-log DSC)^power + ce_share (-log p)^log_power",
        citation: "Wong et al. 2018",
        errors: Errors::Modulated,
        parameters: &[SMALL_CE_SHARE, LOG_DICE_POWER, LOG_POWER],
        paper: FOREGROUND,
        range: unbounded,
        perfection: zero,
        build: |spec| {
            Box::new(exponential_log(
                spec.number("ce_share"),
                spec.number("power"),
                spec.number("log_power"),
                1.0,
                |region| spec.region_part(region),
            ))
        },
    },
    Row {
        name: "dice+ce",
        aliases: &["dice+cross-entropy"],
        summary: "dice_weight Dice loss + ce_weight CE",
        citation: "Isensee et al. 2021",
        errors: Errors::Modulated,
        parameters: &[DICE_WEIGHT, CE_WEIGHT],
        paper: FOREGROUND,
        range: unbounded,
        perfection: zero,
        build: |spec| {
            Box::new(dice_ce(
                spec.number("dice_weight"),
                spec.number("ce_weight"),
                |region| spec.region_part(region),
            ))
        },
    },
    Row {
        name: "dice+focal",
        aliases: &[],
        summary: "dice_weight Dice loss + focal_weight focal loss",
        citation: "Zhu et al. 2019",
        errors: Errors::Modulated,
        parameters: &[DICE_WEIGHT, FOCAL_WEIGHT, FOCUS],
        paper: FOREGROUND,
        range: unbounded,
        perfection: zero,
        build: |spec| {
            Box::new(dice_focal(
                spec.number("dice_weight"),
                spec.number("focal_weight"),
                spec.number("focus"),
                |region| spec.region_part(region),
            ))
        },
    },
];

/// The row of a name or alias, without `++`.
///
/// ```
/// use dice_losses::zoo::{Errors, find};
/// assert_eq!(find("dsc").unwrap().name, "dice");
/// assert!(find("dice+ce").unwrap().plus_plus() && !find("ce").unwrap().plus_plus());
/// assert_eq!(find("v-net").unwrap().errors, Errors::Squared);
/// assert!(find("lovasz").is_none());
/// ```
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

fn unit_range(_: &LossSpec, _: usize) -> (f64, f64) {
    (0.0, 1.0)
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
