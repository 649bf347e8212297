//! The vector functions of a kernel set: everything on the path of a token that is not a ternary product.

use super::{AttentionOps, ElementOps, HeadOps, KernelSet};

/// Float functions. Each must return what its namesake in [`crate::lanes`] returns, bit for bit.
#[derive(Clone, Copy, Debug)]
pub struct VectorOps {
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
    /// Products with the planes of an int8 head.
    pub head: HeadOps,
    /// Attention over a page of the cache.
    pub attention: AttentionOps,
    /// What treats each element by itself.
    pub elements: ElementOps,
}

impl KernelSet {
    /// `max |x[i]|`, 0 for an empty slice; NaN is passed over.
    pub fn absmax(&self, x: &[f32]) -> f32 {
        (self.vector.absmax)(x)
    }

    /// `q[i] = clamp(round_half_even(x[i] * s), -128, 127)`, both `[k]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize(&self, x: &[f32], s: f32, q: &mut [i8]) {
        assert_eq!(x.len(), q.len(), "one quantised value for each activation");
        (self.vector.quantize)(x, s, q);
    }

    /// `sum x[i]^2` in lane order.
    pub fn sum_squares(&self, x: &[f32]) -> f32 {
        (self.vector.sum_squares)(x)
    }

    /// `y[r] = rows[r] . x` in lane order, with `rows: [n, k]`, `x: [k]`, `y: [n]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn matvec_f32(&self, rows: &[f32], x: &[f32], y: &mut [f32]) {
        assert!(!x.is_empty() && rows.len() == x.len() * y.len(), "rows of a matrix-vector product");
        (self.vector.matvec_f32)(rows, x, y);
    }

    /// `y[r] = rows[r] . x` in lane order, with `rows: [n, k]` as binary16 bits, `x: [k]`, `y: [n]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn matvec_f16(&self, rows: &[u16], x: &[f32], y: &mut [f32]) {
        assert!(!x.is_empty() && rows.len() == x.len() * y.len(), "rows of a matrix-vector product");
        (self.vector.matvec_f16)(rows, x, y);
    }

    /// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]`, `p: [n]`, `y: [k]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn mix_f32(&self, rows: &[f32], p: &[f32], y: &mut [f32]) {
        assert!(!y.is_empty() && rows.len() == p.len() * y.len(), "rows of a mixture");
        (self.vector.mix_f32)(rows, p, y);
    }

    /// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]` as binary16 bits, `p: [n]`, `y: [k]`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn mix_f16(&self, rows: &[u16], p: &[f32], y: &mut [f32]) {
        assert!(!y.is_empty() && rows.len() == p.len() * y.len(), "rows of a mixture");
        (self.vector.mix_f16)(rows, p, y);
    }

    /// Replaces scores by `e^(x[i] - max x)` and returns their sum in lane order.
    pub fn exp_sum(&self, x: &mut [f32]) -> f32 {
        (self.vector.exp_sum)(x)
    }
}
