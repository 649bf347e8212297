//! Products of [`Layout::T5R`](tern_kernels::Layout::T5R): five rows a byte, 1.6 bits a weight, without a digit taken.
//!
//! ```text
//! for 5 LANES rows (two panels with AVX-512, one with AVX-VNNI), for each 16 columns
//!   u = bytes ^ 0x80                         a lane for each five rows: unsigned fractions of five weights
//!   a = the 16 activations in every lane, for each token
//!   for k in 0..6
//!     G[k] = vpdpbusd(G[k], u, a)
//!     u = u + u + u                          drops the leading weight: 3 u = 256 (w + 1) + next u
//! row k of five = (3 G[k] - G[k+1] - 256 sum q) / 256, over the four double words of a lane
//! ```
//!
//! `3 u(k) - u(k+1) = 256 t(k)` with `t = w + 1` holds for every byte, so for every sum of products (see
//! [`tern_kernels::five`]): six dot products and ten additions give five rows, and no digit is ever extracted.
//!
//! Bound: `vpdpbusd` adds four exact products (at most 4 x 255 x 128) without saturation, modulo 2^32, and so does all
//! that follows; a linear identity survives that. What is divided at the end is 256 times the exact sum of a row, at
//! most 256 x 128 x 65,280 = 2,139,095,040 in magnitude, below 2^31 = 2,147,483,648, so it is itself and not a residue.
//!
//! Tail: none, columns are a multiple of 16. An odd last panel is read twice and stored once.
//! Estimate for AVX-512, one token, 64 bytes (320 weights): 2 loads, 6 dot products, 10 additions, 1 xor: 5 cycles where
//! two dot products and four additions start in one. From [`DIRECT_TOKENS`] on a strip is expanded ([`crate::gemm`]).

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use core::ops::Range;

use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum};

use crate::gemm::{self, Expand, RUN, StripProduct};
use crate::products::FEW_COLS;
use crate::tiles::{self, prefetch_line};
use crate::vectors::{Dot, MOST_WORDS, Vectors, sum4, transpose4, words};

/// Rows of a panel.
pub(crate) const PANEL: usize = 10;

/// Bytes that a panel has for 16 columns.
const STEP: usize = 32;

/// The same where eight panels are read side by side.
const STREAM_AHEAD_BYTES: usize = 1024;

/// Tokens up to which bytes are multiplied as they are: six dot products for five rows, but no expansion.
const DIRECT_TOKENS: usize = 12;

