//! Blocks of pixels: what the kernels read, laid out as they want it.

use std::mem::MaybeUninit;

use candle_core::WithDType;
use half::{bf16, f16, slice::HalfFloatSliceExt as _};

use super::{
    lanes::{Lanes, MOST, Real},
    simd::{Dispatch, InstructionSet, Kernel},
};

/// Pixels that are handled together: what is made of them on the way stays in the first-level cache.
pub(super) const BLOCK: usize = 1024;

/// A dtype of predictions, and the numbers it is computed with.
pub(super) trait Element: WithDType {
    type Real: Dispatch + WithDType;
    /// Whether they need no conversion.
    const IS_REAL: bool;
    /// The same numbers, if they need no conversion.
    fn as_real(from: &[Self]) -> Option<&[Self::Real]>;
    /// The same places, if they need no conversion.
    fn as_real_mut(to: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self::Real>]>;
    fn widen(from: &[Self], to: &mut [Self::Real]);
    fn narrow(x: Self::Real) -> Self;
}

macro_rules! real {
    ($real:ty) => {
        impl Element for $real {
            type Real = Self;
            const IS_REAL: bool = true;
            fn as_real(from: &[Self]) -> Option<&[Self]> {
                Some(from)
            }
            fn as_real_mut(to: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self>]> {
                Some(to)
            }
            fn widen(from: &[Self], to: &mut [Self]) {
                to.copy_from_slice(from);
            }
            fn narrow(x: Self) -> Self {
                x
            }
        }
    };
}

macro_rules! half {
    ($half:ty) => {
        impl Element for $half {
            type Real = f32;
            const IS_REAL: bool = false;
            fn as_real(_: &[Self]) -> Option<&[f32]> {
                None
            }
            fn as_real_mut(_: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<f32>]> {
                None
            }
            fn widen(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }
            fn narrow(x: f32) -> Self {
                Self::from_f32(x)
            }
        }
    };
}

real!(f32);
real!(f64);
half!(f16);
half!(bf16);

/// Planes of as many numbers, one a class.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a, R> {
    numbers: &'a [R],
    /// From one plane to the next.
    stride: usize,
    /// Numbers of each plane.
    len: usize,
}

impl<'a, R: Real> Planes<'a, R> {
    /// Planes of `len` numbers, the first at the beginning of `numbers`.
    pub(super) fn new(numbers: &'a [R], stride: usize, len: usize) -> Self {
        Self {
            numbers,
            stride,
            len,
        }
    }

    /// Planes of a dtype that may need to be converted, into `scratch`.
    pub(super) fn widened<E: Element<Real = R>>(
        from: &'a [E],
        stride: usize,
        len: usize,
        classes: usize,
        scratch: &'a mut Vec<R>,
    ) -> Self {
        if let Some(numbers) = E::as_real(from) {
            return Self::new(numbers, stride, len);
        }
        scratch.resize(classes * len, R::default());
        for (c, plane) in scratch.chunks_mut(len).enumerate() {
            E::widen(&from[c * stride..c * stride + len], plane);
        }
        Self::new(scratch, len, len)
    }

    #[inline(always)]
    pub(super) fn load<L: Lanes<Real = R>>(&self, c: usize, at: usize) -> L {
        L::load(&self.numbers[c * self.stride + at..])
    }

    #[inline(always)]
    pub(super) fn load_padded<L: Lanes<Real = R>>(&self, c: usize, at: usize) -> L {
        L::load_padded(&self.numbers[c * self.stride + at..c * self.stride + self.len])
    }
}

/// Class numbers as they were given.
#[derive(Clone, Copy)]
pub(super) enum Labels<'a> {
    U8(&'a [u8]),
    U32(&'a [u32]),
    I64(&'a [i64]),
}

impl Labels<'_> {
    /// The first label that is neither a class nor ignored.
    pub(super) fn stray(&self, classes: usize, ignore: Option<i64>) -> Option<i64> {
        let stray = |label: &i64| !(0..classes as i64).contains(label) && Some(*label) != ignore;
        match self {
            Self::U8(labels) => labels.iter().map(|l| i64::from(*l)).find(stray),
            Self::U32(labels) => labels.iter().map(|l| i64::from(*l)).find(stray),
            Self::I64(labels) => labels.iter().copied().find(stray),
        }
    }
}

/// What was found among the labels of a block.
#[derive(Clone, Copy, Default)]
struct Found {
    ignored: bool,
    stray: bool,
}

/// Class numbers and weights of one block.
pub(super) struct Scratch<R> {
    labels: [R; BLOCK],
    weights: [R; BLOCK],
    widened: Vec<R>,
    /// A label that is no class was seen.
    pub(super) stray: bool,
}

/// The labels of all items, and the one that does not count.
#[derive(Clone, Copy)]
pub(super) struct LabelMap<'a> {
    pub(super) labels: Labels<'a>,
    pub(super) ignore: Option<i64>,
    pub(super) classes: usize,
}

