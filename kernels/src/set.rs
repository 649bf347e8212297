//! A kernel set: a name, the weight layout it reads and a table of functions, behind wrappers that check shapes.
//!
//! Lengths are asserted here, once a call, so that back ends may read without checks; a failed assertion is a bug in
//! the caller, never in a model file.

use crate::layout::{Layout, MAX_COLS};

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

/// The functions of a set. Each must return what its namesake in [`mod@crate::reference`] returns, bit for bit.
#[derive(Clone, Copy, Debug)]
pub struct Ops {
    /// Bytes of one token's prepared activations with this many columns.
    pub prepared_bytes: fn(cols: usize) -> usize,
    /// Brings one token's int8 activations `[cols]` into the form that `multiply` reads. Any `i8` is legal.
    pub prepare: fn(q: &[i8], prepared: &mut [u8]),
    /// `sums[t * rows + r] = sum_c weight[r][c] * q[t][c]`, exact.
    pub multiply: fn(tile: Tile<'_>, sums: &mut [i32]),
    /// See [`crate::lanes::absmax`].
    pub absmax: fn(x: &[f32]) -> f32,
    /// See [`crate::lanes::quantize`].
    pub quantize: fn(x: &[f32], s: f32, q: &mut [i8]),
    /// See [`crate::lanes::sum_squares`].
    pub sum_squares: fn(x: &[f32]) -> f32,
    /// See [`crate::lanes::matvec_f32`].
    pub matvec_f32: fn(rows: &[f32], x: &[f32], y: &mut [f32]),
    /// See [`crate::lanes::matvec_f16`].
    pub matvec_f16: fn(rows: &[u16], x: &[f32], y: &mut [f32]),
    /// See [`crate::lanes::mix_f32`].
    pub mix_f32: fn(rows: &[f32], p: &[f32], y: &mut [f32]),
    /// See [`crate::lanes::mix_f16`].
    pub mix_f16: fn(rows: &[u16], p: &[f32], y: &mut [f32]),
    /// See [`crate::lanes::exp_sum`].
    pub exp_sum: fn(x: &mut [f32]) -> f32,
}

/// A complete set of kernels for one kind of machine.
#[derive(Debug)]
pub struct KernelSet {
    /// `{arch}-{weights}{acts}-{tier}`, for example `aarch64-t2i8-dotprod`.
    pub name: &'static str,
    /// The layout that `multiply` reads.
    pub layout: Layout,
    ops: Ops,
}

impl KernelSet {
    /// A set of `ops` that reads `layout`. Back ends hand out sets only where the machine has what they need.
    pub const fn new(name: &'static str, layout: Layout, ops: Ops) -> Self {
        KernelSet { name, layout, ops }
    }

    /// Bytes of one token's prepared activations with `cols` columns.
    pub fn prepared_bytes(&self, cols: usize) -> usize {
        (self.ops.prepared_bytes)(cols)
    }

    /// Brings one token's activations `q: [cols]` into the form that [`multiply`](Self::multiply) reads.
    ///
    /// # Panics
    /// If `prepared` is not `prepared_bytes(cols)` long or `cols` does not fit the layout.
    pub fn prepare(&self, q: &[i8], prepared: &mut [u8]) {
        assert!(q.len().is_multiple_of(self.layout.col_multiple()), "columns of {}", self.layout.name());
        assert_eq!(prepared.len(), self.prepared_bytes(q.len()), "prepared bytes of {} columns", q.len());
        (self.ops.prepare)(q, prepared);
    }

    /// `sums[t * rows + r] = sum_c weight[r][c] * q[t][c]`, exact, for `weights: [rows, cols]` in this set's layout,
    /// `prepared: [tokens]` of [`prepare`](Self::prepare) and `sums: [tokens, rows]`.
    ///
    /// # Panics
    /// If a length does not belong to the shape.
    pub fn multiply(
        &self,
        weights: &[u8],
        rows: usize,
        cols: usize,
        prepared: &[u8],
        tokens: usize,
        sums: &mut [i32],
    ) {
        assert!(cols <= MAX_COLS, "{cols} columns");
        assert_eq!(Some(weights.len()), self.layout.bytes(rows, cols), "weights of {rows} x {cols}");
        assert_eq!(prepared.len(), tokens * self.prepared_bytes(cols), "{tokens} prepared tokens");
        assert_eq!(sums.len(), tokens * rows, "sums of {tokens} x {rows}");
        if tokens == 0 || rows == 0 {
            return;
        }
        (self.ops.multiply)(Tile { weights, rows, cols, prepared, tokens }, sums);
    }

    /// `max |x[i]|`, 0 for an empty slice; NaN is passed over.
    pub fn absmax(&self, x: &[f32]) -> f32 {
        (self.ops.absmax)(x)
    }

    /// `q[i] = clamp(round_half_even(x[i] * s), -128, 127)`, both `[k]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize(&self, x: &[f32], s: f32, q: &mut [i8]) {
        assert_eq!(x.len(), q.len(), "one quantised value for each activation");
        (self.ops.quantize)(x, s, q);
    }

    /// `sum x[i]^2` in lane order.
    pub fn sum_squares(&self, x: &[f32]) -> f32 {
        (self.ops.sum_squares)(x)
    }

    /// `y[r] = rows[r] . x` in lane order, with `rows: [n, k]`, `x: [k]`, `y: [n]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn matvec_f32(&self, rows: &[f32], x: &[f32], y: &mut [f32]) {
        assert!(!x.is_empty() && rows.len() == x.len() * y.len(), "rows of a matrix-vector product");
        (self.ops.matvec_f32)(rows, x, y);
    }

    /// `y[r] = rows[r] . x` in lane order, with `rows: [n, k]` as binary16 bits, `x: [k]`, `y: [n]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn matvec_f16(&self, rows: &[u16], x: &[f32], y: &mut [f32]) {
        assert!(!x.is_empty() && rows.len() == x.len() * y.len(), "rows of a matrix-vector product");
        (self.ops.matvec_f16)(rows, x, y);
    }

    /// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]`, `p: [n]`, `y: [k]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn mix_f32(&self, rows: &[f32], p: &[f32], y: &mut [f32]) {
        assert!(!y.is_empty() && rows.len() == p.len() * y.len(), "rows of a mixture");
        (self.ops.mix_f32)(rows, p, y);
    }

    /// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]` as binary16 bits, `p: [n]`, `y: [k]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn mix_f16(&self, rows: &[u16], p: &[f32], y: &mut [f32]) {
        assert!(!y.is_empty() && rows.len() == p.len() * y.len(), "rows of a mixture");
        (self.ops.mix_f16)(rows, p, y);
    }

    /// Replaces scores by `e^(x[i] - max x)` and returns their sum in lane order.
    pub fn exp_sum(&self, x: &mut [f32]) -> f32 {
        (self.ops.exp_sum)(x)
    }
}
