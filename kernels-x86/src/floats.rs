//! Float operations over an [`Isa`], in the order of [`tern_kernels::lanes`] and with its results to the bit.
//!
//! What is done differently, and why the result is the same:
//! - Matrix-vector products take four rows at a time. A row's sum is a chain of additions in one order, so a single
//!   row waits for each addition; four chains keep the adders busy and load `x` once. The order inside a row stays.
//! - Mixtures take 64 columns through all rows before the next 64, so that `y` stays in registers. Element `c` still
//!   meets the rows one after another.
//! - Maxima do not depend on order; NaN loses every comparison, as in the reference.
//!
//! Products and sums are separate instructions: rustc never fuses them by itself.

use tern_kernels::exp::exp;
use tern_kernels::half::f16_to_f32;
use tern_kernels::lanes::{self, LANES};
use tern_kernels::quant::quantize_value;

use crate::isa::Isa;
use crate::tiles::{self, prefetch};

/// A number as rows store it: binary32, binary16 as its bits, or an integer.
pub(crate) trait Element: Copy {
    /// Sixteen of them as binary32 lanes.
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::Vector;
    /// One of them.
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32; LANES]) -> I::Vector {
        isa.load(x)
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Element for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[u16; LANES]) -> I::Vector {
        isa.load_half(x)
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f16_to_f32(self)
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[i8; LANES]) -> I::Vector {
        isa.load_byte(x)
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(self)
    }
}

/// A matrix of this size comes from memory rather than from a cache of its core.
const COLD_BYTES: usize = 1 << 20;

/// `y[r] = rows[r] . x` with `rows: [n, k]`, `x: [k]`, `y: [n]`.
#[inline(always)]
pub(crate) fn matvec<I: Isa, E: Element>(isa: I, rows: &[E], x: &[f32], y: &mut [f32]) {
    let k = x.len();
    // A small matrix is in a cache, and what lies behind it is not ours to ask for.
    let ahead = if size_of_val(rows) >= COLD_BYTES { tiles::ahead(4 * size_of_val(&rows[..k])) } else { 0 };
    let (fours, rest) = y.as_chunks_mut::<4>();
    let (four_rows, rest_rows) = rows.split_at(4 * k * fours.len());
    for (y, rows) in fours.iter_mut().zip(four_rows.chunks_exact(4 * k)) {
        let (first, second) = rows.split_at(2 * k);
        let rows = [&first[..k], &first[k..], &second[..k], &second[k..]];
        *y = dot_rows(isa, rows, x, ahead);
    }
    for (y, row) in rest.iter_mut().zip(rest_rows.chunks_exact(k)) {
        [*y] = dot_rows(isa, [row], x, 0);
    }
}

/// The dot products of `R` rows with `x`, all equally long, asking for memory `ahead` bytes behind what is read.
#[inline(always)]
fn dot_rows<I: Isa, E: Element, const R: usize>(
    isa: I,
    rows: [&[E]; R],
    x: &[f32],
    ahead: usize,
) -> [f32; R] {
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    let mut blocks = [&[][..]; R];
    for (blocks, row) in blocks.iter_mut().zip(rows) {
        *blocks = &row.as_chunks::<LANES>().0[..x_blocks.len()];
    }
    let mut sums = [isa.splat(0.0); R];
    for (b, x) in x_blocks.iter().enumerate() {
        let x = isa.load(x);
        for r in 0..R {
            prefetch(&blocks[r][b], ahead);
            sums[r] = isa.add(sums[r], isa.mul(E::load(isa, &blocks[r][b]), x));
        }
    }
    let mut dots = [0.0; R];
    for r in 0..R {
        let mut lanes = [0.0; LANES];
        isa.store(sums[r], &mut lanes);
        let tail = &rows[r][x_blocks.len() * LANES..];
        for (lane, (a, b)) in lanes.iter_mut().zip(tail.iter().zip(x_tail)) {
            *lane += a.value() * b;
        }
        dots[r] = lanes::fold(lanes);
    }
    dots
}

