//! Products of [`Layout::T2R4`](tern_kernels::Layout::T2R4): four rows a byte, two bits a weight, one mask a row.
//!
//! ```text
//! for 16 rows (a panel), for each 16 columns
//!   c = bytes + 0x40                         a lane for each four rows; all four fields are codes now (weight + 1)
//!   a = the 16 activations in every lane, for each token
//!   D[0] = vpdpbusd(D[0], c & 3,  a)         code 0
//!   D[1] = vpdpbusd(D[1], c & 15, a)         code 0 + 4 code 1
//!   D[2] = vpdpbusd(D[2], c & 63, a)         ... + 16 code 2
//!   D[3] = vpdpbusd(D[3], c,      a)         ... + 64 code 3
//! row k of four = (D[k] - D[k-1]) / 4^k - sum q, over the four double words of a lane
//! ```
//!
//! Nested masks need no shift. Bound: a byte is at most 2 + 8 + 32 + 128 = 170 (255 in damaged files), so 65,280
//! columns reach at most 255 x 128 x 65,280 = 2,130,739,200 in D[3], below 2^31; the differences are smaller and each
//! double word of them is a multiple of 4^k.
//!
//! Tail: none, columns are a multiple of 16.
//! Estimate for AVX-512, one token, 64 bytes (256 weights): 2 loads, 4 dot products, 4 other operations: 2 cycles.
//! Six tokens at once take 24 dot products for these 4 operations, so a strip is expanded only to save the sums across
//! lanes at the end, and not before [`DIRECT_TOKENS`].

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use core::ops::Range;

use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum};

use crate::gemm::{self, Expand, RUN, StripProduct};
use crate::tiles::prefetch_line;
use crate::vectors::{Dot, Vectors, sum4, transpose4, words};

/// Rows of a panel.
const PANEL: usize = 16;

/// Bytes that a panel has for 16 columns.
const STEP: usize = 64;

/// How far ahead weights are asked for, in bytes of a panel.
const AHEAD_BYTES: usize = 8192;

/// Tokens up to which bytes are multiplied as they are.
const DIRECT_TOKENS: usize = 48;

/// The same where two tokens at once are all that registers hold.
const DIRECT_TOKENS_256: usize = 8;

/// The same where only codes can be multiplied, so that fields are taken out for every token.
const CODES_TOKENS: usize = 3;

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
    let most = if B::LANES == 4 { DIRECT_TOKENS } else { DIRECT_TOKENS_256 };
    if tile.tokens > most {
        // SAFETY: the caller's duties are the same.
        return unsafe { multiply_strips(b, tile, scratch, sums) };
    }
    for row in (0..tile.rows).step_by(B::WORDS) {
        let mut token = 0;
        while token < tile.tokens {
            let left = tile.tokens - token;
            let group = left.div_ceil(left.div_ceil(B::SUMS / 4));
            // SAFETY: the tile has these rows and `group` tokens from `token` on.
            unsafe {
                match group {
                    1 => direct::<B, 1, 2>(b, tile, row, token, sums),
                    2 => direct::<B, 2, 1>(b, tile, row, token, sums),
                    3 => direct::<B, 3, 1>(b, tile, row, token, sums),
                    4 => direct::<B, 4, 1>(b, tile, row, token, sums),
                    5 => direct::<B, 5, 1>(b, tile, row, token, sums),
                    _ => direct::<B, 6, 1>(b, tile, row, token, sums),
                }
            }
            token += group;
        }
    }
}