impl<R: Dispatch> Scratch<R> {
    pub(super) fn new() -> Self {
        Self {
            labels: [R::default(); BLOCK],
            weights: [R::default(); BLOCK],
            widened: Vec::new(),
            stray: false,
        }
    }

    /// Lays out the block of `len` pixels at `at`; besides, room for numbers to be converted.
    pub(super) fn read(
        &mut self,
        isa: InstructionSet,
        map: Option<LabelMap>,
        weights: Option<&[R]>,
        at: usize,
        len: usize,
    ) -> (Block<'_, R>, &mut Vec<R>) {
        let found = map.map_or(Found::default(), |map| {
            let to = &mut self.labels[..len];
            R::dispatch(isa, ReadLabels { map, at, to })
        });
        self.stray |= found.stray;
        let weighted = weights.is_some() || found.ignored || !len.is_multiple_of(MOST);
        if weighted {
            match weights {
                Some(weights) => self.weights[..len].copy_from_slice(&weights[at..at + len]),
                None => self.weights[..len].fill(R::from_f64(1.0)),
            }
            if found.ignored {
                // An ignored pixel was given the number of no class.
                for (weight, label) in self.weights[..len].iter_mut().zip(&self.labels[..len]) {
                    *weight = if *label < R::default() {
                        R::default()
                    } else {
                        *weight
                    };
                }
            }
            let padded = len.next_multiple_of(MOST);
            self.weights[len..padded].fill(R::default());
            self.labels[len..padded].fill(R::default());
        }
        let block = Block {
            labels: &self.labels,
            weights: weighted.then_some(&self.weights[..]),
            start: 0,
            end: len,
        };
        (block, &mut self.widened)
    }
}

/// Class numbers as real numbers, −1 for an ignored pixel: a kernel, since the conversion is worth wide registers.
struct ReadLabels<'a, R> {
    map: LabelMap<'a>,
    at: usize,
    to: &'a mut [R],
}

impl<R: Real> Kernel<R> for ReadLabels<'_, R> {
    type Output = Found;

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) -> Found {
        let Self { map, at, to } = self;
        let (range, classes) = (at..at + to.len(), map.classes);
        match map.labels {
            Labels::U8(labels) => {
                let ignore = map.ignore.and_then(|label| u8::try_from(label).ok());
                let last = (classes - 1).min(255) as u8;
                read(&labels[range], to, ignore, |label| label <= last, i32::from)
            }
            Labels::U32(labels) => {
                let ignore = map.ignore.and_then(|label| u32::try_from(label).ok());
                let classes = classes as u32;
                read(
                    &labels[range],
                    to,
                    ignore,
                    |label| label < classes,
                    |label| label as i32,
                )
            }
            Labels::I64(labels) => {
                let classes = classes as u64;
                // A negative label is a large unsigned one.
                let is_class = |label| (label as u64) < classes;
                read(&labels[range], to, map.ignore, is_class, |label| {
                    label as i32
                })
            }
        }
    }
}

#[inline(always)]
fn read<T: Copy + PartialEq, R: Real>(
    labels: &[T],
    to: &mut [R],
    ignore: Option<T>,
    is_class: impl Fn(T) -> bool,
    number: impl Fn(T) -> i32,
) -> Found {
    let mut outside = false;
    for (to, label) in to.iter_mut().zip(labels) {
        *to = R::from_i32(number(*label));
        outside |= !is_class(*label);
    }
    let Some(ignore) = ignore else {
        return Found {
            ignored: false,
            stray: outside,
        };
    };
    let (mut ignored, mut stray) = (false, false);
    for (to, label) in to.iter_mut().zip(labels) {
        let is_ignored = *label == ignore;
        ignored |= is_ignored;
        stray |= !is_ignored & !is_class(*label);
        *to = if is_ignored { R::from_i32(-1) } else { *to };
    }
    Found { ignored, stray }
}

/// The pixels of a block: their class numbers, and their weights if not all are 1.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, R> {
    pub(super) labels: &'a [R],
    /// Zero behind the last pixel, up to the next multiple of every `COUNT`.
    pub(super) weights: Option<&'a [R]>,
    /// The first pixel.
    pub(super) start: usize,
    /// Behind the last pixel; a multiple of every `COUNT` if there are no weights.
    pub(super) end: usize,
}

impl<R: Real> Block<'_, R> {
    /// Pieces so short that a sum of f32 over one keeps its digits.
    pub(super) fn pieces<L: Lanes<Real = R>>(&self) -> impl Iterator<Item = Self> {
        let (block, step) = (*self, 64 * L::COUNT);
        (self.start..self.end).step_by(step).map(move |start| Self {
            start,
            end: block.end.min(start + step),
            ..block
        })
    }

    /// The weights of the pixels from `at` on; 1 if they are not `WEIGHTED`.
    #[inline(always)]
    pub(super) fn weight_at<L: Lanes<Real = R>, const WEIGHTED: bool>(&self, at: usize) -> L {
        match self.weights {
            Some(weights) if WEIGHTED => L::load(&weights[at..]),
            _ => L::one(),
        }
    }
}
