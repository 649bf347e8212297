//! Packing ternary matrices into layouts and reading them back, weight by weight: the definition of every layout.
//!
//! These are plain and slow; whole matrices move from one layout to another by [`repack`].

use crate::layout::Layout;
use crate::{five, trit};

pub use crate::repack::{pack_rows, repack, rows_at_once};

/// Index of a pair of weights in [`Layout::Tl1P32`].
#[inline(always)]
const fn pair_index(w0: i8, w1: i8) -> u8 {
    3 * trit::code(w0) + trit::code(w1)
}

/// Both weights of a pair index in 0..9.
#[inline(always)]
const fn pair_weights(index: u8) -> (i8, i8) {
    (trit::weight(index / 3), trit::weight(index % 3))
}

/// The weight at (`row`, `col`) of a packed matrix with `cols` columns.
///
/// # Panics
/// If the place lies outside `packed`.
#[inline]
pub fn weight_at(layout: Layout, packed: &[u8], cols: usize, row: usize, col: usize) -> i8 {
    match layout {
        Layout::T2B128 => {
            let (block, at) = (col / 128, col % 128);
            let byte = packed[row * (cols / 4) + block * 32 + at % 32];
            trit::weight(byte >> (6 - 2 * (at / 32)))
        }
        Layout::Tl1P32 => {
            let byte = packed[(row / 32) * (8 * cols) + (col / 4) * 32 + row % 32];
            let index = if col % 4 < 2 { byte & 15 } else { byte >> 4 };
            let (first, second) = pair_weights(index);
            if col.is_multiple_of(2) { first } else { second }
        }
        Layout::T2R4 => {
            let (panel, row, step, lane) = (row / 16, row % 16, col / 16, col % 16);
            let byte = packed[panel * (4 * cols) + step * 64 + row / 4 * 16 + lane];
            nested_weight(byte, row % 4)
        }
        Layout::T5R => {
            let (panel, row, step, lane) = (row / 10, row % 10, col / 16, col % 16);
            five::decode(packed[panel * (2 * cols) + step * 32 + row / 5 * 16 + lane])[row % 5]
        }
        Layout::T5C => {
            let (panel, row, block, col) = (row / 16, row % 16, col / 80, col % 80);
            let byte = packed[panel * layout.panel_bytes(cols) + block * 256 + row * 16 + col % 16];
            five::decode(byte)[col / 16]
        }
    }
}

/// Weight `row` of a byte of [`Layout::T2R4`]: codes, but for the last, which is two's complement.
#[inline(always)]
const fn nested_weight(byte: u8, row: usize) -> i8 {
    if row < 3 { trit::weight(byte >> (2 * row)) } else { byte as i8 >> 6 }
}

