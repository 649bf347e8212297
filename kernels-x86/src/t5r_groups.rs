//! Products of [`Layout::T5R`](tern_kernels::Layout::T5R) with a scale a row and group of columns, for few tokens.
//!
//! ```text
//! for 5 LANES rows
//!   y, y' = 0                                a double word for each of the first four rows of five, and for the fifth
//!   for each group of columns, for each digit
//!     G[0..6] over the group, as in the plain product, added up across each lane: X = G0 G1 G2 G3, Z = G4 G5
//!     s  = (3 X - (G1 G2 G3 G4) - 256 sum q) >> 8;  s' = (3 Z - (G5 ..) - 256 sum q) >> 8
//!     y  = y + s (scales factor);                   y' = y' + s' (scales' factor)
//! ```
//!
//! Values lie in the order of lanes until the last group was met: what is put into that order are the scales.
//!
//! Bounds: those of [`crate::t5r`].

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use tern_kernels::GroupedTile;

use crate::gemm::{RUN, StripProduct};
use crate::gemm_groups;
use crate::groups::{Room, Walk, groups_ahead, token_sum};
use crate::t5r::{PANEL, T5r, add_step};
use crate::vectors::{Dot, MOST_WORDS, Scale, Vectors, sum4, words};

/// Vectors of rows that meet a group together, so that memory is read in long runs though groups lie apart.
const MOST_VECTORS: usize = 24;

/// The same for the vectors of a tier.
const fn block<B: Vectors>() -> usize {
    2 * MOST_VECTORS / B::LANES
}

/// Tokens that meet bytes as they are: with more, the ends of groups outweigh expanding. Measured on a Zen 5 with groups
/// of 64 and 128 columns.
const fn direct_tokens<B: Vectors>(cols: usize) -> usize {
    1 + cols / if B::LANES == 4 { 64 } else { 128 }
}

/// The product with tiers that have a dot product of any bytes.
///
/// # Safety
/// As [`gemm_groups::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<B: Dot + Scale + StripProduct>(
    b: B,
    tile: GroupedTile<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    if tile.tokens * tile.digits > direct_tokens::<B>(tile.cols) {
        // SAFETY: the caller's duties are the same.
        return unsafe { multiply_strips(b, tile, scratch, values) };
    }
    for row in (0..tile.rows).step_by(block::<B>() * 5 * B::LANES) {
        let mut token = 0;
        while token < tile.tokens {
            let left = tile.tokens - token;
            let some = left.div_ceil(left.div_ceil((B::SUMS + 1) / 6));
            // SAFETY: the tile has these rows and `some` tokens from `token` on.
            unsafe {
                match some {
                    1 => direct::<B, 1>(b, tile, row, token, values),
                    2 => direct::<B, 2>(b, tile, row, token, values),
                    3 => direct::<B, 3>(b, tile, row, token, values),
                    _ => direct::<B, 4>(b, tile, row, token, values),
                }
            }
            token += some;
        }
    }
}

/// The product through expanded strips, for any tier and any number of tokens.
///
/// # Safety
/// As [`gemm_groups::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_strips<B: Scale + StripProduct>(
    b: B,
    tile: GroupedTile<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    // SAFETY: the caller's duties are the same.
    unsafe { gemm_groups::multiply::<B, T5r, 5>(b, tile, scratch, values) }
}

