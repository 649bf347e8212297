//! A binary32 exponential without branches or tables, so that a softmax vectorises and is equal everywhere.

/// `e^x`, within 2 units in the last place for `x` in [-87, 88]; 0 below -87.33, infinity above 88.72, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is its Taylor polynomial of degree 7, whose remainder is below 6e-9.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    /// The upper bits of ln 2: `n * LN2_HIGH` is exact for the `n` that occur.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-88.0, 89.0);
    let rounded = clamped * core::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // The same n as an integer: it stands in the low bits of the significand. A conversion would do, but its saturation
    // keeps compilers from vectorising it. For NaN this is any number, and the product stays NaN.
    let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // Two factors, because 2^n alone leaves the normal range at both ends.
    let half = whole >> 1;
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(whole - half);
    if x < -87.33 {
        0.0
    } else if x > 88.72 {
        f32::INFINITY
    } else {
        y
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn error_is_under_two_units_in_the_last_place() {
        let (mut x, mut worst) = (-87.0f32, 0.0f64);
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
            x += 0.000_731;
        }
        assert!(worst < 2.0, "worst error {worst} ulp");
    }

    #[test]
    fn the_ends_are_as_documented() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
