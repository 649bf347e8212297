//! The product of a matrix whose rows have a scale for each group of columns.
//!
//! ```text
//! values = 0
//! for each group of columns, in order, for each digit of a token, in order
//!     values = values + sum * (scale * factor)
//! ```
//!
//! in binary32, every step rounded by itself, `sum` being the exact sum of the products of a group. A set may do all of it
//! in one pass over its codes ([`GroupedOps`]); without, each group is a product of its own whose sums go through memory.

use super::{KernelSet, Tile};
use crate::layout::MAX_COLS;

/// The most columns of a group that a set is asked to take in one pass; no model that is known has wider ones.
pub const MOST_FUSED_COLS: usize = 512;

/// A panel-aligned piece of a matrix in groups of columns and the tokens it meets; lengths were checked by
/// [`KernelSet::multiply_groups`].
#[derive(Clone, Copy, Debug)]
pub struct GroupedTile<'a> {
    /// From the codes of the tile's rows in the first group, which start at a panel, to those in the last.
    pub weights: &'a [u8],
    /// Bytes from the codes of a group to those of the next.
    pub weights_stride: usize,
    /// From the scales of the tile's rows in the first group to those in the last, as binary16 bits.
    pub scales: &'a [u16],
    /// Scales from those of a group to those of the next.
    pub scales_stride: usize,
    /// Rows to compute; the last panel may hold more, which are padding.
    pub rows: usize,
    /// Columns of a group, a multiple of the layout's `col_multiple`.
    pub cols: usize,
    /// Groups, at least one.
    pub groups: usize,
    /// From the prepared activations of the first group to those of the last: of each the digits of a token one after
    /// another, then those of the next token.
    pub prepared: &'a [u8],
    /// Bytes from the activations of a group to those of the next.
    pub prepared_stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// Digits of an activation, each of which meets the weights as a token of its own.
    pub digits: usize,
    /// What the sums of a digit are multiplied by beside the scales of the weights: `[tokens, groups, digits]`.
    pub factors: &'a [f32],
}

impl<'a> GroupedTile<'a> {
    /// Group `group` as a product of its own, whose tokens are the digits of all tokens.
    #[inline(always)]
    pub fn group(&self, group: usize) -> Tile<'a> {
        let others = self.groups - 1;
        let weights_len = self.weights.len() - others * self.weights_stride;
        let prepared_len = self.prepared.len() - others * self.prepared_stride;
        Tile {
            weights: &self.weights[group * self.weights_stride..][..weights_len],
            rows: self.rows,
            cols: self.cols,
            prepared: &self.prepared[group * self.prepared_stride..][..prepared_len],
            tokens: self.tokens * self.digits,
        }
    }

    /// How far behind the codes of group `group` lie those that a walk over blocks of rows, each group after group, meets
    /// `later` groups later: to be asked for ahead of their use. A block has `block_bytes` in a group; past the end of the
    /// matrix what is said is an address that nobody reads.
    #[inline(always)]
    pub fn ahead(&self, group: usize, later: usize, block_bytes: usize) -> usize {
        let later = later.min(self.groups);
        if group + later < self.groups {
            later * self.weights_stride
        } else {
            // The first groups of the next block.
            block_bytes.wrapping_sub((self.groups - later).wrapping_mul(self.weights_stride))
        }
    }

    /// The scales of the tile's rows in group `group`.
    #[inline(always)]
    pub fn group_scales(&self, group: usize) -> &'a [u16] {
        &self.scales[group * self.scales_stride..][..self.rows]
    }

    /// What the sums of a digit of a token in group `group` are multiplied by.
    #[inline(always)]
    pub fn factor(&self, token: usize, group: usize, digit: usize) -> f32 {
        self.factors[(token * self.groups + group) * self.digits + digit]
    }
}

