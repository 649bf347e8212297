//! TL1 and TL2 of bitnet.cpp: indices for table lookup in tiles whose sizes stand in no model file.
//!
//! They come from the `kernel_config.ini` of the build that converted the model, one entry for each shape of matrix.
//! Sources: `utils/codegen_tl1.py`, `utils/codegen_tl2.py` and `utils/convert-hf-to-gguf-bitnet.py` of microsoft/BitNet.

use super::InvalidCode;

/// How a matrix is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileShape {
    /// Rows of a tile: `BM` of `kernel_config.ini`.
    pub rows: usize,
    /// Columns of a tile: `BK` there (`BY` in the generators).
    pub cols: usize,
    /// Rows of a strip within a tile: `bmm` there (`bm` in the generators), 32 or 64; 32 in TL2.
    pub strip: usize,
}

/// Columns of which TL2's size formula takes pairs, whatever the tiles are.
const TL2_PAIR_COLS: usize = 256;

/// Bytes of TL2's codes with their padding, where the scale lies: the formula of the converter, in its order of
/// divisions. `None` if there are fewer columns than it is made for, or it overflows.
pub fn tl2_code_bytes(rows: usize, cols: usize) -> Option<usize> {
    let triples = cols.checked_sub(TL2_PAIR_COLS)?.checked_mul(rows)? / 3;
    let pairs = TL2_PAIR_COLS.checked_mul(rows)? / 2;
    let bytes = (triples.checked_mul(5)? / 8).checked_add(pairs.checked_mul(4)? / 8)?;
    bytes.checked_next_multiple_of(32)
}

impl TileShape {
    /// Columns that TL1 handles at a time in a strip: 8 or 4.
    const fn step(self) -> usize {
        256 / self.strip
    }

    /// Whether TL1 can have a matrix of this shape in such tiles.
    pub fn fits_tl1(self, rows: usize, cols: usize) -> bool {
        let TileShape { rows: tile_rows, cols: tile_cols, strip } = self;
        (strip == 32 || strip == 64)
            && tile_rows > 0
            && tile_cols > 0
            && rows.is_multiple_of(tile_rows)
            && cols.is_multiple_of(tile_cols)
            && tile_rows.is_multiple_of(strip)
            && tile_cols.is_multiple_of(self.step())
    }

    /// Whether TL2 can have a matrix of this shape in such tiles. What is left of the columns behind whole tiles is pairs.
    pub fn fits_tl2(self, rows: usize, cols: usize) -> bool {
        let TileShape { rows: tile_rows, cols: tile_cols, strip } = self;
        // Signs come in words of eight triples, pairs in strips of 32 columns.
        strip == 32
            && tile_rows > 0
            && tile_cols > 0
            && tile_cols <= cols
            && rows.is_multiple_of(tile_rows)
            && tile_rows.is_multiple_of(32)
            && tile_cols.is_multiple_of(24)
            && (cols % tile_cols).is_multiple_of(32)
            && match (Parts::of(self, rows, cols), tl2_code_bytes(rows, cols)) {
                (Some(parts), Some(size)) => parts.bytes <= size,
                _ => false,
            }
    }
}

/// The parts of a matrix in TL2.
struct Parts {
    /// Columns in triples, the first ones.
    triple_cols: usize,
    /// Where the signs of triples begin, behind their nibbles.
    signs_at: usize,
    /// Where the nibbles of pairs begin, behind the signs.
    pairs_at: usize,
    /// Where they end.
    bytes: usize,
}

impl Parts {
    /// `None` where sizes overflow. `rows` is a multiple of 32 and what is in triples a multiple of 24.
    fn of(tile: TileShape, rows: usize, cols: usize) -> Option<Self> {
        let triple_cols = cols - cols % tile.cols;
        let signs_at = (rows / 2).checked_mul(triple_cols / 3)?;
        let pairs_at = signs_at.checked_add(signs_at / 4)?;
        let pairs = (rows / 4).checked_mul(cols - triple_cols)?;
        Some(Parts { triple_cols, signs_at, pairs_at, bytes: pairs_at.checked_add(pairs)? })
    }
}

/// The two weights of index `3 (w0 + 1) + (w1 + 1)`, if it is one.
#[inline(always)]
fn pair(index: u8) -> Option<[i8; 2]> {
    (index < 9).then(|| [index as i8 / 3 - 1, index as i8 % 3 - 1])
}

/// Row `m` of TL1: a byte holds four columns, the first two in the upper nibble.
///
/// ```text
/// tiles of [rows, cols] in row-major order; in a tile strips of rows; in a strip steps of 8 or 4 columns, 64 bytes each;
/// in a step 16 rows after 16 rows, of these four columns after four columns, 16 bytes: one a row
/// ```
pub(super) fn tl1_row(
    tile: TileShape,
    codes: &[u8],
    m: usize,
    weights: &mut [i8],
) -> Result<(), InvalidCode> {
    let TileShape { rows: tile_rows, cols: tile_cols, strip } = tile;
    let (cols, step) = (weights.len(), tile.step());
    let (in_tile, in_strip) = (m % tile_rows, m % tile_rows % strip);
    let row_at = m / tile_rows * (tile_rows / 4 * cols)
        + in_tile / strip * (strip / 4 * tile_cols)
        + in_strip / 16 * (step / 4) * 16
        + in_strip % 16;
    for (four, weights) in weights.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let k = 4 * four;
        let at_bytes = row_at
            + k / tile_cols * (tile_rows / 4 * tile_cols)
            + k % tile_cols / step * 64
            + k % step / 4 * 16;
        let (Some(first), Some(second)) = (pair(codes[at_bytes] >> 4), pair(codes[at_bytes] & 15)) else {
            return Err(InvalidCode { at_bytes });
        };
        *weights = [first[0], first[1], second[0], second[1]];
    }
    Ok(())
}