/// `y += sum_r p[r] rows[r]`, one row after another, with `rows: [n, k]`, `p: [n]`, `y: [k]`.
#[inline(always)]
pub(crate) fn mix<I: Isa, E: Element>(isa: I, rows: &[E], p: &[f32], y: &mut [f32]) {
    /// Registers' worth of columns at a time.
    const WIDE: usize = 4;
    let k = y.len();
    let (blocks, tail) = y.as_chunks_mut::<LANES>();
    let tail_at = blocks.len() * LANES;
    let (wide, narrow) = blocks.as_chunks_mut::<WIDE>();
    let narrow_at = wide.len() * WIDE * LANES;
    for (i, y) in wide.iter_mut().enumerate() {
        mix_columns(isa, rows, k, i * WIDE * LANES, p, y);
    }
    for (i, y) in narrow.iter_mut().enumerate() {
        mix_columns(isa, rows, k, narrow_at + i * LANES, p, core::array::from_mut(y));
    }
    for (p, row) in p.iter().zip(rows.chunks_exact(k)) {
        for (y, v) in tail.iter_mut().zip(&row[tail_at..]) {
            *y += p * v.value();
        }
    }
}

/// [`mix`] for the columns from `at` on that `y` holds, of rows with `k` columns.
#[inline(always)]
fn mix_columns<I: Isa, E: Element, const N: usize>(
    isa: I,
    rows: &[E],
    k: usize,
    at: usize,
    p: &[f32],
    y: &mut [[f32; LANES]; N],
) {
    let mut sums = [isa.splat(0.0); N];
    for (sum, y) in sums.iter_mut().zip(&*y) {
        *sum = isa.load(y);
    }
    for (p, row) in p.iter().zip(rows.chunks_exact(k)) {
        let p = isa.splat(*p);
        let (blocks, _) = row[at..at + N * LANES].as_chunks::<LANES>();
        for i in 0..N {
            sums[i] = isa.add(sums[i], isa.mul(p, E::load(isa, &blocks[i])));
        }
    }
    for i in 0..N {
        isa.store(sums[i], &mut y[i]);
    }
}

/// `sum x[i]^2`.
#[inline(always)]
pub(crate) fn sum_squares<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let [sum] = dot_rows(isa, [x], x, 0);
    sum
}

/// `max |x[i]|`, 0 for an empty slice; NaN is passed over.
#[inline(always)]
pub(crate) fn absmax<I: Isa>(isa: I, x: &[f32]) -> f32 {
    largest(isa, x, 0.0, |v| isa.abs(v), f32::abs)
}

/// The largest of `start` and `of(x[i])`, where `of` and `of_vector` are the same function; NaN is passed over.
#[inline(always)]
fn largest<I: Isa>(
    isa: I,
    x: &[f32],
    start: f32,
    of_vector: impl Fn(I::Vector) -> I::Vector,
    of: impl Fn(f32) -> f32,
) -> f32 {
    /// Chains of comparisons at a time.
    const CHAINS: usize = 4;
    let (blocks, tail) = x.as_chunks::<LANES>();
    let (fours, rest) = blocks.as_chunks::<CHAINS>();
    let mut best = [isa.splat(start); CHAINS];
    for four in fours {
        for i in 0..CHAINS {
            best[i] = isa.larger(of_vector(isa.load(&four[i])), best[i]);
        }
    }
    for block in rest {
        best[0] = isa.larger(of_vector(isa.load(block)), best[0]);
    }
    let best = isa.larger(isa.larger(best[0], best[1]), isa.larger(best[2], best[3]));
    let mut lanes = [0.0; LANES];
    isa.store(best, &mut lanes);
    let larger = |best: f32, v: f32| if v > best { v } else { best };
    let best = lanes.iter().fold(start, |best, v| larger(best, *v));
    tail.iter().fold(best, |best, v| larger(best, of(*v)))
}

/// `q[i] = quantize_value(x[i], s)`, both `[k]`.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], s: f32, q: &mut [i8]) {
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    let (q_blocks, q_tail) = q.as_chunks_mut::<LANES>();
    let scale = isa.splat(s);
    for (q, x) in q_blocks.iter_mut().zip(x_blocks) {
        isa.quantize(isa.load(x), scale, q);
    }
    for (q, x) in q_tail.iter_mut().zip(x_tail) {
        *q = quantize_value(*x, s);
    }
}

