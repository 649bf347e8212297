//! Ternary products by widening multiplications on five rows a byte: 1.6 bits a weight, nothing beyond Armv8.0.
//!
//! A byte `q` is a fraction whose five weights come out as it is tripled with wrap-around (see [`tern_kernels::five`]).
//! That holds for dot products too: with `F(k) = sum (3^k q) a`, `3^k q` kept in eight bits, `row k = (3 F(k) - F(k + 1)) /
//! 256` exactly. So five rows need six products and no weight is ever taken out. `F(5)` is taken of `13 q = -243 q`, modulo
//! 256, because the multiples 1, 3, 9, 27, 81 and 13 need nine shifts and additions rather than the ten of a chain
//! that triples.
//!
//! ```text
//! out of order                                      in order (Cortex-A53): one token, both groups of rows together
//! for each 16 columns:                              for each 16 columns:
//!   load a of each token                              3 q, 9 q                            4 mul
//!   for each group of five rows:                      products of q, 3 q, 9 q             6 smull, 6 smlal2
//!     load q                                          13 q, 27 q, 81 q                    6 mul
//!     q4 = q << 2;          q3 = q4 - q               sums += pairs of products           6 sadalp
//!     q13 = (q3 << 2) + q;  q9 = q13 - q4             products of 27 q, 81 q, 13 q        6 smull, 6 smlal2
//!     q27 = (q9 << 2) - q9; q81 = (q27 << 2) - q27    sums += pairs of products           6 sadalp
//!     for each multiple m and token:                  meanwhile load the next q of both groups and the a after
//!       sum[m] += smull(m, a), smlal2, sadalp         the next, by halves: 3 cycles, not 6
//! row k = (3 sum(k) - sum(k + 1)) >> 8; of the last one, (3 sum(4) + sum(13)) >> 8
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: no byte that a packer writes is -128, and since 128 times an odd number
//! is 128 modulo 256, no multiple of one is either. So two products are at most 2 * 127 * 128 = 32512 < 2^15 and meet in
//! 16 bits (a byte that no packer writes may wrap, which is harmless). `F` is within 127 * 128 * 65280 = 1.07e9 < 2^31;
//! `3 F(k) - F(k + 1)` may pass 2^31 on its way, but is 256 times a row's sum, at most 256 * 128 * 65280 = 2.14e9 < 2^31,
//! so that arithmetic modulo 2^32 gives it exactly.
//!
//! Tail rules: columns come in steps of 16; in order, four steps make a turn and what is left runs through the code for
//! the others. With two to four tokens a group of rows runs at a time. Rows of a last panel that do not exist are
//! computed and not written.
//!
//! Expected cycles per 64 weights with one token, by the issue model of `benches/yard` and by llvm-mca: Cortex-A72 11.0
//! and 11.0 (25 instructions; multiplications bind, 24 for 160 weights), A53 in order 19.9 and 23.7 (23 instructions).
//! `mul` takes two cycles on the A72 and one on the A53, hence the two sets. For the loads by halves, and what llvm-mca
//! holds against them, see [`crate::tl1_in_order`].
//!
//! Source: the identity is [`tern_kernels::five`]'s; SMULL, SMLAL2, SADALP: Arm ARM DDI 0487, section C7.2.

use crate::asm::{add_products, load, opaque, prefetch};
use crate::float::FLOAT_OPS;
use crate::panels::PanelKernel;
use crate::t5r_indices;
use crate::veclut_rows::{add_rows_halves, add_rows_whole};
use core::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s8, vaddq_s32, vdupq_n_s32, vextq_s32, vgetq_lane_s32, vpaddq_s32,
    vreinterpretq_s8_u8, vrev64q_s32, vshlq_n_s8, vshrq_n_s32, vst1q_s32, vsubq_s8, vsubq_s32,
};
use core::arch::asm;
use tern_kernels::reference::{PLAIN_HEADER, PLAIN_OPS, plain_grain};
use tern_kernels::{KernelSet, Layout, TernaryOps};

/// Rows of a panel.
pub(crate) const ROWS: usize = 10;

/// Bytes ahead of a step that are asked for, as far as an A72 reads while it waits for memory.
const AHEAD: usize = 448;
/// The same in order: four lines.
const IN_ORDER_AHEAD: usize = 256;

/// The ternary operations that all sets for this layout share; their `multiply` is the scalar one.
pub(crate) const T5R_OPS: TernaryOps =
    TernaryOps { grain: |rows, _, tokens, _| plain_grain(Layout::T5R, rows, tokens), ..PLAIN_OPS };

