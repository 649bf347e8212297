//! Attention over a page of the cache, with the results of [`tern_kernels::attention`] to the bit.
//!
//! ```text
//! scores, for 8 cells and G queries:  for each pair of dimensions
//!     2 loads of 8 keys (widened), 2 ld1r of a query's value, 4 G fmul, 4 G fadd into 4 G sums
//! mix, for 16 columns and G queries:  for each cell
//!     loads of 16 values (widened), G ld1r of a weight, 4 G fmul, 4 G fadd
//! ```
//!
//! Keys lie column by column, so a sum needs no folding; even and odd dimensions are chains of their own that hide the
//! latency of an addition. G is 4: sixteen registers of sums, the rest for what is loaded. Queries left over are taken
//! one by one, columns left over singly. The running softmax is vectorised by the compiler from its definition.
//!
//! Expected cycles for 8 keys, two dimensions and four queries, an estimate from the operation table of the
//! Cortex-A76 (two vector pipes): 32 products and sums, 16 cycles; loads and conversions run beside them.

use core::arch::aarch64::{
    float32x4_t, int8x8_t, vaddq_f32, vcvtq_f32_s32, vdupq_n_f32, vget_high_s16, vget_low_s16, vld1_s8,
    vld1q_f32, vld1q_u16, vmovl_s8, vmovl_s16, vmulq_f32, vst1q_f32,
};

use tern_kernels::AttentionOps;
use tern_kernels::attention::CELLS;
use tern_kernels::half::f16_to_f32;
use tern_kernels::set::PLAIN_ATTENTION;

use crate::asm::{fcvtl, fcvtl2};

/// The table for every set of this crate.
pub(crate) const ATTENTION: AttentionOps = AttentionOps {
    scores_f32: |keys, queries, scores| score_pages(keys, queries, scores),
    scores_f16: |keys, queries, scores| score_pages(keys, queries, scores),
    scores_i8: |keys, queries, scores| score_pages(keys, queries, scores),
    mix_f32: |values, weights, carry, y| mix_pages(values, weights, carry, y),
    mix_f16: |values, weights, carry, y| mix_pages(values, weights, carry, y),
    mix_i8: |values, weights, carry, y| mix_pages(values, weights, carry, y),
    ..PLAIN_ATTENTION
};

/// Queries that share what is loaded.
const GROUP: usize = 4;
/// Numbers loaded at once.
const EIGHT: usize = 8;

/// A number as the cache holds it.
trait Element: Copy {
    /// Eight of them as binary32, in two registers.
    fn load(x: &[Self; EIGHT]) -> [float32x4_t; 2];
    /// One of them.
    fn value(self) -> f32;
}

// SAFETY of the blocks below: NEON is part of the target of this module (see `lib.rs`), and each load reads as many
// numbers as the reference covers, at any alignment.

impl Element for f32 {
    #[inline(always)]
    fn load(x: &[f32; EIGHT]) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Element for u16 {
    #[inline(always)]
    fn load(x: &[u16; EIGHT]) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe {
            let halves = vld1q_u16(x.as_ptr());
            [fcvtl(halves), fcvtl2(halves)]
        }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f16_to_f32(self)
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load(x: &[i8; EIGHT]) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes: int8x8_t = vld1_s8(x.as_ptr());
            let words = vmovl_s8(bytes);
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)))]
        }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(self)
    }
}

/// `scores[q][i] = queries[q] . keys[..][i]` with `keys: [dim, CELLS]`, `queries: [g, dim]`, `scores: [g, CELLS]`.
fn score_pages<E: Element>(keys: &[E], queries: &[f32], scores: &mut [f32]) {
    let columns = keys.as_chunks::<CELLS>().0;
    let dim = columns.len();
    let (groups, rest) = scores.as_chunks_mut::<CELLS>().0.as_chunks_mut::<GROUP>();
    let (grouped, single) = queries.split_at(groups.len() * GROUP * dim);
    for (queries, scores) in grouped.chunks_exact(GROUP * dim).zip(groups) {
        // SAFETY: NEON is part of the target.
        unsafe { score_group(columns, queries, scores) };
    }
    for (query, scores) in single.chunks_exact(dim).zip(rest) {
        // SAFETY: NEON is part of the target.
        unsafe { score_group(columns, query, core::array::from_mut(scores)) };
    }
}

