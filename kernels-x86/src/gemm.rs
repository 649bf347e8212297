//! Products with many tokens: a strip of rows is expanded to one code a byte, once, and then met by all tokens.
//!
//! ```text
//! for each strip of V vectors of rows, for each block of its columns
//!   expand: for each 4 columns s, for each vector v
//!     strip[s][v] = double word i holds the codes (weight + 1) of row i of v in columns 4s .. 4s+4
//!   for each group of T tokens
//!     for each 4 columns s
//!       a[t] = the 4 activations of token t in every double word
//!       for each v: w = strip[s][v]
//!         for each token: sum[v][t] = vpdpbusd(sum[v][t], w, a[t])
//!     double word i of sum[v][t] is row i's sum: take off `sum q` and store, or add to what earlier blocks stored
//! ```
//!
//! Double words are rows, so nothing is added across a vector, however few columns there are. Each layout says how
//! it is expanded ([`Expand`]); the walk and the product are the same for all. With AVX-512 twenty or more sums stay in
//! registers and a step of 5 vectors by 5 tokens is 5 loads, 5 broadcasts and 25 dot products.
//!
//! Bound: codes are at most 2 (3 in damaged files) and activations at least -128, so 65,280 columns reach 3 x 128 x
//! 65,280 = 2.5e7, far below 2^31.
//!
//! Tail: columns are padded to 16. The strip holds whatever was there before in columns that no matrix has, and the
//! prepared token has zeros there. Rows past the end are computed from the last panel and not stored.

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use core::ops::Range;

use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum};

use crate::tiles::prefetch_line;
use crate::vectors::{MOST_WORDS, Vectors, words};

/// Bytes of a strip that meets few tokens: it should stay in a first-level cache of 32 KiB, beside them.
const FEW_BYTES: usize = 20 * 1024;

/// Bytes of a strip that meets many tokens: half of the smallest second-level cache of a machine with AVX2 (256 KiB).
/// Longer blocks store their sums less often.
const MANY_BYTES: usize = 128 * 1024;

/// Tokens from which on they are many.
const MANY_TOKENS: usize = 16;

/// Rows of the highest strip, 5 vectors of 16.
pub(crate) const MOST_ROWS: usize = 80;

/// Columns of a run: four steps of four.
pub(crate) const RUN: usize = 16;

/// Working memory of [`multiply`] for any layout, in 8-byte words: a strip, and room to align it.
pub(crate) fn scratch_words(_rows: usize, cols: usize, _tokens: usize) -> usize {
    (MOST_ROWS * cols.next_multiple_of(RUN)).min(MANY_BYTES) / 8 + 8
}

/// A layout whose strips are `N` vectors high.
pub(crate) trait Expand<const N: usize> {
    /// Columns that a block must have a multiple of, but for the last one: at most 128, a multiple of [`RUN`].
    const UNIT: usize;

    /// Writes the codes of `N * WORDS` rows from `row` on and of `cols` to `strip`, as the head of this file draws them:
    /// step after step, `N` vectors each. Rows that `tile` does not have may get any codes.
    ///
    /// # Safety
    /// 1. `tile` is what [`tern_kernels::KernelSet::multiply`] checked.
    /// 2. `cols` begins at a multiple of `UNIT` and ends there or at the last column; `row` is a multiple of the rows of
    ///    a strip, and less than the rows of `tile`.
    /// 3. `strip` has room for `cols`, rounded up to [`RUN`], times the rows of a strip.
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, strip: *mut u8);

    /// The sums of a strip's rows in order, from the sums of its double words.
    #[inline(always)]
    fn order<B: Vectors>(_: B, sums: [B::V; N]) -> [B::V; N] {
        sums
    }

    /// What [`order`](Self::order) puts in order, from numbers of a strip's rows in order.
    #[inline(always)]
    fn disorder<B: Vectors>(_: B, rows: [B::V; N]) -> [B::V; N] {
        rows
    }
}

/// Weights that will be read soon: those of the next strip, asked for a little at a time while this one is multiplied,
/// so that memory and arithmetic work at once.
#[derive(Clone, Copy)]
pub(crate) struct Soon {
    /// The next line to ask for.
    at: *const u8,
    /// Lines to ask for in each run.
    lines: usize,
}

