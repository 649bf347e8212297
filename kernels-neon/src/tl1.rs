//! Ternary products by table lookup: 2 bits a weight, no multiplication, nothing beyond Armv8.0.
//!
//! Two activations `a0, a1` meet two weights in nine ways, so a pair has a table of nine values
//! `v = w0 a0 + w1 a1` at index `3 (w0 + 1) + (w1 + 1)`, and `tbl` looks sixteen rows up at once. A value needs ten
//! bits, hence two byte tables: `v = 32 hi + lo` with `lo = v mod 32` in 0..=31 and `hi = floor(v / 32)` in -8..=8.
//! With five low bits rather than eight the byte sums have headroom, and stay bytes for eight pairs.
//!
//! ```text
//! for each chunk of 960 columns, eight tokens, two panels (64 rows), token:   tables and weights of it stay in L1
//!   for each strip of at most 240 columns:
//!     for each step of 16 columns (8 pairs):
//!       lo, hi = 0                                             4 x u8x16, 4 x i8x16
//!       for each group of 4 columns:
//!         load 4 tables (2 pairs x lo, hi), 4 vectors of indices
//!         low = indices & 15; high = indices >> 4
//!         lo += tbl(lo0, low) + tbl(lo1, high); hi += tbl(hi0, low) + tbl(hi1, high)
//!       wide += lo; wide += 32 hi                              8 x i16x8: uaddw, smlal
//!     rows += wide                                             16 x i32x4: saddw
//!   sums += rows, where the row exists
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: `v` is in -256..=256. Over 8 pairs `lo` is at most 8 * 31 = 248
//! (`u8`) and `hi` within 8 * 8 = 64 (`i8`). One step moves `wide` by at most 8 * 256 = 2048 once both parts are in;
//! between the two it is off by at most 248 more, so 15 steps need 15 * 2048 + 248 = 30968 < 32768. `rows` and `sums`
//! stay within 128 * 2^22 = 2^29.
//!
//! Tail rules: a step of fewer than four groups ends a matrix whose columns are no multiple of 16; an odd last panel
//! runs alone; padded rows are computed and never written.
//!
//! Expected cycles per 64 weights with one token, by the issue model of `benches/yard` and by llvm-mca: Cortex-A72 9.8
//! and 9.9, A76 5.8 and 6.0 (14 instructions), A53 17.5 and 15.9; in the order of [`crate::tl1_in_order`] A53 13.8 and
//! 19.5, A55 13.9 and 18.6, A72 10.6 and 10.7 (18 instructions), hence the two sets. A second panel is worth more than a
//! second token here: it shares the tables (4 loads), a token would share only the indices.
//!
//! Source: the TL1 kernel of bitnet.cpp (arXiv 2502.11880, section 3). Changed: the split at 32 in place of 256,
//! which keeps sums in bytes; panels of 32 rows; exact for -128 and for any number of columns.

use crate::asm::load;
use core::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vaddq_s8, vaddq_u8, vaddw_high_s16, vaddw_high_u8,
    vaddw_s16, vaddw_u8, vandq_u8, vdup_n_s8, vdupq_n_s8, vdupq_n_s16, vdupq_n_u8, vget_low_s8, vget_low_s16,
    vget_low_u8, vld1q_s32, vmlal_high_s8, vmlal_s8, vqtbl1q_s8, vqtbl1q_u8, vreinterpretq_s8_u8,
    vreinterpretq_s16_u16, vreinterpretq_u16_s16, vshrq_n_u8, vst1q_s32,
};
use tern_kernels::reference::{PLAIN_OPS, plain_grain};
use tern_kernels::{KernelSet, Layout, TernaryOps, Tile};

use crate::float::FLOAT_OPS;
use crate::tl1_in_order::InOrder;

/// The lookup-table set for out-of-order cores; the baseline suffices, so it needs no proof.
pub(crate) static SET: KernelSet = KernelSet::new(
    "aarch64-tl1i8-neon",
    Layout::Tl1P32,
    TernaryOps { multiply: |tile, _, sums| multiply::<OutOfOrder>(tile, sums), ..TL1_OPS },
    FLOAT_OPS,
);

/// The set for cores that run instructions in their order.
pub(crate) static IN_ORDER_SET: KernelSet = KernelSet::new(
    "aarch64-tl1i8-neon-inorder",
    Layout::Tl1P32,
    TernaryOps { multiply: |tile, _, sums| multiply::<InOrder>(tile, sums), ..TL1_OPS },
    FLOAT_OPS,
);

/// The ternary operations of both sets; they differ in [`Steps`].
const TL1_OPS: TernaryOps = TernaryOps {
    prepared_bytes,
    prepare,
    grain: |rows, _, tokens, _| plain_grain(Layout::Tl1P32, rows, tokens),
    scratch_words: |_, _, _| 0,
    multiply: |tile, _, sums| multiply::<OutOfOrder>(tile, sums),
    ..PLAIN_OPS
};

