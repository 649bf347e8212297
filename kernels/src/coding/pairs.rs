//! I2_S in blocks of 64 weights: bit pairs, the first column of four in the top bits.

use super::InvalidCode;
use crate::trit;

/// Columns of a block; a row must be whole blocks.
pub const I2S64_COLS: usize = 64;

/// Row `row` of `weights.len()` columns.
pub(super) fn i2s64_row(codes: &[u8], row: usize, weights: &mut [i8]) -> Result<(), InvalidCode> {
    let row_bytes = weights.len() / 4;
    let bytes = &codes[row * row_bytes..][..row_bytes];
    if let Some(at) = trit::first_invalid(bytes) {
        return Err(InvalidCode { at_bytes: row * row_bytes + at });
    }
    let blocks = bytes.as_chunks::<16>().0;
    for (weights, block) in weights.as_chunks_mut::<I2S64_COLS>().0.iter_mut().zip(blocks) {
        for (l, byte) in block.iter().enumerate() {
            for field in 0..4 {
                weights[16 * field + l] = trit::weight(byte >> (6 - 2 * field));
            }
        }
    }
    Ok(())
}