/// The set for out-of-order cores; the baseline suffices, so it needs no proof.
pub(crate) static SET: KernelSet = KernelSet::new(
    "aarch64-t5ri8-neon",
    Layout::T5R,
    t5r_indices::ops(|tile, scratch, sums| {
        t5r_indices::multiply::<OutOfOrder>(tile, scratch, sums, add_rows_whole)
    }),
    FLOAT_OPS,
);

/// The set for cores that run instructions in their order.
pub(crate) static IN_ORDER_SET: KernelSet = KernelSet::new(
    "aarch64-t5ri8-neon-inorder",
    Layout::T5R,
    t5r_indices::ops(|tile, scratch, sums| {
        t5r_indices::multiply::<InOrder>(tile, scratch, sums, add_rows_halves)
    }),
    FLOAT_OPS,
);

struct InOrder;

impl PanelKernel<ROWS> for InOrder {
    #[inline]
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        if T > 1 {
            return OutOfOrder::products(panel, tokens);
        }
        // SAFETY: NEON is part of the target.
        let rows = unsafe {
            let [low, high] = sums_in_order(panel.as_chunks().0, tokens[0][PLAIN_HEADER..].as_chunks().0);
            rows(low, high, 0)
        };
        [rows; T]
    }
}

struct OutOfOrder;

impl PanelKernel<ROWS> for OutOfOrder {
    #[inline]
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: NEON is part of the target.
        unsafe { products(panel, tokens) }
    }
}

/// The ten rows of a panel with each token.
#[target_feature(enable = "neon")]
fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
    if T == 1 {
        let [low, high] = sums::<2, 1>(panel, 0, [tokens[0]]);
        core::array::from_fn(|_| rows(low, high, 0))
    } else {
        let [low] = sums::<1, T>(panel, 0, tokens);
        let [high] = sums::<1, T>(panel, 1, tokens);
        core::array::from_fn(|t| rows(low, high, t))
    }
}

/// Sums of products of five rows with 1, 3, 9, 27, 81 and 13 times the byte, by token.
pub(crate) type Sums<const T: usize> = [[int32x4_t; T]; 6];

/// Sums of groups `first..first + V` of five rows.
#[inline]
#[target_feature(enable = "neon")]
fn sums<const V: usize, const T: usize>(panel: &[u8], first: usize, tokens: [&[u8]; T]) -> [Sums<T>; V] {
    let mut sums = [[[vdupq_n_s32(0); T]; 6]; V];
    let (steps, _) = panel.as_chunks::<32>();
    let tokens = tokens.map(|token| &token[PLAIN_HEADER..].as_chunks::<16>().0[..steps.len()]);
    for (at, step) in steps.iter().enumerate() {
        let a = tokens.map(|token| vreinterpretq_s8_u8(load(&token[at])));
        let bytes = &step.as_chunks().0[first..];
        prefetch::<AHEAD>(&bytes[0]);
        add_step(&mut sums, bytes, a);
    }
    sums
}

/// Adds the products of 16 columns: `bytes` of `V` groups of five rows with the activations of `T` tokens.
#[inline]
#[target_feature(enable = "neon")]
fn add_step<const V: usize, const T: usize>(sums: &mut [Sums<T>; V], bytes: &[[u8; 16]], a: [int8x16_t; T]) {
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        multiples(vreinterpretq_s8_u8(load(bytes)), &mut |k, q| sums[k] = add_products(sums[k], [q; T], a));
    }
}

/// Calls `add` with the place among [`Sums`] and the value of each multiple of `q`, in the order in which they are made.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn multiples(q: int8x16_t, add: &mut impl FnMut(usize, int8x16_t)) {
    add(0, q);
    let q4 = opaque(vshlq_n_s8::<2>(q));
    let q3 = vsubq_s8(q4, q);
    add(1, q3);
    let q13 = vaddq_s8(opaque(vshlq_n_s8::<2>(q3)), q);
    add(5, q13);
    let q9 = vsubq_s8(q13, q4);
    add(2, q9);
    let q27 = vsubq_s8(opaque(vshlq_n_s8::<2>(q9)), q9);
    add(3, q27);
    add(4, vsubq_s8(opaque(vshlq_n_s8::<2>(q27)), q27));
}

