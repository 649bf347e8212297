//! Moving a whole matrix from one layout to another, fast enough to be done when a model is opened.
//!
//! ```text
//! for each group of rows that is whole panels of the target
//!   for each chunk of 640 columns, whole blocks of every layout
//!     read the rows from the source into int8 weights [32, 640]
//!     write them in the target's order
//! ```
//!
//! Each reader and writer walks bytes in their order with nothing but shifts, adds and one small table, in loops that
//! compilers turn into vector code. [`crate::pack`] is the definition; a test holds the two together.

use crate::layout::Layout;
use crate::{five, trit};

/// Columns of a chunk: a multiple of the blocks of all layouts, 128 and 80.
const CHUNK_COLS: usize = 640;
/// Rows of a chunk: at least the tallest panel.
const CHUNK_ROWS: usize = 32;

/// Weights of a chunk, zeros where the matrix ends.
type Chunk = [[i8; CHUNK_COLS]; CHUNK_ROWS];

/// The byte of every value of five weights, from -121 on.
const FIVES: [u8; 243] = {
    let (mut bytes, mut n) = ([0; 243], 0);
    while n < 243 {
        bytes[n] = five::encode([digit(n, 81), digit(n, 27), digit(n, 9), digit(n, 3), digit(n, 1)]);
        n += 1;
    }
    bytes
};

/// The balanced digit of `n` at `unit`.
const fn digit(n: usize, unit: usize) -> i8 {
    (n / unit % 3) as i8 - 1
}

/// Copies a matrix from one layout to another; the result is what [`crate::pack::pack`] would have written. Bytes of the
/// source that no packer writes give some ternary weight.
///
/// # Panics
/// If a length does not belong to the shape.
pub fn repack(from: Layout, source: &[u8], to: Layout, rows: usize, cols: usize, packed: &mut [u8]) {
    assert_eq!(from.bytes(rows, cols), Some(source.len()), "source length for {rows} x {cols}");
    assert_eq!(to.bytes(rows, cols), Some(packed.len()), "packed length for {rows} x {cols}");
    if from == to {
        packed.copy_from_slice(source);
        return;
    }
    let group = CHUNK_ROWS / to.panel_rows() * to.panel_rows();
    let mut chunk: Chunk = [[0; CHUNK_COLS]; CHUNK_ROWS];
    for first_row in (0..rows).step_by(group) {
        let panels = first_row / to.panel_rows() * to.panel_bytes(cols)
            ..(first_row + group).min(rows).div_ceil(to.panel_rows()) * to.panel_bytes(cols);
        let target = &mut packed[panels];
        for first_col in (0..cols).step_by(CHUNK_COLS) {
            let width = CHUNK_COLS.min(cols - first_col);
            for (r, line) in chunk[..group].iter_mut().enumerate() {
                if first_row + r < rows {
                    read(from, source, cols, first_row + r, first_col, &mut line[..width]);
                    line[width..].fill(0);
                } else {
                    line.fill(0);
                }
            }
            write(to, target, cols, first_col, width, &chunk);
        }
    }
}

/// Rows that [`pack_rows`] takes at a time: whole panels of `to`.
pub const fn rows_at_once(to: Layout) -> usize {
    CHUNK_ROWS / to.panel_rows() * to.panel_rows()
}

/// Writes columns `cols` of the rows `weights: [rows, stride]`, [`rows_at_once`] of them at most, as the panels of a matrix
/// that has these columns; the result is what [`crate::pack::pack`] would have written.
///
/// # Panics
/// If a length does not belong to the shape, or there are more rows.
pub fn pack_rows(
    to: Layout,
    weights: &[i8],
    stride: usize,
    cols: core::ops::Range<usize>,
    panels: &mut [u8],
) {
    let (rows, width) = (weights.len() / stride.max(1), cols.len());
    assert!(rows <= rows_at_once(to) && weights.len() == rows * stride, "{rows} rows of {stride}");
    assert_eq!(to.bytes(rows, width), Some(panels.len()), "packed length for {rows} x {width}");
    let mut chunk: Chunk = [[0; CHUNK_COLS]; CHUNK_ROWS];
    for first in (0..width).step_by(CHUNK_COLS) {
        let part = CHUNK_COLS.min(width - first);
        for (line, row) in chunk.iter_mut().zip(weights.chunks_exact(stride.max(1))) {
            line[..part].copy_from_slice(&row[cols.start + first..][..part]);
            line[part..].fill(0);
        }
        write(to, panels, width, first, part, &chunk);
    }
}

