//! Products with eight tokens or more by `sdot`, for cores that have it.
//!
//! Rows are expanded to bytes once ([`crate::strip`]) and meet four tokens at a time, whose sums stay in registers:
//!
//! ```text
//! for each 2560 columns:
//!   for each two groups of R rows (R = 5 or 4):
//!     strip = bytes of the rows, by step of 16 columns                25 KiB at most, which stays in L1
//!     for each four tokens, each group:
//!       for each step:
//!         load R vectors of the strip and one of each token           9 or 8 loads
//!         sums[t][r] += sdot(strip[r], a[t])                          20 or 16 sdot
//!       rows += sums, added up and finished
//! ```
//!
//! Bounds, for any `i8` activations: bytes of a strip are within -128..=127, so sums within 128 * 128 * 65280 < 2^30.
//!
//! Tail rules: columns come in steps of 16, tokens beyond a multiple of four run one to three at a time, rows
//! beyond the last are computed and not written.
//!
//! Expected cycles per 64 products on Cortex-A76 by the issue model of `benches/yard`: 2.0 in the innermost loop, where
//! two `sdot` start a cycle; with 16 tokens 2.6 from T5R, 2.4 from T2R4 and 2.6 from T2B128, most of the rest for
//! expanding.
//!
//! Source: SDOT (vector), Arm ARM DDI 0487, section C7.2.

use crate::asm::{load, sdot};
use crate::panels::{self, PanelKernel};
use crate::strip::Strip;
use core::arch::aarch64::{
    int8x16_t, int32x4_t, vaddvq_s32, vdupq_n_s32, vgetq_lane_s32, vld1q_s8, vpaddq_s32, vreinterpretq_s8_u8,
    vst1q_s8,
};
use tern_kernels::Tile;
use tern_kernels::reference::{PLAIN_HEADER, plain_sum, prepared_bytes};

/// Tokens from which a strip is worth expanding.
pub(crate) const MIN_TOKENS: usize = 8;
/// Steps of 16 columns of a strip.
pub(crate) const STRIP_STEPS: usize = 160;
/// Groups of rows that are expanded before tokens meet them.
pub(crate) const GROUPS: usize = 2;
/// Tokens that meet a strip at once.
const TOKENS: usize = 4;

/// Sixteen bytes of a row, in words because scratch is made of them.
pub(crate) type Vector = [u64; 2];

/// Words of scratch that [`multiply`] needs for groups of `group_rows` rows.
pub(crate) fn scratch_words(group_rows: usize, cols: usize, tokens: usize) -> usize {
    if tokens < MIN_TOKENS { 0 } else { 7 + GROUPS * group_rows * (cols / 16).min(STRIP_STEPS) * 2 }
}

/// `scratch` from its first cache line on, in vectors.
pub(crate) fn vectors(scratch: &mut [u64]) -> &mut [Vector] {
    let aligned = scratch.as_ptr().align_offset(64);
    scratch[aligned..].as_chunks_mut().0
}

