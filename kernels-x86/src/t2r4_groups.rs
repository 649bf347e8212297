//! Products of [`Layout::T2R4`](tern_kernels::Layout::T2R4) with a scale a row and group of columns, for few tokens.
//!
//! ```text
//! for each vector of rows
//!   y = 0                                    a double word a row, for each token
//!   for each group of columns, for each digit
//!     D[0..4] over the group, as in the plain product
//!     s = (D - (0, D0, D1, D2)) >> (0, 2, 4, 6) - sum q      lane by lane, once D was added up across it
//!     y = y + s (scales factor)
//! ```
//!
//! The sums of a group never leave the registers: what its end costs are nine operations to add up across lanes, four to part
//! the rows and five for their values, beside nine a step of 16 columns.
//!
//! Bounds: those of the plain product, [`crate::t2r4`] and [`crate::vectors::Vectors::dot_codes`].

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use tern_kernels::GroupedTile;

use crate::gemm::{RUN, StripProduct};
use crate::gemm_groups;
use crate::groups::{Room, Walk, groups_ahead, token_sum};
use crate::t2r4::{T2r4, add_codes, add_step, lanes_offset};
use crate::vectors::{Dot, MOST_WORDS, Scale, Vectors, sum4, words};

/// Vectors of rows that meet a group together: as many as make a page of codes in groups of 64 with the widest vectors, so that
/// memory is read in long runs though groups lie apart.
const MOST_VECTORS: usize = 32;

/// The same for the vectors of a tier.
const fn block<B: Vectors>() -> usize {
    2 * MOST_VECTORS / B::LANES
}

/// Tokens that meet bytes as they are: with more, the ends of groups outweigh expanding. Measured on a Zen 5 with groups of 64
/// and 128 columns.
const fn direct_tokens<B: Vectors>(cols: usize) -> usize {
    if B::LANES == 4 { 6 } else { 6 * cols.div_ceil(64) }
}

/// The same where only codes can be multiplied.
const CODES_TOKENS: usize = 2;

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
    let most = B::SUMS / 4;
    if tile.tokens * tile.digits > direct_tokens::<B>(tile.cols) {
        // SAFETY: the caller's duties are the same.
        return unsafe { gemm_groups::multiply::<B, T2r4, 4>(b, tile, scratch, values) };
    }
    for row in (0..tile.rows).step_by(block::<B>() * B::WORDS) {
        let mut token = 0;
        while token < tile.tokens {
            let left = tile.tokens - token;
            let some = left.div_ceil(left.div_ceil(most));
            // SAFETY: the tile has these rows and `some` tokens from `token` on.
            unsafe {
                match some {
                    1 => direct::<B, 1>(b, tile, row, token, values),
                    2 => direct::<B, 2>(b, tile, row, token, values),
                    3 => direct::<B, 3>(b, tile, row, token, values),
                    4 => direct::<B, 4>(b, tile, row, token, values),
                    5 => direct::<B, 5>(b, tile, row, token, values),
                    _ => direct::<B, 6>(b, tile, row, token, values),
                }
            }
            token += some;
        }
    }
}

/// A block of rows from `row` on and `T` tokens from `token` on.
///
/// # Safety
/// 1. `tile` has the row, which is a multiple of `WORDS`, and the tokens.
#[inline(always)]
unsafe fn direct<B: Dot + Scale, const T: usize>(
    b: B,
    tile: GroupedTile<'_>,
    row: usize,
    token: usize,
    values: &mut [f32],
) {
    let steps = tile.cols / RUN;
    let vectors = (tile.rows - row).div_ceil(B::WORDS).min(block::<B>());
    let mut y = [[b.zero(); T]; MOST_VECTORS];
    let block_bytes = block::<B>() * B::WORDS * tile.cols / 4;
    let later = groups_ahead(block_bytes);
    let (mut walk, mut room) = (Walk::new(tile, token), Room::default());
    for group in 0..tile.groups {
        let ahead = tile.ahead(group, later, block_bytes);
        for (v, y) in y.iter_mut().enumerate().take(vectors) {
            let row = row + v * B::WORDS;
            let from = walk.weights().wrapping_add(lanes_offset(tile.cols, row));
            // SAFETY: the group has the row (1), and as many scales are there as a vector has.
            let scales = unsafe { b.load_halves_wide(walk.scales(row, B::WORDS, &mut room)) };
            for digit in 0..tile.digits {
                let q = walk.activations::<T>(digit);
                let mut d = [[b.zero(); 4]; T];
                // SAFETY: every step of the panel (1), and of each token, whose columns are those of the group.
                unsafe {
                    for turn in 0..steps / 4 {
                        for step in 0..4 {
                            add_step(b, from, q, 4 * turn + step, ahead, &mut d);
                        }
                    }
                    for step in steps / 4 * 4..steps {
                        add_step(b, from, q, step, ahead, &mut d);
                    }
                }
                for t in 0..T {
                    // SAFETY: a token has its sum, and a digit its factor.
                    let (less, factor) =
                        unsafe { (b.repeat4(token_sum(q[t])), b.repeat4(walk.factor(t, digit))) };
                    let rows = b.sub32(part(b, sum4(b, d[t])), less);
                    y[t] = b.add_scaled(y[t], rows, scales, factor);
                }
            }
        }
        walk.next();
    }
    for t in 0..T {
        let out = &mut values[(token + t) * tile.rows..][row..tile.rows];
        for (y, out) in y.iter().zip(out.chunks_mut(B::WORDS)) {
            store(b, y[t], out);
        }
    }
}

