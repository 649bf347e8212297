//! binary16 and bfloat16 as `u16` bits, to and from binary32 (IEEE 754-2019, section 3.6).
//!
//! Branch-free, so that compilers vectorise them; back ends with conversion instructions return the same bits.

/// The value of binary16 `bits`, exact. NaN payloads are kept in the top bits.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Moving the exponent up by 112 is a multiplication, which also normalises subnormals.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 | magnitude } else { scaled };
    f32::from_bits(special | u32::from(bits & 0x8000) << 16)
}

/// The binary16 nearest to `value`, ties to even; finite values beyond the range become the largest finite one,
/// because a cached key of infinity would turn a whole answer into NaN.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    let sign = value.to_bits() >> 16 & 0x8000;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    // As a comparison of bits, so that NaN is clamped with the rest and put right at the end.
    let clamped = if magnitude < 0x477f_e000 { magnitude } else { 0x477f_e000 };
    // Below 2^-14: adding 0.5 leaves the subnormal's ten bits rounded to even at the end of the significand.
    let small = (f32::from_bits(clamped) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = clamped.wrapping_sub(0x3800_0000).wrapping_add(0xfff + (clamped >> 13 & 1)) >> 13;
    let finite = if clamped < 0x3880_0000 { small } else { normal };
    let endless = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let bits = if magnitude < 0x7f80_0000 { finite } else { endless };
    (sign | bits) as u16
}

/// The value of bfloat16 `bits`, exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of binary16, in binary64 arithmetic.
    fn by_definition(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        let power = |e: i32| f64::from_bits(((1023 + e) as u64) << 52);
        let magnitude = match exponent {
            0 => fraction * power(-24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * power(exponent - 25),
        };
        if bits & 0x8000 != 0 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_binary16_has_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (value, expected) = (f16_to_f32(bits), by_definition(bits));
            if expected.is_nan() {
                assert!(value.is_nan() && f16_to_f32(f32_to_f16(value)).is_nan());
            } else {
                assert_eq!(f64::from(value), expected, "{bits:04x}");
                assert_eq!(f32_to_f16(value), bits, "{bits:04x}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for bits in 0..0x7bffu16 {
            let (low, high) = (by_definition(bits), by_definition(bits + 1));
            let middle = ((low + high) / 2.0) as f32;
            assert_eq!(f32_to_f16(middle), bits + (bits & 1), "half way above {bits:04x}");
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() + 1)), bits + 1);
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() - 1)), bits);
        }
    }

    #[test]
    fn finite_values_stay_finite() {
        assert_eq!(f32_to_f16(1e30), 0x7bff);
        assert_eq!(f32_to_f16(-1e30), 0xfbff);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
    }
}
