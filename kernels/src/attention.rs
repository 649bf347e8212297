//! Attention over the pages of a key/value cache, in one stated order, so that every kernel set returns the same bits.
//!
//! A page holds [`CELLS`] positions of one key/value head; all query heads of its group meet it together, so that what
//! it holds is read and widened once for them. Keys lie column by column (`keys[d][cell]`): the scores of a page are
//! then sums in as many lanes as it has cells, with nothing to fold. Values lie cell by cell.
//!
//! ```text
//! for each page: scores = queries . keys                                  scores
//!     max' = max(max, scores); carry = e^(max - max')                     soften
//!     scores = e^(scores - max'); sum = sum carry + fold(scores)
//!     y = y carry + scores . values, one cell after another               mix
//! y / sum is the attention
//! ```
//!
//! This is the softmax that needs no second pass (arXiv 1805.02867, algorithm 3), a page at a time. Products and sums
//! are rounded separately, never fused. The functions are `inline(always)`, as those of [`crate::lanes`] and for the
//! same reason.

use crate::exp::exp;
use crate::lanes::{LANES, fold};

/// Cells of a page.
pub const CELLS: usize = 32;

/// `scores[q][i] = sum_d queries[q][d] value(keys[d][i])` with `keys: [dim, CELLS]`, `queries: [g, dim]` and
/// `scores: [g, CELLS]`: the terms of even `d` are added in order, then those of odd `d`, and the two sums to each other.
#[inline(always)]
pub fn scores<E: Copy>(keys: &[E], queries: &[f32], scores: &mut [f32], value: impl Fn(E) -> f32) {
    let columns = keys.as_chunks::<CELLS>().0;
    for (query, scores) in queries.chunks_exact(columns.len()).zip(scores.as_chunks_mut::<CELLS>().0) {
        let mut sums = [[0.0f32; CELLS]; 2];
        for (d, (q, column)) in query.iter().zip(columns).enumerate() {
            let sums = &mut sums[d % 2];
            for i in 0..CELLS {
                sums[i] += q * value(column[i]);
            }
        }
        for i in 0..CELLS {
            scores[i] = sums[0][i] + sums[1][i];
        }
    }
}

/// `y[q] = y[q] carry[q] + sum_i weights[q][i] value(values[i])`, one cell after another, with `values: [n, dim]`,
/// `carry: [g]` and `y: [g, dim]`; the `n` weights of query `q` start at `weights[q * CELLS]`.
#[inline(always)]
pub fn mix<E: Copy>(values: &[E], weights: &[f32], carry: &[f32], y: &mut [f32], value: impl Fn(E) -> f32) {
    let dim = y.len() / carry.len();
    for ((q, carry), y) in carry.iter().enumerate().zip(y.chunks_exact_mut(dim)) {
        y.iter_mut().for_each(|y| *y *= carry);
        for (weight, cell) in weights[q * CELLS..].iter().zip(values.chunks_exact(dim)) {
            for (y, v) in y.iter_mut().zip(cell) {
                *y += weight * value(*v);
            }
        }
    }
}

/// Takes a page into the running softmax of each query: `max[q]` becomes the larger of itself and the page's scores,
/// `carry[q] = e^(old max - new max)`, each score `e^(score - max)`, and `sum[q] = sum[q] carry[q] + scores` in lane
/// order. A score of minus infinity becomes +0, which is how a page with fewer cells is filled up.
#[inline(always)]
pub fn soften(scores: &mut [f32], max: &mut [f32], sum: &mut [f32], carry: &mut [f32]) {
    let states = max.iter_mut().zip(sum).zip(carry);
    for (page, ((max, sum), carry)) in scores.as_chunks_mut::<CELLS>().0.iter_mut().zip(states) {
        let (first, second) = page.split_at(LANES);
        let mut largest = [f32::NEG_INFINITY; LANES];
        for i in 0..LANES {
            let low = if first[i] > largest[i] { first[i] } else { largest[i] };
            largest[i] = if second[i] > low { second[i] } else { low };
        }
        // Which of two equal zeros wins does not matter: e^(x - 0) is the same for both.
        let new = largest.iter().fold(*max, |max, v| if *v > max { *v } else { max });
        let mut lanes = [0.0f32; LANES];
        for half in page.as_chunks_mut::<LANES>().0 {
            for i in 0..LANES {
                half[i] = exp(half[i] - new);
                lanes[i] += half[i];
            }
        }
        *carry = exp(*max - new);
        *sum = *sum * *carry + fold(lanes);
        *max = new;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pages_add_up_to_the_softmax_by_definition() {
        // Two queries, three pages of which the last has 5 cells, 6 dimensions.
        let (dim, cells) = (6, 2 * CELLS + 5);
        let key = |cell: usize, d: usize| ((cell * 7 + d * 3) % 11) as f32 * 0.25 - 1.0;
        let value = |cell: usize, d: usize| ((cell * 5 + d) % 13) as f32 - 6.0;
        let queries: Vec<f32> = (0..2 * dim).map(|i| i as f32 * 0.5 - 2.0).collect();
        let (mut max, mut sum, mut carry) = ([f32::NEG_INFINITY; 2], [0.0; 2], [0.0; 2]);
        let mut y = [0.0f32; 12];
        for page in 0..3 {
            let n = CELLS.min(cells - page * CELLS);
            let at = |i: usize| page * CELLS + i;
            let keys: Vec<f32> = (0..dim * CELLS).map(|i| key(at(i % CELLS), i / CELLS)).collect();
            let values: Vec<f32> = (0..n * dim).map(|i| value(at(i / dim), i % dim)).collect();
            let mut page_scores = [0.0; 2 * CELLS];
            scores(&keys, &queries, &mut page_scores, |v| v);
            page_scores.chunks_exact_mut(CELLS).for_each(|scores| scores[n..].fill(f32::NEG_INFINITY));
            soften(&mut page_scores, &mut max, &mut sum, &mut carry);
            mix(&values, &page_scores, &carry, &mut y, |v| v);
        }
        for q in 0..2 {
            let score = |cell| (0..dim).map(|d| f64::from(queries[q * dim + d] * key(cell, d))).sum::<f64>();
            let weights: Vec<f64> = (0..cells).map(|cell| score(cell).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let expected: f64 =
                    weights.iter().enumerate().map(|(cell, w)| w / total * f64::from(value(cell, d))).sum();
                let found = f64::from(y[q * dim + d] / sum[q]);
                assert!((found - expected).abs() < 1e-5, "query {q} value {d}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_score_takes_even_terms_before_odd_ones() {
        // 1e8 - 1e8 + 1 + 1 in order of d gives 2 only if even and odd terms are kept apart.
        let mut keys = [0.0f32; 4 * CELLS];
        for (d, k) in [1e8, 1.0, -1e8, 1.0].into_iter().enumerate() {
            keys[d * CELLS + 3] = k;
        }
        let mut found = [0.0; CELLS];
        scores(&keys, &[1.0; 4], &mut found, |v| v);
        assert_eq!((found[3], found[4]), (2.0, 0.0));
    }
}