/// Codes times activations of the four rows of a lane, from the sums `D0, D1, D2, D3` of their nested parts in it.
#[inline(always)]
fn part<B: Scale>(b: B, sums: B::V) -> B::V {
    static SHIFTS: [i32; MOST_WORDS] = [0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6];
    // SAFETY: as many double words as the longest vector has.
    let shifts = unsafe { b.load(SHIFTS.as_ptr().cast()) };
    b.shift_each32(b.sub32(sums, b.later32(sums)), shifts)
}

/// Stores the values of a vector's rows, as many as there are.
#[inline(always)]
fn store<B: Scale>(b: B, y: B::V, out: &mut [f32]) {
    if out.len() >= B::WORDS {
        // SAFETY: as many double words as a vector has, by the line above.
        unsafe { b.store(out.as_mut_ptr().cast(), y) };
    } else {
        for (out, y) in out.iter_mut().zip(words(b, y)) {
            *out = f32::from_bits(y as u32);
        }
    }
}

/// The product with tiers that multiply codes only.
///
/// # Safety
/// As [`gemm_groups::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_codes<B: Scale + StripProduct>(
    b: B,
    tile: GroupedTile<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    if tile.tokens * tile.digits > CODES_TOKENS {
        // SAFETY: the caller's duties are the same.
        return unsafe { gemm_groups::multiply::<B, T2r4, 4>(b, tile, scratch, values) };
    }
    for row in (0..tile.rows).step_by(block::<B>() * B::WORDS) {
        for token in 0..tile.tokens {
            // SAFETY: the tile has these rows and tokens.
            unsafe { direct_codes(b, tile, row, token, values) };
        }
    }
}

/// A block of rows from `row` on and a token, four steps at a time, every field taken out as codes.
///
/// # Safety
/// 1. `tile` has the row, which is a multiple of `WORDS`, and the token.
#[inline(always)]
unsafe fn direct_codes<B: Scale>(b: B, tile: GroupedTile<'_>, row: usize, token: usize, values: &mut [f32]) {
    let steps = tile.cols / RUN;
    let vectors = (tile.rows - row).div_ceil(B::WORDS).min(block::<B>());
    let mut y = [b.zero(); MOST_VECTORS];
    let block_bytes = block::<B>() * B::WORDS * tile.cols / 4;
    let later = groups_ahead(block_bytes);
    let (mut walk, mut room) = (Walk::new(tile, token), Room::default());
    for group in 0..tile.groups {
        let ahead = tile.ahead(group, later, block_bytes);
        for (v, y) in y.iter_mut().enumerate().take(vectors) {
            let row = row + v * B::WORDS;
            let from = walk.weights().wrapping_add(lanes_offset(tile.cols, row));
            // SAFETY: the group has the row (1), and as many scales are there as a vector has.
            let scales = unsafe { b.load_halves_wide(walk.scales(row, B::WORDS, &mut room)) };
            for digit in 0..tile.digits {
                let [q] = walk.activations::<1>(digit);
                let mut four = [b.zero(); 4];
                for first in (0..steps).step_by(4) {
                    // SAFETY: steps of the panel and of the token (1).
                    unsafe { add_codes(b, from, q, first, steps, ahead, &mut four) };
                }
                // SAFETY: a token has its sum, and a digit its factor.
                let (less, factor) = unsafe { (b.repeat4(token_sum(q)), b.repeat4(walk.factor(0, digit))) };
                *y = b.add_scaled(*y, b.sub32(sum4(b, four), less), scales, factor);
            }
        }
        walk.next();
    }
    let out = &mut values[token * tile.rows..][row..tile.rows];
    for (y, out) in y.iter().zip(out.chunks_mut(B::WORDS)) {
        store(b, *y, out);
    }
}