/// Where a row of 32 lies among their bytes: the middle two groups of eight change places.
const fn place(row: usize) -> usize {
    match row / 8 {
        1 => row + 8,
        2 => row - 8,
        _ => row,
    }
}

/// Row `m` of TL2: magnitudes of triples as nibbles, their signs as bits, and pairs as nibbles for what is left.
///
/// ```text
/// triples: v = 9 w0 + 3 w1 + w2; a byte holds |v| of two, the even one in the upper nibble, 32 rows side by side
/// signs: little-endian words of eight triples of rows r and r + 16, in turn from the top bit down; 1 is negative
/// pairs: 3 w0 + w1 + 4, laid like triples in strips of 32 columns
/// ```
pub(super) fn tl2_row(
    tile: TileShape,
    codes: &[u8],
    rows: usize,
    m: usize,
    weights: &mut [i8],
) -> Result<(), InvalidCode> {
    let TileShape { rows: tile_rows, cols: tile_cols, .. } = tile;
    let Some(Parts { triple_cols, signs_at, pairs_at, .. }) = Parts::of(tile, rows, weights.len()) else {
        unreachable!("a shape that fits has sizes");
    };
    let (panel, strip, lane) = (m / tile_rows, m % tile_rows / 32, m % 32);
    let (triples, pairs) = weights.split_at_mut(triple_cols);
    let (of_tile, pair_cols) = (tile_cols / 3, pairs.len());
    for (t, weights) in triples.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (column, t) = (t / of_tile, t % of_tile);
        // Half a byte a triple here; among the signs an eighth of one, cut alike.
        let tile_at = panel * (tile_rows / 2 * (triple_cols / 3))
            + column * (tile_rows / 2 * of_tile)
            + strip * (16 * of_tile);
        let at_bytes = tile_at + t / 2 * 32 + place(lane);
        let nibble = if t % 2 == 0 { codes[at_bytes] >> 4 } else { codes[at_bytes] & 15 } as i8;
        if nibble > 13 {
            return Err(InvalidCode { at_bytes });
        }
        let word_at = signs_at + tile_at / 4 + t / 8 * 32 + 2 * (lane % 16);
        let word = u16::from_le_bytes([codes[word_at], codes[word_at + 1]]);
        let is_negative = word >> (15 - (2 * (t % 8) + lane / 16)) & 1 == 1;
        let value = if is_negative { 13 - nibble } else { 13 + nibble };
        *weights = [value / 9 - 1, value / 3 % 3 - 1, value % 3 - 1];
    }
    for (p, weights) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (column, p) = (p / 16, p % 16);
        let at_bytes = pairs_at
            + panel * (tile_rows / 4 * pair_cols)
            + column * (tile_rows * 8)
            + strip * 256
            + p / 2 * 32
            + place(lane);
        let index = if p % 2 == 0 { codes[at_bytes] >> 4 } else { codes[at_bytes] & 15 };
        *weights = pair(index).ok_or(InvalidCode { at_bytes })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_tl2_is_the_converters() {
        assert_eq!(tl2_code_bytes(32, 320), Some(2496));
        assert_eq!(
            tl2_code_bytes(3200, 8640),
            Some((8384 * 3200 / 3 * 5 / 8 + 204_800usize).next_multiple_of(32))
        );
        assert_eq!(tl2_code_bytes(32, 128), None);
        assert_eq!(tl2_code_bytes(usize::MAX, 512), None);
    }

    #[test]
    fn tiles_must_fit_the_matrix() {
        let tile = TileShape { rows: 256, cols: 128, strip: 32 };
        assert!(tile.fits_tl1(1536, 4096));
        assert!(!tile.fits_tl1(1536, 4000) && !tile.fits_tl1(1537, 4096));
        assert!(!TileShape { strip: 0, ..tile }.fits_tl1(1536, 4096));
        assert!(!TileShape { rows: 0, ..tile }.fits_tl1(0, 4096));
        let tile = TileShape { rows: 256, cols: 96, strip: 32 };
        assert!(tile.fits_tl2(1536, 4096));
        assert!(!tile.fits_tl2(1536, 64) && !tile.fits_tl2(1530, 4096));
        assert!(!TileShape { cols: 0, ..tile }.fits_tl2(1536, 4096));
    }

    #[test]
    fn indices_that_no_table_has_are_refused() {
        let mut weights = [0; 64];
        let tile = TileShape { rows: 32, cols: 64, strip: 32 };
        let mut codes = [0x44; 32 * 64 / 4];
        assert_eq!(tl1_row(tile, &codes, 1, &mut weights), Ok(()));
        assert_eq!(weights, [0; 64]);
        codes[1] = 0x49;
        assert_eq!(tl1_row(tile, &codes, 1, &mut weights), Err(InvalidCode { at_bytes: 1 }));
    }
}
