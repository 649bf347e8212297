//! Products of five rows a byte ([`Layout::T5R`]) with eight tokens or more, by tables: its bytes become the
//! indices that [`crate::veclut`] looks up, which stand for five columns.
//!
//! Sixteen bytes of each of five steps hold 5 rows x 80 columns either way. With `q(k)` the fractions of a byte (see
//! [`tern_kernels::five`]) and `Q(k) = sum_j 3^(4-j) q(k)` of step `j`, row `k`'s number `v = sum_j 3^(4-j) w(k)` is
//! `(3 Q(k) - Q(k+1)) / 256`, for the identity is linear:
//!
//! ```text
//! for each panel, each five rows:
//!   q[j] = 16 bytes of step 5 b + j, j in 0..5, zeros beyond the last
//!   for k in 0..6:
//!     Q[k] = 81 q[0] + 27 q[1] + 9 q[2] + 3 q[3] + q[4]      16 bits: smull, smlal, saddw
//!     q[j] = 3 q[j]                                          8 bits, wrapping
//!   for k in 0..5:
//!     scaled = 3 Q[k] - Q[k+1]                               256 v; wraps on the way, not at the end
//!     index  = v + round(13 v / 243)                         round(256 v / 243), the byte of five columns
//! ```
//!
//! Bounds: `Q` is at most 121 * 128 = 15488, `256 v` at most 256 * 121 = 30976. `round(13 v / 243)` is taken from
//! 256 times itself, `sqrdmulh(256 v, 1753)`, and 1753 / 32768 is 13 / 243 to 1e-5; the numbers are 0.5 / 243 off a
//! half at least, 0.53 of those steps, and errors are at most 0.52.
//!
//! Tail rules: those of [`crate::veclut`].
//!
//! Expected cost: 30 instructions for 64 weights, 12 to 15 cycles on Cortex-A72 and A76, 30 on A53, once a call:
//! 0.8 cycles for 64 products with 16 tokens and 0.4 with 32. A call should therefore get more tokens than
//! [`crate::veclut`] alone asks for.

use crate::asm::{load, opaque};
use crate::panels::{self, PanelKernel};
use crate::t5r::ROWS;
use crate::veclut;
use crate::veclut_rows::AddRows;
use core::arch::aarch64::{
    int8x16_t, int16x8_t, vaddq_s8, vaddq_s16, vaddw_high_s8, vaddw_s8, vdup_n_s8, vdupq_n_s8, vget_low_s8,
    vgetq_lane_u64, vmlal_high_s8, vmlal_s8, vmull_high_s8, vmull_s8, vqrdmulhq_n_s16, vreinterpretq_s8_s16,
    vreinterpretq_s8_u8, vreinterpretq_u64_s8, vrshrn_high_n_s16, vrshrn_n_s16, vsubq_s16, vuzp2q_s8,
};
use tern_kernels::reference::{PLAIN_OPS, plain_grain, prepared_bytes};
use tern_kernels::{Grain, Layout, TernaryOps, Tile, five};

/// Bytes of a step of 16 columns of a panel.
const STEP_BYTES: usize = Layout::T5R.panel_bytes(16);
/// Tokens that one call should get where there are enough: fewer convert too often, more leave too few rows to a
/// table.
const GRAIN_TOKENS: usize = 32;
/// Rows below which tables cost more than sharing a conversion saves.
const GRAIN_ROWS: usize = 512;

