//! Ternary products by widening multiplications on four rows a byte: 2 bits a weight, nothing beyond Armv8.0.
//!
//! A byte is `b = c0 + 4 c1 + 16 c2 + 64 w3` with codes `c = w + 1`. Its nested parts `b & 3`, `b & 15`, `b & 63` and `b` are
//! multiplied as they are, so that no field is ever shifted down; with `F` the sums of their products,
//! `row k = (F(k) - F(k - 1)) / 4^k`, less `sum a` in the first three rows, which hold codes.
//!
//! ```text
//! for each strip of at most 12 steps:
//!   narrow0, narrow1 = 0                                              8 lanes of 16 bits for each group of rows
//!   for each step of 16 columns: load a; for each group of four rows: load b
//!     sum3 += smull(b, a), smlal2, sadalp;  sum2 += smull(b & 63, a), smlal2, sadalp
//!     narrow1 += smlal(b & 15, a), smlal2;  narrow0 += smlal(b & 3, a), smlal2
//!   sum1 += narrow1; sum0 += narrow0                                  sadalp
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: `b` is in -64..=106, so two products are within 2 * 106 * 128 = 27136;
//! `b & 63` is at most 42. `b & 15` is at most 10 and a lane takes two products a step, so that 12 steps stay within
//! 24 * 10 * 128 = 30720 < 2^15; `b & 3` is at most 2. In 32 bits a sum is within 106 * 128 * 65280 = 8.9e8.
//!
//! Tail rules: columns come in steps of 16; the last strip may be shorter. One token meets two groups of rows at a time,
//! more meet one. Rows of a last panel that do not exist are computed and not written.
//!
//! Expected cycles per 64 weights with one token, by the issue model of `benches/yard` and by llvm-mca: Cortex-A72 8.1
//! and 8.2 (17.5 instructions, of which eight multiplications bind), A53 21.5 and 34.4: lookup is ahead there.
//!
//! Source: SMULL, SMLAL, SADALP: Arm ARM DDI 0487, section C7.2. The layout is ours.

use crate::asm::{add_products, load, prefetch};
use crate::float::FLOAT_OPS;
use crate::panels::{self, PanelKernel};
use core::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vandq_u8, vdupq_n_s16, vdupq_n_s32, vdupq_n_u8, vextq_s32,
    vget_low_s8, vld1q_s32, vmlal_high_s8, vmlal_s8, vmulq_n_s32, vpadalq_s16, vpaddq_s32,
    vreinterpretq_s8_u8, vshlq_s32, vst1q_s32, vsubq_s32,
};
use tern_kernels::reference::{PLAIN_HEADER, PLAIN_OPS, plain_grain, plain_sum};
use tern_kernels::{KernelSet, Layout, TernaryOps};

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;

/// Bytes ahead of a step that are asked for.
const AHEAD: usize = 448;

/// Steps of 16 columns that 16-bit sums can take, see the bounds above.
const STRIP_STEPS: usize = 12;

/// The ternary operations that all sets for this layout share; their `multiply` is the scalar one.
pub(crate) const T2R4_OPS: TernaryOps =
    TernaryOps { grain: |rows, _, tokens, _| plain_grain(Layout::T2R4, rows, tokens), ..PLAIN_OPS };

/// The set; the baseline suffices, so it needs no proof.
pub(crate) static SET: KernelSet = KernelSet::new(
    "aarch64-t2r4i8-neon",
    Layout::T2R4,
    TernaryOps { multiply: |tile, _, sums| panels::multiply::<Kernel, ROWS>(tile, sums), ..T2R4_OPS },
    FLOAT_OPS,
);

struct Kernel;

impl PanelKernel<ROWS> for Kernel {
    #[inline]
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: NEON is part of the target.
        unsafe { products(panel, tokens) }
    }
}

/// The sixteen rows of a panel with each token.
#[target_feature(enable = "neon")]
fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
    let sums = if T == 1 {
        let [[a, b], [c, d]] = [sums::<2, T>(panel, 0, tokens), sums::<2, T>(panel, 2, tokens)];
        [a, b, c, d]
    } else {
        let one = |first| sums::<1, T>(panel, first, tokens);
        let [[a], [b], [c], [d]] = [one(0), one(1), one(2), one(3)];
        [a, b, c, d]
    };
    core::array::from_fn(|t| rows(&sums, t, tokens[t]))
}

