//! A block of pixels, forward and backward: which kernel serves it.

use std::{mem::MaybeUninit, ops::Range};

use super::{
    activation::Classes,
    binary::{self, LogOdds, Slopes},
    blocks::{Block, Planes},
    hard,
    lanes::{Lanes, Real},
    rows::{Gradients, Rows},
    simd::Kernel,
    soft,
    terms::Terms,
};
use crate::prediction::Activation;

/// What is true at the pixels of a block.
#[derive(Clone, Copy)]
pub(super) enum Truth<'a, R> {
    /// Class numbers.
    Hard,
    /// Class numbers, smoothed: the truth of the class that is named, and that of the others.
    Smoothed { own: f64, other: f64 },
    /// A value a class, `y ↦ factor · y + term` for smoothing.
    Dense {
        y: Planes<'a, R>,
        factor: f64,
        term: f64,
    },
}

/// A block of one item's pixels.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a, R> {
    pub(super) channels: usize,
    pub(super) activation: Activation,
    pub(super) z: Planes<'a, R>,
    pub(super) truth: Truth<'a, R>,
    pub(super) block: Block<'a, R>,
    pub(super) terms: &'a Terms,
}

impl<'a, R: Real> Pixels<'a, R> {
    /// Whether every question has two answers: a sigmoid's channels have, and a softmax of two.
    fn is_binary(&self) -> bool {
        self.activation == Activation::Sigmoid || self.channels == 2
    }

    /// The channels that are questions of their own: all of a sigmoid, the second of a softmax of two.
    fn questions(&self) -> Range<usize> {
        match self.activation {
            Activation::Sigmoid => 0..self.channels,
            Activation::Softmax => 1..2,
        }
    }

    /// The question that a channel answers.
    fn log_odds(&self, channel: usize) -> LogOdds<'a, R> {
        LogOdds {
            z: self.z,
            channel,
            softmax: self.activation == Activation::Softmax,
            class: self.class(channel),
        }
    }

    /// The class number that means yes for a channel.
    fn class(&self, channel: usize) -> usize {
        if self.channels == 1 { 1 } else { channel }
    }

    /// The logits of every class from `at` on; 0 where a pixel does not count, which must not matter, not even as a
    /// NaN.
    #[inline(always)]
    fn load<L: Lanes<Real = R>>(&self, at: usize, counts: L::Mask, to: &mut [L]) {
        for (c, to) in to.iter_mut().enumerate() {
            *to = L::select(counts, self.z.load_padded(c, at), L::zero());
        }
    }

    /// The truth of every class.
    #[inline(always)]
    fn load_truth<L: Lanes<Real = R>>(&self, at: usize, counts: L::Mask, to: &mut [L]) {
        match self.truth {
            Truth::Dense { y, factor, term } => {
                for (c, to) in to.iter_mut().enumerate() {
                    let y = L::select(counts, y.load_padded(c, at), L::zero());
                    *to = y.mul_add(L::constant(factor), L::constant(term));
                }
            }
            Truth::Smoothed { own, other } => {
                let label = L::load(&self.block.labels[at..]);
                for (c, to) in to.iter_mut().enumerate() {
                    let is = label.equals(L::constant(self.class(c) as f64));
                    *to = L::select(is, L::constant(own), L::constant(other));
                }
            }
            Truth::Hard => {}
        }
    }
}

/// Room for six numbers of each class.
#[inline(always)]
fn split<L>(room: &mut [L]) -> Classes<'_, L> {
    let count = room.len() / 6;
    let (z, room) = room.split_at_mut(count);
    let (p, room) = room.split_at_mut(count);
    let (q, room) = room.split_at_mut(count);
    let (ln_p, room) = room.split_at_mut(count);
    let (ln_q, more) = room.split_at_mut(count);
    Classes {
        z,
        p,
        q,
        ln_p,
        ln_q,
        more,
    }
}

/// The sums of a block, added to its item's rows.
pub(super) struct Forward<'a, 'b, R> {
    pub(super) pixels: Pixels<'a, R>,
    pub(super) rows: &'a mut Rows<'b>,
}

