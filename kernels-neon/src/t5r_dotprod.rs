//! Ternary products by `sdot` on five rows a byte: 1.6 bits a weight, six products for five rows.
//!
//! What is computed is what [`crate::t5r`] says; here sixteen products are one instruction.
//!
//! ```text
//! out of order (Cortex-A76)                         in order (Cortex-A55): one token, both groups of rows together
//! for each 16 columns:                              for each 16 columns:
//!   load a of each token                              load a and q of both groups
//!   for each group of five rows:                      for each m of 3, 9, 27, 81, 13: mul
//!     load q, make 3 q, 9 q, 27 q, 81 q, 13 q         for each m of 1 and those: sum[m] += sdot(m q, a)
//!     for each multiple m and token:
//!       sum[m] += sdot(m q, a)
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: a sum of all lanes is within 127 * 128 * 65280 = 1.07e9 < 2^31; rows
//! as in [`crate::t5r`].
//!
//! Tail rules: columns come in steps of 16. With two to four tokens a group of rows runs at a time. Rows of a last
//! panel that do not exist are computed and not written.
//!
//! Expected cycles per 64 weights with one token, by the issue model of `benches/yard` and by llvm-mca: Cortex-A76 6.2 and
//! 6.2 (15 instructions: 12 `sdot` and 18 to make multiples for 160 weights), A55 in order 11.5 and 11.9 (12
//! instructions). `mul` takes two cycles on the A76 and one on the A55, hence the two sets. Four tokens: 4.1 on A76.
//!
//! Source: the identity is [`tern_kernels::five`]'s; SDOT (vector): Arm ARM DDI 0487, section C7.2.

use crate::asm::{load, prefetch, sdot};
use crate::dotprod::DotProd;
use crate::float::FLOAT_OPS;
use crate::gemm_dotprod;
use crate::head::dotprod_head;
use crate::panels::PanelKernel;
use crate::strip::Fives;
use crate::t5r::{ROWS, Sums, T5R_OPS, multiples, rows};
use core::arch::aarch64::{vdupq_n_s32, vreinterpretq_s8_u8};
use core::arch::asm;
use tern_kernels::reference::PLAIN_HEADER;
use tern_kernels::{KernelSet, Layout, TernaryOps, VectorOps};

/// Bytes ahead of a step that are asked for, as far as an A76 reads while it waits for memory.
const AHEAD: usize = 1024;
/// The same in order: four lines.
const IN_ORDER_AHEAD: usize = 256;

/// The set for out-of-order cores.
pub(crate) fn set(_: DotProd) -> &'static KernelSet {
    static SET: KernelSet = KernelSet::new(
        "aarch64-t5ri8-dotprod",
        Layout::T5R,
        TernaryOps {
            scratch_words: |_, cols, tokens| gemm_dotprod::scratch_words(5, cols, tokens),
            // SAFETY: the proof that this function takes is of the feature.
            multiply: |tile, scratch, sums| unsafe {
                gemm_dotprod::multiply_panels::<Fives, 5, OutOfOrder, ROWS>(tile, scratch, sums);
            },
            ..T5R_OPS
        },
        // SAFETY: the token of this set proves the feature.
        VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
    );
    &SET
}

/// The set for cores that run instructions in their order.
pub(crate) fn in_order_set(_: DotProd) -> &'static KernelSet {
    static SET: KernelSet = KernelSet::new(
        "aarch64-t5ri8-dotprod-inorder",
        Layout::T5R,
        TernaryOps {
            scratch_words: |_, cols, tokens| gemm_dotprod::scratch_words(5, cols, tokens),
            // SAFETY: the proof that this function takes is of the feature.
            multiply: |tile, scratch, sums| unsafe {
                gemm_dotprod::multiply_panels::<Fives, 5, InOrder, ROWS>(tile, scratch, sums);
            },
            ..T5R_OPS
        },
        // SAFETY: the token of this set proves the feature.
        VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
    );
    &SET
}

struct InOrder;

impl PanelKernel<ROWS> for InOrder {
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        if T > 1 {
            return OutOfOrder::products(panel, tokens);
        }
        let (steps, _) = panel.as_chunks();
        let a = &tokens[0][PLAIN_HEADER..].as_chunks().0[..steps.len()];
        // SAFETY: the only way here is `in_order_set`, whose token proves the feature.
        [unsafe { products_in_order(steps, a) }; T]
    }
}

pub(crate) struct OutOfOrder;

impl PanelKernel<ROWS> for OutOfOrder {
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: the only way here is `set`, whose token proves the feature.
        unsafe { products(panel, tokens) }
    }
}

/// The ten rows of a panel with each token.
#[target_feature(enable = "neon,dotprod")]
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

