//! Ternary products on five columns a byte ([`Layout::T5C`]) for cores without `sdot`.
//!
//! Eight tokens and more go by [`crate::veclut`], for which this layout is made; it comes in two sets because cores
//! in order and out of order want different loops. Fewer tokens take digits out of the bytes:
//!
//! ```text
//! for each four rows of a panel:
//!   for each block of 80 columns, for each row:
//!     q = the row's 16 bytes
//!     for k in 0..5:                      columns 80b + 16k + 0..16
//!       w = (-42 > q) - (q > 42)          comparisons give -1 for true
//!       for each token: sums16 += w a[k]  smlal, smlal2
//!       q = 3 q                           two additions, wrapping
//!     every 32 blocks: sums += sums16
//! ```
//!
//! `q` is 256 / 243 of a number in balanced base 3, rounded, so its first digit is +1 from 43 on and -1 from -43
//! down.
//!
//! Bounds, for any `i8` activations: a lane of `sums16` takes five products of at most 128 a block, 32 * 5 * 128 =
//! 20480 < 32768.
//!
//! Tail rules: columns beyond a multiple of 80 have zeros in place of activations; rows beyond the last are
//! padding, computed and not written; three tokens are two and one.
//!
//! Expected cycles per 64 weights with one token (32 instructions): 14 on Cortex-A72, 49 on A53. [`Layout::T5R`]
//! has the better kernel for one token.
//!
//! Source: our own; the encoding is [`tern_kernels::five`]'s.

use crate::asm::{load, opaque, prefetch_lines};
use crate::float::FLOAT_OPS;
use crate::panels::{self, PanelKernel};
use crate::veclut;
use crate::veclut_rows::{AddRows, add_rows_halves, add_rows_whole};
use core::arch::aarch64::{
    int8x16_t, int16x8_t, vaddq_s8, vaddvq_s32, vcgtq_s8, vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, vget_low_s8,
    vmlal_high_s8, vmlal_s8, vpadalq_s16, vreinterpretq_s8_u8, vsubq_s8,
};
use tern_kernels::reference::{PLAIN_HEADER, PLAIN_OPS, plain_grain, prepared_bytes};
use tern_kernels::{Grain, KernelSet, Layout, TernaryOps, Tile, five};

/// Rows of a panel.
pub(crate) const ROWS: usize = Layout::T5C.panel_rows();
/// Bytes of a panel's block of 80 columns.
pub(crate) const BLOCK_BYTES: usize = 16 * ROWS;
/// Panels whose bytes are asked for before they are copied.
const PANELS_AHEAD: usize = 8;
/// Rows whose sums are in registers together.
const GROUP: usize = 4;
/// Blocks that 16-bit sums can take, see the bounds above.
const STRIP_BLOCKS: usize = 32;

/// For cores out of order; the baseline suffices, so it needs no proof.
pub(crate) static SET: KernelSet =
    KernelSet::new("aarch64-t5ci8-neon", Layout::T5C, ops(multiply_whole), FLOAT_OPS);

/// For cores in order, of which Cortex-A53 is what it was written for.
pub(crate) static IN_ORDER: KernelSet =
    KernelSet::new("aarch64-t5ci8-neon-inorder", Layout::T5C, ops(multiply_halves), FLOAT_OPS);

/// The ternary operations of a set for this layout.
pub(crate) const fn ops(multiply: fn(Tile<'_>, &mut [u64], &mut [i32])) -> TernaryOps {
    TernaryOps {
        grain,
        scratch_words: |rows, _, tokens| veclut::scratch_words(rows, ROWS, tokens),
        multiply,
        ..PLAIN_OPS
    }
}

fn grain(rows: usize, _: usize, tokens: usize, workers: usize) -> Grain {
    if veclut::share(rows, tokens) == 0 {
        plain_grain(Layout::T5C, rows, tokens)
    } else {
        veclut::grain(ROWS, rows, tokens, workers)
    }
}

fn multiply_whole(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    multiply::<Digits>(tile, scratch, sums, add_rows_whole);
}

fn multiply_halves(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    multiply::<Digits>(tile, scratch, sums, add_rows_halves);
}

/// By tables for as many tokens as it pays, then by `K`.
pub(crate) fn multiply<K: PanelKernel<ROWS>>(
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
    add_rows: AddRows,
) {
    let tokens = veclut::share(tile.rows, tile.tokens);
    let (by_tables, by_panels) = sums.split_at_mut(tokens * tile.rows);
    if tokens > 0 {
        let panel_bytes = Layout::T5C.panel_bytes(tile.cols).max(1);
        let indices = |block: usize, low: &mut [u64], high: &mut [u64]| {
            let rows = low.as_chunks_mut::<ROWS>().0.iter_mut().zip(high.as_chunks_mut::<ROWS>().0);
            for (panel, (low, high)) in tile.weights.chunks_exact(panel_bytes).zip(rows) {
                let rows = panel[block * BLOCK_BYTES..].first_chunk::<BLOCK_BYTES>().expect("a whole block");
                // Blocks of two panels lie apart, which no core foresees.
                let ahead = rows.as_ptr().wrapping_add(PANELS_AHEAD * panel_bytes);
                // SAFETY: NEON is part of the target that this module is compiled for.
                unsafe { prefetch_lines::<{ BLOCK_BYTES / 64 }>(ahead) };
                for ((row, low), high) in rows.as_chunks::<16>().0.iter().zip(low).zip(high) {
                    let both = u128::from_le_bytes(*row);
                    (*low, *high) = (both as u64, (both >> 64) as u64);
                }
            }
        };
        veclut::multiply(tile, ROWS, tokens, scratch, by_tables, &indices, add_rows);
    }
    if tokens < tile.tokens {
        let prepared = &tile.prepared[tokens * prepared_bytes(tile.cols)..];
        panels::multiply::<K, ROWS>(Tile { prepared, tokens: tile.tokens - tokens, ..tile }, by_panels);
    }
}

/// Activations of block `block` of one token, by weight of a byte; zeros beyond the columns.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn activations(token: &[[u8; 16]], block: usize) -> [int8x16_t; five::WEIGHTS] {
    let (blocks, _) = token.as_chunks::<{ five::WEIGHTS }>();
    if let Some(block) = blocks.get(block) {
        return block.each_ref().map(|bytes| vreinterpretq_s8_u8(load(bytes)));
    }
    let tail = &token[block * five::WEIGHTS..];
    core::array::from_fn(|k| match tail.get(k) {
        Some(bytes) => vreinterpretq_s8_u8(load(bytes)),
        None => vdupq_n_s8(0),
    })
}