/// Weights of one row from `first_col` on, a multiple of [`CHUNK_COLS`].
pub(crate) fn read(from: Layout, source: &[u8], cols: usize, row: usize, first_col: usize, line: &mut [i8]) {
    let panel = &source[row / from.panel_rows() * from.panel_bytes(cols)..][..from.panel_bytes(cols)];
    let row = row % from.panel_rows();
    match from {
        Layout::T2B128 => {
            let blocks = panel[first_col / 4..].as_chunks::<32>().0;
            for (weights, block) in line.as_chunks_mut::<128>().0.iter_mut().zip(blocks) {
                for (l, byte) in block.iter().enumerate() {
                    for field in 0..4 {
                        weights[32 * field + l] = trit::weight(byte >> (6 - 2 * field));
                    }
                }
            }
        }
        Layout::Tl1P32 => {
            let bytes = panel[first_col * 8..].chunks_exact(32);
            for (weights, bytes) in line.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
                let (low, high) = (bytes[row] & 15, bytes[row] >> 4);
                *weights = [low / 3, low % 3, high / 3, high % 3].map(trit::weight);
            }
        }
        Layout::T2R4 => {
            let steps = panel[first_col * 4..].as_chunks::<64>().0;
            for (weights, step) in line.as_chunks_mut::<16>().0.iter_mut().zip(steps) {
                for (weight, byte) in weights.iter_mut().zip(&step[row / 4 * 16..]) {
                    *weight =
                        if row % 4 < 3 { trit::weight(byte >> (2 * (row % 4))) } else { *byte as i8 >> 6 };
                }
            }
        }
        Layout::T5R => {
            let steps = panel[first_col * 2..].as_chunks::<32>().0;
            let power = 3i8.wrapping_pow(row as u32 % 5);
            for (weights, step) in line.as_chunks_mut::<16>().0.iter_mut().zip(steps) {
                for (weight, byte) in weights.iter_mut().zip(&step[row / 5 * 16..]) {
                    // q of this row, see `five`; what wraps when it is tripled is the weight.
                    let tripled = 3 * i16::from((*byte as i8).wrapping_mul(power));
                    *weight = ((tripled - i16::from(tripled as i8)) >> 8) as i8;
                }
            }
        }
        Layout::T5C => {
            let blocks = panel[first_col / 80 * 256..].as_chunks::<256>().0;
            for (weights, block) in line.chunks_mut(80).zip(blocks) {
                for (l, byte) in block[row * 16..row * 16 + 16].iter().enumerate() {
                    let five = five::decode(*byte);
                    for (weight, found) in weights.iter_mut().skip(l).step_by(16).zip(five) {
                        *weight = found;
                    }
                }
            }
        }
    }
}

/// A chunk into whole panels, from `first_col` on.
fn write(to: Layout, panels: &mut [u8], cols: usize, first_col: usize, width: usize, chunk: &Chunk) {
    let rows = chunk.chunks_exact(to.panel_rows());
    for (panel, rows) in panels.chunks_exact_mut(to.panel_bytes(cols).max(1)).zip(rows) {
        match to {
            Layout::T2B128 => {
                let blocks = panel[first_col / 4..].as_chunks_mut::<32>().0;
                for (block, weights) in blocks.iter_mut().zip(rows[0][..width].as_chunks::<128>().0) {
                    for (l, byte) in block.iter_mut().enumerate() {
                        *byte = (0..4).fold(0, |b, field| b << 2 | code(weights[32 * field + l]));
                    }
                }
            }
            Layout::Tl1P32 => {
                let groups = panel[first_col * 8..].as_chunks_mut::<32>().0;
                for (at, bytes) in groups.iter_mut().take(width / 4).enumerate() {
                    for (byte, row) in bytes.iter_mut().zip(rows) {
                        let w = &row[4 * at..4 * at + 4];
                        *byte = (3 * code(w[0]) + code(w[1])) | (3 * code(w[2]) + code(w[3])) << 4;
                    }
                }
            }
            Layout::T2R4 => {
                let steps = panel[first_col * 4..].as_chunks_mut::<64>().0;
                for (at, step) in steps.iter_mut().take(width / 16).enumerate() {
                    for (bytes, rows) in step.as_chunks_mut::<16>().0.iter_mut().zip(rows.as_chunks::<4>().0)
                    {
                        for (l, byte) in bytes.iter_mut().enumerate() {
                            let [a, b, c, d] = [0, 1, 2, 3].map(|r| rows[r][16 * at + l]);
                            *byte = code(a) | code(b) << 2 | code(c) << 4 | (d as u8) << 6;
                        }
                    }
                }
            }
            Layout::T5R => {
                let steps = panel[first_col * 2..].as_chunks_mut::<32>().0;
                for (at, step) in steps.iter_mut().take(width / 16).enumerate() {
                    for (bytes, rows) in step.as_chunks_mut::<16>().0.iter_mut().zip(rows.as_chunks::<5>().0)
                    {
                        for (l, byte) in bytes.iter_mut().enumerate() {
                            *byte = five_of([0, 1, 2, 3, 4].map(|r| rows[r][16 * at + l]));
                        }
                    }
                }
            }
            Layout::T5C => {
                let blocks = panel[first_col / 80 * 256..].as_chunks_mut::<256>().0;
                for (at, block) in blocks.iter_mut().take(width.div_ceil(80)).enumerate() {
                    for (bytes, row) in block.as_chunks_mut::<16>().0.iter_mut().zip(rows) {
                        for (l, byte) in bytes.iter_mut().enumerate() {
                            *byte = five_of([0, 16, 32, 48, 64].map(|c| row[80 * at + c + l]));
                        }
                    }
                }
            }
        }
    }
}

/// The two-bit code of a weight that is known to be ternary.
#[inline(always)]
const fn code(weight: i8) -> u8 {
    (weight + 1) as u8 & 3
}

/// The byte of five weights that are known to be ternary.
#[inline(always)]
fn five_of(weights: [i8; 5]) -> u8 {
    let value = weights.iter().fold(0i16, |value, weight| 3 * value + i16::from(*weight));
    FIVES[usize::from((value + 121) as u8).min(242)]
}
