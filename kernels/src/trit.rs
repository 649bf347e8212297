//! One ternary weight and its two-bit code.
//!
//! A code is the weight plus one: 0 is -1, 1 is 0, 2 is +1. Code 3 is never written by a packer. Readers of files
//! must refuse it (see [`first_invalid`]); kernels would treat it as +2.

/// The code of weight zero, used for padding.
pub const ZERO: u8 = 1;

/// The two-bit code of a weight in {-1, 0, +1}.
///
/// # Panics
/// If `weight` is not ternary: packing is only ever asked for weights that were made ternary before.
#[inline(always)]
pub const fn code(weight: i8) -> u8 {
    assert!(weight >= -1 && weight <= 1, "a ternary weight is -1, 0 or +1");
    (weight + 1) as u8
}

/// The weight that a two-bit code stands for; only the low two bits are read.
#[inline(always)]
pub const fn weight(code: u8) -> i8 {
    (code & 3) as i8 - 1
}

/// How many of `weights` are not zero.
pub fn nonzeros(weights: &[i8]) -> usize {
    weights.iter().map(|weight| usize::from(*weight != 0)).sum()
}

/// Adds one to each of `counts` whose weight is not zero, as many as both hold.
pub fn tally_nonzeros(weights: &[i8], counts: &mut [u32]) {
    for (count, weight) in counts.iter_mut().zip(weights) {
        *count += u32::from(*weight != 0);
    }
}

/// Index of the first byte that holds a code of 3 in any of its four two-bit fields, if there is one.
pub fn first_invalid(packed: &[u8]) -> Option<usize> {
    // Both bits of a field set: (b & b >> 1) has the field's low bit set.
    const LOW_BITS: u64 = 0x5555_5555_5555_5555;
    let (words, tail) = packed.as_chunks::<8>();
    let bad = words.iter().position(|w| {
        let w = u64::from_le_bytes(*w);
        w & (w >> 1) & LOW_BITS != 0
    });
    let invalid = |b: &u8| b & (b >> 1) & 0x55 != 0;
    match bad {
        Some(at) => words[at].iter().position(invalid).map(|byte| at * 8 + byte),
        None => tail.iter().position(invalid).map(|byte| words.len() * 8 + byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for w in -1..=1 {
            assert_eq!(weight(code(w)), w);
        }
    }

    #[test]
    fn what_is_not_zero_is_counted() {
        let weights = [0, 1, -1, 0, -1];
        let mut counts = [7, 7, 7, 7, 7];
        tally_nonzeros(&weights, &mut counts);
        assert_eq!((nonzeros(&weights), counts), (3, [7, 8, 8, 7, 8]));
    }

    #[test]
    fn the_first_invalid_code_is_found_in_every_field() {
        for length in [0usize, 1, 7, 8, 9, 31, 64] {
            for at in 0..length {
                for field in 0..4 {
                    let mut bytes = [0b10_01_00_10u8; 64];
                    bytes[at] |= 3 << (2 * field);
                    assert_eq!(first_invalid(&bytes[..length]), Some(at));
                }
            }
            assert_eq!(first_invalid(&[0b10_10_10_10u8; 64][..length]), None);
        }
    }
}
