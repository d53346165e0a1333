//! Lanes of x86's vector registers.
//!
//! The rule of this module: a value of these types is only made below [`super::simd`]'s entry points, which are called
//! if the processor has the instructions. That is the safety of every block here that names no pointer; the compiler
//! does not see it, so nothing else may name the types.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports)] // of instructions, which have long names of their own

use std::{
    arch::x86_64::*,
    mem::MaybeUninit,
    ops::{Add, Div, Mul, Neg, Sub},
};

use super::{
    lanes::Lanes,
    math::{self, Bits, SQRT_HALF},
};

/// Sixteen f32 in a register of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct F32x16(__m512);

/// Eight f32 in a register of AVX2.
#[derive(Clone, Copy)]
pub(super) struct F32x8(__m256);

/// One instruction on lanes.
macro_rules! instruction {
    ($name:ident($($argument:expr),*)) => {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { $name($($argument),*) }
    };
}

macro_rules! operator {
    ($lanes:ty, $operator:ident, $method:ident, $instruction:ident) => {
        impl $operator for $lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(instruction!($instruction(self.0, other.0)))
            }
        }
    };
}

operator!(F32x16, Add, add, _mm512_add_ps);
operator!(F32x16, Sub, sub, _mm512_sub_ps);
operator!(F32x16, Mul, mul, _mm512_mul_ps);
operator!(F32x16, Div, div, _mm512_div_ps);
operator!(F32x8, Add, add, _mm256_add_ps);
operator!(F32x8, Sub, sub, _mm256_sub_ps);
operator!(F32x8, Mul, mul, _mm256_mul_ps);
operator!(F32x8, Div, div, _mm256_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(instruction!(_mm512_xor_ps(self.0, Self::splat(-0.0).0)))
    }
}

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(instruction!(_mm256_xor_ps(self.0, Self::splat(-0.0).0)))
    }
}

impl Lanes for F32x16 {
    type Real = f32;
    type Mask = __mmask16;
    const COUNT: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(instruction!(_mm512_set1_ps(x)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..16];
        // SAFETY: sixteen numbers are there to be read.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [MaybeUninit<f32>]) {
        let to = &mut to[..16];
        // SAFETY: there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(instruction!(_mm512_fmadd_ps(self.0, factor.0, term.0)))
    }

    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        // Of a NaN the instruction returns its second operand.
        Self(instruction!(_mm512_max_ps(least.0, self.0)))
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        Self(instruction!(_mm512_min_ps(most.0, self.0)))
    }

    #[inline(always)]
    fn reciprocal(self) -> Self {
        // Fourteen bits, then twice as many by a step of Newton's: a third of a division's time.
        let near = Self(instruction!(_mm512_rcp14_ps(self.0)));
        let error = Self(instruction!(_mm512_fnmadd_ps(
            self.0,
            near.0,
            Self::one().0
        )));
        near.mul_add(error, near)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(instruction!(_mm512_andnot_ps(Self::splat(-0.0).0, self.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(instruction!(_mm512_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn exp(self) -> Self {
        math::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        math::ln(self)
    }

    #[inline(always)]
    fn equals(self, other: Self) -> __mmask16 {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn is_above(self, other: Self) -> __mmask16 {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(instruction!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }

    #[inline(always)]
    fn add_where(self, mask: __mmask16, term: Self) -> Self {
        Self(instruction!(_mm512_mask_add_ps(
            self.0, mask, self.0, term.0
        )))
    }

    #[inline(always)]
    fn add_unless(self, mask: __mmask16, term: Self) -> Self {
        self.add_where(!mask, term)
    }

    #[inline(always)]
    fn sum(self) -> f64 {
        let mut lanes = [MaybeUninit::uninit(); 16];
        self.store(&mut lanes);
        // SAFETY: `store` has written all of them.
        lanes
            .iter()
            .map(|x| f64::from(unsafe { x.assume_init() }))
            .sum()
    }
}

impl Bits for F32x16 {
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            let power = _mm512_add_epi32(shifted, _mm512_set1_epi32(127 << 23));
            Self(_mm512_castsi512_ps(power))
        }
    }

    #[inline(always)]
    fn exponent_and_mantissa(self) -> (Self, Self) {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let above = _mm512_sub_epi32(bits, _mm512_set1_epi32(SQRT_HALF as i32));
            let exponent = _mm512_srai_epi32::<23>(above);
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (
                Self(_mm512_cvtepi32_ps(exponent)),
                Self(_mm512_castsi512_ps(mantissa)),
            )
        }
    }
}

impl Lanes for F32x8 {
    type Real = f32;
    type Mask = __m256;
    const COUNT: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(instruction!(_mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..8];
        // SAFETY: eight numbers are there to be read.
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [MaybeUninit<f32>]) {
        let to = &mut to[..8];
        // SAFETY: there is room for eight numbers.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(instruction!(_mm256_fmadd_ps(self.0, factor.0, term.0)))
    }

    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        // Of a NaN the instruction returns its second operand.
        Self(instruction!(_mm256_max_ps(least.0, self.0)))
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        Self(instruction!(_mm256_min_ps(most.0, self.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(instruction!(_mm256_andnot_ps(Self::splat(-0.0).0, self.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(instruction!(_mm256_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn exp(self) -> Self {
        math::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        math::ln(self)
    }

    #[inline(always)]
    fn equals(self, other: Self) -> __m256 {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn is_above(self, other: Self) -> __m256 {
        // SAFETY: the processor has the instruction, see the head of this file.
        unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        Self(instruction!(_mm256_blendv_ps(no.0, yes.0, mask)))
    }

    #[inline(always)]
    fn add_where(self, mask: __m256, term: Self) -> Self {
        self + Self(instruction!(_mm256_and_ps(mask, term.0)))
    }

    #[inline(always)]
    fn add_unless(self, mask: __m256, term: Self) -> Self {
        self + Self(instruction!(_mm256_andnot_ps(mask, term.0)))
    }

    #[inline(always)]
    fn sum(self) -> f64 {
        let mut lanes = [MaybeUninit::uninit(); 8];
        self.store(&mut lanes);
        // SAFETY: `store` has written all of them.
        lanes
            .iter()
            .map(|x| f64::from(unsafe { x.assume_init() }))
            .sum()
    }
}

impl Bits for F32x8 {
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
            let power = _mm256_add_epi32(shifted, _mm256_set1_epi32(127 << 23));
            Self(_mm256_castsi256_ps(power))
        }
    }

    #[inline(always)]
    fn exponent_and_mantissa(self) -> (Self, Self) {
        // SAFETY: the processor has the instructions, see the head of this file.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let above = _mm256_sub_epi32(bits, _mm256_set1_epi32(SQRT_HALF as i32));
            let exponent = _mm256_srai_epi32::<23>(above);
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (
                Self(_mm256_cvtepi32_ps(exponent)),
                Self(_mm256_castsi256_ps(mantissa)),
            )
        }
    }
}
