//! Instruction sets: which the processor has, and a kernel run with the widest of them.

use std::sync::OnceLock;

use candle_core::{Result, bail};

use super::lanes::{Lanes, Scalar};
#[cfg(target_arch = "x86_64")]
use super::x86::{F32x8, F32x16};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionSet {
    Avx512,
    Avx2,
    Portable,
}

/// A computation that is written in [`Lanes`]. `run` must be `#[inline(always)]`, as all that it calls: only then is
/// it compiled for the instruction set.
pub(super) trait Kernel<R> {
    type Output;
    fn run<L: Lanes<Real = R>>(self) -> Self::Output;
}

/// The numbers for which there are kernels.
pub(super) trait Dispatch: super::lanes::Real {
    fn dispatch<K: Kernel<Self>>(isa: InstructionSet, kernel: K) -> K::Output;
}

impl Dispatch for f64 {
    fn dispatch<K: Kernel<Self>>(_: InstructionSet, kernel: K) -> K::Output {
        kernel.run::<Scalar<Self>>()
    }
}

impl Dispatch for f32 {
    #[allow(unsafe_code)]
    fn dispatch<K: Kernel<Self>>(isa: InstructionSet, kernel: K) -> K::Output {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `InstructionSet` other than `Portable` is only made if the processor has it.
            InstructionSet::Avx512 => unsafe { avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { avx2(kernel) },
            _ => kernel.run::<Scalar<Self>>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn avx512<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<F32x16>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<F32x8>()
}

impl InstructionSet {
    /// The widest one, or at most the one that `DICE_LOSSES_SIMD` names.
    pub(super) fn get() -> Result<Self> {
        static CHOSEN: OnceLock<Option<InstructionSet>> = OnceLock::new();
        let asked = || std::env::var("DICE_LOSSES_SIMD").ok();
        match CHOSEN.get_or_init(|| Self::at_most(asked().as_deref()).ok()) {
            Some(isa) => Ok(*isa),
            None => Self::at_most(asked().as_deref()),
        }
    }

    /// The widest one that the processor has, and that is no wider than the one asked for.
    fn at_most(asked: Option<&str>) -> Result<Self> {
        let widest = match asked {
            None | Some("avx512") => Self::Avx512,
            Some("avx2") => Self::Avx2,
            Some("portable") => Self::Portable,
            Some(other) => {
                bail!("the variable DICE_LOSSES_SIMD is avx512, avx2 or portable, found `{other}`")
            }
        };
        Ok([Self::Avx512, Self::Avx2, Self::Portable]
            .into_iter()
            .skip_while(|isa| *isa != widest)
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

    #[cfg(test)]
    pub(super) fn run<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        assert!(self.is_present());
        f32::dispatch(self, kernel)
    }
}

/// Every instruction set that the processor has.
#[cfg(test)]
pub(super) fn each_instruction_set() -> impl Iterator<Item = InstructionSet> {
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
        assert_eq!(
            InstructionSet::at_most(Some("portable")).unwrap(),
            InstructionSet::Portable
        );
        assert_eq!(
            InstructionSet::at_most(None).unwrap(),
            InstructionSet::at_most(Some("avx512")).unwrap()
        );
        let error = InstructionSet::at_most(Some("sse9"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error.lines().next().unwrap(),
            "the variable DICE_LOSSES_SIMD is avx512, avx2 or portable, found `sse9`"
        );
    }
}