/// The scores of `G` queries.
#[target_feature(enable = "neon")]
fn score_group<E: Element, const G: usize>(
    columns: &[[E; CELLS]],
    queries: &[f32],
    scores: &mut [[f32; CELLS]; G],
) {
    let dim = columns.len();
    let (pairs, last) = columns.as_chunks::<2>();
    let mut query_pairs = [&[][..]; G];
    for (pairs, query) in query_pairs.iter_mut().zip(queries.chunks_exact(dim)) {
        *pairs = &query.as_chunks::<2>().0[..dim / 2];
    }
    let zero = vdupq_n_f32(0.0);
    for part in 0..CELLS / EIGHT {
        let mut sums = [[[zero; 2]; 2]; G];
        for (p, pair) in pairs.iter().enumerate() {
            for (odd, column) in pair.iter().enumerate() {
                let keys = E::load(&column.as_chunks::<EIGHT>().0[part]);
                for g in 0..G {
                    let q = vdupq_n_f32(query_pairs[g][p][odd]);
                    for i in 0..2 {
                        sums[g][odd][i] = vaddq_f32(sums[g][odd][i], vmulq_f32(q, keys[i]));
                    }
                }
            }
        }
        if let [column] = last {
            let keys = E::load(&column.as_chunks::<EIGHT>().0[part]);
            for g in 0..G {
                let q = vdupq_n_f32(queries[g * dim + dim - 1]);
                for i in 0..2 {
                    sums[g][0][i] = vaddq_f32(sums[g][0][i], vmulq_f32(q, keys[i]));
                }
            }
        }
        for g in 0..G {
            let to = &mut scores[g].as_chunks_mut::<EIGHT>().0[part];
            store(to, [vaddq_f32(sums[g][0][0], sums[g][1][0]), vaddq_f32(sums[g][0][1], sums[g][1][1])]);
        }
    }
}

/// `y[q] = y[q] carry[q] + sum_i weights[q][i] values[i]` with `values: [n, dim]`, `carry: [g]`, `y: [g, dim]`; weights of
/// different queries are [`CELLS`] apart.
fn mix_pages<E: Element>(values: &[E], weights: &[f32], carry: &[f32], y: &mut [f32]) {
    let dim = y.len() / carry.len();
    let (groups, rest) = carry.as_chunks::<GROUP>();
    let (grouped, single) = y.split_at_mut(groups.len() * GROUP * dim);
    for (at, (carry, y)) in groups.iter().zip(grouped.chunks_exact_mut(GROUP * dim)).enumerate() {
        // SAFETY: NEON is part of the target.
        unsafe { mix_group(values, &weights[at * GROUP * CELLS..], carry, y) };
    }
    for (at, (carry, y)) in rest.iter().zip(single.chunks_exact_mut(dim)).enumerate() {
        let weights = &weights[(groups.len() * GROUP + at) * CELLS..];
        // SAFETY: NEON is part of the target.
        unsafe { mix_group(values, weights, core::array::from_ref(carry), y) };
    }
}

/// The mixture of `G` queries.
#[target_feature(enable = "neon")]
fn mix_group<E: Element, const G: usize>(values: &[E], weights: &[f32], carry: &[f32; G], y: &mut [f32]) {
    let dim = y.len() / G;
    let cells = values.len() / dim;
    let mut of_query = [&[][..]; G];
    for (g, of_query) in of_query.iter_mut().enumerate() {
        *of_query = &weights[g * CELLS..][..cells];
    }
    let whole = dim - dim % (2 * EIGHT);
    for at in (0..whole).step_by(2 * EIGHT) {
        let mut sums = [[vdupq_n_f32(0.0); 4]; G];
        for g in 0..G {
            let [low, high] = two_eights(&y[g * dim + at..]);
            let (low, high) = (<f32 as Element>::load(low), <f32 as Element>::load(high));
            for (i, v) in [low[0], low[1], high[0], high[1]].into_iter().enumerate() {
                sums[g][i] = vmulq_f32(v, vdupq_n_f32(carry[g]));
            }
        }
        for (i, cell) in values.chunks_exact(dim).enumerate() {
            let [low, high] = two_eights(&cell[at..]);
            let (low, high) = (E::load(low), E::load(high));
            for g in 0..G {
                let weight = vdupq_n_f32(of_query[g][i]);
                sums[g][0] = vaddq_f32(sums[g][0], vmulq_f32(weight, low[0]));
                sums[g][1] = vaddq_f32(sums[g][1], vmulq_f32(weight, low[1]));
                sums[g][2] = vaddq_f32(sums[g][2], vmulq_f32(weight, high[0]));
                sums[g][3] = vaddq_f32(sums[g][3], vmulq_f32(weight, high[1]));
            }
        }
        for g in 0..G {
            let [low, high] = y[g * dim + at..][..2 * EIGHT].as_chunks_mut::<EIGHT>().0 else {
                unreachable!("sixteen numbers are two eights")
            };
            store(low, [sums[g][0], sums[g][1]]);
            store(high, [sums[g][2], sums[g][3]]);
        }
    }
    for g in 0..G {
        for c in whole..dim {
            let mut sum = y[g * dim + c] * carry[g];
            for (weight, cell) in of_query[g].iter().zip(values.chunks_exact(dim)) {
                sum += weight * cell[c].value();
            }
            y[g * dim + c] = sum;
        }
    }
}

/// The first sixteen elements.
#[inline(always)]
fn two_eights<E>(x: &[E]) -> &[[E; EIGHT]; 2] {
    x[..2 * EIGHT].as_chunks::<EIGHT>().0.first_chunk().expect("sixteen numbers are two eights")
}

/// Eight floats from two registers.
#[inline]
#[target_feature(enable = "neon")]
fn store(y: &mut [f32; EIGHT], [low, high]: [float32x4_t; 2]) {
    // SAFETY: two stores of four floats each into an array of eight.
    unsafe {
        vst1q_f32(y.as_mut_ptr(), low);
        vst1q_f32(y.as_mut_ptr().add(4), high);
    }
}