/// Three times each byte, wrapping.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn triple(q: int8x16_t) -> int8x16_t {
    vaddq_s8(opaque(vaddq_s8(q, q)), q)
}

struct Digits;

impl PanelKernel<ROWS> for Digits {
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: NEON is part of the target that this module is compiled for.
        unsafe { products(panel, tokens) }
    }
}

/// Four rows with one token at a time, two with more: sums of sixteen lanes are two registers.
#[target_feature(enable = "neon")]
fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
    let (blocks, _) = panel.as_chunks::<BLOCK_BYTES>();
    let tokens = tokens.map(|token| token[PLAIN_HEADER..].as_chunks::<16>().0);
    let mut sums = [[0; ROWS]; T];
    if T == 1 {
        groups::<GROUP, T>(blocks, tokens, &mut sums);
    } else {
        groups::<{ GROUP / 2 }, T>(blocks, tokens, &mut sums);
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
fn groups<const R: usize, const T: usize>(
    blocks: &[[u8; BLOCK_BYTES]],
    tokens: [&[[u8; 16]]; T],
    sums: &mut [[i32; ROWS]; T],
) {
    for first in (0..ROWS).step_by(R) {
        let mut wide = [[vdupq_n_s32(0); R]; T];
        for strip in (0..blocks.len()).step_by(STRIP_BLOCKS) {
            let last = blocks.len().min(strip + STRIP_BLOCKS);
            let mut narrow = [[[vdupq_n_s16(0); 2]; R]; T];
            for (block, bytes) in blocks.iter().enumerate().take(last).skip(strip) {
                let rows = bytes[16 * first..].as_chunks::<16>().0.first_chunk::<R>();
                let rows = rows.expect("groups divide the panel");
                let a = tokens.map(|token| activations(token, block));
                for (r, row) in rows.iter().enumerate() {
                    let sums = narrow.each_mut().map(|rows| &mut rows[r]);
                    add_digits(vreinterpretq_s8_u8(load(row)), a, sums);
                }
            }
            for (wide, narrow) in wide.as_flattened_mut().iter_mut().zip(narrow.as_flattened()) {
                *wide = vpadalq_s16(vpadalq_s16(*wide, narrow[0]), narrow[1]);
            }
        }
        for (sums, wide) in sums.iter_mut().zip(wide) {
            for (sum, wide) in sums[first..].iter_mut().zip(wide) {
                *sum = vaddvq_s32(wide);
            }
        }
    }
}

/// Adds the products of a row's sixteen bytes with each token's block.
#[inline]
#[target_feature(enable = "neon")]
fn add_digits<const T: usize>(
    mut q: int8x16_t,
    tokens: [[int8x16_t; five::WEIGHTS]; T],
    mut sums: [&mut [int16x8_t; 2]; T],
) {
    for k in 0..five::WEIGHTS {
        let minus = vcgtq_s8(vdupq_n_s8(-42), q);
        let plus = vcgtq_s8(q, vdupq_n_s8(42));
        let w = vsubq_s8(vreinterpretq_s8_u8(minus), vreinterpretq_s8_u8(plus));
        for (a, sums) in tokens.iter().zip(&mut sums) {
            sums[0] = vmlal_s8(sums[0], vget_low_s8(w), vget_low_s8(a[k]));
            sums[1] = vmlal_high_s8(sums[1], w, a[k]);
        }
        q = triple(q);
    }
}
