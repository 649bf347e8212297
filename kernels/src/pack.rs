//! Packing ternary matrices into layouts, reading them back, and moving them from one layout to another.
//!
//! These run once at load or in a converter, so they are plain; kernels read the packed form directly.

use crate::layout::Layout;
use crate::trit;

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
    }
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

/// Copies a matrix from one layout to another, weight by weight; the result is what [`pack`] would have written.
///
/// # Panics
/// If a length does not belong to the shape.
pub fn repack(from: Layout, source: &[u8], to: Layout, rows: usize, cols: usize, packed: &mut [u8]) {
    assert_eq!(from.bytes(rows, cols), Some(source.len()), "source length for {rows} x {cols}");
    if from == to {
        packed.copy_from_slice(source);
    } else {
        pack_with(to, rows, cols, packed, |r, c| weight_at(from, source, cols, r, c));
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
        for (rows, cols) in [(1, 128), (3, 256), (31, 128), (32, 384), (33, 256), (65, 128)] {
            let weights: vec::Vec<i8> = (0..rows * cols).map(|i| pattern(i / cols, i % cols)).collect();
            for from in Layout::ALL {
                let mut packed = vec![0u8; from.bytes(rows, cols).unwrap()];
                pack(from, &weights, rows, cols, &mut packed);
                let mut back = vec![9i8; rows * cols];
                unpack(from, &packed, rows, cols, &mut back);
                assert_eq!(back, weights, "{} {rows} x {cols}", from.name());
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
    }
}
