//! Float operations in one stated order, so that every kernel set returns the same bits.
//!
//! A sum runs over sixteen lanes: lane `i` adds, in order, the terms with index `i` modulo 16, starting from +0; the
//! lanes are then folded in halves (`i` with `i + 8`, `i + 4`, `i + 2`, `i + 1`). Products and sums are rounded
//! separately, never fused. Sixteen lanes are one AVX-512 register, two AVX2 ones or four NEON ones, so the order
//! costs nothing; what it buys is that an answer does not depend on the machine.
//!
//! The functions are `inline(always)`: a back end calls them inside a function compiled for its features and gets
//! them vectorised, and replaces only those where it can do better by hand, with the same result.

use crate::exp::exp;
use crate::half::f16_to_f32;
use crate::quant::quantize_value;

/// Lanes of every float sum.
pub const LANES: usize = 16;

/// Folds sixteen partial sums in halves.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `term(a, b)` over two equally long slices, in lane order.
#[inline(always)]
fn sum_pairs<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_blocks, a_tail) = a.as_chunks::<LANES>();
    let (b_blocks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] += term(a[i], b[i]);
        }
    }
    for (i, (a, b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[i] += term(*a, *b);
    }
    fold(lanes)
}

/// `sum a[i] b[i]`, both `[k]`.
#[inline(always)]
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_pairs(a, b, |a, b| a * b)
}

/// `sum a[i] b[i]` with `a: [k]` as binary16 bits and `b: [k]`.
#[inline(always)]
pub fn dot_f16(a: &[u16], b: &[f32]) -> f32 {
    sum_pairs(a, b, |a, b| f16_to_f32(a) * b)
}

/// `sum x[i]^2`.
#[inline(always)]
pub fn sum_squares(x: &[f32]) -> f32 {
    dot_f32(x, x)
}

/// `max |x[i]|`, 0 for an empty slice; NaN is passed over.
#[inline(always)]
pub fn absmax(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    let larger = |best: f32, v: f32| if v.abs() > best { v.abs() } else { best };
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], block[i]);
        }
    }
    let best = lanes.iter().fold(0.0, |best, v| larger(best, *v));
    tail.iter().fold(best, |best, v| larger(best, *v))
}

/// `q[i] = quantize_value(x[i], s)`, both `[k]`.
#[inline(always)]
pub fn quantize(x: &[f32], s: f32, q: &mut [i8]) {
    for (q, x) in q.iter_mut().zip(x) {
        *q = quantize_value(*x, s);
    }
}

/// `y[r] = rows[r] . x` with `rows: [n, k]`, `x: [k]`, `y: [n]`.
#[inline(always)]
pub fn matvec_f32(rows: &[f32], x: &[f32], y: &mut [f32]) {
    for (y, row) in y.iter_mut().zip(rows.chunks_exact(x.len())) {
        *y = dot_f32(row, x);
    }
}

/// `y[r] = rows[r] . x` with `rows: [n, k]` as binary16 bits, `x: [k]`, `y: [n]`.
#[inline(always)]
pub fn matvec_f16(rows: &[u16], x: &[f32], y: &mut [f32]) {
    for (y, row) in y.iter_mut().zip(rows.chunks_exact(x.len())) {
        *y = dot_f16(row, x);
    }
}

/// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]`, `p: [n]`, `y: [k]`.
#[inline(always)]
pub fn mix_f32(rows: &[f32], p: &[f32], y: &mut [f32]) {
    for (p, row) in p.iter().zip(rows.chunks_exact(y.len())) {
        for (y, v) in y.iter_mut().zip(row) {
            *y += p * v;
        }
    }
}

/// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]` as binary16 bits, `p: [n]`, `y: [k]`.
#[inline(always)]
pub fn mix_f16(rows: &[u16], p: &[f32], y: &mut [f32]) {
    for (p, row) in p.iter().zip(rows.chunks_exact(y.len())) {
        for (y, v) in y.iter_mut().zip(row) {
            *y += p * f16_to_f32(*v);
        }
    }
}

/// Replaces scores by `e^(x[i] - max x)` and returns their sum in lane order; an empty slice sums to 0.
#[inline(always)]
pub fn exp_sum(x: &mut [f32]) -> f32 {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m });
    let mut lanes = [0.0f32; LANES];
    let (blocks, tail) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            block[i] = exp(block[i] - max);
            lanes[i] += block[i];
        }
    }
    for (i, v) in tail.iter_mut().enumerate() {
        *v = exp(*v - max);
        lanes[i] += *v;
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_takes_the_stated_order() {
        // In lane order 1 meets 1e8 before -1e8 does only if lanes 0 and 8 are folded first.
        let mut x = [0.0f32; 17];
        (x[0], x[8], x[4]) = (1e8, -1e8, 1.0);
        assert_eq!(dot_f32(&x, &[1.0; 17]), 1.0);
        (x[8], x[4]) = (1.0, -1e8);
        assert_eq!(dot_f32(&x, &[1.0; 17]), 0.0);
    }

    #[test]
    fn tails_of_every_length_are_counted() {
        let x = [1.0f32; 64];
        for k in 0..64 {
            assert_eq!(sum_squares(&x[..k]), k as f32);
            assert_eq!(exp_sum(&mut { x }[..k]), k as f32);
        }
    }

    #[test]
    fn the_largest_magnitude_passes_over_nan() {
        for at in 0..40 {
            let mut x = [0.25f32; 40];
            x[at] = -3.0;
            x[(at + 5) % 40] = f32::NAN;
            assert_eq!(absmax(&x), 3.0);
        }
        assert_eq!(absmax(&[]), 0.0);
    }

    #[test]
    fn binary16_rows_equal_their_float_rows() {
        let bits: [u16; 40] = core::array::from_fn(|i| 0x3000 + 97 * i as u16);
        let floats = bits.map(f16_to_f32);
        let x: [f32; 20] = core::array::from_fn(|i| i as f32 - 9.5);
        let (mut a, mut b) = ([0.0f32; 2], [0.0f32; 2]);
        matvec_f16(&bits, &x, &mut a);
        matvec_f32(&floats, &x, &mut b);
        assert_eq!(a, b);
        let (mut a, mut b) = ([0.5f32; 20], [0.5f32; 20]);
        mix_f16(&bits, &[0.25, 3.0], &mut a);
        mix_f32(&floats, &[0.25, 3.0], &mut b);
        assert_eq!(a, b);
    }
}