/// The same for rows so short that their sums across lanes weigh.
const DIRECT_TOKENS_FEW_COLS: usize = 4;

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
    let most = if tile.cols < FEW_COLS { DIRECT_TOKENS_FEW_COLS } else { DIRECT_TOKENS };
    if tile.tokens > most {
        // SAFETY: the caller's duties are the same.
        return unsafe { multiply_strips(b, tile, scratch, sums) };
    }
    for row in (0..tile.rows).step_by(5 * B::LANES) {
        let mut token = 0;
        while token < tile.tokens {
            let left = tile.tokens - token;
            let group = left.div_ceil(left.div_ceil((B::SUMS + 1) / 6));
            // SAFETY: the tile has these rows and `group` tokens from `token` on.
            unsafe {
                match group {
                    1 => direct::<B, 1, 2>(b, tile, row, token, sums),
                    2 => direct::<B, 2, 1>(b, tile, row, token, sums),
                    3 => direct::<B, 3, 1>(b, tile, row, token, sums),
                    _ => direct::<B, 4, 1>(b, tile, row, token, sums),
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
    unsafe { gemm::multiply::<B, T5r, 5>(b, tile, scratch, sums) }
}

/// `5 LANES` rows from `row` on and `T` tokens from `token` on. `U` sets of sums take turns, so that no addition waits for
/// the one before.
///
/// # Safety
/// 1. `tile` has the row, which begins a panel, and the tokens.
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
    let panel_bytes = 2 * tile.cols;
    let panels = tile.rows.div_ceil(PANEL);
    let first = row / PANEL;
    let (low, high) = if B::LANES == 4 {
        let second = (first + 1).min(panels - 1);
        (tile.weights[first * panel_bytes..].as_ptr(), tile.weights[second * panel_bytes..].as_ptr())
    } else {
        let panel = tile.weights[first * panel_bytes..].as_ptr();
        (panel, panel.wrapping_add(RUN))
    };
    let ahead = tiles::ahead(5 * B::LANES / PANEL * panel_bytes);
    let steps = tile.cols / RUN;
    let mut q = [tokens.as_ptr(); T];
    for (t, q) in q.iter_mut().enumerate() {
        *q = q.wrapping_add(t * stride + PLAIN_HEADER);
    }
    let mut g = [[[b.zero(); 6]; T]; U];
    // SAFETY: every step of both panels (1), and of each token, whose columns are those of the panels.
    unsafe {
        for turn in 0..steps / U {
            for u in 0..U {
                add_step(b, (low, high), q, U * turn + u, ahead, &mut g[u]);
            }
        }
        for step in steps / U * U..steps {
            add_step(b, (low, high), q, step, ahead, &mut g[0]);
        }
    }
    let rows = (tile.rows - row).min(5 * B::LANES);
    for t in 0..T {
        let mut total = g[0][t];
        for set in &g[1..] {
            for k in 0..6 {
                total[k] = b.add32(total[k], set[t][k]);
            }
        }
        let mut scaled = [b.zero(); 5];
        for k in 0..5 {
            let tripled = b.add32(b.add32(total[k], total[k]), total[k]);
            scaled[k] = b.sub32(tripled, total[k + 1]);
        }
        let less = b.splat32(plain_sum(&tokens[t * stride..]).wrapping_mul(256));
        let four = sum4(b, [scaled[0], scaled[1], scaled[2], scaled[3]]);
        let fifth = sum4(b, [scaled[4]; 4]);
        let four = words(b, b.shift32::<8>(b.sub32(four, less)));
        let fifth = words(b, b.shift32::<8>(b.sub32(fifth, less)));
        let out = &mut sums[(token + t) * tile.rows + row..][..rows];
        for (five, out) in out.chunks_mut(5).enumerate() {
            for (k, out) in out.iter_mut().enumerate() {
                *out = if k < 4 { four[4 * five + k] } else { fifth[4 * five] };
            }
        }
    }
}

/// Adds the products of one step of two halves of a vector with `T` tokens to `g`.
///
/// # Safety
/// 1. The step of either half and of each token is readable.
#[inline(always)]
pub(crate) unsafe fn add_step<B: Dot, const T: usize>(
    b: B,
    (low, high): (*const u8, *const u8),
    q: [*const u8; T],
    step: usize,
    ahead: usize,
    g: &mut [[B::V; 6]; T],
) {
    let (low, high) = (low.wrapping_add(STEP * step), high.wrapping_add(STEP * step));
    // Asking twice for a line costs less than asking whether to.
    prefetch_line(low.wrapping_add(ahead));
    if B::LANES == 4 {
        prefetch_line(high.wrapping_add(ahead));
    }
    let mut a = [b.zero(); T];
    for t in 0..T {
        // SAFETY: duty (1) is the caller's.
        a[t] = unsafe { b.repeat16(q[t].add(RUN * step)) };
    }
    // SAFETY: duty (1) is the caller's.
    let mut u = b.xor(unsafe { b.load_halves(low, high) }, b.splat8(0x80));
    for k in 0..6 {
        for t in 0..T {
            g[t][k] = b.dot(g[t][k], u, a[t]);
        }
        if k < 5 {
            u = b.triple8(u);
        }
    }
}

/// How strips are expanded: a lane of bytes is five rows and 16 columns, so a strip is `4 LANES` lanes, transposed to four
/// columns a double word; vector `k` of the strip then has row `k` of each five.
pub(crate) struct T5r;

impl Expand<5> for T5r {
    const UNIT: usize = RUN;

    #[inline(always)]
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, mut strip: *mut u8) {
        let panel_bytes = 2 * tile.cols;
        let last = tile.rows.div_ceil(PANEL) - 1;
        // Where each quarter of the strip begins: two panels or one.
        let (mut low, mut high) = ([tile.weights.as_ptr(); 4], [tile.weights.as_ptr(); 4]);
        for z in 0..4 {
            if B::LANES == 4 {
                let panel = row / PANEL + 2 * z;
                low[z] = tile.weights[panel.min(last) * panel_bytes..].as_ptr();
                high[z] = tile.weights[(panel + 1).min(last) * panel_bytes..].as_ptr();
            } else {
                low[z] = tile.weights[(row / PANEL + z).min(last) * panel_bytes..].as_ptr();
                high[z] = low[z].wrapping_add(RUN);
            }
        }
        for run in cols.start / RUN..cols.end / RUN {
            let mut z = [b.zero(); 4];
            for i in 0..4 {
                // SAFETY: step `run` of a panel, within the tile (1).
                z[i] = unsafe { b.load_halves(low[i].add(STEP * run), high[i].add(STEP * run)) };
                if run % 2 == 0 {
                    prefetch_line(low[i].wrapping_add(STEP * run + STREAM_AHEAD_BYTES));
                    if B::LANES == 4 {
                        prefetch_line(high[i].wrapping_add(STEP * run + STREAM_AHEAD_BYTES));
                    }
                }
            }
            for mut q in transpose4(b, z) {
                for _ in 0..5 {
                    // SAFETY: a run is four steps of five vectors, and the strip has all runs of `cols` (3).
                    unsafe {
                        b.store(strip, b.five_code(q));
                        strip = strip.add(B::BYTES);
                    }
                    q = b.triple8(q);
                }
            }
        }
    }

    #[inline(always)]
    fn order<B: Vectors>(b: B, sums: [B::V; 5]) -> [B::V; 5] {
        let order = if B::LANES == 4 { &ORDER_4 } else { &ORDER_2 };
        let mut ordered = [b.zero(); 5];
        for (o, out) in ordered.iter_mut().enumerate() {
            // SAFETY: the tables are as long as the longest vector.
            let index = unsafe { b.load(order.index[o].as_ptr().cast()) };
            *out = b.permute32(sums[0], index);
            for k in 1..5 {
                // SAFETY: as above.
                let of_k = unsafe { b.load(order.of_row[o][k].as_ptr().cast()) };
                *out = b.choose32(of_k, *out, b.permute32(sums[k], index));
            }
        }
        ordered
    }

    #[inline(always)]
    fn disorder<B: Vectors>(b: B, rows: [B::V; 5]) -> [B::V; 5] {
        let order = if B::LANES == 4 { &ORDER_4 } else { &ORDER_2 };
        let mut strip = [b.zero(); 5];
        for (k, out) in strip.iter_mut().enumerate() {
            // SAFETY: the tables are as long as the longest vector.
            let index = unsafe { b.load(order.row_index[k].as_ptr().cast()) };
            *out = b.permute32(rows[0], index);
            for o in 1..5 {
                // SAFETY: as above.
                let of_o = unsafe { b.load(order.of_vector[k][o].as_ptr().cast()) };
                *out = b.choose32(of_o, *out, b.permute32(rows[o], index));
            }
        }
        strip
    }
}

/// Where the rows of a strip are found: row `WORDS o + i` is double word `index[o][i]` of the vector `k` for which
/// `of_row[o][k][i]` is -1. And the other way round: double word `i` of vector `k` is row `WORDS o + row_index[k][i]`, `o` being
/// that for which `of_vector[k][o][i]` is -1.
struct Order {
    index: [[i32; MOST_WORDS]; 5],
    of_row: [[[i32; MOST_WORDS]; 5]; 5],
    row_index: [[i32; MOST_WORDS]; 5],
    of_vector: [[[i32; MOST_WORDS]; 5]; 5],
}

static ORDER_4: Order = order(4);
static ORDER_2: Order = order(2);

const fn order(lanes: usize) -> Order {
    let (index, choice) = ([[0; MOST_WORDS]; 5], [[[0; MOST_WORDS]; 5]; 5]);
    let mut order = Order { index, of_row: choice, row_index: index, of_vector: choice };
    let mut row = 0;
    while row < 20 * lanes {
        let (o, i) = (row / (4 * lanes), row % (4 * lanes));
        // Five `f` came from lane `f % lanes` of quarter `f / lanes`, and the transposition swapped them.
        let five = row / 5;
        order.index[o][i] = (4 * (five % lanes) + five / lanes) as i32;
        order.of_row[o][row % 5][i] = -1;
        let word = order.index[o][i] as usize;
        order.row_index[row % 5][word] = i as i32;
        order.of_vector[row % 5][o][word] = -1;
        row += 1;
    }
    order
}