/// Sums of groups `first..first + V` of five rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sums<const V: usize, const T: usize>(panel: &[u8], first: usize, tokens: [&[u8]; T]) -> [Sums<T>; V] {
    let mut sums = [[[vdupq_n_s32(0); T]; 6]; V];
    let (steps, _) = panel.as_chunks::<32>();
    let tokens = tokens.map(|token| &token[PLAIN_HEADER..].as_chunks::<16>().0[..steps.len()]);
    for (at, step) in steps.iter().enumerate() {
        let a = tokens.map(|token| vreinterpretq_s8_u8(load(&token[at])));
        let bytes = step.as_chunks::<16>().0;
        prefetch::<AHEAD>(&bytes[first]);
        for v in 0..V {
            let q = vreinterpretq_s8_u8(load(&bytes[first + v]));
            multiples(q, &mut |k, q| {
                for (sum, a) in sums[v][k].iter_mut().zip(a) {
                    *sum = sdot(*sum, q, a);
                }
            });
        }
    }
    sums
}

/// The ten rows of a panel with one token.
#[target_feature(enable = "neon,dotprod")]
fn products_in_order(panel: &[[u8; 32]], activations: &[[u8; 16]]) -> [i32; ROWS] {
    let [low, high] = sums_in_order(panel, activations);
    rows(low, high, 0)
}

/// One panel with one token, at least one step of 16 columns, in an order that an in-order core runs without waiting.
///
/// ```text
/// v0-v5                  sums of rows 0-4, by multiple 1, 3, 9, 27, 81, 13
/// v6, v7, v16-v19        sums of rows 5-9
/// v20-v24                3, 9, 27, 81, 13
/// v25, v26, v27          activations, bytes of rows 0-4, bytes of rows 5-9
/// v28-v31                multiples of v26 and v27 in turn, two of each on their way
/// ```
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sums_in_order(panel: &[[u8; 32]], activations: &[[u8; 16]]) -> [Sums<1>; 2] {
    assert!(
        !panel.is_empty() && panel.len() == activations.len(),
        "one step of activations for each of the panel"
    );
    let [mut low, mut high] = [[vdupq_n_s32(0); 6]; 2];
    // SAFETY: the features are enabled. Both slices have `-at` steps left, at least one at first; each turn reads one of
    // each, 32 bytes and 16. Nothing is written.
    unsafe {
        asm!(
            "movi v20.16b, #3",
            "movi v21.16b, #9",
            "movi v22.16b, #27",
            "movi v23.16b, #81",
            "movi v24.16b, #13",
            "2:",
            "ldr q26, [{bytes}]",
            "ldr q27, [{bytes}, #16]",
            "ldr q25, [{a}, {at}, lsl #4]",
            "adds {at}, {at}, #1",
            "mul v28.16b, v26.16b, v20.16b",
            "mul v29.16b, v27.16b, v20.16b",
            "mul v30.16b, v26.16b, v21.16b",
            "mul v31.16b, v27.16b, v21.16b",
            "prfm pldl1strm, [{bytes}, #{ahead}]",
            "add {bytes}, {bytes}, #32",
            "sdot v0.4s, v26.16b, v25.16b",
            "sdot v6.4s, v27.16b, v25.16b",
            "sdot v1.4s, v28.16b, v25.16b",
            "mul v28.16b, v26.16b, v22.16b",
            "sdot v7.4s, v29.16b, v25.16b",
            "mul v29.16b, v27.16b, v22.16b",
            "sdot v2.4s, v30.16b, v25.16b",
            "mul v30.16b, v26.16b, v23.16b",
            "sdot v16.4s, v31.16b, v25.16b",
            "mul v31.16b, v27.16b, v23.16b",
            "sdot v3.4s, v28.16b, v25.16b",
            "mul v28.16b, v26.16b, v24.16b",
            "sdot v17.4s, v29.16b, v25.16b",
            "mul v29.16b, v27.16b, v24.16b",
            "sdot v4.4s, v30.16b, v25.16b",
            "sdot v18.4s, v31.16b, v25.16b",
            "sdot v5.4s, v28.16b, v25.16b",
            "sdot v19.4s, v29.16b, v25.16b",
            "b.ne 2b",
            at = inout(reg) -(panel.len() as isize) => _,
            bytes = inout(reg) panel.as_ptr() => _,
            a = in(reg) activations.as_ptr_range().end,
            ahead = const IN_ORDER_AHEAD,
            inout("v0") low[0], inout("v1") low[1], inout("v2") low[2],
            inout("v3") low[3], inout("v4") low[4], inout("v5") low[5],
            inout("v6") high[0], inout("v7") high[1], inout("v16") high[2],
            inout("v17") high[3], inout("v18") high[4], inout("v19") high[5],
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _,
            out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(readonly, nostack),
        );
    }
    [low, high].map(|sums| sums.map(|sum| [sum]))
}
