//! The scalar oracle of every operation: what a back end must return, written to be read rather than to be fast.
//!
//! It is also the set of last resort on a machine for which no other set is built, so it is not needlessly slow:
//! the ternary product walks blocks, and the float operations are those of [`crate::lanes`].

use crate::layout::Layout;
use crate::set::{
    Grain, KernelSet, PLAIN_ATTENTION, PLAIN_ELEMENTS, PLAIN_HEAD, TernaryOps, Tile, VectorOps,
};
use crate::{lanes, pack};

/// The scalar set for the layout of I2_S files, present on every machine.
pub static SCALAR: KernelSet = KernelSet::new("scalar-t2i8", Layout::T2B128, PLAIN_OPS, LANE_OPS);

static SCALAR_TL1: KernelSet = KernelSet::new(
    "scalar-tl1i8",
    Layout::Tl1P32,
    TernaryOps {
        grain: |rows, _, tokens, _| plain_grain(Layout::Tl1P32, rows, tokens),
        multiply: |tile, _, sums| multiply(Layout::Tl1P32, tile, sums),
        ..PLAIN_OPS
    },
    LANE_OPS,
);

static SCALAR_T2R4: KernelSet = KernelSet::new(
    "scalar-t2r4i8",
    Layout::T2R4,
    TernaryOps {
        grain: |rows, _, tokens, _| plain_grain(Layout::T2R4, rows, tokens),
        multiply: |tile, _, sums| multiply(Layout::T2R4, tile, sums),
        ..PLAIN_OPS
    },
    LANE_OPS,
);

static SCALAR_T5R: KernelSet = KernelSet::new(
    "scalar-t5ri8",
    Layout::T5R,
    TernaryOps {
        grain: |rows, _, tokens, _| plain_grain(Layout::T5R, rows, tokens),
        multiply: |tile, _, sums| multiply(Layout::T5R, tile, sums),
        ..PLAIN_OPS
    },
    LANE_OPS,
);

static SCALAR_T5C: KernelSet = KernelSet::new(
    "scalar-t5ci8",
    Layout::T5C,
    TernaryOps {
        grain: |rows, _, tokens, _| plain_grain(Layout::T5C, rows, tokens),
        multiply: |tile, _, sums| multiply(Layout::T5C, tile, sums),
        ..PLAIN_OPS
    },
    LANE_OPS,
);

/// A scalar set for every layout, in the order of [`Layout::ALL`]: whatever a file holds, every machine can read it.
pub static SCALARS: [&KernelSet; Layout::ALL.len()] =
    [&SCALAR, &SCALAR_TL1, &SCALAR_T2R4, &SCALAR_T5R, &SCALAR_T5C];

/// The scalar set for `layout`.
pub fn scalar(layout: Layout) -> &'static KernelSet {
    SCALARS.into_iter().find(|set| set.layout == layout).expect("there is one for every layout")
}

/// The ternary functions of [`SCALAR`], for sets that keep the plain form of a token to start from.
pub const PLAIN_OPS: TernaryOps = TernaryOps {
    prepared_bytes,
    prepare,
    grain: |rows, _, tokens, _| plain_grain(Layout::T2B128, rows, tokens),
    scratch_words: |_, _, _| 0,
    multiply: |tile, _, sums| multiply(Layout::T2B128, tile, sums),
    grouped: None,
};

/// The float operations of [`crate::lanes`] as a table, for sets to start from.
pub const LANE_OPS: VectorOps = VectorOps {
    absmax: |x| lanes::absmax(x),
    quantize: |x, s, q| lanes::quantize(x, s, q),
    sum_squares: |x| lanes::sum_squares(x),
    matvec_f32: |rows, x, y| lanes::matvec_f32(rows, x, y),
    matvec_f16: |rows, x, y| lanes::matvec_f16(rows, x, y),
    mix_f32: |rows, p, y| lanes::mix_f32(rows, p, y),
    mix_f16: |rows, p, y| lanes::mix_f16(rows, p, y),
    exp_sum: |x| lanes::exp_sum(x),
    head: PLAIN_HEAD,
    attention: PLAIN_ATTENTION,
    elements: PLAIN_ELEMENTS,
};

/// The grain of a kernel that reads rows in order and holds nothing between calls: about 64 rows, every token.
pub const fn plain_grain(layout: Layout, rows: usize, tokens: usize) -> Grain {
    let panel = layout.panel_rows();
    let most = if panel < 64 { 64 / panel * panel } else { panel };
    let whole = rows.next_multiple_of(panel);
    let rows = if whole < most { whole } else { most };
    Grain { rows: if rows == 0 { panel } else { rows }, tokens: if tokens == 0 { 1 } else { tokens } }
}

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

/// Columns whose weights are unpacked at once.
const CHUNK_COLS: usize = 128;

/// The ternary product over any layout and plain activations: a run of a row is unpacked once and met by all tokens.
#[inline(always)]
fn multiply(layout: Layout, tile: Tile<'_>, sums: &mut [i32]) {
    let stride = prepared_bytes(tile.cols);
    let mut weights = [0i8; CHUNK_COLS];
    sums.fill(0);
    for row in 0..tile.rows {
        for first in (0..tile.cols).step_by(CHUNK_COLS) {
            let weights = &mut weights[..CHUNK_COLS.min(tile.cols - first)];
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = pack::weight_at(layout, tile.weights, tile.cols, row, first + i);
            }
            for (token, prepared) in tile.prepared.chunks_exact(stride).enumerate() {
                let q = &prepared[PLAIN_HEADER + first..][..weights.len()];
                sums[token * tile.rows + row] += dot(weights, q);
            }
        }
    }
}

/// `sum weight q`.
fn dot(weights: &[i8], q: &[u8]) -> i32 {
    weights.iter().zip(q).map(|(w, q)| i32::from(*w) * i32::from(*q as i8)).sum()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn the_product_is_the_definition() {
        for set in SCALARS {
            check(set, 37, 384, 3);
            check(set, 1, 128, 1);
        }
    }

    fn check(set: &KernelSet, rows: usize, cols: usize, tokens: usize) {
        let weight = |r: usize, c: usize| ((r * 17 + c * 5) % 7 % 3) as i8 - 1;
        let q = |t: usize, c: usize| ((t * 101 + c * 37) % 256) as u8 as i8;
        let mut weights = vec![0u8; set.layout.bytes(rows, cols).unwrap()];
        pack::pack_with(set.layout, rows, cols, &mut weights, weight);
        let mut prepared = vec![0u8; tokens * set.prepared_bytes(cols)];
        for (t, p) in prepared.chunks_exact_mut(set.prepared_bytes(cols)).enumerate() {
            set.prepare(&(0..cols).map(|c| q(t, c)).collect::<Vec<_>>(), p);
        }
        let mut sums = vec![0; tokens * rows];
        set.multiply(&weights, rows, cols, &prepared, tokens, &mut [], &mut sums);
        for t in 0..tokens {
            for r in 0..rows {
                let expected: i32 = (0..cols).map(|c| i32::from(weight(r, c)) * i32::from(q(t, c))).sum();
                assert_eq!(sums[t * rows + r], expected, "{} token {t} row {r}", set.name);
            }
        }
    }
}
