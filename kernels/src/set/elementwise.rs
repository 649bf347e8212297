//! Functions of a set that treat each element by itself.

use super::KernelSet;
use crate::elementwise;

/// Elementwise functions. Each must return what its namesake in [`crate::elementwise`] returns, bit for bit.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::type_complexity, reason = "a function's arguments are best read where it is named")]
pub struct ElementOps {
    /// See [`elementwise::scale_sums`].
    pub scale_sums: fn(sums: &[i32], factor: f32, y: &mut [f32]),
    /// See [`elementwise::add_sums`].
    pub add_sums: fn(sums: &[i32], factor: f32, y: &mut [f32]),
    /// See [`elementwise::add_groups`].
    pub add_groups: fn(sums: &[i32], scales: &[u16], inverse: f32, y: &mut [f32]),
    /// See [`elementwise::relu2_values`].
    pub relu2_values: fn(gates: &[f32], ups: &[f32], y: &mut [f32]),
    /// See [`elementwise::silu_values`].
    pub silu_values: fn(gates: &[f32], ups: &[f32], y: &mut [f32]),
    /// See [`elementwise::gate_relu2`].
    pub gate_relu2: fn(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]),
    /// See [`elementwise::gate_silu`].
    pub gate_silu: fn(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]),
    /// See [`elementwise::norm`].
    pub norm: fn(x: &[f32], inverse: f32, weight: &[f32], y: &mut [f32]),
    /// See [`elementwise::rotate`].
    pub rotate: fn(x: &[f32], angles: &[f32], scale: f32, y: &mut [f32]),
    /// See [`elementwise::narrow`].
    pub narrow: fn(x: &[f32], y: &mut [u16]),
    /// See [`elementwise::blend`].
    pub blend: fn(y: &mut [f32], a: f32, z: &[f32], b: f32),
}

/// [`ElementOps`] by the definition.
pub const PLAIN_ELEMENTS: ElementOps = ElementOps {
    scale_sums: |sums, factor, y| elementwise::scale_sums(sums, factor, y),
    add_sums: |sums, factor, y| elementwise::add_sums(sums, factor, y),
    add_groups: |sums, scales, inverse, y| elementwise::add_groups(sums, scales, inverse, y),
    relu2_values: |gates, ups, y| elementwise::relu2_values(gates, ups, y),
    silu_values: |gates, ups, y| elementwise::silu_values(gates, ups, y),
    gate_relu2: |gates, ups, factors, y| elementwise::gate_relu2(gates, ups, factors, y),
    gate_silu: |gates, ups, factors, y| elementwise::gate_silu(gates, ups, factors, y),
    norm: |x, inverse, weight, y| elementwise::norm(x, inverse, weight, y),
    rotate: |x, angles, scale, y| elementwise::rotate(x, angles, scale, y),
    narrow: |x, y| elementwise::narrow(x, y),
    blend: |y, a, z, b| elementwise::blend(y, a, z, b),
};

/// What stands between the two halves of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `max(g, 0)^2 u`.
    Relu2,
    /// `g / (1 + e^-g) u`.
    Silu,
}

impl KernelSet {
    /// `y[i] = sums[i] factor`, both `[n]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn scale_sums(&self, sums: &[i32], factor: f32, y: &mut [f32]) {
        assert_eq!(sums.len(), y.len(), "one output for each sum");
        (self.vector.elements.scale_sums)(sums, factor, y);
    }

    /// `y[i] += sums[i] factor`, both `[n]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_sums(&self, sums: &[i32], factor: f32, y: &mut [f32]) {
        assert_eq!(sums.len(), y.len(), "one output for each sum");
        (self.vector.elements.add_sums)(sums, factor, y);
    }

    /// `y[i] += sums[i] (scales[i] inverse)`, all `[n]`, `scales` being binary16 bits.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_groups(&self, sums: &[i32], scales: &[u16], inverse: f32, y: &mut [f32]) {
        assert!(sums.len() == y.len() && scales.len() == y.len(), "one output for each sum and scale");
        (self.vector.elements.add_groups)(sums, scales, inverse, y);
    }

    /// `y[i] = gate(gates[i]) ups[i]`, all `[n]`: [`gate`](Self::gate) of values that carry their scales already.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate_values(&self, gate: Gate, gates: &[f32], ups: &[f32], y: &mut [f32]) {
        assert!(gates.len() == y.len() && ups.len() == y.len(), "one output for each pair of values");
        match gate {
            Gate::Relu2 => (self.vector.elements.relu2_values)(gates, ups, y),
            Gate::Silu => (self.vector.elements.silu_values)(gates, ups, y),
        }
    }

    /// `y[i] = gate(gates[i] factors[0]) (ups[i] factors[1])`, all `[n]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gate(&self, gate: Gate, gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]) {
        assert!(gates.len() == y.len() && ups.len() == y.len(), "one output for each pair of sums");
        match gate {
            Gate::Relu2 => (self.vector.elements.gate_relu2)(gates, ups, factors, y),
            Gate::Silu => (self.vector.elements.gate_silu)(gates, ups, factors, y),
        }
    }

    /// `y[i] = weight[i] (x[i] inverse)`, all `[n]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn norm(&self, x: &[f32], inverse: f32, weight: &[f32], y: &mut [f32]) {
        assert!(x.len() == y.len() && weight.len() == y.len(), "one output for each value");
        (self.vector.elements.norm)(x, inverse, weight, y);
    }

    /// Rotary embedding of one head times `scale`, all `[dim]`; see [`elementwise::rotate`].
    ///
    /// # Panics
    /// If the lengths differ or are odd.
    pub fn rotate(&self, x: &[f32], angles: &[f32], scale: f32, y: &mut [f32]) {
        assert!(x.len() == y.len() && angles.len() == y.len() && y.len().is_multiple_of(2), "one head");
        (self.vector.elements.rotate)(x, angles, scale, y);
    }

    /// `y[i]` is the binary16 nearest to `x[i]`, both `[n]`; see [`crate::half::f32_to_f16`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn narrow(&self, x: &[f32], y: &mut [u16]) {
        assert_eq!(x.len(), y.len(), "one half for each value");
        (self.vector.elements.narrow)(x, y);
    }

    /// `y[i] = y[i] a + z[i] b`, both `[n]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn blend(&self, y: &mut [f32], a: f32, z: &[f32], b: f32) {
        assert_eq!(y.len(), z.len(), "two equally long vectors");
        (self.vector.elements.blend)(y, a, z, b);
    }
}
