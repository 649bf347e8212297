//! Attention over one page of a key/value cache.

use super::KernelSet;
use crate::attention::{self, CELLS};
use crate::half::f16_to_f32;

/// The attention functions of a set. Each must return what its namesake in [`crate::attention`] returns, bit for bit;
/// the suffix says how the cache holds its numbers.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::type_complexity, reason = "a function's arguments are best read where it is named")]
pub struct AttentionOps {
    /// See [`attention::scores`].
    pub scores_f32: fn(keys: &[f32], queries: &[f32], scores: &mut [f32]),
    /// See [`attention::scores`]; keys are binary16 bits.
    pub scores_f16: fn(keys: &[u16], queries: &[f32], scores: &mut [f32]),
    /// See [`attention::scores`].
    pub scores_i8: fn(keys: &[i8], queries: &[f32], scores: &mut [f32]),
    /// See [`attention::mix`].
    pub mix_f32: fn(values: &[f32], weights: &[f32], carry: &[f32], y: &mut [f32]),
    /// See [`attention::mix`]; values are binary16 bits.
    pub mix_f16: fn(values: &[u16], weights: &[f32], carry: &[f32], y: &mut [f32]),
    /// See [`attention::mix`].
    pub mix_i8: fn(values: &[i8], weights: &[f32], carry: &[f32], y: &mut [f32]),
    /// See [`attention::soften`].
    pub soften: fn(scores: &mut [f32], max: &mut [f32], sum: &mut [f32], carry: &mut [f32]),
}

/// [`AttentionOps`] by the definition.
pub const PLAIN_ATTENTION: AttentionOps = AttentionOps {
    scores_f32: |keys, queries, scores| attention::scores(keys, queries, scores, |v| v),
    scores_f16: |keys, queries, scores| attention::scores(keys, queries, scores, f16_to_f32),
    scores_i8: |keys, queries, scores| attention::scores(keys, queries, scores, f32::from),
    mix_f32: |values, weights, carry, y| attention::mix(values, weights, carry, y, |v| v),
    mix_f16: |values, weights, carry, y| attention::mix(values, weights, carry, y, f16_to_f32),
    mix_i8: |values, weights, carry, y| attention::mix(values, weights, carry, y, f32::from),
    soften: |scores, max, sum, carry| attention::soften(scores, max, sum, carry),
};

/// What a cache holds keys and values as.
#[derive(Clone, Copy, Debug)]
pub enum Cached<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16 bits.
    F16(&'a [u16]),
    /// Integers; their scales are the caller's to apply.
    I8(&'a [i8]),
}

impl Cached<'_> {
    /// How many values there are.
    pub const fn len(&self) -> usize {
        match self {
            Cached::F32(values) => values.len(),
            Cached::F16(values) => values.len(),
            Cached::I8(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl KernelSet {
    /// The scores of a page: `keys: [dim, CELLS]`, `queries: [g, dim]`, `scores: [g, CELLS]`; see
    /// [`attention::scores`].
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn scores(&self, keys: Cached<'_>, queries: &[f32], scores: &mut [f32]) {
        let dim = keys.len() / CELLS;
        assert!(dim > 0 && keys.len() == dim * CELLS, "keys of a page");
        assert!(
            queries.len().is_multiple_of(dim) && scores.len() == queries.len() / dim * CELLS,
            "scores of a page"
        );
        match keys {
            Cached::F32(keys) => (self.vector.attention.scores_f32)(keys, queries, scores),
            Cached::F16(keys) => (self.vector.attention.scores_f16)(keys, queries, scores),
            Cached::I8(keys) => (self.vector.attention.scores_i8)(keys, queries, scores),
        }
    }

    /// Adds cells of a page, weighted, to what was carried: `values: [n, dim]`, `n` at most [`CELLS`] weights of each
    /// query, which are [`CELLS`] apart, `carry: [g]`, `y: [g, dim]`; see [`attention::mix`].
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn mix(&self, values: Cached<'_>, weights: &[f32], carry: &[f32], y: &mut [f32]) {
        assert!(
            !carry.is_empty() && y.len().is_multiple_of(carry.len()) && !y.is_empty(),
            "queries of a mixture"
        );
        let dim = y.len() / carry.len();
        let cells = values.len() / dim;
        assert!(values.len() == cells * dim && cells <= CELLS, "cells of a mixture");
        assert!(weights.len() >= (carry.len() - 1) * CELLS + cells, "weights of a mixture");
        match values {
            Cached::F32(values) => (self.vector.attention.mix_f32)(values, weights, carry, y),
            Cached::F16(values) => (self.vector.attention.mix_f16)(values, weights, carry, y),
            Cached::I8(values) => (self.vector.attention.mix_i8)(values, weights, carry, y),
        }
    }

    /// Takes a page's scores `[g, CELLS]` into a running softmax, `max`, `sum` and `carry` all `[g]`; see
    /// [`attention::soften`].
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn soften(&self, scores: &mut [f32], max: &mut [f32], sum: &mut [f32], carry: &mut [f32]) {
        let queries = scores.len() / CELLS;
        assert!(scores.len().is_multiple_of(CELLS), "scores of a page");
        assert!([max.len(), sum.len(), carry.len()] == [queries; 3], "a running softmax for each query");
        (self.vector.attention.soften)(scores, max, sum, carry);
    }
}
