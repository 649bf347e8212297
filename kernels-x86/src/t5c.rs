//! Products of [`Layout::T5C`](tern_kernels::Layout::T5C): five columns a byte, 1.6 bits a weight, without a digit taken.
//!
//! ```text
//! for 4 LANES rows (a panel with AVX-512, half of one with AVX-VNNI), for each block of 80 columns
//!   for each of four vectors, a lane for each row
//!     u = bytes ^ 0x80                       unsigned fractions of five weights
//!     for k in 0..5
//!       a = activations 16k..16k+16 of the block in every lane, for each token
//!       P = vpdpbusd(P, u, a)
//!       u = u + u + u                        drops the leading weight: 3 u = 256 (w + 1) + next u
//!       Q = vpdpbusd(Q, u, a)
//! row = (3 P - Q - 256 sum q) / 256, over the four double words of its lane
//! ```
//!
//! Bound: as in [`crate::t5r`]: everything is exact modulo 2^32, and what is divided is 256 times a row's exact sum, at
//! most 256 x 128 x 65,280 = 2,139,095,040, below 2^31.
//!
//! Tail: a prepared token has zeros up to a multiple of 80 columns.
//! Estimate for AVX-512, one token, 64 bytes (320 weights): 1 load, 10 dot products, 10 additions, 1 xor: 6 cycles.

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use core::ops::Range;

use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum};

use crate::gemm::{self, Expand, RUN, StripProduct};
use crate::tiles::{prefetch, prefetch_line};
use crate::vectors::{Dot, Vectors, sum4, transpose4, words};

/// Rows of a panel.
const PANEL: usize = 16;

/// Columns of a block.
const BLOCK_COLS: usize = 80;

/// Bytes of a block of a panel.
const BLOCK_BYTES: usize = 256;

/// How far ahead weights are asked for, in bytes of a panel.
const AHEAD_BYTES: usize = 8192;

/// Tokens up to which bytes are multiplied as they are: two dot products a weight, but no expansion.
const DIRECT_TOKENS: usize = 6;

/// Bytes of a prepared token: the plain form, with zeros to the end of a block.
pub(crate) fn prepared_bytes(cols: usize) -> usize {
    PLAIN_HEADER + cols.next_multiple_of(BLOCK_COLS).next_multiple_of(64)
}

/// The product with tiers that have a dot product of any bytes.
///
/// # Safety
/// As [`gemm::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<B: Dot + StripProduct>(
    b: B,
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    if tile.tokens > DIRECT_TOKENS {
        // SAFETY: the caller's duties are the same.
        return unsafe { multiply_strips(b, tile, scratch, sums) };
    }
    for row in (0..tile.rows).step_by(B::WORDS) {
        let mut token = 0;
        while token < tile.tokens {
            let left = tile.tokens - token;
            let group = left.div_ceil(left.div_ceil(B::SUMS / 8));
            // SAFETY: the tile has these rows and `group` tokens from `token` on.
            unsafe {
                match group {
                    1 => direct::<B, 1>(b, tile, row, token, sums),
                    2 => direct::<B, 2>(b, tile, row, token, sums),
                    _ => direct::<B, 3>(b, tile, row, token, sums),
                }
            }
            token += group;
        }
    }
}

/// The product through expanded strips, for any tier and any number of tokens.
///
/// # Safety
/// As [`gemm::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_strips<B: StripProduct>(
    b: B,
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    // SAFETY: the caller's duties are the same.
    unsafe { gemm::multiply::<B, T5c, 4>(b, tile, scratch, sums) }
}

/// Where the rows from `row` on begin in block 0 of their panel.
#[inline(always)]
fn rows_at(tile: Tile<'_>, row: usize) -> *const u8 {
    let panel_bytes = BLOCK_BYTES * tile.cols.div_ceil(BLOCK_COLS);
    tile.weights[row / PANEL * panel_bytes + row % PANEL * 16..].as_ptr()
}