/// Few tokens by `K`, many by strips.
///
/// # Safety
/// The machine has FEAT_DotProd.
pub(crate) unsafe fn multiply_panels<S: Strip<R>, const R: usize, K: PanelKernel<ROWS>, const ROWS: usize>(
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    if tile.tokens < MIN_TOKENS {
        panels::multiply::<K, ROWS>(tile, sums);
    } else {
        // SAFETY: as for this function.
        unsafe { multiply::<S, R>(tile, scratch, sums) };
    }
}

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]`.
///
/// # Safety
/// The machine has FEAT_DotProd.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn multiply<S: Strip<R>, const R: usize>(
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    let steps = tile.cols / 16;
    if steps == 0 {
        return sums.fill(0);
    }
    let (buffer, _) = vectors(scratch).as_chunks_mut::<R>();
    for first in (0..steps).step_by(STRIP_STEPS) {
        let here = STRIP_STEPS.min(steps - first);
        for group in (0..tile.rows.div_ceil(R)).step_by(GROUPS) {
            let groups = group..tile.rows.div_ceil(R).min(group + GROUPS);
            for (strip, group) in buffer.chunks_exact_mut(here).zip(groups.clone()) {
                expand::<S, R>(&tile, group, first, strip);
            }
            let mut token = 0;
            while token < tile.tokens {
                let left = tile.tokens - token;
                for (strip, group) in buffer.chunks_exact(here).zip(groups.clone()) {
                    let place = Place { group, first, token };
                    match left {
                        1 => meet::<S, R, 1>(&tile, strip, place, sums),
                        2 => meet::<S, R, 2>(&tile, strip, place, sums),
                        3 => meet::<S, R, 3>(&tile, strip, place, sums),
                        _ => meet::<S, R, TOKENS>(&tile, strip, place, sums),
                    }
                }
                token += left.min(TOKENS);
            }
        }
    }
}

/// What a strip is and whom it meets.
#[derive(Clone, Copy)]
struct Place {
    /// Its rows.
    group: usize,
    /// Its first step.
    first: usize,
    /// The first of the tokens.
    token: usize,
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn expand<S: Strip<R>, const R: usize>(
    tile: &Tile<'_>,
    group: usize,
    first: usize,
    strip: &mut [[Vector; R]],
) {
    let rows = S::rows(tile, group);
    for (at, vectors) in strip.iter_mut().enumerate() {
        for (vector, bytes) in vectors.iter_mut().zip(S::step(rows, first + at)) {
            // SAFETY: sixteen bytes into two words.
            unsafe { vst1q_s8(vector.as_mut_ptr().cast(), bytes) };
        }
    }
}

/// Adds the products of a strip with `T` tokens to `sums`; the first strip of a row writes them.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn meet<S: Strip<R>, const R: usize, const T: usize>(
    tile: &Tile<'_>,
    strip: &[[Vector; R]],
    place: Place,
    sums: &mut [i32],
) {
    let stride = prepared_bytes(tile.cols);
    let tokens: [&[u8]; T] = core::array::from_fn(|t| &tile.prepared[(place.token + t) * stride..][..stride]);
    let activations =
        tokens.map(|token| &token[PLAIN_HEADER..].as_chunks::<16>().0[place.first..][..strip.len()]);
    let dots = dot(strip, activations);
    let rows = R.min(tile.rows - R * place.group);
    for (t, dots) in dots.into_iter().enumerate() {
        let sums = &mut sums[(place.token + t) * tile.rows + R * place.group..][..rows];
        if place.first == 0 {
            sums.copy_from_slice(&S::finish(dots, plain_sum(tokens[t]))[..rows]);
        } else {
            sums.iter_mut().zip(S::finish(dots, 0)).for_each(|(sum, more)| *sum += more);
        }
    }
}

/// `sum strip[r] a[t]` by token and row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const R: usize, const T: usize>(strip: &[[Vector; R]], tokens: [&[[u8; 16]]; T]) -> [[i32; R]; T] {
    assert!(tokens.iter().all(|token| token.len() == strip.len()), "a strip's activations");
    let mut sums = [[vdupq_n_s32(0); R]; T];
    for (at, vectors) in strip.iter().enumerate() {
        let rows = vectors.each_ref().map(|vector| load_vector(vector));
        for (sums, token) in sums.iter_mut().zip(tokens) {
            // SAFETY: every token has as many vectors as the strip; the compiler would check each of them.
            let a = vreinterpretq_s8_u8(load(unsafe { token.get_unchecked(at) }));
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = sdot(*sum, row, a);
            }
        }
    }
    sums.map(|sums| add_up(sums))
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_vector(vector: &Vector) -> int8x16_t {
    // SAFETY: sixteen bytes out of two words.
    unsafe { vld1q_s8(vector.as_ptr().cast()) }
}

/// All lanes of each register; the first four in three additions.
#[inline]
#[target_feature(enable = "neon")]
fn add_up<const R: usize>(sums: [int32x4_t; R]) -> [i32; R] {
    let four = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
    core::array::from_fn(|r| match r {
        0 => vgetq_lane_s32::<0>(four),
        1 => vgetq_lane_s32::<1>(four),
        2 => vgetq_lane_s32::<2>(four),
        3 => vgetq_lane_s32::<3>(four),
        _ => vaddvq_s32(sums[r]),
    })
}