/// The ten rows of both halves with token `t`: `row k = (3 F(k) - F(k + 1)) / 256`, and `F(5)` is there with its sign
/// turned. The lanes are added up first, to vectors of four `F` each.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn rows<const T: usize>(low: Sums<T>, high: Sums<T>, t: usize) -> [i32; ROWS] {
    let four = |a: [int32x4_t; 4]| vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3]));
    let [first, second] = [low, high].map(|sums| four([sums[0][t], sums[1][t], sums[2][t], sums[3][t]]));
    let last = four([low[4][t], low[5][t], high[4][t], high[5][t]]);
    let triple = |sums| vaddq_s32(sums, vaddq_s32(sums, sums));
    let row = |sums, next| vshrq_n_s32::<8>(vsubq_s32(triple(sums), next));
    let last_rows = vshrq_n_s32::<8>(vaddq_s32(triple(last), vrev64q_s32(last)));
    let first_rows = row(first, vextq_s32::<1>(first, last));
    let second_rows = row(second, vextq_s32::<1>(second, vextq_s32::<2>(last, last)));
    let mut rows = [0; ROWS];
    // SAFETY: two stores of four numbers, at 0 and at 5, into an array of ten.
    unsafe {
        vst1q_s32(rows.as_mut_ptr(), first_rows);
        vst1q_s32(rows.as_mut_ptr().add(5), second_rows);
    }
    rows[4] = vgetq_lane_s32::<0>(last_rows);
    rows[9] = vgetq_lane_s32::<2>(last_rows);
    rows
}