/// A block of rows from `row` on and `T` tokens from `token` on.
///
/// # Safety
/// 1. `tile` has the row, which begins a panel, and the tokens.
#[inline(always)]
unsafe fn direct<B: Dot + Scale, const T: usize>(
    b: B,
    tile: GroupedTile<'_>,
    row: usize,
    token: usize,
    values: &mut [f32],
) {
    let steps = tile.cols / RUN;
    let panel_bytes = 2 * tile.cols;
    let last = tile.rows.div_ceil(PANEL) - 1;
    let vectors = (tile.rows - row).div_ceil(5 * B::LANES).min(block::<B>());
    let mut y = [[[b.zero(); 2]; T]; MOST_VECTORS];
    // What is written out needs registers.
    let turn_steps = if B::LANES == 4 { 4 } else { 1 };
    let block_bytes = block::<B>() * 5 * B::LANES / PANEL * panel_bytes;
    let later = groups_ahead(block_bytes);
    let (mut walk, mut room) = (Walk::new(tile, token), Room::default());
    for group in 0..tile.groups {
        let ahead = tile.ahead(group, later, block_bytes);
        for (v, y) in y.iter_mut().enumerate().take(vectors) {
            let row = row + v * 5 * B::LANES;
            let low = walk.weights().wrapping_add(row / PANEL * panel_bytes);
            let high = if B::LANES == 4 {
                walk.weights().wrapping_add((row / PANEL + 1).min(last) * panel_bytes)
            } else {
                low.wrapping_add(RUN)
            };
            // SAFETY: the group has the row (1), and as many scales are there as are asked for.
            let scales = unsafe { in_lanes(b, walk.scales(row, 5 * B::LANES, &mut room)) };
            for digit in 0..tile.digits {
                let q = walk.activations::<T>(digit);
                let mut g = [[b.zero(); 6]; T];
                // SAFETY: every step of both panels (1), and of each token, whose columns are those of the group.
                unsafe {
                    for turn in 0..steps / turn_steps {
                        for step in 0..turn_steps {
                            add_step(b, (low, high), q, turn_steps * turn + step, ahead, &mut g);
                        }
                    }
                    for step in steps / turn_steps * turn_steps..steps {
                        add_step(b, (low, high), q, step, ahead, &mut g);
                    }
                }
                for t in 0..T {
                    // SAFETY: a token has its sum, and a digit its factor.
                    let (sum, factor) =
                        unsafe { (b.repeat4(token_sum(q[t])), b.repeat4(walk.factor(t, digit))) };
                    let rows = part(b, g[t], b.up32::<8>(sum));
                    for i in 0..2 {
                        y[t][i] = b.add_scaled(y[t][i], rows[i], scales[i], factor);
                    }
                }
            }
        }
        walk.next();
    }
    for t in 0..T {
        let out = &mut values[(token + t) * tile.rows..][row..tile.rows];
        for (y, out) in y.iter().zip(out.chunks_mut(5 * B::LANES)) {
            let [four, fifth] = [words(b, y[t][0]), words(b, y[t][1])];
            for (five, out) in out.chunks_mut(5).enumerate() {
                for (k, out) in out.iter_mut().enumerate() {
                    let bits = if k < 4 { four[4 * five + k] } else { fifth[4 * five] };
                    *out = f32::from_bits(bits as u32);
                }
            }
        }
    }
}

/// The sums of the first four rows of five, a lane each, and of the fifth, in the first double word of a lane.
#[inline(always)]
fn part<B: Scale>(b: B, g: [B::V; 6], less: B::V) -> [B::V; 2] {
    let first = sum4(b, [g[0], g[1], g[2], g[3]]);
    // G4 and G5 of two double words each, then of all four.
    let (low, high) = b.zip::<4>(g[4], g[5]);
    let halves = b.add32(low, high);
    let (even, odd) = b.zip::<8>(halves, halves);
    let last = b.add32(even, odd);
    let next = b.earlier32(first, last);
    let [mut four, mut fifth] = [first, last];
    four = b.sub32(b.add32(b.add32(four, four), four), next);
    fifth = b.sub32(b.add32(b.add32(fifth, fifth), fifth), b.earlier32(last, last));
    [b.shift32::<8>(b.sub32(four, less)), b.shift32::<8>(b.sub32(fifth, less))]
}

/// The scales of `5 LANES` rows as [`part`] has their sums.
///
/// # Safety
/// 1. As many are readable at `scales`.
#[inline(always)]
unsafe fn in_lanes<B: Scale>(b: B, scales: *const u16) -> [B::V; 2] {
    let order = if B::LANES == 4 { &ORDER_4 } else { &ORDER_2 };
    // SAFETY: the first of them and the last (1).
    let (low, high) = unsafe { (b.load_halves_wide(scales), b.load_halves_wide(scales.add(B::LANES))) };
    let first = b.permute32(low, index(b, &order.four));
    let of_high = b.permute32(high, index(b, &order.of_high));
    [b.choose32(index(b, &order.is_high), first, of_high), b.permute32(high, index(b, &order.fifth))]
}

/// A table as a vector.
#[inline(always)]
fn index<B: Vectors>(b: B, table: &[i32; MOST_WORDS]) -> B::V {
    // SAFETY: a table is as long as the longest vector.
    unsafe { b.load(table.as_ptr().cast()) }
}

/// Where the scales of rows are, in the first `4 LANES` of them and in the last.
struct Order {
    /// Of the first four of each five, in the first ones.
    four: [i32; MOST_WORDS],
    /// -1 for those that are not among the first ones.
    is_high: [i32; MOST_WORDS],
    /// Their places in the last ones.
    of_high: [i32; MOST_WORDS],
    /// Of the fifth of each five, in the last ones.
    fifth: [i32; MOST_WORDS],
}

static ORDER_4: Order = order(4);
static ORDER_2: Order = order(2);

const fn order(lanes: usize) -> Order {
    let zeros = [0; MOST_WORDS];
    let mut order = Order { four: zeros, is_high: zeros, of_high: zeros, fifth: zeros };
    let mut at = 0;
    while at < 4 * lanes {
        let row = 5 * (at / 4) + at % 4;
        if row < 4 * lanes {
            order.four[at] = row as i32;
        } else {
            order.is_high[at] = -1;
            order.of_high[at] = (row - lanes) as i32;
        }
        order.fifth[at] = (5 * (at / 4) + 4 - lanes) as i32;
        at += 1;
    }
    order
}
