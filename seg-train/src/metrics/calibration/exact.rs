//! Sums that do not depend on the order of their parts.

use std::ops::AddAssign;

/// A sum in fixed point, in steps of 2⁻⁶⁰.
///
/// Integers add up to the same bits in whatever order, so a data set that is measured in parts and merged gives the very
/// figures of one that is measured in one go; sums of f64 would differ in their last digits. What is added is cut to the
/// step, 8.7e-19, which loses nothing of an f32 of at least 2⁻³⁷; the sum may grow to 2⁶⁷, more than there are pixels.
///
/// ```
/// use seg_train::metrics::calibration::Exact;
/// let sum = |values: [f64; 3]| values.into_iter().collect::<Exact>().value();
/// assert_eq!(sum([0.1, 0.2, 0.3]).to_bits(), sum([0.3, 0.2, 0.1]).to_bits());
/// assert_ne!(0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact(i128);

impl Exact {
    const STEPS: f64 = (1_u64 << 60) as f64;

    /// Adds a value; not a number counts as zero.
    pub fn add(&mut self, value: f64) {
        let steps = value * Self::STEPS;
        // What a processor converts at once, unlike 128 bits, and all that a pixel is.
        self.0 += if value.abs() < 8.0 {
            i128::from(steps as i64)
        } else {
            steps as i128
        };
    }

    /// The sum, rounded once.
    pub fn value(self) -> f64 {
        self.0 as f64 / Self::STEPS
    }
}

impl AddAssign for Exact {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl FromIterator<f64> for Exact {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Self::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_from_a_billionth_of_a_hundredth_are_held_to_the_last_bit() {
        for value in [2_f64.powi(-37), f64::from(1e-11_f32), f64::from(0.1_f32)] {
            assert_eq!(Exact::from_iter([value]).value(), value);
            assert_eq!(Exact::from_iter([-value]).value(), -value);
        }
        for value in [7.75, 8.0, -8.0, 1e9 + 0.5, -1e15] {
            assert_eq!(Exact::from_iter([value, value, -value]).value(), value);
        }
        assert_eq!(Exact::from_iter([f64::NAN, 0.5]).value(), 0.5);
    }

    #[test]
    fn as_many_pixels_as_ten_thousand_large_images_have_do_not_overflow() {
        let mut sum = Exact::from_iter([0.75]);
        for _ in 0..40 {
            sum += sum;
        }
        assert_eq!(sum.value(), 0.75 * 2_f64.powi(40));
    }
}