impl<R: Real> Kernel<R> for Forward<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Self { pixels, rows } = self;
        match (pixels.truth, pixels.terms.logs()) {
            (Truth::Hard, false) if pixels.is_binary() => binary_forward::<L, false>(&pixels, rows),
            (Truth::Hard, true) if pixels.is_binary() => binary_forward::<L, true>(&pixels, rows),
            (Truth::Hard, false) => match (pixels.block.weights, pixels.channels) {
                (None, 3) => hard_forward_of::<L, 3>(&pixels, rows),
                (None, 4) => hard_forward_of::<L, 4>(&pixels, rows),
                _ => hard_forward::<L, false>(&pixels, rows),
            },
            (Truth::Hard, true) => hard_forward::<L, true>(&pixels, rows),
            (_, false) => soft_forward::<L, false>(&pixels, rows),
            (_, true) => soft_forward::<L, true>(&pixels, rows),
        }
    }
}

#[inline(always)]
fn binary_forward<L: Lanes, const LOGS: bool>(pixels: &Pixels<L::Real>, rows: &mut Rows) {
    for channel in pixels.questions() {
        for piece in pixels.block.pieces::<L>() {
            binary::forward::<L, LOGS>(pixels.log_odds(channel), piece, pixels.terms, rows);
        }
    }
}

/// A softmax of a few classes, every pixel counting once: all in registers.
#[inline(always)]
fn hard_forward_of<L: Lanes, const C: usize>(pixels: &Pixels<L::Real>, rows: &mut Rows) {
    let zero = L::zero();
    let (mut z, mut p, mut q) = ([zero; C], [zero; C], [zero; C]);
    let (mut ln_p, mut ln_q, mut more) = ([zero; C], [zero; C], [zero; C]);
    let mut classes = Classes {
        z: &mut z,
        p: &mut p,
        q: &mut q,
        ln_p: &mut ln_p,
        ln_q: &mut ln_q,
        more: &mut more,
    };
    for piece in pixels.block.pieces::<L>() {
        let mut sums = [hard::Sum::zero(); C];
        let mut at = piece.start;
        while at < piece.end {
            for (c, to) in classes.z.iter_mut().enumerate() {
                *to = pixels.z.load(c, at);
            }
            let label = L::load(&piece.labels[at..]);
            hard::add::<L, false, false>(&mut classes, label, L::one(), pixels.terms, &mut sums);
            at += L::COUNT;
        }
        hard::finish(&sums, (piece.end - piece.start) as f64, rows);
    }
}

#[inline(always)]
fn hard_forward<L: Lanes, const LOGS: bool>(pixels: &Pixels<L::Real>, rows: &mut Rows) {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let mut classes = split(&mut room);
    let mut sums = vec![hard::Sum::zero(); pixels.channels];
    for piece in pixels.block.pieces::<L>() {
        sums.fill(hard::Sum::zero());
        let mut count = L::zero();
        let mut at = piece.start;
        while at < piece.end {
            let weight = piece.weight_at::<L>(at);
            pixels.load(at, weight.is_above(L::zero()), classes.z);
            let label = L::load(&piece.labels[at..]);
            hard::add::<L, LOGS, true>(&mut classes, label, weight, pixels.terms, &mut sums);
            count = count + weight;
            at += L::COUNT;
        }
        hard::finish(&sums, count.sum(), rows);
    }
}

#[inline(always)]
fn soft_forward<L: Lanes, const LOGS: bool>(pixels: &Pixels<L::Real>, rows: &mut Rows) {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let mut classes = split(&mut room);
    let mut sums = vec![soft::Sum::zero(); pixels.channels];
    for piece in pixels.block.pieces::<L>() {
        sums.fill(soft::Sum::zero());
        let mut count = L::zero();
        let mut at = piece.start;
        while at < piece.end {
            let weight = piece.weight_at::<L>(at);
            let counts = weight.is_above(L::zero());
            pixels.load(at, counts, classes.z);
            pixels.load_truth(at, counts, classes.more);
            soft::add::<L, LOGS>(
                &mut classes,
                pixels.activation,
                weight,
                pixels.terms,
                &mut sums,
            );
            count = count + weight;
            at += L::COUNT;
        }
        let count = count.sum();
        for (c, sum) in sums.iter().enumerate() {
            sum.finish(count, c, rows);
        }
    }
}

/// The gradient of a block.
pub(super) struct Backward<'a, 'b, 'c, R> {
    pub(super) pixels: Pixels<'a, R>,
    pub(super) gradients: &'a Gradients<'b>,
    pub(super) out: &'a mut [&'c mut [MaybeUninit<R>]],
}

