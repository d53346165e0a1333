//! Region losses: the order of operations, the same for all of them.

use candle_core::{Result, Tensor, bail};

use crate::{
    guard,
    index::RegionIndex,
    loss::Loss,
    options::{ClassReduction, Classes, EmptyRegion, PerClass, Reduction, Region},
    outer::{Chosen, Outer},
    prediction::Prediction,
    stats::{Modulation, RegionStats},
    sums::{Request, Sums},
    target::Target,
};

/// A loss made of an index over regions.
///
/// Statistics → loss of the index → empty regions → outer function → class weights → reduction over classes → reduction
/// over items. Each step is a named choice; the defaults are what the paper's authors trained: all classes, each item by
/// itself, means over classes and items. (What an empty region costs is the exception: [`EmptyRegion`] says why.)
///
/// ```
/// use dice_losses::{Classes, Loss, Region, RegionLoss, Tversky, candle_core::{Device, Tensor}};
/// let tversky_pp = RegionLoss::new(Tversky { alpha: 0.3, beta: 0.7, ..Tversky::DICE })
///     .plus_plus(2.0)
///     .classes(Classes::Foreground)
///     .region(Region::Batch);
/// let logits = Tensor::new(&[[[0f64, 0.], [0., 0.]]], &Device::Cpu)?; // p = ½ everywhere
/// let labels = Tensor::new(&[[0u8, 1]], &Device::Cpu)?;
/// // TP = ½, FP = FN = ¼: (0.3 + 0.7)/4 of 1/2 + 1/4 is 1/3.
/// let loss = tversky_pp.loss(&(&logits).into(), &(&labels).into())?.to_scalar::<f64>()?;
/// assert!((loss - 1.0 / 3.0).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RegionLoss<I> {
    index: I,
    modulation: Modulation,
    outer: Outer,
    class_weights: PerClass,
    classes: Classes,
    class_reduction: ClassReduction,
    region: Region,
    empty: EmptyRegion,
    reduction: Reduction,
}

impl<I: RegionIndex> RegionLoss<I> {
    /// The loss `1 − index`, with every choice at its default.
    pub fn new(index: I) -> Self {
        Self {
            index,
            modulation: Modulation::Plain,
            outer: Outer::default(),
            class_weights: PerClass::All(1.0),
            classes: Classes::default(),
            class_reduction: ClassReduction::default(),
            region: Region::default(),
            empty: EmptyRegion::default(),
            reduction: Reduction::default(),
        }
    }

    /// The same choices with another index.
    pub(crate) fn map_index<J>(self, f: impl FnOnce(I) -> J) -> RegionLoss<J> {
        let Self {
            index,
            modulation,
            outer,
            class_weights,
            classes,
            class_reduction,
            region,
            empty,
            reduction,
        } = self;
        RegionLoss {
            index: f(index),
            modulation,
            outer,
            class_weights,
            classes,
            class_reduction,
            region,
            empty,
            reduction,
        }
    }

    /// The `++` variant: γ on the false positives and false negatives (paper, Eq. 9). γ = 1 is the plain loss.
    ///
    /// γ must be above 0 and at most [`MAX_GAMMA`](crate::MAX_GAMMA); the loss reports it otherwise.
    #[must_use]
    pub fn plus_plus(self, gamma: f64) -> Self {
        self.modulation(Modulation::from_gamma(gamma))
    }

    /// Sets how errors are modulated, for those who want the general power even at γ = 1.
    #[must_use]
    pub fn modulation(mut self, modulation: Modulation) -> Self {
        self.modulation = modulation;
        self
    }

    /// The function of each region's loss; a number is a power, focal Tversky's 1/γ in the paper's Eq. 17.
    #[must_use]
    pub fn outer(mut self, outer: impl Into<Outer>) -> Self {
        self.outer = outer.into();
        self
    }

