//! Sixteen f32 in x86's vector registers.
//!
//! The rule of this module: a value of these types is only made below [`super::simd`]'s entry points, which are called
//! if the processor has the instructions. That is the safety of every block here that names no pointer; the compiler
//! does not see it, so nothing else may name the types.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports)] // of instructions, which have long names of their own

use std::{
    arch::x86_64::*,
    ops::{Add, Mul, Sub},
};

use super::{
    lanes::{Block, LANES, Lanes},
    simd::{self, Kernel},
};

/// One register of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Two registers of AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// One instruction.
macro_rules! instruction {
    ($name:ident $(::<$constant:tt>)? ($($argument:expr),*)) => {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { $name $(::<$constant>)? ($($argument),*) }
    };
}

macro_rules! operator {
    ($operator:ident, $method:ident, $wide:ident, $narrow:ident) => {
        impl $operator for Avx512 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(instruction!($wide(self.0, other.0)))
            }
        }

        impl $operator for Avx2 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(
                    instruction!($narrow(self.0, other.0)),
                    instruction!($narrow(self.1, other.1)),
                )
            }
        }
    };
}

operator!(Add, add, _mm512_add_ps, _mm256_add_ps);
operator!(Sub, sub, _mm512_sub_ps, _mm256_sub_ps);
operator!(Mul, mul, _mm512_mul_ps, _mm256_mul_ps);

impl Lanes for Avx512 {
    type Real = f32;
    type Mask = __mmask16;
    // 28 sums, 2 blocks of weights and 1 number: 31 of 32 registers.
    const ROWS: usize = 14;
    const GROUP: usize = 2;