/// `4 LANES` rows from `row` on and `T` tokens from `token` on.
///
/// # Safety
/// 1. `tile` has the row, which is a multiple of `4 LANES`, and the tokens.
#[inline(always)]
unsafe fn direct<B: Dot, const T: usize>(b: B, tile: Tile<'_>, row: usize, token: usize, sums: &mut [i32]) {
    let stride = tile.prepared.len() / tile.tokens;
    let tokens = &tile.prepared[token * stride..][..T * stride];
    let rows = (tile.rows - row).min(B::WORDS);
    let (mut p, mut q) = ([[b.zero(); T]; 4], [[b.zero(); T]; 4]);
    for block in 0..tile.cols.div_ceil(BLOCK_COLS) {
        // SAFETY: a block of the panel (1), and of each token, which is padded to whole blocks.
        unsafe {
            let at = rows_at(tile, row).add(BLOCK_BYTES * block);
            let mut u = [b.zero(); 4];
            for v in 0..4 {
                prefetch(&*at.add(v * B::BYTES), AHEAD_BYTES);
                u[v] = b.xor(b.load(at.add(v * B::BYTES)), b.splat8(0x80));
            }
            for k in 0..5 {
                let mut a = [b.zero(); T];
                for t in 0..T {
                    let col = BLOCK_COLS * block + RUN * k;
                    a[t] = b.repeat16(tokens.as_ptr().add(t * stride + PLAIN_HEADER + col));
                }
                for v in 0..4 {
                    for t in 0..T {
                        p[v][t] = b.dot(p[v][t], u[v], a[t]);
                    }
                    u[v] = b.triple8(u[v]);
                    for t in 0..T {
                        q[v][t] = b.dot(q[v][t], u[v], a[t]);
                    }
                }
            }
        }
    }
    for t in 0..T {
        let mut scaled = [b.zero(); 4];
        for v in 0..4 {
            let tripled = b.add32(b.add32(p[v][t], p[v][t]), p[v][t]);
            scaled[v] = b.sub32(tripled, q[v][t]);
        }
        let less = b.splat32(plain_sum(&tokens[t * stride..]).wrapping_mul(256));
        let four = words(b, b.shift32::<8>(b.sub32(sum4(b, scaled), less)));
        let out = &mut sums[(token + t) * tile.rows + row..][..rows];
        for (i, out) in out.iter_mut().enumerate() {
            // Row `i` was lane `i % LANES` of vector `i / LANES`.
            *out = four[4 * (i % B::LANES) + i / B::LANES];
        }
    }
}

/// How strips are expanded: lanes are picked so that a transposition puts the rows in order, four columns a double word;
/// the five weights of a byte then belong to five runs.
pub(crate) struct T5c;

impl Expand<4> for T5c {
    const UNIT: usize = BLOCK_COLS;

    #[inline(always)]
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, strip: *mut u8) {
        let last = tile.rows.div_ceil(PANEL) * PANEL - B::WORDS;
        let runs = cols.len().div_ceil(RUN);
        for v in 0..4 {
            let from = rows_at(tile, (row + v * B::WORDS).min(last));
            for block in 0..runs.div_ceil(5) {
                let at = from.wrapping_add(BLOCK_BYTES * (cols.start / BLOCK_COLS + block));
                let mut rows = [b.zero(); 4];
                for line in 0..B::WORDS / 4 {
                    prefetch_line(at.wrapping_add(64 * line + AHEAD_BYTES));
                }
                for (j, rows) in rows.iter_mut().enumerate() {
                    let mut lanes = [at; 4];
                    for (l, lane) in lanes.iter_mut().enumerate() {
                        *lane = at.wrapping_add(16 * (4 * l + j));
                    }
                    // SAFETY: rows of a panel's block, within the tile (1).
                    *rows = unsafe { b.load_lanes(lanes) };
                }
                for (s, mut q) in transpose4(b, rows).into_iter().enumerate() {
                    // The last block may have fewer runs than five.
                    for run in 5 * block..runs.min(5 * block + 5) {
                        // SAFETY: a vector of a step of a run below `runs`, for which the strip has room (3).
                        unsafe { b.store(strip.add(((4 * run + s) * 4 + v) * B::BYTES), b.five_code(q)) };
                        q = b.triple8(q);
                    }
                }
            }
        }
    }
}
