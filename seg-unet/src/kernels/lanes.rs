//! Sixteen channels at once: the little arithmetic that the kernels are written in, once for every instruction set.

use std::{
    cell::RefCell,
    fmt::Debug,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Neg, Sub},
};

use candle_core::WithDType;

use super::{buffers::Arena, simd::Kernel};

/// How many channels lie side by side in memory.
pub(crate) const LANES: usize = 16;

/// Sixteen channels of one pixel. Those beyond a tensor's last channel hold 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Block<R>(pub(crate) [R; LANES]);

/// The numbers of the kernels: f32, and f64 for whoever needs more digits than speed.
pub(crate) trait Real:
    WithDType
    + Default
    + Debug
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + Sum
{
    /// Where maps of such numbers live.
    fn arena() -> &'static Arena<Self>;

    /// Lends `f` room for `len` blocks that hold anything. It is kept by the thread, so that no call maps memory anew.
    fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [Block<Self>]) -> T) -> T;
}

macro_rules! real {
    ($real:ty) => {
        impl Real for $real {
            fn arena() -> &'static Arena<Self> {
                static ARENA: Arena<$real> = Arena::new();
                &ARENA
            }

            fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [Block<Self>]) -> T) -> T {
                thread_local! {
                    static SCRATCH: RefCell<Vec<Vec<Block<$real>>>> =
                        const { RefCell::new(Vec::new()) };
                }
                // A stack of them: were `f` to wait for other threads, this one might begin another task meanwhile.
                let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
                if scratch.len() < len {
                    scratch = vec![Block::default(); len];
                }
                let result = f(&mut scratch[..len]);
                SCRATCH.with_borrow_mut(|stack| stack.push(scratch));
                result
            }
        }
    };
}

real!(f32);
real!(f64);

/// Sixteen numbers, one a channel.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self>
{
    type Real: Real;
    type Mask: Copy;
    /// How many rows a matrix product keeps in registers at once, [`Self::GROUP`] blocks each.
    const ROWS: usize;
    /// How many blocks of output channels a matrix product keeps in registers at once.
    const GROUP: usize;

    fn load(block: &Block<Self::Real>) -> Self;
    fn store(self, block: &mut Block<Self::Real>);
    fn splat(x: Self::Real) -> Self;
    /// `self · factor + addend`, rounded once where the processor can.
    fn fma(self, factor: Self, addend: Self) -> Self;
    /// `addend − self · factor`.
    fn fnma(self, factor: Self, addend: Self) -> Self;
    /// The larger of 0 and each number; NaN stays.
    fn relu(self) -> Self;
    /// Where the numbers are above 0.
    fn positive(self) -> Self::Mask;
    /// Where `other` is larger, or the first NaN of the two.
    fn beaten_by(self, other: Self) -> Self::Mask;
    /// The numbers of `yes` where the mask is set, of `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Rows become columns.
    fn transpose(rows: &mut [Self; LANES]);

    /// Runs a part of a kernel as a function of its own, so that it is compiled once and not wherever it is needed.
    fn call<K: Kernel<Self::Real>>(kernel: K) -> K::Output;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(Self::Real::default())
    }

    #[inline(always)]
    fn to_block(self) -> Block<Self::Real> {
        let mut block = Block::default();
        self.store(&mut block);
        block
    }
}

/// The numbers one after the other: any processor, any number.
#[derive(Clone, Copy)]
pub(crate) struct Portable<R>([R; LANES]);

impl<R: Real> Portable<R> {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(R, R) -> R) -> Self {
        let mut result = self.0;
        for (a, b) in result.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(result)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $operator:tt),*) => {$(
        impl<R: Real> $trait for Portable<R> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.each(other, |a, b| a $operator b)
            }
        }
    )*};
}

operators!(Add add +, Sub sub -, Mul mul *);

impl<R: Real> Lanes for Portable<R> {
    type Real = R;
    type Mask = [bool; LANES];
    const ROWS: usize = 4;
    const GROUP: usize = 1;