/// The product with tiers that multiply codes only.
///
/// # Safety
/// As [`gemm::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_codes<B: StripProduct>(
    b: B,
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    if tile.tokens > CODES_TOKENS {
        // SAFETY: the caller's duties are the same.
        return unsafe { multiply_strips(b, tile, scratch, sums) };
    }
    for row in (0..tile.rows).step_by(B::WORDS) {
        for token in 0..tile.tokens {
            // SAFETY: the tile has these rows and tokens.
            unsafe { direct_codes(b, tile, row, token, sums) };
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
    unsafe { gemm::multiply::<B, T2r4, 4>(b, tile, scratch, sums) }
}

/// Where the lanes of a vector that starts at `row` begin in step 0 of its panel.
#[inline(always)]
fn lanes_at(tile: Tile<'_>, row: usize) -> *const u8 {
    tile.weights[lanes_offset(tile.cols, row)..].as_ptr()
}

/// The same, from the first byte of a matrix with `cols` columns.
#[inline(always)]
pub(crate) fn lanes_offset(cols: usize, row: usize) -> usize {
    row / PANEL * (4 * cols) + row % PANEL * 4
}

/// `4 LANES` rows from `row` on and `T` tokens from `token` on. `U` sets of sums take turns, so that no addition waits for
/// the one before.
///
/// # Safety
/// 1. `tile` has the row, which is a multiple of `4 LANES`, and the tokens.
#[inline(always)]
unsafe fn direct<B: Dot, const T: usize, const U: usize>(
    b: B,
    tile: Tile<'_>,
    row: usize,
    token: usize,
    sums: &mut [i32],
) {
    let stride = tile.prepared.len() / tile.tokens;
    let tokens = &tile.prepared[token * stride..][..T * stride];
    let steps = tile.cols / RUN;
    let from = lanes_at(tile, row);
    let mut q = [tokens.as_ptr(); T];
    for (t, q) in q.iter_mut().enumerate() {
        *q = q.wrapping_add(t * stride + PLAIN_HEADER);
    }
    let mut d = [[[b.zero(); 4]; T]; U];
    // SAFETY: every step of the panel (1), and of each token, whose columns are those of the panel.
    unsafe {
        for turn in 0..steps / U {
            for u in 0..U {
                add_step(b, from, q, U * turn + u, AHEAD_BYTES, &mut d[u]);
            }
        }
        for step in steps / U * U..steps {
            add_step(b, from, q, step, AHEAD_BYTES, &mut d[0]);
        }
    }
    for t in 0..T {
        let mut total = d[0][t];
        for set in &d[1..] {
            for k in 0..4 {
                total[k] = b.add32(total[k], set[t][k]);
            }
        }
        let four = [
            total[0],
            b.shift32::<2>(b.sub32(total[1], total[0])),
            b.shift32::<4>(b.sub32(total[2], total[1])),
            b.shift32::<6>(b.sub32(total[3], total[2])),
        ];
        put(b, tile, row, token + t, four, sums);
    }
}

/// Stores the sums of `4 LANES` rows, of which vector `k` of `four` has row `k` of each four.
#[inline(always)]
fn put<B: Vectors>(b: B, tile: Tile<'_>, row: usize, token: usize, four: [B::V; 4], sums: &mut [i32]) {
    let stride = tile.prepared.len() / tile.tokens;
    let rows = (tile.rows - row).min(B::WORDS);
    let less = b.splat32(plain_sum(&tile.prepared[token * stride..]));
    let ordered = b.sub32(sum4(b, four), less);
    let out = &mut sums[token * tile.rows + row..][..rows];
    if rows == B::WORDS {
        // SAFETY: as many double words as a vector has, by the line above.
        unsafe { b.store(out.as_mut_ptr().cast(), ordered) };
    } else {
        out.copy_from_slice(&words(b, ordered)[..rows]);
    }
}

/// `4 LANES` rows from `row` on and a token, four steps at a time, every field taken out as codes.
///
/// # Safety
/// 1. `tile` has the row, which is a multiple of `4 LANES`, and the token.
#[inline(always)]
unsafe fn direct_codes<B: Vectors>(b: B, tile: Tile<'_>, row: usize, token: usize, sums: &mut [i32]) {
    let stride = tile.prepared.len() / tile.tokens;
    let q = tile.prepared[token * stride + PLAIN_HEADER..].as_ptr();
    let from = lanes_at(tile, row);
    let steps = tile.cols / RUN;
    let mut four = [b.zero(); 4];
    for first in (0..steps).step_by(4) {
        // SAFETY: steps of the panel and of the token (1).
        unsafe { add_codes(b, from, q, first, steps, AHEAD_BYTES, &mut four) };
    }
    put(b, tile, row, token, four, sums);
}

/// Adds the products of four of `steps` steps of a vector with a token to the sums of each field, and asks for what is `ahead`
/// bytes on.
///
/// # Safety
/// 1. Step `first` is one of `steps`, of which those of the vector are readable, and of the token all to a multiple of four.
#[inline(always)]
pub(crate) unsafe fn add_codes<B: Vectors>(
    b: B,
    from: *const u8,
    q: *const u8,
    first: usize,
    steps: usize,
    ahead: usize,
    four: &mut [B::V; 4],
) {
    let (mut codes, mut a) = ([b.zero(); 4], [b.zero(); 4]);
    for s in 0..4 {
        // Steps past the end meet the zeros that a token is padded with.
        let at = from.wrapping_add(STEP * (first + s).min(steps - 1));
        prefetch_line(at.wrapping_add(ahead));
        // SAFETY: duty (1) is the caller's.
        unsafe {
            codes[s] = b.add8(b.load(at), b.splat8(0x40));
            a[s] = b.repeat16(q.add(RUN * (first + s)));
        }
    }
    for k in 0..4 {
        let mut fields = [b.zero(); 4];
        for s in 0..4 {
            fields[s] = b.field(codes[s], 2 * k, 3);
        }
        four[k] = b.dot_codes(four[k], fields, a);
    }
}

/// Adds the products of one step of a vector with `T` tokens to `d`, and asks for what is `ahead` bytes on.
///
/// # Safety
/// 1. The step of the vector and of each token is readable.
#[inline(always)]
pub(crate) unsafe fn add_step<B: Dot, const T: usize>(
    b: B,
    from: *const u8,
    q: [*const u8; T],
    step: usize,
    ahead: usize,
    d: &mut [[B::V; 4]; T],
) {
    let at = from.wrapping_add(STEP * step);
    prefetch_line(at.wrapping_add(ahead));
    // SAFETY: duty (1) is the caller's.
    let codes = b.add8(unsafe { b.load(at) }, b.splat8(0x40));
    let mut a = [b.zero(); T];
    for t in 0..T {
        // SAFETY: duty (1) is the caller's.
        a[t] = unsafe { b.repeat16(q[t].add(RUN * step)) };
    }
    // Field after field, so that only one of them needs a register.
    for k in 0..4 {
        let field = if k < 3 { b.and(codes, b.splat8((4 << (2 * k)) - 1)) } else { codes };
        for t in 0..T {
            d[t][k] = b.dot(d[t][k], field, a[t]);
        }
    }
}

/// How strips are expanded: a vector is a lane for each four rows, whose four fields a transposition puts side by side.
pub(crate) struct T2r4;

impl Expand<4> for T2r4 {
    const UNIT: usize = RUN;

    #[inline(always)]
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, strip: *mut u8) {
        let last = tile.rows.div_ceil(PANEL) * PANEL - B::WORDS;
        for v in 0..4 {
            let from = lanes_at(tile, (row + v * B::WORDS).min(last));
            let mut to = strip.wrapping_add(v * B::BYTES);
            for run in cols.start / RUN..cols.end / RUN {
                // SAFETY: step `run` of a panel, within the tile (1).
                let codes = unsafe { b.load(from.add(STEP * run)) };
                prefetch_line(from.wrapping_add(STEP * run + AHEAD_BYTES));
                let codes = b.add8(codes, b.splat8(0x40));
                let fields =
                    [b.field(codes, 0, 3), b.field(codes, 2, 3), b.field(codes, 4, 3), b.field(codes, 6, 3)];
                for step in transpose4(b, fields) {
                    // SAFETY: vector `v` of each of four steps, and the strip has all runs of `cols` (3).
                    unsafe { b.store(to, step) };
                    to = to.wrapping_add(4 * B::BYTES);
                }
            }
        }
    }
}
