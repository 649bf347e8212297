//! Nibbles times int8, for LM heads in layout `h8n2`, with AVX2, AVX-VNNI and AVX-512 VNNI; and the widening of
//! [`tern_kernels::blocks`] compiled for AVX2.
//!
//! ```text
//! for each strip of rows whose nibbles fit STRIP_BYTES
//!   for each group of 8, 4, 2 or 1 tokens
//!     for each 4, 2 or 1 rows, as many as the kernel has registers for
//!       per block of 128 columns
//!         b = 64 bytes of the plane                        one 512-bit register or two of 256
//!         w = b & 15; v = b >> 4 & 15                      columns 0..64 and 64..128, unsigned bytes
//!         for each token: sum += vpdpbusd(w, x[0..64]); sum += vpdpbusd(v, x[64..128])
//! ```
//!
//! Without `vpdpbusd` the products are `vpmaddubsw` into words. A pair is at most 2 x 15 x 128 = 3,840 in magnitude,
//! four additions a block make 15,360 in two blocks' 30,720, below 32,767; then `vpmaddwd` widens. Sums of double
//! words reach at most 15 x 128 x 65,280 = 1.3e8.
//!
//! Tail: none, columns come in whole blocks. A plane is read once for up to eight tokens; with one token, memory is
//! what it waits for: 8 dot products of 4 rows take 256 bytes in about 8 cycles, five times faster than a core reads.
//! Source: Intel SDM volume 2, VPDPBUSD and VPMADDUBSW.

use core::arch::x86_64::*;

use tern_kernels::blocks::{self, Blocks};
use tern_kernels::planes::{BLOCK_BYTES, BLOCK_COLS, row_bytes};
use tern_kernels::{HeadOps, Nibbles};

use crate::avx2::{load, totals};
use crate::tiles::{self, chunks, prefetch};

/// Nibbles of a strip: half of the smallest second-level cache of a machine with AVX2 (256 KiB).
const STRIP_BYTES: usize = 128 * 1024;
/// The most rows of a tile.
const MAX_ROWS: usize = 4;
/// Blocks between widenings of words; the head of this file proves that they hold so many.
const BLOCKS_IN_WORDS: usize = 2;

/// The table for AVX2.
///
/// # Safety
/// 1. Its functions are called only on a machine with AVX2 and F16C.
pub(crate) const unsafe fn avx2() -> HeadOps {
    HeadOps {
        nibble_dots: walk::<Maddubs>,
        // SAFETY: (1): who called this function answers for the features.
        widen: |blocks, bytes, out| unsafe { widen256(blocks, bytes, out) },
    }
}

/// The table for AVX-VNNI.
///
/// # Safety
/// 1. Its functions are called only on a machine with AVX2, F16C and AVX-VNNI.
pub(crate) const unsafe fn avxvnni() -> HeadOps {
    // SAFETY: answers (1) as our caller did.
    HeadOps { nibble_dots: walk::<Dpbusd256>, ..unsafe { avx2() } }
}

/// The table for AVX-512 VNNI.
///
/// # Safety
/// 1. Its functions are called only on a machine with AVX2, F16C and AVX-512 F, BW and VNNI.
pub(crate) const unsafe fn avx512vnni() -> HeadOps {
    // Widening stays with AVX2: compiled for 512 bits, Q6_K took 0.54 ns a value on a Zen 5 in place of 0.08.
    // SAFETY: answers (1) as our caller did.
    HeadOps { nibble_dots: walk::<Dpbusd512>, ..unsafe { avx2() } }
}

#[target_feature(enable = "avx2,f16c")]
fn widen256(blocks: Blocks, bytes: &[u8], out: &mut [f32]) {
    blocks::widen(blocks, bytes, out);
}

/// The product of a few rows with a few tokens.
trait NibbleKernel {
    /// The most rows times tokens whose sums stay in registers.
    const MAX_SUMS: usize;

    /// `sums[r][t] = sum_c nibble[r][c] * x[t][c]`, hints reaching `ahead` bytes beyond what is read.
    fn sums<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R];
}

/// The whole product.
fn walk<K: NibbleKernel>(nibbles: Nibbles<'_>, sums: &mut [i32]) {
    let strip = (STRIP_BYTES / row_bytes(nibbles.cols).max(1)).max(1).next_multiple_of(MAX_ROWS);
    for first in (0..nibbles.rows).step_by(strip) {
        let rows = first..nibbles.rows.min(first + strip);
        let mut token = 0;
        while token < nibbles.tokens {
            token += match nibbles.tokens - token {
                1 => group::<K, 1>(nibbles, rows.clone(), token, sums),
                2 | 3 => group::<K, 2>(nibbles, rows.clone(), token, sums),
                4..=7 => group::<K, 4>(nibbles, rows.clone(), token, sums),
                _ => group::<K, 8>(nibbles, rows.clone(), token, sums),
            };
        }
    }
}

/// `rows` with the `T` tokens from `token` on; returns `T`.
fn group<K: NibbleKernel, const T: usize>(
    nibbles: Nibbles<'_>,
    rows: core::ops::Range<usize>,
    token: usize,
    sums: &mut [i32],
) -> usize {
    let mut x = [&[][..]; T];
    for (t, x) in x.iter_mut().enumerate() {
        *x = bytes_of(nibbles.token(token + t));
    }
    let mut row = rows.start;
    while row < rows.end {
        row += match (rows.end - row).min(K::MAX_SUMS / T) {
            0 | 1 => tile::<K, 1, T>(nibbles, row, token, x, sums),
            2 | 3 => tile::<K, 2, T>(nibbles, row, token, x, sums),
            _ => tile::<K, MAX_ROWS, T>(nibbles, row, token, x, sums),
        };
    }
    T
}

