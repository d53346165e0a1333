//! Instruction sets: which the processor has, and a kernel run with the widest of them.

use std::{fmt, sync::OnceLock};

use candle_core::{Result, bail};

use super::lanes::{Lanes, Portable, Real};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

const VARIABLE: &str = "SEG_UNET_SIMD";

/// An instruction set that the network's operations are compiled for. On one of them, equal input gives equal bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX-512: 512-bit registers, x86-64.
    Avx512,
    /// AVX2 with FMA: 256-bit registers, x86-64.
    Avx2,
    /// Plain Rust, for any processor.
    Portable,
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        })
    }
}

/// A computation that is written in [`Lanes`]. `run` must be `#[inline(always)]`, as all of it that computes with
/// them: only then is it compiled for the instruction set. What shares work out among threads goes through
/// [`Lanes::call`] for each part.
pub(crate) trait Kernel<R: Real> {
    type Output;
    fn run<L: Lanes<Real = R>>(self) -> Self::Output;
}

/// The numbers for which there are kernels.
///
/// An [`InstructionSet`] given to it must be one that [`InstructionSet::get`] gave, so nothing public may take one.
pub(crate) trait Dispatch: Real {
    fn dispatch<K: Kernel<Self>>(isa: InstructionSet, kernel: K) -> K::Output;
}

impl Dispatch for f64 {
    fn dispatch<K: Kernel<Self>>(_: InstructionSet, kernel: K) -> K::Output {
        kernel.run::<Portable<Self>>()
    }
}

impl Dispatch for f32 {
    #[allow(unsafe_code)]
    fn dispatch<K: Kernel<Self>>(isa: InstructionSet, kernel: K) -> K::Output {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `InstructionSet::get` chooses one, and one that the processor has.
            InstructionSet::Avx512 => unsafe { avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { avx2(kernel) },
            _ => kernel.run::<Portable<Self>>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn avx512<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

impl InstructionSet {
    /// The one that f32 is computed with: the widest that the processor has, or at most the one that the environment
    /// variable `SEG_UNET_SIMD` names.
    ///
    /// ```
    /// use seg_unet::InstructionSet;
    /// assert!(["avx512", "avx2", "portable"].contains(&InstructionSet::get()?.to_string().as_str()));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the variable names no instruction set.
    pub fn get() -> Result<Self> {
        static CHOSEN: OnceLock<Option<InstructionSet>> = OnceLock::new();
        let asked = || std::env::var(VARIABLE).ok();
        match CHOSEN.get_or_init(|| Self::at_most(asked().as_deref()).ok()) {
            Some(isa) => Ok(*isa),
            None => Self::at_most(asked().as_deref()),
        }
    }

    /// The widest one that the processor has, and that is no wider than the one asked for.
    fn at_most(asked: Option<&str>) -> Result<Self> {
        let all = [Self::Avx512, Self::Avx2, Self::Portable];
        let Some(widest) = all
            .iter()
            .position(|isa| asked.is_none_or(|asked| asked == isa.to_string()))
        else {
            bail!(
                "the variable {VARIABLE} is avx512, avx2 or portable, found `{}`",
                asked.unwrap_or_default()
            )
        };
        Ok(all[widest..]
            .iter()
            .copied()
            .find(|isa| isa.is_present())
            .unwrap_or(Self::Portable))
    }

    fn is_present(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// Every instruction set that the processor has.
#[cfg(test)]
pub(crate) fn each_instruction_set() -> impl Iterator<Item = InstructionSet> {
    [
        InstructionSet::Avx512,
        InstructionSet::Avx2,
        InstructionSet::Portable,
    ]
    .into_iter()
    .filter(|isa| isa.is_present())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_instructions_that_is_none_is_refused() {
        let portable = InstructionSet::at_most(Some("portable")).unwrap();
        assert_eq!(portable, InstructionSet::Portable);
        assert_eq!(
            InstructionSet::at_most(None).unwrap(),
            InstructionSet::at_most(Some("avx512")).unwrap()
        );
        let error = InstructionSet::at_most(Some("sse9")).unwrap_err();
        assert_eq!(
            error.to_string().lines().next().unwrap(),
            "the variable SEG_UNET_SIMD is avx512, avx2 or portable, found `sse9`"
        );
    }
}
