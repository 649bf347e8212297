//! Quantising one token's activations to int8 by their largest magnitude.
//!
//! W1.58A8 as trained (arXiv 2402.17764, section 2): `s = 127 / max(|x|max, 1e-5)`,
//! `q = clamp(round_half_even(x s), -128, 127)`; a product with ternary weights of scale `w` is then
//! `sum * (w / s)`, with `sum` an exact integer.

use crate::set::KernelSet;

/// The smallest maximum that is divided by, so that an all-zero token has a finite scale.
pub const MIN_ABSMAX: f32 = 1e-5;

/// The scale of a token whose largest magnitude is `absmax`.
#[inline(always)]
pub fn scale(absmax: f32) -> f32 {
    // As a comparison, so that NaN takes the floor.
    127.0 / if absmax > MIN_ABSMAX { absmax } else { MIN_ABSMAX }
}

/// One value quantised with scale `s`; NaN becomes 0.
#[inline(always)]
pub fn quantize_value(x: f32, s: f32) -> i8 {
    /// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let v = (x * s).clamp(-128.0, 127.0);
    ((v + ROUND) - ROUND) as i8
}

/// Quantises one token `x: [k]` into `q: [k]` with the operations of `set`; returns the scale.
///
/// # Panics
/// If the lengths differ.
pub fn quantize(set: &KernelSet, x: &[f32], q: &mut [i8]) -> f32 {
    let s = scale(set.absmax(x));
    set.quantize(x, s, q);
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_round_to_even() {
        for (x, q) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126), (-127.5, -128)] {
            assert_eq!(quantize_value(x, 1.0), q, "{x}");
        }
    }

    #[test]
    fn wild_values_are_clamped_and_nan_is_zero() {
        assert_eq!(quantize_value(1e30, 1.0), 127);
        assert_eq!(quantize_value(-1e30, 1.0), -128);
        assert_eq!(quantize_value(f32::NAN, 1.0), 0);
    }

    #[test]
    fn a_token_of_zeros_has_a_finite_scale() {
        assert_eq!(scale(0.0), 127.0 / 1e-5);
        assert_eq!(scale(f32::NAN), 127.0 / 1e-5);
    }
}
