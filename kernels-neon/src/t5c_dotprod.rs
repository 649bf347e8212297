//! Ternary products on five columns a byte ([`Layout::T5C`]) with `sdot`, for few tokens; eight tokens and more go by
//! [`crate::veclut`], whose 1.7 cycles for 64 products are fewer than the two that `sdot` alone would take.
//!
//! A byte is a fraction `q0` in balanced base 3 with `3 q(k) = 256 w(k) + q(k+1)`, eight bits each. Products are
//! linear, so
//!
//! ```text
//! for each four rows of a panel:
//!   for each block of 80 columns, for each row:
//!     q = the row's 16 bytes
//!     for k in 0..5:                      columns 80b + 16k + 0..16
//!       first += sdot(q, a[k])
//!       q = 3 q                           two additions, wrapping
//!       next  += sdot(q, a[k])
//! sum = (3 first - next) / 256            exact
//! ```
//!
//! Bounds, for any `i8` activations: all of `first` and of `next` are at most 128 * 128 * 65280 < 2^30.0, and the
//! quotient times 256 is at most 256 * 128 * 65280 < 2^31 ([`tern_kernels::layout::MAX_COLS`]); what wraps in
//! between unwraps.
//!
//! Tail rules: those of [`crate::t5c`].
//!
//! Expected cycles per 64 weights with one token (20 instructions): 8.2 on Cortex-A76, 21 on A55.
//!
//! Source: the identity is [`tern_kernels::five`]'s.

use crate::asm::{load, sdot};
use crate::dotprod::DotProd;
use crate::float::FLOAT_OPS;
use crate::head::dotprod_head;
use crate::panels::PanelKernel;
use crate::t5c::{self, BLOCK_BYTES, ROWS, activations, triple};
use crate::veclut_rows::add_rows_whole;
use core::arch::aarch64::{
    int8x16_t, int32x4_t, vaddvq_s32, vdupq_n_s32, vmulq_n_s32, vreinterpretq_s8_u8, vsubq_s32,
};
use tern_kernels::reference::PLAIN_HEADER;
use tern_kernels::{KernelSet, Layout, Tile, VectorOps, five};

/// The set that needs the feature; there is no other way to it.
pub(crate) fn set(_: DotProd) -> &'static KernelSet {
    static SET: KernelSet = KernelSet::new(
        "aarch64-t5ci8-dotprod",
        Layout::T5C,
        t5c::ops(multiply),
        // SAFETY: the token of this set proves the feature.
        VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
    );
    &SET
}

fn multiply(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    t5c::multiply::<Fractions>(tile, scratch, sums, add_rows_whole);
}

struct Fractions;

impl PanelKernel<ROWS> for Fractions {
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
        // SAFETY: the only way here is `set`, whose argument proves the feature.
        unsafe { products(panel, tokens) }
    }
}

/// Rows in groups whose sums and activations fit into the registers.
#[target_feature(enable = "neon,dotprod")]
fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T] {
    let (blocks, _) = panel.as_chunks::<BLOCK_BYTES>();
    let tokens = tokens.map(|token| token[PLAIN_HEADER..].as_chunks::<16>().0);
    let mut sums = [[0; ROWS]; T];
    match T {
        1 => groups::<4, T>(blocks, tokens, &mut sums),
        2 => groups::<2, T>(blocks, tokens, &mut sums),
        _ => groups::<1, T>(blocks, tokens, &mut sums),
    }
    sums
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn groups<const R: usize, const T: usize>(
    blocks: &[[u8; BLOCK_BYTES]],
    tokens: [&[[u8; 16]]; T],
    sums: &mut [[i32; ROWS]; T],
) {
    for first in (0..ROWS).step_by(R) {
        let mut dots = [[[vdupq_n_s32(0); 2]; R]; T];
        for (at, block) in blocks.iter().enumerate() {
            let rows = block[16 * first..].as_chunks::<16>().0.first_chunk::<R>();
            let rows = rows.expect("groups divide the panel");
            let a = tokens.map(|token| activations(token, at));
            for (r, row) in rows.iter().enumerate() {
                add_fractions(vreinterpretq_s8_u8(load(row)), a, dots.each_mut().map(|dots| &mut dots[r]));
            }
        }
        for (sums, dots) in sums.iter_mut().zip(dots) {
            for (sum, [fractions, next]) in sums[first..].iter_mut().zip(dots) {
                *sum = vaddvq_s32(vsubq_s32(vmulq_n_s32(fractions, 3), next)) >> 8;
            }
        }
    }
}

/// Adds the products of a row's sixteen bytes and of what follows them with each token's block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_fractions<const T: usize>(
    mut q: int8x16_t,
    tokens: [[int8x16_t; five::WEIGHTS]; T],
    mut dots: [&mut [int32x4_t; 2]; T],
) {
    for k in 0..five::WEIGHTS {
        for (a, dots) in tokens.iter().zip(&mut dots) {
            dots[0] = sdot(dots[0], q, a[k]);
        }
        q = triple(q);
        for (a, dots) in tokens.iter().zip(&mut dots) {
            dots[1] = sdot(dots[1], q, a[k]);
        }
    }
}