    #[inline(always)]
    fn load(block: &Block<R>) -> Self {
        Self(block.0)
    }

    #[inline(always)]
    fn store(self, block: &mut Block<R>) {
        block.0 = self.0;
    }

    #[inline(always)]
    fn splat(x: R) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        self * factor + addend
    }

    #[inline(always)]
    fn fnma(self, factor: Self, addend: Self) -> Self {
        addend - self * factor
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // "x ≤ 0" becomes 0, not "x > 0" stays: NaN has to come through.
        self.each(self, |x, _| if x <= R::zero() { R::zero() } else { x })
    }

    #[inline(always)]
    fn positive(self) -> [bool; LANES] {
        self.0.map(|x| x > R::zero())
    }

    #[inline(always)]
    fn beaten_by(self, other: Self) -> [bool; LANES] {
        std::array::from_fn(|i| {
            let (a, b) = (self.0[i].to_f64(), other.0[i].to_f64());
            !a.is_nan() && (b > a || b.is_nan())
        })
    }

    #[inline(always)]
    fn select(mask: [bool; LANES], yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| {
            if mask[i] { yes.0[i] } else { no.0[i] }
        }))
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        for i in 0..LANES {
            for j in 0..i {
                let (a, b) = (rows[i].0[j], rows[j].0[i]);
                rows[i].0[j] = b;
                rows[j].0[i] = a;
            }
        }
    }

    fn call<K: Kernel<R>>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{Dispatch as _, InstructionSet, each_instruction_set};

    /// What every instruction makes of two blocks.
    struct All([Block<f32>; 2]);

    impl Kernel<f32> for All {
        type Output = Vec<Block<f32>>;

        #[inline(always)]
        fn run<L: Lanes<Real = f32>>(self) -> Self::Output {
            let [a, b] = [L::load(&self.0[0]), L::load(&self.0[1])];
            let zero = L::zero();
            let mut results = vec![
                (a + b).to_block(),
                (a - b).to_block(),
                (a * b).to_block(),
                a.fma(b, a).to_block(),
                a.fnma(b, a).to_block(),
                a.relu().to_block(),
                L::select(a.positive(), b, zero).to_block(),
                L::select(a.beaten_by(b), b, zero).to_block(),
            ];
            let mut rows = [zero; LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = L::splat(i as f32) + a;
            }
            L::transpose(&mut rows);
            results.extend(rows.map(L::to_block));
            results
        }
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        let nan = f32::NAN;
        // Ties, zeros, and a NaN on either side or both; all products are exact.
        let a = [
            0.0, 1.0, -1.0, 2.0, nan, 3.0, nan, -0.0, 4.0, 5.0, -6.0, 0.5, 0.0, 1.0, 8.0, 9.0,
        ];
        let b = [
            0.0, 1.0, -2.0, 3.0, 1.0, nan, nan, 0.0, 4.0, 2.0, -5.0, 0.5, 1.0, 0.0, 9.0, 9.0,
        ];
        let bits = |isa| -> Vec<[Option<u32>; LANES]> {
            let results = f32::dispatch(isa, All([Block(a), Block(b)]));
            // Any NaN is as good as another, and either zero.
            let bits = |x: f32| (!x.is_nan()).then(|| (x + 0.0).to_bits());
            results.into_iter().map(|block| block.0.map(bits)).collect()
        };
        let expected = bits(InstructionSet::Portable);
        // 0 beats nothing that ties; 3 beats 2; a NaN is beaten by nothing, and beats a number.
        let beaten = [0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0];
        for (lane, (&beaten, found)) in beaten.iter().zip(expected[7]).enumerate() {
            let wanted = if beaten == 1 { b[lane] } else { 0.0 };
            assert_eq!(
                found,
                (!wanted.is_nan()).then(|| wanted.to_bits()),
                "{lane}"
            );
        }
        for isa in each_instruction_set() {
            assert_eq!(bits(isa), expected, "{isa}");
        }
    }
}
