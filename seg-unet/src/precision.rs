//! In which numbers a GPU computes the network.

use std::{fmt, str::FromStr};

use candle_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The numbers that feature maps are kept in and multiplied as, on a GPU. Weights, their gradients, sums and logits are
/// f32 in all of them; the CPU always computes as [`Precision::F32`].
///
/// ```
/// use seg_unet::Precision;
/// let precision: Precision = "bf16".parse()?;
/// assert_eq!((precision, precision.to_string().as_str()), (Precision::Bf16, "bf16"));
/// assert_eq!(Precision::default(), Precision::F32);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Maps and products in f32: 24 bits.
    #[default]
    F32,
    /// Maps in f32, products of numbers rounded to 11 bits (TF32), added up in f32.
    Tf32,
    /// Maps in bfloat16, products of those (8 bits), added up in f32.
    Bf16,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];

    /// Its name: `f32`, `tf32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|precision| precision.name() == name);
        found.ok_or_else(|| {
            Error::Msg(format!(
                "unknown precision `{}`; expected f32, tf32 or bf16",
                name.escape_debug()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_another_is_refused() {
        for precision in Precision::ALL {
            assert_eq!(
                precision.to_string().parse::<Precision>().unwrap(),
                precision
            );
        }
        assert_eq!(
            "fp16".parse::<Precision>().unwrap_err().to_string(),
            "unknown precision `fp16`; expected f32, tf32 or bf16"
        );
    }
}
