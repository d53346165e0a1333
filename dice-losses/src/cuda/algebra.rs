//! What a loss makes of its sums, as data that `algebra.cu` computes.

use crate::{
    index::{GeneralisedDice, Tversky, Weighting},
    options::{EmptyRegion, Reduction},
    stats::Modulation,
    sums::{PixelTerm, Request},
};

/// An index that the kernels know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ratio {
    /// [`Tversky`]: one ratio a class.
    Tversky(Tversky),
    /// [`GeneralisedDice`]: one ratio of all classes.
    GeneralisedDice(GeneralisedDice),
}

impl Ratio {
    /// Whether each class has a ratio of its own.
    pub(crate) fn has_classes(self) -> bool {
        matches!(self, Self::Tversky(_))
    }

    /// Kind, α, β, smoothing and the exponent of a class's weight.
    fn numbers(self) -> [f64; 5] {
        match self {
            Self::Tversky(Tversky {
                alpha,
                beta,
                smooth,
            }) => [0.0, alpha, beta, smooth, 0.0],
            Self::GeneralisedDice(GeneralisedDice { weighting, smooth }) => {
                let exponent = match weighting {
                    Weighting::Square => 2.0,
                    Weighting::Simple => 1.0,
                    Weighting::Uniform => 0.0,
                };
                [1.0, 1.0, 1.0, smooth, exponent]
            }
        }
    }
}

/// The algebra of a region loss.
#[derive(Clone, Debug)]
pub(crate) struct RegionAlgebra {
    pub(crate) ratio: Ratio,
    pub(crate) modulation: Modulation,
    /// Kind and exponent of the outer function, and the exponents of the columns.
    pub(crate) outer: (f64, f64, Vec<f64>),
    pub(crate) weights: Vec<f64>,
    pub(crate) classes: Vec<u32>,
    /// Over the classes; else their sum.
    pub(crate) mean: bool,
    /// All items are one region.
    pub(crate) batch: bool,
    pub(crate) empty: EmptyRegion,
    pub(crate) reduction: Reduction,
}

/// The algebra of a pixel loss.
#[derive(Clone, Debug)]
pub(crate) struct PixelAlgebra {
    pub(crate) term: PixelTerm,
    /// Of each class, and of the other side of each sigmoid.
    pub(crate) weights: Vec<f64>,
    pub(crate) others: Vec<f64>,
    pub(crate) divisor: f64,
    pub(crate) reduction: Reduction,
}

#[derive(Clone, Debug)]
enum Term {
    Region(RegionAlgebra),
    Pixel(PixelAlgebra),
}

/// What a loss makes of its sums, as data: a sum of region and pixel losses and a constant.
///
/// [`Loss::algebra`](crate::Loss::algebra) gives it. A loss of one's own that only wraps losses of this crate hands on
/// theirs; one that computes something else has none.
///
/// ```
/// use dice_losses::{Loss, Request, Sums, candle_core::{Result, Tensor}, cuda::Algebra, zoo};
/// /// Some loss at half its size.
/// struct Half<L>(L);
/// impl<L: Loss> Loss for Half<L> {
///     fn request(&self, request: &mut Request) -> Result<()> {
///         self.0.request(request)
///     }
///     fn of_sums(&self, sums: &Sums) -> Result<Tensor> {
///         self.0.of_sums(sums)? * 0.5
///     }
///     fn algebra(&self, request: &Request) -> Result<Option<Algebra>> {
///         Ok(self.0.algebra(request)?.map(|whole| Algebra::constant(0.0).plus(0.5, whole)))
///     }
/// }
/// let _ = Half(zoo::dice());
/// ```
#[derive(Clone, Debug)]
pub struct Algebra {
    constant: f64,
    terms: Vec<(f64, Term)>,
}

impl Algebra {
    /// The constant alone.
    pub fn constant(constant: f64) -> Self {
        Self {
            constant,
            terms: Vec::new(),
        }
    }

    /// Adds what another loss makes of the sums, times a factor.
    #[must_use]
    pub fn plus(mut self, factor: f64, other: Self) -> Self {
        self.constant += factor * other.constant;
        let terms = other.terms.into_iter();
        self.terms
            .extend(terms.map(|(of_term, term)| (factor * of_term, term)));
        self
    }

