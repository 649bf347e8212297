//! How ternary matrices lie in files of other programs: weights and scales, row by row.
//!
//! A [`Layout`] is what kernels multiply with; a [`Coding`] is only read, once, when a model is opened or packed. It says
//! which weights share a scale ([`Coding::group`]) and hands out one row at a time as weights of -1, 0 and +1.
//! `docs/layouts.md` draws each coding byte by byte.

mod block;
mod pairs;
mod tiles;

use core::fmt;

pub(crate) use block::MAX_VALUES;
pub use block::TernaryBlock;
pub use pairs::I2S64_COLS;
pub use tiles::{TileShape, tl2_code_bytes};

use crate::layout::Layout;
use crate::repack;

/// How a ternary matrix `[rows, cols]` lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coding {
    /// A layout of ours and one binary32 scale behind the codes; GGUF's I2_S as every published file has it is
    /// [`Layout::T2B128`].
    Layout(Layout),
    /// I2_S in blocks of 64 weights, as bitnet.cpp built for ARM writes it since November 2025: 16 bytes a block, byte
    /// `l` holding columns `l`, `+16`, `+32` and `+48`, the first in the top bits; one scale behind the codes.
    I2s64,
    /// Blocks along a row, each with a binary16 scale of its own.
    Blocks(TernaryBlock),
    /// TL1 of bitnet.cpp: four-bit indices of pairs in tiles that the file does not tell; one scale behind the codes.
    Tl1(TileShape),
    /// TL2 of bitnet.cpp: five bits for three weights in tiles that the file does not tell; one scale behind the codes.
    Tl2(TileShape),
}

/// A code that stands for no ternary weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCode {
    /// The byte that holds it, counted from the start of the matrix.
    pub at_bytes: usize,
}

impl fmt::Display for InvalidCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} holds a code that stands for no ternary weight", self.at_bytes)
    }
}

impl core::error::Error for InvalidCode {}

impl Coding {
    /// Columns that share a scale; `None` where the whole matrix has one.
    pub const fn group(self) -> Option<usize> {
        match self {
            Coding::Blocks(block) => Some(block.values()),
            _ => None,
        }
    }

    /// Scales that [`row_into`](Self::row_into) writes for a row of `cols` columns.
    pub const fn scales(self, cols: usize) -> usize {
        match self.group() {
            Some(group) => cols / group,
            None => 1,
        }
    }

    /// Bytes of a `[rows, cols]` matrix without what stands behind the codes, which is where a scale of the whole matrix
    /// lies; `None` if the shape does not fit the coding or the size overflows.
    pub fn code_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Coding::Layout(layout) => layout.bytes(rows, cols),
            Coding::I2s64 if cols.is_multiple_of(I2S64_COLS) => rows.checked_mul(cols / 4),
            Coding::I2s64 => None,
            Coding::Blocks(block) if cols.is_multiple_of(block.values()) => {
                (cols / block.values()).checked_mul(block.bytes())?.checked_mul(rows)
            }
            Coding::Blocks(_) => None,
            Coding::Tl1(tile) if tile.fits_tl1(rows, cols) => rows.checked_mul(cols / 4),
            Coding::Tl1(_) => None,
            Coding::Tl2(tile) if tile.fits_tl2(rows, cols) => tl2_code_bytes(rows, cols),
            Coding::Tl2(_) => None,
        }
    }

    /// Bytes of a `[rows, cols]` matrix with its scales, without padding behind the last; `None` as
    /// [`code_bytes`](Self::code_bytes).
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        let codes = self.code_bytes(rows, cols)?;
        codes.checked_add(if self.group().is_none() { 4 } else { 0 })
    }

    /// Reads row `row` of a `[rows, cols]` matrix: `weights: [cols]`, each -1, 0 or +1, and `scales: [scales(cols)]`, as
    /// they stand in the file, whatever they are. `bytes` may go on behind the matrix.
    ///
    /// # Errors
    /// If a code of the row stands for no ternary weight. Bytes of five weights ([`crate::five`]) are weights whatever they
    /// are.
    ///
    /// # Panics
    /// If the shape has no size ([`bytes`](Self::bytes)), `bytes` is shorter than it, there is no such row, or a length
    /// differs.
    pub fn row_into(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        row: usize,
        weights: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), InvalidCode> {
        let (codes, size) = (self.code_bytes(rows, cols), self.bytes(rows, cols));
        let (Some(codes), Some(size)) = (codes, size) else {
            panic!("{rows} x {cols} does not fit {self:?}");
        };
        assert!(bytes.len() >= size, "{} bytes of {rows} x {cols} in {self:?}", bytes.len());
        assert!(row < rows && weights.len() == cols, "row {row} of {rows} x {cols}");
        assert_eq!(scales.len(), self.scales(cols), "scales of a row");
        if self.group().is_none() {
            let scale = bytes[codes..].first_chunk().expect("`size` holds a scale behind the codes");
            scales[0] = f32::from_le_bytes(*scale);
        }
        let codes = &bytes[..codes];
        match self {
            Coding::Layout(layout) => layout_row(layout, codes, cols, row, weights),
            Coding::I2s64 => pairs::i2s64_row(codes, row, weights),
            Coding::Blocks(block) => block_row(block, codes, row, weights, scales),
            Coding::Tl1(tile) => tiles::tl1_row(tile, codes, row, weights),
            Coding::Tl2(tile) => tiles::tl2_row(tile, codes, rows, row, weights),
        }
    }
}

