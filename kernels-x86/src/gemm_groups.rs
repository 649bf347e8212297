//! Products in groups of columns with many tokens: strips as in [`crate::gemm`], whose sums become values at once.
//!
//! ```text
//! for each strip of V vectors of rows, for each group of columns
//!   expand the strip's columns of the group
//!   for each few tokens: sums of the strip in registers
//!     y = y + (sums - sum q) (scales factor)                   in scratch, a strip's values in the order of its sums
//! values = y, put in order
//! ```
//!
//! Bounds and tail: those of [`crate::gemm`].

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays of registers")]

use tern_kernels::GroupedTile;
use tern_kernels::reference::PLAIN_HEADER;
use tern_kernels::set::grouped::MOST_FUSED_COLS;

use crate::gemm::{Expand, MOST_ROWS, RUN, Soon, StripProduct};
use crate::vectors::{Scale, words};

/// Working memory of [`multiply`] for any layout, in 8-byte words: a strip of one group, the values of its rows with all tokens,
/// and room to align them.
pub(crate) fn scratch_words(_rows: usize, cols: usize, tokens: usize) -> usize {
    MOST_ROWS * cols.min(MOST_FUSED_COLS).next_multiple_of(RUN) / 8 + tokens * MOST_ROWS / 2 + 8
}

/// The whole product of a matrix in the layout `X`.
///
/// # Safety
/// 1. `tile`, which has columns, and the length of `values` are what [`tern_kernels::KernelSet::multiply_groups`] checked.
/// 2. `scratch` has [`scratch_words`].
#[inline(always)]
pub(crate) unsafe fn multiply<B: Scale + StripProduct, X: Expand<N>, const N: usize>(
    b: B,
    tile: GroupedTile<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    let strip = scratch.as_mut_ptr().cast::<u8>();
    let strip = strip.wrapping_add(strip.align_offset(64));
    let strip_rows = N * B::WORDS;
    let runs = tile.cols.div_ceil(RUN);
    let y = strip.wrapping_add(strip_rows * RUN * runs);
    let seen = tile.tokens * tile.digits;
    let most = B::SUMS / N;
    let strip_bytes = tile.group(0).weights.len() / tile.rows.div_ceil(strip_rows);
    let meet_bytes = (strip_bytes / seen.div_ceil(most)).next_multiple_of(64);
    for row in (0..tile.rows).step_by(strip_rows) {
        for at in 0..tile.tokens * N {
            // SAFETY: the scratch has room for N vectors of values a token (2).
            unsafe { b.store(y.add(at * B::BYTES), b.zero()) };
        }
        for group in 0..tile.groups {
            let plain = tile.group(group);
            // SAFETY: (1) is the caller's (1); (2) as all columns of the group are met; (3) by the caller's (2).
            unsafe { X::expand(b, plain, row, 0..tile.cols, strip) };
            let scales = scales::<B, X, N>(b, &tile.group_scales(group)[row..]);
            // The same rows of the next group; past the end of the last group nobody reads what is asked for.
            let next =
                plain.weights.as_ptr().wrapping_add(tile.weights_stride + row / strip_rows * strip_bytes);
            let mut token = 0;
            while token < seen {
                let left = seen - token;
                let some = left.div_ceil(left.div_ceil(most));
                let soon = Soon::new(next.wrapping_add(token / most * meet_bytes), meet_bytes, runs);
                let at = Place { group, token, soon, strip, y };
                // SAFETY: the strip was expanded just now; the token has `some` more behind it.
                unsafe {
                    match some {
                        1 => meet::<B, N, 1>(b, tile, at, scales),
                        2 => meet::<B, N, 2>(b, tile, at, scales),
                        3 => meet::<B, N, 3>(b, tile, at, scales),
                        4 => meet::<B, N, 4>(b, tile, at, scales),
                        5 => meet::<B, N, 5>(b, tile, at, scales),
                        _ => meet::<B, N, 6>(b, tile, at, scales),
                    }
                }
                token += some;
            }
        }
        for token in 0..tile.tokens {
            let mut of_token = [b.zero(); N];
            for v in 0..N {
                // SAFETY: the values of a token, which were zeroed above.
                of_token[v] = unsafe { b.load(y.add((token * N + v) * B::BYTES)) };
            }
            let ordered = X::order(b, of_token);
            let out = &mut values[token * tile.rows..][row..tile.rows];
            for (v, out) in out.chunks_mut(B::WORDS).take(N).enumerate() {
                if out.len() == B::WORDS {
                    // SAFETY: as many double words as a vector has.
                    unsafe { b.store(out.as_mut_ptr().cast(), ordered[v]) };
                } else {
                    for (out, y) in out.iter_mut().zip(words(b, ordered[v])) {
                        *out = f32::from_bits(y as u32);
                    }
                }
            }
        }
    }
}

/// The scales of a strip's rows as its double words lie; zeros for rows that there are not.
#[inline(always)]
fn scales<B: Scale, X: Expand<N>, const N: usize>(b: B, scales: &[u16]) -> [B::V; N] {
    let mut room = [0; MOST_ROWS];
    let at = if scales.len() < N * B::WORDS {
        room[..scales.len()].copy_from_slice(scales);
        room.as_ptr()
    } else {
        scales.as_ptr()
    };
    let mut rows = [b.zero(); N];
    for v in 0..N {
        // SAFETY: as many scales as a strip has rows, by the lines above.
        rows[v] = unsafe { b.load_halves_wide(at.add(v * B::WORDS)) };
    }
    X::disorder(b, rows)
}

/// Which part of a product is computed; a token is a digit of one here.
struct Place {
    group: usize,
    token: usize,
    soon: Soon,
    strip: *const u8,
    /// The values of the strip, `N` vectors a token.
    y: *mut u8,
}

/// Meets a strip with `T` tokens and adds to their values.
///
/// # Safety
/// 1. `at.strip` holds what [`Expand::expand`] wrote for the group.
/// 2. `tile` has `T` digits of tokens from `at.token` on, and `at.y` the values of all of its tokens.
#[inline(always)]
unsafe fn meet<B: Scale + StripProduct, const N: usize, const T: usize>(
    b: B,
    tile: GroupedTile<'_>,
    at: Place,
    scales: [B::V; N],
) {
    let plain = tile.group(at.group);
    let stride = plain.prepared.len() / plain.tokens;
    let tokens = &plain.prepared[at.token * stride..][..T * stride];
    let runs = tile.cols.div_ceil(RUN);
    debug_assert!(PLAIN_HEADER + RUN * runs <= stride);
    let mut q = [tokens.as_ptr(); T];
    for (t, q) in q.iter_mut().enumerate() {
        *q = q.wrapping_add(t * stride + PLAIN_HEADER);
    }
    // SAFETY: (1) is the caller's; (2) a prepared token is padded with zeros to a multiple of 64 columns.
    let products = unsafe { b.strip_product::<N, T>(at.strip, runs, q, at.soon) };
    for t in 0..T {
        let (token, digit) = ((at.token + t) / tile.digits, (at.token + t) % tile.digits);
        let factor = b.splat32(tile.factor(token, at.group, digit).to_bits() as i32);
        // SAFETY: a token has its sum in front of its activations.
        let less = unsafe { b.repeat4(q[t].sub(PLAIN_HEADER)) };
        for v in 0..N {
            // SAFETY: a vector of the token's values (2).
            unsafe {
                let to = at.y.add((token * N + v) * B::BYTES);
                let sums = b.sub32(products[v][t], less);
                b.store(to, b.add_scaled(b.load(to), sums, scales[v], factor));
            }
        }
    }
}