    pub(crate) fn region(region: RegionAlgebra) -> Self {
        Self {
            constant: 0.0,
            terms: vec![(1.0, Term::Region(region))],
        }
    }

    pub(crate) fn pixel(pixel: PixelAlgebra) -> Self {
        Self {
            constant: 0.0,
            terms: vec![(1.0, Term::Pixel(pixel))],
        }
    }

    /// Whether all items of a batch are one region anywhere in it.
    pub(super) fn has_batch_regions(&self) -> bool {
        self.terms
            .iter()
            .any(|(_, term)| matches!(term, Term::Region(region) if region.batch))
    }

    /// As numbers, for the sums of a request; none if there is nothing to compute, or if terms are reduced differently,
    /// which the tensor operations report.
    pub(super) fn program(&self, request: &Request, items: usize) -> Option<Program> {
        let shapes = self.terms.iter().map(|(_, term)| match term {
            Term::Region(region) => (region.reduction == Reduction::None)
                .then_some(if region.batch { 1 } else { items }),
            Term::Pixel(pixel) => (pixel.reduction == Reduction::None).then_some(items),
        });
        let shapes: Vec<Option<usize>> = shapes.collect();
        let values = *shapes.first()?;
        if shapes.iter().any(|shape| *shape != values) {
            return None;
        }
        let parts = request.modulations.len().max(request.pixel_terms.len());
        let mut numbers = vec![
            self.terms.len() as f64,
            self.constant,
            values.unwrap_or(0) as f64,
            parts as f64,
        ];
        for (factor, term) in &self.terms {
            let term = match term {
                Term::Region(region) => {
                    let part = position(&request.modulations, &region.modulation)?;
                    region.numbers(part, *factor)
                }
                Term::Pixel(pixel) => {
                    let part = position(&request.pixel_terms, &pixel.term)?;
                    pixel.numbers(part, *factor)
                }
            };
            numbers.extend(term);
        }
        Some(Program { numbers, values })
    }
}

/// An algebra for one request.
pub(super) struct Program {
    /// What `algebra.cu` reads.
    pub(super) numbers: Vec<f64>,
    /// How many losses it makes, `[values]`; none: a scalar.
    pub(super) values: Option<usize>,
}

fn position<T: PartialEq>(all: &[T], one: &T) -> Option<f64> {
    all.iter()
        .position(|other| other == one)
        .map(|at| at as f64)
}

fn number_of(reduction: Reduction) -> f64 {
    match reduction {
        Reduction::Mean => 0.0,
        Reduction::Sum => 1.0,
        Reduction::None => 2.0,
    }
}

/// Numbers of a term before its lists.
const HEAD: usize = 16;

impl RegionAlgebra {
    fn numbers(&self, part: f64, factor: f64) -> Vec<f64> {
        let [kind, alpha, beta, smooth, exponent] = self.ratio.numbers();
        let (outer, power, powers) = &self.outer;
        let chosen = self.classes.len();
        let empty = match self.empty {
            EmptyRegion::Penalty => 0.0,
            EmptyRegion::Skip => 1.0,
            EmptyRegion::Zero => 2.0,
            EmptyRegion::One => 3.0,
            EmptyRegion::Ratio => 4.0,
        };
        let flag = |on: bool| f64::from(u8::from(on));
        let mut numbers = vec![
            0.0,
            (HEAD + 3 * chosen) as f64,
            part,
            factor,
            kind,
            alpha,
            beta,
            smooth,
            exponent,
            *outer,
            *power,
            flag(self.mean),
            flag(self.batch),
            empty,
            number_of(self.reduction),
            chosen as f64,
        ];
        numbers.extend(self.classes.iter().map(|class| f64::from(*class)));
        // One ratio of all classes has one number.
        for list in [powers, &self.weights] {
            numbers.extend((0..chosen).map(|at| list[at.min(list.len() - 1)]));
        }
        numbers
    }
}

impl PixelAlgebra {
    fn numbers(&self, part: f64, factor: f64) -> Vec<f64> {
        let length = HEAD + self.weights.len() + self.others.len();
        let mut numbers = vec![
            1.0,
            length as f64,
            part,
            factor,
            number_of(self.reduction),
            self.divisor,
        ];
        numbers.resize(HEAD, 0.0);
        numbers.extend(&self.weights);
        numbers.extend(&self.others);
        numbers
    }
}
