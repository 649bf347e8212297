//! How a ternary product walks a matrix: strips of rows, groups of tokens, tiles of both.
//!
//! ```text
//! for each strip of rows whose codes fit STRIP_BYTES
//!   for each group of up to 4 tokens
//!     for each 4, 2 or 1 rows of the strip, as many as the kernel has registers for
//!       sums of that tile, over all columns
//! ```
//!
//! A strip is read from memory once and met by all tokens while it is in the second-level cache; a group's
//! activations stay in the first. Inside a tile, codes are unpacked once for four tokens and an activation is loaded
//! once for four rows. With one token there is one group, and the walk is the matrix from front to back.
//!
//! The kernels multiply by codes (weight + 1), so `sum q` of the token is taken off at the end.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum, prepared_bytes};

/// Codes of a strip: a quarter of the smallest second-level cache of a machine with AVX2 (256 KiB).
const STRIP_BYTES: usize = 64 * 1024;

/// The most rows of a tile.
const MAX_ROWS: usize = 4;

/// How far ahead of their use codes are asked for, at least. Measured on a Zen 5 with one token, 2560 x 2560, cold:
/// 12 GB/s without, 19 with 4 KiB, 28 with 10 KiB.
pub(crate) const AHEAD_BYTES: usize = 10 * 1024;

/// The distance at which a tile of `bytes` codes should [`prefetch`]: whole tiles, because a tile reads several rows side
/// by side, in runs too short for the hardware to follow.
#[inline(always)]
pub(crate) fn ahead(bytes: usize) -> usize {
    bytes * AHEAD_BYTES.div_ceil(bytes.max(1))
}

/// Asks for the line `ahead` bytes behind the start of `at`. Past the end of a matrix this is a hint about memory that
/// nobody reads, and never a fault.
#[inline(always)]
pub(crate) fn prefetch<T>(at: &T, ahead: usize) {
    prefetch_line(core::ptr::from_ref(at).cast::<u8>().wrapping_add(ahead));
}

/// Asks for the line at `at`, wherever that is.
#[inline(always)]
pub(crate) fn prefetch_line(at: *const u8) {
    // SAFETY: every x86-64 has SSE, and a hint neither reads nor faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// The product of a few rows with a few tokens over all columns.
pub(crate) trait TileKernel {
    /// The most rows times tokens whose sums stay in registers; a tile is 4, 2 or 1 rows high accordingly.
    const MAX_SUMS: usize;

    /// `sums[r][t] = sum_c code[r][c] * q[t][c]` for packed rows of `k / 4` bytes and prepared activations of `k`
    /// bytes, `k` a multiple of 128. Calling it needs the features that the implementer names.
    fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R];
}

/// The whole product. Tokens carry `sum q` and 60 bytes more before their activations, as the reference's plain form.
pub(crate) fn multiply<K: TileKernel>(tile: Tile<'_>, sums: &mut [i32]) {
    // A whole number of tiles, at least one: a single row may be larger than a strip.
    let strip = (STRIP_BYTES / (tile.cols / 4).max(1)).max(1).next_multiple_of(MAX_ROWS);
    for first in (0..tile.rows).step_by(strip) {
        let rows = first..tile.rows.min(first + strip);
        let mut token = 0;
        while token < tile.tokens {
            match tile.tokens - token {
                1 => token += group::<K, 1>(tile, rows.clone(), token, sums),
                2 => token += group::<K, 2>(tile, rows.clone(), token, sums),
                3 => token += group::<K, 3>(tile, rows.clone(), token, sums),
                _ => token += group::<K, 4>(tile, rows.clone(), token, sums),
            }
        }
    }
}

/// The product of `rows` with the `T` tokens from `token` on; returns `T`.
fn group<K: TileKernel, const T: usize>(
    tile: Tile<'_>,
    rows: core::ops::Range<usize>,
    token: usize,
    sums: &mut [i32],
) -> usize {
    let stride = prepared_bytes(tile.cols);
    let (mut q, mut code_sum) = ([&[][..]; T], [0; T]);
    for t in 0..T {
        let prepared = &tile.prepared[(token + t) * stride..][..stride];
        q[t] = &prepared[PLAIN_HEADER..PLAIN_HEADER + tile.cols];
        code_sum[t] = plain_sum(prepared);
    }
    let mut row = rows.start;
    while row < rows.end {
        row += match (rows.end - row).min(K::MAX_SUMS / T) {
            0 | 1 => finish::<1, T>(tile, row, token, K::sums(packed_rows(tile, row), q), code_sum, sums),
            2 | 3 => finish::<2, T>(tile, row, token, K::sums(packed_rows(tile, row), q), code_sum, sums),
            _ => finish::<MAX_ROWS, T>(tile, row, token, K::sums(packed_rows(tile, row), q), code_sum, sums),
        };
    }
    T
}

/// The packed codes of `R` rows from `row` on.
fn packed_rows<'a, const R: usize>(tile: Tile<'a>, row: usize) -> [&'a [u8]; R] {
    let bytes = tile.cols / 4;
    let mut packed = [&[][..]; R];
    for (r, packed) in packed.iter_mut().enumerate() {
        *packed = &tile.weights[(row + r) * bytes..][..bytes];
    }
    packed
}

/// The first `count` chunks of `N` bytes of each row. A loop, because closures in functions compiled for other features
/// than their caller's are not inlined.
#[inline(always)]
pub(crate) fn chunks<const N: usize, const R: usize>(rows: [&[u8]; R], count: usize) -> [&[[u8; N]]; R] {
    let mut chunks = [&[][..]; R];
    for (chunks, row) in chunks.iter_mut().zip(rows) {
        *chunks = &row.as_chunks().0[..count];
    }
    chunks
}

/// Takes the tokens' sums off a tile and writes it to its place; returns `R`.
fn finish<const R: usize, const T: usize>(
    tile: Tile<'_>,
    row: usize,
    token: usize,
    products: [[i32; T]; R],
    code_sum: [i32; T],
    sums: &mut [i32],
) -> usize {
    for t in 0..T {
        let to = &mut sums[(token + t) * tile.rows + row..][..R];
        for r in 0..R {
            to[r] = products[r][t] - code_sum[t];
        }
    }
    R
}