/// One tile, from `row` and `token` on; returns `R`.
fn tile<K: NibbleKernel, const R: usize, const T: usize>(
    nibbles: Nibbles<'_>,
    row: usize,
    token: usize,
    x: [&[u8]; T],
    sums: &mut [i32],
) -> usize {
    let mut rows = [&[][..]; R];
    for (r, bytes) in rows.iter_mut().enumerate() {
        *bytes = nibbles.row(row + r);
    }
    // A few rows by themselves are followed by nothing that will be read.
    let ahead = if nibbles.rows > MAX_ROWS { tiles::ahead(R * row_bytes(nibbles.cols)) } else { 0 };
    let products = K::sums(rows, x, ahead);
    for t in 0..T {
        let to = &mut sums[(token + t) * nibbles.rows + row..][..R];
        for r in 0..R {
            to[r] = products[r][t];
        }
    }
    R
}

/// Activations as bytes.
fn bytes_of(x: &[i8]) -> &[u8] {
    // SAFETY: the same bytes under a type of the same size and alignment.
    unsafe { core::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// `vpmaddubsw`.
struct Maddubs;

impl NibbleKernel for Maddubs {
    const MAX_SUMS: usize = 4;

    fn sums<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
        // SAFETY: only `avx2()` names this kernel, and its callers answer for the feature.
        unsafe { maddubs(rows, x, ahead) }
    }
}

#[target_feature(enable = "avx2")]
fn maddubs<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
    let blocks = rows[0].len() / BLOCK_BYTES;
    let rows = chunks::<BLOCK_BYTES, R>(rows, blocks);
    let x = chunks::<BLOCK_COLS, T>(x, blocks);
    let zero = _mm256_setzero_si256();
    let (ones, fifteen) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    let mut sums = [[zero; T]; R];
    for first in (0..blocks).step_by(BLOCKS_IN_WORDS) {
        let mut words = [[zero; T]; R];
        for b in first..blocks.min(first + BLOCKS_IN_WORDS) {
            for r in 0..R {
                prefetch(&rows[r][b], ahead);
                for half in 0..2 {
                    let bytes = load(&rows[r][b].as_chunks().0[half]);
                    let low = _mm256_and_si256(bytes, fifteen);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), fifteen);
                    for t in 0..T {
                        let (parts, _) = x[t][b].as_chunks();
                        let products = _mm256_add_epi16(
                            _mm256_maddubs_epi16(low, load(&parts[half])),
                            _mm256_maddubs_epi16(high, load(&parts[half + 2])),
                        );
                        words[r][t] = _mm256_add_epi16(words[r][t], products);
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                sums[r][t] = _mm256_add_epi32(sums[r][t], _mm256_madd_epi16(words[r][t], ones));
            }
        }
    }
    totals(sums)
}

/// `vpdpbusd` on 256 bits.
struct Dpbusd256;

impl NibbleKernel for Dpbusd256 {
    const MAX_SUMS: usize = 8;

    fn sums<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
        // SAFETY: only `avxvnni()` names this kernel, and its callers answer for the features.
        unsafe { dpbusd256(rows, x, ahead) }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
fn dpbusd256<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
    let blocks = rows[0].len() / BLOCK_BYTES;
    let rows = chunks::<BLOCK_BYTES, R>(rows, blocks);
    let x = chunks::<BLOCK_COLS, T>(x, blocks);
    let fifteen = _mm256_set1_epi8(15);
    let mut sums = [[_mm256_setzero_si256(); T]; R];
    for b in 0..blocks {
        for r in 0..R {
            prefetch(&rows[r][b], ahead);
            for half in 0..2 {
                let bytes = load(&rows[r][b].as_chunks().0[half]);
                let low = _mm256_and_si256(bytes, fifteen);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), fifteen);
                for t in 0..T {
                    let (parts, _) = x[t][b].as_chunks();
                    sums[r][t] = _mm256_dpbusd_avx_epi32(sums[r][t], low, load(&parts[half]));
                    sums[r][t] = _mm256_dpbusd_avx_epi32(sums[r][t], high, load(&parts[half + 2]));
                }
            }
        }
    }
    totals(sums)
}

/// `vpdpbusd` on 512 bits.
struct Dpbusd512;

impl NibbleKernel for Dpbusd512 {
    const MAX_SUMS: usize = 16;

    fn sums<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
        // SAFETY: only `avx512vnni()` names this kernel, and its callers answer for the features.
        unsafe { dpbusd512(rows, x, ahead) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dpbusd512<const R: usize, const T: usize>(rows: [&[u8]; R], x: [&[u8]; T], ahead: usize) -> [[i32; T]; R] {
    let blocks = rows[0].len() / BLOCK_BYTES;
    let rows = chunks::<BLOCK_BYTES, R>(rows, blocks);
    let x = chunks::<BLOCK_COLS, T>(x, blocks);
    let fifteen = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_si512(); T]; R];
    for b in 0..blocks {
        let (mut low, mut high) = ([fifteen; R], [fifteen; R]);
        for r in 0..R {
            prefetch(&rows[r][b], ahead);
            let bytes = load512(&rows[r][b]);
            low[r] = _mm512_and_si512(bytes, fifteen);
            high[r] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), fifteen);
        }
        for t in 0..T {
            let (parts, _) = x[t][b].as_chunks();
            let (first, second) = (load512(&parts[0]), load512(&parts[1]));
            for r in 0..R {
                sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], low[r], first);
                sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], high[r], second);
            }
        }
    }
    let mut totals = [[0; T]; R];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = _mm512_reduce_add_epi32(sum);
        }
    }
    totals
}

/// Sixty-four bytes, wherever they lie.
#[inline]
#[target_feature(enable = "avx512f")]
fn load512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and this load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
