//! Ternary products by `sdot` on four rows a byte: 2 bits a weight and the fewest operations for one token.
//!
//! What is computed is what [`crate::t2r4`] says; here sixteen products are one instruction.
//!
//! ```text
//! for each 16 columns:
//!   load a of each token
//!   for each group of four rows:
//!     load b
//!     for each m of b & 3, b & 15, b & 63, b and each token: sum[m] += sdot(m, a)
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: `b` is in -64..=106, so a sum of all lanes is within
//! 106 * 128 * 65280 = 8.9e8 < 2^31; rows as in [`crate::t2r4`].
//!
//! Tail rules: columns come in steps of 16. One token meets four groups at a time, two meet two, more meet one. Rows of a
//! last panel that do not exist are computed and not written.
//!
//! Expected cycles per 64 weights with one token, by the issue model of `benches/yard` and by llvm-mca: Cortex-A76 3.6
//! and 3.6 (9.5 instructions, of which three masks and four `sdot` bind), A55 10.8 and 15.1.
//!
//! Source: SDOT (vector): Arm ARM DDI 0487, section C7.2. The layout is ours.

use crate::asm::{load, prefetch, sdot};
use crate::dotprod::DotProd;
use crate::float::FLOAT_OPS;
use crate::gemm_dotprod;
use crate::head::dotprod_head;
use crate::panels::PanelKernel;
use crate::strip::Nested;
use crate::t2r4::{ROWS, Sums, T2R4_OPS, nested, rows};
use core::arch::aarch64::{vdupq_n_s32, vreinterpretq_s8_u8};
use tern_kernels::reference::PLAIN_HEADER;
use tern_kernels::{KernelSet, Layout, TernaryOps, VectorOps};

/// Bytes ahead of a step that are asked for.
const AHEAD: usize = 1024;

/// The set; the proof is of the feature that it needs.
pub(crate) fn set(_: DotProd) -> &'static KernelSet {
    static SET: KernelSet = KernelSet::new(
        "aarch64-t2r4i8-dotprod",
        Layout::T2R4,
        TernaryOps {
            scratch_words: |_, cols, tokens| gemm_dotprod::scratch_words(4, cols, tokens),
            // SAFETY: the proof that this function takes is of the feature.
            multiply: |tile, scratch, sums| unsafe {
                gemm_dotprod::multiply_panels::<Nested, 4, DotKernel, ROWS>(tile, scratch, sums);
            },
            ..T2R4_OPS
        },
        // SAFETY: the token of this set proves the feature.
        VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
    );
    &SET
}

pub(crate) struct DotKernel;

impl PanelKernel<ROWS> for DotKernel {
    #[inline]
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: the only way here is `set`, whose proof is of the feature.
        unsafe { products(panel, tokens) }
    }
}

/// The sixteen rows of a panel with each token.
#[target_feature(enable = "neon,dotprod")]
fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
    let sums = match T {
        1 => sums::<4, T>(panel, 0, tokens),
        2 => {
            let [[a, b], [c, d]] = [sums::<2, T>(panel, 0, tokens), sums::<2, T>(panel, 2, tokens)];
            [a, b, c, d]
        }
        _ => {
            let one = |first| sums::<1, T>(panel, first, tokens);
            let [[a], [b], [c], [d]] = [one(0), one(1), one(2), one(3)];
            [a, b, c, d]
        }
    };
    core::array::from_fn(|t| rows(&sums, t, tokens[t]))
}

/// Sums of groups `first..first + V` of four rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sums<const V: usize, const T: usize>(panel: &[u8], first: usize, tokens: [&[u8]; T]) -> [Sums<T>; V] {
    let mut sums = [[[vdupq_n_s32(0); T]; 4]; V];
    let (steps, _) = panel.as_chunks::<64>();
    let tokens = tokens.map(|token| &token[PLAIN_HEADER..].as_chunks::<16>().0[..steps.len()]);
    for (at, step) in steps.iter().enumerate() {
        let a = tokens.map(|token| vreinterpretq_s8_u8(load(&token[at])));
        let bytes = &step.as_chunks().0[first..];
        prefetch::<AHEAD>(&bytes[0]);
        for (sums, bytes) in sums.iter_mut().zip(bytes) {
            for (sums, codes) in sums.iter_mut().zip(nested(load(bytes))) {
                for (sum, a) in sums.iter_mut().zip(a) {
                    *sum = sdot(*sum, codes, a);
                }
            }
        }
    }
    sums
}
