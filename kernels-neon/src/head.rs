//! Nibbles times int8, for LM heads in layout `h8n2`, with `sdot` where there is dotprod and `smlal` where not.
//!
//! ```text
//! for each strip of rows whose nibbles fit STRIP_BYTES
//!   for each group of 8 (4 without dotprod), 4, 2 or 1 tokens
//!     for each 4, 2 or 1 rows, as many as there are registers for
//!       per 16 bytes b of the plane, four to a block of 128 columns
//!         w = b & 15; v = b >> 4                          columns l..l + 16 and l + 64..l + 80
//!         sdot:   for each token: sum += sdot(w, x[l..]); sum += sdot(v, x[l + 64..])
//!         smlal:  for each token: near += w.low x, far += w.high x, the same with v
//!       smlal, every two blocks: sum += sadalp(near), sadalp(far)
//! ```
//!
//! Bounds: a product is at most 15 x 128 = 1,920 in magnitude. A word gets eight of them a block and sixteen between
//! two widenings, 30,720, below 32,767. Double words reach at most 15 x 128 x 65,280 = 1.3e8.
//!
//! Tail: none, columns come in whole blocks. One hint a line asks for the same place of the next tile, because a tile
//! reads several short rows side by side, which hardware does not follow.
//!
//! Expected cycles per 64 columns of a row and one token, an estimate from the operation tables: `sdot` 3.0 on
//! Cortex-A76 (two loads, four of nibbles, four products; activations shared by four rows) and 11 on A55; `smlal` 9 on
//! A72, 19 on A53. At 2.2 to 11 GB/s, 32 bytes take 20 to 7 cycles of one core in four: memory decides.
//! Source: SDOT, SMLAL and SADALP (vector), Arm ARM DDI 0487, section C7.2.

use core::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, vaddvq_s32, vandq_u8, vdupq_n_s16, vdupq_n_s32, vdupq_n_u8, vget_low_s8,
    vmlal_high_s8, vmlal_s8, vpadalq_s16, vreinterpretq_s8_u8, vshrq_n_u8,
};
use core::arch::asm;

use tern_kernels::planes::{BLOCK_BYTES, BLOCK_COLS, row_bytes};
use tern_kernels::set::PLAIN_HEAD;
use tern_kernels::{HeadOps, Nibbles};

use crate::asm::{load, sdot};

/// Nibbles of a strip: half of a first-level cache.
const STRIP_BYTES: usize = 16 * 1024;
/// The most rows of a tile.
const MAX_ROWS: usize = 4;
/// Blocks between widenings of words; the head of this file proves that they hold so many.
const BLOCKS_IN_WORDS: usize = 2;

/// The table for any AArch64.
pub(crate) const NEON_HEAD: HeadOps = HeadOps { nibble_dots: walk::<Smlal>, ..PLAIN_HEAD };

/// The table for cores with FEAT_DotProd.
///
/// # Safety
/// 1. Its functions are called only on a machine with the feature.
pub(crate) const unsafe fn dotprod_head() -> HeadOps {
    HeadOps { nibble_dots: walk::<Sdot>, ..PLAIN_HEAD }
}

/// A block of a plane's row.
type Block = [u8; BLOCK_BYTES];
/// A block of activations.
type Values = [i8; BLOCK_COLS];

/// The product of a few rows with a few tokens.
trait NibbleKernel {
    /// The most rows times tokens whose sums stay in registers.
    const MAX_SUMS: usize;
    /// The most tokens.
    const MAX_TOKENS: usize;

    /// `sums[r][t] = sum_c nibble[r][c] * x[t][c]`, hints reaching `ahead` bytes beyond what is read.
    fn sums<const R: usize, const T: usize>(
        rows: [&[Block]; R],
        x: [&[Values]; T],
        ahead: usize,
    ) -> [[i32; T]; R];
}

