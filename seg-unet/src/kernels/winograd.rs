//! Winograd's minimal filtering: a 3-tap correlation of a short tile with fewer products.
//!
//! ```text
//! y = Aᵀ [(G g) ⊙ (Bᵀ d)]      in two dimensions  Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A
//! ```
//!
//! for a tile d of N = M + 2 inputs, a filter g of 3 taps and M outputs y: N products instead of 3 M. The matrices come
//! from polynomials evaluated at N − 1 points and at infinity (Toom, Cook; Lavin and Gray 2016). The filter's gradient
//! is the adjoint, with the same number of products: ∂g = Gᵀ [(Bᵀ d) ⊙ (A ∂y)].
//!
//! How much of f32's precision is left depends on the points: Barabasz et al. 2020.

use candle_core::WithDType as _;

use super::lanes::Lanes;

/// A tile's transforms in one dimension. Of the arrays the first `N`, or `M`, elements count.
pub(crate) trait Tile: Copy + Send + Sync {
    /// Outputs.
    const M: usize;
    /// Inputs, and products.
    const N: usize;

    /// Bᵀ d
    fn input<L: Lanes>(d: [L; 6]) -> [L; 6];
    /// G g
    fn filter<L: Lanes>(g: [L; 3]) -> [L; 6];
    /// Aᵀ m
    fn output<L: Lanes>(m: [L; 6]) -> [L; 4];
    /// A y, the adjoint of [`Self::output`].
    fn output_adjoint<L: Lanes>(y: [L; 4]) -> [L; 6];
    /// Gᵀ u, the adjoint of [`Self::filter`].
    fn filter_adjoint<L: Lanes>(u: [L; 6]) -> [L; 3];
}

#[inline(always)]
fn number<L: Lanes>(x: f64) -> L {
    L::splat(L::Real::from_f64(x))
}

/// F(2, 3) at 0, ±1 and infinity: in two dimensions 16 products instead of 36.
#[derive(Clone, Copy)]
pub(crate) struct Two;

impl Tile for Two {
    const M: usize = 2;
    const N: usize = 4;

    #[inline(always)]
    fn input<L: Lanes>(d: [L; 6]) -> [L; 6] {
        [
            d[0] - d[2],
            d[1] + d[2],
            d[2] - d[1],
            d[3] - d[1],
            d[4],
            d[5],
        ]
    }

    #[inline(always)]
    fn filter<L: Lanes>(g: [L; 3]) -> [L; 6] {
        let even = number::<L>(0.5) * (g[0] + g[2]);
        let odd = number::<L>(0.5) * g[1];
        [g[0], even + odd, even - odd, g[2], g[0], g[0]]
    }

    #[inline(always)]
    fn output<L: Lanes>(m: [L; 6]) -> [L; 4] {
        [m[0] + (m[1] + m[2]), (m[1] - m[2]) + m[3], m[4], m[5]]
    }

    #[inline(always)]
    fn output_adjoint<L: Lanes>(y: [L; 4]) -> [L; 6] {
        [y[0], y[0] + y[1], y[0] - y[1], y[1], y[2], y[3]]
    }

    #[inline(always)]
    fn filter_adjoint<L: Lanes>(u: [L; 6]) -> [L; 3] {
        let half = number::<L>(0.5);
        let sum = half * (u[1] + u[2]);
        [u[0] + sum, half * (u[1] - u[2]), sum + u[3]]
    }
}

/// F(4, 3) at 0, ±a, ±b and infinity: in two dimensions 36 products instead of 144.
///
/// With a = 3/4 and b = 3/2 an f32 result has half the error that the usual 1 and 2 give.
#[derive(Clone, Copy)]
pub(crate) struct Four;

impl Four {
    const A: f64 = 0.75;
    const B: f64 = 1.5;
    const A2: f64 = Self::A * Self::A;
    const B2: f64 = Self::B * Self::B;
    /// What the filter is divided by at 0, ±a and ±b.
    const AT_0: f64 = Self::A2 * Self::B2;
    const AT_A: f64 = 2.0 * Self::A2 * (Self::A2 - Self::B2);
    const AT_B: f64 = 2.0 * Self::B2 * (Self::B2 - Self::A2);
}

impl Tile for Four {
    const M: usize = 4;
    const N: usize = 6;

    #[inline(always)]
    fn input<L: Lanes>(d: [L; 6]) -> [L; 6] {
        let (a, b) = (number::<L>(Self::A), number::<L>(Self::B));
        let (a2, b2) = (number::<L>(Self::A2), number::<L>(Self::B2));
        let (sum, product) = (number::<L>(Self::A2 + Self::B2), number::<L>(Self::AT_0));
        // At ±a: x⁴ ± a x³ − b² x² ∓ a b² x, and so at ±b.
        let (even_a, odd_a) = (d[2].fnma(b2, d[4]), d[1].fnma(b2, d[3]));
        let (even_b, odd_b) = (d[2].fnma(a2, d[4]), d[1].fnma(a2, d[3]));
        [
            d[0].fma(product, d[2].fnma(sum, d[4])),
            odd_a.fma(a, even_a),
            odd_a.fnma(a, even_a),
            odd_b.fma(b, even_b),
            odd_b.fnma(b, even_b),
            d[1].fma(product, d[3].fnma(sum, d[5])),
        ]
    }

