//! Float operations in sixteen lanes, as [`tern_kernels::lanes`] states them, by hand where the compiler does not
//! vectorise them for this architecture. (It does for `quantize` and `mix_f32`, which are taken from there.)
//!
//! ```text
//! dot, for 16 columns:  loads of a row (2 of halves and 4 fcvtl, or 4 of floats), 4 loads of x, 4 fmul, 4 fadd
//! exp_sum:              lanes of maxima; e^(x - max) element by element; lanes of sums
//! ```
//! Sixteen lanes are four registers; products and sums are rounded separately, so the bits are those of `lanes`. (A
//! signalling NaN half is made quiet one instruction earlier than there, which no sum can show.) Maxima are selected by
//! comparison, because `fmaxnm` turns a signalling NaN into a result.
//!
//! Tail rule: the last `k % 16` columns run through the same lanes one by one.
//! Expected cycles per 16 columns of a dot product, an estimate from the operation table of the Neoverse N1: 8; two
//! rows at a time hide the latency of the four chains of additions and load `x` once.

use crate::asm::{fcvtl, fcvtl2};
use crate::attention::ATTENTION;
use crate::head::NEON_HEAD;
use core::arch::aarch64::{
    float32x4_t, uint16x8_t, vabsq_f32, vaddq_f32, vbslq_f32, vcgtq_f32, vcvtq_f32_s32, vdupq_n_f32,
    vld1q_f32, vld1q_s32, vld1q_u16, vmulq_f32, vst1q_f32,
};
use tern_kernels::VectorOps;
use tern_kernels::elementwise;
use tern_kernels::exp::exp;
use tern_kernels::half::f16_to_f32;
use tern_kernels::lanes::{self, LANES};
use tern_kernels::reference::LANE_OPS;
use tern_kernels::set::{ElementOps, PLAIN_ELEMENTS};

/// The float operations as a table for the sets to start from; its ternary part is the scalar one.
pub(crate) const FLOAT_OPS: VectorOps = VectorOps {
    absmax,
    sum_squares,
    matvec_f32,
    matvec_f16,
    mix_f16,
    exp_sum,
    head: NEON_HEAD,
    attention: ATTENTION,
    elements: ElementOps { add_groups, ..PLAIN_ELEMENTS },
    ..LANE_OPS
};

/// Four registers that hold the sixteen lanes.
type Lanes = [float32x4_t; 4];

// Each of the functions in the table enters code that is compiled for NEON by name. The target of this module has it
// as a matter of course (see `lib.rs`), which is what the SAFETY notes below refer to.

/// `max |x[i]|`, 0 for an empty slice; NaN is passed over.
fn absmax(x: &[f32]) -> f32 {
    // SAFETY: NEON is part of the target.
    unsafe { largest(x, 0.0, |v| vabsq_f32(v), f32::abs) }
}

/// `sum x[i]^2` in lane order.
fn sum_squares(x: &[f32]) -> f32 {
    // SAFETY: NEON is part of the target.
    let [sum] = unsafe { dot_rows([x], x, |row| load_lanes(row), |v| v) };
    sum
}

/// `y[r] = rows[r] . x` in lane order, `rows: [n, k]`, `x: [k]`, `y: [n]`.
fn matvec_f32(rows: &[f32], x: &[f32], y: &mut [f32]) {
    // SAFETY: NEON is part of the target.
    unsafe { matvec(rows, x, y, |row| load_lanes(row), |v| v) }
}

/// `y[r] = rows[r] . x` in lane order, `rows: [n, k]` as binary16 bits, `x: [k]`, `y: [n]`.
fn matvec_f16(rows: &[u16], x: &[f32], y: &mut [f32]) {
    // SAFETY: NEON is part of the target.
    unsafe { matvec(rows, x, y, |row| widen(row), f16_to_f32) }
}