/// The whole product.
fn walk<K: NibbleKernel>(nibbles: Nibbles<'_>, sums: &mut [i32]) {
    let strip = (STRIP_BYTES / row_bytes(nibbles.cols).max(1)).max(1).next_multiple_of(MAX_ROWS);
    for first in (0..nibbles.rows).step_by(strip) {
        let rows = first..nibbles.rows.min(first + strip);
        let mut token = 0;
        while token < nibbles.tokens {
            token += match (nibbles.tokens - token).min(K::MAX_TOKENS) {
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
    let x = core::array::from_fn(|t| nibbles.token(token + t).as_chunks().0);
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
    x: [&[Values]; T],
    sums: &mut [i32],
) -> usize {
    let rows = core::array::from_fn(|r| nibbles.row(row + r).as_chunks().0);
    // A few rows by themselves are followed by nothing that will be read.
    let ahead = if nibbles.rows > MAX_ROWS { R * row_bytes(nibbles.cols) } else { 0 };
    let products = K::sums::<R, T>(rows, x, ahead);
    for t in 0..T {
        let to = &mut sums[(token + t) * nibbles.rows + row..][..R];
        for r in 0..R {
            to[r] = products[r][t];
        }
    }
    R
}

/// `sdot`.
struct Sdot;

impl NibbleKernel for Sdot {
    const MAX_SUMS: usize = 16;
    const MAX_TOKENS: usize = 8;

    fn sums<const R: usize, const T: usize>(
        rows: [&[Block]; R],
        x: [&[Values]; T],
        ahead: usize,
    ) -> [[i32; T]; R] {
        // SAFETY: only `dotprod_head` names this kernel, and its callers answer for the feature.
        unsafe { sums_sdot(rows, x, ahead) }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn sums_sdot<const R: usize, const T: usize>(
    rows: [&[Block]; R],
    x: [&[Values]; T],
    ahead: usize,
) -> [[i32; T]; R] {
    let blocks = rows[0].len();
    let (rows, x) = (rows.map(|row| &row[..blocks]), x.map(|x| &x[..blocks]));
    let mut sums: [[int32x4_t; T]; R] = [[vdupq_n_s32(0); T]; R];
    for b in 0..blocks {
        for row in rows {
            prefetch(&row[b], ahead);
        }
        for part in 0..4 {
            let nibbles = rows.map(|row| nibbles(&row[b], part));
            for t in 0..T {
                let (first, second) = (values(&x[t][b], part), values(&x[t][b], part + 4));
                for r in 0..R {
                    sums[r][t] = sdot(sums[r][t], nibbles[r].0, first);
                    sums[r][t] = sdot(sums[r][t], nibbles[r].1, second);
                }
            }
        }
    }
    sums.map(|sums| sums.map(|sum| vaddvq_s32(sum)))
}

/// `smull` and `smlal`.
struct Smlal;

impl NibbleKernel for Smlal {
    const MAX_SUMS: usize = 4;
    const MAX_TOKENS: usize = 4;

    fn sums<const R: usize, const T: usize>(
        rows: [&[Block]; R],
        x: [&[Values]; T],
        ahead: usize,
    ) -> [[i32; T]; R] {
        // SAFETY: NEON is part of the target.
        unsafe { sums_smlal(rows, x, ahead) }
    }
}

#[target_feature(enable = "neon")]
fn sums_smlal<const R: usize, const T: usize>(
    rows: [&[Block]; R],
    x: [&[Values]; T],
    ahead: usize,
) -> [[i32; T]; R] {
    let blocks = rows[0].len();
    let (rows, x) = (rows.map(|row| &row[..blocks]), x.map(|x| &x[..blocks]));
    let mut sums: [[int32x4_t; T]; R] = [[vdupq_n_s32(0); T]; R];
    for start in (0..blocks).step_by(BLOCKS_IN_WORDS) {
        // The near and the far half of every product.
        let mut words: [[[int16x8_t; 2]; T]; R] = [[[vdupq_n_s16(0); 2]; T]; R];
        for b in start..blocks.min(start + BLOCKS_IN_WORDS) {
            for row in rows {
                prefetch(&row[b], ahead);
            }
            for part in 0..4 {
                let nibbles = rows.map(|row| nibbles(&row[b], part));
                for t in 0..T {
                    let (first, second) = (values(&x[t][b], part), values(&x[t][b], part + 4));
                    for r in 0..R {
                        let (w, v) = nibbles[r];
                        let [near, far] = &mut words[r][t];
                        *near = vmlal_s8(*near, vget_low_s8(w), vget_low_s8(first));
                        *far = vmlal_high_s8(*far, w, first);
                        *near = vmlal_s8(*near, vget_low_s8(v), vget_low_s8(second));
                        *far = vmlal_high_s8(*far, v, second);
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                let [near, far] = words[r][t];
                sums[r][t] = vpadalq_s16(vpadalq_s16(sums[r][t], near), far);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| vaddvq_s32(sum)))
}

/// The nibbles of bytes `16 part..16 part + 16` of a block: lower ones, then upper ones.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(block: &Block, part: usize) -> (int8x16_t, int8x16_t) {
    let bytes = load(&block.as_chunks().0[part]);
    (vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)))
}

/// Activations `16 part..16 part + 16` of a block.
#[inline]
#[target_feature(enable = "neon")]
fn values(block: &Values, part: usize) -> int8x16_t {
    let values: &[i8; 16] = &block.as_chunks().0[part];
    // SAFETY: `vld1q_s8` reads 16 bytes at any alignment, and the reference says that they are there.
    unsafe { core::arch::aarch64::vld1q_s8(values.as_ptr()) }
}

/// `PRFM PLDL1KEEP`: asks for the line `ahead` bytes behind the start of `at`. Past the end of a plane this is a hint
/// about memory that nobody reads, and never a fault.
#[inline]
fn prefetch<T>(at: &T, ahead: usize) {
    let line = core::ptr::from_ref(at).cast::<u8>().wrapping_add(ahead);
    // SAFETY: a hint neither reads nor faults, whatever the address.
    unsafe {
        asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(readonly, nostack, preserves_flags))
    };
}