/// How a set multiplies with groups of at most [`MOST_FUSED_COLS`] columns in one pass.
#[derive(Clone, Copy, Debug)]
pub struct GroupedOps {
    /// Working memory of one call, in 8-byte words, with groups of `cols` columns and `tokens` digits of tokens. Never falls
    /// when a size grows.
    pub scratch_words: fn(rows: usize, cols: usize, tokens: usize) -> usize,
    /// `values[t * rows + r]` of the head of this file, to the bit; `scratch` and `values` hold anything before.
    pub multiply: fn(tile: GroupedTile<'_>, scratch: &mut [u64], values: &mut [f32]),
}

impl KernelSet {
    /// How groups of `cols` columns are multiplied in one pass, if they are.
    fn fused(&self, cols: usize) -> Option<GroupedOps> {
        self.ternary.grouped.filter(|_| cols <= MOST_FUSED_COLS)
    }

    /// Sums that [`multiply_groups`](Self::multiply_groups) needs room for, with groups of `cols` columns and `tokens`
    /// digits of tokens: none where a set needs one pass.
    pub fn grouped_sums(&self, rows: usize, cols: usize, tokens: usize) -> usize {
        if self.fused(cols).is_some() { 0 } else { rows * tokens }
    }

    /// Working memory of [`multiply_groups`](Self::multiply_groups) for at most this many rows, columns of a group and
    /// digits of tokens, in 8-byte words.
    pub fn grouped_scratch_words(&self, rows: usize, cols: usize, tokens: usize) -> usize {
        match self.fused(cols) {
            Some(ops) => (ops.scratch_words)(rows, cols, tokens),
            None => self.scratch_words(rows, cols, tokens),
        }
    }

    /// `values[t * rows + r]`, the product of a matrix in groups of columns as the head of this file has it.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or `scratch` or `sums` are shorter than
    /// [`grouped_scratch_words`](Self::grouped_scratch_words) and [`grouped_sums`](Self::grouped_sums) say.
    pub fn multiply_groups(
        &self,
        tile: GroupedTile<'_>,
        scratch: &mut [u64],
        sums: &mut [i32],
        values: &mut [f32],
    ) {
        let GroupedTile { rows, cols, groups, tokens, digits, .. } = tile;
        // What `groups` parts of `each` take, a stride apart.
        let span = |stride: usize, each: usize| Some((groups - 1).checked_mul(stride)? + each);
        assert!(cols <= MAX_COLS && groups > 0 && digits > 0, "{groups} groups of {cols} columns");
        let weights = self.layout.bytes(rows, cols).and_then(|bytes| span(tile.weights_stride, bytes));
        assert_eq!(Some(tile.weights.len()), weights, "weights of {rows} x {cols} in {groups} groups");
        assert_eq!(Some(tile.scales.len()), span(tile.scales_stride, rows), "scales of {rows} rows");
        let seen = tokens * digits;
        let prepared = span(tile.prepared_stride, seen * self.prepared_bytes(cols));
        assert_eq!(Some(tile.prepared.len()), prepared, "{seen} prepared tokens of {groups} groups");
        assert_eq!(tile.factors.len(), seen * groups, "factors of {seen} x {groups}");
        assert_eq!(values.len(), tokens * rows, "values of {tokens} x {rows}");
        if tokens == 0 || rows == 0 || cols == 0 {
            // Without columns there are no bytes to point at.
            return values.fill(0.0);
        }
        let words = self.grouped_scratch_words(rows, cols, seen);
        assert!(scratch.len() >= words, "scratch of {} words for {words}", scratch.len());
        let scratch = &mut scratch[..words];
        match self.fused(cols) {
            Some(ops) => (ops.multiply)(tile, scratch, values),
            None => self.multiply_each(tile, scratch, &mut sums[..rows * seen], values),
        }
    }

    /// The same, group after group.
    fn multiply_each(
        &self,
        tile: GroupedTile<'_>,
        scratch: &mut [u64],
        sums: &mut [i32],
        values: &mut [f32],
    ) {
        values.fill(0.0);
        for group in 0..tile.groups {
            (self.ternary.multiply)(tile.group(group), scratch, sums);
            let of_tokens = sums.chunks_exact(tile.digits * tile.rows);
            for (token, (sums, values)) in of_tokens.zip(values.chunks_exact_mut(tile.rows)).enumerate() {
                for (digit, sums) in sums.chunks_exact(tile.rows).enumerate() {
                    self.add_groups(sums, tile.group_scales(group), tile.factor(token, group, digit), values);
                }
            }
        }
    }
}