impl Soon {
    /// `bytes` from `at` on, shared out to the `runs` of a strip.
    #[inline(always)]
    pub(crate) fn new(at: *const u8, bytes: usize, runs: usize) -> Self {
        Soon { at, lines: (bytes / 64).div_ceil(runs) }
    }
}

/// The inner product of a strip, compiled for the features of a tier.
pub(crate) trait StripProduct: Vectors {
    /// `sums[v][t]` of the head of this file over `runs` runs of 16 columns.
    ///
    /// # Safety
    /// 1. `strip` holds `runs` runs of `N` vectors.
    /// 2. `16 * runs` bytes at each of `q` are readable.
    unsafe fn strip_product<const N: usize, const T: usize>(
        self,
        strip: *const u8,
        runs: usize,
        q: [*const u8; T],
        soon: Soon,
    ) -> [[Self::V; T]; N];
}

/// The body of [`StripProduct::strip_product`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn strip_product<B: Vectors, const N: usize, const T: usize>(
    b: B,
    mut strip: *const u8,
    runs: usize,
    q: [*const u8; T],
    mut soon: Soon,
) -> [[B::V; T]; N] {
    let mut sums = [[b.zero(); T]; N];
    for run in 0..runs {
        for _ in 0..soon.lines {
            prefetch_line(soon.at);
            soon.at = soon.at.wrapping_add(64);
        }
        // SAFETY: within `runs` runs of `strip` (1) and of each token (2).
        unsafe {
            if B::DOT {
                for s in 0..4 {
                    let mut a = [b.zero(); T];
                    for t in 0..T {
                        a[t] = b.repeat4(q[t].add(RUN * run + 4 * s));
                    }
                    for v in 0..N {
                        let w = b.load(strip.add((s * N + v) * B::BYTES));
                        for t in 0..T {
                            sums[v][t] = b.dot_code(sums[v][t], w, a[t]);
                        }
                    }
                }
            } else {
                for t in 0..T {
                    let mut a = [b.zero(); 4];
                    for s in 0..4 {
                        a[s] = b.repeat4(q[t].add(RUN * run + 4 * s));
                    }
                    for v in 0..N {
                        let mut w = [b.zero(); 4];
                        for s in 0..4 {
                            w[s] = b.load(strip.add((s * N + v) * B::BYTES));
                        }
                        sums[v][t] = b.dot_codes(sums[v][t], w, a);
                    }
                }
            }
            strip = strip.add(4 * N * B::BYTES);
        }
    }
    sums
}

/// The whole product of a matrix in the layout `X`.
///
/// # Safety
/// 1. `tile`, which has columns, and the length of `sums` are what [`tern_kernels::KernelSet::multiply`] checked.
/// 2. `scratch` has [`scratch_words`].
#[inline(always)]
pub(crate) unsafe fn multiply<B: StripProduct, X: Expand<N>, const N: usize>(
    b: B,
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    let strip = scratch.as_mut_ptr().cast::<u8>();
    let strip = strip.wrapping_add(strip.align_offset(64));
    let strip_rows = N * B::WORDS;
    let room = if tile.tokens < MANY_TOKENS { FEW_BYTES } else { MANY_BYTES };
    let block = room / strip_rows / X::UNIT * X::UNIT;
    let groups = tile.tokens.div_ceil(B::SUMS / N);
    // Layouts have whole panels in a strip, but for strips that are a part of one.
    let strip_bytes = tile.weights.len() / tile.rows.div_ceil(strip_rows);
    let meet_bytes = (strip_bytes / (groups * tile.cols.div_ceil(block)).max(1)).next_multiple_of(64);
    for row in (0..tile.rows).step_by(strip_rows) {
        let next = tile.weights.as_ptr().wrapping_add((row / strip_rows + 1) * strip_bytes);
        let mut met = 0;
        for first in (0..tile.cols).step_by(block) {
            let cols = first..tile.cols.min(first + block);
            // SAFETY: (1) is the caller's (1); (2) by the steps of the loops; (3) by the caller's (2), as a block has at
            // most MANY_BYTES and at most the matrix' columns.
            unsafe { X::expand(b, tile, row, cols.clone(), strip) };
            let mut token = 0;
            while token < tile.tokens {
                let left = tile.tokens - token;
                // Groups of nearly equal size: five and three tokens take longer than twice four.
                let group = left.div_ceil(left.div_ceil(B::SUMS / N));
                let soon =
                    Soon::new(next.wrapping_add(met * meet_bytes), meet_bytes, cols.len().div_ceil(RUN));
                met += 1;
                let at = Place { row, cols: cols.clone(), token, soon };
                // SAFETY: the strip was expanded just now; the token has `group` more behind it.
                unsafe {
                    match group {
                        1 => meet::<B, X, N, 1>(b, tile, at, strip, sums),
                        2 => meet::<B, X, N, 2>(b, tile, at, strip, sums),
                        3 => meet::<B, X, N, 3>(b, tile, at, strip, sums),
                        4 => meet::<B, X, N, 4>(b, tile, at, strip, sums),
                        5 => meet::<B, X, N, 5>(b, tile, at, strip, sums),
                        _ => meet::<B, X, N, 6>(b, tile, at, strip, sums),
                    }
                }
                token += group;
            }
        }
    }
}