/// Whole steps of a strip, by panel: eight vectors of indices.
pub(crate) type PanelSteps<'a> = &'a [[[u8; 16]; 8]];
/// The tables of as many steps: lo and hi of the first pair of columns, then of the second, and so on.
pub(crate) type TableSteps<'a> = &'a [[[u8; 16]; 16]];

/// The inner loop of a strip, in an order of instructions that suits a kind of core.
pub(crate) trait Steps {
    /// `wide += 32 hi + lo` of at most [`STRIP_STEPS`] steps, of which all slices have as many.
    fn add<const P: usize>(
        panels: [PanelSteps<'_>; P],
        tables: TableSteps<'_>,
        wide: &mut [[int16x8_t; 4]; P],
    );
}

/// An order that the compiler finds.
pub(crate) struct OutOfOrder;

impl Steps for OutOfOrder {
    #[inline]
    fn add<const P: usize>(
        panels: [PanelSteps<'_>; P],
        tables: TableSteps<'_>,
        wide: &mut [[int16x8_t; 4]; P],
    ) {
        // SAFETY: NEON is part of the target that this module is compiled for.
        unsafe { add_steps(panels, tables, wide) }
    }
}

/// Bytes of the two tables of a pair.
const PAIR_BYTES: usize = 32;
/// Steps of 16 columns that 16-bit sums can take, see the bounds above.
const STRIP_STEPS: usize = 15;
/// Columns of one pass over all panels: four strips, whose tables take 15 KiB, under half the smallest L1 cache.
const CHUNK_COLS: usize = 4 * STRIP_STEPS * 16;
/// Tokens that meet a panel while it is in cache.
const TOKEN_BLOCK: usize = 8;

/// Two byte tables of 16 entries for every pair of columns.
fn prepared_bytes(cols: usize) -> usize {
    cols / 2 * PAIR_BYTES
}

/// Builds the tables: for pair `p`, bytes `32p..` hold `v mod 32` and bytes `32p + 16..` hold `floor(v / 32)`;
/// entries 9..16, which no index reaches, are zero.
fn prepare(q: &[i8], prepared: &mut [u8]) {
    /// First and second weight of each index.
    const FIRST: [i16; 16] = [-1, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    const SECOND: [i16; 16] = [-1, 0, 1, -1, 0, 1, -1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let (pairs, _) = q.as_chunks::<2>();
    let (tables, _) = prepared.as_chunks_mut::<PAIR_BYTES>();
    for ([a0, a1], table) in pairs.iter().zip(tables) {
        for i in 0..16 {
            let v = FIRST[i] * i16::from(*a0) + SECOND[i] * i16::from(*a1);
            table[i] = (v & 31) as u8;
            table[16 + i] = (v >> 5) as u8;
        }
    }
}

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]`.
fn multiply<S: Steps>(tile: Tile<'_>, sums: &mut [i32]) {
    sums.fill(0);
    for first_col in (0..tile.cols).step_by(CHUNK_COLS) {
        let cols = CHUNK_COLS.min(tile.cols - first_col);
        for first_token in (0..tile.tokens).step_by(TOKEN_BLOCK) {
            let tokens = first_token..tile.tokens.min(first_token + TOKEN_BLOCK);
            for first_row in (0..tile.rows).step_by(64) {
                for token in tokens.clone() {
                    let tables = &tile.prepared[(token * tile.cols + first_col) * 16..][..cols * 16];
                    let rows = first_row..tile.rows.min(first_row + 64);
                    let sums = &mut sums[token * tile.rows..][rows];
                    let panel =
                        |row: usize| &tile.weights[(row * tile.cols / 4) + first_col * 8..][..cols * 8];
                    // SAFETY: NEON is part of the target that this module is compiled for.
                    unsafe {
                        if sums.len() > 32 {
                            add_panels::<S, 2>([panel(first_row), panel(first_row + 32)], tables, sums);
                        } else {
                            add_panels::<S, 1>([panel(first_row)], tables, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Adds to `sums` the products of `P` panels (`cols / 4 * 32` bytes each) with one token's tables (`cols * 16` bytes);
/// `sums` holds the rows that exist, at most `32 P`.
#[target_feature(enable = "neon")]
fn add_panels<S: Steps, const P: usize>(panels: [&[u8]; P], tables: &[u8], sums: &mut [i32]) {
    let mut rows = [[0i32; 32]; P];
    let (tables, _) = tables.as_chunks::<16>();
    let panels = panels.map(|panel| panel.as_chunks::<16>().0);
    let groups = tables.len() / 4;
    for first in (0..groups).step_by(4 * STRIP_STEPS) {
        let last = groups.min(first + 4 * STRIP_STEPS);
        let strip = panels.map(|panel| &panel[2 * first..2 * last]);
        add_strip::<S, P>(strip, &tables[4 * first..4 * last], &mut rows);
    }
    for (sum, row) in sums.iter_mut().zip(rows.as_flattened()) {
        *sum += row;
    }
}

/// Adds to `rows` a strip of at most [`STRIP_STEPS`] steps: two vectors a group of each panel, four of `tables`.
#[inline]
#[target_feature(enable = "neon")]
fn add_strip<S: Steps, const P: usize>(
    panels: [&[[u8; 16]]; P],
    tables: &[[u8; 16]],
    rows: &mut [[i32; 32]; P],
) {
    let (steps, tables_tail) = tables.as_chunks::<16>();
    debug_assert!(steps.len() < STRIP_STEPS || (steps.len() == STRIP_STEPS && tables_tail.is_empty()));
    let panel_steps = panels.map(|panel| &panel.as_chunks::<8>().0[..steps.len()]);
    let mut wide = [[vdupq_n_s16(0); 4]; P];
    S::add(panel_steps, steps, &mut wide);
    if !tables_tail.is_empty() {
        let mut bytes = [[Bytes::zero(); 2]; P];
        let tails = panels.map(|panel| panel.as_chunks::<8>().1);
        for group in 0..tables_tail.len() / 4 {
            add_group(
                tails.map(|i| [&i[2 * group], &i[2 * group + 1]]),
                &tables_tail[4 * group..],
                &mut bytes,
            );
        }
        widen(&bytes, &mut wide);
    }
    for (rows, wide) in rows.iter_mut().zip(wide) {
        for (rows, wide) in rows.as_chunks_mut::<8>().0.iter_mut().zip(wide) {
            add_rows(rows, wide);
        }
    }
}

/// [`Steps::add`] as the compiler schedules it.
#[inline]
#[target_feature(enable = "neon")]
fn add_steps<const P: usize>(
    panels: [PanelSteps<'_>; P],
    tables: TableSteps<'_>,
    wide: &mut [[int16x8_t; 4]; P],
) {
    for (at, tables) in tables.iter().enumerate() {
        let indices: [&[[u8; 16]; 8]; P] = panels.map(|panel| &panel[at]);
        let mut bytes = [[Bytes::zero(); 2]; P];
        for group in 0..4 {
            add_group(indices.map(|i| [&i[2 * group], &i[2 * group + 1]]), &tables[4 * group..], &mut bytes);
        }
        widen(&bytes, wide);
    }
}

/// Sums of table entries of sixteen rows, split as the tables are.
#[derive(Clone, Copy)]
struct Bytes {
    lo: uint8x16_t,
    hi: int8x16_t,
}

impl Bytes {
    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Self {
        Bytes { lo: vdupq_n_u8(0), hi: vdupq_n_s8(0) }
    }
}

/// Looks up one group of four columns: `indices` of 32 rows a panel, `tables` lo and hi of the first and second pair.
#[inline]
#[target_feature(enable = "neon")]
fn add_group<const P: usize>(indices: [[&[u8; 16]; 2]; P], tables: &[[u8; 16]], bytes: &mut [[Bytes; 2]; P]) {
    let [lo0, lo1] = [load(&tables[0]), load(&tables[2])];
    let [hi0, hi1] = [load(&tables[1]), load(&tables[3])].map(|hi| vreinterpretq_s8_u8(hi));
    for (indices, bytes) in indices.iter().zip(bytes) {
        for (indices, bytes) in indices.iter().zip(bytes) {
            let both = load(indices);
            let (low, high) = (vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both));
            bytes.lo = vaddq_u8(bytes.lo, vqtbl1q_u8(lo0, low));
            bytes.hi = vaddq_s8(bytes.hi, vqtbl1q_s8(hi0, low));
            bytes.lo = vaddq_u8(bytes.lo, vqtbl1q_u8(lo1, high));
            bytes.hi = vaddq_s8(bytes.hi, vqtbl1q_s8(hi1, high));
        }
    }
}

/// `wide += 32 hi + lo`, for 32 rows a panel in four registers.
#[inline]
#[target_feature(enable = "neon")]
fn widen<const P: usize>(bytes: &[[Bytes; 2]; P], wide: &mut [[int16x8_t; 4]; P]) {
    let thirty_two = vdup_n_s8(32);
    for (bytes, wide) in bytes.iter().zip(wide) {
        for (bytes, wide) in bytes.iter().zip(wide.as_chunks_mut::<2>().0) {
            let [low, high] = wide.map(|w| vreinterpretq_u16_s16(w));
            let low = vreinterpretq_s16_u16(vaddw_u8(low, vget_low_u8(bytes.lo)));
            let high = vreinterpretq_s16_u16(vaddw_high_u8(high, bytes.lo));
            wide[0] = vmlal_s8(low, vget_low_s8(bytes.hi), thirty_two);
            wide[1] = vmlal_high_s8(high, bytes.hi, vdupq_n_s8(32));
        }
    }
}

/// Adds eight 16-bit sums to eight rows.
#[inline]
#[target_feature(enable = "neon")]
fn add_rows(rows: &mut [i32; 8], wide: int16x8_t) {
    let rows = rows.as_mut_ptr();
    // SAFETY: two loads and two stores of four numbers each, in an array of eight.
    unsafe {
        let low: int32x4_t = vaddw_s16(vld1q_s32(rows), vget_low_s16(wide));
        let high: int32x4_t = vaddw_high_s16(vld1q_s32(rows.add(4)), wide);
        vst1q_s32(rows, low);
        vst1q_s32(rows.add(4), high);
    }
}