impl<R: Real> Kernel<R> for Backward<'_, '_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = R>>(self) {
        let Self {
            pixels,
            gradients,
            out,
        } = self;
        match (pixels.truth, pixels.terms.logs()) {
            (Truth::Hard, false) if pixels.is_binary() => {
                binary_backward::<L, false>(&pixels, gradients, out);
            }
            (Truth::Hard, true) if pixels.is_binary() => {
                binary_backward::<L, true>(&pixels, gradients, out);
            }
            (Truth::Hard, false) => match (pixels.block.weights, pixels.channels) {
                (None, 3) => hard_backward_of::<L, 3>(&pixels, gradients, out),
                (None, 4) => hard_backward_of::<L, 4>(&pixels, gradients, out),
                _ => hard_backward::<L, false>(&pixels, gradients, out),
            },
            (Truth::Hard, true) => hard_backward::<L, true>(&pixels, gradients, out),
            (_, false) => soft_backward::<L, false>(&pixels, gradients, out),
            (_, true) => soft_backward::<L, true>(&pixels, gradients, out),
        }
    }
}

type Out<'a, R> = &'a mut [MaybeUninit<R>];

#[inline(always)]
fn binary_backward<L: Lanes, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    for channel in pixels.questions() {
        let u = pixels.log_odds(channel);
        let slopes = Slopes::<L>::new(gradients, pixels.terms, channel, u.softmax);
        binary::backward::<L, LOGS>(u, pixels.block, pixels.terms, &slopes, out);
    }
}

/// A softmax of a few classes, every pixel counting once: all in registers.
#[inline(always)]
fn hard_backward_of<L: Lanes, const C: usize>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let zero = L::zero();
    let (mut z, mut p, mut q) = ([zero; C], [zero; C], [zero; C]);
    let (mut ln_p, mut ln_q, mut more) = ([zero; C], [zero; C], [zero; C]);
    let mut classes = Classes {
        z: &mut z,
        p: &mut p,
        q: &mut q,
        ln_p: &mut ln_p,
        ln_q: &mut ln_q,
        more: &mut more,
    };
    let mut slopes = [hard::Slope::<L>::new(gradients, pixels.terms, 0); C];
    for (c, slope) in slopes.iter_mut().enumerate() {
        *slope = hard::Slope::new(gradients, pixels.terms, c);
    }
    let block = pixels.block;
    let mut at = block.start;
    while at < block.end {
        for (c, to) in classes.z.iter_mut().enumerate() {
            *to = pixels.z.load(c, at);
        }
        let label = L::load(&block.labels[at..]);
        hard::slopes::<L, false>(&mut classes, label, pixels.terms, &slopes);
        for (z, out) in classes.z.iter().zip(out.iter_mut()) {
            z.store(&mut out[at..]);
        }
        at += L::COUNT;
    }
}

#[inline(always)]
fn hard_backward<L: Lanes, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let mut classes = split(&mut room);
    let slopes: Vec<_> = (0..pixels.channels)
        .map(|c| hard::Slope::<L>::new(gradients, pixels.terms, c))
        .collect();
    let block = pixels.block;
    let mut at = block.start;
    while at < block.end {
        let weight = block.weight_at::<L>(at);
        pixels.load(at, weight.is_above(L::zero()), classes.z);
        let label = L::load(&block.labels[at..]);
        hard::slopes::<L, LOGS>(&mut classes, label, pixels.terms, &slopes);
        store(classes.z, weight, at, out);
        at += L::COUNT;
    }
}

#[inline(always)]
fn soft_backward<L: Lanes, const LOGS: bool>(
    pixels: &Pixels<L::Real>,
    gradients: &Gradients,
    out: &mut [Out<L::Real>],
) {
    let mut room = vec![L::zero(); 6 * pixels.channels];
    let mut classes = split(&mut room);
    let slopes: Vec<_> = (0..pixels.channels)
        .map(|c| soft::Slope::<L>::new(gradients, pixels.terms, c))
        .collect();
    let block = pixels.block;
    let mut at = block.start;
    while at < block.end {
        let weight = block.weight_at::<L>(at);
        let counts = weight.is_above(L::zero());
        pixels.load(at, counts, classes.z);
        pixels.load_truth(at, counts, classes.more);
        soft::slopes::<L, LOGS>(&mut classes, pixels.activation, pixels.terms, &slopes);
        store(classes.z, weight, at, out);
        at += L::COUNT;
    }
}

#[inline(always)]
fn store<L: Lanes>(slopes: &[L], weight: L, at: usize, out: &mut [Out<L::Real>]) {
    for (slope, out) in slopes.iter().zip(out) {
        (*slope * weight).store_padded(&mut out[at..]);
    }
}