/// Which part of a product is computed.
struct Place {
    row: usize,
    cols: Range<usize>,
    token: usize,
    soon: Soon,
}

/// Meets a strip with `T` tokens and stores or adds their sums.
///
/// # Safety
/// 1. `strip` holds what [`Expand::expand`] wrote for `at`.
/// 2. `tile` has `T` tokens from `at.token` on, and `sums` room for all of its.
#[inline(always)]
unsafe fn meet<B: StripProduct, X: Expand<N>, const N: usize, const T: usize>(
    b: B,
    tile: Tile<'_>,
    at: Place,
    strip: *const u8,
    sums: &mut [i32],
) {
    let stride = tile.prepared.len() / tile.tokens;
    let tokens = &tile.prepared[at.token * stride..][..T * stride];
    let runs = at.cols.len().div_ceil(RUN);
    debug_assert!(PLAIN_HEADER + at.cols.start + RUN * runs <= stride);
    let mut q = [tokens.as_ptr(); T];
    for (t, q) in q.iter_mut().enumerate() {
        *q = q.wrapping_add(t * stride + PLAIN_HEADER + at.cols.start);
    }
    // SAFETY: (1) is the caller's; (2) a prepared token is padded with zeros to a multiple of 64 columns.
    let products = unsafe { b.strip_product::<N, T>(strip, runs, q, at.soon) };
    let rows = (tile.rows - at.row).min(N * B::WORDS);
    for t in 0..T {
        let mut of_token = [b.zero(); N];
        for v in 0..N {
            of_token[v] = products[v][t];
        }
        let ordered = X::order(b, of_token);
        let out = &mut sums[(at.token + t) * tile.rows + at.row..][..rows];
        if at.cols.start == 0 {
            let less = b.splat32(plain_sum(&tokens[t * stride..]));
            for v in 0..N {
                put(b, b.sub32(ordered[v], less), v, out, false);
            }
        } else {
            for v in 0..N {
                put(b, ordered[v], v, out, true);
            }
        }
    }
}

/// Stores the double words of vector `v` of a strip to its rows in `out`, or adds them to what is there.
#[inline(always)]
fn put<B: Vectors>(b: B, sums: B::V, v: usize, out: &mut [i32], add: bool) {
    let start = v * B::WORDS;
    if start + B::WORDS <= out.len() {
        let to = out[start..start + B::WORDS].as_mut_ptr().cast::<u8>();
        // SAFETY: as many double words as a vector has, by the slice.
        unsafe {
            let sums = if add { b.add32(sums, b.load(to)) } else { sums };
            b.store(to, sums);
        }
    } else if start < out.len() {
        let sums: [i32; MOST_WORDS] = words(b, sums);
        for (to, sum) in out[start..].iter_mut().zip(sums) {
            *to = if add { *to + sum } else { sum };
        }
    }
}