/// One panel with one token in an order that an in-order core runs without waiting.
///
/// ```text
/// v0-v5, v6-v11    sums of rows 0-4 and of rows 5-9, by multiple 1, 3, 9, 27, 81, 13
/// v12, v13, v14    3, 9, 13
/// v15, v30         activations of this step and the next, in turn
/// v16, v17         bytes of rows 0-4, bytes of rows 5-9
/// v18-v23          multiples of v16 and v17 in turn: 3 and 9, then 27, 81 and 13
/// v24-v29          products in 16 bits, of three multiples at a time
/// ```
#[inline]
#[target_feature(enable = "neon")]
fn sums_in_order(panel: &[[u8; 32]], activations: &[[u8; 16]]) -> [Sums<1>; 2] {
    // A step with the activations in `$a`. Bytes for the next step, at `$bytes_at`, come where registers are free, and
    // activations for the one after it, at `$a_at`: as halves, of which the second is in its place after the next load.
    // Core instructions `$one` and `$other` go beside an operation each.
    #[rustfmt::skip] // an instruction a line
    macro_rules! step {
        ($a:literal then $next_a:literal, $bytes_at:literal, $a_at:literal, $one:literal, $other:literal) => {
            concat!(
                "mul v18.16b, v16.16b, v12.16b\n",
                "mul v19.16b, v17.16b, v12.16b\n",
                "mul v20.16b, v16.16b, v13.16b\n",
                "mul v21.16b, v17.16b, v13.16b\n",
                "smull v24.8h, v16.8b, v", $a, ".8b\n",
                "smull v25.8h, v17.8b, v", $a, ".8b\n",
                "smull v26.8h, v18.8b, v", $a, ".8b\n",
                "smull v27.8h, v19.8b, v", $a, ".8b\n",
                "smull v28.8h, v20.8b, v", $a, ".8b\n",
                "smull v29.8h, v21.8b, v", $a, ".8b\n",
                "smlal2 v24.8h, v16.16b, v", $a, ".16b\n",
                "smlal2 v25.8h, v17.16b, v", $a, ".16b\n",
                "smlal2 v26.8h, v18.16b, v", $a, ".16b\n",
                "smlal2 v27.8h, v19.16b, v", $a, ".16b\n",
                "smlal2 v28.8h, v20.16b, v", $a, ".16b\n",
                "smlal2 v29.8h, v21.16b, v", $a, ".16b\n",
                "mul v22.16b, v16.16b, v14.16b\n",
                "mul v23.16b, v17.16b, v14.16b\n",
                "mul v18.16b, v20.16b, v12.16b\n",
                "mul v19.16b, v21.16b, v12.16b\n",
                "mul v20.16b, v20.16b, v13.16b\n",
                "mul v21.16b, v21.16b, v13.16b\n",
                "ldr {high16}, [{bytes}, #", $bytes_at, " + 8]\n",
                "ldr d16, [{bytes}, #", $bytes_at, "]\n",
                "ins v", $next_a, ".d[1], {high_a}\n",
                "sadalp v0.4s, v24.8h\n",
                "sadalp v6.4s, v25.8h\n",
                $one, "\n",
                "sadalp v1.4s, v26.8h\n",
                "sadalp v7.4s, v27.8h\n",
                "sadalp v2.4s, v28.8h\n",
                "sadalp v8.4s, v29.8h\n",
                "ldr {high17}, [{bytes}, #", $bytes_at, " + 24]\n",
                "ldr d17, [{bytes}, #", $bytes_at, " + 16]\n",
                "ins v16.d[1], {high16}\n",
                "smull v24.8h, v18.8b, v", $a, ".8b\n",
                "smull v25.8h, v19.8b, v", $a, ".8b\n",
                "smull v26.8h, v20.8b, v", $a, ".8b\n",
                "smull v27.8h, v21.8b, v", $a, ".8b\n",
                "smull v28.8h, v22.8b, v", $a, ".8b\n",
                "smull v29.8h, v23.8b, v", $a, ".8b\n",
                "smlal2 v24.8h, v18.16b, v", $a, ".16b\n",
                "smlal2 v25.8h, v19.16b, v", $a, ".16b\n",
                "smlal2 v26.8h, v20.16b, v", $a, ".16b\n",
                "smlal2 v27.8h, v21.16b, v", $a, ".16b\n",
                "smlal2 v28.8h, v22.16b, v", $a, ".16b\n",
                "smlal2 v29.8h, v23.16b, v", $a, ".16b\n",
                "ldr {high_a}, [{a}, #", $a_at, " + 8]\n",
                "ldr d", $a, ", [{a}, #", $a_at, "]\n",
                "ins v17.d[1], {high17}\n",
                "sadalp v3.4s, v24.8h\n",
                "sadalp v9.4s, v25.8h\n",
                $other, "\n",
                "sadalp v4.4s, v26.8h\n",
                "sadalp v10.4s, v27.8h\n",
                "sadalp v5.4s, v28.8h\n",
                "sadalp v11.4s, v29.8h\n",
            )
        };
    }
    let (turns, panel_rest) = panel.as_chunks::<4>();
    let (activation_turns, activations_rest) = activations[..panel.len()].as_chunks::<4>();
    let [mut low, mut high] = [[vdupq_n_s32(0); 6]; 2];
    if !turns.is_empty() {
        // SAFETY: `left` counts down from the number of turns, at least one, of which both slices have as many. A turn
        // reads the one that the pointers are at, 128 bytes and 64, and the start of the next, which in the last turn
        // is the same. Nothing is written.
        unsafe {
            asm!(
                "movi v12.16b, #3",
                "movi v13.16b, #9",
                "movi v14.16b, #13",
                "ldp q16, q17, [{bytes}]",
                "ldp q15, q30, [{a}]",
                "ldr {high_a}, [{a}, #24]",
                "2:",
                step!(15 then 30, 32, 32, "subs {left}, {left}, #1", "csel {by}, xzr, {turn}, eq"),
                step!(30 then 15, 64, 48, "prfm pldl1strm, [{bytes}, #{ahead}]",
                    "prfm pldl1strm, [{bytes}, #{ahead} + 64]"),
                step!(15 then 30, 96, 0, "add {a}, {a}, {by}, lsr #1", "add {bytes}, {bytes}, {by}"),
                step!(30 then 15, 0, 16, "", ""),
                "b.ne 2b",
                left = inout(reg) turns.len() => _,
                bytes = inout(reg) turns.as_ptr() => _,
                a = inout(reg) activation_turns.as_ptr() => _,
                turn = in(reg) size_of::<[[u8; 32]; 4]>(), by = out(reg) _,
                high16 = out(reg) _, high17 = out(reg) _, high_a = out(reg) _,
                ahead = const IN_ORDER_AHEAD,
                inout("v0") low[0], inout("v1") low[1], inout("v2") low[2],
                inout("v3") low[3], inout("v4") low[4], inout("v5") low[5],
                inout("v6") high[0], inout("v7") high[1], inout("v8") high[2],
                inout("v9") high[3], inout("v10") high[4], inout("v11") high[5],
                out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _,
                out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
                out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _,
                options(readonly, nostack),
            );
        }
    }
    let mut sums = [low, high].map(|sums| sums.map(|sum| [sum]));
    for (bytes, a) in panel_rest.iter().zip(activations_rest) {
        add_step(&mut sums, bytes.as_chunks().0, [vreinterpretq_s8_u8(load(a))]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use tern_kernels::five;

    #[test]
    fn no_multiple_of_a_packed_byte_is_the_lowest() {
        for byte in (0..=255u8).filter(|byte| five::is_valid(*byte)) {
            for multiple in [1i8, 3, 9, 27, 81, 13] {
                assert_ne!((byte as i8).wrapping_mul(multiple), -128, "{multiple} times {byte}");
            }
        }
    }
}
