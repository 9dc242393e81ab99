//! Fixed point, so that a sum over directions is exact and has no order.
//!
//! ```text
//! c_s = round(a_s · 2¹⁸)        q_i(s) = round(z_i(s) · 2¹⁹)        S_i = Σ_s c_s q_i(s)  in 64-bit integers
//! w_i = w₀_i + unit · 2⁻³⁷ · S_i                                    in binary64, then binary32
//! ```
//!
//! Range: `|z| ≤ 6.67`, so `|q| < 2²²`; states with `Σ_s |c_s| > 2⁴⁰`, that is `Σ |a_s| > 2²² = 4,194,304`, are refused. So
//! `|S| < 2⁶²` whatever the order of additions, and nothing wraps. Error: `a` is off by at most 2⁻¹⁹ and `z` by 2⁻²⁰, which
//! for `K` seeds and slopes of size `a` puts a weight off by about `unit · √K (2⁻¹⁹ + 2⁻²⁰ a)`: with slopes of 10, a part in a
//! million of what the weight moved by.

use super::ScalarsError;

/// Binary places of a coefficient.
const PLACES: i32 = 18;
/// Binary places of a direction's element.
const Z_PLACES: i32 = 19;

/// The step of a coefficient in fixed point, 2⁻¹⁸.
pub const RESOLUTION: f64 = 1.0 / (1 << PLACES) as f64;
/// Magnitudes of all coefficients together, at most.
pub const LARGEST: f32 = (1 << 22) as f32;
/// The same in fixed point.
pub(super) const MOST: f64 = (1_u64 << 40) as f64;
/// What a direction is multiplied by to be rounded; a power of two, so the product is exact.
pub(super) const Z_SCALE: f32 = (1 << Z_PLACES) as f32;
/// One of `S`, over `unit`.
pub(super) const STEP: f64 = RESOLUTION / (1 << Z_PLACES) as f64;

/// A coefficient in fixed point.
pub(super) fn coefficient(a: f32) -> Result<i64, ScalarsError> {
    // false for NaN
    if a.abs() <= LARGEST {
        return Ok((f64::from(a) / RESOLUTION).round_ties_even() as i64);
    }
    Err(ScalarsError::Coefficient { found: a })
}

/// 1.5 · 2²³: a binary32 of magnitude up to 2²² added to it is rounded to an integer, to even on ties, in its low bits.
const MAGIC: f32 = 12_582_912.0;

/// `z · 2¹⁹` rounded. Two operations that every instruction set does in lanes; `round_ties_even` calls a function on most.
#[inline(always)]
pub(super) fn element(z: f32) -> i64 {
    i64::from((z + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32)
}

/// `sums[i] += c · round(z[i])` for `z` multiplied by [`Z_SCALE`]. Wraps; see above for why it never does.
pub(super) fn accumulate(sums: &mut [i64], c: i64, z: &[f32]) {
    for (s, z) in sums.iter_mut().zip(z) {
        *s = s.wrapping_add(c.wrapping_mul(element(*z)));
    }
}

/// `Σ_i round(z[i]) x[i]`, in order, for `z` multiplied by [`Z_SCALE`]; the sum is too.
pub(super) fn project(z: &[f32], x: &[f32]) -> f64 {
    z.iter().zip(x).map(|(z, x)| element(*z) as f64 * f64::from(*x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for z in [0.0_f32, 0.5, 1.5, 2.5, -0.5, -1.5, 3.49e6, -3.49e6, 1e-9, 7.25, -123.75] {
            assert_eq!(element(z), z.round_ties_even() as i64, "{z}");
        }
        let largest = 6.67 * Z_SCALE;
        assert_eq!(element(largest), largest.round_ties_even() as i64);
        assert!(largest < (1 << 22) as f32);
    }

    #[test]
    fn coefficients_are_kept_to_their_resolution_and_bounded() {
        for a in [0.0_f32, 1.0, -3.25, 1e-7, 812.337, -LARGEST] {
            let back = coefficient(a).unwrap() as f64 * RESOLUTION;
            assert!((back - f64::from(a)).abs() <= 0.5 * RESOLUTION, "{a}");
        }
        for a in [f32::NAN, f32::INFINITY, -2.0 * LARGEST] {
            assert!(matches!(coefficient(a), Err(ScalarsError::Coefficient { .. })), "{a}");
        }
        assert_eq!(f64::from(LARGEST) / RESOLUTION, MOST);
    }
}