    /// A factor on each class's loss. The mean over classes divides by their number, not by the weights' sum.
    #[must_use]
    pub fn class_weights(mut self, weights: impl Into<PerClass>) -> Self {
        self.class_weights = weights.into();
        self
    }

    /// Which classes count.
    #[must_use]
    pub fn classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// Mean or sum over the classes.
    #[must_use]
    pub fn class_reduction(mut self, reduction: ClassReduction) -> Self {
        self.class_reduction = reduction;
        self
    }

    /// Each item by itself or the whole batch.
    #[must_use]
    pub fn region(mut self, region: Region) -> Self {
        self.region = region;
        self
    }

    /// What a region without truth costs.
    #[must_use]
    pub fn empty(mut self, empty: EmptyRegion) -> Self {
        self.empty = empty;
        self
    }

    /// Mean, sum or one loss an item.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// The loss of every region before any reduction, weighted: `[N, C']`, or `[1, C']` over a whole batch, with `C'`
    /// the classes chosen; `C'` is 1 for an index that makes one ratio of them. In f64 where the device has it.
    ///
    /// ```
    /// use dice_losses::{Classes, zoo, candle_core::{Device, Tensor}};
    /// let logits = Tensor::new(&[[[0f64, 0., 0.]; 3]], &Device::Cpu)?; // p = ⅓ everywhere
    /// let labels = Tensor::new(&[[0u8, 1, 1]], &Device::Cpu)?;
    /// let loss = zoo::dice().classes(Classes::Foreground);
    /// let regions = loss.per_region(&(&logits).into(), &(&labels).into())?.to_vec2::<f64>()?;
    /// assert!((regions[0][0] - 5.0 / 9.0).abs() < 1e-6); // TP = 2/3, FP = 1/3, FN = 4/3
    /// assert!((regions[0][1] - 1.0 / 3.0).abs() < 1e-6); // absent: the mean of p
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    pub fn per_region(&self, prediction: &Prediction, target: &Target) -> Result<Tensor> {
        let stats = RegionStats::new(prediction, target, self.modulation, Region::Item)?;
        Ok(self.regions(&stats)?.0)
    }

    /// The loss of sums that are at hand, which must have been modulated alike: those of several devices added up, say;
    /// [`RegionStats::plus`] has the example.
    ///
    /// # Errors
    ///
    /// As [`Loss::loss`].
    pub fn of_stats(&self, stats: &RegionStats) -> Result<Tensor> {
        if stats.modulation != self.modulation {
            bail!(
                "the loss is of sums with {:?}, found {:?}; make them with RegionStats::new and that modulation",
                self.modulation,
                stats.modulation
            );
        }
        self.reduce(stats, None)
    }

    /// The classes that count, and the sums of their regions.
    fn chosen(&self, stats: &RegionStats) -> Result<(Chosen, RegionStats)> {
        let (channels, activation) = (stats.tp.dim(1)?, stats.activation);
        let chosen = Chosen {
            classes: self.classes.of(channels, activation)?,
            channels,
            activation,
        };
        let stats = match self.region {
            Region::Item => stats.clone(),
            Region::Batch => stats.batch()?,
        };
        let stats = if chosen.classes.len() == channels {
            stats
        } else {
            stats.select(&Tensor::new(chosen.classes.as_slice(), stats.tp.device())?)?
        };
        Ok((chosen, stats))
    }