/// One row of a layout of ours.
fn layout_row(
    layout: Layout,
    codes: &[u8],
    cols: usize,
    row: usize,
    weights: &mut [i8],
) -> Result<(), InvalidCode> {
    let panel_at = row / layout.panel_rows() * layout.panel_bytes(cols);
    let panel = &codes[panel_at..panel_at + layout.panel_bytes(cols)];
    repack::read(layout, codes, cols, row, 0, weights);
    let row = row % layout.panel_rows();
    let invalid = match layout {
        Layout::T2B128 => layout.first_invalid(panel),
        Layout::Tl1P32 => {
            let fours = panel.as_chunks::<32>().0;
            fours
                .iter()
                .position(|four| layout.first_invalid(&four[row..row + 1]).is_some())
                .map(|g| 32 * g + row)
        }
        Layout::T2R4 => {
            let col = weights.iter().position(|weight| !(-1..=1).contains(weight));
            col.map(|col| col / 16 * 64 + row / 4 * 16 + col % 16)
        }
        Layout::T5R | Layout::T5C => None,
    };
    invalid.map_or(Ok(()), |at| Err(InvalidCode { at_bytes: panel_at + at }))
}

/// One row of blocks.
fn block_row(
    block: TernaryBlock,
    codes: &[u8],
    row: usize,
    weights: &mut [i8],
    scales: &mut [f32],
) -> Result<(), InvalidCode> {
    let row_bytes = scales.len() * block.bytes();
    let blocks = codes[row * row_bytes..].chunks_exact(block.bytes());
    let groups = weights.chunks_exact_mut(block.values()).zip(scales);
    for (at, ((weights, scale), bytes)) in groups.zip(blocks).enumerate() {
        *scale = block.decode(bytes, weights);
        if let Some(place) = weights.iter().position(|w| *w > 1) {
            let at_bytes = row * row_bytes + at * block.bytes() + block.code_at(place);
            return Err(InvalidCode { at_bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::pack;
    use std::{vec, vec::Vec};

    fn pattern(row: usize, col: usize) -> i8 {
        ((row * 31 + col * 7 + (row * col) % 13) % 251 % 3) as i8 - 1
    }

    #[test]
    fn rows_of_our_layouts_are_what_was_packed() {
        let (rows, cols) = (33, 768);
        for layout in Layout::ALL {
            let size = layout.bytes(rows, cols).unwrap();
            let mut bytes = vec![0; size];
            pack::pack_with(layout, rows, cols, &mut bytes, pattern);
            bytes.extend(0.25f32.to_le_bytes());
            let coding = Coding::Layout(layout);
            assert_eq!(
                (coding.code_bytes(rows, cols), coding.bytes(rows, cols)),
                (Some(size), Some(size + 4))
            );
            for row in 0..rows {
                let (mut weights, mut scale) = (vec![9; cols], [0.0]);
                coding.row_into(&bytes, rows, cols, row, &mut weights, &mut scale).unwrap();
                let expected: Vec<i8> = (0..cols).map(|col| pattern(row, col)).collect();
                assert_eq!((weights, scale), (expected, [0.25]), "{} row {row}", layout.name());
            }
        }
    }

    #[test]
    fn a_code_that_is_none_is_found_where_it_stands() {
        let read = |coding: Coding, bytes: &[u8], rows, cols, row| {
            let (mut weights, mut scales) = (vec![0; cols], vec![0.0; coding.scales(cols)]);
            coding.row_into(bytes, rows, cols, row, &mut weights, &mut scales)
        };
        // Row 1 begins at byte 16 of I2_S in blocks of 64, at 36 of two blocks of Q2_0.
        let mut bytes = vec![0x55; 2 * 32 + 4];
        bytes[32 + 5] = 0x5d;
        assert_eq!(read(Coding::I2s64, &bytes, 2, 128, 0), Ok(()));
        assert_eq!(read(Coding::I2s64, &bytes, 2, 128, 1), Err(InvalidCode { at_bytes: 37 }));
        let q2 = Coding::Blocks(TernaryBlock::Q2_0);
        let mut bytes = vec![0x55; 2 * 36];
        bytes[36 + 18 + 2 + 7] = 0x5d;
        assert_eq!(read(q2, &bytes, 2, 128, 0), Ok(()));
        assert_eq!(read(q2, &bytes, 2, 128, 1), Err(InvalidCode { at_bytes: 63 }));
        let tq2 = Coding::Blocks(TernaryBlock::Tq2_0);
        let mut bytes = vec![0x55; 66];
        bytes[40] = 0xd5;
        assert_eq!(read(tq2, &bytes, 1, 256, 0), Err(InvalidCode { at_bytes: 40 }));
        let layout = Coding::Layout(Layout::T2B128);
        let mut bytes = vec![0x55; 2 * 32 + 4];
        bytes[40] = 0x57;
        assert_eq!(read(layout, &bytes, 2, 128, 1), Err(InvalidCode { at_bytes: 40 }));
        // In panels the row is told from its neighbours: the fourth of four rows of a byte, and row 5 of 32.
        let mut bytes = vec![0x15; 64 * 2 + 4];
        bytes[64 + 16 + 3] = 0x95;
        let t2r4 = Coding::Layout(Layout::T2R4);
        assert_eq!(read(t2r4, &bytes, 8, 32, 7), Err(InvalidCode { at_bytes: 83 }));
        assert_eq!(read(t2r4, &bytes, 8, 32, 6), Ok(()));
        let mut bytes = vec![0x44; 32 * 2 + 4];
        bytes[32 + 5] = 0xc4;
        let tl1 = Coding::Layout(Layout::Tl1P32);
        assert_eq!(read(tl1, &bytes, 32, 8, 5), Err(InvalidCode { at_bytes: 37 }));
        assert_eq!(read(tl1, &bytes, 32, 8, 4), Ok(()));
    }

    #[test]
    fn shapes_that_do_not_fit_have_no_size() {
        assert_eq!(Coding::I2s64.bytes(3, 192), Some(3 * 48 + 4));
        assert_eq!(Coding::I2s64.bytes(3, 96), None);
        assert_eq!(Coding::Blocks(TernaryBlock::Tq1_0).bytes(2, 512), Some(2 * 2 * 54));
        assert_eq!(Coding::Blocks(TernaryBlock::Tq1_0).bytes(2, 128), None);
        assert_eq!(Coding::Blocks(TernaryBlock::Q1_0).bytes(usize::MAX, 128), None);
        assert_eq!(Coding::I2s64.bytes(usize::MAX, 1 << 20), None);
    }
}