/// `y += sum_r p[r] rows[r]`, one row after another, `rows: [n, k]` as binary16 bits, `p: [n]`, `y: [k]`.
fn mix_f16(rows: &[u16], p: &[f32], y: &mut [f32]) {
    for (p, row) in p.iter().zip(rows.chunks_exact(y.len())) {
        // SAFETY: NEON is part of the target.
        unsafe { mix_row(row, *p, y) };
    }
}

/// Replaces scores by `e^(x[i] - max x)` and returns their sum in lane order; an empty slice sums to 0.
fn exp_sum(x: &mut [f32]) -> f32 {
    // SAFETY: NEON is part of the target.
    unsafe {
        let max = largest(x, f32::NEG_INFINITY, |v| v, |v| v);
        for v in x.iter_mut() {
            *v = exp(*v - max);
        }
        sum(x)
    }
}

/// `y[i] = y[i] + sums[i] (scales[i] inverse)`, `scales` being binary16 bits: the end of every group of columns.
fn add_groups(sums: &[i32], scales: &[u16], inverse: f32, y: &mut [f32]) {
    let (sums, last_sums) = sums.as_chunks::<LANES>();
    let (scales, last_scales) = scales.as_chunks::<LANES>();
    let (y, last_y) = y.as_chunks_mut::<LANES>();
    for ((sums, scales), y) in sums.iter().zip(scales).zip(y) {
        // SAFETY: NEON is part of the target.
        unsafe { add_scaled(sums, scales, inverse, y) };
    }
    elementwise::add_groups(last_sums, last_scales, inverse, last_y);
}

/// [`add_groups`] of sixteen elements.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(sums: &[i32; LANES], scales: &[u16; LANES], inverse: f32, y: &mut [f32; LANES]) {
    let (scales, mut values, inverse) = (widen(scales), load_lanes(y), vdupq_n_f32(inverse));
    for (i, value) in values.iter_mut().enumerate() {
        // SAFETY: four numbers of sixteen.
        let sums = vcvtq_f32_s32(unsafe { vld1q_s32(sums.as_ptr().add(4 * i)) });
        *value = vaddq_f32(*value, vmulq_f32(sums, vmulq_f32(scales[i], inverse)));
    }
    store_lanes(y, values);
}

/// The largest `map(x[i])`, NaN passed over, or `least` if none is larger. Which zero comes back from zeros of both
/// signs is open; neither caller can tell them apart.
#[inline]
#[target_feature(enable = "neon")]
fn largest(
    x: &[f32],
    least: f32,
    map: impl Fn(float32x4_t) -> float32x4_t,
    map_one: impl Fn(f32) -> f32,
) -> f32 {
    let mut best: Lanes = [vdupq_n_f32(least); 4];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for (best, v) in best.iter_mut().zip(load_lanes(block)) {
            let v = map(v);
            *best = vbslq_f32(vcgtq_f32(v, *best), v, *best);
        }
    }
    let mut lanes = [least; LANES];
    store_lanes(&mut lanes, best);
    let larger = |best: f32, v: f32| if v > best { v } else { best };
    let best = lanes.into_iter().fold(least, larger);
    tail.iter().fold(best, |best, v| larger(best, map_one(*v)))
}

/// `sum x[i]` in lane order.
#[inline]
#[target_feature(enable = "neon")]
fn sum(x: &[f32]) -> f32 {
    let mut sums: Lanes = [vdupq_n_f32(0.0); 4];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for (sum, v) in sums.iter_mut().zip(load_lanes(block)) {
            *sum = vaddq_f32(*sum, v);
        }
    }
    let mut lanes = [0.0f32; LANES];
    store_lanes(&mut lanes, sums);
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane += v;
    }
    lanes::fold(lanes)
}