    /// The losses `[N, C']`, and which of them count, 1 or 0, if not all do.
    fn regions(&self, stats: &RegionStats) -> Result<(Tensor, Option<Tensor>)> {
        let (chosen, stats) = self.chosen(stats)?;
        let loss = self.index.loss(&stats)?;
        let stats = of_regions(&loss, stats)?;
        let (loss, counts) = if guard::is_known(&stats.volume, |volume| volume != 0.0)? {
            (loss, None)
        } else {
            let empty = stats.volume.eq(0f64)?;
            let cost = |cost: &Tensor| empty.where_cond(cost, &loss);
            match self.empty {
                EmptyRegion::Ratio => (loss, None),
                EmptyRegion::Zero => (cost(&loss.zeros_like()?)?, None),
                EmptyRegion::One => (cost(&loss.ones_like()?)?, None),
                EmptyRegion::Skip => {
                    let present = empty.eq(0u8)?.to_dtype(loss.dtype())?;
                    (cost(&loss.zeros_like()?)?, Some(present))
                }
                EmptyRegion::Penalty => {
                    (cost(&guard::ratio(&stats.predicted, &stats.pixels)?)?, None)
                }
            }
        };
        let loss = self.outer.of(&loss, &chosen)?;
        let weights = chosen.numbers(&self.class_weights, loss.dim(1)?, "class weights")?;
        let loss = if weights.iter().all(|w| *w == 1.0) {
            loss
        } else {
            loss.broadcast_mul(
                &Tensor::new(weights, loss.device())?
                    .to_dtype(loss.dtype())?
                    .unsqueeze(0)?,
            )?
        };
        Ok((loss, counts))
    }

    fn reduce(&self, stats: &RegionStats, sample_weights: Option<&Tensor>) -> Result<Tensor> {
        let (loss, counts) = self.regions(stats)?;
        let classes = counts.map(|counts| counts.sum(1)).transpose()?;
        let items = match (self.class_reduction, &classes) {
            (ClassReduction::Sum, _) => loss.sum(1)?,
            (ClassReduction::Mean, None) => loss.mean(1)?,
            (ClassReduction::Mean, Some(classes)) => guard::ratio(&loss.sum(1)?, classes)?,
        };
        let items = match (sample_weights, self.region) {
            (None, _) => items,
            (Some(weights), Region::Item) => (items * weights)?,
            (Some(_), Region::Batch) => return Err(sample_weights_of_one_region()),
        };
        match (self.reduction, classes) {
            (Reduction::None, _) => Ok(items),
            (Reduction::Sum, _) => items.sum_all(),
            (Reduction::Mean, None) => items.mean_all(),
            // An item of which every region was skipped is no item.
            (Reduction::Mean, Some(classes)) => guard::ratio(
                &items.sum_all()?,
                &classes.ne(0f64)?.to_dtype(items.dtype())?.sum_all()?,
            ),
        }
    }
}

/// The sums of the regions that an index has made values of: one a class and item, or all classes of an item together.
fn of_regions(values: &Tensor, stats: RegionStats) -> Result<RegionStats> {
    match (values.dims(), stats.tp.dims()) {
        (found, expected) if found == expected => Ok(stats),
        ([n, 1], [items, _]) if n == items => stats.merged(),
        (found, expected) => bail!(
            "an index has a value for every region, of shape {expected:?}, or one for all classes of an item, of \
             shape [{}, 1]; found {found:?}",
            expected[0]
        ),
    }
}

/// The error where items are weighed that are one region.
pub(crate) fn sample_weights_of_one_region() -> candle_core::Error {
    candle_core::Error::Msg(String::from(
        "sample weights need a region an item, found Region::Batch, where there is one region; \
         weigh the items' pixels with Target::pixel_weights instead",
    ))
    .bt()
}

impl<I: RegionIndex> Loss for RegionLoss<I> {
    fn request(&self, request: &mut Request) -> Result<()> {
        request.region(self.modulation)
    }

    fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
        self.reduce(sums.region(self.modulation)?, sums.sample_weights())
    }

    fn denominators(&self, prediction: &Prediction, target: &Target) -> Result<Vec<f64>> {
        let stats = RegionStats::new(prediction, target, self.modulation, Region::Item)?;
        let (_, stats) = self.chosen(&stats)?;
        let Some(denominators) = self.index.denominator(&stats)? else {
            return Ok(Vec::new());
        };
        let stats = of_regions(&denominators, stats)?;
        let numbers = |x: &Tensor| {
            x.to_dtype(candle_core::DType::F64)?
                .flatten_all()?
                .to_vec1::<f64>()
        };
        let divides = |volume: f64| volume != 0.0 || self.empty == EmptyRegion::Ratio;
        let all = numbers(&denominators)?
            .into_iter()
            .zip(numbers(&stats.volume)?);
        Ok(all
            .filter_map(|(denominator, volume)| divides(volume).then_some(denominator))
            .collect())
    }

    #[cfg(feature = "cuda")]
    fn algebra(&self, request: &Request) -> Result<Option<crate::cuda::Algebra>> {
        let Some(ratio) = self.index.ratio() else {
            return Ok(None);
        };
        let (channels, activation) = (request.channels(), request.activation());
        let chosen = Chosen {
            classes: self.classes.of(channels, activation)?,
            channels,
            activation,
        };
        let columns = if ratio.has_classes() {
            chosen.classes.len()
        } else {
            1
        };
        Ok(Some(crate::cuda::Algebra::region(
            crate::cuda::RegionAlgebra {
                ratio,
                modulation: self.modulation,
                outer: self.outer.as_data(&chosen, columns)?,
                weights: chosen.numbers(&self.class_weights, columns, "class weights")?,
                classes: chosen.classes,
                mean: self.class_reduction == ClassReduction::Mean,
                batch: self.region == Region::Batch,
                empty: self.empty,
                reduction: self.reduction,
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{index::Weighting, zoo};

    /// Three classes, of which the first image lacks the last, at p = ⅓ everywhere.
    fn denominators(loss: &dyn Loss) -> Vec<f64> {
        let logits = Tensor::new(&[[[0f64; 4]; 3]; 2], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[[0u8, 1, 1, 1], [0, 0, 1, 2]], &Device::Cpu).unwrap();
        loss.denominators(&(&logits).into(), &(&labels).into())
            .unwrap()
    }

    #[track_caller]
    fn expect(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn what_a_loss_divides_by_is_told_for_every_region_that_has_a_ratio() {
        // Of V pixels in 4: TP = V/3, FP = (4 − V)/3, FN = 2V/3; TP + ½ (FP + FN) = ⅔ + V/2.
        let dice = zoo::dice();
        let of = |volumes: &[f64]| {
            volumes
                .iter()
                .map(|v| 2.0 / 3.0 + v / 2.0)
                .collect::<Vec<_>>()
        };
        expect(&denominators(&dice), &of(&[1.0, 3.0, 2.0, 1.0, 1.0]));
        let ratio = dice.clone().empty(EmptyRegion::Ratio);
        expect(&denominators(&ratio), &of(&[1.0, 3.0, 0.0, 2.0, 1.0, 1.0]));
        let foreground = dice.clone().classes(Classes::Foreground);
        expect(&denominators(&foreground), &of(&[3.0, 1.0, 1.0]));
        // As one region of 8 pixels: 4/3 + V/2.
        let batch = dice.clone().region(Region::Batch);
        let all = [3.0, 4.0, 1.0].map(|v| 4.0 / 3.0 + v / 2.0);
        expect(&denominators(&batch), &all);
        // γ = 2: the errors are squared, pixel by pixel.
        let squared = |v: f64| v / 3.0 + (4.0 + 3.0 * v) / 18.0;
        let plus_plus = foreground.plus_plus(2.0);
        expect(&denominators(&plus_plus), &[3.0, 1.0, 1.0].map(squared));
        // One ratio an image: Σ (2TP + FP + FN) of three classes and 4 pixels.
        let generalised = zoo::generalised_dice(Weighting::Uniform);
        expect(&denominators(&generalised), &[8.0, 8.0]);
    }

    #[test]
    fn every_loss_with_regions_divides_and_no_other() {
        for row in zoo::ZOO {
            let loss = row.name.parse::<crate::LossSpec>().unwrap().build();
            assert_eq!(
                denominators(&loss).is_empty(),
                !row.has_regions(),
                "{}",
                row.name
            );
        }
    }
}
