//! The ternary product of a kernel set.

use super::{GroupedOps, KernelSet};
use crate::layout::MAX_COLS;

/// A panel-aligned piece of a ternary matrix and the tokens it meets; lengths were checked by [`KernelSet::multiply`].
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// Packed codes of `rows` rows in the set's layout, starting at a panel.
    pub weights: &'a [u8],
    /// Rows to compute; the last panel may hold more, which are padding.
    pub rows: usize,
    /// Columns, a multiple of the layout's `col_multiple`.
    pub cols: usize,
    /// Prepared activations of `tokens` tokens, one after another, each as long as the set's `prepared_bytes`.
    pub prepared: &'a [u8],
    /// Tokens.
    pub tokens: usize,
}

/// The part of a product that is best computed in one call: smaller ones waste what a call sets up, larger ones leave
/// workers idle at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// Rows, a multiple of the layout's `panel_rows`.
    pub rows: usize,
    /// Tokens.
    pub tokens: usize,
}

/// The ternary functions of a set. Sums are exact, so every set returns the same ones.
#[derive(Clone, Copy, Debug)]
pub struct TernaryOps {
    /// Bytes of one token's prepared activations with this many columns.
    pub prepared_bytes: fn(cols: usize) -> usize,
    /// Brings one token's int8 activations `[cols]` into the form that `multiply` reads. Any `i8` is legal.
    pub prepare: fn(q: &[i8], prepared: &mut [u8]),
    /// The part of a product of `rows x cols` with `tokens` that one call should get when `workers` share it.
    pub grain: fn(rows: usize, cols: usize, tokens: usize, workers: usize) -> Grain,
    /// Working memory of one call, in 8-byte words. Never falls when a size grows.
    pub scratch_words: fn(rows: usize, cols: usize, tokens: usize) -> usize,
    /// `sums[t * rows + r] = sum_c weight[r][c] * q[t][c]`, exact; `scratch` holds anything before and after.
    pub multiply: fn(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]),
    /// Matrices in groups of columns in one pass, where that is faster than one group after another.
    pub grouped: Option<GroupedOps>,
}

impl KernelSet {
    /// Bytes of one token's prepared activations with `cols` columns.
    pub fn prepared_bytes(&self, cols: usize) -> usize {
        (self.ternary.prepared_bytes)(cols)
    }

    /// Brings one token's activations `q: [cols]` into the form that [`multiply`](Self::multiply) reads.
    ///
    /// # Panics
    /// If `prepared` is not `prepared_bytes(cols)` long or `cols` does not fit the layout.
    pub fn prepare(&self, q: &[i8], prepared: &mut [u8]) {
        assert!(q.len().is_multiple_of(self.layout.col_multiple()), "columns of {}", self.layout.name());
        assert_eq!(prepared.len(), self.prepared_bytes(q.len()), "prepared bytes of {} columns", q.len());
        (self.ternary.prepare)(q, prepared);
    }

    /// The part of a product of `rows x cols` with `tokens` tokens that one call of [`multiply`](Self::multiply) should
    /// get when `workers` share the product; at least one panel and one token.
    pub fn grain(&self, rows: usize, cols: usize, tokens: usize, workers: usize) -> Grain {
        let grain = (self.ternary.grain)(rows, cols, tokens, workers);
        debug_assert!(grain.rows.is_multiple_of(self.layout.panel_rows()) && grain.rows * grain.tokens > 0);
        grain
    }

    /// Working memory of [`multiply`](Self::multiply) for at most this many rows, columns and tokens, in 8-byte words.
    pub fn scratch_words(&self, rows: usize, cols: usize, tokens: usize) -> usize {
        (self.ternary.scratch_words)(rows, cols, tokens)
    }

    /// `sums[t * rows + r] = sum_c weight[r][c] * q[t][c]`, exact, for `weights: [rows, cols]` in this set's layout,
    /// `prepared: [tokens]` of [`prepare`](Self::prepare) and `sums: [tokens, rows]`.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or `scratch` is shorter than `scratch_words(rows, cols, tokens)`.
    #[allow(clippy::too_many_arguments, reason = "a matrix, its shape, its input and two outputs")]
    pub fn multiply(
        &self,
        weights: &[u8],
        rows: usize,
        cols: usize,
        prepared: &[u8],
        tokens: usize,
        scratch: &mut [u64],
        sums: &mut [i32],
    ) {
        assert!(cols <= MAX_COLS, "{cols} columns");
        assert_eq!(Some(weights.len()), self.layout.bytes(rows, cols), "weights of {rows} x {cols}");
        assert_eq!(prepared.len(), tokens * self.prepared_bytes(cols), "{tokens} prepared tokens");
        assert_eq!(sums.len(), tokens * rows, "sums of {tokens} x {rows}");
        if tokens == 0 || rows == 0 {
            return;
        }
        let words = self.scratch_words(rows, cols, tokens);
        assert!(scratch.len() >= words, "scratch of {} words for {words}", scratch.len());
        (self.ternary.multiply)(Tile { weights, rows, cols, prepared, tokens }, &mut scratch[..words], sums);
    }
}
