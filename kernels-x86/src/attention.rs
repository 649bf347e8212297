//! Attention over a page of the cache for an [`Isa`], with the results of [`tern_kernels::attention`] to the bit.
//!
//! ```text
//! scores, for 16 cells and G queries:  for each pair of dimensions
//!     2 loads of keys (widened), 2 G broadcasts of a query's value, 2 G products, 2 G additions into 2 G sums
//! mix, for 16 W columns and G queries: for each cell
//!     W loads of values (widened), G broadcasts of a weight, G W products, G W additions
//! ```
//!
//! The keys of a page lie column by column, so a sum needs no folding, and the even and the odd dimensions are chains of
//! their own that hide the latency of an addition. G is 4 and W is 4 where there are 32 registers, both 2 where there
//! are 16. Queries left over are taken one by one, columns left over through narrower blocks and then singly.

use tern_kernels::attention::CELLS;
use tern_kernels::lanes::LANES;

use crate::floats::Element;
use crate::isa::Isa;

/// `scores[q][i] = queries[q] . keys[..][i]` with `keys: [dim, CELLS]`, `queries: [g, dim]`, `scores: [g, CELLS]`.
#[inline(always)]
pub(crate) fn scores<I: Isa, E: Element>(isa: I, keys: &[E], queries: &[f32], scores: &mut [f32]) {
    let columns = keys.as_chunks::<CELLS>().0;
    let scores = scores.as_chunks_mut::<CELLS>().0;
    if I::MANY_REGISTERS {
        score_groups::<I, E, 4>(isa, columns, queries, scores);
    } else {
        score_groups::<I, E, 2>(isa, columns, queries, scores);
    }
}

#[inline(always)]
fn score_groups<I: Isa, E: Element, const G: usize>(
    isa: I,
    columns: &[[E; CELLS]],
    queries: &[f32],
    scores: &mut [[f32; CELLS]],
) {
    let dim = columns.len();
    let (groups, rest) = scores.as_chunks_mut::<G>();
    let (grouped, single) = queries.split_at(groups.len() * G * dim);
    for (queries, scores) in grouped.chunks_exact(G * dim).zip(groups) {
        score_group(isa, columns, queries, scores);
    }
    for (query, scores) in single.chunks_exact(dim).zip(rest) {
        score_group(isa, columns, query, core::array::from_mut(scores));
    }
}

/// The scores of `G` queries.
#[inline(always)]
fn score_group<I: Isa, E: Element, const G: usize>(
    isa: I,
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
    for half in 0..CELLS / LANES {
        let zero = isa.splat(0.0);
        let (mut even, mut odd) = ([zero; G], [zero; G]);
        for (p, [first, second]) in pairs.iter().enumerate() {
            let first = E::load(isa, &first.as_chunks::<LANES>().0[half]);
            let second = E::load(isa, &second.as_chunks::<LANES>().0[half]);
            for g in 0..G {
                let [a, b] = query_pairs[g][p];
                even[g] = isa.add(even[g], isa.mul(isa.splat(a), first));
                odd[g] = isa.add(odd[g], isa.mul(isa.splat(b), second));
            }
        }
        if let [column] = last {
            let keys = E::load(isa, &column.as_chunks::<LANES>().0[half]);
            for g in 0..G {
                even[g] = isa.add(even[g], isa.mul(isa.splat(queries[g * dim + dim - 1]), keys));
            }
        }
        for g in 0..G {
            isa.store(isa.add(even[g], odd[g]), &mut scores[g].as_chunks_mut::<LANES>().0[half]);
        }
    }
}

/// `y[q] = y[q] carry[q] + sum_i weights[q][i] values[i]` with `values: [n, dim]`, `carry: [g]`, `y: [g, dim]`; weights of
/// different queries are [`CELLS`] apart.
#[inline(always)]
pub(crate) fn mix<I: Isa, E: Element>(isa: I, values: &[E], weights: &[f32], carry: &[f32], y: &mut [f32]) {
    if I::MANY_REGISTERS {
        mix_groups::<I, E, 4, 4>(isa, values, weights, carry, y);
    } else {
        mix_groups::<I, E, 2, 2>(isa, values, weights, carry, y);
    }
}

#[inline(always)]
fn mix_groups<I: Isa, E: Element, const G: usize, const W: usize>(
    isa: I,
    values: &[E],
    weights: &[f32],
    carry: &[f32],
    y: &mut [f32],
) {
    let dim = y.len() / carry.len();
    let (groups, rest) = carry.as_chunks::<G>();
    let (grouped, single) = y.split_at_mut(groups.len() * G * dim);
    for (at, (carry, y)) in groups.iter().zip(grouped.chunks_exact_mut(G * dim)).enumerate() {
        mix_group::<I, E, G, W>(isa, values, &weights[at * G * CELLS..], carry, y);
    }
    for (at, (carry, y)) in rest.iter().zip(single.chunks_exact_mut(dim)).enumerate() {
        let weights = &weights[(groups.len() * G + at) * CELLS..];
        mix_group::<I, E, 1, W>(isa, values, weights, core::array::from_ref(carry), y);
    }
}

/// The mixture of `G` queries.
#[inline(always)]
fn mix_group<I: Isa, E: Element, const G: usize, const W: usize>(
    isa: I,
    values: &[E],
    weights: &[f32],
    carry: &[f32; G],
    y: &mut [f32],
) {
    let dim = y.len() / G;
    let cells = values.len() / dim;
    let mut of_query = [&[][..]; G];
    for (g, of_query) in of_query.iter_mut().enumerate() {
        *of_query = &weights[g * CELLS..][..cells];
    }
    let wide = dim - dim % (W * LANES);
    let whole = dim - dim % LANES;
    for at in (0..wide).step_by(W * LANES) {
        mix_columns::<I, E, G, W>(isa, values, of_query, carry, y, at);
    }
    for at in (wide..whole).step_by(LANES) {
        mix_columns::<I, E, G, 1>(isa, values, of_query, carry, y, at);
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

/// The `16 W` columns from `at` on.
#[inline(always)]
fn mix_columns<I: Isa, E: Element, const G: usize, const W: usize>(
    isa: I,
    values: &[E],
    weights: [&[f32]; G],
    carry: &[f32; G],
    y: &mut [f32],
    at: usize,
) {
    let dim = y.len() / G;
    let mut sums = [[isa.splat(0.0); W]; G];
    for g in 0..G {
        let blocks = y[g * dim + at..][..W * LANES].as_chunks::<LANES>().0;
        for w in 0..W {
            sums[g][w] = isa.mul(isa.load(&blocks[w]), isa.splat(carry[g]));
        }
    }
    for (i, cell) in values.chunks_exact(dim).enumerate() {
        let blocks = cell[at..][..W * LANES].as_chunks::<LANES>().0;
        let mut loaded = [isa.splat(0.0); W];
        for w in 0..W {
            loaded[w] = E::load(isa, &blocks[w]);
        }
        for g in 0..G {
            let weight = isa.splat(weights[g][i]);
            for w in 0..W {
                sums[g][w] = isa.add(sums[g][w], isa.mul(weight, loaded[w]));
            }
        }
    }
    for g in 0..G {
        let blocks = y[g * dim + at..][..W * LANES].as_chunks_mut::<LANES>().0;
        for w in 0..W {
            isa.store(sums[g][w], &mut blocks[w]);
        }
    }
}
