//! One pass over the pixels, in parallel: forward to the sums, backward to the gradient.
//!
//! The pixels of an item are cut into parts whose size depends on the shape alone, and the sums of the parts are added
//! up in their order: the result has the same bits for any number of threads.

use std::{mem::MaybeUninit, ops::Range};

use rayon::prelude::*;

use super::{
    blocks::{BLOCK, Element, LabelMap, Planes, Scratch},
    kernel::{self, Pixels},
    memory::room,
    rows::{Gradients, ROWS, Rows},
    simd::{Dispatch, InstructionSet},
    terms::Terms,
};
use crate::prediction::Activation;

/// What is true, as slices over all items.
#[derive(Clone, Copy)]
pub(super) enum Truth<'a, R> {
    /// Class numbers.
    Hard(LabelMap<'a>),
    /// Class numbers, smoothed: the truth of the class that is named, and that of the others.
    Smoothed(LabelMap<'a>, [f64; 2]),
    /// A value a class and pixel, `y ↦ a y + b` for smoothing.
    Dense(&'a [R], [f64; 2]),
}

/// A pass over a prediction.
pub(super) struct Pass<'a, E: Element> {
    pub(super) items: usize,
    pub(super) channels: usize,
    /// Pixels of an item.
    pub(super) pixels: usize,
    pub(super) activation: Activation,
    /// Logits `[N, C, S]`.
    pub(super) z: &'a [E],
    pub(super) truth: Truth<'a, E::Real>,
    /// Of each pixel, `[N, S]`.
    pub(super) weights: Option<&'a [E::Real]>,
    pub(super) terms: &'a Terms,
}

/// Whether so many logits are not worth another thread.
pub(super) fn is_sequential(logits: usize) -> bool {
    logits < 1 << 15
}

impl<E: Element> Pass<'_, E> {
    /// Pixels of a part: few enough parts for their sums to take little room, many enough for threads to share.
    fn part(&self) -> usize {
        let parts = (65_536 / (ROWS * self.channels)).clamp(16, 512);
        (self.items * self.pixels)
            .div_ceil(parts)
            .next_multiple_of(BLOCK)
            .max(4 * BLOCK)
    }

    fn sequential(&self) -> bool {
        is_sequential(self.items * self.channels * self.pixels)
    }

    /// The sums `[ROWS, N, C]`, or nothing if a label is no class or a dense truth lies outside [0, 1].
    pub(super) fn forward(&self, isa: InstructionSet) -> Option<Vec<f64>> {
        let (part, width) = (self.part(), ROWS * self.channels);
        let parts = self.pixels.div_ceil(part);
        let mut partial = vec![0.0; self.items * parts * width];
        let run = |scratch: &mut Scratch<E::Real>, (task, sums): (usize, &mut [f64])| {
            let start = task % parts * part;
            self.part_forward(
                isa,
                task / parts,
                start..self.pixels.min(start + part),
                scratch,
                sums,
            )
        };
        let strays = if self.sequential() {
            let mut scratch = Scratch::new();
            let mut tasks = partial.chunks_mut(width).enumerate();
            tasks.any(|task| run(&mut scratch, task))
        } else {
            partial
                .par_chunks_mut(width)
                .enumerate()
                .map_init(Scratch::new, run)
                .reduce(|| false, |a, b| a | b)
        };
        if strays {
            return None;
        }
        let mut sums = vec![0.0; ROWS * self.items * self.channels];
        for (task, partial) in partial.chunks(width).enumerate() {
            let item = task / parts;
            for (row, partial) in partial.chunks(self.channels).enumerate() {
                let at = (row * self.items + item) * self.channels;
                for (sum, partial) in sums[at..].iter_mut().zip(partial) {
                    *sum += partial;
                }
            }
        }
        Some(sums)
    }

    /// The gradient `[N, C, S]`, from the derivatives of the loss in the sums `[ROWS, N, C]`.
    #[allow(unsafe_code)]
    pub(super) fn backward(&self, isa: InstructionSet, upstream: &[f64]) -> Vec<E> {
        let (part, item_len) = (self.part(), self.channels * self.pixels);
        let len = self.items * item_len;
        let mut gradient: Vec<E> = room(len);
        if item_len > 0 {
            let room = &mut gradient.spare_capacity_mut()[..len];
            let tasks = room
                .chunks_mut(item_len)
                .enumerate()
                .flat_map(|(item, room)| {
                    let mut planes: Vec<_> = room
                        .chunks_mut(self.pixels)
                        .map(|plane| plane.chunks_mut(part))
                        .collect();
                    (0..self.pixels).step_by(part).map(move |start| {
                        let out: Vec<_> = planes.iter_mut().filter_map(Iterator::next).collect();
                        (item, start, out)
                    })
                });
            let run = |scratch: &mut Scratch<E::Real>, (item, start, out)| {
                self.part_backward(isa, item, start, out, upstream, scratch);
            };
            if self.sequential() {
                let mut scratch = Scratch::new();
                tasks.for_each(|task| run(&mut scratch, task));
            } else {
                let tasks: Vec<_> = tasks.collect();
                tasks.into_par_iter().for_each_init(Scratch::new, run);
            }
        }
        // SAFETY: the tasks' planes are all there is, and a kernel writes a whole plane: vector by vector up to a multiple
        // of its length, or by `store_padded` up to the last pixel.
        unsafe { gradient.set_len(len) };
        gradient
    }

    /// The upstream numbers of one item, `[ROWS, C]`.
    fn upstream_of(&self, item: usize, upstream: &[f64]) -> Vec<f64> {
        upstream
            .chunks(self.items * self.channels)
            .flat_map(|row| &row[item * self.channels..(item + 1) * self.channels])
            .copied()
            .collect()
    }

    fn labels(&self) -> Option<LabelMap<'_>> {
        match self.truth {
            Truth::Hard(map) | Truth::Smoothed(map, _) => Some(map),
            Truth::Dense(..) => None,
        }
    }

    /// Has `f` see the block of `len` pixels at `start` of an item.
    fn block(
        &self,
        isa: InstructionSet,
        item: usize,
        start: usize,
        len: usize,
        scratch: &mut Scratch<E::Real>,
        f: impl FnOnce(Pixels<E::Real>),
    ) {
        let at = item * self.pixels + start;
        let plane = item * self.channels * self.pixels + start;
        let (block, widened) = scratch.read(isa, self.labels(), self.weights, at, len);
        f(Pixels {
            channels: self.channels,
            activation: self.activation,
            z: Planes::widened(&self.z[plane..], self.pixels, len, self.channels, widened),
            truth: match self.truth {
                Truth::Hard(_) => kernel::Truth::Hard,
                Truth::Smoothed(_, [own, other]) => kernel::Truth::Smoothed { own, other },
                Truth::Dense(y, [factor, term]) => kernel::Truth::Dense {
                    y: Planes::new(&y[plane..], self.pixels, len),
                    factor,
                    term,
                },
            },
            block,
            terms: self.terms,
        });
    }

    /// The sums of a part of an item's pixels; returns whether a truth is none.
    fn part_forward(
        &self,
        isa: InstructionSet,
        item: usize,
        range: Range<usize>,
        scratch: &mut Scratch<E::Real>,
        sums: &mut [f64],
    ) -> bool {
        let mut rows = Rows::new(sums);
        let mut stray = false;
        for start in range.clone().step_by(BLOCK) {
            let len = BLOCK.min(range.end - start);
            self.block(isa, item, start, len, scratch, |pixels| {
                let rows = &mut rows;
                stray |= E::Real::dispatch(isa, kernel::Forward { pixels, rows });
            });
        }
        stray | scratch.stray
    }

    /// The gradient of a part of an item's pixels, which begin at `first`.
    fn part_backward(
        &self,
        isa: InstructionSet,
        item: usize,
        first: usize,
        mut planes: Vec<&mut [MaybeUninit<E>]>,
        upstream: &[f64],
        scratch: &mut Scratch<E::Real>,
    ) {
        let upstream = self.upstream_of(item, upstream);
        let gradients = &Gradients::new(&upstream);
        let part = planes.first().map_or(0, |plane| plane.len());
        let mut wide = Vec::new();
        for offset in (0..part).step_by(BLOCK) {
            let len = BLOCK.min(part - offset);
            let planes = planes
                .iter_mut()
                .map(|plane| &mut plane[offset..offset + len]);
            self.block(isa, item, first + offset, len, scratch, |pixels| {
                write_planes(planes, len, &mut wide, |out| {
                    let kernel = kernel::Backward {
                        pixels,
                        gradients,
                        out,
                    };
                    E::Real::dispatch(isa, kernel);
                });
            });
        }
    }
}

/// Has `f`, which writes whole planes, write them as real numbers, and converts them if their dtype is another.
#[allow(unsafe_code)]
fn write_planes<'a, E: Element>(
    planes: impl Iterator<Item = &'a mut [MaybeUninit<E>]>,
    len: usize,
    wide: &mut Vec<MaybeUninit<E::Real>>,
    f: impl FnOnce(&mut [&mut [MaybeUninit<E::Real>]]),
) {
    if E::IS_REAL {
        let mut planes: Vec<_> = planes.filter_map(E::as_real_mut).collect();
        return f(&mut planes);
    }
    let planes: Vec<_> = planes.collect();
    wide.resize(planes.len() * len, MaybeUninit::uninit());
    f(&mut wide.chunks_mut(len).collect::<Vec<_>>());
    for (plane, wide) in planes.into_iter().zip(wide.chunks(len)) {
        for (to, x) in plane.iter_mut().zip(wide) {
            // SAFETY: `f`, which is a kernel, has written whole planes.
            to.write(E::narrow(unsafe { x.assume_init() }));
        }
    }
}
