//! Float operations that treat each element by itself: what becomes of a product's sums, and what stands between two
//! products. Every step is rounded by itself, never fused, so every kernel set returns the same bits.
//!
//! `inline(always)` for the same reason as [`crate::lanes`].

use crate::exp::exp;
use crate::half::{f16_to_f32, f32_to_f16};

/// `y[i] = sums[i] factor`.
#[inline(always)]
pub fn scale_sums(sums: &[i32], factor: f32, y: &mut [f32]) {
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = *sum as f32 * factor;
    }
}

/// `y[i] = y[i] + sums[i] factor`.
#[inline(always)]
pub fn add_sums(sums: &[i32], factor: f32, y: &mut [f32]) {
    for (y, sum) in y.iter_mut().zip(sums) {
        *y += *sum as f32 * factor;
    }
}

/// `y[i] = y[i] + sums[i] (scales[i] inverse)`, `scales` being binary16 bits: the part of a group of columns in a product
/// with one scale a row and group.
#[inline(always)]
pub fn add_groups(sums: &[i32], scales: &[u16], inverse: f32, y: &mut [f32]) {
    for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scales) {
        *y += *sum as f32 * (f16_to_f32(*scale) * inverse);
    }
}

/// As [`gate_relu2`], of values that carry their scales already.
#[inline(always)]
pub fn relu2_values(gates: &[f32], ups: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gates).zip(ups) {
        let relu = if *gate > 0.0 { *gate } else { 0.0 };
        *y = relu * relu * up;
    }
}

/// As [`gate_silu`], of values that carry their scales already.
#[inline(always)]
pub fn silu_values(gates: &[f32], ups: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gates).zip(ups) {
        *y = gate / (1.0 + exp(-gate)) * up;
    }
}

/// `y[i] = max(g, 0)^2 u` with `g = gates[i] factors[0]`, `u = ups[i] factors[1]`.
#[inline(always)]
pub fn gate_relu2(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gates).zip(ups) {
        let gate = *g as f32 * factors[0];
        let relu = if gate > 0.0 { gate } else { 0.0 };
        *y = relu * relu * (*u as f32 * factors[1]);
    }
}

/// `y[i] = g / (1 + e^-g) u` with `g` and `u` as in [`gate_relu2`].
#[inline(always)]
pub fn gate_silu(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gates).zip(ups) {
        let gate = *g as f32 * factors[0];
        *y = gate / (1.0 + exp(-gate)) * (*u as f32 * factors[1]);
    }
}

/// `y[i] = weight[i] (x[i] inverse)`: a root-mean-square norm whose `inverse` is known.
#[inline(always)]
pub fn norm(x: &[f32], inverse: f32, weight: &[f32], y: &mut [f32]) {
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = weight * (x * inverse);
    }
}

/// Rotary embedding of one head from `x` into `y`, values `j` and `j + dim / 2` turning together (the NeoX pairing),
/// times `scale`: `y[j] = (x[j] cos - x[j + h] sin) scale`, `y[j + h] = (x[j + h] cos + x[j] sin) scale`, with
/// `angles` the cosines, then the sines.
#[inline(always)]
pub fn rotate(x: &[f32], angles: &[f32], scale: f32, y: &mut [f32]) {
    let half = x.len() / 2;
    let ((x0, x1), (y0, y1)) = (x.split_at(half), y.split_at_mut(half));
    let (cosines, sines) = angles.split_at(half);
    let angles = cosines.iter().zip(sines);
    for (((a, b), (cos, sin)), (y0, y1)) in x0.iter().zip(x1).zip(angles).zip(y0.iter_mut().zip(y1)) {
        *y0 = (a * cos - b * sin) * scale;
        *y1 = (b * cos + a * sin) * scale;
    }
}

/// `y[i]` is the binary16 nearest to `x[i]`; see [`f32_to_f16`].
#[inline(always)]
pub fn narrow(x: &[f32], y: &mut [u16]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = f32_to_f16(*x);
    }
}

/// `y[i] = y[i] a + z[i] b`.
#[inline(always)]
pub fn blend(y: &mut [f32], a: f32, z: &[f32], b: f32) {
    for (y, z) in y.iter_mut().zip(z) {
        *y = *y * a + z * b;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn gates_are_as_defined() {
        let (gates, ups) = ([-8, 0, 4, 80], [3, 3, -3, 3]);
        let mut y = [9.0; 4];
        gate_relu2(&gates, &ups, [0.5, 2.0], &mut y);
        assert_eq!(y, [0.0, 0.0, -24.0, 9600.0]);
        gate_silu(&gates, &ups, [0.5, 2.0], &mut y);
        for (i, (g, u)) in [(-4.0f64, 6.0), (0.0, 6.0), (2.0, -6.0), (40.0, 6.0)].into_iter().enumerate() {
            let expected = g / (1.0 + (-g).exp()) * u;
            assert!((f64::from(y[i]) - expected).abs() <= 1e-6 * expected.abs(), "{i}: {} {expected}", y[i]);
        }
    }

    #[test]
    fn groups_add_up_and_values_are_gated_as_sums_are() {
        let mut y = [1.0, -2.0];
        // 0.5 and 1.5 in binary16.
        add_groups(&[6, -4], &[0x3800, 0x3e00], 2.0, &mut y);
        assert_eq!(y, [7.0, -14.0]);
        let (gates, ups) = ([-8, 0, 4, 80], [3, 3, -3, 3]);
        let values = |sums: [i32; 4], factor: f32| sums.map(|sum| sum as f32 * factor);
        let (mut sums, mut found) = ([9.0; 4], [9.0; 4]);
        gate_relu2(&gates, &ups, [0.5, 2.0], &mut sums);
        relu2_values(&values(gates, 0.5), &values(ups, 2.0), &mut found);
        assert_eq!(found, sums);
        gate_silu(&gates, &ups, [0.5, 2.0], &mut sums);
        silu_values(&values(gates, 0.5), &values(ups, 2.0), &mut found);
        assert_eq!(found, sums);
    }

    #[test]
    fn wild_gates_keep_the_sign_of_infinity_and_no_nan() {
        let mut y = [9.0; 2];
        gate_silu(&[i32::MIN, i32::MAX], &[1, 1], [1.0, 1.0], &mut y);
        assert_eq!(y, [-0.0, i32::MAX as f32]);
    }

    #[test]
    fn a_turn_keeps_the_length_and_takes_the_scale() {
        let mut y = [0.0; 4];
        rotate(&[3.0, 1.0, 4.0, 0.0], &[0.0, 1.0, 1.0, 0.0], 0.5, &mut y);
        assert_eq!(y, [-2.0, 0.5, 1.5, 0.0]);
    }
}