/// Writes one matrix, given as a function of (row, col), into `packed`.
///
/// # Panics
/// If `packed` is not `layout.bytes(rows, cols)` long, or a weight is not ternary.
pub fn pack_with(
    layout: Layout,
    rows: usize,
    cols: usize,
    packed: &mut [u8],
    weight: impl Fn(usize, usize) -> i8,
) {
    assert_eq!(layout.bytes(rows, cols), Some(packed.len()), "packed length for {rows} x {cols}");
    match layout {
        Layout::T2B128 => {
            for (row, line) in packed.chunks_exact_mut((cols / 4).max(1)).enumerate() {
                for (at, byte) in line.iter_mut().enumerate() {
                    let first = (at / 32) * 128 + at % 32;
                    *byte = (0..4).fold(0, |b, field| b << 2 | trit::code(weight(row, first + 32 * field)));
                }
            }
        }
        Layout::Tl1P32 => {
            let at = |row: usize, col| if row < rows { weight(row, col) } else { 0 };
            for (panel, bytes) in packed.chunks_exact_mut((8 * cols).max(1)).enumerate() {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let (row, col) = (panel * 32 + i % 32, (i / 32) * 4);
                    let low = pair_index(at(row, col), at(row, col + 1));
                    let high = pair_index(at(row, col + 2), at(row, col + 3));
                    *byte = low | high << 4;
                }
            }
        }
        Layout::T2R4 => {
            let at = |row: usize, col| if row < rows { weight(row, col) } else { 0 };
            for (panel, bytes) in packed.chunks_exact_mut((4 * cols).max(1)).enumerate() {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let (row, col) = (panel * 16 + i % 64 / 16 * 4, i / 64 * 16 + i % 16);
                    let codes = (0..3).fold(0, |b, r| b | trit::code(at(row + r, col)) << (2 * r));
                    *byte = codes | (at(row + 3, col) as u8) << 6;
                }
            }
        }
        Layout::T5R => {
            let at = |row: usize, col| if row < rows { weight(row, col) } else { 0 };
            for (panel, bytes) in packed.chunks_exact_mut((2 * cols).max(1)).enumerate() {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let (row, col) = (panel * 10 + i % 32 / 16 * 5, i / 32 * 16 + i % 16);
                    *byte = five::encode(core::array::from_fn(|r| at(row + r, col)));
                }
            }
        }
        Layout::T5C => {
            let at = |row: usize, col: usize| if row < rows && col < cols { weight(row, col) } else { 0 };
            for (panel, bytes) in packed.chunks_exact_mut(layout.panel_bytes(cols).max(1)).enumerate() {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let (row, col) = (panel * 16 + i % 256 / 16, i / 256 * 80 + i % 16);
                    *byte = five::encode(core::array::from_fn(|k| at(row, col + 16 * k)));
                }
            }
        }
    }
}

/// Packs `weights` (`[rows, cols]`, row-major, each -1, 0 or +1) into `packed`.
///
/// # Panics
/// As [`pack_with`], or if `weights` is not `rows * cols` long.
pub fn pack(layout: Layout, weights: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
    assert_eq!(weights.len(), rows * cols, "weights of a {rows} x {cols} matrix");
    pack_with(layout, rows, cols, packed, |r, c| weights[r * cols + c]);
}

