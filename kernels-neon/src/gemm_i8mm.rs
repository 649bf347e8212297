//! Products with eight tokens or more by `smmla`, for cores that have it (Cortex-A510, A710, X2, Neoverse V1 and
//! later).
//!
//! One instruction multiplies two rows of eight bytes with two tokens' eight: 32 products, twice those of `sdot`.
//! Rows are expanded to bytes once ([`crate::strip`]), and rows and tokens are laid out in pairs, eight bytes of
//! one and eight of the other, which a 128-bit register takes at once:
//!
//! ```text
//! for each at most 64 tokens, each 2560 columns:
//!   pairs of tokens = their activations, zeros for a token that there is not
//!   for each two groups of R rows (R = 5 or 4):
//!     strip = R pairs of rows, by half a step of 16 columns
//!     for each four pairs of tokens:
//!       for each half step:
//!         load R pairs of rows and four of tokens                     9 or 8 loads
//!         sums[p][q] += smmla(rows[p], tokens[q])                     20 or 16 smmla, four sums each
//!       rows += sums, finished
//! ```
//!
//! Bounds: those of [`crate::gemm_dotprod`].
//!
//! Tail rules: columns come in steps of 16; fewer than four pairs of tokens run one pair at a time; tokens and rows
//! beyond the last are computed and not written.
//!
//! Expected cycles per 64 products on Neoverse N2 (Cortex-A710) by llvm-mca: 1.0 in the innermost loop, where two
//! `smmla` start a cycle; with 16 tokens 2.0 from T5R, of which expanding is nearly all of the rest.
//!
//! Source: SMMLA (vector), Arm ARM DDI 0487, section C7.2.

use crate::asm::{load, smmla};
use crate::dotprod::DotProd;
use crate::float::FLOAT_OPS;
use crate::gemm_dotprod::{GROUPS, MIN_TOKENS, STRIP_STEPS, Vector, load_vector, vectors};
use crate::head::dotprod_head;
use crate::panels::{self, PanelKernel};
use crate::strip::{Codes, Fives, Nested, Strip};
use crate::{dotprod, t2r4, t2r4_dotprod, t5r, t5r_dotprod};
use core::arch::aarch64::{
    int8x16_t, int32x4_t, vdupq_n_s8, vdupq_n_s32, vreinterpretq_s8_s64, vreinterpretq_s8_u8,
    vreinterpretq_s64_s8, vst1q_s8, vst1q_s32, vzip1q_s64, vzip2q_s64,
};
use tern_kernels::reference::{PLAIN_HEADER, PLAIN_OPS, plain_grain, plain_sum, prepared_bytes};
use tern_kernels::{KernelSet, Layout, TernaryOps, Tile, VectorOps};

/// Pairs of tokens that meet a strip at once.
const PAIRS: usize = 4;
/// Tokens of one pass; bounds the scratch.
const PASS_TOKENS: usize = 64;

/// Proof that this machine has FEAT_I8MM, and FEAT_DotProd, without which it does not come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8MatMul(());

impl Int8MatMul {
    /// The proof, if the operating system reports the features.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn detect(_: DotProd) -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("i8mm").then_some(Int8MatMul(()))
    }

    /// None: without an operating system there is nobody to ask.
    #[cfg(target_os = "none")]
    pub(crate) fn detect(_: DotProd) -> Option<Self> {
        None
    }

    /// The sets that need the features; there is no other way to them.
    pub(crate) fn sets(self) -> [&'static KernelSet; 3] {
        static FIVES: KernelSet = KernelSet::new(
            "aarch64-t5ri8-i8mm",
            Layout::T5R,
            TernaryOps {
                grain: |rows, _, tokens, _| plain_grain(Layout::T5R, rows, tokens),
                scratch_words: |_, cols, tokens| scratch_words(5, cols, tokens),
                multiply: |tile, scratch, sums| {
                    multiply_panels::<Fives, 5, t5r_dotprod::OutOfOrder, { t5r::ROWS }>(tile, scratch, sums);
                },
                ..PLAIN_OPS
            },
            // SAFETY: the token of this set proves the feature.
            VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
        );
        static NESTED: KernelSet = KernelSet::new(
            "aarch64-t2r4i8-i8mm",
            Layout::T2R4,
            TernaryOps {
                grain: |rows, _, tokens, _| plain_grain(Layout::T2R4, rows, tokens),
                scratch_words: |_, cols, tokens| scratch_words(4, cols, tokens),
                multiply: |tile, scratch, sums| {
                    multiply_panels::<Nested, 4, t2r4_dotprod::DotKernel, { t2r4::ROWS }>(
                        tile, scratch, sums,
                    );
                },
                ..PLAIN_OPS
            },
            // SAFETY: the token of this set proves the feature.
            VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
        );
        static CODES: KernelSet = KernelSet::new(
            "aarch64-t2i8-i8mm",
            Layout::T2B128,
            TernaryOps {
                scratch_words: |_, cols, tokens| scratch_words(4, cols, tokens),
                multiply: |tile, scratch, sums| {
                    if tile.tokens < MIN_TOKENS {
                        dotprod::multiply_few(tile, sums);
                    } else {
                        multiply::<Codes, 4>(tile, scratch, sums);
                    }
                },
                ..PLAIN_OPS
            },
            // SAFETY: the token of this set proves the feature.
            VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
        );
        [&FIVES, &NESTED, &CODES]
    }
}