    #[inline(always)]
    fn load(block: &Block<f32>) -> Self {
        // SAFETY: sixteen numbers are there to be read, at an address that is a multiple of 64.
        Self(unsafe { _mm512_load_ps(block.0.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, block: &mut Block<f32>) {
        // SAFETY: there is room for sixteen numbers, at an address that is a multiple of 64.
        unsafe { _mm512_store_ps(block.0.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(instruction!(_mm512_set1_ps(x)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        Self(instruction!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn fnma(self, factor: Self, addend: Self) -> Self {
        Self(instruction!(_mm512_fnmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // Of a NaN the instruction returns its second operand.
        Self(instruction!(_mm512_max_ps(Self::zero().0, self.0)))
    }

    #[inline(always)]
    fn positive(self) -> __mmask16 {
        instruction!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, Self::zero().0))
    }

    #[inline(always)]
    fn beaten_by(self, other: Self) -> __mmask16 {
        let not_below = instruction!(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(other.0, self.0));
        not_below & instruction!(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(self.0, self.0))
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(instruction!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        // Pairs, fours within each quarter register, then the quarters.
        let mut pairs = *rows;
        for i in 0..LANES / 2 {
            let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
            pairs[2 * i] = Self(instruction!(_mm512_unpacklo_ps(a, b)));
            pairs[2 * i + 1] = Self(instruction!(_mm512_unpackhi_ps(a, b)));
        }
        // fours[4 q + c]: column c of each quarter, of the rows 4 q to 4 q + 3.
        let mut fours = pairs;
        for q in 0..4 {
            for half in 0..2 {
                let a = instruction!(_mm512_castps_pd(pairs[4 * q + half].0));
                let b = instruction!(_mm512_castps_pd(pairs[4 * q + 2 + half].0));
                let low = instruction!(_mm512_unpacklo_pd(a, b));
                let high = instruction!(_mm512_unpackhi_pd(a, b));
                fours[4 * q + 2 * half] = Self(instruction!(_mm512_castpd_ps(low)));
                fours[4 * q + 2 * half + 1] = Self(instruction!(_mm512_castpd_ps(high)));
            }
        }
        for c in 0..4 {
            let (a, b) = (fours[c].0, fours[4 + c].0);
            let (d, e) = (fours[8 + c].0, fours[12 + c].0);
            let ab_even = instruction!(_mm512_shuffle_f32x4::<0x88>(a, b));
            let ab_odd = instruction!(_mm512_shuffle_f32x4::<0xdd>(a, b));
            let de_even = instruction!(_mm512_shuffle_f32x4::<0x88>(d, e));
            let de_odd = instruction!(_mm512_shuffle_f32x4::<0xdd>(d, e));
            rows[c] = Self(instruction!(_mm512_shuffle_f32x4::<0x88>(ab_even, de_even)));
            rows[4 + c] = Self(instruction!(_mm512_shuffle_f32x4::<0x88>(ab_odd, de_odd)));
            rows[8 + c] = Self(instruction!(_mm512_shuffle_f32x4::<0xdd>(ab_even, de_even)));
            rows[12 + c] = Self(instruction!(_mm512_shuffle_f32x4::<0xdd>(ab_odd, de_odd)));
        }
    }

    fn call<K: Kernel<f32>>(kernel: K) -> K::Output {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe { simd::avx512(kernel) }
    }
}

impl Lanes for Avx2 {
    type Real = f32;
    type Mask = (__m256, __m256);
    // 12 registers of sums, 2 of weights and 1 number: 15 of 16.
    const ROWS: usize = 6;
    const GROUP: usize = 1;

    #[inline(always)]
    fn load(block: &Block<f32>) -> Self {
        let at = block.0.as_ptr();
        // SAFETY: sixteen numbers are there to be read, at an address that is a multiple of 64.
        unsafe { Self(_mm256_load_ps(at), _mm256_load_ps(at.add(8))) }
    }

    #[inline(always)]
    fn store(self, block: &mut Block<f32>) {
        let at = block.0.as_mut_ptr();
        // SAFETY: there is room for sixteen numbers, at an address that is a multiple of 64.
        unsafe {
            _mm256_store_ps(at, self.0);
            _mm256_store_ps(at.add(8), self.1);
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        let x = instruction!(_mm256_set1_ps(x));
        Self(x, x)
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        Self(
            instruction!(_mm256_fmadd_ps(self.0, factor.0, addend.0)),
            instruction!(_mm256_fmadd_ps(self.1, factor.1, addend.1)),
        )
    }

    #[inline(always)]
    fn fnma(self, factor: Self, addend: Self) -> Self {
        Self(
            instruction!(_mm256_fnmadd_ps(self.0, factor.0, addend.0)),
            instruction!(_mm256_fnmadd_ps(self.1, factor.1, addend.1)),
        )
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // Of a NaN the instruction returns its second operand.
        let zero = instruction!(_mm256_setzero_ps());
        Self(
            instruction!(_mm256_max_ps(zero, self.0)),
            instruction!(_mm256_max_ps(zero, self.1)),
        )
    }

    #[inline(always)]
    fn positive(self) -> Self::Mask {
        let zero = instruction!(_mm256_setzero_ps());
        (
            instruction!(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, zero)),
            instruction!(_mm256_cmp_ps::<_CMP_GT_OQ>(self.1, zero)),
        )
    }

    #[inline(always)]
    fn beaten_by(self, other: Self) -> Self::Mask {
        (beaten_by(self.0, other.0), beaten_by(self.1, other.1))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(
            instruction!(_mm256_blendv_ps(no.0, yes.0, mask.0)),
            instruction!(_mm256_blendv_ps(no.1, yes.1, mask.1)),
        )
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let zero = instruction!(_mm256_setzero_ps());
        let mut quarters = [[zero; 8]; 4];
        for i in 0..8 {
            quarters[0][i] = rows[i].0;
            quarters[1][i] = rows[i].1;
            quarters[2][i] = rows[8 + i].0;
            quarters[3][i] = rows[8 + i].1;
        }
        let left_top = eight_by_eight(quarters[0]);
        let right_top = eight_by_eight(quarters[1]);
        let left_bottom = eight_by_eight(quarters[2]);
        let right_bottom = eight_by_eight(quarters[3]);
        for i in 0..8 {
            rows[i] = Self(left_top[i], left_bottom[i]);
            rows[8 + i] = Self(right_top[i], right_bottom[i]);
        }
    }

    fn call<K: Kernel<f32>>(kernel: K) -> K::Output {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe { simd::avx2(kernel) }
    }
}

#[inline(always)]
fn beaten_by(a: __m256, b: __m256) -> __m256 {
    let not_below = instruction!(_mm256_cmp_ps::<_CMP_NLE_UQ>(b, a));
    let a_is_number = instruction!(_mm256_cmp_ps::<_CMP_ORD_Q>(a, a));
    instruction!(_mm256_and_ps(not_below, a_is_number))
}

/// The transpose of eight rows of eight.
#[inline(always)]
fn eight_by_eight(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i] = instruction!(_mm256_unpacklo_ps(a, b));
        pairs[2 * i + 1] = instruction!(_mm256_unpackhi_ps(a, b));
    }
    let mut fours = pairs;
    for q in 0..2 {
        for half in 0..2 {
            let (a, b) = (pairs[4 * q + half], pairs[4 * q + 2 + half]);
            fours[4 * q + 2 * half] = instruction!(_mm256_shuffle_ps::<0x44>(a, b));
            fours[4 * q + 2 * half + 1] = instruction!(_mm256_shuffle_ps::<0xee>(a, b));
        }
    }
    let mut columns = fours;
    for c in 0..4 {
        let (a, b) = (fours[c], fours[4 + c]);
        columns[c] = instruction!(_mm256_permute2f128_ps::<0x20>(a, b));
        columns[4 + c] = instruction!(_mm256_permute2f128_ps::<0x31>(a, b));
    }
    columns
}