/// Replaces scores by `e^(x[i] - max x)` and returns their sum in lane order; an empty slice sums to 0.
#[inline(always)]
pub(crate) fn exp_sum<I: Isa>(isa: I, x: &mut [f32]) -> f32 {
    // Which zero wins when -0 and +0 tie does not matter: e^(x - 0) is the same for both.
    let max = largest(isa, x, f32::NEG_INFINITY, |v| v, |v| v);
    let mut sums = isa.splat(0.0);
    let (blocks, tail) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        // Free of branches: the compiler makes vectors of it.
        for v in block.iter_mut() {
            *v = exp(*v - max);
        }
        sums = isa.add(sums, isa.load(block));
    }
    let mut lanes = [0.0; LANES];
    isa.store(sums, &mut lanes);
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *v = exp(*v - max);
        *lane += *v;
    }
    lanes::fold(lanes)
}

/// Makes a module `$module` with the table `$Table`, whose functions are each `$body` compiled for `$features` and called
/// through a safe thunk.
macro_rules! table {
    ($features:literal, $module:ident, $Table:ty, {
        $($name:ident($($arg:ident: $ty:ty),*) = $body:expr;)*
    }) => {
        mod $module {
            /// The table.
            ///
            /// # Safety
            /// 1. The functions of the table are called only on a machine with the features.
            pub(super) const unsafe fn ops() -> $Table {
                type Table = $Table;
                Table {
                    // SAFETY: (1), for each of them: who called this function answers for the features.
                    $($name: |$($arg),*| unsafe { $name($($arg),*) },)*
                }
            }

            $(#[target_feature(enable = $features)]
            fn $name($($arg: $ty),*) {
                $body;
            })*
        }
    };
}
pub(crate) use table;