/// Reads a packed matrix back into `weights` (`[rows, cols]`, row-major).
///
/// # Panics
/// If a length does not belong to the shape.
pub fn unpack(layout: Layout, packed: &[u8], rows: usize, cols: usize, weights: &mut [i8]) {
    assert_eq!(layout.bytes(rows, cols), Some(packed.len()), "packed length for {rows} x {cols}");
    assert_eq!(weights.len(), rows * cols, "weights of a {rows} x {cols} matrix");
    for (i, w) in weights.iter_mut().enumerate() {
        *w = weight_at(layout, packed, cols, i / cols, i % cols);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    /// A weight pattern with prime periods, so that swapped rows, blocks or fields cannot cancel out.
    fn pattern(row: usize, col: usize) -> i8 {
        ((row * 31 + col * 7 + (row * col) % 13) % 251 % 3) as i8 - 1
    }

    #[test]
    fn every_layout_round_trips_and_repacks() {
        for (rows, cols) in [(1, 128), (3, 256), (31, 128), (32, 384), (33, 256), (65, 1408)] {
            let weights: vec::Vec<i8> = (0..rows * cols).map(|i| pattern(i / cols, i % cols)).collect();
            for from in Layout::ALL {
                let mut packed = vec![0u8; from.bytes(rows, cols).unwrap()];
                pack(from, &weights, rows, cols, &mut packed);
                let mut back = vec![9i8; rows * cols];
                unpack(from, &packed, rows, cols, &mut back);
                assert_eq!(back, weights, "{} {rows} x {cols}", from.name());
                assert_eq!(from.first_invalid(&packed), None, "{} {rows} x {cols}", from.name());
                for to in Layout::ALL {
                    let mut other = vec![0u8; to.bytes(rows, cols).unwrap()];
                    let mut direct = other.clone();
                    repack(from, &packed, to, rows, cols, &mut other);
                    pack(to, &weights, rows, cols, &mut direct);
                    assert_eq!(other, direct, "{} to {}", from.name(), to.name());
                }
            }
        }
    }

    #[test]
    fn rows_are_packed_a_few_at_a_time_and_by_groups_of_columns() {
        let (rows, cols) = (65, 1408);
        let weights: vec::Vec<i8> = (0..rows * cols).map(|i| pattern(i / cols, i % cols)).collect();
        for (to, group) in Layout::ALL.into_iter().flat_map(|to| [(to, 128), (to, cols)]) {
            let group_bytes = to.bytes(rows, group).unwrap();
            let mut found = vec![0u8; cols / group * group_bytes];
            for first in (0..rows).step_by(rows_at_once(to)) {
                let some = &weights[first * cols..(first + rows_at_once(to)).min(rows) * cols];
                let start = first / to.panel_rows() * to.panel_bytes(group);
                let bytes = to.bytes(some.len() / cols, group).unwrap();
                for (at, group_of) in found.chunks_exact_mut(group_bytes).enumerate() {
                    let of = at * group..(at + 1) * group;
                    pack_rows(to, some, cols, of, &mut group_of[start..start + bytes]);
                }
            }
            for (at, found) in found.chunks_exact(group_bytes).enumerate() {
                let mut expected = vec![0u8; group_bytes];
                pack_with(to, rows, group, &mut expected, |row, col| pattern(row, at * group + col));
                assert!(found == expected, "{} group {at} of {group}", to.name());
            }
        }
    }

    #[test]
    fn the_first_byte_of_each_layout_is_as_drawn() {
        // Columns 0, 32, 64, 96 hold +1, 0, -1, +1: codes 2, 1, 0, 2 from the top bits down.
        let mut weights = [0i8; 128];
        (weights[0], weights[32], weights[64], weights[96]) = (1, 0, -1, 1);
        let mut packed = [0u8; 32];
        pack(Layout::T2B128, &weights, 1, 128, &mut packed);
        assert_eq!(packed[0], 0b10_01_00_10);
        // Columns 0..4 hold +1, -1, 0, +1: indices 3 * 2 + 0 and 3 * 1 + 2.
        let mut weights = [0i8; 128];
        (weights[0], weights[1], weights[2], weights[3]) = (1, -1, 0, 1);
        let mut packed = [0u8; 32 * 32];
        pack(Layout::Tl1P32, &weights, 1, 128, &mut packed);
        assert_eq!((packed[0], packed[1]), (6 | 5 << 4, 4 | 4 << 4));
        // Rows 0 to 4 of column 0 hold +1, -1, 0, -1, +1.
        let column = [1, -1, 0, -1, 1];
        let weight = |row: usize, col: usize| if col == 0 && row < 5 { column[row] } else { 0 };
        let mut packed = [0u8; 64];
        pack_with(Layout::T2R4, 5, 16, &mut packed, weight);
        assert_eq!((packed[0], packed[1], packed[16]), (0b11_01_00_10, 0b00_01_01_01, 0b00_01_01_10));
        let mut packed = [0u8; 32];
        pack_with(Layout::T5R, 5, 16, &mut packed, weight);
        // 81 - 27 - 3 + 1 = 52, and 52 * 256 / 243 is 54.8.
        assert_eq!((packed[0], packed[1], packed[16]), (55, 0, 0));
        let mut packed = [0u8; 256];
        pack_with(Layout::T5C, 1, 80, &mut packed, |_, col| column[col / 16] * i8::from(col % 16 == 2));
        assert_eq!((packed[1], packed[2], packed[3], packed[18]), (0, 55, 0, 0));
    }

    #[test]
    fn bytes_that_no_packer_writes_are_found() {
        assert_eq!(Layout::T2R4.first_invalid(&[0b11_01_00_10, 0b00_01_01_11]), Some(1));
        assert_eq!(Layout::T2R4.first_invalid(&[0b10_01_00_10]), Some(0));
        assert_eq!(Layout::Tl1P32.first_invalid(&[0x88, 0x49, 0x90]), Some(1));
        assert_eq!(Layout::T2B128.first_invalid(&[0x55, 0x0c]), Some(1));
    }
}
