//! The scalar oracle of every operation: what a back end must return, written to be read rather than to be fast.
//!
//! It is also the set of last resort on a machine for which no other set is built, so it is not needlessly slow:
//! the ternary product walks blocks, and the float operations are those of [`crate::lanes`].

use crate::layout::Layout;
use crate::set::{KernelSet, Ops, Tile};
use crate::{lanes, trit};

/// The scalar set, present on every machine.
pub static SCALAR: KernelSet =
    KernelSet::new("scalar-t2i8", Layout::T2B128, Ops { prepared_bytes, prepare, multiply, ..LANE_OPS });

/// The float operations of [`crate::lanes`] as a table, for sets to start from; its ternary part is the scalar one.
pub const LANE_OPS: Ops = Ops {
    prepared_bytes,
    prepare,
    multiply,
    absmax: |x| lanes::absmax(x),
    quantize: |x, s, q| lanes::quantize(x, s, q),
    sum_squares: |x| lanes::sum_squares(x),
    matvec_f32: |rows, x, y| lanes::matvec_f32(rows, x, y),
    matvec_f16: |rows, x, y| lanes::matvec_f16(rows, x, y),
    mix_f32: |rows, p, y| lanes::mix_f32(rows, p, y),
    mix_f16: |rows, p, y| lanes::mix_f16(rows, p, y),
    exp_sum: |x| lanes::exp_sum(x),
};

/// Bytes before the activations of a token prepared by [`prepare`]; keeps them aligned as the token is.
pub const PLAIN_HEADER: usize = 64;

/// Size of [`prepare`]'s form, rounded up to 64 so that every token starts aligned when the first does.
pub fn prepared_bytes(cols: usize) -> usize {
    PLAIN_HEADER + cols.next_multiple_of(64)
}

/// The plain form of a token: `sum q` as a little-endian `i32`, zeros to byte 64, the activations, zeros to the end.
///
/// Dot-product kernels multiply by codes rather than weights; `sum code q - sum q` is then `sum weight q`.
pub fn prepare(q: &[i8], prepared: &mut [u8]) {
    let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
    prepared.fill(0);
    prepared[..4].copy_from_slice(&sum.to_le_bytes());
    for (byte, q) in prepared[PLAIN_HEADER..].iter_mut().zip(q) {
        *byte = *q as u8;
    }
}

/// `sum q` of a token in the plain form.
#[inline(always)]
pub fn plain_sum(prepared: &[u8]) -> i32 {
    i32::from_le_bytes([prepared[0], prepared[1], prepared[2], prepared[3]])
}

/// The ternary product over [`Layout::T2B128`] and plain activations.
fn multiply(tile: Tile<'_>, sums: &mut [i32]) {
    let stride = prepared_bytes(tile.cols);
    for (token, prepared) in tile.prepared.chunks_exact(stride).enumerate() {
        let q = &prepared[PLAIN_HEADER..PLAIN_HEADER + tile.cols];
        for row in 0..tile.rows {
            let codes = &tile.weights[row * (tile.cols / 4)..(row + 1) * (tile.cols / 4)];
            sums[token * tile.rows + row] = dot_row(codes, q);
        }
    }
}

/// `sum weight q` over one row of 128-column blocks.
fn dot_row(codes: &[u8], q: &[u8]) -> i32 {
    let mut sum = 0;
    for (codes, q) in codes.chunks_exact(32).zip(q.chunks_exact(128)) {
        for (l, code) in codes.iter().enumerate() {
            for field in 0..4 {
                let weight = trit::weight(code >> (6 - 2 * field));
                sum += i32::from(weight) * i32::from(q[32 * field + l] as i8);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::pack;
    use std::{vec, vec::Vec};

    #[test]
    fn the_product_is_the_definition() {
        let (rows, cols, tokens) = (5, 384, 3);
        let weight = |r: usize, c: usize| ((r * 17 + c * 5) % 7 % 3) as i8 - 1;
        let q = |t: usize, c: usize| ((t * 101 + c * 37) % 256) as u8 as i8;
        let mut weights = vec![0u8; SCALAR.layout.bytes(rows, cols).unwrap()];
        pack::pack_with(SCALAR.layout, rows, cols, &mut weights, weight);
        let mut prepared = vec![0u8; tokens * SCALAR.prepared_bytes(cols)];
        for (t, p) in prepared.chunks_exact_mut(SCALAR.prepared_bytes(cols)).enumerate() {
            SCALAR.prepare(&(0..cols).map(|c| q(t, c)).collect::<Vec<_>>(), p);
        }
        let mut sums = vec![0; tokens * rows];
        SCALAR.multiply(&weights, rows, cols, &prepared, tokens, &mut sums);
        for t in 0..tokens {
            for r in 0..rows {
                let expected: i32 = (0..cols).map(|c| i32::from(weight(r, c)) * i32::from(q(t, c))).sum();
                assert_eq!(sums[t * rows + r], expected, "token {t} row {r}");
            }
        }
    }
}