/// Words of scratch for groups of `group_rows` rows.
fn scratch_words(group_rows: usize, cols: usize, tokens: usize) -> usize {
    if tokens < MIN_TOKENS {
        return 0;
    }
    let steps = (cols / 16).min(STRIP_STEPS);
    let pairs = tokens.min(PASS_TOKENS).div_ceil(2);
    7 + 2 * steps * (GROUPS * group_rows + 2 * pairs)
}

/// Few tokens by `K`, many by strips.
fn multiply_panels<S: Strip<R>, const R: usize, K: PanelKernel<ROWS>, const ROWS: usize>(
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    if tile.tokens < MIN_TOKENS {
        panels::multiply::<K, ROWS>(tile, sums);
    } else {
        multiply::<S, R>(tile, scratch, sums);
    }
}

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]`.
fn multiply<S: Strip<R>, const R: usize>(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    // SAFETY: the only way here is `Int8MatMul::sets`, whose `self` proves the feature.
    unsafe { multiply_smmla::<S, R>(tile, scratch, sums) }
}

#[target_feature(enable = "neon,i8mm")]
fn multiply_smmla<S: Strip<R>, const R: usize>(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    let steps = tile.cols / 16;
    if steps == 0 {
        return sums.fill(0);
    }
    let (strip, rest) = vectors(scratch).split_at_mut(2 * R * steps.min(STRIP_STEPS));
    for first_token in (0..tile.tokens).step_by(PASS_TOKENS) {
        let tokens = PASS_TOKENS.min(tile.tokens - first_token);
        for first in (0..steps).step_by(STRIP_STEPS) {
            let here = STRIP_STEPS.min(steps - first);
            let packed = &mut rest[..tokens.div_ceil(2) * 2 * here];
            for (pair, packed) in packed.chunks_exact_mut(2 * here).enumerate() {
                pack(&tile, first_token + 2 * pair, first, packed);
            }
            let strip = &mut strip.as_chunks_mut::<R>().0[..2 * here];
            for group in (0..tile.rows.div_ceil(R)).step_by(GROUPS) {
                expand::<S, R>(&tile, group, first, strip);
                for (four, packed) in packed.chunks(PAIRS * 2 * here).enumerate() {
                    let place = Place { group, first, token: first_token + 2 * PAIRS * four };
                    if packed.len() == PAIRS * 2 * here {
                        meet::<S, R, PAIRS>(&tile, strip, packed, place, sums);
                    } else {
                        for (pair, packed) in packed.chunks_exact(2 * here).enumerate() {
                            let place = Place { token: place.token + 2 * pair, ..place };
                            meet::<S, R, 1>(&tile, strip, packed, place, sums);
                        }
                    }
                }
            }
        }
    }
}

/// What a strip is and whom it meets.
#[derive(Clone, Copy)]
struct Place {
    /// The first of its two groups of rows.
    group: usize,
    /// Its first step.
    first: usize,
    /// The first of the tokens.
    token: usize,
}

/// Eight bytes of each, and the eight after.
#[inline]
#[target_feature(enable = "neon")]
fn pair_up(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let [a, b] = [a, b].map(|bytes| vreinterpretq_s64_s8(bytes));
    [vzip1q_s64(a, b), vzip2q_s64(a, b)].map(|pair| vreinterpretq_s8_s64(pair))
}

#[inline]
#[target_feature(enable = "neon")]
fn store_vector(vector: &mut Vector, bytes: int8x16_t) {
    // SAFETY: sixteen bytes into two words.
    unsafe { vst1q_s8(vector.as_mut_ptr().cast(), bytes) };
}

/// The activations of tokens `token` and `token + 1` from step `first` on, by half a step.
#[target_feature(enable = "neon")]
fn pack(tile: &Tile<'_>, token: usize, first: usize, packed: &mut [Vector]) {
    let stride = prepared_bytes(tile.cols);
    let activations = |token: usize| match token < tile.tokens {
        true => &tile.prepared[token * stride + PLAIN_HEADER..].as_chunks::<16>().0[first..],
        false => &[],
    };
    let tokens = [activations(token), activations(token + 1)];
    for (at, halves) in packed.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let [a, b] = tokens.map(|token| match token.get(at) {
            Some(bytes) => vreinterpretq_s8_u8(load(bytes)),
            None => vdupq_n_s8(0),
        });
        for (half, bytes) in halves.iter_mut().zip(pair_up(a, b)) {
            store_vector(half, bytes);
        }
    }
}

/// Two groups of rows in pairs, by half a step; the second again the first if it is not there.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn expand<S: Strip<R>, const R: usize>(
    tile: &Tile<'_>,
    group: usize,
    first: usize,
    strip: &mut [[Vector; R]],
) {
    let last = tile.rows.div_ceil(R) - 1;
    let groups = [S::rows(tile, group), S::rows(tile, last.min(group + 1))];
    for (at, halves) in strip.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let [a, b] = groups.map(|rows| S::step(rows, first + at));
        let row = |r: usize| if r < R { a[r] } else { b[r - R] };
        let [lows, highs] = halves;
        for (pair, (low, high)) in lows.iter_mut().zip(highs).enumerate() {
            let bytes = pair_up(row(2 * pair), row(2 * pair + 1));
            store_vector(low, bytes[0]);
            store_vector(high, bytes[1]);
        }
    }
}

/// Adds the products of two groups of rows with `Q` pairs of tokens to `sums`; the first strip of a row writes them.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn meet<S: Strip<R>, const R: usize, const Q: usize>(
    tile: &Tile<'_>,
    strip: &[[Vector; R]],
    packed: &[Vector],
    place: Place,
    sums: &mut [i32],
) {
    let lanes = dot::<R, Q>(strip, packed);
    let stride = prepared_bytes(tile.cols);
    for t in 0..(2 * Q).min(tile.tokens - place.token) {
        let token = place.token + t;
        let of_row = |row: usize| lanes[row / 2][t / 2][row % 2 * 2 + t % 2];
        let codes_less = if place.first == 0 { plain_sum(&tile.prepared[token * stride..]) } else { 0 };
        for half in 0..GROUPS {
            let row = R * (place.group + half);
            if row >= tile.rows {
                break;
            }
            let dots = S::finish(core::array::from_fn(|r| of_row(R * half + r)), codes_less);
            let sums = &mut sums[token * tile.rows + row..][..R.min(tile.rows - row)];
            if place.first == 0 {
                sums.copy_from_slice(&dots[..sums.len()]);
            } else {
                sums.iter_mut().zip(dots).for_each(|(sum, more)| *sum += more);
            }
        }
    }
}

/// Sums by pair of rows and of tokens, the second token's behind the first's, the second row's behind both.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn dot<const R: usize, const Q: usize>(strip: &[[Vector; R]], packed: &[Vector]) -> [[[i32; 4]; Q]; R] {
    let mut sums = [[vdupq_n_s32(0); Q]; R];
    let tokens: [&[Vector]; Q] = core::array::from_fn(|q| &packed[q * strip.len()..][..strip.len()]);
    for (at, vectors) in strip.iter().enumerate() {
        // SAFETY: every pair of tokens has as many vectors as the strip; the compiler would check each of them.
        let tokens = tokens.map(|token| load_vector(unsafe { token.get_unchecked(at) }));
        for (sums, rows) in sums.iter_mut().zip(vectors) {
            let rows = load_vector(rows);
            for (sum, token) in sums.iter_mut().zip(tokens) {
                *sum = smmla(*sum, rows, token);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| lanes(sum)))
}

#[inline]
#[target_feature(enable = "neon")]
fn lanes(sum: int32x4_t) -> [i32; 4] {
    let mut lanes = [0; 4];
    // SAFETY: four numbers into an array of four.
    unsafe { vst1q_s32(lanes.as_mut_ptr(), sum) };
    lanes
}