/// Makes a module `featured` of the functions above, compiled for `$features` and called through safe thunks, as
/// the table `ops()`. `$token` is the tuple struct whose value proves `$features`; the invoking module owns it.
macro_rules! featured {
    ($features:literal, $token:ident) => {
        mod featured {
            use super::$token;
            use $crate::floats;

            $crate::floats::table! {
                $features, attention, tern_kernels::AttentionOps, {
                    scores_f32(keys: &[f32], queries: &[f32], scores: &mut [f32]) =
                        $crate::attention::scores(super::$token(()), keys, queries, scores);
                    scores_f16(keys: &[u16], queries: &[f32], scores: &mut [f32]) =
                        $crate::attention::scores(super::$token(()), keys, queries, scores);
                    scores_i8(keys: &[i8], queries: &[f32], scores: &mut [f32]) =
                        $crate::attention::scores(super::$token(()), keys, queries, scores);
                    mix_f32(values: &[f32], weights: &[f32], carry: &[f32], y: &mut [f32]) =
                        $crate::attention::mix(super::$token(()), values, weights, carry, y);
                    mix_f16(values: &[u16], weights: &[f32], carry: &[f32], y: &mut [f32]) =
                        $crate::attention::mix(super::$token(()), values, weights, carry, y);
                    mix_i8(values: &[i8], weights: &[f32], carry: &[f32], y: &mut [f32]) =
                        $crate::attention::mix(super::$token(()), values, weights, carry, y);
                    soften(scores: &mut [f32], max: &mut [f32], sum: &mut [f32], carry: &mut [f32]) =
                        tern_kernels::attention::soften(scores, max, sum, carry);
                }
            }

            // Free of branches: the compiler makes vectors of the definitions.
            $crate::floats::table! {
                $features, elements, tern_kernels::ElementOps, {
                    scale_sums(sums: &[i32], factor: f32, y: &mut [f32]) =
                        tern_kernels::elementwise::scale_sums(sums, factor, y);
                    add_sums(sums: &[i32], factor: f32, y: &mut [f32]) =
                        tern_kernels::elementwise::add_sums(sums, factor, y);
                    add_groups(sums: &[i32], scales: &[u16], inverse: f32, y: &mut [f32]) =
                        tern_kernels::elementwise::add_groups(sums, scales, inverse, y);
                    relu2_values(gates: &[f32], ups: &[f32], y: &mut [f32]) =
                        tern_kernels::elementwise::relu2_values(gates, ups, y);
                    silu_values(gates: &[f32], ups: &[f32], y: &mut [f32]) =
                        tern_kernels::elementwise::silu_values(gates, ups, y);
                    gate_relu2(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]) =
                        tern_kernels::elementwise::gate_relu2(gates, ups, factors, y);
                    gate_silu(gates: &[i32], ups: &[i32], factors: [f32; 2], y: &mut [f32]) =
                        tern_kernels::elementwise::gate_silu(gates, ups, factors, y);
                    norm(x: &[f32], inverse: f32, weight: &[f32], y: &mut [f32]) =
                        tern_kernels::elementwise::norm(x, inverse, weight, y);
                    rotate(x: &[f32], angles: &[f32], scale: f32, y: &mut [f32]) =
                        tern_kernels::elementwise::rotate(x, angles, scale, y);
                    narrow(x: &[f32], y: &mut [u16]) = tern_kernels::elementwise::narrow(x, y);
                    blend(y: &mut [f32], a: f32, z: &[f32], b: f32) =
                        tern_kernels::elementwise::blend(y, a, z, b);
                }
            }

            /// The vector functions.
            ///
            /// # Safety
            /// 1. The functions of the table are called only on a machine with the features of the token.
            pub(super) const unsafe fn ops() -> tern_kernels::VectorOps {
                tern_kernels::VectorOps {
                    // SAFETY: (1), here and in the seven below: who called this function answers for the features.
                    absmax: |x| unsafe { absmax(x) },
                    // SAFETY: as above.
                    quantize: |x, s, q| unsafe { quantize(x, s, q) },
                    // SAFETY: as above.
                    sum_squares: |x| unsafe { sum_squares(x) },
                    // SAFETY: as above.
                    matvec_f32: |rows, x, y| unsafe { matvec_f32(rows, x, y) },
                    // SAFETY: as above.
                    matvec_f16: |rows, x, y| unsafe { matvec_f16(rows, x, y) },
                    // SAFETY: as above.
                    mix_f32: |rows, p, y| unsafe { mix_f32(rows, p, y) },
                    // SAFETY: as above.
                    mix_f16: |rows, p, y| unsafe { mix_f16(rows, p, y) },
                    // SAFETY: as above.
                    exp_sum: |x| unsafe { exp_sum(x) },
                    head: tern_kernels::set::PLAIN_HEAD,
                    // SAFETY: as above.
                    attention: unsafe { attention::ops() },
                    // SAFETY: as above.
                    elements: unsafe { elements::ops() },
                }
            }

            #[target_feature(enable = $features)]
            fn absmax(x: &[f32]) -> f32 {
                floats::absmax($token(()), x)
            }

            #[target_feature(enable = $features)]
            fn quantize(x: &[f32], s: f32, q: &mut [i8]) {
                floats::quantize($token(()), x, s, q);
            }

            #[target_feature(enable = $features)]
            fn sum_squares(x: &[f32]) -> f32 {
                floats::sum_squares($token(()), x)
            }

            #[target_feature(enable = $features)]
            fn matvec_f32(rows: &[f32], x: &[f32], y: &mut [f32]) {
                floats::matvec($token(()), rows, x, y);
            }

            #[target_feature(enable = $features)]
            fn matvec_f16(rows: &[u16], x: &[f32], y: &mut [f32]) {
                floats::matvec($token(()), rows, x, y);
            }

            #[target_feature(enable = $features)]
            fn mix_f32(rows: &[f32], p: &[f32], y: &mut [f32]) {
                floats::mix($token(()), rows, p, y);
            }

            #[target_feature(enable = $features)]
            fn mix_f16(rows: &[u16], p: &[f32], y: &mut [f32]) {
                floats::mix($token(()), rows, p, y);
            }

            #[target_feature(enable = $features)]
            fn exp_sum(x: &mut [f32]) -> f32 {
                floats::exp_sum($token(()), x)
            }
        }
    };
}
pub(crate) use featured;