/// `y[r] = rows[r] . x`, two rows at a time; `load` and `value` give the numbers of sixteen elements and of one.
#[inline]
#[target_feature(enable = "neon")]
fn matvec<T: Copy>(
    rows: &[T],
    x: &[f32],
    y: &mut [f32],
    load: impl Fn(&[T; LANES]) -> Lanes,
    value: impl Fn(T) -> f32,
) {
    let k = x.len();
    let (pairs, last) = y.as_chunks_mut::<2>();
    for (y, rows) in pairs.iter_mut().zip(rows.chunks_exact(2 * k)) {
        let (first, second) = rows.split_at(k);
        *y = dot_rows([first, second], x, &load, &value);
    }
    if let [y] = last {
        [*y] = dot_rows([&rows[rows.len() - k..]], x, &load, &value);
    }
}

/// Dot products of `R` rows with `x`, each as long as `x`; `load` and `value` as for [`matvec`].
#[inline]
#[target_feature(enable = "neon")]
fn dot_rows<T: Copy, const R: usize>(
    rows: [&[T]; R],
    x: &[f32],
    load: impl Fn(&[T; LANES]) -> Lanes,
    value: impl Fn(T) -> f32,
) -> [f32; R] {
    let mut sums: [Lanes; R] = [[vdupq_n_f32(0.0); 4]; R];
    let (blocks, x_tail) = x.as_chunks::<LANES>();
    let row_blocks = rows.map(|row| &row.as_chunks::<LANES>().0[..blocks.len()]);
    for (at, x) in blocks.iter().enumerate() {
        let x = load_lanes(x);
        for (sums, row) in sums.iter_mut().zip(&row_blocks) {
            let values = load(&row[at]);
            for i in 0..4 {
                sums[i] = vaddq_f32(sums[i], vmulq_f32(values[i], x[i]));
            }
        }
    }
    let mut dots = [0.0; R];
    for r in 0..R {
        let mut lanes = [0.0f32; LANES];
        store_lanes(&mut lanes, sums[r]);
        for (i, (v, x)) in rows[r].as_chunks::<LANES>().1.iter().zip(x_tail).enumerate() {
            lanes[i] += value(*v) * x;
        }
        dots[r] = lanes::fold(lanes);
    }
    dots
}

/// `y += p row`, both as long as each other.
#[target_feature(enable = "neon")]
fn mix_row(row: &[u16], p: f32, y: &mut [f32]) {
    let (row_blocks, row_tail) = row.as_chunks::<LANES>();
    let (y_blocks, y_tail) = y.as_chunks_mut::<LANES>();
    let weight = vdupq_n_f32(p);
    for (row, y) in row_blocks.iter().zip(y_blocks) {
        let (values, mut sums) = (widen(row), load_lanes(y));
        for i in 0..4 {
            sums[i] = vaddq_f32(sums[i], vmulq_f32(weight, values[i]));
        }
        store_lanes(y, sums);
    }
    for (h, y) in row_tail.iter().zip(y_tail) {
        *y += p * f16_to_f32(*h);
    }
}

/// The values of sixteen halves.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: &[u16; LANES]) -> Lanes {
    // SAFETY: two loads of eight halves each from an array of sixteen, at any alignment.
    let [low, high]: [uint16x8_t; 2] =
        unsafe { [vld1q_u16(halves.as_ptr()), vld1q_u16(halves.as_ptr().add(8))] };
    [fcvtl(low), fcvtl2(low), fcvtl(high), fcvtl2(high)]
}

/// Sixteen floats in four registers.
#[inline]
#[target_feature(enable = "neon")]
fn load_lanes(x: &[f32; LANES]) -> Lanes {
    // SAFETY: four loads of four floats each from an array of sixteen.
    unsafe { [0, 4, 8, 12].map(|i| vld1q_f32(x.as_ptr().add(i))) }
}

/// The reverse of [`load_lanes`].
#[inline]
#[target_feature(enable = "neon")]
fn store_lanes(y: &mut [f32; LANES], lanes: Lanes) {
    for (y, lane) in y.as_chunks_mut::<4>().0.iter_mut().zip(lanes) {
        // SAFETY: a store of four floats into an array of four.
        unsafe { vst1q_f32(y.as_mut_ptr(), lane) };
    }
}