/// The ternary operations of a set that multiplies few tokens by `K`: many go by tables first.
pub(crate) const fn ops(multiply: fn(Tile<'_>, &mut [u64], &mut [i32])) -> TernaryOps {
    TernaryOps {
        grain,
        scratch_words: |rows, _, tokens| veclut::scratch_words(rows, ROWS, tokens),
        multiply,
        ..PLAIN_OPS
    }
}

/// All tokens and, where that is too little for all workers, fewer rows.
fn grain(rows: usize, _: usize, tokens: usize, workers: usize) -> Grain {
    if veclut::share(rows, tokens) == 0 {
        return plain_grain(Layout::T5R, rows, tokens);
    }
    let cuts = workers.div_ceil(tokens.div_ceil(GRAIN_TOKENS)).min(rows / GRAIN_ROWS).max(1);
    let rows = rows.div_ceil(cuts).next_multiple_of(ROWS);
    Grain { rows, tokens: tokens.min(GRAIN_TOKENS) }
}

/// By tables for as many tokens as it pays, then by `K`.
pub(crate) fn multiply<K: PanelKernel<ROWS>>(
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
    add_rows: AddRows,
) {
    let tokens = veclut::share(tile.rows, tile.tokens);
    let (by_tables, by_panels) = sums.split_at_mut(tokens * tile.rows);
    if tokens > 0 {
        multiply_by_tables(tile, tokens, scratch, by_tables, add_rows);
    }
    if tokens < tile.tokens {
        let prepared = &tile.prepared[tokens * prepared_bytes(tile.cols)..];
        panels::multiply::<K, ROWS>(Tile { prepared, tokens: tile.tokens - tokens, ..tile }, by_panels);
    }
}

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]` for the first `tokens` tokens.
fn multiply_by_tables(
    tile: Tile<'_>,
    tokens: usize,
    scratch: &mut [u64],
    sums: &mut [i32],
    add_rows: AddRows,
) {
    let panel_bytes = Layout::T5R.panel_bytes(tile.cols).max(1);
    let indices = |block: usize, low: &mut [u64], high: &mut [u64]| {
        let rows = low.as_chunks_mut::<ROWS>().0.iter_mut().zip(high.as_chunks_mut::<ROWS>().0);
        for (panel, (low, high)) in tile.weights.chunks_exact(panel_bytes).zip(rows) {
            let steps = &panel.as_chunks::<STEP_BYTES>().0[five::WEIGHTS * block..];
            for half in 0..ROWS / five::WEIGHTS {
                // SAFETY: NEON is part of the target that this module is compiled for.
                let words = unsafe { convert(steps, half) };
                for (k, [first, second]) in words.into_iter().enumerate() {
                    (low[five::WEIGHTS * half + k], high[five::WEIGHTS * half + k]) = (first, second);
                }
            }
        }
    };
    veclut::multiply(tile, ROWS, tokens, scratch, sums, &indices, add_rows);
}

/// Sixteen numbers in the lanes of two registers.
type Wide = [int16x8_t; 2];

/// Indices of five rows in the first five of `steps`, sixteen a row.
#[inline]
#[target_feature(enable = "neon")]
fn convert(steps: &[[u8; STEP_BYTES]], half: usize) -> [[u64; 2]; five::WEIGHTS] {
    let mut q: [int8x16_t; five::WEIGHTS] = core::array::from_fn(|j| match steps.get(j) {
        Some(step) => vreinterpretq_s8_u8(load(&step.as_chunks::<16>().0[half])),
        None => vdupq_n_s8(0),
    });
    let mut words = [[0; 2]; five::WEIGHTS];
    let mut sum = weigh(q);
    for words in &mut words {
        q = q.map(|q| vaddq_s8(opaque(vaddq_s8(q, q)), q));
        let next = weigh(q);
        let scaled: Wide =
            core::array::from_fn(|i| vaddq_s16(sum[i], vsubq_s16(vaddq_s16(sum[i], sum[i]), next[i])));
        sum = next;
        let [first, second] = scaled.map(|scaled| vqrdmulhq_n_s16(scaled, 1753));
        let more = vrshrn_high_n_s16::<8>(vrshrn_n_s16::<8>(first), second);
        let v = vuzp2q_s8(vreinterpretq_s8_s16(scaled[0]), vreinterpretq_s8_s16(scaled[1]));
        let indices = vreinterpretq_u64_s8(vaddq_s8(v, more));
        *words = [vgetq_lane_u64::<0>(indices), vgetq_lane_u64::<1>(indices)];
    }
    words
}

/// `81 q[0] + 27 q[1] + 9 q[2] + 3 q[3] + q[4]`.
#[inline]
#[target_feature(enable = "neon")]
fn weigh(q: [int8x16_t; five::WEIGHTS]) -> Wide {
    let mut low = vmull_s8(vget_low_s8(q[0]), vdup_n_s8(81));
    let mut high = vmull_high_s8(q[0], vdupq_n_s8(81));
    for (q, power) in [(q[1], 27), (q[2], 9), (q[3], 3)] {
        low = vmlal_s8(low, vget_low_s8(q), vdup_n_s8(power));
        high = vmlal_high_s8(high, q, vdupq_n_s8(power));
    }
    [vaddw_s8(low, vget_low_s8(q[4])), vaddw_high_s8(high, q[4])]
}
