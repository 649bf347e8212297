//! Random weights: ternary codes with the share of zeros that trained models have, and small embeddings.

use tern_kernels::half::f32_to_f16;

use crate::random::Random;

/// Bytes made and written at once.
pub(super) const PIECE_BYTES: usize = 1 << 18;

/// The share of zero weights; BitNet 2B-4T has about 0.42. Kernels that skip zeros would otherwise be flattered.
pub const ZERO_SHARE: f64 = 0.42;

/// Code of a zero weight; 0 is -1 and 2 is +1 (GGUF I2_S).
const ZERO: u8 = 1;

/// All bytes of four legal codes, each as often among 65536 entries as it is likely, so that two random bytes become
/// four weights by one look.
pub(super) struct CodeTable(Vec<u8>);

impl CodeTable {
    pub fn new() -> Self {
        let share = |code: u8| if code == ZERO { ZERO_SHARE } else { (1.0 - ZERO_SHARE) / 2.0 };
        let mut table = Vec::with_capacity(1 << 16);
        let mut reached = 0.0;
        for codes in 0..81u32 {
            let code = |place: u32| (codes / 3u32.pow(place) % 3) as u8;
            let likely: f64 = (0..4).map(|place| share(code(place))).product();
            reached += likely;
            let byte = (0..4).fold(0, |byte, place| byte << 2 | code(place));
            table.resize((reached * 65_536.0).round() as usize, byte);
        }
        // The shares add up to one but for rounding.
        table.resize(1 << 16, ZERO * 0x55);
        CodeTable(table)
    }

    /// Appends `bytes` of codes.
    pub fn codes(&self, random: &mut Random, bytes: usize, out: &mut Vec<u8>) {
        for start in (0..bytes).step_by(4) {
            let bits = random.bits();
            let four = [0, 16, 32, 48].map(|shift| self.0[usize::from((bits >> shift) as u16)]);
            out.extend(&four[..(bytes - start).min(4)]);
        }
    }
}

/// Appends `bytes` of binary16 values in about -0.05 to 0.05.
pub(super) fn noise(random: &mut Random, bytes: usize, out: &mut Vec<u8>) {
    for _ in 0..bytes / 2 {
        out.extend(f32_to_f16(random.signed_unit() * 0.05).to_le_bytes());
    }
}

/// The scale that lets outputs of a matrix with `cols` columns have the size of its inputs.
pub(super) fn scale(cols: u64) -> f32 {
    (1.0 / ((1.0 - ZERO_SHARE) * cols as f64).sqrt()) as f32
}

/// The share of zero weights among packed `codes`.
pub fn zero_share(codes: &[u8]) -> f64 {
    let zeros = |byte: u8| (0..4).filter(|place| byte >> (2 * place) & 3 == ZERO).count();
    codes.iter().map(|byte| zeros(*byte)).sum::<usize>() as f64 / (4.0 * codes.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_legal_and_as_likely_as_they_should_be() {
        let mut codes = Vec::new();
        CodeTable::new().codes(&mut Random::new(1), 1_000_003, &mut codes);
        assert_eq!(codes.len(), 1_000_003);
        assert_eq!(tern_kernels::trit::first_invalid(&codes), None);
        // Four million weights: the standard deviation of a share is 0.00025.
        let share = zero_share(&codes);
        assert!((share - ZERO_SHARE).abs() < 0.002, "{share}");
        let plus =
            codes.iter().map(|byte| (0..4).filter(|p| byte >> (2 * p) & 3 == 2).count()).sum::<usize>();
        let plus = plus as f64 / (4.0 * codes.len() as f64);
        assert!((plus - (1.0 - ZERO_SHARE) / 2.0).abs() < 0.002, "{plus}");
    }
}