/// Sums of products of four rows with `b & 3`, `b & 15`, `b & 63` and `b`, by token.
pub(crate) type Sums<const T: usize> = [[int32x4_t; T]; 4];

/// `b & 3`, `b & 15`, `b & 63` and `b` itself, to be multiplied as signed bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn nested(b: uint8x16_t) -> [int8x16_t; 4] {
    let masked = |mask| vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(mask)));
    [masked(3), masked(15), masked(63), vreinterpretq_s8_u8(b)]
}

/// Sums of groups `first..first + V` of four rows.
#[inline]
#[target_feature(enable = "neon")]
fn sums<const V: usize, const T: usize>(panel: &[u8], first: usize, tokens: [&[u8]; T]) -> [Sums<T>; V] {
    let mut sums = [[[vdupq_n_s32(0); T]; 4]; V];
    let (steps, _) = panel.as_chunks::<64>();
    let tokens = tokens.map(|token| &token[PLAIN_HEADER..].as_chunks::<16>().0[..steps.len()]);
    for (strip, steps) in steps.chunks(STRIP_STEPS).enumerate() {
        let tokens = tokens.map(|token| &token[strip * STRIP_STEPS..][..steps.len()]);
        let mut narrow = [[[vdupq_n_s16(0); T]; 2]; V];
        for (at, step) in steps.iter().enumerate() {
            let a = tokens.map(|token| vreinterpretq_s8_u8(load(&token[at])));
            let bytes = &step.as_chunks().0[first..];
            prefetch::<AHEAD>(&bytes[0]);
            for ((sums, narrow), bytes) in sums.iter_mut().zip(&mut narrow).zip(bytes) {
                let [ones, fours, sixteens, whole] = nested(load(bytes));
                if T == 1 {
                    let both = add_products([sums[2][0], sums[3][0]], [sixteens, whole], [a[0]; 2]);
                    [sums[2][0], sums[3][0]] = both;
                } else {
                    sums[2] = add_products(sums[2], [sixteens; T], a);
                    sums[3] = add_products(sums[3], [whole; T], a);
                }
                for t in 0..T {
                    narrow[0][t] = add_narrow(narrow[0][t], ones, a[t]);
                    narrow[1][t] = add_narrow(narrow[1][t], fours, a[t]);
                }
            }
        }
        for (sums, narrow) in sums.iter_mut().zip(narrow) {
            for (sums, narrow) in sums.iter_mut().zip(narrow) {
                for (sum, narrow) in sums.iter_mut().zip(narrow) {
                    *sum = vpadalq_s16(*sum, narrow);
                }
            }
        }
    }
    sums
}

/// Adds sixteen products to eight 16-bit sums.
#[inline]
#[target_feature(enable = "neon")]
fn add_narrow(sums: int16x8_t, codes: int8x16_t, a: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmlal_s8(sums, vget_low_s8(codes), vget_low_s8(a)), codes, a)
}

/// The sixteen rows of a panel with token `t`, whose plain form is `token`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn rows<const T: usize>(sums: &[Sums<T>; 4], t: usize, token: &[u8]) -> [i32; ROWS] {
    // SAFETY: loads of four numbers from arrays of four.
    let [shifts, biased] =
        [[0, -2, -4, -6], [1, 1, 1, 0]].map(|lanes: [i32; 4]| unsafe { vld1q_s32(lanes.as_ptr()) });
    let bias = vmulq_n_s32(biased, plain_sum(token));
    let mut rows = [0; ROWS];
    for (rows, sums) in rows.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        let sums = vpaddq_s32(vpaddq_s32(sums[0][t], sums[1][t]), vpaddq_s32(sums[2][t], sums[3][t]));
        let own = vsubq_s32(sums, vextq_s32::<3>(vdupq_n_s32(0), sums));
        // SAFETY: a store of four numbers into an array of four.
        unsafe { vst1q_s32(rows.as_mut_ptr(), vsubq_s32(vshlq_s32(own, shifts), bias)) };
    }
    rows
}