    #[inline(always)]
    fn filter<L: Lanes>(g: [L; 3]) -> [L; 6] {
        let at_a = number::<L>(1.0 / Self::AT_A);
        let at_b = number::<L>(1.0 / Self::AT_B);
        let even_a = at_a * g[2].fma(number(Self::A2), g[0]);
        let even_b = at_b * g[2].fma(number(Self::B2), g[0]);
        let odd_a = number::<L>(Self::A / Self::AT_A) * g[1];
        let odd_b = number::<L>(Self::B / Self::AT_B) * g[1];
        [
            number::<L>(1.0 / Self::AT_0) * g[0],
            even_a + odd_a,
            even_a - odd_a,
            even_b + odd_b,
            even_b - odd_b,
            g[2],
        ]
    }

    #[inline(always)]
    fn output<L: Lanes>(m: [L; 6]) -> [L; 4] {
        let (a, b) = (number::<L>(Self::A), number::<L>(Self::B));
        let (a2, b2) = (number::<L>(Self::A2), number::<L>(Self::B2));
        let (sum_a, sum_b) = (m[1] + m[2], m[3] + m[4]);
        let (odd_a, odd_b) = (a * (m[1] - m[2]), b * (m[3] - m[4]));
        [
            m[0] + (sum_a + sum_b),
            odd_a + odd_b,
            sum_b.fma(b2, a2 * sum_a),
            odd_b.fma(b2, odd_a.fma(a2, m[5])),
        ]
    }

    #[inline(always)]
    fn output_adjoint<L: Lanes>(y: [L; 4]) -> [L; 6] {
        let (a, b) = (number::<L>(Self::A), number::<L>(Self::B));
        let (a2, b2) = (number::<L>(Self::A2), number::<L>(Self::B2));
        let (even_a, odd_a) = (y[2].fma(a2, y[0]), y[3].fma(a2, y[1]));
        let (even_b, odd_b) = (y[2].fma(b2, y[0]), y[3].fma(b2, y[1]));
        [
            y[0],
            odd_a.fma(a, even_a),
            odd_a.fnma(a, even_a),
            odd_b.fma(b, even_b),
            odd_b.fnma(b, even_b),
            y[3],
        ]
    }

    #[inline(always)]
    fn filter_adjoint<L: Lanes>(u: [L; 6]) -> [L; 3] {
        let sum_a = number::<L>(1.0 / Self::AT_A) * (u[1] + u[2]);
        let sum_b = number::<L>(1.0 / Self::AT_B) * (u[3] + u[4]);
        let odd_a = number::<L>(Self::A / Self::AT_A) * (u[1] - u[2]);
        let odd_b = number::<L>(Self::B / Self::AT_B) * (u[3] - u[4]);
        let (a2, b2) = (number::<L>(Self::A2), number::<L>(Self::B2));
        [
            u[0].fma(number(1.0 / Self::AT_0), sum_a + sum_b),
            odd_a + odd_b,
            sum_a.fma(a2, sum_b.fma(b2, u[5])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::{LANES, Portable};

    type Lane = Portable<f64>;

    fn of(values: &[f64], length: usize) -> Vec<Lane> {
        let mut lanes: Vec<_> = values.iter().map(|&x| Lane::splat(x)).collect();
        lanes.resize(length, Lane::zero());
        lanes
    }

    fn value(lane: Lane) -> f64 {
        let block = lane.to_block();
        assert_eq!(block.0, [block.0[0]; LANES]);
        block.0[0]
    }

    fn six(values: &[f64]) -> [Lane; 6] {
        of(values, 6).try_into().ok().unwrap()
    }

    fn correlates<T: Tile>() {
        let d = [0.3, -1.2, 0.7, 2.1, -0.4, 1.9];
        let g = [0.5, -0.8, 1.7];
        let products: Vec<f64> = T::input(six(&d[..T::N]))
            .into_iter()
            .zip(T::filter(of(&g, 3).try_into().ok().unwrap()))
            .take(T::N)
            .map(|(a, b)| value(a) * value(b))
            .collect();
        let y = T::output(six(&products));
        for i in 0..T::M {
            let expected: f64 = (0..3).map(|j| d[i + j] * g[j]).sum();
            assert!((value(y[i]) - expected).abs() < 1e-14, "{i}");
        }
    }

    /// ⟨T x, y⟩ = ⟨x, Tᵀ y⟩ for every pair of unit vectors.
    fn has_adjoints<T: Tile>() {
        for i in 0..T::N {
            let unit = |at: usize, n: usize| {
                let mut x = vec![0.0; n];
                x[at] = 1.0;
                x
            };
            let m = six(&unit(i, 6));
            for j in 0..T::M {
                let y = of(&unit(j, 4), 4).try_into().ok().unwrap();
                assert_eq!(value(T::output(m)[j]), value(T::output_adjoint(y)[i]));
            }
            for j in 0..3 {
                let g = of(&unit(j, 3), 3).try_into().ok().unwrap();
                let (a, b) = (value(T::filter(g)[i]), value(T::filter_adjoint(m)[j]));
                assert!((a - b).abs() < 1e-15, "{i} {j}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_tile_is_correlated_with_the_filter() {
        correlates::<Two>();
        correlates::<Four>();
    }

    #[test]
    fn the_adjoints_are_adjoint() {
        has_adjoints::<Two>();
        has_adjoints::<Four>();
    }
}
